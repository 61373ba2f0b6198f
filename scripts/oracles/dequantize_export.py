#!/usr/bin/env python3
"""Decodes an exported checkpoint with numpy alone and writes it as a plain F32 folder.

    dequantize_export.py EXPORTED OUT

`nibble compare EXPORTED OUT` must then find every tensor equal, bit for bit. Nothing here is
shared with nibble: files are opened by the packages safetensors and gguf, element and scale
tables are built from their definitions (OCP MX v1.0; NVIDIA's NVFP4), and GGUF's names and row
order are undone from their documentation.
"""
import json
import re
import sys
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import save_file

E2M1 = np.array([0, .5, 1, 1.5, 2, 3, 4, 6], np.float32)
E2M1 = np.concatenate([E2M1, -E2M1])


def e4m3_table():
    out = np.empty(256, np.float32)
    for b in range(256):
        e, m = b >> 3 & 15, b & 7
        v = m * 2.0**-9 if e == 0 else (1 + m / 8) * 2.0 ** (e - 7)
        out[b] = np.nan if b & 127 == 127 else (-v if b & 128 else v)
    return out


E4M3 = e4m3_table()
E8M0 = np.array([2.0 ** (b - 127) for b in range(255)] + [np.nan], np.float32)


def read_folder(folder):
    """name -> (dtype, shape, bytes) over all safetensors files."""
    out = {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, t in safetensors.deserialize(path.read_bytes()):
            assert name not in out, name
            out[name] = t["dtype"], t["shape"], bytes(t["data"])
    return out


def plain(dtype, shape, data):
    if dtype == "F32":
        a = np.frombuffer(data, "<f4")
    elif dtype == "F16":
        a = np.frombuffer(data, "<f2").astype(np.float32)
    elif dtype == "BF16":
        a = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        raise SystemExit(f"unexpected dtype {dtype}")
    return a.reshape(shape)


def pairs(data, shape):
    """Codes, low nibble first."""
    b = np.frombuffer(data, np.uint8).reshape(shape)
    out = np.empty((*shape[:-1], shape[-1] * 2), np.uint8)
    out[..., 0::2], out[..., 1::2] = b & 15, b >> 4
    return out


def blocks(codes, scales, multiplier):
    """code * (scale * multiplier), each product rounded to f32."""
    step = (scales * np.float32(multiplier)).astype(np.float32)
    per = codes.shape[-1] // scales.shape[-1]
    return E2M1[codes] * np.repeat(step, per, axis=-1)


def packed_along(words, bits, n):
    """Of each row's little-endian words: n codes, q - lo."""
    b = np.ascontiguousarray(words).astype("<u4").view(np.uint8)
    if bits == 4:
        b = np.stack([b & 15, b >> 4], axis=-1).reshape(b.shape[0], -1)
    return b[:, :n].astype(np.int64)


def integers(files, stem, config):
    """(q - z) * step, the product rounded to f32."""
    group = next(iter(config["quantization_config"]["config_groups"].values()))["weights"]
    bits = group["num_bits"]
    rows, cols = np.frombuffer(files[stem + ".weight_shape"][2], "<i8")
    _, shape, data = files[stem + ".weight_packed"]
    q = packed_along(np.frombuffer(data, "<u4").reshape(shape), bits, cols)
    steps = plain(*files[stem + ".weight_scale"])
    zeros = np.full(steps.shape, 1 << bits - 1)
    if stem + ".weight_zero_point" in files:
        _, shape, data = files[stem + ".weight_zero_point"]
        zeros = packed_along(np.frombuffer(data, "<u4").reshape(shape).T, bits, rows).T
    assert group["symmetric"] == (stem + ".weight_zero_point" not in files)
    per = cols // steps.shape[1]
    assert group["group_size"] in (None, per)
    return ((q - np.repeat(zeros, per, axis=1)).astype(np.float32)
            * np.repeat(steps, per, axis=1)).astype(np.float32)


def decode_folder(folder):
    files = read_folder(folder)
    config = json.loads((folder / "config.json").read_text())
    out = {}
    for name, (dtype, shape, data) in files.items():
        stem = re.sub(r"\.weight(_packed)?$", "", name)
        scale = files.get(stem + ".weight_scale")
        if re.search(r"\.weight_(scale|scale_2|global_scale|zero_point|shape)$", name):
            continue
        if dtype == "I32" and stem + ".weight_shape" in files:
            out[stem + ".weight"] = integers(files, stem, config)
            continue
        if scale is None or dtype != "U8":
            out[name] = plain(dtype, shape, data)
            continue
        table = E4M3 if scale[0] == "F8_E4M3" else E8M0
        scales = table[np.frombuffer(scale[2], np.uint8)].reshape(scale[1])
        multiplier = np.float32(1)
        if stem + ".weight_scale_2" in files:
            multiplier = np.frombuffer(files[stem + ".weight_scale_2"][2], "<f4")[0]
        elif stem + ".weight_global_scale" in files:
            multiplier = np.float32(1) / np.frombuffer(
                files[stem + ".weight_global_scale"][2], "<f4")[0]
        out[stem + ".weight"] = blocks(pairs(data, shape), scales, multiplier)
    return out


# ---- GGUF ----

LAYER = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj",
         "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def hf_name(name):
    stem, kind = name.rsplit(".", 1)
    m = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
    return f"model.layers.{m[1]}.{LAYER[m[2]]}.{kind}" if m else f"{TOP[stem]}.{kind}"


def halves(b, half):
    """Codes of blocks whose byte j holds elements j (low nibble) and j + half."""
    return np.concatenate([b & 15, b >> 4], axis=-1)


def decode_gguf_tensor(t, scale2):
    rows = t.data.reshape(-1, t.data.shape[-1])
    kind = t.tensor_type.name
    if kind == "MXFP4":
        b = rows.reshape(rows.shape[0], -1, 17)
        codes = halves(b[..., 1:], 16)
        return (E2M1[codes] * E8M0[b[..., :1]]).reshape(rows.shape[0], -1)
    if kind == "NVFP4":
        b = rows.reshape(rows.shape[0], -1, 36)
        codes = halves(b[..., 4:].reshape(*b.shape[:2], 4, 8), 8)
        step = (E4M3[b[..., :4]] * np.float32(scale2)).astype(np.float32)
        return (E2M1[codes] * step[..., None]).reshape(rows.shape[0], -1)
    if kind == "BF16":
        return (rows.view("<u2").astype(np.uint32) << 16).view(np.float32)
    assert kind in ("F32", "F16"), kind
    return rows.astype(np.float32)


def decode_gguf(path):
    import gguf
    reader = gguf.GGUFReader(path)
    tensors = {t.name: t for t in reader.tensors}
    arch = reader.fields["general.architecture"].contents()
    heads = reader.fields[f"{arch}.attention.head_count"].contents()
    kv_heads = reader.fields[f"{arch}.attention.head_count_kv"].contents()
    out = {}
    for name, t in tensors.items():
        if name.endswith(".scale"):
            continue
        side = tensors.get(name.removesuffix(".weight") + ".scale")
        a = decode_gguf_tensor(t, side.data[0] if side is not None else 1)
        a = a.reshape([int(d) for d in reversed(t.shape)])
        n = {"attn_q": heads, "attn_k": kv_heads}.get(name.split(".")[-2])
        if n and arch == "llama":
            half = a.shape[0] // n // 2
            a = a.reshape(n, half, 2, *a.shape[1:]).swapaxes(1, 2).reshape(a.shape)
        out[hf_name(name)] = np.ascontiguousarray(a)
    return out


def main(exported, folder):
    decoded = decode_gguf(exported) if exported.is_file() else decode_folder(exported)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: np.ascontiguousarray(v, np.float32) for k, v in decoded.items()},
              folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    print(f"{len(decoded)} tensors decoded")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
