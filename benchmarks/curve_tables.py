"""Do laws of whole learning curves predict published curves that they were not fitted to?

    python benchmarks/curve_tables.py TABLES_DIR [--only=schedules|clip]

`lr_schedule_curves.csv` (Luo et al., 2503.12811): fitted to three schedules of 16,000 to 24,000 steps, compared with
the published parameters, and used to predict six others, two of 72,000 steps among them. `openclip_learning_curves.csv`
(Cherti et al., 2212.07143): ImageNet error after each epoch; fitted to the runs of 3 and 13 billion samples of a model
and a corpus, used to predict the end of the run of 34 billion. A file that the folder lacks is left out.
"""

import argparse
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from clip_jax.distributed.mesh import enable_compile_cache
from clip_jax.scaling.any_table.curves import read_curves
from clip_jax.scaling.any_table.options import TableFit
from clip_jax.scaling.curves.fit import Curve, fit_curves
from clip_jax.scaling.curves.laws import CURVE_LAWS
from clip_jax.scaling.curves.schedule import cosine

FITTED = ("cosine_24000", "constant_24000", "wsdcon_9")
LAWS = (("multi-power", "first-step"), ("multi-power", "after-warmup"), ("annealing", "first-step"),
        ("annealing", "after-warmup"))  # fmt: skip
NAMES = ("L0", "A", "alpha", "B", "C", "beta", "gamma")
PUBLISHED = {
    25e6: (3.04045, 0.52469, 0.50787, 363.79, 2.06561, 0.58279, 0.64142),
    100e6: (2.65145, 0.60115, 0.45296, 437.95, 2.13246, 0.59785, 0.65524),
}
EARLY = 0.1  # part of a CLIP run that is left out: its warm-up is not in the table
UNIT = 1e6  # samples to a step of a CLIP curve


def objective(fit, theta):
    return float(fit.loss.values(fit.loss.residuals(fit.law.predict(theta, fit.logs), fit.data.y)).sum())


def schedules(folder):
    table = pd.read_csv(folder / "lr_schedule_curves.csv")
    print("## Schedules of language models: fitted to", ", ".join(FITTED), "\n")
    columns = [s for s in table["schedule"].unique() if s not in FITTED]
    print("| size | law | objective | " + " | ".join(columns) + " | mean abs error of their curves |")
    print("|---|---|---|" + "---|" * (len(columns) + 1))
    for size, published in PUBLISHED.items():
        what = TableFit(laws=("multi-power",), where=(f"params={size:.0f}",), warmup_steps=2160, peak=3e-4)
        curves = read_curves(table, what)
        new = [c for c in curves if c.name not in FITTED]
        logs = []

        def row(name, value, ends, curves_of=None, size=size):
            shown = " | ".join(f"{np.expm1(e):+.2%}" for e in ends)
            mean = "" if curves_of is None else f"{np.mean(curves_of):.5f}"
            print(f"| {size / 1e6:.0f}M | {name} | {value} | {shown} | {mean} |", flush=True)

        def errors(fit, new=new):
            off = [fit.residuals(c) for c in new]
            means = [np.abs(np.expm1(r) * c.losses).mean() for r, c in zip(off, new, strict=True)]
            return [r[-1] for r in off], means

        for key, reading in LAWS:
            fit = fit_curves(key, [c for c in curves if c.name in FITTED], reading=reading)
            if not logs:
                theta = fit.fit.law.theta(dict(zip(NAMES, published, strict=True)), fit.fit.references)
                known = replace(fit, fit=replace(fit.fit, theta=theta))
                row("multi-power, published", f"{objective(fit.fit, theta):.3e}", *errors(known))
            ends, means = errors(fit)
            row(f"{key}, {reading}", f"{fit.fit.objective:.3e}", ends, means)
            logs.append(ends)
            print(f"<!-- {fit.fit.summary()} -->")
        held = {"gamma": published[-1]}
        fit = fit_curves("multi-power", [c for c in curves if c.name in FITTED], fixed=held)
        row("multi-power, first-step, gamma held", f"{fit.fit.objective:.3e}", *errors(fit))
        row("mean of both laws, first-step", "", np.mean([logs[0], logs[2]], axis=0))
    print()


def clip_curves(table):
    """run -> (model, corpus, billions of samples, Curve of the error)."""
    out = {}
    for run, rows in table.groupby("run", sort=False):
        first = rows.iloc[0]
        total = round(first["total_epochs"] * first["samples_per_epoch"] / UNIT)
        steps = (rows["epoch"] * first["samples_per_epoch"] / UNIT).round().astype(int).to_numpy()
        late = steps >= EARLY * total
        schedule = cosine(total, first["lr"])
        curve = Curve(run, schedule, steps[late], 1 - rows["imagenet1k_acc1"].to_numpy()[late])
        out[run] = first["arch"], first["data"], int(re.search(r"Samples-(\d+)B", run)[1]), curve
    return out


def clip(folder):
    table = pd.read_csv(folder / "openclip_learning_curves.csv")
    runs = clip_curves(table)
    print(f"## ImageNet error of CLIP models: {len(table)} rows of {len(runs)} runs read\n")
    print("| model | corpus | peak rates | end of 34B measured | annealing | multi-power | last of 13B |")
    print("|---|---|---|---|---|---|---|")
    off = {}
    for model, corpus in dict.fromkeys((m, c) for m, c, *_ in runs.values()):
        by = {b: c for m, k, b, c in runs.values() if (m, k) == (model, corpus)}
        if set(by) != {3, 13, 34}:
            continue
        peaks = [by[b].schedule.rates.max() for b in (3, 13, 34)]
        rates, one = ", ".join(f"{p:g}" for p in peaks), "of one peak rate" if len(set(peaks)) == 1 else "of several"
        cells, end = [], by[34].losses[-1]
        for key in CURVE_LAWS:
            fit = fit_curves(key, [by[3], by[13]], reading="after-warmup")
            ahead = fit.predict(by[34].schedule, by[34].steps[-1:])[0]
            off.setdefault((one, key), []).append(np.log(ahead / end))
            cells.append(f"{ahead:.4f} ({ahead / end - 1:+.1%})")
        last = by[13].losses[-1]
        off.setdefault((one, "last of 13B"), []).append(np.log(last / end))
        cells.append(f"{last:.4f} ({last / end - 1:+.1%})")
        print(f"| {model} | {corpus} | {rates} | {end:.4f} | " + " | ".join(cells) + " |", flush=True)
    print()
    for (rates, name), logs in sorted(off.items()):
        print(f"* {len(logs)} ends {rates}, {name}: mean abs(ln(predicted/measured)) {np.mean(np.abs(logs)):.1%}")


PARTS = {"schedules": (schedules, "lr_schedule_curves.csv"), "clip": (clip, "openclip_learning_curves.csv")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", choices=("", *PARTS))
    args = parser.parse_args()
    enable_compile_cache()
    for name, (part, file) in PARTS.items():
        if args.only in ("", name):
            if (args.folder / file).is_file():
                part(args.folder)
            else:
                print(f"{file} is not in {args.folder}: left out")


if __name__ == "__main__":
    main()
