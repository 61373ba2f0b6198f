#!/usr/bin/env python3
"""Writes the small GGUF files of tests/golden/hf_gguf/ (and fuzzing seeds of the same content)
with the gguf package: an author other than nibble.

    gen_hf_gguf.py [FOLDER]      default: tests/golden/hf_gguf

bpe.gguf   llama, byte-level BPE "smollm", tied, chat template
llama3.gguf llama, "llama-bpe", rope_freqs.weight, add_bos by default, end of turn
qwen2.gguf qwen2, biases, yarn, fillers, own embedding rows
spm.gguf   llama, SentencePiece with scores and byte pieces
"""
import math
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, TokenType

NORMAL, UNKNOWN, CONTROL = TokenType.NORMAL, TokenType.UNKNOWN, TokenType.CONTROL
USER, UNUSED, BYTE = TokenType.USER_DEFINED, TokenType.UNUSED, TokenType.BYTE


def byte_tokens():
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in keep]
    return [chr(b) if b in keep else chr(256 + rest.index(b)) for b in range(256)]


def sizes(w, heads=4, kv=2, head_dim=8, hidden=32, ffn=64):
    w.add_block_count(2)
    w.add_context_length(512)
    w.add_embedding_length(hidden)
    w.add_feed_forward_length(ffn)
    w.add_head_count(heads)
    w.add_head_count_kv(kv)
    w.add_rope_dimension_count(head_dim)
    w.add_rope_freq_base(100000.0)
    w.add_layer_norm_rms_eps(1e-5)


def bpe(w, pre, extra=()):
    """256 bytes, four merged tokens, then extra (text, type)."""
    merges = ["h e", "l l", "he ll", "\u0120 hell"]
    tokens = byte_tokens() + [m.replace(" ", "") for m in merges]
    types = [NORMAL] * len(tokens) + [t for _, t in extra]
    tokens += [t for t, _ in extra]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(pre)
    w.add_token_list(tokens)
    w.add_token_types(types)
    w.add_token_merges(merges)
    w.add_vocab_size(len(tokens))
    return tokens


def embedding(w, rows):
    w.add_tensor("token_embd.weight", np.zeros((rows, 32), np.float16))


def finish(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)

    w = GGUFWriter(folder / "bpe.gguf", "llama")
    sizes(w)
    bpe(w, "smollm", [("<|end|>", CONTROL), ("<think>", USER)])
    w.add_bos_token_id(260)
    w.add_eos_token_id(260)
    w.add_add_bos_token(False)
    w.add_add_space_prefix(False)
    w.add_chat_template("{% for m in messages %}{{ m['content'] }}\n\"\u00e9\"{% endfor %}")
    finish(w)

    w = GGUFWriter(folder / "llama3.gguf", "llama")
    sizes(w)
    bpe(w, "llama-bpe", [("<|begin|>", CONTROL), ("<|end|>", CONTROL), ("<|eot|>", CONTROL)])
    w.add_bos_token_id(260)
    w.add_eos_token_id(261)
    w.add_eot_token_id(262)
    wave = [2 * math.pi * 100000.0 ** (2 * i / 8) for i in range(4)]
    smooth = [(8192 / v - 1) / 3 for v in wave]
    divisors = [1 if s >= 1 else 32 if s <= 0 else 1 / ((1 - s) / 32 + s) for s in smooth]
    w.add_tensor("rope_freqs.weight", np.array(divisors, np.float32))
    w.add_tensor("output.weight", np.zeros((263, 32), np.float16))
    finish(w)

    w = GGUFWriter(folder / "qwen2.gguf", "qwen2")
    sizes(w)
    bpe(w, "qwen2", [("<|endoftext|>", CONTROL), ("[PAD261]", UNUSED), ("[PAD262]", UNUSED)])
    w.add_eos_token_id(260)
    w.add_pad_token_id(260)
    w.add_string("qwen2.rope.scaling.type", "yarn")
    w.add_float32("qwen2.rope.scaling.factor", 4.0)
    w.add_uint32("qwen2.rope.scaling.original_context_length", 128)
    embedding(w, 263)
    for name, rows in (("q", 32), ("k", 16), ("v", 16)):
        w.add_tensor(f"blk.0.attn_{name}.weight", np.zeros((rows, 32), np.float16))
        w.add_tensor(f"blk.0.attn_{name}.bias", np.zeros(rows, np.float32))
    finish(w)

    w = GGUFWriter(folder / "spm.gguf", "llama")
    sizes(w)
    pieces = [("<unk>", 0, UNKNOWN), ("<s>", 0, CONTROL), ("</s>", 0, CONTROL)]
    pieces += [(f"<0x{b:02X}>", 0, BYTE) for b in range(256)]
    words = ["\u2581h", "el", "lo", "\u2581hel", "\u2581hello", "\u2581", "h", "e", "l", "o"]
    pieces += [(t, -i, NORMAL) for i, t in enumerate(words)]
    w.add_tokenizer_model("llama")
    w.add_tokenizer_pre("default")
    w.add_token_list([p[0] for p in pieces])
    w.add_token_scores([float(p[1]) for p in pieces])
    w.add_token_types([p[2] for p in pieces])
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    finish(w)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "tests/golden/hf_gguf"))
