#!/usr/bin/env python3
"""Turns exports of Nsight Compute and Nsight Systems into Markdown tables.

    ncu --import X.ncu-rep --csv --page raw     > raw.csv        (or --page details)
    nsys stats -r cuda_gpu_kern_sum --format csv X.nsys-rep > kernels.csv
    profiles/summarize.py raw.csv kernels.csv ...

Of nsys it knows cuda_gpu_kern_sum, cuda_api_sum, nvtx_pushpop_sum and nvtx_gpu_proj_sum. What an
export lacks is a dash. Exit status 1: a file is none of these, and a sentence says what is wrong.
"""
import csv
import re
import sys

SCALE = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
TIME = {"n": 1, "u": 1e3, "m": 1e6, "": 1e9}

# field: (kind, the metric's id on the page raw, its name on the page details)
FIELDS = {
    "time": ("time", "gpu__time_duration.sum", "Duration"),
    "sm_clock": ("hz", "sm__cycles_elapsed.avg.per_second", "SM Frequency"),
    "memory_clock": ("hz", "dram__cycles_elapsed.avg.per_second", "DRAM Frequency"),
    "read": ("bytes", "dram__bytes_read.sum", None),
    "written": ("bytes", "dram__bytes_write.sum", None),
    "rate": ("byterate", "dram__bytes.sum.per_second", "Memory Throughput"),
    "dram": ("%", "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed", "DRAM Throughput"),
    "l2_hit": ("%", "lts__t_sector_hit_rate.pct", "L2 Hit Rate"),
    "loads": ("", "l1tex__average_t_sectors_per_request_pipe_lsu_mem_global_op_ld.ratio", None),
    "stores": ("", "l1tex__average_t_sectors_per_request_pipe_lsu_mem_global_op_st.ratio", None),
    "issue": ("%", "smsp__issue_active.avg.pct_of_peak_sustained_active", "Issue Slots Busy"),
    "achieved": ("%", "sm__warps_active.avg.pct_of_peak_sustained_active", "Achieved Occupancy"),
    "possible": ("%", "sm__maximum_warps_per_active_cycle_pct", "Theoretical Occupancy"),
    "registers": ("", "launch__registers_per_thread", "Registers Per Thread"),
    "local_ld": ("", "smsp__inst_executed_op_local_ld.sum", None),
    "local_st": ("", "smsp__inst_executed_op_local_st.sum", None),
}
PIPE = re.compile(r"sm__inst_executed_pipe_(\w+)\.avg\.pct_of_peak_sustained_active")
STALL = re.compile(r"smsp__average_warps_issue_stalled_(\w+?)_per_issue_active\.ratio")


class Bad(Exception):
    """A sentence about the input."""


def number(text):
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None  # "n/a", "(!) nan" and the like


def in_base_unit(kind, unit, value, where):
    """ns, bytes, hertz, bytes per second."""
    lower = unit.lower()
    patterns = {
        "time": (r"([num]?)s(?:econd)?", TIME),
        "bytes": (r"([kmgt]?)(?:byte|b)", SCALE),
        "byterate": (r"([kmgt]?)(?:byte|b)/s(?:econd)?", SCALE),
        "hz": (r"([kmgt]?)hz", SCALE),
    }
    if kind not in patterns:
        return value
    cycles = re.fullmatch(r"cycle/([num]?)s(?:econd)?", lower)
    if kind == "hz" and cycles:
        return value * 1e9 / TIME[cycles.group(1)]
    pattern, scale = patterns[kind]
    match = re.fullmatch(pattern, lower)
    if match:
        return value * scale[match.group(1)]
    raise Bad(f"{where}: '{unit}' is no unit of {kind}")


def table(header, rows):
    """The first column is text, the others are numbers."""
    def cells(row):
        return "| " + " | ".join(str(c).replace("|", "\\|") for c in row) + " |"
    rule = "|---|" + "---:|" * (len(header) - 1)
    return "\n".join([cells(header), rule] + [cells(r) for r in rows])


def show(value, digits=1):
    return "-" if value is None else f"{value:.{digits}f}"


