"""Which law and loss forecast best from cheap runs? Held-out extrapolation on a table of single runs.

    python benchmarks/fit_forecast.py clip_mammut_runs_datacomp_imagenet.csv [--below=1e11]

Columns family, gflops_total, imagenet1k_acc1. The binned frontier below the cut is fitted, its largest run predicted.
"""

import argparse

import numpy as np
import pandas as pd

from clip_jax.scaling.analysis.extrapolation import rolling
from clip_jax.scaling.fit.loss import Loss
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.frontier.frontier import binned, octaves
from clip_jax.scaling.laws import BrokenPowerLaw, PowerLaw, PowerLawFromChance, ShiftedPowerLaw, SigmoidLogC

LOSSES = {"squares of errors": Loss("squares", "linear"), "squares of logs": Loss("squares"), "Huber of logs": Loss()}
LAWS = (PowerLaw(), ShiftedPowerLaw(), PowerLawFromChance(0.999), SigmoidLogC(), BrokenPowerLaw())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("table")
    parser.add_argument("--below", type=float, default=1e11)
    args = parser.parse_args()
    df = pd.read_csv(args.table)
    print("| family | law | loss | forecast | measured | off by | rolling score |\n|---|---|---|---|---|---|---|")
    for family, rows in df.groupby("family"):
        x, y = rows["gflops_total"].to_numpy(float), 1 - rows["imagenet1k_acc1"].to_numpy(float)
        kept = binned(x, y, octaves(x))
        known, measured = kept[x[kept] < args.below], y[x == x.max()].min()
        for law in LAWS:
            for name, loss in LOSSES.items():
                fit = fit_law(law, x[known], y[known], loss=loss, fixed={}, profile=False)
                predicted = float(fit.predict(x.max()))
                score = rolling(law, x[known], y[known], loss=loss)["score"]
                off, shown = (
                    np.log(predicted / measured),
                    "-" if score is None else f"{score:.4f}",
                )  # None: too few points
                print(
                    f"| {family} | {law.name} | {name} | {predicted:.4f} | {measured:.4f} | {off:+.1%} | {shown} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
