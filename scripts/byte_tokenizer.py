#!/usr/bin/env python3
"""Writes the tokenizer of a model whose tokens are the 256 bytes and two marks: token b is byte b.

    byte_tokenizer.py FOLDER

adds tokenizer.json, tokenizer_config.json and generation_config.json. Standard library only.
"""
import json
import sys
from pathlib import Path

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
BEGIN_ID, END_ID, VOCAB = 256, 257, 258


def byte_tokens():
    """The 256 printable stand-ins for bytes that byte-level BPE uses (GPT-2)."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in keep]
    return [chr(b) if b in keep else chr(256 + rest.index(b)) for b in range(256)]


def tokenizer():
    vocab = {t: i for i, t in enumerate(byte_tokens())}
    added = [{"id": 256 + i, "content": t, "single_word": False, "lstrip": False,
              "rstrip": False, "normalized": False, "special": True}
             for i, t in enumerate([BEGIN, END])]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
             "use_regex": True}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
            "normalizer": None, "pre_tokenizer": level, "post_processor": None,
            "decoder": level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None,
                      "continuing_subword_prefix": None, "end_of_word_suffix": None,
                      "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": vocab | {a["content"]: a["id"] for a in added}, "merges": []}}


def write(folder, max_length):
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()) + "\n")
    special = {"bos_token": BEGIN, "eos_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(
        special | {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_length},
        indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(
        {"bos_token_id": BEGIN_ID, "eos_token_id": END_ID}, indent=2) + "\n")


if __name__ == "__main__":
    place = Path(sys.argv[1])
    write(place, json.loads((place / "config.json").read_text())["max_position_embeddings"])
