#!/usr/bin/env python3
"""Makes tests/golden/presets.bin: what the packages that nibble's presets name really write.

ModelOpt and compressed-tensors are run; TransformerEngine's NVFP4 and OCP MX are written out
here in numpy, apart from nibble's C, with ml_dtypes for the casts; GGUF is the gguf package.

    pip install numpy ml_dtypes torch nvidia-modelopt==0.47.0 compressed-tensors==0.20.0 gguf
    python3 scripts/oracles/gen_presets.py

File, little-endian:  "NIBPRE01"  u32 tensors  u32 results
    tensor   u32 dtype (nib_dtype)  u32 n (a multiple of 32)  n elements
    result   u32 tensor  u32 preset (nib_rules_preset)  u32 format (nib_format)
             u32 S  u32 t (f32 bits; 0xffffffff: the package has no such number)
             n/block scale bytes, then n codes in pairs order (NIB_CODES_PAIRS)
"""
import os
import struct
import sys

import ml_dtypes
import numpy as np
import torch

F32, F16, BF16 = 0, 1, 2
TORCH = {F32: torch.float32, F16: torch.float16, BF16: torch.bfloat16}
NUMPY = {F32: np.float32, F16: np.float16, BF16: ml_dtypes.bfloat16}
TE, MODELOPT, CT, OCP, GGUF = range(5)
NVFP4, MXFP4, MXFP6, MXFP8 = 0x00101100, 0x00200000, 0x00200001, 0x00200003
NONE = 0xFFFFFFFF


# ---- inputs -------------------------------------------------------------------------------

def bits_up(x, dtype, n):
    """x moved n representable numbers away from zero."""
    kind = np.uint32 if dtype == F32 else np.uint16
    bits = int(np.asarray(x, NUMPY[dtype]).view(kind)) + int(n)
    return kind(bits).view(NUMPY[dtype])


def boundary(rng, dtype):
    """Blocks of 32 whose amax lies on or some ulps beside 6, 4, 7 and 7.5 times 2^k."""
    ks = [-40, -17, -9, -3, 0, 1, 5, 20] if dtype != F16 else [-12, -9, -5, -3, 0, 1, 5, 11]
    steps = [-2, -1, 0, 1, 2, 3, 5, 6, 11, 12, 22, 23, 30]
    blocks = []
    for k in ks:
        for base, ulps in ((6, steps), (4, (-23, -1, 0, 1)), (7, (-1, 0)), (7.5, (0,))):
            for n in ulps:
                amax = bits_up(base * 2.0**k, dtype, n)
                b = (rng.uniform(-1, 1, 32) * float(amax)).astype(NUMPY[dtype])
                b[rng.integers(16)] = amax
                b[16 + rng.integers(16)] = -amax
                blocks.append(b)
    return np.concatenate(blocks)


