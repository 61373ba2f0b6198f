#!/usr/bin/env python3
"""Makes a small Llama-shaped model with random weights, as a Hugging Face folder.

    make_sample_model.py FOLDER [LAYERS HIDDEN INTERMEDIATE]

For quickstart where no real model can be had, and for tests: the shapes and files are those of a
language model (bf16, byte-level tokenizer), the weights are noise. Standard library only.
"""
import json
import random
import struct
import sys
from pathlib import Path

import byte_tokenizer

HEADS, KV_HEADS, VOCAB = 8, 2, byte_tokenizer.VOCAB
LAYERS, HIDDEN, INTERMEDIATE = [int(a) for a in sys.argv[2:5]] or (8, 512, 1536)


def tensors():
    yield "model.embed_tokens.weight", (VOCAB, HIDDEN)
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        head = HIDDEN // HEADS
        yield p + "input_layernorm.weight", (HIDDEN,)
        yield p + "self_attn.q_proj.weight", (HIDDEN, HIDDEN)
        yield p + "self_attn.k_proj.weight", (KV_HEADS * head, HIDDEN)
        yield p + "self_attn.v_proj.weight", (KV_HEADS * head, HIDDEN)
        yield p + "self_attn.o_proj.weight", (HIDDEN, HIDDEN)
        yield p + "post_attention_layernorm.weight", (HIDDEN,)
        yield p + "mlp.gate_proj.weight", (INTERMEDIATE, HIDDEN)
        yield p + "mlp.up_proj.weight", (INTERMEDIATE, HIDDEN)
        yield p + "mlp.down_proj.weight", (HIDDEN, INTERMEDIATE)
    yield "model.norm.weight", (HIDDEN,)


def bf16_noise(rng, count, table=[]):
    """count numbers drawn from a fixed table of normal deviates: fast, and enough for a demo."""
    if not table:
        values = (rng.gauss(0, 0.02) for _ in range(1 << 16))
        table.extend(struct.pack("<f", v)[2:] for v in values)
    return b"".join(rng.choices(table, k=count))


CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
          "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS,
          "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
          "head_dim": HIDDEN // HEADS, "vocab_size": VOCAB, "max_position_embeddings": 2048,
          "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "hidden_act": "silu",
          "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": True,
          "bos_token_id": byte_tokenizer.BEGIN_ID, "eos_token_id": byte_tokenizer.END_ID,
          "torch_dtype": "bfloat16"}


def main(folder):
    rng = random.Random(20260101)
    folder.mkdir(parents=True, exist_ok=True)
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": list(shape),
                        "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensors():
            count = shape[0] * (shape[1] if len(shape) > 1 else 1)
            out.write(b"\x80\x3f" * count if "norm" in name else bf16_noise(rng, count))
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    byte_tokenizer.write(folder, CONFIG["max_position_embeddings"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
