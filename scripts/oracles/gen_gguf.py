#!/usr/bin/env python3
"""Makes tests/golden/tiny.gguf and odd_alignment.gguf with the gguf package (0.19.0), and the
fuzzer's first inputs, tests/fuzz/corpus/gguf, by hand.

    pip install numpy gguf==0.19.0
    python3 scripts/oracles/gen_gguf.py

Byte i of every quantized tensor is (7 i + 3) mod 256. tests/gguf_test.c states the rest.
"""
import os
import struct
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T, GGUFValueType as V, GGUFWriter

SCALARS = [("u8", V.UINT8, 200), ("i8", V.INT8, -100), ("u16", V.UINT16, 60000),
           ("i16", V.INT16, -30000), ("u32", V.UINT32, 4000000000), ("i32", V.INT32, -2000000000),
           ("f32", V.FLOAT32, 0.5), ("bool", V.BOOL, True), ("u64", V.UINT64, 2**64 - 1),
           ("i64", V.INT64, -2**63), ("f64", V.FLOAT64, 1e300), ("string", V.STRING, "h\u00e9llo")]


def raw(kind, rows, blocks):
    size = GGML_QUANT_SIZES[kind][1]
    n = rows * blocks * size
    return ((np.arange(n) * 7 + 3) % 256).astype(np.uint8).reshape(rows, blocks * size)


def write(path, alignment):
    out = GGUFWriter(path, "test")
    if alignment:
        out.add_custom_alignment(alignment)
    for name, kind, value in SCALARS:
        out.add_key_value("scalar." + name, value, kind)
    out.add_array("array.i32", [1, -2, 3])
    out.add_array("array.f32", [0.25, -4.0])
    out.add_array("array.bool", [True, False, True])
    out.add_array("array.string", ["", "a", "\u4e16\u754c"])
    out.add_tensor("plain.f32", np.arange(6, dtype=np.float32).reshape(2, 3))
    out.add_tensor("plain.f16", np.arange(5, dtype=np.float16))
    out.add_tensor("four.dims", np.arange(24, dtype=np.int32).reshape(1, 2, 3, 4))
    for kind in (T.Q4_1, T.Q8_0, T.Q6_K, T.MXFP4, T.NVFP4):
        out.add_tensor("raw." + kind.name, raw(kind, 3, 2), raw_dtype=kind)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def text(s):
    return struct.pack("<Q", len(s)) + s


def info(name, kind, dims, offset):
    return (text(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
            + struct.pack("<IQ", kind, offset))


def file(pairs, infos, data, version=3):
    head = b"GGUF" + struct.pack("<IQQ", version, len(infos), len(pairs))
    head += b"".join(pairs) + b"".join(infos)
    return head + bytes(-len(head) % 32) + bytes(data)


def seeds():
    number = text(b"n") + struct.pack("<II", 4, 7)
    words = text(b"w") + struct.pack("<IIQ", 9, 8, 2) + text(b"ab") + text(b"")
    floats = text(b"f") + struct.pack("<IIQ2f", 9, 6, 2, 1, 2)
    aligned = text(b"general.alignment") + struct.pack("<II", 4, 64)
    f32, fp4 = info(b"a", 0, [4, 2], 0), info(b"b", 40, [64], 64)
    return {
        "empty": file([], [], b""),
        "version2": file([number], [], b"", 2),
        "pairs": file([number, words, floats], [], b""),
        "twice": file([number, number], [], b""),
        "tensors": file([], [f32, fp4], bytes(100)),
        "aligned": file([aligned], [f32, fp4], bytes(132)),
        "overlap": file([], [f32, info(b"c", 0, [2], 0)], bytes(64)),
        "scalar": file([], [info(b"s", 0, [], 0)], bytes(4)),
        "zero_size": file([], [info(b"z", 1, [0, 3], 0)], b""),
        "four_dims": file([words], [info(b"d", 2, [32, 1, 2, 1], 0)], bytes(36)),
    }


if __name__ == "__main__":
    folder = sys.argv[1] if len(sys.argv) > 1 else "tests"
    write(folder + "/golden/tiny.gguf", 0)
    write(folder + "/golden/odd_alignment.gguf", 256)
    os.makedirs(folder + "/fuzz/corpus/gguf", exist_ok=True)
    for name, data in seeds().items():
        with open(folder + "/fuzz/corpus/gguf/" + name, "wb") as out:
            out.write(data)
