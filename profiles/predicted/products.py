#!/usr/bin/env python3
"""Predicts products with packed NVFP4 weights on an H200 against cublasLt's f16 product, by layer
and M. Nothing here was measured: it holds the counts of README.md and gemm_tune.h against assumed
rates (below), and cuts K as gemm_cuda.cu does. Prints the table that README.md shows.

    profiles/predicted/products.py [--mma 0.65] [--wgmma 0.80] [--lt 0.70] [--lt-memory 0.78]
"""
import argparse
import math

LAYERS = [(28672, 4096), (10240, 8192), (8192, 8192), (57344, 8192), (8192, 28672)]
PROCESSORS, CLOCK, MEMORY, L2 = 132, 1.7e9, 4.8e12, 6e12
TENSOR = 4096  # flops a clock and processor
OWN_MEMORY = 0.85  # of MEMORY, with enough bytes under way
LAUNCH, FILL, SECOND = 2e-6, 1.2e-6, 1.2e-6  # of a kernel, of a CTA's first copies, of gemm_reduce

# rows, tokens, CTAs a processor, busy share, issue slots of 256 x 128 weights a quarter processor
KERNELS = {
    "small8": (64, 8, 2, 0.80, 656),
    "small16": (64, 16, 2, 0.80, 800),
    "tile32": (256, 32, 1, 0.92, 816),
    "tile64": (256, 64, 1, 1.00, 988),
    "wgmma128": (256, 128, 1, 1.00, 962),
}


def kernel_of(m):
    return next(k for k, last in zip(KERNELS, (8, 16, 32, 64, 512)) if m <= last)


def waves(ctas, slots, busy):
    rest = ctas % slots / slots
    return ctas // slots + (max(rest, busy) if rest else 0)


def cut(kernel, m, n, k):
    """CTAs before the cut, slots, splits: splits_for of gemm_cuda.cu."""
    rows, tokens, per, busy, _ = KERNELS[kernel]
    small = kernel.startswith("small")
    tokens = 16 if small else tokens
    ctas = math.ceil(n / rows) * (1 if small else math.ceil(m / tokens))
    slots = PROCESSORS * per
    most = max(1, min(16, k // 64 // (8 if small else 4)))
    cta_bytes = k * (rows * 0.5625 + 2 * tokens)

    def cost(s):
        sums = s * ctas * rows * tokens * 8 + PROCESSORS * (64 << 10) if s > 1 else 0
        return waves(ctas * s, slots, busy) / s * slots * cta_bytes + sums

    return ctas, slots, 1 if ctas >= 2 * slots else min(range(1, most + 1), key=cost)


def own_time(m, n, k, mma, wgmma):
    kernel = kernel_of(m)
    rows, tokens, _, busy, issue = KERNELS[kernel]
    ctas, slots, splits = cut(kernel, m, n, k)
    full = waves(ctas * splits, slots, 1) / splits  # a CTA takes its time in any wave
    share = waves(ctas * splits, slots, busy) / splits / (ctas / slots)
    tensor = 256 * 128 * 2 * tokens / TENSOR / (wgmma if kernel == "wgmma128" else mma)
    step = max(issue, tensor) * rows / 256 * (slots / PROCESSORS)
    memory = n * k * 0.5625 / (OWN_MEMORY * MEMORY) * share
    used = min(tokens, m)
    sums = splits * ctas * rows * used * 4 if splits > 1 else 0
    l2 = (ctas * k * (rows * 0.5625 + 2 * used) + sums) / L2
    second = SECOND + sums / L2 if splits > 1 else 0
    return max(full * k / 128 * step / CLOCK, memory, l2) + LAUNCH + FILL + second, splits


def lt_time(m, n, k, share, memory):
    peak = TENSOR * PROCESSORS * CLOCK
    moved = 2 * (n * k + m * k + m * n)
    return max(moved / (memory * MEMORY), 2 * m * n * k / (share * peak)) + LAUNCH


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("mma", 0.65), ("wgmma", 0.80), ("lt", 0.70), ("lt-memory", 0.78)):
        parser.add_argument(f"--{name}", type=float, default=value, help=f"{value}")
    a = parser.parse_args()
    print("| M | kernel | " + " | ".join(f"{n} x {k}" for n, k in LAYERS) + " | geomean |")
    print("|---|---|" + "---|" * len(LAYERS) + "---|")
    for m in (1, 8, 16, 32, 64, 128, 256, 512):
        cells, product = [], 1.0
        for n, k in LAYERS:
            ours, splits = own_time(m, n, k, a.mma, a.wgmma)
            theirs = lt_time(m, n, k, a.lt, a.lt_memory)
            product *= theirs / ours
            cells.append(f"{theirs / ours:.2f} ({ours * 1e6:.0f} us, {splits})")
        print(f"| {m} | {kernel_of(m)} | " + " | ".join(cells)
              + f" | **{product ** (1 / len(LAYERS)):.2f}** |")


if __name__ == "__main__":
    main()
