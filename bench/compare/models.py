#!/usr/bin/env python3
"""Whole models beside llama.cpp and torch: decode and prefill, weights of random numbers in the
shapes of GPT-2 124M (12 layers, 12/12 heads of 64) and SmolLM2-135M (30 layers, 9/3 heads of 64).

    python3 bench/compare/peers.py install      once: torch and llama-cpp-python (see there)
    python3 bench/compare/models.py             every case; --filter decode, --threads 1, ...

In each round every contender has its turn, so that other work on the machine hits all alike; a
ratio is the median of the rounds' ratios. llama.cpp has two: with flash attention and without; the
bars are for the better one. KV is f16 in kvpager and llama.cpp, and in torch what the weights are.
Deep KV is planted, not computed. Also shown: which fraction of the machine's read bandwidth or, of
a prefill, of its multiply-adds kvpager reaches; both are measured in the same rounds.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import peers

GPT2 = {"arch": "gpt2", "layers": 12, "heads": 12, "kv_heads": 12, "width": 768, "inner": 3072,
        "vocab": 50257, "context": 1024}
SMOL = {"arch": "llama", "layers": 30, "heads": 9, "kv_heads": 3, "width": 576, "inner": 1536,
        "vocab": 49152, "context": 65536}
BYTES = {"f32": 4, "f16": 2, "bf16": 2}
DECODE_SECONDS = 0.3  # that a turn of decoding takes, about
OWN = "kvpager"
FEW_LOGITS = 48  # of the vocabulary of a model with few layers


def matrix_elements(s):
    """Of a layer."""
    kv = s["width"] // s["heads"] * s["kv_heads"]
    ups = 2 if s["arch"] == "llama" else 1
    return s["width"] * (2 * s["width"] + 2 * kv + (ups + 1) * s["inner"])


def decode_bytes(s, dtype, depth):
    """That a token of one sequence has to read: weights, the head among them, and KV in f16."""
    kv = s["width"] // s["heads"] * s["kv_heads"]
    elements = s["layers"] * matrix_elements(s) + s["vocab"] * s["width"]
    return elements * BYTES[dtype] + s["layers"] * depth * kv * 2 * 2


def prefill_flop(s, n):
    """Per token: products, and attention under the causal half."""
    return s["layers"] * (2 * matrix_elements(s) + 2 * n * s["width"])


class Run:
    """Options, files and contenders."""

    def __init__(self, options, scratch):
        self.options, self.scratch = options, scratch
        self.records = []

    def weights(self, shape, dtype):
        """A GGUF file for kvpager and llama.cpp, written once."""
        path = pathlib.Path(self.scratch) / f"{shape['arch']}-{shape['layers']}-{dtype}.gguf"
        python = peers.FOLDER / "bin/python"
        if not python.exists():
            raise peers.Skipped(f"no {python}: python3 {peers.__file__} install makes it")
        if not path.exists():
            subprocess.run([python, peers.HERE / "shapes.py", json.dumps(shape), dtype, path],
                           check=True)
        return str(path)

    def own(self, shape, dtype):
        program = pathlib.Path(self.options.build) / "bench/compare/compare_models"
        if not program.exists():
            raise peers.Failed(f"no {program}: make builds it")
        contender = peers.Contender(OWN, [program], self.options.threads)
        contender.ask("open", path=self.weights(shape, dtype), weights=dtype,
                      threads=self.options.threads)
        return contender

    def llama_cpp(self, shape, dtype, context, sequences, flash):
        name = "llama.cpp, flash" if flash else "llama.cpp"
        contender = peers.python_contender(name, "peer_llama_cpp.py", self.options.threads)
        contender.ask("open", path=self.weights(shape, dtype), threads=self.options.threads,
                      flash=flash, context_tokens=context, sequences=sequences)
        return contender

    def torch(self, shape, dtype, context, sequences):
        contender = peers.python_contender(f"torch {dtype}", "peer_torch.py", self.options.threads)
        contender.ask("open", shape=shape, dtype=dtype, threads=self.options.threads,
                      context_tokens=context, sequences=sequences)
        return contender

    def contenders(self, shape, dtype, context, sequences):
        """kvpager, and all peers that are here."""
        found = [self.own(shape, dtype)]
        for name, start in (("llama.cpp", lambda *of: self.llama_cpp(*of, False)),
                            ("llama.cpp", lambda *of: self.llama_cpp(*of, True)),
                            ("torch", self.torch)):
            if any(name.startswith(other) for other in self.options.without.split(",") if other):
                continue
            try:
                found.append(start(shape, dtype, context, sequences))
            except peers.Skipped as reason:
                print(f"left out: {reason}", file=sys.stderr)
        return found

    def report(self, case):
        case.run(self.options.rounds, self.options.threads)
        peers.print_case(case)
        self.records.append(case.record())


def limit_of(contender, key, per_unit):
    """(name, how much of it a unit of the rate takes, what measures it)"""
    return key, per_unit, lambda: contender.ask("limits")[key]


# ---- cases -------------------------------------------------------------------------------------


def decode_turn(contender, planted, sequences, depth, most=64):
    """Steps of contender's sequences, at most so many; KV is planted when that of another case lies
    there."""
    steps = {}

    def turn():
        if planted.get(contender) != (sequences, depth):
            contender.ask("plant", sequences=sequences, tokens=depth)
            planted[contender] = (sequences, depth)
        if not steps:
            once = contender.ask("decode", tokens=2)["cpu_seconds"] / 2
            steps["n"] = max(2, min(most, int(DECODE_SECONDS / once)))
        return contender.ask("decode", tokens=steps["n"])
    return turn


def bars_of(contenders, llama_cpp, torch=None):
    bars = {c.name: llama_cpp for c in contenders if llama_cpp and c.name.startswith("llama.cpp")}
    bars.update({c.name: torch for c in contenders if torch and c.name.startswith("torch")})
    return bars


def run_decode(run, name, shape, dtype, depth, bar):
    context = min(depth + 128, shape["context"])
    contenders = run.contenders(shape, dtype, context, 1)
    planted = {}
    most = min(64, context - depth)
    turns = {c.name: decode_turn(c, planted, 1, depth, most) for c in contenders}
    run.report(peers.Case(name, "tokens/s", turns, bars_of(contenders, bar),
                          limit=limit_of(contenders[0], "read_gb",
                                         decode_bytes(shape, dtype, depth) * 1e-9)))
    return contenders


def run_prefill(run, name, shape, dtype, tokens, bars):
    """With few layers kvpager is asked for all logits, which are few there: it would leave out what
    they do not depend on, in the last layer nearly everything."""
    contenders = run.contenders(shape, dtype, tokens, 1)
    peak = "bf16_gflop" if dtype == "bf16" else "f32_gflop"
    turns = {c.name: lambda c=c: c.ask("prefill", tokens=tokens) for c in contenders}
    if shape["vocab"] == FEW_LOGITS:
        turns[OWN] = lambda: contenders[0].ask("prefill", tokens=tokens, logits=tokens)
    run.report(peers.Case(name, "tokens/s", turns, bars_of(contenders, *bars),
                          limit=limit_of(contenders[0], peak, prefill_flop(shape, tokens) * 1e-9)))
    return contenders


def run_batch(run, name, shape, dtype, sequences, depth, bar):
    contenders = run.contenders(shape, dtype, depth + 128, sequences)
    planted = {}
    alone = f"{OWN}, batch 1"
    turns = {c.name: decode_turn(c, planted, sequences, depth) for c in contenders}
    turns[alone] = decode_turn(contenders[0], planted, 1, depth)
    run.report(peers.Case(name, "tokens/s of all", turns, {alone: bar}))
    return contenders


def cases(options):
    """{name: what runs it}"""
    cut = {**SMOL, "layers": options.layers, "vocab": FEW_LOGITS}
    decodes = [("gpt2", GPT2, dtype, depth, bar) for dtype in ("f16", "bf16")
               for depth, bar in ((0, 1.25), (GPT2["context"] - 32, 1.4))]
    decodes += [("smol", SMOL, "f16", 0, None), ("smol", SMOL, "f16", 32768, 2.8)]
    for model, shape, dtype, depth, bar in decodes:
        name = f"{model} decode at {depth}, {dtype} weights"
        yield name, lambda run, a=(name, shape, dtype, depth, bar): run_decode(run, *a)
    for model, shape, tokens, bars in (("gpt2", GPT2, 512, (1.25, 1.0)),
                                       ("smol", cut, 8192, (1.5, 1.5))):
        for dtype in ("f32", "bf16"):
            name = f"{model} prefill of {tokens}, {dtype} weights, {shape['layers']} layers"
            yield name, lambda run, a=(name, shape, dtype, tokens, bars): run_prefill(run, *a)
    name = "gpt2 batch of 8 at 32, f16 weights"
    yield name, lambda run, a=(name, GPT2, "f16", 8, 32, 4.0): run_batch(run, *a)


def main():
    parser = peers.parser(__doc__)
    parser.add_argument("--layers", type=int, default=3,
                        help="of the smol prefill, whose time is proportional to them (default 3)")
    options = parser.parse_args()
    scratch = tempfile.mkdtemp(prefix="kvpager-models-", dir=os.environ.get("TMPDIR", "/var/tmp"))
    run = Run(options, scratch)
    print(f"{options.threads} threads of each, {options.rounds} rounds; "
          f"load of the machine {os.getloadavg()[0]:.1f}", flush=True)
    try:
        with peers.ended_by_signals():
            for name, start in cases(options):
                if options.filter in name:
                    for contender in start(run):
                        contender.close()
    except (peers.Failed, peers.Skipped) as error:
        print(f"models: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(scratch)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(run.records, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
