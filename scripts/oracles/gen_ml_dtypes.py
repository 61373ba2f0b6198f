#!/usr/bin/env python3
"""Makes tests/golden/ml_dtypes.bin: small floats as the ml_dtypes package converts them.

    pip install numpy ml_dtypes==0.6.0
    python3 scripts/oracles/gen_ml_dtypes.py

File, little-endian:  "NIBMLD01"
    the f32 bits of every code: 16 of E2M1, 64 of E2M3, 64 of E3M2, 256 of E4M3, E5M2, E8M0
    u32 n, then n rows: u32 f32 bits, and the code in E2M1, E2M3, E3M2, E4M3, E5M2, f16, bf16
    (one byte each, the last two two)

Inputs are clamped to the element's range first, since ml_dtypes makes Inf or NaN of what lies
beyond in E4M3 and E5M2; none is NaN. f16 and bf16 are not clamped.
"""
import os
import struct
import sys

import ml_dtypes
import numpy as np

TYPES = [(ml_dtypes.float4_e2m1fn, 4), (ml_dtypes.float6_e2m3fn, 6), (ml_dtypes.float6_e3m2fn, 6),
         (ml_dtypes.float8_e4m3fn, 8), (ml_dtypes.float8_e5m2, 8)]


def main():
    out = b"NIBMLD01"
    for dtype, bits in TYPES + [(ml_dtypes.float8_e8m0fnu, 8)]:
        codes = np.arange(1 << bits, dtype=np.uint8).view(dtype)
        out += codes.astype(np.float32).tobytes()

    inputs = set()
    for dtype, bits in TYPES:
        values = np.arange(1 << (bits - 1), dtype=np.uint8).view(dtype).astype(np.float64)
        values = np.unique(values[np.isfinite(values)])
        middles = (values[1:] + values[:-1]) / 2
        for points in (values, middles):
            x = points.astype(np.float32).view(np.uint32).astype(np.int64)
            for ulp in (-1, 0, 1):
                inputs.update(int(b) for b in x + ulp if b >= 0)
    rng = np.random.default_rng(41)
    inputs.update(int(b) for b in rng.integers(0, 0x7F800001, 700))
    inputs.update(int(b) for b in rng.integers(0x30000000, 0x48000000, 1500))
    inputs.update((0, 1, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0x7F800000))
    bits = np.array(sorted(inputs), np.uint32)
    bits = np.concatenate([bits, bits | np.uint32(1 << 31)])
    x = bits.view(np.float32)

    columns = []
    for dtype, _ in TYPES:
        top = np.float32(ml_dtypes.finfo(dtype).max)
        columns.append(np.clip(x, -top, top).astype(dtype).view(np.uint8))
    with np.errstate(over="ignore"):
        halves = [x.astype(np.float16).view(np.uint16),
                  x.astype(ml_dtypes.bfloat16).view(np.uint16)]
    out += struct.pack("<I", len(bits))
    for i, b in enumerate(bits):
        out += struct.pack("<I5B2H", b, *(c[i] for c in columns), *(h[i] for h in halves))
    path = os.path.join(os.path.dirname(__file__), "../../tests/golden/ml_dtypes.bin")
    with open(sys.argv[1] if len(sys.argv) > 1 else path, "wb") as f:
        f.write(out)
    print(f"{len(bits)} inputs, {len(out)} bytes")


if __name__ == "__main__":
    main()
