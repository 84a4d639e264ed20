"""What makes the averaged band wide? Bands of simulated sweeps under other rules for the forms' weights.

    python benchmarks/forecast_price.py --sweeps=200 --only='power;power, one budget 20 % high'

Sweeps are those of `forecast_coverage.py`, forecast at ten times the largest budget. What the average is made of (each
form's distribution, its p by all points and without any one, its raw weight) is computed once, and the registered band
of the mean from it under each rule. Ratios are medians of ln(high / low) over that of the power law alone.
"""

import argparse
import time

import numpy as np
import pandas as pd
from forecast_coverage import (
    BUDGETS,
    CASES,
    CHANCE,
    HIGH,
    METRIC,
    Sweep,
    compute_optimal,
    fit_forms,
    inside,
    largest,
    prepare,
    seed_noise,
    width,
)

from clip_jax.scaling.analysis import averaging
from clip_jax.scaling.analysis.analyze import Frontier, point_noise, winners_bias
from clip_jax.scaling.analysis.averaging import MIN_WEIGHT, REJECTED, Mixture, with_least
from clip_jax.scaling.analysis.frontier_fit import BUDGET
from clip_jax.scaling.data.observations import picture_scatter
from clip_jax.scaling.data.runs_table import fit_rows
from clip_jax.scaling.frontier.frontier import by_size

REACH = 10


def ingredients(case, budgets, index):
    """Return what the averaged forecast of one sweep is made of, and what was measured."""
    sweep = Sweep(case, np.random.default_rng([index, budgets]))
    df = sweep.runs(budgets)
    rows, _ = fit_rows(prepare(df, METRIC), METRIC, CHANCE, keep_above_chance=True)
    points = compute_optimal(rows, METRIC)
    frontier = fit_forms(
        Frontier(BUDGET, points, chance=CHANCE), by_size(rows, METRIC), point_noise(rows, METRIC, points), True,
        winners_bias(rows, METRIC), strict=True,
    )  # fmt: skip
    kept = frontier.averaged.fitted
    fewest = min(f.fit.points for f in frontier.fitted.values())
    fits = [averaging.on_common_rows(f.fit, fewest, CHANCE) for f in kept.values()]
    noise, free = next(iter(kept.values())).noise, np.array([f.free for f in fits])
    statistics = averaging.fit_statistics(fits, noise)
    without = np.stack([averaging.squares_without_each(f) for f in fits], axis=1)
    ahead = compute_optimal(prepare(pd.DataFrame(sweep.budget(REACH * HIGH)), METRIC), METRIC)
    return {
        "keys": list(kept), "bic": [s["bic"] for s in statistics], "p": [s["p"] for s in statistics],
        "loo": np.array([averaging.p_values_of_f_tests(s, free, fits[0].points - 1, noise) for s in without]),
        "dens": averaging.held_out_densities(kept), "scatter": [f.scatter for f in kept.values()],
        "preds": [f.prediction_at(REACH * float(points["flops"].max())) for f in kept.values()],
        "seed_sd": seed_noise(rows, METRIC)[0], "seeds": case.seeds, "pictures": largest(df, case),
        "measured": float(ahead["error"].iloc[0]),
    }  # fmt: skip


def raw_weights(r):
    """Return the weights [M] before any is raised."""
    if r["dens"] is not None:
        return averaging.weights_by_stacking(r["dens"])
    return averaging.weights_by_bic(np.array(r["bic"]))


def kept(r, without_one=REJECTED):
    """Return the forms [M] that all points do not reject at 1 %, or that have this p without some point."""
    by_all = np.array(r["p"]) >= REJECTED
    return by_all if r["loo"] is None else by_all | (r["loo"] >= without_one).any(axis=0)


def beside_power(r, key):
    """Return weights of a tenth of one form beside the power law."""
    names = np.array(r["keys"])
    return np.where(names == "power", 1 - MIN_WEIGHT, np.where(names == key, MIN_WEIGHT, 0.0))


RULES = {
    "as it is: 0.1 for a form that some point left out saves at 1 %": lambda r: with_least(raw_weights(r), kept(r)),
    "the same, saved at 5 %": lambda r: with_least(raw_weights(r), kept(r, 0.05)),
    "the same, saved at 20 %": lambda r: with_least(raw_weights(r), kept(r, 0.20)),
    "0.1 for a form that all points do not reject": lambda r: with_least(raw_weights(r), kept(r, np.inf)),
    "no least weight": raw_weights,
    "0.05 instead of 0.1": lambda r: with_least(raw_weights(r), kept(r), 0.05),
    "0.03 instead of 0.1": lambda r: with_least(raw_weights(r), kept(r), 0.03),
    "equal weights of the forms that are kept": lambda r: kept(r) / kept(r).sum(),
    **{
        f"0.9 power law and 0.1 {key}": lambda r, key=key: beside_power(r, key)
        for key in ("saturating", "sigmoid", "bounded", "shifted", "chance")
    },
}


def band(r, weights):
    """Return the registered 95 % band of the mean, as `preregistration` makes it; an open end is None."""
    used = np.flatnonzero(weights > 1e-12)
    names, share = tuple(r["keys"][i] for i in used), weights[used] / weights[used].sum()
    predictions = tuple(r["preds"][i] for i in used)
    same = 0.0
    if r["pictures"]:
        median = Mixture(names, share, predictions, CHANCE).median
        same = picture_scatter(median / np.mean([p[0] for p in r["pictures"]]), r["pictures"], same=True)
    sd = r["seed_sd"] / np.sqrt(r["seeds"])
    each = zip((r["scatter"][i] for i in used), predictions, strict=True)
    scattered = tuple(p.scattered(float(np.hypot(max(s, sd), same))) for s, p in each)
    ends = Mixture(names, share, scattered).interval().bounded_ends
    return [None if np.isinf(e) else e for e in ends]


def lines_of(records):
    """Return the lines of one case: every rule's coverage and price."""
    alone = [band(r, (np.array(r["keys"]) == "power").astype(float)) for r in records]
    for name, rule in RULES.items():
        bands = [band(r, rule(r)) for r in records]
        covered = np.mean([inside(b, r["measured"]) == 0 for b, r in zip(bands, records, strict=True)])
        wide = np.median([width(b) for b in bands])
        ratio = np.median([width(b) / width(a) for b, a in zip(bands, alone, strict=True) if None not in a])
        case, budgets = records[0]["case"], records[0]["k"]
        yield f"| {case} | {budgets} | {len(records)} | {name} | {covered:.1%} | {wide:.2f} | {ratio:.2f} |"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sweeps", type=int, default=200, help="of each case and number of budgets")
    parser.add_argument("--only", default="power;power, one budget 20 % high", help="cases, by semicolons")
    parser.add_argument("--budgets", default=",".join(map(str, BUDGETS)))
    args = parser.parse_args()
    cases, budgets = args.only.split(";"), [int(k) for k in args.budgets.split(",")]
    start = time.process_time()
    print("| truth | budgets | sweeps | weights | mean 10x | width (ln) | times the power law's own |\n|" + "---|" * 7)
    for name, k in ((name, k) for name in cases for k in budgets):
        sweeps = [ingredients(CASES[name], k, index) | {"case": name, "k": k} for index in range(args.sweeps)]
        print("\n".join(lines_of(sweeps)), flush=True)
    print(f"\n{time.process_time() - start:.0f} s of processor time")


if __name__ == "__main__":
    main()
