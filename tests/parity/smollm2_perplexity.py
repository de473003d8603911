#!/usr/bin/env python3
"""Reference for SmolLM2's perplexity on a long text: transformers, float32.

    smollm2_perplexity.py MODEL.gguf TEXT N_TOKENS WINDOW STRIDE > perplexity.json

The result is the member "perplexity" of tests/data/smollm2/golden.json; nll_sums has the sum so far
after every window.

Windows as in Hugging Face's "Perplexity of fixed-length models": every window is a fresh context,
and scores the tokens that no window before it scored.
Needs: torch transformers accelerate gguf (PyPI).
"""
import json
import os
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main():
    model_path, text_path, n_tokens, window, stride = sys.argv[1:]
    n_tokens, window, stride = int(n_tokens), int(window), int(stride)
    folder, name = os.path.split(os.path.abspath(model_path))
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    model.eval()
    text = open(text_path, encoding="utf-8").read()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][:n_tokens]
    nll_sums, nll_sum, n_scored, previous_end = [], 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + window, len(ids))
        with torch.no_grad():
            logits = model(torch.tensor([ids[begin:end]])).logits[0].double()
        first = max(previous_end, begin + 1)
        targets = torch.tensor(ids[first:end])
        rows = logits[first - begin - 1 : end - begin - 1]
        nll = torch.nn.functional.cross_entropy(rows, targets, reduction="sum").item()
        nll_sum, n_scored, previous_end = nll_sum + nll, n_scored + len(targets), end
        nll_sums.append(round(nll_sum, 4))
        print(f"{end}/{len(ids)} tokens, nll {nll_sum / n_scored:.6f}", file=sys.stderr, flush=True)
        if end == len(ids):
            break
    json.dump({"token_ids": ids, "window": window, "stride": stride, "nll_sums": nll_sums,
               "torch": torch.__version__}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
