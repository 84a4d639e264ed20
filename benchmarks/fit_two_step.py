"""How often do intervals of a two-step forecast (compute to loss to error) hold the truth? And on real tables?

    python benchmarks/fit_two_step.py [--tables=200] [--only=...] [--methods=profile,parametric,cases]
    python benchmarks/fit_two_step.py --folder=DIR   # gadre_overtrain_c4.csv, clip_mammut_runs_datacomp_imagenet.csv

"fixed loss" is the interval of the second step alone, as if the first were exact.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd

from clip_jax.scaling.analysis.two_step import fit_two_step
from clip_jax.scaling.fit.loss import Loss
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.frontier.frontier import pareto
from clip_jax.scaling.laws import (
    Chinchilla,
    ExponentialLink,
    OverTraining,
    PowerLaw,
    SaturatingPowerLaw,
    ShiftedPowerLaw,
    SigmoidLink,
)
from clip_jax.scaling.profile.profile_likelihood import prediction_interval

EXPONENTIAL = {"top": 0.85, "k": 2.08, "gamma": 0.756}
SIGMOID = {"low": 0.1, "top": 0.95, "k": 8.0, "middle": 3.0}
SIZES = {"E": 1.8, "A": 480.0, "alpha": 0.35, "B": 2100.0, "beta": 0.37}
SQUARES = (Loss("squares"), Loss("squares"))


def cloud(rows, seed=0):
    """Sizes and samples around the optimum, over four decades of compute."""
    rng = np.random.default_rng(seed)
    c = np.exp(rng.uniform(np.log(1e18), np.log(1e22), rows))
    size = np.sqrt(c / 120) * np.exp(rng.normal(0, 1.0, rows))
    return {"params": size, "samples_seen": c / 6 / size}


# name: law, truth, columns, link, truth, (sd of ln loss, sd of ln error), what is held, points of the forecast
CASES = {
    "power, exponential, 10 runs": (
        PowerLaw(), {"a": 4.5 * 1e18**0.06, "b": 0.06}, {"flops": np.geomspace(1e18, 1e21, 10)},
        ExponentialLink(), EXPONENTIAL, (0.005, 0.01), ({}, {}), {"1x": {"flops": 1e21}, "10x": {"flops": 1e22}}),
    "saturating, exponential, 16 runs": (
        SaturatingPowerLaw(), {"E": 1.7, "a": 3.0 * 1e18**0.15, "b": 0.15}, {"flops": np.geomspace(1e18, 1e22, 16)},
        ExponentialLink(), EXPONENTIAL, (0.005, 0.01), ({}, {}), {"1x": {"flops": 1e22}, "10x": {"flops": 1e23}}),
    "Chinchilla, sigmoid, 60 runs": (
        Chinchilla(), SIZES, cloud(60), SigmoidLink(), SIGMOID, (0.005, 0.02), ({}, {}),
        {"1x": {"params": 9e9, "samples_seen": 1.8e11}, "10x": {"params": 3e10, "samples_seen": 6e11}}),
    "Chinchilla, exponential, 30 runs": (
        Chinchilla(), SIZES, cloud(30), ExponentialLink(), EXPONENTIAL, (0.005, 0.02), ({}, {}),
        {"1x": {"params": 9e9, "samples_seen": 1.8e11}, "10x": {"params": 3e10, "samples_seen": 6e11}}),
}  # fmt: skip


def coverage(case, tables, method, *, draws=200, seed=0):
    """point -> (share of curve intervals that hold the truth, of new runs, of fixed-loss intervals, median width)."""
    law, truth, columns, link, link_truth, (sd_loss, sd_error), held, points = case
    rng, out = np.random.default_rng(seed), {}
    exact = law.curve(truth, {c: np.log(v) for c, v in columns.items()}, np)

    def linked(loss):
        return link.curve(link_truth, {"loss": np.log(loss)}, np)

    for _ in range(tables):
        loss = exact * np.exp(sd_loss * rng.standard_normal(len(exact)))
        error = linked(loss) * np.exp(sd_error * rng.standard_normal(len(exact)))
        both = fit_two_step(law, columns, loss, link, error, objectives=SQUARES, fixed=held)
        for name, at in points.items():
            center = law.curve(truth, {c: np.log(v) for c, v in at.items()}, np)
            wanted = float(linked(center))
            noise = rng.standard_normal(2)
            run = float(linked(center * np.exp(sd_loss * noise[0])) * np.exp(sd_error * noise[1]))
            options = {"method": method, "draws": draws, "seed": int(rng.integers(1e9))}
            curve, new = both.forecast(at, **options), both.forecast(at, new_run=True, **options)
            row = wanted in curve.error, run in new.error, wanted in curve.fixed_loss, curve.error.width / wanted
            out.setdefault(name, []).append(row)
    return {k: (*np.mean([r[:3] for r in rows], axis=0), np.median([r[3] for r in rows])) for k, rows in out.items()}


def gadre(folder):
    """The published two-step fit: five small runs and six, forecasts of 1.4B at M = 80 and 6.9B at M = 20."""
    df = pd.read_csv(folder / "gadre_overtrain_c4.csv")
    columns = {"params": df["N"], "samples_seen": df["D"]}
    small = (df["N"] < 5e8) & (df["token_multiplier"] == 20)
    first = (small | ((df["N"] < 2e7) & (df["token_multiplier"] == 320))).to_numpy()
    second = first | ((df["N"] > 1e9) & (df["token_multiplier"] == 20) & (df["N"] < 2e9)).to_numpy()
    squares = (Loss("squares", "linear"), Loss("squares", "linear"))
    wide = ((df["N"] < 5e8) & (df["token_multiplier"] >= 20)).to_numpy()
    for name, rows in (("published rows", (first, second)), (f"{wide.sum()} runs, N < 5e8, M >= 20", (wide, wide))):
        both = fit_two_step(
            OverTraining(), columns, df["loss_c4_val"], ExponentialLink(), df["err_avg17"],
            first_rows=rows[0], second_rows=rows[1], objectives=squares, fixed=({}, {}),
        )  # fmt: skip
        print(f"{name}\n{both.text}")
        for size, multiplier in ((1.4e9, 80), (6.9e9, 20)):
            run = df[(np.abs(df["N"] / size - 1) < 0.1) & (df["token_multiplier"] == multiplier)].iloc[0]
            at = {"params": run["N"], "samples_seen": run["D"]}
            print(
                f"  N {size:.2g}, M {multiplier}: measured loss {run['loss_c4_val']:.4f}, error {run['err_avg17']:.4f}"
            )
            for method in ("profile", "parametric", *(["cases"] if rows[0] is wide else [])):
                for new in (False, True):
                    print("   ", both.forecast(at, method=method, new_run=new).text)


def clip(folder, batches=(8192, 16384)):
    """Contrastive loss to ImageNet error by family and batch size, against the direct law; the dearest is held out."""
    df = pd.read_csv(folder / "clip_mammut_runs_datacomp_imagenet.csv")
    df["error"] = 1 - df["imagenet1k_acc1"]
    print("| family | batch | runs | measured | two steps | direct |\n|---|---|---|---|---|---|")
    for family in ("clip", "mammut"):
        for batch in batches:
            rows = df[(df["family"] == family) & (df["global_batch_size"] == batch)].reset_index(drop=True)
            c, loss, error = (rows[k].to_numpy(float) for k in ("gflops_total", "train_contrastive_loss", "error"))
            last = pareto(c, error)[-1]
            cheap = np.flatnonzero(c <= c[last] / 4)
            known = cheap[pareto(c[cheap], error[cheap])]
            options = {"first_rows": known, "second_rows": cheap, "constant": {"batch": rows["global_batch_size"]}}
            both = fit_two_step(ShiftedPowerLaw(), c, loss, SigmoidLink(), error, **options)
            two = both.forecast(c[last], new_run=True, method="parametric").error
            direct = prediction_interval(fit_law(ShiftedPowerLaw(), c[known], error[known]), c[last], new_run=True)
            cells = (f"{v.value:.3f} [{v.low:.3f}, {v.high:.3f}]" for v in (two, direct))
            print(f"| {family} | {batch} | {len(cheap)} | {error[last]:.3f} | {' | '.join(cells)} |", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tables", type=int, default=200)
    parser.add_argument("--only", default="", help="cases whose name has this")
    parser.add_argument("--methods", default="profile,parametric,cases")
    parser.add_argument("--folder", type=Path, help="real tables instead")
    args = parser.parse_args()
    if args.folder:
        gadre(args.folder)
        return clip(args.folder)
    start = time.time()
    print(f"{args.tables} tables\n")
    print("| table | method | at | curve | new run | fixed loss | relative width |\n|---|---|---|---|---|---|---|")
    for name, case in CASES.items():
        for method in args.methods.split(","):
            rows = len(next(iter(case[2].values())))
            if args.only in name and (method != "cases" or rows >= 24):
                for at, (curve, new, fixed, width) in coverage(case, args.tables, method).items():
                    shares = f"{curve:.1%} | {new:.1%} | {fixed:.1%}"
                    print(f"| {name} | {method} | {at} | {shares} | {width:.2g} |", flush=True)
    print(f"\n{time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
