"""How often do 95 % intervals of approaches 1 and 2 hold the true exponent and factor of N*? And on real tables?

    python benchmarks/fit_approaches.py [--tables=200] [--only=parabola]
    python benchmarks/fit_approaches.py --folder=DIR    # porian_*_dev.csv and isoflop_marin_nemotron.csv in it

Simulated IsoFLOP tables and training curves of a known Chinchilla law. "to one side" tries sizes from a quarter of the
best to ten times it: there the parabola itself is biased, which no interval of a scatter can hold.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd

from clip_jax.scaling.frontier.approaches import fit_envelope, fit_valleys
from clip_jax.scaling.laws import Chinchilla

TRUTH = {"E": 1.8, "A": 480.0, "alpha": 0.35, "B": 2100.0, "beta": 0.37}
LAW = Chinchilla()


def isoflop_table(rng, *, budgets=6, sizes=9, low=0.2, high=5.0, noise=0.003, seeds=1):
    """IsoFLOP runs; sizes from low to high times the best."""
    c = np.repeat(np.geomspace(1e18, 1e21, budgets), sizes * seeds)
    best, _ = LAW.optimum(TRUTH, c)
    size = best * np.tile(np.repeat(np.geomspace(low, high, sizes), seeds), budgets)
    data = c / 6 / size
    y = LAW.curve(TRUTH, {"params": np.log(size), "samples_seen": np.log(data)}, np)
    y = y * np.exp(noise * rng.standard_normal(len(c)))
    return pd.DataFrame({"budget": c, "params": size, "samples_seen": data, "loss": y})


def curve_table(rng, *, sizes=16, points=40, noise=0.003):
    """Training curves: each size sees 1 to 400 samples per parameter (about 20 are best); noise per run."""
    parts = []
    for i, n in enumerate(np.geomspace(3e7, 3e10, sizes)):
        data = np.geomspace(1, 400, points) * n
        y = LAW.curve(TRUTH, {"params": np.log(n), "samples_seen": np.log(data)}, np) * np.exp(
            noise * rng.standard_normal()
        )
        parts.append(pd.DataFrame({
            "run_id": f"r{i:02d}", "flops": 6 * n * data, "params": n, "samples_seen": data, "loss": y,
        }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


CASES = {
    "2, parabola": (isoflop_table, {}, fit_valleys, {}),
    "2, parabola, 4 budgets": (isoflop_table, {"budgets": 4}, fit_valleys, {}),
    "2, parabola, 3 seeds": (isoflop_table, {"seeds": 3, "sizes": 6, "noise": 0.006}, fit_valleys, {}),
    "2, parabola, flat valleys": (isoflop_table, {"noise": 0.01}, fit_valleys, {}),
    "2, cubic": (isoflop_table, {}, fit_valleys, {"way": "cubic"}),
    "2, akima": (isoflop_table, {"noise": 0.001}, fit_valleys, {"way": "akima"}),
    "2, parabola, to one side": (isoflop_table, {"low": 0.25, "high": 10.0}, fit_valleys, {}),
    "2, cubic, to one side": (isoflop_table, {"low": 0.25, "high": 10.0}, fit_valleys, {"way": "cubic"}),
    "1, envelope": (curve_table, {}, fit_envelope, {}),
    "1, envelope, 40 sizes": (curve_table, {"sizes": 40}, fit_envelope, {}),
}  # fmt: skip


def coverage(case, tables, *, draws=200, seed=0):
    """quantity -> (share that hold the truth, bias, median width), and the share of tables that are identified."""
    make, table, fit, options = case
    rng, rows = np.random.default_rng(seed), []
    a = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])
    ln_g = float(np.log(LAW.optimum(TRUTH, 1.0)[0]))
    at, inside = 1e22, []
    for _ in range(tables):
        result = fit(make(rng, **table), draws=draws, seed=int(rng.integers(1e9)), **options)
        inside.append(result.status == "identified")
        if inside[-1]:
            p = result.params
            looked = {"a": (p.exponent, a), "ln G": (p.log_factor, ln_g)}
            if fit is fit_valleys:
                looked["N* at 10x"] = p.at(at), float(LAW.optimum(TRUTH, at)[0])
            rows.append({k: (bool(t in v), v.value / t - 1, v.width / abs(t)) for k, (v, t) in looked.items()})
    names = rows[0] if rows else ()
    return {
        n: tuple(f([r[n][i] for r in rows]) for i, f in enumerate((np.mean, np.mean, np.median))) for n in names
    }, float(np.mean(inside))


def real(folder):
    """What the published tables give."""
    runs = pd.read_csv(folder / "isoflop_marin_nemotron.csv")
    print("marin (published, plain least squares on all budgets: N* .4224, D* .5532)")
    print(fit_valleys(runs, samples="tokens", space="linear").text)
    runs = pd.read_csv(folder / "porian_isoflop_dev.csv")
    print("\nporian (published: kaplan setup .835 [.8235, .8460], tuned setup .497 [.4907, .5045])")
    for config, rows in runs.groupby("config"):
        print(config)
        print(fit_valleys(rows, budget="flops", params="n", samples="tokens", way="akima").text)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tables", type=int, default=200)
    parser.add_argument("--only", default="", help="cases whose name has this")
    parser.add_argument("--folder", type=Path, help="real tables instead")
    args = parser.parse_args()
    if args.folder:
        return real(args.folder)
    start = time.time()
    print(f"{args.tables} tables\n")
    print("| approach | quantity | covers | bias | relative width | identified |\n|---|---|---|---|---|---|")
    for name, case in CASES.items():
        if args.only in name:
            shares, share = coverage(case, args.tables)
            for quantity, (held, bias, width) in shares.items():
                print(f"| {name} | {quantity} | {held:.1%} | {bias:+.2%} | {width:.2g} | {share:.0%} |", flush=True)
    print(f"\n{time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
