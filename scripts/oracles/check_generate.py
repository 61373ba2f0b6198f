#!/usr/bin/env python3
"""Loads an exported compressed-tensors folder in transformers on the CPU and generates text.

    check_generate.py EXPORTED [PROMPT]       needs torch, transformers, compressed-tensors
"""
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(folder, prompt="What is gravity?"):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    if tokenizer.chat_template:
        prompt = tokenizer.apply_chat_template([{"role": "user", "content": prompt}],
                                               add_generation_prompt=True, tokenize=False)
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
    print(tokenizer.decode(model.generate(ids, max_new_tokens=40, do_sample=False)[0]))


if __name__ == "__main__":
    main(*sys.argv[1:])
