#!/usr/bin/env python3
"""Runs a Llama in numpy from an exported folder or GGUF file and compares its logits.

    llama_forward.py EXPORTED LOGITS.npz

LOGITS.npz holds ids and the logits that transformers computed with the source (gen_logits.py).
They agree exactly when names, configuration, codes, scales and the order of q and k rows are all
right. Touvron et al., arXiv:2302.13971; rotary embedding by halves, as Hugging Face stores q, k.
"""
import json
import sys
from pathlib import Path

import numpy as np

from dequantize_export import decode_folder, decode_gguf


def folder_config(path):
    c = json.loads((path / "config.json").read_text())
    theta = c.get("rope_theta") or c["rope_parameters"]["rope_theta"]
    return (c["num_hidden_layers"], c["num_attention_heads"], c["num_key_value_heads"], theta,
            c["rms_norm_eps"])


def gguf_config(path):
    import gguf
    f = gguf.GGUFReader(path).fields
    return tuple(f[f"llama.{k}"].contents() for k in
                 ("block_count", "attention.head_count", "attention.head_count_kv",
                  "rope.freq_base", "attention.layer_norm_rms_epsilon"))


def forward(w, config, ids):
    layers, heads, kv_heads, theta, eps = config
    w = {k: v.astype(np.float64) for k, v in w.items()}

    def norm(x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w[name + ".weight"]

    def linear(x, name):
        return x @ w[name + ".weight"].T

    x = w["model.embed_tokens.weight"][ids]
    batch, length, hidden = x.shape
    d = hidden // heads
    angle = np.arange(length)[:, None] * theta ** (-np.arange(0, d, 2) / d)
    cos, sin = (np.concatenate([f(angle)] * 2, -1) for f in (np.cos, np.sin))

    def split(x, n, rotate):
        x = x.reshape(batch, length, n, d).swapaxes(1, 2)
        if not rotate:
            return x
        half = np.concatenate([-x[..., d // 2:], x[..., :d // 2]], -1)
        return x * cos + half * sin

    mask = np.triu(np.full((length, length), -np.inf), 1)
    for i in range(layers):
        p = f"model.layers.{i}."
        h = norm(x, p + "input_layernorm")
        q = split(linear(h, p + "self_attn.q_proj"), heads, True)
        k = split(linear(h, p + "self_attn.k_proj"), kv_heads, True)
        v = split(linear(h, p + "self_attn.v_proj"), kv_heads, False)
        k, v = (np.repeat(t, heads // kv_heads, axis=1) for t in (k, v))
        s = q @ k.swapaxes(-1, -2) / np.sqrt(d) + mask
        s = np.exp(s - s.max(-1, keepdims=True))
        a = (s / s.sum(-1, keepdims=True)) @ v
        x = x + linear(a.swapaxes(1, 2).reshape(batch, length, hidden), p + "self_attn.o_proj")
        h = norm(x, p + "post_attention_layernorm")
        gate = linear(h, p + "mlp.gate_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(h, p + "mlp.up_proj"),
                       p + "mlp.down_proj")
    head = w.get("lm_head.weight", w["model.embed_tokens.weight"])
    return norm(x, "model.norm") @ head.T


def main(exported, golden):
    weights, config = ((decode_gguf(exported), gguf_config(exported)) if exported.is_file()
                       else (decode_folder(exported), folder_config(exported)))
    data = np.load(golden)
    got, want = forward(weights, config, data["ids"]), data["logits"]
    difference = np.abs(got - want).max() / np.abs(want).max()
    print(f"largest difference {difference:.3g} of the largest logit")
    # f32 against f64 over some hundred additions per layer: 1e-5; a wrong row order: about 1.
    return not difference <= 1e-4


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
