"""Do runs that branch off a trunk end elsewhere than runs with a cosine schedule, and how alike are those of one trunk?

    python benchmarks/branches.py [--rungs=1,2] [--budgets=2.5e10,1e11] [--seeds=3] [--dir=DIR]

The small models of sweeps/quickstart.py are trained on rendered scenes twice for each size, budget and seed: with half
a cosine, and with a constant rate whose last fifth decays linearly, branched off one trunk per size and seed. Printed
are the mean difference of ln(error) and of the validation loss with its standard error over seeds, and the correlation
between two budgets of a size over seeds, for the branches, which share a trunk, and for the cosine runs, which share
the seed alone. With --dir the runs stay and a second call completes them.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

METRICS = {"error_mean": "ln(error)", "val_loss": "ln(validation loss)"}


def sweep_of(example, args: argparse.Namespace, *, trunks: bool):
    """Return the sweep of one arm, as `config.sweep.SweepConfig`."""
    base = example.base
    optim = dataclasses.replace(base.optim, schedule="wsd" if trunks else "cosine", warmup_steps=args.warmup)
    evals = dataclasses.replace(base.evals, at_fractions=(), max_examples=args.examples)
    base = dataclasses.replace(base, optim=optim, evals=evals, checkpoint_every=args.checkpoint_every, log_every=100)
    return dataclasses.replace(
        example,
        name="branches" if trunks else "cosine",
        base=base,
        trunks=trunks,
        rungs=args.rungs,
        budgets=args.budgets,
        seeds=tuple(range(args.seeds)),
        sizes_per_budget=0,
        extra_seeds_at_optimum=(),
        lr_multipliers=(),
    )


def trained(config, folder: Path) -> pd.DataFrame:
    """Train a sweep's runs and return ``runs.csv`` without those that were not planned."""
    from clip_jax.sweep.collect import collect
    from clip_jax.sweep.driver import run_sweep

    run_sweep(config, folder, lambda line: None)
    table = collect(folder)
    return table[table["final"]].set_index(["rung", "budget", "seed"]).sort_index()


def differences(one: pd.DataFrame, other: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return rows (rung, budget, mean, se): the mean over seeds of ln(one) - ln(other), and its standard error."""
    each = (np.log(one[metric]) - np.log(other[metric])).groupby(["rung", "budget"])
    return pd.DataFrame({"mean": each.mean(), "se": each.std() / np.sqrt(each.count())}).reset_index()


def correlation(table: pd.DataFrame, metric: str) -> float:
    """Return the correlation over seeds of ln(metric) between budgets of a size, pooled over sizes and budgets.

    NaN where no two budgets scatter.
    """
    products, squares = [], []
    for _, size in np.log(table[metric]).groupby("rung"):
        wide = size.unstack("seed")
        wide = wide.sub(wide.mean(axis=1), axis=0).to_numpy()
        for i, j in itertools.combinations(range(len(wide)), 2):
            products.append(float(wide[i] @ wide[j]))
            squares.append(float(np.sqrt((wide[i] @ wide[i]) * (wide[j] @ wide[j]))))
    return sum(products) / sum(squares) if sum(squares) else float("nan")


def numbers(kind):
    """Return a parser of numbers separated by commas."""
    return lambda text: tuple(map(kind, text.split(",")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rungs", type=numbers(float), default=(1.0, 2.0))
    parser.add_argument("--budgets", type=numbers(float), default=(2.5e10, 1e11))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=20)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--checkpoint-every", type=int, default=10)
    parser.add_argument("--dir")
    args = parser.parse_args()

    from clip_jax.config.io import load
    from clip_jax.config.sweep import SweepConfig

    example = load(SweepConfig, Path(__file__).parents[1] / "sweeps" / "quickstart.py")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.dir or temporary)
        branched = trained(sweep_of(example, args, trunks=True), folder / "branches")
        cosine = trained(sweep_of(example, args, trunks=False), folder / "cosine")
    print("| rung | budget | metric | branched minus cosine | standard error | sd over seeds, branched | cosine |")
    print("|---|---|---|---|---|---|---|")
    for metric, text in METRICS.items():
        for row in differences(branched, cosine, metric).to_dict("records"):
            cell = (row["rung"], row["budget"])
            sds = [float(np.log(table.loc[cell][metric]).std()) for table in (branched, cosine)]
            print(
                f"| {row['rung']:g} | {row['budget']:.2e} | {text} | {row['mean']:+.4f} | {row['se']:.4f} "
                f"| {sds[0]:.4f} | {sds[1]:.4f} |"
            )
    print()
    for metric, text in METRICS.items():
        print(
            f"correlation over seeds between budgets of a size, {text}: branches of one trunk "
            f"{correlation(branched, metric):+.2f}, cosine runs of one seed {correlation(cosine, metric):+.2f}"
        )


if __name__ == "__main__":
    main()
