#!/usr/bin/env python3
"""Quantizes a bf16 or f32 folder with the packages ModelOpt and compressed-tensors and compares
every byte with nibble's exports of it.

    check_packages.py SOURCE MODELOPT_EXPORT CT_NVFP4_EXPORT CT_MXFP4_EXPORT

Tensors whose scale nibble shares with others (q, k, v; gate, up) are left out: the packages know
of one tensor at a time here. Needs torch, nvidia-modelopt 0.47, compressed-tensors 0.20.
"""
import re
import sys
from pathlib import Path

import safetensors.torch
import torch
from compressed_tensors.compressors.mxfp4 import MXFP4PackedCompressor
from compressed_tensors.compressors.nvfp4 import NVFP4PackedCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
from modelopt.torch.quantization.qtensor import NVFP4QTensor

SHARED = re.compile(r"\.(q_proj|k_proj|v_proj|gate_proj|up_proj|w1|w3)\.weight$")


def load(folder):
    out = {}
    for path in Path(folder).glob("*.safetensors"):
        out |= safetensors.torch.load_file(path)
    return out


def by_modelopt(w):
    q, scale, scale_2 = NVFP4QTensor.quantize(w.clone(), 16)
    return {"weight": q._quantized_data, "weight_scale": scale, "weight_scale_2": scale_2}


def by_compressed_tensors(w, nvfp4):
    args = QuantizationArgs(
        num_bits=4, type="float", symmetric=True, dynamic=False,
        strategy="tensor_group" if nvfp4 else "group", group_size=16 if nvfp4 else 32,
        scale_dtype=torch.float8_e4m3fn if nvfp4 else torch.uint8)
    blocks = w.unflatten(-1, (-1, args.group_size))
    state = {"weight": w.clone()}
    if nvfp4:
        state["weight_global_scale"] = generate_gparam(w.min(), w.max())
    state["weight_scale"], _ = calculate_qparams(blocks.amin(-1), blocks.amax(-1), args,
                                                 global_scale=state.get("weight_global_scale"))
    compressor = NVFP4PackedCompressor if nvfp4 else MXFP4PackedCompressor
    return compressor.compress(state, QuantizationScheme(targets=["Linear"], weights=args))


def differences(name, wanted, export):
    stem = name.removesuffix(".weight")
    return [f"{stem}.{part}" for part, t in wanted.items()
            if not torch.equal(t.reshape(-1).contiguous().view(torch.uint8),
                               export[f"{stem}.{part}"].reshape(-1).contiguous().view(torch.uint8))]


def main(source, modelopt, ct_nvfp4, ct_mxfp4):
    source, exports = load(source), [load(e) for e in (modelopt, ct_nvfp4, ct_mxfp4)]
    checked, wrong = 0, []
    for name, w in source.items():
        if name.removesuffix(".weight") + ".weight_scale" not in exports[0] or SHARED.search(name):
            continue
        checked += 1
        made = by_modelopt(w), by_compressed_tensors(w, True), by_compressed_tensors(w, False)
        for wanted, export in zip(made, exports):
            wrong += differences(name, wanted, export)
    print(f"{checked} tensors, {len(wrong)} parts differ", *wrong[:10])
    return bool(wrong or not checked)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:5]))
