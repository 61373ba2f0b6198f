#!/usr/bin/env python3
"""Makes tiny random models for check_logits.py: a Hugging Face folder by transformers, and the
same model as GGUF by the gguf package, with llama.cpp's formula for the order of q and k rows.

    make_tiny_llama.py OUT [llama|qwen2|qwen3]     writes OUT/hf/ and OUT/model.gguf

Large weights on purpose: attention must depend on the positions for a wrong order to show.
"""
import sys
from pathlib import Path

import torch
from gguf import GGUFWriter
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config,
                          Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM)

from gen_hf_gguf import bpe, byte_tokens, finish, sizes

KINDS = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM),
         "qwen3": (Qwen3Config, Qwen3ForCausalLM)}
NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
         "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q",
         "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
         "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def permute(weights, heads):
    """convert_hf_to_gguf.py, LlamaModel.permute"""
    return (weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
            .swapaxes(1, 2).reshape(weights.shape))


def gguf_name(name):
    stem, kind = name.rsplit(".", 1)
    if stem.startswith("model.layers."):
        _, _, layer, rest = stem.split(".", 3)
        return f"blk.{layer}.{NAMES[rest]}.{kind}"
    return f"{NAMES[stem]}.{kind}"


def main(out, kind="llama"):
    torch.manual_seed(3)
    config_class, model_class = KINDS[kind]
    head_dim = 32 if kind == "qwen3" else 16
    config = config_class(hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                          num_attention_heads=4, num_key_value_heads=2, head_dim=head_dim,
                          vocab_size=261, max_position_embeddings=512, rms_norm_eps=1e-5,
                          rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
                          tie_word_embeddings=False, bos_token_id=260, eos_token_id=260)
    model = model_class(config)
    for name, p in model.named_parameters():
        p.data = torch.randn_like(p) * 0.2 + (1.0 if "norm" in name else 0.0)
        p.data = p.data.to(torch.bfloat16).float()  # exact in every 16-bit type that may follow
    model.save_pretrained(str(out / "hf"))

    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("\u0120", "hell")]
    vocab = {t: i for i, t in enumerate(byte_tokens() + ["".join(m) for m in merges])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|end|>",
                            eos_token="<|end|>").save_pretrained(str(out / "hf"))

    w = GGUFWriter(out / "model.gguf", kind)
    sizes(w, head_dim=head_dim, hidden=64, ffn=128)
    if kind == "qwen3":
        w.add_key_length(head_dim)
        w.add_value_length(head_dim)
    bpe(w, "gpt-2", [("<|end|>", 3)])
    w.add_bos_token_id(260)
    w.add_eos_token_id(260)
    w.add_add_bos_token(False)
    for name, p in model.named_parameters():
        data = p.data.numpy()
        if kind == "llama" and "q_proj" in name:
            data = permute(data, 4)
        if kind == "llama" and "k_proj" in name:
            data = permute(data, 2)
        w.add_tensor(gguf_name(name), data.copy())
    finish(w)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
