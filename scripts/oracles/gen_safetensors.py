#!/usr/bin/env python3
"""Makes tests/golden/tiny.safetensors with the safetensors package (0.4 or newer) and PyTorch.

    python scripts/oracles/gen_safetensors.py

Byte j of a tensor's data is (j * 7 + length of its name) & 0xff; BOOL alternates 1, 0.
tests/safetensors_test.c knows the same rule, so that both sides state the content on their own.
"""
import pathlib

import torch
from safetensors.torch import save_file

SHAPES = {
    "f64": (torch.float64, (2,)),
    "f32.matrix": (torch.float32, (3, 5)),
    "f16": (torch.float16, (7,)),
    "bf16": (torch.bfloat16, (2, 3, 2)),
    "e4m3": (torch.float8_e4m3fn, (4, 2)),
    "e5m2": (torch.float8_e5m2, (3,)),
    "e8m0": (getattr(torch, "float8_e8m0fnu"), (5,)),
    "i64": (torch.int64, (1,)),
    "i32": (torch.int32, (3,)),
    "i16": (torch.int16, (3,)),
    "i8": (torch.int8, (3,)),
    "u8": (torch.uint8, (3, 1)),
    "u16": (torch.uint16, (2,)),
    "u32": (torch.uint32, (2,)),
    "u64": (torch.uint64, (2,)),
    "bool": (torch.bool, (3,)),
    "scalar": (torch.float32, ()),
    "empty": (torch.bfloat16, (0, 16)),
    "n\u00e4me \"quoted\\": (torch.uint8, (2,)),
}


def content(name, dtype, shape):
    count = 1
    for dim in shape:
        count *= dim
    size = count * torch.tensor([], dtype=dtype).element_size()
    if dtype == torch.bool:
        data = [1 - j % 2 for j in range(size)]
    else:
        data = [(j * 7 + len(name.encode())) & 0xFF for j in range(size)]
    if size == 0:
        return torch.empty(shape, dtype=dtype)
    return torch.tensor(data, dtype=torch.uint8).view(dtype).reshape(shape)


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    tensors = {name: content(name, *rest) for name, rest in SHAPES.items()}
    save_file(tensors, root / "tests/golden/tiny.safetensors",
              metadata={"format": "pt", "maker": "gen_safetensors.py"})


if __name__ == "__main__":
    main()
