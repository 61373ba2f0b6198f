#!/usr/bin/env python3
"""Makes tests/golden/observers.bin: ranges, averages, histograms, amaxes and figures of tensors by
numpy and scipy, apart from nibble's C.

Amaxes from histograms are those of NVIDIA's pytorch-quantization: percentile by cumulated counts,
entropy with scipy.stats.entropy, mean squared error over bin centres; written here anew, with float
elements for levels as calibrate.h says. Histograms whose best candidate is not the best by a margin
are refused, so that no rounding decides.

    pip install numpy scipy
    python3 scripts/oracles/gen_observers.py

File, little-endian: "NIBOBS01"
    u32 histograms, each: u32 bins  f32 top  u32 counts[bins]  u32 results, each:
        u32 kind (0 percentile, 1 entropy, 2 squares)  u32 integer bits  u32 element  u32 start
        f64 percentile  f32 amax  u32 0
    u32 tensors, each: u32 n  u32 bins  f32 x[n]  f32 value[n]  f32 {-min, max}  f32 top
        u32 counts[bins]  u32 zeroed  f64 mean std min max relative_error mse
    u32 steps  f32 keep  f32 now[steps]  f32 average[steps]
"""
import os
import struct
import sys

import numpy as np
from scipy.stats import entropy

f32 = np.float32


def minifloat(exponent_bits, mantissa_bits, bias, top):
    values = {0.0}
    for e in range(1 << exponent_bits):
        for m in range(1 << mantissa_bits):
            scale = 2.0 ** (max(e, 1) - bias - mantissa_bits)
            values.add(scale * (m + ((e > 0) << mantissa_bits)))
    return np.array(sorted(v for v in values if v <= top))


# In the order of nib_element.
ELEMENTS = [minifloat(2, 1, 1, 6), minifloat(2, 3, 1, 7.5), minifloat(3, 2, 3, 28),
            minifloat(4, 3, 7, 448), minifloat(5, 2, 15, 57344)]


def nearest_code(levels, x):
    """Index of the nearest level; a tie goes to the even index, as to the even code."""
    below = np.clip(np.searchsorted(levels, x, side="right") - 1, 0, len(levels) - 1)
    above = np.minimum(below + 1, len(levels) - 1)
    down, up = x - levels[below], levels[above] - x
    take_up = (up < down) | ((up == down) & (below % 2 == 1))
    return np.where(take_up & (above > below), above, below)


def length(in_bins, bins, top):
    return f32(float(top) / bins * in_bins)


def percentile_amax(counts, top, percentile):
    cdf = np.cumsum(counts) / counts.sum()
    return length(np.searchsorted(cdf, percentile / 100.0) + 1, len(counts), top)


def kl_amax(counts, top, integer_bits, element, start):
    bins = counts.astype(np.float64)
    bins[0] = bins[1]
    divergences = []
    for i in range(start, len(bins) + 1):
        index = np.arange(i)
        if integer_bits:
            levels = 1 << (integer_bits - 1)
            level = np.digitize(index, np.linspace(0, i, num=levels + 1)) - 1
        else:
            grid = ELEMENTS[element]
            level = nearest_code(grid, f32((index + 0.5) / i * grid[-1]).astype(np.float64))
        inside = bins[:i]
        full = inside != 0
        sums = np.bincount(level[full], weights=inside[full], minlength=level.max() + 1)
        uses = np.bincount(level[full], minlength=level.max() + 1)
        mean = np.divide(sums, uses, out=np.zeros_like(sums), where=uses > 0)
        q = np.where(full, mean[level], 0.0)
        p = inside.copy()
        p[-1] += bins[i:].sum()
        divergences.append(entropy(p, q) if q.sum() else np.inf)
    d = np.array(divergences)
    best = len(d) - 1 - np.argmin(d[::-1])
    ordered = np.sort(d[np.isfinite(d)])
    assert len(ordered) < 2 or ordered[0] == 0 or ordered[1] > ordered[0] * (1 + 1e-9), "a tie"
    return length(best + start, len(bins), top)


def mse_amax(counts, top, integer_bits, element, start):
    c = np.arange(len(counts)) + 0.5
    errors = []
    for i in range(start, len(counts)):
        if integer_bits:
            most = (1 << (integer_bits - 1)) - 1
            step = (i + 0.5) / most
            value = np.minimum(np.round(c / step), most) * step
        else:
            grid = ELEMENTS[element]
            step = (i + 0.5) / grid[-1]
            value = grid[nearest_code(grid, f32(c / step).astype(np.float64))] * step
        errors.append(((value - c) ** 2 * counts).sum())
    e = np.sort(errors)
    assert len(e) < 2 or e[1] > e[0] * (1 + 1e-9), "a tie"
    return length(start + np.argmin(errors) + 0.5, len(counts), top)


