#!/usr/bin/env python3
"""Makes tests/golden/gptq.bin: GPTQ as published (arXiv:2210.17323), in numpy and scipy, in f64.

    H = X^T X, damped;  H = L L^T;  H^-1 = L^-T L^-1 = U^T U;  for each input in turn: round it,
    take (w - q) / U_ii times row i of U from the inputs to come

NVFP4 and MXFP4 by TransformerEngine's rules, written here one f32 operation at a time, apart from
nibble's C; ml_dtypes for the casts. Orders natural, falling diagonal, and by blocks; scales from
the weights as they were, or as they stand when their block's turn comes. A row keeps its plain
rounding where that has no larger error.

    pip install numpy scipy ml_dtypes
    python3 scripts/oracles/make_gptq.py

File, little-endian:  "NIBGPTQ1"  u32 rows  u32 k  u32 tokens  u32 cases  f32 damping  f32 amax
    x f16, tokens x k  w f32, rows x k, then for each case
    u32 format  u32 order  u32 scales (numbers of gptq.h)
    f64 error  f64 plain_error  f64 weight  i32 the order, k  u8 scales  u8 codes, rows x k
"""
import os
import struct
import sys

import ml_dtypes
import numpy as np
import scipy.linalg

ONE, SIX = np.float32(1), np.float32(6)
NVFP4, MXFP4 = 0x00101100, 0x00200000
BLOCK = {NVFP4: 16, MXFP4: 32}
NATURAL, ACT, GROUP_AWARE = 0, 1, 2
FROZEN, FRESH = 0, 1
DAMPING = 0.01


def scale_of(form, amax, s):
    """Scale bytes of blocks whose largest magnitudes are amax."""
    if form == NVFP4:
        v = np.minimum(amax * (s * (ONE / SIX)), np.float32(448))
        return v.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    a = amax.astype(np.float64)
    with np.errstate(divide="ignore"):
        e = np.where(a > 0, np.floor(np.log2(a / 6)), -127).astype(int)
    while True:  # the least e with a <= 6 * 2^e, whatever log2 rounds to
        low = (a > 0) & (6 * np.exp2(e) < a)
        if not low.any():
            break
        e = e + low
    return (np.clip(e, -127, 127) + 127).astype(np.uint8)


def round_to(form, x, byte, s):
    """Codes and values of f32 numbers under their scale bytes."""
    if form == NVFP4:
        scale = byte.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
        y = x * np.minimum(ONE / (scale * (ONE / s)), np.finfo(np.float32).max)
        step = scale * (ONE / s)
    else:
        exponent = byte.astype(int) - 127
        y, step = np.ldexp(x, -exponent), np.ldexp(ONE, exponent)
    code = np.clip(y, -6, 6).astype(ml_dtypes.float4_e2m1fn)
    return code.view(np.uint8) & 15, (code.astype(np.float32) * step).astype(np.float64)


def blocks_amax(w, block):
    padded = np.pad(np.abs(w), ((0, 0), (0, -w.shape[1] % block)))
    return padded.reshape(len(w), -1, block).max(2)


def order_of(h, order, block):
    d = np.diag(h)
    inputs = range(len(d))
    if order == ACT:
        return sorted(inputs, key=lambda i: (-d[i], i))
    if order == GROUP_AWARE:
        most = [d[i:i + block].max() for i in range(0, len(d), block)]
        return sorted(inputs, key=lambda i: (-most[i // block], i // block, -d[i], i))
    return list(inputs)


def inverse_factor(h, order):
    """U of the damped, permuted h."""
    d = np.diag(h)
    whole = h + np.diag(DAMPING * d.mean() + (d == 0))
    whole = whole[np.ix_(order, order)]
    inverse = scipy.linalg.cho_solve((np.linalg.cholesky(whole), True), np.eye(len(h)))
    return np.linalg.cholesky((inverse + inverse.T) / 2).T


def errors(h, d):
    return np.einsum("ri,ij,rj->r", d, h, d)


def gptq(form, h, w, s, kind, scales):
    block = BLOCK[form]
    order = order_of(h, kind, block)
    u = inverse_factor(h, order)
    byte = scale_of(form, blocks_amax(w, block), s)
    each = np.arange(w.shape[1]) // block
    plain_codes, plain_values = round_to(form, w, byte[:, each], s)
    plain = errors(h, w - plain_values)
    plain_byte = byte.copy()

    now = w.astype(np.float64)
    codes, values = np.empty_like(plain_codes), np.empty_like(now)
    for i, j in enumerate(order):
        if scales == FRESH and (i == 0 or order[i - 1] // block != j // block):
            part = now[:, j // block * block:(j // block + 1) * block].astype(np.float32)
            byte[:, j // block] = scale_of(form, np.abs(part).max(1), s)
        codes[:, j], values[:, j] = round_to(form, now[:, j].astype(np.float32),
                                             byte[:, j // block], s)
        error = (now[:, j] - values[:, j]) / u[i, i]
        now[:, order[i:]] -= np.outer(error, u[i, i:])

    carried = errors(h, w - values)
    keep = plain <= carried
    codes[keep], byte[keep] = plain_codes[keep], plain_byte[keep]
    total = np.where(keep, plain, carried).sum()
    print(f"{form:#010x} order {kind} scales {scales}: {total / plain.sum():.4f} of plain "
          f"rounding's error, {keep.sum()} rows kept")
    return (struct.pack("<IIIddd", form, kind, scales, total, plain.sum(),
                        errors(h, w.astype(np.float64)).sum())
            + np.array(order, np.int32).tobytes() + byte.tobytes() + codes.tobytes())


def main():
    rng = np.random.default_rng(2210)
    rows, k, tokens = 24, 72, 120
    wave = rng.normal(size=(tokens, k))
    for i in range(1, k):
        wave[:, i] = 0.9 * wave[:, i - 1] + 0.44 * wave[:, i]
    wave *= np.exp2(rng.uniform(-1, 1, k))
    wave[:, [7, 40]] *= 15
    wave[:, 50] = 0  # a dead input
    x = wave.astype(np.float16)
    w = (rng.normal(0, 0.02, (rows, k)) * rng.choice([1, 3], (rows, k), p=[.99, .01]))
    w = w.astype(np.float32)
    w[3] = 0
    w[4, 16:32] = 0
    amax = np.abs(w).max()
    h = x.astype(np.float64).T @ x.astype(np.float64)
    out, cases = b"", 0
    with np.errstate(divide="ignore"):
        for form in (NVFP4, MXFP4):
            s = np.float32(6 * 448) / amax
            for kind, scales in ((NATURAL, FROZEN), (ACT, FROZEN), (GROUP_AWARE, FROZEN),
                                 (NATURAL, FRESH), (GROUP_AWARE, FRESH)):
                out += gptq(form, h, w, s, kind, scales)
                cases += 1
    out = (b"NIBGPTQ1" + struct.pack("<IIIIff", rows, k, tokens, cases, DAMPING, amax)
           + x.tobytes() + w.tobytes() + out)
    path = os.path.join(os.path.dirname(__file__), "../../tests/golden/gptq.bin")
    with open(sys.argv[1] if len(sys.argv) > 1 else path, "wb") as f:
        f.write(out)
    print(len(out), "bytes")


if __name__ == "__main__":
    main()
