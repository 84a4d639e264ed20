"""How often do the 95 % intervals of `clip-jax fit --group` and `--weights` hold the truth? Simulated power laws.

    python benchmarks/table_options_coverage.py [--tables=200] [--replicas=2000] [--only=group]

group: rows share the scatter of their group (5 % between groups, 1 % within), as seeds of one budget or models of one
family do. A "new run" is of a new group. weights: scatter from 0.5 % to 10 %, known for each row and weighed by its
inverse square; a "new run" has the scatter that belongs to the mean weight.
"""

import argparse

import numpy as np

from clip_jax.scaling.fit.loss import Loss
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.laws import PowerLaw
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
        found = cluster_intervals(fit, labels, replicas=replicas, seed=table)
        with_groups.append(_held((found.parameter("b"), *found.forecast(AT)), run))
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


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tables", type=int, default=200)
    parser.add_argument("--replicas", type=int, default=2000)
    parser.add_argument("--only", choices=("group", "weights"))
    args = parser.parse_args()
    print(f"{args.tables} tables each; 95 % intervals that hold the truth\n")
    print("| rows | intervals | b | curve at 10x | new run at 10x |\n|---|---|---|---|---|")
    cells = lambda shares: " | ".join(f"{s:.1%}" for s in shares)  # noqa: E731
    for name, case in GROUPED.items() if args.only != "weights" else ():
        found, plain = grouped(*case, args.tables, args.replicas)
        print(f"| {name} | --group | {cells(found)} |\n| {name} | no groups | {cells(plain)} |", flush=True)
    for name, rows in WEIGHTED.items() if args.only != "group" else ():
        right, equal, ratio = weighted(rows, args.tables)
        print(f"| {name} | --weights ({ratio:.2f} of the width) | {cells(right)} |")
        print(f"| {name} | equal weights | {cells(equal)} |", flush=True)


if __name__ == "__main__":
    main()
