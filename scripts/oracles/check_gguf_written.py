#!/usr/bin/env python3
"""Reads a GGUF file that nibble wrote with the gguf package (0.19.0), by hand, not in the suite.

    pip install numpy gguf==0.19.0
    python3 scripts/oracles/check_gguf_written.py FILE [SOURCE]

Prints the metadata and tensors; decodes every tensor and refuses NaN and Inf. With SOURCE,
another GGUF file: every pair of it must be in FILE with the same value (but for
general.file_type and general.quantization_version), and every tensor of it with the same shape;
the relative error of each decoded tensor is printed, "<name>.scale" applied. Exit status 1 if
anything is wrong.
"""
import sys

import numpy as np
from gguf import GGUFReader, quants

MAY_DIFFER = {"general.file_type", "general.quantization_version", "GGUF.version",
              "GGUF.tensor_count", "GGUF.kv_count"}


def decode(tensors, name):
    t = tensors[name]
    plain = t.data.dtype in (np.float32, np.float16)
    x = t.data.astype(np.float32) if plain else quants.dequantize(t.data, t.tensor_type)
    scale = tensors.get(name.removesuffix(".weight") + ".scale")
    return x * scale.data.astype(np.float32).ravel()[0] if scale is not None else x


def main(path, source=None):
    faults = []
    file = GGUFReader(path)
    tensors = {t.name: t for t in file.tensors}
    for name, field in file.fields.items():
        print(f"{name}: {str(field.contents())[:60] if field.data else '(none)'}")
    for name, t in tensors.items():
        print(f"{name}: {t.tensor_type.name} {list(reversed(t.shape.tolist()))} at {t.data_offset}")
        if t.data_offset % file.alignment:
            faults.append(f"{name}: offset {t.data_offset}")
        if not np.isfinite(decode(tensors, name).astype(np.float32)).all():
            faults.append(f"{name}: NaN or Inf")
    if source:
        other = GGUFReader(source)
        theirs = {t.name: t for t in other.tensors}
        for name, field in other.fields.items():
            mine = file.fields.get(name)
            if name not in MAY_DIFFER and (mine is None or mine.contents() != field.contents()):
                faults.append(f"{name}: differs")
        for name, t in theirs.items():
            if name not in tensors or tensors[name].shape.tolist() != t.shape.tolist():
                faults.append(f"{name}: absent or of another shape")
                continue
            x, y = decode(theirs, name).ravel(), decode(tensors, name).ravel()
            norm = np.linalg.norm(x) or 1
            print(f"{name}: relative error {np.linalg.norm(x - y) / norm:.3g}")
    print("\n".join(faults) or "nothing wrong")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
