#!/usr/bin/env python3
"""Makes tests/golden/steps.bin: fake-quantization by f32 steps, and gradients of learned steps.

Values of INT8, INT4 and FP8 are onnxruntime's QuantizeLinear and DequantizeLinear on the CPU (per
tensor, per row, by blocks; with zero points), those of the other integers numpy's, of the other
floats ml_dtypes' casts of x / s. Gradients are jax's: of the surrogate of LSQ (arXiv:1902.08153)

    v = y + stop(round(y) - y)  where y = x / s is in range, else the bound;  value = v * s

by automatic differentiation in f64, on elements that are not within 1e-5 of a tie or a bound.

    pip install numpy ml_dtypes onnx onnxruntime jax
    python3 scripts/oracles/gen_steps.py

File, little-endian:  "NIBSTEP1"  u32 cases, then for each
    u32 element (nib_step_element)  u32 asymmetric  u32 rows  u32 cols  u32 group (0: the matrix)
    steps f32  zeros i8 (as many, if asymmetric)
    x f32  values f32                         with ties, bounds and overflow
    x f32  grad_out f32  grad_x f32           random
    grad_steps f64 (factor 1)  sums of magnitudes f64 (as many each)
"""
import os
import struct
import sys

import jax
import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

jax.config.update("jax_enable_x64", True)
jnp = jax.numpy
ONNX = {20: TensorProto.INT4, 24: TensorProto.INT8, 3: TensorProto.FLOAT8E4M3FN,
        4: TensorProto.FLOAT8E5M2}
CASTS = {0: ml_dtypes.float4_e2m1fn, 1: ml_dtypes.float6_e2m3fn, 2: ml_dtypes.float6_e3m2fn,
         3: ml_dtypes.float8_e4m3fn, 4: ml_dtypes.float8_e5m2}
MOST = {0: 6.0, 1: 7.5, 2: 28.0, 3: 448.0, 4: 57344.0}


def bounds(element):
    if element < 16:
        return -MOST[element], MOST[element]
    half = 1 << (element - 17)
    return -half, half - 1


def spread(steps, rows, cols, group):
    """One for each element."""
    if group == 0:
        return np.broadcast_to(steps.reshape(1, 1), (rows, cols))
    return np.repeat(steps.reshape(rows, -1), group, axis=1)[:, :cols]


