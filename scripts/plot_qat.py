"""Sums up the runs of `make demo-qat`: a table of validation losses, and a chart.

    $(scripts/python_env.sh scripts/plots.txt) scripts/plot_qat.py RUN-SEED.json ... -o FOLDER

prints the table and writes FOLDER/table.md and FOLDER/loss.png. Each seed is held against itself:
"added" is a loss minus that of the seed's own f32 checkpoint, and what quantizing after training
(PTQ) adds is 100 %. Exit status 1 if training with NVFP4 (QAT) gives back less than 70 % of it.
"""
import argparse
import json
import os
import sys

GATE = 70
CHECKPOINT, CONTROL = "f32", "none"  # runs: the f32 training, and the same steps on in f32
# name, run, losses' key, the format it is of, colour
ROWS = [
    ("f32", CHECKPOINT, "f32", None, "0.35"),
    ("f32, trained on", CONTROL, "f32", None, "0.35"),
    ("NVFP4, PTQ", CHECKPOINT, "nvfp4", "nvfp4", "C3"),
    ("NVFP4, PTQ of f32 trained on", CONTROL, "nvfp4", "nvfp4", "C1"),
    ("NVFP4, QAT", "nvfp4", "nvfp4", "nvfp4", "C0"),
    ("NVFP4, QAT fp8 > fp6 > fp4", "progressive", "nvfp4", "nvfp4", "C2"),
    ("MXFP4, PTQ", CHECKPOINT, "mxfp4", "mxfp4", "C3"),
    ("MXFP4, PTQ of f32 trained on", CONTROL, "mxfp4", "mxfp4", "C1"),
    ("MXFP4, QAT", "mxfp4", "mxfp4", "mxfp4", "C4"),
]


def read_runs(paths):
    runs = {}
    for path in paths:
        with open(path, encoding="utf-8") as file:
            run = json.load(file)
        name = os.path.basename(path).rsplit("-", 1)[0]
        runs.setdefault(run["seed"], {})[name] = run
    wanted = {row[1] for row in ROWS}
    for seed, of_seed in runs.items():
        missing = wanted - set(of_seed)
        if missing:
            sys.exit(f"plot_qat: seed {seed} lacks the runs {', '.join(sorted(missing))}")
    return runs


def losses_of(runs, row):
    """Of each seed: the loss, what it is above the seed's f32, and PTQ's part of that."""
    _, run, key, fmt, _ = row
    found = []
    for of_seed in runs.values():
        base = of_seed[CHECKPOINT]["losses"]
        loss = of_seed[run]["losses"][key]
        added = loss - base["f32"]
        found.append((loss, added, added / (base[fmt] - base["f32"]) if fmt else None))
    return found


def is_measure(row):
    """Rows that the others are held against: plain f32, and what PTQ adds to the checkpoint."""
    return row[3] is None or row[1] == CHECKPOINT


def given_back(runs, row):
    return [100 * (1 - f[2]) for f in losses_of(runs, row)]


def spread(values, form):
    mean = sum(values) / len(values)
    if len(values) == 1:
        return form(mean)
    return f"{form(mean)} ({form(min(values))} to {form(max(values))})"


def table(runs):
    one = next(iter(runs.values()))
    tune, base = one["nvfp4"], one[CHECKPOINT]
    lines = [f"Validation loss in nats per byte over {base['validation_bytes']} held-out bytes; "
             f"mean of {len(runs)} seeds (least to most).",
             f"{base['parameters']} parameters; {base['steps']} steps of {base['batch']} bytes in "
             f"f32, then {tune['steps']} of {tune['batch']} at a rate of {tune['rate']:g}.", "",
             "| weights and activations | loss | added to f32 | given back of what PTQ adds |",
             "|---|---|---|---|"]
    for row in ROWS:
        found = losses_of(runs, row)
        cells = [row[0], spread([f[0] for f in found], lambda v: f"{v:.4f}"),
                 "0" if row is ROWS[0] else spread([f[1] for f in found], lambda v: f"{v:+.4f}"),
                 "" if is_measure(row) else spread(given_back(runs, row), lambda v: f"{v:.0f} %")]
        lines.append(f"| {' | '.join(cells)} |")
    return lines + [""] + fair_lines(runs)


