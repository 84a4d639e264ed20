"""Do forecasts of an error through a loss hold what is measured afterwards? Simulated sweeps.

    python benchmarks/through_coverage.py [--sweeps=100] [--budgets=8,6]

Sweeps as in ``forecast_coverage.py``, whose runs have a loss of a known law; a run's error follows its loss by a
sigmoid, with a scatter of 2 %. Forecast: the band of the mean over three seeds at ten times the largest budget, of
`through_loss.forecasts_through` from the averaged law of the loss. Beside it the direct forecast, from the averaged law
of the error.
"""

import argparse
import time

import numpy as np
from forecast_coverage import HIGH, LOW, METRIC, TRUTHS, Case, Sweep

from clip_jax.scaling.analysis.analyze import Frontier, fit_forms, point_noise, winners_bias
from clip_jax.scaling.analysis.frontier_fit import BUDGET
from clip_jax.scaling.data.runs_table import fit_rows, prepare
from clip_jax.scaling.frontier.frontier import by_size, compute_optimal, seed_noise
from clip_jax.scaling.planning.preregistration import forecast_bands
from clip_jax.scaling.planning.through_loss import fit_link, forecasts_through

LOSS, ERROR, CHANCE, SCALE, TARGET, SEEDS, ERROR_SD = "val_loss", "error_mean", 0.974, 4.0, 10 * HIGH, 3, 0.02
LOSSES = {  # as a share of SCALE, as runs of `Sweep` are below 1
    "loss: power": lambda c: 0.9 * (c / LOW) ** -0.1,
    "loss: saturating": lambda c: 0.25 + 0.65 * (c / LOW) ** -0.15,
    "loss: shifted": lambda c: 0.10 + 0.85 * (1 + c / 3e10) ** -0.2,
}


def link(loss):
    """Return the error at a loss."""
    return 0.05 + (CHANCE - 0.05) / (1 + np.exp(-5 * (loss / 2.2 - 1)))


def averaged(rows, metric, chance):
    """Return the averaged forecast of a metric, as the product makes it."""
    points = compute_optimal(rows, metric)
    frontier = Frontier(BUDGET, points, chance=chance)
    noise = point_noise(rows, metric, points)
    return fit_forms(frontier, by_size(rows, metric), noise, True, winners_bias(rows, metric), strict=True).averaged


def forecasts(rows):
    """Return {way: bands} of the error at the target."""
    loss_sd, sd = (seed_noise(rows, metric)[0] for metric in (LOSS, ERROR))
    fitted = fit_link(rows, ERROR, LOSS, CHANCE)
    losses, errors = averaged(rows, LOSS, None), averaged(rows, ERROR, CHANCE)
    through = forecasts_through(losses, fitted, [TARGET], loss_sd=loss_sd, seeds=SEEDS)[0] if losses else None
    return {
        "through": through,
        "direct": forecast_bands(errors, TARGET, {"seed_sd": sd, "seeds": SEEDS}, []) if errors else None,
    }


def sweep_of(name, budgets, seed):
    """Return (rows of a sweep, the error measured at the target)."""
    rng = np.random.default_rng([seed, budgets, *map(ord, name)])
    draw = Sweep(Case(name, sd=0.01, curvature=0.02), rng)
    table = draw.runs(budgets)
    ahead = type(table)(draw.budget(TARGET))
    for each in (table, ahead):
        each[LOSS] = SCALE * each[METRIC]
        each[ERROR] = np.minimum(link(each[LOSS]) * np.exp(ERROR_SD * rng.standard_normal(len(each))), 0.9999)
    rows, _ = fit_rows(prepare(table, ERROR), ERROR, CHANCE, keep_above_chance=True)
    return rows, float(compute_optimal(prepare(ahead, ERROR), ERROR)["error"].iloc[0])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sweeps", type=int, default=100)
    parser.add_argument("--budgets", default="8,6")
    parser.add_argument("--only", default="", help="laws of the loss, as power,shifted")
    args = parser.parse_args()
    TRUTHS.update(LOSSES)
    print("| loss | budgets | forecast | held | open | width, median | off, median |\n|---|---|---|---|---|---|---|")
    start = time.process_time()
    for name in (f"loss: {only}" for only in args.only.split(",")) if args.only else LOSSES:
        for budgets in map(int, args.budgets.split(",")):
            results = {"through": [], "direct": []}
            for seed in range(args.sweeps):
                rows, measured = sweep_of(name, budgets, seed)
                for way, bands in forecasts(rows).items():
                    if bands is not None:
                        low, high = (np.nan if end is None else end for end in bands["mean"])
                        held = not (measured < low or measured > high)
                        off = abs(np.log(bands["predicted"] / measured))
                        results[way].append((held, np.isnan(low) or np.isnan(high), np.log(high / low), off))
            for way, each in results.items():
                held, is_open, width, off = np.array(each, float).T
                print(
                    f"| {name.removeprefix('loss: ')} | {budgets} | {way} | {held.mean():.1%} of {len(held)} "
                    f"| {is_open.mean():.0%} | {np.nanmedian(width):.2f} | {np.median(off):.1%} |",
                    flush=True,
                )
    print(f"\n{time.process_time() - start:.0f} s of processor time; width: ln(high / low)")


if __name__ == "__main__":
    main()
