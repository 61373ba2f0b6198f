#!/usr/bin/env python3
"""Computes in numpy, in f64, the loss that qat_demo reports for the model that it wrote.

    check_loss.py MODEL TEXT RESULT.json

The loss is the mean of -log p(next byte) over windows of the held-out blocks, as qat_text.c cuts
them. f32 against f64: they must agree to 2e-5 of a nat.
"""
import json
import sys
from pathlib import Path

import numpy as np

from dequantize_export import decode_folder
from llama_forward import folder_config, forward


def held_out(text):
    block = min(len(text) // 16, 16384)
    return b"".join(text[at:at + block] for at in range(15 * block, len(text), 16 * block))


def main(model, text, result):
    run = json.loads(result.read_text())
    context = json.loads((model / "config.json").read_text())["max_position_embeddings"]
    part = np.frombuffer(held_out(text.read_bytes()), np.uint8).astype(np.int64)
    windows = run["validation_bytes"] // context
    ids = np.stack([part[i * context:(i + 1) * context + 1] for i in range(windows)])
    logits = forward(decode_folder(model), folder_config(model), ids[:, :-1])
    logits -= logits.max(-1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    loss = -np.take_along_axis(log_p, ids[:, 1:, None], -1).mean()
    print(f"numpy {loss:.7f}, qat_demo {run['losses']['f32']:.7f}")
    return not abs(loss - run["losses"]["f32"]) <= 2e-5


if __name__ == "__main__":
    sys.exit(main(*(Path(a) for a in sys.argv[1:4])))
