#!/usr/bin/env python3
"""Quantizes a folder by compressed-tensors and compares nibble's int4 and int8 exports with it.

    check_integers.py SOURCE EXPORT ...     needs torch, compressed-tensors 0.20

Each export's config.json has to be one that the package reads, and says which integers it has.
Equal have to be: shapes; steps (calculate_qparams), and of f32 weights zero points; codes, as the
package makes them of the export's own steps and zero points, byte for byte, but for asymmetric ones
within 1e-4 of a tie, which may differ by one, because the package adds the zero point before it
rounds; and what the package decodes them to.
"""
import json
import sys
from pathlib import Path

import safetensors.torch
import torch
from compressed_tensors.compressors.pack_quantized import unpack_from_int32
from compressed_tensors.quantization import QuantizationConfig

from pack_quantized import args_of, compress, decompress, qparams_of, ties


def load(folder):
    out = {}
    for path in Path(folder).glob("*.safetensors"):
        out |= safetensors.torch.load_file(path)
    return out


def scheme_of(folder):
    raw = json.loads((Path(folder) / "config.json").read_text())["quantization_config"]
    config = QuantizationConfig.model_validate(raw)
    assert config.format == "pack-quantized" and len(config.config_groups) == 1, folder
    w = config.config_groups["group_0"].weights
    same = args_of(w.num_bits, w.group_size or 0, w.symmetric)
    assert (w.strategy, w.type, w.dynamic) == (same.strategy, "int", False), folder
    return same


def zeros_of(parts, args):
    if args.symmetric:
        return torch.zeros_like(parts["weight_scale"], dtype=torch.int8)
    shape = (int(parts["weight_shape"][0]), parts["weight_scale"].shape[1])
    return unpack_from_int32(parts["weight_zero_point"], args.num_bits, shape, packed_dim=0)


def differences(w, parts, args):
    """Names of what is wrong, and how many codes differ near ties."""
    steps, zeros = qparams_of(w, args)
    own = parts["weight_scale"]
    wrong = [] if own.dtype == w.dtype and torch.equal(own, steps) else ["weight_scale"]
    if not torch.equal(zeros_of(parts, args), zeros.to(torch.int8)):
        wrong += ["weight_zero_point"]
    made = compress(w, args, own, zeros_of(parts, args))
    if not torch.equal(made["weight_shape"], parts["weight_shape"]):
        wrong += ["weight_shape"]
    if not args.symmetric and not torch.equal(made["weight_zero_point"],
                                              parts["weight_zero_point"]):
        wrong += ["packing of weight_zero_point"]
    if torch.equal(made["weight_packed"], parts["weight_packed"]):
        return wrong, 0
    a, b = (unpack_from_int32(p["weight_packed"], args.num_bits, w.shape).int()
            for p in (made, parts))
    near = ties(w, args, own) if not args.symmetric else torch.zeros_like(a, dtype=torch.bool)
    if ((a != b) & ~near).any() or ((a - b).abs() > 1).any():
        wrong += ["weight_packed"]
    return wrong, int((a != b).sum())


def main(source, exports):
    source, failed = load(source), False
    for folder in exports:
        args, export = scheme_of(folder), load(folder)
        checked, wrong, near = 0, [], 0
        for name, w in source.items():
            stem = name.removesuffix(".weight")
            parts = {k.removeprefix(stem + "."): v for k, v in export.items()
                     if k.startswith(stem + ".weight_")}
            if not parts:
                continue
            checked += 1
            what, n = differences(w, parts, args)
            wrong += [f"{stem}: {x}" for x in what]
            near += n
            assert torch.isfinite(decompress(parts, args)).all()
        print(f"{folder}: {checked} tensors, {len(wrong)} parts differ, "
              f"{near} codes near ties", *wrong[:10])
        failed |= bool(wrong or not checked)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
