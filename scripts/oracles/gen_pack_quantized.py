#!/usr/bin/env python3
"""Makes tests/golden/pack_quantized.safetensors: weights, and what compressed-tensors makes of
them.

    pip install numpy torch compressed-tensors==0.20.0
    python3 scripts/oracles/gen_pack_quantized.py

    P.weight                      f32.weight, bf16.weight, f16.weight; ragged.weight, whose rows are
                                  no whole words and have no groups
    SETTING/P.weight_packed, ...  SETTING: int4-b128, int4-channel-asym, ... as nibble names them
    SETTING/P.weight              F32: decoded
"""
import os
import sys

import safetensors.torch
import torch

from pack_quantized import args_of, compress, decompress, qparams_of, ties

SETTINGS = {f"int{bits}{group}{asym}": args_of(bits, 128 if group == "" else 0, asym == "")
            for bits in (4, 8) for group in ("", "-channel") for asym in ("", "-asym")}
SHAPES = {"f32": (9, 256), "bf16": (13, 256), "f16": (5, 128), "ragged": (6, 43)}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16,
          "ragged": torch.float32}


def weight_of(name, generator):
    w = 0.05 * torch.randn(SHAPES[name], generator=generator)
    w[1] += 0.2    # all of one sign nearly: zero points at an end
    w[2] = w[2].abs()
    w[3] = -w[3].abs()
    w[4] *= 1000.0
    w = w.to(DTYPES[name])
    for args in SETTINGS.values():  # what the order of two additions decides
        if args.symmetric or (args.strategy == "group" and name == "ragged"):
            continue
        for _ in range(4):
            at = ties(w, args, qparams_of(w, args)[0])
            w[at] = 0
    return w


def main():
    generator = torch.Generator().manual_seed(47)
    out = {}
    for name in SHAPES:
        w = out[f"{name}.weight"] = weight_of(name, generator)
        for setting, args in SETTINGS.items():
            if args.strategy == "group" and name == "ragged":
                continue
            steps, zeros = qparams_of(w, args)
            assert args.symmetric or not (ties(w, args, steps) & (w != 0)).any(), (name, setting)
            parts = compress(w, args, steps, zeros)
            for part, value in parts.items():
                out[f"{setting}/{name}.{part}"] = value.contiguous()
            out[f"{setting}/{name}.weight"] = decompress(parts, args).contiguous()
    path = os.path.join(os.path.dirname(__file__), "../../tests/golden/pack_quantized.safetensors")
    path = sys.argv[1] if len(sys.argv) > 1 else path
    safetensors.torch.save_file(out, path)
    print(f"{len(out)} tensors, {os.path.getsize(path)} bytes")


if __name__ == "__main__":
    main()
