"""How often do 95 % intervals of `clip-jax fit --group`, `--weights` and `--below` hold the truth? Simulated laws.

    python benchmarks/table_options_coverage.py [--tables=200] [--replicas=2000] [--only=group]

group: rows share the scatter of their group (5 % between groups, 1 % within), as seeds of one budget or models of one
family do. A "new run" is of a new group. weights: scatter from 0.5 % to 10 %, known for each row and weighed by its
inverse square; a "new run" has the scatter that belongs to the mean weight. below: the rows below the cut span 100x,
those above it lie 1.5 to 10 times beyond, and all scatter by 3 %; the interval of a new run that the command prints for
a row above the cut should hold that row.
"""

import argparse

import numpy as np
import pandas as pd

from clip_jax.scaling.any_table.fit import TableFit, fit_rows_of
from clip_jax.scaling.any_table.held_out import judge
from clip_jax.scaling.any_table.intervals import intervals_of
from clip_jax.scaling.any_table.rows import read_rows
from clip_jax.scaling.fit.loss import Loss
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.laws import PowerLaw, SaturatingPowerLaw
from clip_jax.scaling.profile.profile_likelihood import parameter_interval, prediction_interval
from clip_jax.scaling.uncertainty.clusters import cluster_intervals

LAW, SQUARES = PowerLaw(), Loss("squares")
TRUTH = {"a": 0.7 * 1e10**0.1, "b": 0.1}
LOW, HIGH, AT = 1e10, 1e13, 1e14
BETWEEN, WITHIN = 0.05, 0.01
GROUPED = {  # groups, rows of each, whether a group is one budget
    "6 budgets of 4 seeds": (6, 4, True),
    "8 budgets of 4 seeds": (8, 4, True),
    "8 families over all budgets": (8, 6, False),
    "20 budgets of 3 seeds": (20, 3, True),
}
WEIGHTED = {"12 rows": 12, "30 rows": 30}
CUT, ABOVE, SCATTER = 1e12, (1.5, 4.0, 10.0), 0.03  # ABOVE: rows above the cut, in units of it
BELOW = {
    "power law, 10 rows below the cut": (PowerLaw(), 10, 0.0),
    "saturating, 20 rows": (SaturatingPowerLaw(), 20, 0.1),
}


def truth(x):
    return TRUTH["a"] * x ** -TRUTH["b"]


def _held(spans, run):
    """Whether each interval holds its truth: b, the curve, a new run."""
    b, curve, new_run = spans
    return [b.low <= TRUTH["b"] <= b.high, curve.low <= truth(AT) <= curve.high, new_run.low <= run <= new_run.high]


def grouped(groups, each, one_budget, tables, replicas, seed=0):
    """Coverage with the bootstrap of groups, and with profile intervals that know no groups: three shares each."""
    with_groups, without = [], []
    for table in range(tables):
        rng = np.random.default_rng((seed, table))
        labels = np.repeat(np.arange(groups), each)
        if one_budget:
            x = np.geomspace(LOW, HIGH, groups)[labels]
        else:
            x = np.tile(np.geomspace(LOW, HIGH, each), groups) * np.exp(rng.uniform(-0.3, 0.3, groups * each))
        scatter = BETWEEN * rng.standard_normal(groups)[labels] + WITHIN * rng.standard_normal(len(x))
        fit = fit_law(LAW, x, truth(x) * np.exp(scatter), loss=SQUARES, profile=False)
        run = truth(AT) * np.exp(np.hypot(BETWEEN, WITHIN) * rng.standard_normal())
        intervals = cluster_intervals(fit, labels, replicas=replicas, seed=table)
        with_groups.append(_held((intervals.parameter("b"), *intervals.forecast(AT)), run))
        spans = (prediction_interval(fit, AT, new_run=new) for new in (False, True))
        without.append(_held((parameter_interval(fit, "b"), *spans), run))
    return np.mean(with_groups, axis=0), np.mean(without, axis=0)


def weighted(rows, tables, seed=0):
    """Coverage with the true weights and with equal ones, three shares each, and the ratio of the widths of b."""
    right, equal, widths = [], [], []
    for table in range(tables):
        rng = np.random.default_rng((seed, table))
        x = np.geomspace(LOW, HIGH, rows)
        sd = np.exp(rng.uniform(np.log(0.005), np.log(0.1), rows))
        y = truth(x) * np.exp(sd * rng.standard_normal(rows))
        weights = sd**-2.0 / np.mean(sd**-2.0)
        run = truth(AT) * np.exp(np.mean(sd**-2.0) ** -0.5 * rng.standard_normal())
        pair = []
        for w, into in ((weights, right), (None, equal)):
            fit = fit_law(LAW, x, y, loss=SQUARES, weights=w, profile=False)
            b = parameter_interval(fit, "b")
            into.append(_held((b, *(prediction_interval(fit, AT, new_run=new) for new in (False, True))), run))
            pair.append(b.width)
        widths.append(pair)
    return np.mean(right, axis=0), np.mean(equal, axis=0), float(np.divide(*np.median(widths, axis=0)))


def below(law, rows, asymptote, tables, seed=0):
    """Shares of the rows above the cut whose printed interval holds them, by distance, and of open intervals."""
    inside = []
    for table in range(tables):
        rng = np.random.default_rng((seed, table))
        x = np.concatenate([np.geomspace(CUT / 100, CUT * 0.99, rows), np.multiply(ABOVE, CUT)])
        y = (asymptote + truth(x)) * np.exp(SCATTER * rng.standard_normal(len(x)))
        what = TableFit((law.key,), loss="squares", below=CUT)
        chosen = read_rows(pd.DataFrame({"flops": x, "error": y}), what, law)
        fit = fit_rows_of(chosen, what, law)
        held = judge(fit, chosen.held_out, intervals_of(fit, chosen, what).new_run)
        inside.append([np.nan if row["inside"] is None else row["inside"] for row in held["table"]])
    return np.nanmean(inside, axis=0), float(np.mean(np.isnan(inside)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tables", type=int, default=200)
    parser.add_argument("--replicas", type=int, default=2000)
    parser.add_argument("--only", choices=("group", "weights", "below"))
    args = parser.parse_args()
    print(f"{args.tables} tables each; 95 % intervals that hold the truth\n")
    if args.only != "below":
        print("| rows | intervals | b | curve at 10x | new run at 10x |\n|---|---|---|---|---|")
    cells = lambda shares: " | ".join(f"{s:.1%}" for s in shares)  # noqa: E731
    for name, case in GROUPED.items() if args.only in (None, "group") else ():
        clustered, plain = grouped(*case, args.tables, args.replicas)
        print(f"| {name} | --group | {cells(clustered)} |\n| {name} | no groups | {cells(plain)} |", flush=True)
    for name, rows in WEIGHTED.items() if args.only in (None, "weights") else ():
        right, equal, ratio = weighted(rows, args.tables)
        print(f"| {name} | --weights ({ratio:.2f} of the width) | {cells(right)} |")
        print(f"| {name} | equal weights | {cells(equal)} |", flush=True)
    if args.only in (None, "below"):
        print("\n| table | " + " | ".join(f"row at {far:g}x the cut" for far in ABOVE) + " | open |")
        print("|---|" + "---|" * (len(ABOVE) + 1))
        for name, case in BELOW.items():
            held, opened = below(*case, args.tables)
            print(f"| --below, {name} | {cells(held)} | {opened:.1%} |", flush=True)


if __name__ == "__main__":
    main()