def midpoints(rng):
    """Blocks of 16 whose scale lies within two ulps of a tie of E4M3, and whose elements lie so
    near ties of E2M1: where packages that order their f32 operations differently part."""
    values = np.arange(1, 127, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    unit = float(np.float32(3.7)) / 2688  # t, when the tensor's amax is 3.7
    ties = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    blocks = [np.full(16, 3.7, np.float32)]
    for i in rng.permutation(len(values) - 1)[:60]:
        middle = (values[i] + values[i + 1]) / 2
        for n in range(-2, 3):
            scale = values[i + rng.integers(2)] * unit
            x = [bits_up(t * scale, F32, rng.integers(-2, 3)) for t in rng.choice(ties, 16)]
            b = np.array(x, np.float32) * rng.choice(np.array([-1, 1], np.float32), 16)
            b[rng.integers(16)] = bits_up(6 * middle * unit, F32, n)
            blocks.append(b)
    blocks.append(np.zeros(16, np.float32))
    return np.concatenate(blocks)


def tensors(rng, dtype):
    as_dtype = lambda x: np.asarray(x, np.float64).astype(np.float32).astype(NUMPY[dtype])
    low, high = (-30, 30) if dtype != F16 else (-20, 9)
    yield as_dtype(rng.normal(0, 0.02, 96 * 32))
    yield as_dtype(rng.standard_t(3, 32 * 32) * 0.3)
    wide = rng.normal(0, 1, (64, 32)) * 2.0 ** rng.integers(low, high, (64, 1))
    yield as_dtype(wide.ravel())
    # Ties: multiples of 1/4 up to 6 with -0 among them, scaled by powers of two; in every
    # second block the scale is such that x / scale is a multiple of 1/4 for NVFP4 too.
    grid = rng.integers(-24, 25, (48, 32)) * 0.25
    grid[:, 3], grid[:, 19] = 6, -6
    grid[grid == 0] = -0.0
    yield as_dtype((grid * 2.0 ** rng.integers(-5, 3, (48, 1))).ravel())
    grid[0, 0] = 2688 / 2  # S = 2
    yield as_dtype(grid.ravel())
    yield boundary(rng, dtype)
    # Zero, -0 and denormal blocks among ordinary ones.
    tiny = float(ml_dtypes.finfo(NUMPY[dtype]).smallest_subnormal)
    mixed = rng.normal(0, 1, (24, 32)).astype(NUMPY[dtype])
    mixed[1:20:4] = 0
    mixed[2:20:4] = -0.0
    mixed[3:12:4] = (rng.integers(-3, 4, (3, 32)) * tiny).astype(NUMPY[dtype])
    mixed[20] = (rng.integers(-700, 701, 32) * tiny).astype(NUMPY[dtype])
    mixed[21] = (rng.integers(-800, 801, 32) * tiny).astype(NUMPY[dtype])
    mixed[21, 0] = 800 * tiny
    mixed[22] = (rng.integers(-930, 931, 32) * tiny).astype(NUMPY[dtype])
    mixed[22, 0] = 930 * tiny
    mixed[23, :16] = -tiny  # beside an amax that makes x / scale underflow
    mixed[23, 16:] = 1000
    mixed[23, 0] = 1000
    yield mixed.ravel()
    # One outlier: block scales that round to zero.
    outlier = rng.normal(0, 1e-4, 16 * 32)
    outlier[5] = 1000
    yield as_dtype(outlier)
    for scale in ((1e-30, 3e-38, 1e-41, 1e36) if dtype != F16 else (1e-2, 1e-5, 1e-6, 1e4)):
        yield as_dtype(np.clip(rng.normal(0, scale, 8 * 32), -4 * scale, 4 * scale))
    yield np.zeros(64, NUMPY[dtype])
    if dtype == F32:
        yield midpoints(rng)


# ---- the packages -------------------------------------------------------------------------

def f32_bits(x):
    return struct.unpack("<I", struct.pack("<f", float(x)))[0]


def to_torch(x, dtype):
    kind = np.int32 if dtype == F32 else np.int16
    return torch.from_numpy(x.view(kind).copy()).view(TORCH[dtype])


def modelopt_nvfp4(x, dtype):
    from modelopt.torch.quantization.qtensor import NVFP4QTensor

    if not np.any(x):
        return None  # NaN scales: nibble's own rule holds
    q, scale, scale2 = NVFP4QTensor.quantize(to_torch(x, dtype).reshape(1, -1), 16)
    return NONE, f32_bits(scale2), scale.view(torch.uint8).numpy(), q._quantized_data.numpy()


def modelopt_mxfp4(x, dtype):
    from modelopt.torch.quantization.qtensor import MXFP4QTensor

    q, scale = MXFP4QTensor.quantize(to_torch(x, dtype).reshape(1, -1), 32)
    return NONE, NONE, scale.numpy(), q._quantized_data.numpy()


def compressed_tensors(x, dtype, bits, group):
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    nvfp4 = group == 16
    name = {4: "nvfp4-pack-quantized" if nvfp4 else "mxfp4-pack-quantized",
            6: "mxfp6-pack-quantized", 8: "mxfp8-quantized"}[bits]
    args = QuantizationArgs(
        num_bits=bits, type="float", symmetric=True, group_size=group,
        strategy="tensor_group" if nvfp4 else "group",
        scale_dtype=torch.float8_e4m3fn if nvfp4 else torch.uint8)
    weight = to_torch(x, dtype).reshape(1, -1)
    blocks = weight.reshape(1, -1, group)
    state = {"weight": weight}
    if nvfp4:
        state["weight_global_scale"] = generate_gparam(weight.min(), weight.max())
    scale, _ = calculate_qparams(blocks.amin(-1), blocks.amax(-1), args,
                                 global_scale=state.get("weight_global_scale"))
    state["weight_scale"] = scale
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    out = BaseCompressor.get_value_from_registry(name).compress(state, scheme)
    codes = out["weight" if bits == 8 else "weight_packed"].view(torch.uint8).numpy()
    s = f32_bits(out["weight_global_scale"]) if nvfp4 else NONE
    return s, NONE, out["weight_scale"].view(torch.uint8).numpy(), codes


def gguf_mxfp4(x, dtype):
    from gguf import GGMLQuantizationType, quants

    x = x.astype(np.float32)
    amax = np.abs(x.reshape(-1, 32)).max(1)
    if np.any((amax > 0) & (amax < 2.0**-125)):
        return None  # the exponent byte wraps round
    raw = quants.quantize(x, GGMLQuantizationType.MXFP4).reshape(-1, 17)
    halves = raw[:, 1:]
    codes = np.concatenate([halves & 15, halves >> 4], axis=1)
    return NONE, NONE, raw[:, 0], pairs(codes)


# ---- independent implementations ----------------------------------------------------------

def pairs(codes):
    codes = codes.reshape(-1)
    return codes[0::2] | codes[1::2] << 4


def e2m1(y):
    return y.astype(np.float32).astype(ml_dtypes.float4_e2m1fn).view(np.uint8) & 15


def transformer_engine(x, dtype):
    """quantize_transpose_nvfp4's arithmetic, one f32 operation a line."""
    one = np.float32(1)
    biggest = np.finfo(np.float32).max
    x = x.astype(np.float32).reshape(-1, 16)
    amax = np.abs(x).max()
    with np.errstate(all="ignore"):
        s = min(np.float32(448 * 6) / amax, biggest) if amax > 0 else one
        block = np.abs(x).max(1, keepdims=True) * np.float32(s * (one / np.float32(6)))
        byte = np.minimum(block, np.float32(448)).astype(ml_dtypes.float8_e4m3fn)
        factor = np.minimum(one / (byte.astype(np.float32) * (one / s)), biggest)
        codes = e2m1(np.clip(x * factor, -6, 6))
    return f32_bits(s), f32_bits(one / s), byte.view(np.uint8), pairs(codes)


def ocp_mxfp4(x, dtype):
    """MX v1.0 section 6.3, in f64."""
    x = x.astype(np.float64).reshape(-1, 32)
    amax = np.abs(x).max(1, keepdims=True)
    e = np.where(amax > 0, np.frexp(amax)[1] - 1 - 2, -127)
    e = np.clip(e, -127, 127)
    codes = e2m1(np.clip(np.ldexp(x, -e), -6, 6))
    return NONE, NONE, (e + 127).astype(np.uint8), pairs(codes)


PRESETS = [
    (MODELOPT, NVFP4, modelopt_nvfp4),
    (MODELOPT, MXFP4, modelopt_mxfp4),
    (CT, NVFP4, lambda x, d: compressed_tensors(x, d, 4, 16)),
    (CT, MXFP4, lambda x, d: compressed_tensors(x, d, 4, 32)),
    (CT, MXFP6, lambda x, d: compressed_tensors(x, d, 6, 32)),
    (CT, MXFP8, lambda x, d: compressed_tensors(x, d, 8, 32)),
    (TE, NVFP4, transformer_engine),
    (OCP, MXFP4, ocp_mxfp4),
    (GGUF, MXFP4, gguf_mxfp4),
]


def main():
    rng = np.random.default_rng(20250924)
    inputs, results = [], []
    for dtype in (F32, F16, BF16):
        for x in tensors(rng, dtype):
            inputs.append(struct.pack("<II", dtype, x.size) + x.tobytes())
            for preset, fmt, run in PRESETS:
                if fmt in (MXFP6, MXFP8) and x.size > 2048:
                    continue  # the same rules as MXFP4's: the small tensors will do
                out = run(x.copy(), dtype)
                if out is None:
                    continue
                s, t, scales, codes = out
                head = struct.pack("<5I", len(inputs) - 1, preset, fmt, s, t)
                results.append(head + scales.astype(np.uint8).tobytes() + codes.tobytes())
    data = b"NIBPRE01" + struct.pack("<II", len(inputs), len(results))
    data += b"".join(inputs) + b"".join(results)
    path = os.path.join(os.path.dirname(__file__), "../../tests/golden/presets.bin")
    with open(sys.argv[1] if len(sys.argv) > 1 else path, "wb") as f:
        f.write(data)
    print(f"{len(inputs)} tensors, {len(results)} results, {len(data)} bytes")


if __name__ == "__main__":
    main()
