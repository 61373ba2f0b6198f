#!/usr/bin/env python3
"""Makes tests/golden/foreign.bin: random blocks of each ggml type and what gguf decodes.

Needs numpy and gguf (0.19.0 made the file). The gguf package's numpy decoders do the same f32
operations in the same order as ggml's C reference, so there is one expected value. Scales are
finite: the sign and payload of a NaN would be the machine's.

File: records of u32 {ggml type, elements, bytes, blocks}, the blocks, their f32 elements.
"""
import struct
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T, quants

# Where the f16 scales of a block are, in bytes.
F16_AT = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
          T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208], T.MXFP4: [], T.NVFP4: []}
COUNT = {T.Q4_K: 24, T.Q5_K: 24, T.Q6_K: 24, T.MXFP4: 256, T.NVFP4: 96}
EXTREME = [0x0000, 0x8000, 0x0001, 0x8001, 0x03ff, 0x0400, 0x3c00, 0xbc00, 0x7bff, 0xfbff]


def blocks_of(rng, kind):
    size, n = GGML_QUANT_SIZES[kind][1], COUNT.get(kind, 150)
    blocks = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for at in F16_AT[kind]:
        half = rng.integers(0, 0x7c00, n).astype(np.uint16)
        half |= (rng.integers(0, 2, n) << 15).astype(np.uint16)
        half[: len(EXTREME)] = rng.permutation(EXTREME)
        blocks[:, at : at + 2] = half.view(np.uint8).reshape(n, 2)
    if kind == T.MXFP4:
        blocks[:, 0] = np.arange(256)  # every scale byte
    if kind == T.NVFP4:
        blocks[:64, :4] = np.arange(256, dtype=np.uint8).reshape(64, 4)
    return blocks


def main(path):
    rng = np.random.default_rng(20240601)
    with open(path, "wb") as out, np.errstate(over="ignore"):
        for kind in F16_AT:
            blocks = blocks_of(rng, kind)
            values = quants.dequantize(blocks, kind)
            elems, size = GGML_QUANT_SIZES[kind]
            out.write(struct.pack("<4I", kind, elems, size, len(blocks)))
            out.write(blocks.tobytes())
            out.write(values.astype("<f4").tobytes())


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "tests/golden/foreign.bin")
