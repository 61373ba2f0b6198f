#!/usr/bin/env python3
"""Writes the summary of a bundle of evidence: scripts/evidence_summary.py FOLDER BACKEND

The folder has what scripts/gpu_run.sh writes (summary.txt, machine.txt, NAME.json) and rows.txt,
the list of rows and bars: see profiles/standard_rows.txt.
"""
import json
import math
import os
import re
import sys

MARKS = {
    "cuda": "ran",
    "cpu": "**CPU alone: no CUDA kernel ran, and no bar is held against these rows**",
    "emulated": "**emulated: CUDA kernels on the CPU emulator; times and rates mean nothing**",
}
ELEMENT_BITS = {"nvfp4": 4, "mxfp4": 4, "mxfp6": 6, "mxfp8": 8}
DTYPE_BYTES = {"f32": 4, "f16": 2, "bf16": 2}
PASSES = {"quantize_amax": 2, "quantize_dynamic": 2}
OUTPUTS = {"quantize_both": 2}


def table(header, rows):
    lines = [header, ["---"] * len(header)] + rows
    return "\n".join("| " + " | ".join(str(c).replace("|", "\\|") for c in line) + " |"
                     for line in lines)


def show(value, digits=2):
    return "-" if value is None else f"{value:.{digits}f}"


def steps(folder):
    """Of gpu_run.sh's lines "COMMAND : exit N, N s: LAST LINE"."""
    found = []
    with open(os.path.join(folder, "summary.txt"), encoding="utf-8", errors="replace") as f:
        for line in f:
            match = re.match(r"(.*?) : exit (\d+), (\d+) s: ?(.*)", line.rstrip("\n"))
            if match:
                command, code, seconds, last = match.groups()
                result = {"0": "passed", "77": "skipped"}.get(code, f"**failed**, exit {code}")
                if "/qbench " in command:
                    command = "qbench" + command.split("/qbench", 1)[1].split(" --max-time")[0]
                    last = ""
                command = re.sub(r"^env (SANITIZERS= )?", "", command)
                found.append([f"`{command}`", result, last, seconds])
            elif line.strip():
                found.append(["", "skipped", line.strip(), ""])
    for what, pattern in (("tests", r"gpu_test.sh test|run_tests.sh check"),
                          ("sanitizers", r"gpu_test.sh sanitize|run_tests.sh sanitize")):
        if not any(re.search(pattern, line[0]) for line in found):
            found.append([what, "**not run**", "", ""])
    return found


def moved(row):
    """Bytes that the operation reads and writes; None if this script does not know them."""
    if row["op"].startswith("fake_quantize"):  # without a mask's eighth of a byte
        reads_source = row.get("gradient") == "clamp" and row.get("mask") == "none"
        return row["bytes"] * (3 if reads_source else 2)
    element = ELEMENT_BITS.get((row.get("format") or "").split("-")[0])
    if row["op"] not in ("quantize", "quantize_amax", "quantize_dynamic", "quantize_given",
                         "quantize_both", "quantize_rmsnorm", "quantize_hadamard",
                         "quantize_hadamard128", "dequantize") \
            or not element or row.get("dtype") not in DTYPE_BYTES or not row.get("block"):
        return None
    shape = row["shape"]
    elements = shape["rows"] * shape["cols"] * shape.get("batch", 1)
    packed = elements * element / 8 + elements / row["block"]
    packed *= OUTPUTS.get(row["op"], 1)
    return packed + elements * DTYPE_BYTES[row["dtype"]] * PASSES.get(row["op"], 1)


def against_copy(row):
    """(bytes a second as a share of a copy's, time as a multiple of the copy's)"""
    copy = next((b for b in row.get("baselines") or [] if b["name"] in ("copy", "memcpy")), None)
    if not copy or not row.get("median_us") or not copy["median_us"]:
        return None, None
    multiple = row["median_us"] / copy["median_us"]
    own = moved(row)
    return (own / (2 * row["bytes"]) / multiple if own else None), multiple


def against_library(rows):
    """(name, speedups) of the rows that were timed beside cublasLt or OpenBLAS."""
    speedups, name = [], None
    for row in rows:
        for baseline in row.get("baselines") or []:
            if baseline["name"] in ("cublaslt", "openblas") and row.get("median_us"):
                name = baseline["name"]
                speedups.append(baseline["median_us"] / row["median_us"])
    return name, speedups


