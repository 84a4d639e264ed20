"""Does a loss that weighs runs above the curve less find the frontier of a cloud of badly tuned runs?

    python benchmarks/fit_under.py [--clouds=200]

Power law with b = 0.1; runs lie an exponential 10 % above it, with noise of 2 % in ln(error). All runs are fitted; no
frontier is selected. Bias and standard deviation over clouds; no interval is tested (nor should one be trusted).
"""

import argparse
from dataclasses import replace

import numpy as np

from clip_jax.scaling.fit import fit_law
from clip_jax.scaling.laws import PowerLaw
from clip_jax.scaling.loss import Loss
from clip_jax.scaling.solver import solve

B, LEVEL, LOW, HIGH = 0.1, 0.7, 1e10, 1e13
TUNING, NOISE = 0.1, 0.02
WEIGHTS = (1.0, 0.3, 0.1, 0.03, 0.01)


def truth(x):
    """The frontier."""
    return LEVEL * (x / LOW) ** -B


def biases(runs, under, clouds, *, delta=0.02, seed=0):
    """(bias of b, its sd, bias of ln y at 10x the largest compute, its sd); all clouds have the same computes."""
    rng = np.random.default_rng(seed)
    x = np.exp(rng.uniform(np.log(LOW), np.log(HIGH), runs))
    above = rng.exponential(TUNING, (clouds, runs)) + NOISE * rng.standard_normal((clouds, runs))
    ys, loss = truth(x) * np.exp(above), Loss(delta=delta, under=under)
    first = fit_law(PowerLaw(), x, ys[0], loss=loss, profile=False)
    begin = np.tile(first.theta, (clouds, 1))
    found = solve(first.law, first.logs, ys, begin, first.low, first.high, loss)
    b = first.law.describe(found.theta, first.references)["b"] - B
    ahead = [replace(first, theta=t).predict(10 * HIGH) for t in found.theta]
    off = np.log(np.ravel(ahead)) - np.log(truth(10 * HIGH))
    return float(b.mean()), float(b.std()), float(off.mean()), float(off.std())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--clouds", type=int, default=200)
    args = parser.parse_args()
    print("| runs | under | bias of b | sd of b | bias at 10x compute | sd |\n|---|---|---|---|---|---|")
    for runs in (60, 300):
        for under in WEIGHTS:
            b, b_sd, off, off_sd = biases(runs, under, args.clouds)
            print(f"| {runs} | {under} | {b:+.4f} | {b_sd:.4f} | {np.expm1(off):+.1%} | {off_sd:.1%} |", flush=True)


if __name__ == "__main__":
    main()