def histogram(x, top, bins):
    """One f32 operation at a time, as calibrate.h has them."""
    at = np.abs(x) * (f32(bins) / f32(top))
    return np.bincount(np.minimum(at.astype(np.int64), bins - 1), minlength=bins)


def histograms(rng):
    n = 200000
    normal = np.abs(rng.normal(0, 1, n)).astype(f32)
    heavy = np.abs(rng.standard_t(3, n)).astype(f32)
    half = np.maximum(rng.normal(0, 1, n), 0).astype(f32)
    half[half == 0] = 0.0005
    for x, bins in ((normal, 2048), (heavy, 2048), (half, 2048), (heavy[:3000], 512)):
        top = x.max()
        yield histogram(x, top, bins), top


def results(counts, top):
    for percentile in (50.0, 99.0, 99.9, 99.99, 99.999, 100.0):
        yield 0, 0, 0, 0, percentile, percentile_amax(counts, top, percentile)
    start = 128
    for bits in (8, 4, 3):
        yield 1, bits, 0, start, 0.0, kl_amax(counts, top, bits, 0, start)
        yield 2, bits, 0, start, 0.0, mse_amax(counts, top, bits, 0, start)
    for element in range(len(ELEMENTS)):
        for start in (128, 16):
            yield 1, 0, element, start, 0.0, kl_amax(counts, top, 0, element, start)
            yield 2, 0, element, start, 0.0, mse_amax(counts, top, 0, element, start)


def tensors(rng):
    yield rng.normal(0.01, 0.02, 3001).astype(f32)
    yield (rng.standard_t(3, 2048) * 5 + 40).astype(f32)
    yield rng.uniform(1e-20, 3e-20, 1025).astype(f32)  # squares underflow in f32
    yield (rng.normal(0, 1, 1500) * 1e25).astype(f32)  # and overflow


def tensor_bytes(x, bins):
    grid = ELEMENTS[0]
    step = f32(np.abs(x).max() / f32(6.3))
    value = f32(np.sign(x) * grid[nearest_code(grid, np.abs(x / step).astype(np.float64))]) * step
    top = f32(np.abs(x).max() * f32(0.8))
    d = (x - value).astype(np.float64)
    exact = x.astype(np.float64)
    figures = [exact.mean(), exact.std(), exact.min(), exact.max(),
               np.linalg.norm(d) / np.linalg.norm(exact), (d ** 2).mean()]
    zeroed = int(((x != 0) & (value == 0)).sum())
    return (struct.pack("<II", len(x), bins) + x.tobytes() + value.astype(f32).tobytes()
            + struct.pack("<fff", -x.min(), x.max(), top)
            + histogram(x, top, bins).astype("<u4").tobytes() + struct.pack("<I", zeroed)
            + struct.pack("<6d", *figures))


def main():
    rng = np.random.default_rng(2048)
    out, made = b"NIBOBS01", list(histograms(rng))
    out += struct.pack("<I", len(made))
    for counts, top in made:
        rows = list(results(counts, top))
        out += struct.pack("<If", len(counts), top) + counts.astype("<u4").tobytes()
        out += struct.pack("<I", len(rows))
        for kind, bits, element, start, percentile, amax in rows:
            out += struct.pack("<IIIIdfI", kind, bits, element, start, percentile, amax, 0)
    made = list(tensors(rng))
    out += struct.pack("<I", len(made)) + b"".join(tensor_bytes(x, 100) for x in made)
    keep, average, now = f32(0.9), None, np.abs(rng.normal(3, 1, 40)).astype(f32)
    averages = []
    for x in now:
        average = x if average is None else keep * average + (f32(1) - keep) * x
        averages.append(average)
    out += struct.pack("<If", len(now), keep) + now.tobytes() + np.array(averages, f32).tobytes()
    path = os.path.join(os.path.dirname(__file__), "../../tests/golden/observers.bin")
    with open(sys.argv[1] if len(sys.argv) > 1 else path, "wb") as f:
        f.write(out)
    print(len(out), "bytes")


if __name__ == "__main__":
    main()