def library_line(name, bar, rows, backend):
    """A line for all rows of one of rows.txt, or None. A bar is for all, none of them wrong."""
    library, speedups = against_library(rows)
    asked = bar.startswith("lib>=") and backend == "cuda"
    if not speedups:
        return [f"{name}: no row beside a library"] + [""] * 6 + [bar, "not measured", ""] \
            if asked else None
    mean = math.exp(sum(map(math.log, speedups)) / len(speedups))
    held = ("-", "-")
    if asked and (len(speedups) < len(rows) or any(r.get("verified") is False for r in rows)):
        held = (bar, "not measured on all")
    elif asked:
        held = (bar, ("met" if mean >= float(bar[5:]) else "**missed**")
                + (", noisy" if any(r.get("noisy") for r in rows) else ""))
    what = f"{name}: {len(speedups)} of {len(rows)}, {show(mean)} times as fast as {library}"
    return [what] + [""] * 6 + [*held, ""]


def verdict(row, bar, share, multiple):
    kind, _, limit = re.match(r"(copy|read|time|ms)(>=|<=)([\d.]+)$", bar).groups()
    us = row.get("median_us")
    value = {"copy": share, "read": row.get("sol"), "time": multiple,
             "ms": us / 1000 if us else None}[kind]
    if value is None:
        return bar, "not measured"
    met = value <= float(limit) if kind in ("time", "ms") else value >= float(limit)
    return bar, ("met" if met else "**missed**") + (", noisy" if row.get("noisy") else "")


def row_lines(folder, backend):
    lines, problems = [], 0
    with open(os.path.join(folder, "rows.txt"), encoding="utf-8") as f:
        wanted = [line.split() for line in f if line.strip() and not line.startswith("#")]
    for name, bar, *_ in wanted:
        path = os.path.join(folder, f"{name}.json")
        if not os.path.exists(path):
            lines.append([name, "not measured"] + [""] * 8)
            continue
        with open(path, encoding="utf-8") as f:
            rows = [json.loads(line) for line in f if line.strip()]
        for row in rows:
            shape = row["shape"]
            what = " ".join(filter(None, (
                row["op"], row.get("format"), row.get("dtype"), row.get("rules"),
                row.get("layout") if row.get("layout") != "linear" else None, row.get("real"),
                row.get("element"))))
            size = "x".join(str(shape[n]) for n in ("m", "n", "k", "batch", "rows", "cols")
                            if n in shape and (n, shape[n]) != ("batch", 1))
            if row.get("skipped"):
                lines.append([what, size, f"not run: {row['skipped']}"] + [""] * 7)
                continue
            share, multiple = against_copy(row)
            held = ("-", "-")
            if bar != "-" and not bar.startswith("lib") and backend == "cuda":
                held = verdict(row, bar, share, multiple)
            right = {True: "yes", False: "**wrong**", None: "-"}[row.get("verified")]
            problems += row.get("verified") is False
            rate = row.get("gbps")
            rate = show(rate, 0 if rate >= 100 else 2) if rate else \
                f"{show(row.get('tflops'), 1)} Tflop/s"
            lines.append([what, size, show(row.get("median_us")),
                          rate, show(share), show(row.get("sol")), show(multiple), *held, right])
        summary = library_line(name, bar, rows, backend)
        lines += [summary] if summary else []
    return lines, problems


def main():
    folder, backend = sys.argv[1:3]
    with open(os.path.join(folder, "machine.txt"), encoding="utf-8", errors="replace") as f:
        machine = f.read().rstrip()
    try:
        lines, problems = row_lines(folder, backend)
        done = steps(folder)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        print(f"evidence_summary: {folder}: cannot be read: {error!r}", file=sys.stderr)
        return 1
    print(f"# Evidence: {os.path.basename(os.path.normpath(folder)).removeprefix('evidence-')}\n")
    print(f"Mark: {MARKS[backend]}\n")
    print(table(["step", "result", "its last line", "s"], done))
    print("\nGB/s counts the bytes that qbench counts for the operation. Copy: a copy kernel of\n"
          "the matrix, timed in turn with the row. Bars are the project's for an H200.\n")
    print(table(["row", "shape", "median us", "GB/s", "bytes/s, share of copy", "share of limit",
                 "time, times copy", "bar", "", "verified"], lines))
    head = re.split(r"=+NVSMI LOG", machine)[0].rstrip()  # what nvidia-smi -q adds is long
    print("\nThe whole is in machine.txt.\n\n" + "\n".join("    " + x for x in
                                                          head.splitlines()[:40]))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
