#!/usr/bin/env python3
"""Decode attention beside ggml and torch: one query (--queries N: the last N tokens') over K and V
of random numbers, rotating over layers, so that they come from DRAM.

    python3 bench/compare/peers.py install      once: torch and llama-cpp-python (see there)
    python3 bench/compare/attention.py          every case; --filter 9/3x64_f16, --threads 1, ...

In each round every contender has its turn, so that other work on the machine hits all alike; a
ratio is the median of the rounds' ratios. ggml and torch have two ways each, fused and as products
with a softmax between them; bars are for the better one of ggml. Also shown: which fraction of the
machine's read bandwidth (four streams per thread), measured in the same rounds, kvpager uses.
"""
import json
import os
import pathlib
import sys

import peers

SHAPES = ((12, 12, 64), (9, 3, 64), (32, 8, 128))
BYTES = {"f32": 4, "f16": 2, "bf16": 2}
BARS = {"f32": 1.2, "f16": 1.5, "bf16": 1.5}
TURN_BYTES = 1 << 29  # of K and V that a turn reads, about
OWN = "kvpager"


class Sides:
    """All contenders; they keep running from case to case."""

    def __init__(self, options):
        program = pathlib.Path(options.build) / "bench/compare/compare_attention"
        if not program.exists():
            raise peers.Failed(f"no {program}: make builds it")
        self.options = options
        self.all = {OWN: (peers.Contender(OWN, [program], options.threads), {})}
        for name, script, more in (("ggml, flash", "peer_ggml.py", {"flash": True}),
                                   ("ggml", "peer_ggml.py", {"flash": False}),
                                   ("torch, fused", "peer_torch_attention.py", {"fused": True}),
                                   ("torch", "peer_torch_attention.py", {"fused": False})):
            if any(name.startswith(word) for word in options.without.split(",") if word):
                continue
            try:
                contender = peers.python_contender(name, script, options.threads)
                self.all[name] = (contender, more)
            except peers.Skipped as reason:
                print(f"left out: {reason}", file=sys.stderr)

    def open(self, **problem):
        """Those that can have a problem of this kind."""
        able = {}
        for name, (contender, more) in self.all.items():
            try:
                contender.ask("open", **problem, **more)
                contender.ask("attend", passes=1)
                able[name] = contender
            except peers.Skipped as reason:
                print(f"left out: {reason}", file=sys.stderr)
            except peers.Failed as reason:
                if name == OWN or contender.process.poll() is not None:
                    raise
                print(f"left out: {reason}", file=sys.stderr)
        return able

    def close(self):
        for contender, _ in self.all.values():
            contender.close()


def turn(contender, passes, gigabytes):
    return lambda: {**contender.ask("attend", passes=passes), "work": gigabytes}


def run_case(sides, name, shape, dtype, tokens):
    options = sides.options
    heads, kv_heads, width = shape
    layer = 2 * tokens * kv_heads * width * BYTES[dtype]
    layers = max(1, options.total_mib * 2**20 // layer)
    passes = max(1, TURN_BYTES // (layers * layer))
    able = sides.open(heads=heads, kv_heads=kv_heads, width=width, dtype=dtype, tokens=tokens,
                      layers=layers, queries=options.queries, threads=options.threads)
    work = passes * layers * layer * 1e-9
    case = peers.Case(name, "GB/s of K and V",
                      {who: turn(contender, passes, work) for who, contender in able.items()},
                      {who: BARS[dtype] for who in able if who.startswith("ggml")},
                      ("read bandwidth", 1, lambda: able[OWN].ask("limits")["read_gb"]))
    case.run(options.rounds, options.threads)
    peers.print_case(case)
    return case.record()


def main():
    parser = peers.parser(__doc__)
    parser.add_argument("--tokens", default="8192,65536", help="contexts (default 8192,65536)")
    parser.add_argument("--queries", type=int, default=1, help="per sequence (default 1)")
    parser.add_argument("--total-mib", type=int, default=192, help="K and V to rotate over")
    options = parser.parse_args()
    print(f"{options.threads} threads of each, {options.rounds} rounds; "
          f"load of the machine {os.getloadavg()[0]:.1f}", flush=True)
    records, sides = [], None
    try:
        with peers.ended_by_signals():
            sides = Sides(options)
            for tokens in map(int, options.tokens.split(",")):
                for shape in SHAPES:
                    for dtype in BYTES:
                        name = f"{shape[0]}/{shape[1]}x{shape[2]}_{dtype}_{tokens}"
                        if options.filter in name:
                            records.append(run_case(sides, name, shape, dtype, tokens))
    except (peers.Failed, peers.Skipped) as error:
        print(f"attention: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if sides:
            sides.close()
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(records, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
