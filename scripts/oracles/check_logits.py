#!/usr/bin/env python3
"""Loads two checkpoints in transformers on the CPU and compares their logits.

    check_logits.py A B [--max RELATIVE]     each a folder or a .gguf file

Configuration, names and the order of q and k rows are right exactly when the logits agree: a
checkpoint whose rows lie wrong passes every bitwise round trip. Prints the largest difference
relative to the largest logit; exit status 1 if it is over --max (default 1e-5: float32 with the
same weights; give what quantization costs when B is quantized).
"""
import argparse
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM


def load(path):
    if path.suffix == ".gguf":
        where, extra = path.parent, {"gguf_file": path.name}
    else:
        where, extra = path, {}
    model, report = AutoModelForCausalLM.from_pretrained(
        str(where), dtype=torch.float32, output_loading_info=True, **extra)
    missing = [k for k in report["missing_keys"] if "lm_head" not in k]
    if missing or report["unexpected_keys"]:
        sys.exit(f"{path}: missing {missing}, unexpected {report['unexpected_keys']}")
    return model.eval()


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    parser.add_argument("--max", type=float, default=1e-5)
    args = parser.parse_args()
    a, b = load(args.a), load(args.b)
    rows = min(a.config.vocab_size, b.config.vocab_size)
    ids = torch.randint(0, rows, (4, 48), generator=torch.Generator().manual_seed(1))
    x, y = a(ids).logits, b(ids).logits
    if x.shape != y.shape:
        sys.exit(f"shapes {tuple(x.shape)} and {tuple(y.shape)}")
    difference = ((x - y).abs().max() / x.abs().max()).item()
    same = (x.argmax(-1) == y.argmax(-1)).float().mean().item()
    print(f"largest difference {difference:.3g} of the largest logit, "
          f"{100 * same:.1f} % of the most likely tokens equal")
    return not difference <= args.max


if __name__ == "__main__":
    sys.exit(main())
