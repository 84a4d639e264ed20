"""How biased is a law that was fitted to a frontier? Synthetic clouds of runs above a known one, and IsoFLOP valleys.

    python benchmarks/fit_frontier.py [--clouds=300]

A cloud: runs at random computes, each above the true frontier by an exponential amount (how badly it was tuned), then
measured with noise. The lowest of many is lucky: noise pulls a frontier below the truth, few runs leave it above.
"""

import argparse
from typing import get_args

import numpy as np

from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.frontier.frontier import binned, binned_centers, hull, octaves, pareto
from clip_jax.scaling.frontier.isoflop import Way, lowest_point
from clip_jax.scaling.laws import Chinchilla, PowerLaw
from clip_jax.scaling.uncertainty.bootstrap import bootstrap, bootstrap_frontier

B, LEVEL, LOW, HIGH = 0.1, 0.7, 1e10, 1e13


def truth(x):
    return LEVEL * (x / LOW) ** -B


def cloud(rng, runs, tuning, noise):
    x = np.exp(rng.uniform(np.log(LOW), np.log(HIGH), runs))
    return x, truth(x) * np.exp(rng.exponential(tuning, runs) + noise * rng.standard_normal(runs))


def by_bins(x, y):
    return binned(x, y, octaves(x, x.min()))


RULES = {"all runs": None, "strict Pareto": pareto, "binned": by_bins, "hull": hull, "5 bins, centres": binned_centers}


def points(rule, x, y):
    select = RULES[rule]
    if select is None:
        return x, y
    if select is binned_centers:
        return binned_centers(x, y)
    chosen = select(x, y)
    return x[chosen], y[chosen]


def rules(clouds):
    print("| runs | tuning | noise | rule | bias of b | sd of b | bias at 10x compute | sd |")
    print("|---|---|---|---|---|---|---|---|")
    for runs, tuning, noise in ((60, 0.1, 0.0), (60, 0.1, 0.02), (600, 0.1, 0.0), (600, 0.1, 0.02)):
        for rule in RULES:
            exponents, forecasts = [], []
            for seed in range(clouds):
                x, y = points(rule, *cloud(np.random.default_rng(seed), runs, tuning, noise))
                if len(x) < 3:
                    continue
                slope, level = np.polyfit(np.log(x), np.log(y), 1)
                exponents.append(-slope - B)
                forecasts.append(level + slope * np.log(10 * HIGH) - np.log(truth(10 * HIGH)))
            b, f = np.array(exponents), np.array(forecasts)
            print(
                f"| {runs} | {tuning} | {noise} | {rule} | {b.mean():+.4f} | {b.std():.4f} | "
                f"{np.expm1(f.mean()):+.1%} | {f.std():.1%} |"
            )


def intervals(clouds):
    print("\n| runs | interval of b | covers |\n|---|---|---|")
    for runs in (60, 300):
        ways = {
            "cases of a frontier kept": None,
            "frontier selected again": 1.0,
            "again, from 70 % of the runs": 0.7,
            "again, from 40 %": 0.4,
        }
        inside = dict.fromkeys(ways, 0)
        for seed in range(clouds):
            x, y = cloud(np.random.default_rng(seed), runs, 0.1, 0.01)
            for way, share in ways.items():
                if share is None:
                    kept = pareto(x, y)
                    ensemble = bootstrap(
                        fit_law(PowerLaw(), x[kept], y[kept], profile=False), kind="cases", replicas=200
                    )
                else:
                    ensemble = bootstrap_frontier(PowerLaw(), x, y, pareto, replicas=200, share=share, profile=False)
                low, high = ensemble.interval("b")
                inside[way] += low <= B <= high
        for way, count in inside.items():
            print(f"| {runs} | {way} | {count / clouds:.0%} |", flush=True)


def valleys():
    """Exponent of N* from exact IsoFLOP losses: sizes tried around the optimum, or with a center that drifts."""
    law = Chinchilla()
    values = {"E": 1.8, "A": 480.0, "alpha": 0.35, "B": 2100.0, "beta": 0.37}
    leaning = {**values, "alpha": 0.5, "beta": 0.25, "A": 4000.0, "B": 300.0}
    print("\n| surface | sizes tried | way | exponent of N* | truth | N* at 100x compute, off by |")
    print("|---|---|---|---|---|---|")
    budgets = np.geomspace(1e18, 1e21, 7)
    for name, v in (("alpha .35 beta .37", values), ("alpha .5 beta .25", leaning)):
        right = v["beta"] / (v["alpha"] + v["beta"])
        for text, width, drift in (("±4x", 4, 0.0), ("±16x", 16, 0.0), ("±16x, center drifts 3x", 16, np.log(3))):
            for way in get_args(Way):
                optima = []
                for k, c in enumerate(budgets):
                    center = float(law.optimum(v, c)[0]) * np.exp(drift * (k / 6 - 0.5))
                    size = center * np.geomspace(1 / width, width, 11)
                    y = law.curve(v, {"params": np.log(size), "samples_seen": np.log(c / 6 / size)}, np)
                    lowest = lowest_point(np.log(size), np.log(y), way)
                    optima.append(lowest.x if lowest.x is not None else np.nan)
                ok = np.isfinite(optima)
                slope, level = np.polyfit(np.log(budgets)[ok], np.array(optima)[ok], 1)
                far = 100 * budgets[-1]
                off = np.exp(level + slope * np.log(far)) / float(law.optimum(v, far)[0]) - 1
                print(f"| {name} | {text} | {way} | {slope:.4f} | {right:.4f} | {off:+.1%} |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--clouds", type=int, default=300)
    parser.add_argument("--only", default="", choices=("", "rules", "intervals", "valleys"))
    args = parser.parse_args()
    if args.only in ("", "rules"):
        rules(args.clouds)
    if args.only in ("", "intervals"):
        intervals(min(args.clouds, 200))
    if args.only in ("", "valleys"):
        valleys()


if __name__ == "__main__":
    main()