def fair_lines(runs):
    """Against the control: what more training in f32 gives is no merit of QAT."""
    lines = ["Over 100 %: better than the f32 checkpoint, as any further training is. Against f32",
             "that was trained on as long, QAT takes away this part of what PTQ then adds:", ""]
    for name, run, key in (("NVFP4", "nvfp4", "nvfp4"), ("NVFP4 fp8 > fp6 > fp4", "progressive",
                                                         "nvfp4"), ("MXFP4", "mxfp4", "mxfp4")):
        shares = []
        for of_seed in runs.values():
            control = of_seed[CONTROL]["losses"]
            shares.append(100 * (control[key] - of_seed[run]["losses"][key])
                          / (control[key] - control["f32"]))
        lines.append(f"- {name}: {spread(shares, lambda v: f'{v:.0f} %')}")
    return lines


def draw_rows(axes, runs):
    for at, row in enumerate(ROWS):
        added = [f[1] for f in losses_of(runs, row)]
        mean = sum(added) / len(added)
        axes.barh(at, mean, height=0.62, color=row[4], alpha=0.55)
        axes.plot(added, [at] * len(added), "o", color=row[4], markersize=4.5, markeredgecolor="w",
                  markeredgewidth=0.6)
        label = "0" if row is ROWS[0] else f"{mean:+.4f}"
        if not is_measure(row):
            back = given_back(runs, row)
            label += f"   {sum(back) / len(back):.0f} % given back"
        axes.annotate(label, (max(0, *added), at), xytext=(6, 0), va="center",
                      textcoords="offset points", fontsize=8)
    axes.set_yticks(range(len(ROWS)), [row[0] for row in ROWS])
    axes.invert_yaxis()
    axes.axvline(0, color="0.35", linewidth=1)
    low, high = axes.get_xlim()
    axes.set_xlim(low, high + 0.32 * (high - low))
    axes.set_xlabel("validation loss above the seed's f32 checkpoint, nats per byte")
    axes.grid(True, axis="x", alpha=0.3)
    axes.set_title("After training, and after training on", fontsize=10)


def draw_curves(axes, runs):
    names = (("none", "f32, trained on", "0.35"), ("nvfp4", "NVFP4, QAT", "C0"),
             ("mxfp4", "MXFP4, QAT", "C4"), ("progressive", "QAT fp8 > fp6 > fp4", "C2"))
    for name, label, color in names:
        curves = []
        for of_seed in runs.values():
            base = of_seed[CONTROL]["curve"][0][1]
            curves.append([loss - base for _, loss in of_seed[name]["curve"]])
        steps = [step for step, _ in next(iter(runs.values()))[name]["curve"]]
        for curve in curves:
            axes.plot(steps, curve, color=color, linewidth=0.7, alpha=0.4)
        axes.plot(steps, [sum(c) / len(c) for c in zip(*curves)], color=color, linewidth=1.8,
                  label=label)
    axes.axhline(0, color="0.35", linewidth=0.8, linestyle="--")
    axes.set(xlabel="step of the training on", ylabel="loss above f32, nats per byte")
    axes.grid(True, alpha=0.3)
    axes.legend(fontsize=8)
    axes.set_title("On the way: in the format of the step, on a part of the text", fontsize=10)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", help="results of qat_demo, named RUN-SEED.json")
    parser.add_argument("-o", "--output", required=True, help="the folder for table.md, loss.png")
    arguments = parser.parse_args()
    runs = read_runs(arguments.files)
    text = "\n".join(table(runs)) + "\n"
    print(text)
    with open(os.path.join(arguments.output, "table.md"), "w", encoding="utf-8") as file:
        file.write(text)
    try:
        import matplotlib
    except ImportError:
        sys.exit("plot_qat: needs matplotlib, as $(scripts/python_env.sh scripts/plots.txt) has")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    figure, (left, right) = plt.subplots(1, 2, figsize=(12.5, 4.6), layout="constrained",
                                         width_ratios=(1.15, 1))
    draw_rows(left, runs)
    draw_curves(right, runs)
    base = [of_seed[CHECKPOINT]["losses"]["f32"] for of_seed in runs.values()]
    figure.suptitle(f"A small Llama on the King James Bible, W4A4: f32 loss "
                    f"{spread(base, lambda v: f'{v:.3f}')} nats per byte; bars: mean, dots and "
                    f"thin lines: {len(runs)} seeds", fontsize=10)
    figure.savefig(os.path.join(arguments.output, "loss.png"), dpi=150)
    given = given_back(runs, ROWS[4])
    if sum(given) / len(given) < GATE:
        sys.exit(f"plot_qat: NVFP4 QAT gives back {sum(given) / len(given):.0f} %, below {GATE} %")


if __name__ == "__main__":
    main()
