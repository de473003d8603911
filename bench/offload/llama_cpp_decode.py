#!/usr/bin/env python3
"""Decode with llama.cpp through llama-cpp-python, all in RAM, f16 KV: started by ./run.

Exit status 77: the package is not here, or cannot read the model.
"""
import argparse
import json
import os
import sys
import time

SKIPPED = 77
YARN = 2  # llama_rope_scaling_type
WARM_TOKENS = 2


def peak_bytes():
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024


def open_model(llama_cpp, options):
    n_ctx = options.tokens + WARM_TOKENS + options.new + 8
    head = llama_cpp.Llama(model_path=options.model, vocab_only=True, verbose=False)
    arch = head.metadata["general.architecture"]
    trained = int(head.metadata[f"{arch}.context_length"])
    stretch = {}
    if n_ctx > trained:
        stretch = {"rope_scaling_type": YARN, "rope_freq_scale": trained / n_ctx,
                   "yarn_orig_ctx": trained}
    return llama_cpp.Llama(model_path=options.model, n_ctx=n_ctx, n_threads=options.threads,
                           n_threads_batch=options.threads, flash_attn=options.flash,
                           verbose=False, **stretch)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--new", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--flash", action="store_true")
    options = parser.parse_args()
    try:
        import llama_cpp
    except ImportError:
        print("the Python package llama-cpp-python is not installed", file=sys.stderr)
        return SKIPPED
    if os.path.isdir(options.model):
        print("llama.cpp reads .gguf files, not folders", file=sys.stderr)
        return SKIPPED
    model = open_model(llama_cpp, options)
    with open(options.text, "rb") as file:
        text = file.read(16 * (options.tokens + options.new + WARM_TOKENS))
    tokens = model.tokenize(text.decode("utf-8", "ignore").encode(), add_bos=False)
    begin = time.monotonic()
    model.eval(tokens[:options.tokens])
    seconds = time.monotonic() - begin
    steps = []
    for token in tokens[options.tokens:options.tokens + WARM_TOKENS + options.new]:
        begin = time.monotonic()
        model.eval([token])
        steps.append(1e3 * (time.monotonic() - begin))
    print(json.dumps({"ms": steps[WARM_TOKENS:], "prefill_seconds": seconds,
                      "process_peak_bytes": peak_bytes()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