def short(name):
    """A kernel without its parameters, and no longer than a table can bear."""
    name = re.sub(r"^void ", "", name)
    depth = 0
    for i, c in enumerate(name):
        if c == "(" and depth == 0 and not name.startswith("(anonymous", i):
            name = name[:i]
            break
        depth += (c == "<") - (c == ">")
    name = name.replace("(anonymous namespace)::", "")
    return f"`{name[:57]}...`" if len(name) > 60 else f"`{name}`"


# ---- Nsight Compute --------------------------------------------------------------------------

def put(kernel, metric, unit, text, where):
    """One value into the record of a launch."""
    value = number(text)
    if value is None:
        return
    for field, (kind, raw, label) in FIELDS.items():
        if metric == raw or metric == label:
            if kind == "byterate" and unit == "%":
                return  # the page details has two of this name
            kernel[field] = in_base_unit(kind, unit, value, where)
            return
    for pattern, field in ((PIPE, "pipes"), (STALL, "stalls")):
        match = pattern.fullmatch(metric)
        if match:
            kernel[field][match.group(1)] = value


def new_kernel(name):
    return {"name": name, "pipes": {}, "stalls": {}}


def read_raw(path, header, rows):
    """A launch a row; the row after the header has the units."""
    if not rows or rows[0][1][0] != "":
        raise Bad(f"{path}: no row of units after the header, as --page raw has it")
    units, kernels = rows[0][1], []
    at = header.index("Kernel Name")
    for line, row in rows[1:]:
        kernel = new_kernel(row[at])
        for metric, unit, text in zip(header, units, row):
            put(kernel, metric, unit, text, f"{path}:{line}: {metric}")
        kernels.append(kernel)
    return kernels


def read_details(path, header, rows):
    """A metric a row."""
    kernels = {}
    column = {name: header.index(name) for name in
              ("ID", "Kernel Name", "Metric Name", "Metric Unit", "Metric Value")}
    for line, row in rows:
        cell = {name: row[i] for name, i in column.items()}
        kernel = kernels.setdefault(cell["ID"], new_kernel(cell["Kernel Name"]))
        metric = cell["Metric Name"]
        put(kernel, metric, cell["Metric Unit"], cell["Metric Value"], f"{path}:{line}: {metric}")
    return list(kernels.values())


def top(values, count, unit=""):
    """The largest of them; "selected" is a warp that issues."""
    ranked = sorted(((v, k) for k, v in values.items() if k != "selected"), reverse=True)
    return ", ".join(f"{k} {v:.1f}{unit}" for v, k in ranked[:count] if v > 0) or "-"


def kernel_tables(path, kernels):
    if not kernels:
        raise Bad(f"{path}: no kernel was profiled")
    if not any("time" in k for k in kernels):
        raise Bad(f"{path}: no kernel has gpu__time_duration.sum or Duration, so there is no rate")
    memory, execution, sums = [], [], {"time": 0, "read": 0, "written": 0}
    for k in kernels:
        moved = k["read"] + k["written"] if "read" in k and "written" in k else None
        rate = moved / k["time"] if moved is not None and k.get("time") else None
        if rate is None and "rate" in k:
            rate = k["rate"] / 1e9
        for field in sums:
            sums[field] = None if sums[field] is None or field not in k else sums[field] + k[field]
        memory.append([short(k["name"]), show(in_us(k.get("time")), 2), show(in_mb(k.get("read"))),
                       show(in_mb(k.get("written"))), show(rate), show(k.get("dram")),
                       show(k.get("l2_hit")), show(k.get("loads")), show(k.get("stores"))])
        local = [k.get("local_ld"), k.get("local_st")]
        execution.append([short(k["name"]), show(k.get("issue")), show(k.get("achieved")),
                          show(k.get("possible")), show(k.get("registers"), 0),
                          show(None if None in local else sum(local), 0),
                          top(k["pipes"], 3, " %"), top(k["stalls"], 3),
                          show(in_ghz(k.get("sm_clock")), 2),
                          show(in_ghz(k.get("memory_clock")), 2)])
    if len(kernels) > 1:
        all_known = None not in sums.values() and sums["time"] > 0
        rate = (sums["read"] + sums["written"]) / sums["time"] if all_known else None
        memory.append([f"all {len(kernels)}", show(in_us(sums["time"]), 2),
                       show(in_mb(sums["read"])), show(in_mb(sums["written"])), show(rate),
                       "-", "-", "-", "-"])
    return "\n\n".join([
        table(["kernel", "time us", "read MB", "written MB", "GB/s", "DRAM % of peak", "L2 hit %",
               "sectors per load", "per store"], memory),
        table(["kernel", "issue slots %", "occupancy %", "possible %", "registers",
               "local accesses", "pipes", "stalls, warps per issue", "SM GHz", "memory GHz"],
              execution)])


