"""How often do 95 % intervals of the compute-optimal allocation hold the truth? And what do real tables give?

    python benchmarks/fit_allocation.py [--tables=200] [--only=Chinchilla]
    python benchmarks/fit_allocation.py --folder=DIR     # chinchilla_epoch245.csv and porian_isoflop_dev.csv in it

Simulated tables of a known law, fitted as a user would; an open interval counts as holding the truth, and the share of
open ones stands beside. "10x" is ten times the largest budget of the table.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd

from clip_jax.scaling import laws
from clip_jax.scaling.fit.loss import Loss
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.frontier.allocation import compute_optimal_allocation
from clip_jax.scaling.frontier.cost import dense_cost
from clip_jax.scaling.frontier.cost_path import minimize_along_cost

CHINCHILLA = {"E": 1.8, "A": 480.0, "alpha": 0.35, "B": 2100.0, "beta": 0.37}
OVER = {"E": 1.5, "a": 110.0, "b": 190.0, "eta": 0.24}
TOWERS = {"E": 0.2, "A": 20.0, "alpha": 0.3, "T": 15.0, "tau": 0.35, "B": 60.0, "beta": 0.3}
REPEATED = {**CHINCHILLA, "R_data": 15.0, "R_params": 5.0}
BOUNDED = {"E": 0.15, "top": 0.999, "a": 120.0, "alpha": 0.33, "b": 160.0, "beta": 0.28}
PAIR_FLOPS = {"params_image": 6.0 * 50, "params_text": 6.0 * 77}


def valleys(rows, low=1e18, high=1e21, budgets=6, spread=1.5, k=6.0, best=lambda c: np.sqrt(c / 120)):
    """Sizes spread evenly by ``spread`` e-folds around a size per budget: about ``rows`` runs."""
    c = np.repeat(np.geomspace(low, high, budgets), rows // budgets)
    size = best(c) * np.exp(np.tile(np.linspace(-spread, spread, rows // budgets), budgets))
    return {"params": size, "samples_seen": c / k / size}


def cloud(rows, seed=0, k=6.0):
    """Runs scattered around the optimum over four decades."""
    rng = np.random.default_rng(seed)
    c = np.exp(rng.uniform(np.log(1e18), np.log(1e22), rows))
    size = np.sqrt(c / 120) * np.exp(rng.normal(0, 1.0, rows))
    return {"params": size, "samples_seen": c / k / size}


def towers(rows, seed=0):
    """Image towers, text towers and samples that vary apart."""
    rng = np.random.default_rng(seed)
    image, text = (np.exp(rng.uniform(np.log(3e6), np.log(6e8), rows)) for _ in range(2))
    return {
        "params_image": image,
        "params_text": text,
        "samples_seen": np.exp(rng.uniform(np.log(1e8), np.log(3e10), rows)),
    }


def repeated(rows, seed=0):
    """The cloud, with 1 to 60 passes over the data."""
    columns = cloud(rows, seed)
    passes = np.exp(np.random.default_rng(seed + 1).uniform(0, np.log(60), rows))
    return {**columns, "unique_samples": columns["samples_seen"] / passes}


# name: key of the law, truth, columns, sd of ln y, loss, held columns, FLOPs per parameter and sample
CASES = {
    "Chinchilla, 18 runs": ("chinchilla", CHINCHILLA, valleys(18), 0.003, Loss("squares"), {}, 6.0),
    "Chinchilla, 42 runs": ("chinchilla", CHINCHILLA, valleys(42), 0.005, Loss("squares"), {}, 6.0),
    "Chinchilla, 240 runs, Huber 1e-3": ("chinchilla", CHINCHILLA, cloud(240), 0.01, Loss(delta=1e-3), {}, 6.0),
    "over-training, 30 runs": ("overtraining", OVER, cloud(30), 0.01, Loss("squares"), {}, 6.0),
    "bounded Chinchilla, 60 runs": (
        "bounded-chinchilla", BOUNDED, valleys(60, 1e15, 1e19), 0.01, Loss("squares"), {}, 6.0),
    "CLIP towers, 80 runs": ("clip", TOWERS, towers(80), 0.005, Loss("squares"), {}, PAIR_FLOPS),
    "data repetition, 120 runs": (
        "repetition", REPEATED, repeated(120), 0.005, Loss("squares"), {"unique_samples": 1e10}, 6.0),
}  # fmt: skip


def coverage(case, tables, *, kind=None, draws=200, seed=0, law=None):
    """quantity -> (share of intervals that hold the truth, share that are open, median width of the closed)."""
    key, truth, columns, sd, loss, held, k = case
    law, rng = law or laws.law_named(key), np.random.default_rng(seed)
    logs = {c: np.log(v) for c, v in columns.items()}
    exact = law.curve(truth, logs, np)
    cost = dense_cost(law, k)
    spent = columns["samples_seen"] * np.exp(cost.log_per_sample(logs))
    budgets = spent.max() * np.array([1.0, 10.0])
    first = fit_law(law, columns, exact, loss=loss, fixed={}, profile=False)
    theta = law.theta(truth, first.references)[None]
    path = minimize_along_cost(first, theta, budgets, cost, held)
    inside, opened, widths = {}, {}, {}
    for _ in range(tables):
        y = exact * np.exp(sd * rng.standard_normal(len(exact)))
        fit = fit_law(law, columns, y, loss=loss, fixed={})
        allocation = compute_optimal_allocation(
            fit, budgets, k, held=held, kind=kind, draws=draws, seed=int(rng.integers(1e9))
        )
        for i, (o, at) in enumerate(zip(allocation.optima, ("1x", "10x"), strict=True)):
            looked = {f"{c} {at}": (v, np.exp(path.sizes[c][0, i])) for c, v in o.sizes.items()}
            looked[f"samples {at}"] = o.samples, np.exp(path.samples[0, i])
            looked[f"y {at}"] = o.value, path.value[0, i]
            if at == "1x":
                looked |= {
                    f"a of {c}": (v, path.exponents[c][0, i]) for c, v in o.exponents.items() if c != "samples_seen"
                }
                looked |= {
                    f"ln G of {c}": (v, path.log_factors[c][0, i]) for c, v in o.log_factors.items() if c in o.sizes
                }
            for name, (interval, wanted) in looked.items():
                inside.setdefault(name, []).append(bool(wanted in interval))
                opened.setdefault(name, []).append(interval.open_low or interval.open_high)
                widths.setdefault(name, []).append((interval.high - interval.low) / abs(interval.value))
    return {
        name: (np.mean(inside[name]), np.mean(opened[name]), np.median(widths[name])) for name in inside
    }  # fmt: skip


def real(folder):
    """What the published tables give."""
    df = pd.read_csv(folder / "chinchilla_epoch245.csv")
    df = df[df["excluded_by_published_fit"] == 0].rename(columns={"n_params": "params", "tokens": "samples_seen"})
    fit = fit_law(laws.Chinchilla(), df, df["loss"], loss=Loss(delta=1e-3))
    print("Chinchilla's runs (240), at the compute of Chinchilla 70B on 1.4e12 tokens:")
    print(compute_optimal_allocation(fit, 6 * 70e9 * 1.4e12).text)
    runs = pd.read_csv(folder / "porian_isoflop_dev.csv").rename(columns={"n": "params", "tokens": "samples_seen"})
    for config, rows in runs.groupby("config"):
        fit = fit_law(laws.Chinchilla(), rows, rows["loss"], loss=Loss(delta=1e-3))
        print(f"\n{config} ({len(rows)} runs): {fit.summary()}")
        print(compute_optimal_allocation(fit, float(rows["flops"].max())).text)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tables", type=int, default=200)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--kind", default=None, help="cases or parametric; by the number of rows")
    parser.add_argument("--only", default="", help="cases whose name has this")
    parser.add_argument("--folder", type=Path, help="real tables instead")
    args = parser.parse_args()
    if args.folder:
        return real(args.folder)
    start = time.time()
    print(f"{args.tables} tables, {args.draws} draws\n")
    print("| table | quantity | covers | open | relative width |\n|---|---|---|---|---|")
    for name, case in CASES.items():
        if args.only in name and case[0] in [law.key for law in laws.EVERY]:
            for quantity, (held, opened, width) in coverage(
                case, args.tables, kind=args.kind, draws=args.draws
            ).items():
                print(f"| {name} | {quantity} | {held:.1%} | {opened:.0%} | {width:.2g} |", flush=True)
    print(f"\n{time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
