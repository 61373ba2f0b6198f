"""Rows of `qbench gemm --json` over kernels, layers and M to a line of gemm_tune.h's table.

A kernel's time at an M is the sum over the layers' shapes; it is out where one has no row. The line
says up to which M each is taken, so that all Ms together lose least against the fastest kernel of
each.
"""
import collections
import json
import sys

KERNELS = ["small8", "small16", "tile32", "tile64", "wgmma128", "exact"]


def layer_of(row):
    return row["shape"]["n"], row["shape"]["k"]


def times_of(rows):
    """{m: {kernel: microseconds of all layers}}, of kernels that did every layer."""
    layers = {layer_of(row) for row in rows}
    found = collections.defaultdict(lambda: collections.defaultdict(dict))
    for row in rows:
        if row.get("median_us"):
            found[row["shape"]["m"]][row["kernel"].split()[-1]][layer_of(row)] = row["median_us"]
    return {
        m: {k: sum(by.values()) for k, by in kernels.items() if set(by) == layers}
        for m, kernels in found.items()
    }


def table_of(times):
    """{kernel: the last M for which it is taken}: boundaries that cost least over all M."""
    ms = sorted(times)
    least = {(0, 0): (0.0, {})}  # (kernels used, Ms done): cost, boundaries
    for i, kernel in enumerate(KERNELS):
        after = {}
        for (_, done), (cost, last) in least.items():
            for end in range(done, len(ms) + 1):
                part = [times[m].get(kernel) for m in ms[done:end]]
                if any(t is None for t in part):
                    break
                # Relative to the fastest, so that large M do not outweigh small ones.
                extra = sum(t / min(times[m].values()) - 1 for t, m in zip(part, ms[done:end]))
                bound = ms[end - 1] if end else 0
                candidate = (cost + extra, {**last, kernel: bound})
                if candidate[0] < after.get((i + 1, end), (float("inf"),))[0]:
                    after[(i + 1, end)] = candidate
        least = after
    done = [value for (_, end), value in least.items() if end == len(ms)]
    return min(done, key=lambda value: value[0])[1] if done else None


def main(path):
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if line.strip()]
    times = times_of(rows)
    if not times:
        sys.exit(f"tune: {path} has no row that was timed")
    print("|    M | " + " | ".join(f"{k:>8}" for k in KERNELS) + " |")
    print("|-----:|" + "---------:|" * len(KERNELS))
    for m in sorted(times):
        cells = (f"{times[m][k]:8.1f}" if k in times[m] else "       -" for k in KERNELS)
        print(f"| {m:4} | " + " | ".join(cells) + " |")
    table = table_of(times)
    if table is None:
        sys.exit("tune: no kernel did all layers at every M")
    print("\n    { sm, " + ", ".join(str(table[k]) for k in KERNELS[:-1]) + " }, /* "
          + f"{rows[0]['device']}, commit {rows[0]['commit']} */")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
