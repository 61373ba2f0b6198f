#!/usr/bin/env python3
"""Makes tests/golden/four_over_six.bin: NVFP4 with the better of two scales (arXiv:2512.02010).

Written here in numpy, one f32 operation at a time, apart from nibble's C; ml_dtypes for the
casts. Global M = 6 * 256; candidates e4m3(base) and e4m3(1.5 * base); the lower error wins, a
tie goes to the first; the error is the sum of squares or magnitudes in f32, in the order that
kernels/common/search.h states. base is TransformerEngine's amax * (S * (1/6)), or the
fouroversix package's amax / 6 * S.

    pip install numpy ml_dtypes
    python3 scripts/oracles/gen_search.py

File, little-endian:  "NIB46_01"  u32 blocks  f32 amax  blocks * 16 f32, then four results, for
(TransformerEngine, fouroversix) x (MSE, MAE): blocks scale bytes, blocks * 16 codes (a byte each)
"""
import os
import struct
import sys

import ml_dtypes
import numpy as np

ONE, SIX = np.float32(1), np.float32(6)


def error(x, value, absolute):
    d = x - value
    d = np.abs(d) if absolute else d * d
    p = np.zeros((len(x), 8), np.float32)
    for i in range(16):
        p[:, i % 8] += d[:, i]
    q = [p[:, i] for i in range(8)]
    return ((q[0] + q[4]) + (q[2] + q[6])) + ((q[1] + q[5]) + (q[3] + q[7]))


def quantize(x, byte, s):
    scale = byte.astype(np.float32)
    biggest = np.finfo(np.float32).max
    factor = np.minimum(ONE / (scale * (ONE / s)), biggest)
    code = np.clip(x * factor[:, None], -6, 6).astype(ml_dtypes.float4_e2m1fn)
    step = scale * (ONE / s)
    return code.view(np.uint8) & 15, code.astype(np.float32) * step[:, None]


def four_over_six(x, amax, package, absolute):
    s = np.float32(6 * 256) / amax
    block = np.abs(x).max(1)
    base = block / SIX * s if package else block * (s * (ONE / SIX))
    to_byte = lambda v: np.minimum(v, np.float32(448)).astype(ml_dtypes.float8_e4m3fn)
    six, four = to_byte(base), to_byte(np.float32(1.5) * base)
    codes6, value6 = quantize(x, six, s)
    codes4, value4 = quantize(x, four, s)
    better = error(x, value4, absolute) < error(x, value6, absolute)
    byte = np.where(better, four.view(np.uint8), six.view(np.uint8))
    return byte, np.where(better[:, None], codes4, codes6), better.mean()


def main():
    rng = np.random.default_rng(46)
    x = np.concatenate([rng.normal(0, 0.02, (192, 16)), rng.laplace(0, 0.02, (128, 16)),
                        rng.standard_t(4, (128, 16)) * 0.02,
                        np.round(rng.uniform(-1, 1, (48, 16)) * 12) / 128,  # ties and equal errors
                        rng.normal(0, 1e-6, (12, 16)), np.zeros((4, 16))]).astype(np.float32)
    amax = np.abs(x).max()
    out = b"NIB46_01" + struct.pack("<If", len(x), amax) + x.tobytes()
    with np.errstate(divide="ignore"):
        for package in (False, True):
            for absolute in (False, True):
                byte, codes, share = four_over_six(x, amax, package, absolute)
                out += byte.tobytes() + codes.tobytes()
                print(f"package {package}, absolute {absolute}: 4 wins in {share:.1%}")
    path = os.path.join(os.path.dirname(__file__), "../../tests/golden/four_over_six.bin")
    with open(sys.argv[1] if len(sys.argv) > 1 else path, "wb") as f:
        f.write(out)
    print(len(out), "bytes")


if __name__ == "__main__":
    main()
