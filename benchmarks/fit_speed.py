"""How fast is Chinchilla's approach 3, converged? Against scipy's L-BFGS-B from the usual 4,500 starts, in one run.

    python benchmarks/fit_speed.py [TABLE.csv with n_params, tokens, loss] [--starts=4500] [--cpu]

Without a table, 240 rows are simulated. Seconds are those of a clock, or with ``--cpu`` of all processors together,
which other work on the machine changes less. The objective is the published one: the sum of Huber losses (1e-3) of
ln(loss).
"""

import argparse
import os
import time
from itertools import product

import numpy as np
from scipy.optimize import minimize

from clip_jax.scaling.analysis.averaging import average
from clip_jax.scaling.analysis.frontier_fit import FrontierFit
from clip_jax.scaling.fit.loss import Loss
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.laws import LAWS, Chinchilla
from clip_jax.scaling.uncertainty.bootstrap import bootstrap

LOSS = Loss("huber", "log", 1e-3)
CLOCKS = {False: time.perf_counter, True: time.process_time}


def rows(path):
    if path:
        import pandas as pd

        df = pd.read_csv(path)
        if "excluded_by_published_fit" in df:
            df = df[df["excluded_by_published_fit"] == 0]
        return df["n_params"].to_numpy(float), df["tokens"].to_numpy(float), df["loss"].to_numpy(float)
    rng = np.random.default_rng(0)
    flops = np.exp(rng.uniform(np.log(1e18), np.log(1e22), 240))
    size = np.sqrt(flops / 120) * np.exp(rng.normal(0, 1.0, 240))
    data = flops / 6 / size
    return size, data, (1.8 + 480 / size**0.35 + 2100 / data**0.37) * np.exp(0.004 * rng.standard_t(3, 240))


def scipy_fit(size, data, y, starts, clock):
    """(lowest objective, share of starts within 1e-3 of it, seconds); gradients are given, losses are summed."""
    n, d, target = np.log(size), np.log(data), np.log(y)

    def objective(theta):
        a, b, e, alpha, beta = theta
        parts = np.stack([a - alpha * n, b - beta * d, np.full_like(n, e)])
        top = parts.max(axis=0)
        weights = np.exp(parts - top)
        total = weights.sum(axis=0)
        r = top + np.log(total) - target
        pull = np.clip(r, -LOSS.delta, LOSS.delta) * (weights / total)
        size_part, data_part, rest = pull
        slope = [size_part.sum(), data_part.sum(), rest.sum(), -(size_part * n).sum(), -(data_part * d).sum()]
        return float(LOSS.values(r).sum()), np.array(slope)

    amplitudes, exponents = (0, 5, 10, 15, 20, 25), (0, 0.5, 1, 1.5, 2)
    grid = list(product(amplitudes, amplitudes, (-1, -0.5, 0, 0.5, 1), exponents, exponents))
    chosen = [grid[i] for i in np.linspace(0, len(grid) - 1, starts).astype(int)]
    begin = clock()
    ends = [minimize(objective, s, jac=True, method="L-BFGS-B", options={"maxiter": 2000}).fun for s in chosen]
    seconds = clock() - begin
    return min(ends), float(np.mean(np.array(ends) <= min(ends) * 1.001)), seconds


def averaged(clock, rows=240):
    """(seconds with compiling, seconds compiled) of a forecast averaged over forms from one column of 240 rows."""
    rng = np.random.default_rng(0)
    flops = np.sort(np.exp(rng.uniform(np.log(1e10), np.log(1e13), rows)))
    error = (0.1 + 0.85 * (1 + flops / 3e10) ** -0.35) * np.exp(0.02 * rng.standard_normal(rows))

    def forecast():
        fitted = {law.key: FrontierFit(fit_law(law, flops, error, profile=False)) for law in LAWS}
        return average(fitted).forecast(1e14)

    seconds = []
    for _ in range(4):
        begin = clock()
        forecasted = forecast()
        seconds.append(clock() - begin)
    return seconds[0], min(seconds[1:]), forecasted


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("table", nargs="?")
    parser.add_argument("--starts", type=int, default=4500)
    parser.add_argument("--replicas", type=int, default=4000, help="case bootstraps")
    parser.add_argument("--cpu", action="store_true")
    args = parser.parse_args()
    clock = CLOCKS[args.cpu]
    unit = "CPU s" if args.cpu else "s"
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    size, data, y = rows(args.table)
    law, columns = Chinchilla(), {"params": size, "samples_seen": data}

    def timed(f):
        begin = clock()
        return f(), clock() - begin

    fit, first = timed(lambda: fit_law(law, columns, y, loss=LOSS, profile=False))
    fit, again = min(
        (timed(lambda: fit_law(law, columns, y, loss=LOSS, profile=False)) for _ in range(5)), key=lambda r: r[1]
    )
    _, checked = timed(lambda: fit_law(law, columns, y, loss=LOSS))
    _, boot = timed(lambda: bootstrap(fit, kind="cases", replicas=args.replicas))
    with_compiling, warm, curves = averaged(clock)
    lowest, share, of_scipy = scipy_fit(size, data, y, args.starts, clock)
    print(f"{len(y)} rows; {fit.screened} starts screened, {fit.starts} polished, {fit.agree} agree")
    print(f"point fit, compiled            {again:8.3f} {unit}   objective {fit.objective:.14g}")
    print(f"point fit, first call          {first:8.3f} {unit}")
    print(f"point fit with profile checks  {checked:8.3f} {unit}")
    print(f"{args.replicas:,} case bootstraps          {boot:8.3f} {unit}")
    low, high = curves["curve"]
    forecast = f"{curves['median']:.4f} [{low:.4f}, {high:.4f}] at 10x, 5 forms"
    print(f"averaged forecast, compiled    {warm:8.3f} {unit}   {forecast}")
    print(f"averaged forecast, first call  {with_compiling:8.3f} {unit}")
    end = f"objective {lowest:.14g}, reached by {share:.1%}"
    print(f"scipy L-BFGS-B, {args.starts} starts    {of_scipy:8.3f} {unit}   {end}")
    print(f"ratio, point fit               {of_scipy / again:8.0f} ×")


if __name__ == "__main__":
    main()