def in_us(value):
    return None if value is None else value / 1e3


def in_mb(value):
    return None if value is None else value / 1e6


def in_ghz(value):
    return None if value is None else value / 1e9


# ---- Nsight Systems --------------------------------------------------------------------------

def nsys_table(path, header, rows):
    name = next(n for n in ("Range", "Name") if n in header)
    projected = "Total Proj Time (ns)" in header
    if projected:
        wanted = [("instances", "Range Instances", 1), ("GPU us", "Total Proj Time (ns)", 1e3),
                  ("median us", "Proj Med (ns)", 1e3), ("CPU us", "Total Range Time (ns)", 1e3),
                  ("GPU operations", "Total GPU Ops", 1)]
    else:
        count = "Num Calls" if "Num Calls" in header else "Instances"
        wanted = [("instances", count, 1), ("total us", "Total Time (ns)", 1e3),
                  ("average us", "Avg (ns)", 1e3), ("median us", "Med (ns)", 1e3),
                  ("min us", "Min (ns)", 1e3), ("max us", "Max (ns)", 1e3),
                  ("share %", "Time (%)", 1)]
    total = wanted[1][1]
    result = []
    for line, row in rows:
        cell = dict(zip(header, row))
        if number(cell[total]) is None:
            raise Bad(f"{path}:{line}: '{cell[total]}' is no number for {total}")
        values = [number(cell.get(column, "")) for _, column, _ in wanted]
        text = cell[name].lstrip(":")
        result.append([short(text) if "Num Calls" not in header and name == "Name" else f"`{text}`"]
                      + [show(v if v is None else v / per, 0 if per == 1 and label != "share %"
                              else 2) for v, (label, _, per) in zip(values, wanted)])
    title = ("NVTX range, time on the GPU" if projected else "NVTX range, time on the CPU"
             if name == "Range" else "CUDA call" if "Num Calls" in header else "kernel")
    return table([title] + [label for label, _, _ in wanted], result or [["none"] +
                                                                          ["-"] * len(wanted)])


# ---- files -----------------------------------------------------------------------------------

def reader_of(header):
    have = set(header)
    if {"ID", "Kernel Name", "Metric Name", "Metric Unit", "Metric Value"} <= have:
        return lambda *a: kernel_tables(a[0], read_details(*a))
    if {"ID", "Kernel Name"} <= have:
        return lambda *a: kernel_tables(a[0], read_raw(*a))
    if "Range" in have and have & {"Total Time (ns)", "Total Proj Time (ns)"}:
        return nsys_table
    if {"Name", "Total Time (ns)"} <= have and have & {"Num Calls", "Instances"}:
        return nsys_table
    return None


def summarize(path):
    """Both tools write lines of their own before the table."""
    try:
        with open(path, newline="", encoding="utf-8") as f:
            reader = csv.reader(f, strict=True)
            lines = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise Bad(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise Bad(f"{path}: is no CSV: {error}") from None
    for i, (_, header) in enumerate(lines):
        read = reader_of(header)
        if read:
            break
    else:
        said = next((",".join(row) for _, row in lines if row), "nothing")
        raise Bad(f"{path}: is neither ncu's --page raw or details nor a summary of nsys stats "
                  f"that is known; it begins: {said[:120]}")
    rows = [(line, row) for line, row in lines[i + 1:]
            if row and not row[0].startswith(("==", "#"))]
    for line, row in rows:
        if len(row) != len(header):
            raise Bad(f"{path}:{line}: {len(row)} columns, but the header has {len(header)}")
    return read(path, header, rows)


def main(paths):
    if not paths or paths[0].startswith("-"):
        print(__doc__.strip())
        return 0 if paths[:1] in (["-h"], ["--help"]) else 2
    try:
        print("\n\n".join(summarize(path) for path in paths))
    except Bad as sentence:
        print(f"summarize: {sentence}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
