"""Plots rows of `qbench --json`: time and share of the limit over rows (M), and a roofline.

    qbench quantize --rows 1:4096:x4 --format nvfp4,mxfp4 --json rows.json
    $(scripts/python_env.sh scripts/plots.txt) scripts/plot_bench.py rows.json -o plots/quantize

writes plots/quantize-time.png, .svg and plots/quantize-roofline.png, .svg. A line is what differs
in nothing but the number of rows; points of rows that qbench calls noisy are hollow. The roofline
holds a row's bytes against the bandwidth of its own limit, measured in the same run.
"""
import argparse
import json
import os
import sys

VARIED = ("op", "backend", "kernel", "format", "dtype", "rules", "scale_choice", "rounding",
          "gradient", "mask", "layout", "threads", "cache", "launch", "n", "k")
NUMBERS = ("cols", "batch", "threads", "n", "k")


def read_rows(paths):
    rows = []
    for path in paths:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    sys.exit(f"plot_bench: line {number} of '{path}' is not a row of qbench --json")
                if row.get("median_us") and row.get("shape"):
                    shape = row["shape"]
                    if "m" in shape:  # a product: rows are M, and what it counts is M * N * K
                        row |= {"n": shape["n"], "k": shape["k"]}
                        row["shape"] = {"rows": shape["m"], "cols": None}
                    rows.append(row)
    if not rows:
        sys.exit(f"plot_bench: no timed rows with a shape in {', '.join(paths)}")
    return rows


def elements_of(row):
    shape = row["shape"]
    inner = row["n"] * row["k"] if "n" in row else shape["cols"] * shape.get("batch", 1)
    return shape["rows"] * inner


def series_of(rows):
    """Groups that differ in nothing but the number of rows, named by what is not common to all."""
    keys = {}
    for row in rows:
        key = {name: row.get(name) for name in VARIED}
        key["cols"] = row["shape"]["cols"]
        key["batch"] = row["shape"].get("batch", 1)
        keys.setdefault(tuple(key.items()), []).append(row)
    differing = [i for i in range(len(VARIED) + 2) if len({key[i][1] for key in keys}) > 1]
    named = []
    for key, group in keys.items():
        words = [f"{n} {v}" if n in NUMBERS else str(v)
                 for n, v in (key[i] for i in differing) if v is not None]
        group.sort(key=lambda row: row["shape"]["rows"])
        named.append((" ".join(words) or group[0]["op"], group))
    common = [f"{n} {v}" if n in NUMBERS else str(v)
              for i, (n, v) in enumerate(next(iter(keys))) if i not in differing and v is not None]
    return named, " ".join(common)


def draw_points(axes, x, y, group, label, color):
    axes.plot(x, y, "-", color=color, label=label, linewidth=1.4)
    for at, value, row in zip(x, y, group):
        face = "white" if row.get("noisy") else color
        axes.plot([at], [value], "o", color=color, markerfacecolor=face, markersize=5)


def save(figure, stem):
    for ending in ("png", "svg"):
        figure.savefig(f"{stem}.{ending}", dpi=150, bbox_inches="tight")
        print(f"{stem}.{ending}")


def title_of(rows, common):
    first = rows[0]
    device = first["device"] or first["backend"]
    return f"{common}\n{device}, nibble {first['version']} ({first['commit']})"


def plot_time(plt, rows, stem):
    named, common = series_of(rows)
    figure, (time, share) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    for i, (label, group) in enumerate(named):
        x = [row["shape"]["rows"] for row in group]
        color = f"C{i % 10}"
        draw_points(time, x, [row["median_us"] for row in group], group, label, color)
        held = [row for row in group if row.get("sol") is not None]
        draw_points(share, [row["shape"]["rows"] for row in held], [row["sol"] for row in held],
                    held, label, color)
    time.set(xscale="log", yscale="log", xlabel="rows (M)", ylabel="median of a call, us")
    share.set(xscale="log", xlabel="rows (M)", ylabel="share of the limit of the same run")
    share.set_ylim(bottom=0)
    share.axhline(1, color="gray", linewidth=0.8, linestyle="--")
    for axes in (time, share):
        axes.grid(True, which="major", alpha=0.3)
    if len(named) > 1:
        time.legend(fontsize=8)
    figure.suptitle(title_of(rows, common) + "; hollow: noisy", fontsize=9)
    save(figure, stem + "-time")


def plot_roofline(plt, rows, stem):
    """Elements a second over elements a byte: each row under the line that its own limit draws."""
    named, common = series_of(rows)
    figure, axes = plt.subplots(figsize=(7, 4.6), layout="constrained")
    roofs, intensities = {}, []
    for i, (label, group) in enumerate(named):
        held = [row for row in group if row.get("limit_gbps") and row.get("bytes")]
        if not held:
            continue
        elements = [elements_of(row) for row in held]
        x = [n / row["bytes"] for n, row in zip(elements, held)]
        y = [n / row["median_us"] / 1e3 for n, row in zip(elements, held)]
        axes.scatter(x, y, s=26, color=f"C{i % 10}", label=label, zorder=3,
                     facecolors=["white" if row.get("noisy") else f"C{i % 10}" for row in held])
        intensities += x
        for row in held:
            name = (row["limit"], row.get("threads"))
            roofs[name] = max(roofs.get(name, 0), row["limit_gbps"])
    if not intensities:
        print("plot_bench: no row has a limit in bytes: no roofline", file=sys.stderr)
        return
    span = [min(intensities) / 2, max(intensities) * 2]
    for i, ((limit, threads), gbps) in enumerate(sorted(roofs.items(), key=str)):
        axes.plot(span, [gbps * at for at in span], color="gray", linewidth=1,
                  linestyle=("-", "--", ":", "-.")[i % 4],
                  label=f"{limit}, threads {threads}: at most {gbps:.1f} GB/s")
    axes.set(xscale="log", yscale="log", xlim=span, ylabel="elements a second, 1e9",
             xlabel="elements for each byte that counts")
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(fontsize=7)
    axes.set_title(title_of(rows, common) + "; hollow: noisy", fontsize=8)
    save(figure, stem + "-roofline")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", help="rows of qbench --json")
    parser.add_argument("-o", "--output", required=True, help="the plots' path, without an ending")
    arguments = parser.parse_args()
    rows = read_rows(arguments.files)
    try:
        import matplotlib
    except ImportError:
        sys.exit("plot_bench: needs matplotlib, as $(scripts/python_env.sh scripts/plots.txt) has")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    folder = os.path.dirname(arguments.output)
    if folder:
        os.makedirs(folder, exist_ok=True)
    plot_time(plt, rows, arguments.output)
    plot_roofline(plt, rows, arguments.output)


if __name__ == "__main__":
    main()
