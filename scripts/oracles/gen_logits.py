#!/usr/bin/env python3
"""Makes tests/golden/logits/: a tiny Llama as GGUF and what transformers computes with it.

    gen_logits.py OUT

The weights of its linear layers lie on the grid of NVFP4 and MXFP4 (every block of 16 holds a
+-6 times 2^-6), so that quantizing loses nothing and an export must give the source's logits.
The GGUF is written by the gguf package with llama.cpp's formula for the rows of q and k, from a
model that transformers made: nothing of nibble is in it. Needs torch, transformers and gguf.
"""
import sys
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFWriter
from transformers import LlamaConfig, LlamaForCausalLM

from gen_hf_gguf import bpe, finish, sizes
from make_tiny_llama import gguf_name, permute

GRID = torch.tensor([0, .5, 1, 1.5, 2, 3, 4, 6])


def on_grid(shape):
    codes = torch.randint(0, 8, (shape[0], shape[1] // 16, 16))
    codes[..., torch.randint(0, 16, (1,)).item()] = 7
    sign = torch.randint(0, 2, codes.shape) * 2 - 1
    return (GRID[codes] * sign).reshape(shape) * 2.0**-6


def main(out):
    torch.manual_seed(11)
    model = LlamaForCausalLM(LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, vocab_size=261, max_position_embeddings=512,
        rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=False, bos_token_id=260, eos_token_id=260)).eval()
    for name, p in model.named_parameters():
        if "proj" in name:
            p.data = on_grid(p.shape) * (8 if "q_proj" in name or "k_proj" in name else 4)
        else:
            noise = torch.randn_like(p) * 0.2 + (1.0 if "norm" in name else 0.0)
            p.data = noise.to(torch.float16).float()

    out.mkdir(parents=True, exist_ok=True)
    w = GGUFWriter(out / "model.gguf", "llama")
    sizes(w, head_dim=16, hidden=64, ffn=128)
    bpe(w, "gpt-2", [("<|end|>", 3)])
    w.add_bos_token_id(260)
    w.add_eos_token_id(260)
    w.add_add_bos_token(False)
    for name, p in model.named_parameters():
        data = p.data.numpy()
        heads = 4 if "q_proj" in name else 2 if "k_proj" in name else 0
        data = permute(data, heads) if heads else data
        w.add_tensor(gguf_name(name), data.astype(np.float32 if data.ndim == 1 else np.float16))
    finish(w)

    ids = torch.randint(0, 261, (2, 24), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        logits = model(ids).logits
    np.savez_compressed(out / "logits.npz", ids=ids.numpy().astype(np.int32),
                        logits=logits.numpy().astype(np.float32))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