def by_onnx(element, x, steps, zeros, group):
    kind = ONNX[element]
    rows, cols = x.shape
    if group == 0:
        shape, attributes = [], {}
    elif group >= cols:
        shape, attributes = [rows], {"axis": 0}
    else:
        shape, attributes = [rows, cols // group], {"axis": 1, "block_size": group}
    scale = helper.make_tensor("s", TensorProto.FLOAT, shape, steps.tolist())
    zero = helper.make_tensor("z", kind, shape, zeros.tolist() if element >= 16
                              else [0.0] * len(zeros))
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **attributes),
             helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **attributes)]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)], [scale, zero])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options,
                                           ["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def values(element, x, steps, zeros, group):
    rows, cols = x.shape
    if element in ONNX:
        return by_onnx(element, x, steps, zeros, group)
    s, z = spread(steps, rows, cols, group), spread(zeros, rows, cols, group)
    lo, hi = bounds(element)
    with np.errstate(over="ignore"):
        y = x / s
        if element >= 16:
            q = np.clip(np.rint(y) + z, lo, hi)
            return (q - z).astype(np.float32) * s + np.float32(0)
        return np.clip(y, lo, hi).astype(CASTS[element]).astype(np.float32) * s


def round_to(element, y):
    if element >= 16:
        return np.rint(y)
    return np.clip(y, *bounds(element)).astype(np.float32).astype(CASTS[element]).astype(float)


def gradients(element, x, g, steps, zeros, group):
    lo, hi = bounds(element)
    s = spread(steps, *x.shape, group).astype(np.float64)
    z = spread(zeros, *x.shape, group).astype(np.float64)
    rounded = round_to(element, np.clip(x / s, lo - z, hi - z))

    def value(x, s):
        y = x / s
        inside = (y >= lo - z) & (y <= hi - z)
        passed = y + jax.lax.stop_gradient(rounded - y)
        return jnp.where(inside, passed, jax.lax.stop_gradient(rounded)) * s

    _, pull = jax.vjp(value, jnp.asarray(x, jnp.float64), jnp.asarray(s))
    dx, ds = (np.asarray(d) for d in pull(jnp.asarray(g, jnp.float64)))
    if group == 0:
        parts = ds.reshape(1, -1)
        sums, magnitudes = parts.sum(1), np.abs(parts).sum(1)
    else:
        cuts = np.arange(0, x.shape[1], group)
        sums = np.add.reduceat(ds, cuts, axis=1).ravel()
        magnitudes = np.add.reduceat(np.abs(ds), cuts, axis=1).ravel()
    return dx.astype(np.float32), sums, magnitudes


def hard(rng, element, s, z):
    """Ties, bounds and their neighbours; quotients that overflow; both zeros."""
    lo, hi = bounds(element)
    if element >= 16:
        y = rng.integers(2 * lo - 8, 2 * hi + 9, s.shape) / 2 - z
    else:
        grid = np.arange(256 if element > 2 else 64 if element else 16, dtype=np.uint8)
        grid = grid.view(CASTS[element]).astype(np.float64)
        grid = np.unique(grid[np.isfinite(grid)])
        ties = np.concatenate([grid, (grid[1:] + grid[:-1]) / 2, 1.2 * grid[-2:]])
        y = rng.choice(ties, s.shape)
    x = (y * s).astype(np.float32)
    moved = x.view(np.int32) + rng.integers(-1, 2, s.shape, dtype=np.int32) * (x != 0)
    x = moved.astype(np.int32).view(np.float32)
    x.flat[:4] = 0.0, -0.0, 3e38, -3e38
    return x


def soft(rng, element, s, z):
    lo, hi = bounds(element)
    for _ in range(100):
        y = rng.normal(0, (hi - lo) / 5, s.shape) - z
        x = (y * s).astype(np.float32)
        y = x / s.astype(np.float64)
        edge = np.minimum(np.abs(y - (lo - z)), np.abs(y - (hi - z)))
        near = edge < 1e-5 * hi
        if element >= 16:
            near |= np.abs(np.abs(y - np.rint(y)) - 0.5) < 1e-5
        else:
            near |= round_to(element, y * (1 - 1e-6)) != round_to(element, y * (1 + 1e-6))
        if not near.any():
            return x
    return np.where(near, 0, x).astype(np.float32)


def main():
    rng = np.random.default_rng(1902)
    shapes = [(3, 40, 0), (4, 64, 64), (2, 64, 16), (3, 48, 8), (1, 1040, 1040), (5, 72, 24)]
    cases = []
    for element in [*range(5), *range(18, 25)]:
        for asymmetric in (0, 1) if element >= 16 else (0,):
            for rows, cols, group in (shapes if element in (0, 20, 24) else shapes[:3]):
                if asymmetric and cols > 1000:
                    continue
                n = rows * -(-cols // group) if group else 1
                lo, hi = bounds(element)
                steps = np.exp(rng.normal(-3, 1, n)).astype(np.float32)
                zeros = rng.integers(lo, hi + 1, n).astype(np.int8) * asymmetric
                s, z = spread(steps, rows, cols, group), spread(zeros, rows, cols, group)
                x = hard(rng, element, s, z.astype(np.int32))
                v = values(element, x, steps, zeros, group).astype(np.float32)
                u = soft(rng, element, s, z.astype(np.int32))
                g = rng.normal(0, 1, u.shape).astype(np.float32)
                dx, ds, size = gradients(element, u, g, steps, zeros, group)
                out = struct.pack("<5I", element, asymmetric, rows, cols, group) + steps.tobytes()
                out += zeros.astype(np.int8).tobytes() if asymmetric else b""
                out += x.tobytes() + v.tobytes() + u.tobytes() + g.tobytes() + dx.tobytes()
                cases.append(out + ds.astype("<f8").tobytes() + size.astype("<f8").tobytes())
    data = b"NIBSTEP1" + struct.pack("<I", len(cases)) + b"".join(cases)
    path = os.path.join(os.path.dirname(__file__), "../../tests/golden/steps.bin")
    with open(sys.argv[1] if len(sys.argv) > 1 else path, "wb") as f:
        f.write(data)
    print(f"{len(cases)} cases, {len(data)} bytes")


if __name__ == "__main__":
    main()
