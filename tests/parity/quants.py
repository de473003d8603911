#!/usr/bin/env python3
"""Reference for quantised blocks: what the gguf package, of ggml's authors, makes of them.

    quants.py [--write]

Compares tests/data/quants/ with it, or writes that folder: TYPE.blocks, bytes as in a file, and
TYPE.floats, float32. Scales include zeros of both signs, subnormals, the largest, infinities, NaN.
Needs: gguf (PyPI).
"""
import pathlib
import sys

import gguf
import numpy as np

FOLDER = pathlib.Path(__file__).parent.parent / "data" / "quants"
SPECIAL = [0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF, 0x3C00, 0x7C00, 0xFE00]
# Where in a block its F16 scales are.
SCALES = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q4_K": [0, 2], "Q6_K": [208]}


def blocks_of(name, rng):
    n_elements, n_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    n = (1024 if n_elements == 32 else 3072) // n_elements
    blocks = rng.integers(0, 256, (n, n_bytes), dtype=np.uint8)
    for i, at in enumerate(SCALES[name]):
        scales = (rng.standard_normal(n) * 0.02).astype(np.float16).view(np.uint16)
        scales[: len(SPECIAL)] = np.roll(SPECIAL, 3 * i)
        blocks[:, at : at + 2] = scales.astype("<u2").view(np.uint8).reshape(n, 2)
    return blocks


def main():
    rng = np.random.default_rng(20250611)
    same = True
    for name in SCALES:
        blocks = blocks_of(name, rng)
        with np.errstate(invalid="ignore"):
            floats = gguf.dequantize(blocks, gguf.GGMLQuantizationType[name]).astype("<f4")
        for suffix, data in (("blocks", blocks), ("floats", floats)):
            path = FOLDER / f"{name}.{suffix}"
            if sys.argv[1:] == ["--write"]:
                path.write_bytes(data.tobytes())
            elif path.read_bytes() != data.tobytes():
                print(f"{path.name} differs")
                same = False
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
