"""Does a loss that weighs runs above the curve less find the frontier of a cloud of badly tuned runs?

    python benchmarks/fit_under.py [--clouds=200] [--runs=60]

Power law with b = 0.1; runs lie an exponential (mean ``tuning``) above it, with noise in ln(error). All runs are
fitted; no frontier is selected. Bias and standard deviation over clouds, and how often 95 % profile intervals hold the
frontier (b, and the curve at 10x) and the mean of such fits at 10x, of which they are intervals.
"""

import argparse
from dataclasses import replace

import numpy as np

from clip_jax.scaling.fit.loss import Loss
from clip_jax.scaling.fit.solver import solve
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.laws import PowerLaw
from clip_jax.scaling.profile.profile_likelihood import parameter_statistic, prediction_statistic, threshold

B, LEVEL, LOW, HIGH = 0.1, 0.7, 1e10, 1e13
WEIGHTS, TWO = (1.0, 0.3, 0.1, 0.03, 0.01), (0.1, 0.03)
CLOUDS = {  # runs, tuning, noise: weights
    (60, 0.1, 0.02): WEIGHTS, (60, 0.03, 0.02): TWO, (60, 0.3, 0.02): TWO, (60, 0.1, 0.05): TWO,
    (300, 0.1, 0.02): WEIGHTS, (300, 0.03, 0.02): TWO, (300, 0.3, 0.02): TWO,
}  # fmt: skip


def truth(x):
    """The frontier."""
    return LEVEL * (x / LOW) ** -B


def fits_of(runs, under, clouds, *, tuning=0.1, noise=0.02, delta=0.02, seed=0):
    """Return a fit of each cloud; all clouds have the same computes."""
    rng = np.random.default_rng(seed)
    x = np.exp(rng.uniform(np.log(LOW), np.log(HIGH), runs))
    above = rng.exponential(tuning, (clouds, runs)) + noise * rng.standard_normal((clouds, runs))
    ys, loss = truth(x) * np.exp(above), Loss(delta=delta, under=under)
    first = fit_law(PowerLaw(), x, ys[0], loss=loss, profile=False)
    begin = np.tile(first.theta, (clouds, 1))
    ends = solve(first.law, first.logs, ys, begin, first.low, first.high, loss)
    return [
        replace(first, theta=t, objective=float(o), data=replace(first.data, y=y))
        for t, o, y in zip(ends.theta, ends.objective, ys, strict=True)
    ]


def biases(fits):
    """(bias of b, its sd, bias of ln y at 10x the largest compute, its sd)."""
    b = np.array([fit.values["b"] for fit in fits]) - B
    off = np.log([float(fit.predict(10 * HIGH)) for fit in fits]) - np.log(truth(10 * HIGH))
    return float(b.mean()), float(b.std()), float(off.mean()), float(off.std())


def coverage(fits):
    """Shares of 95 % profile intervals that hold b, the frontier at 10x, and the mean of the fits there."""
    mean = np.exp(np.mean([np.log(float(fit.predict(10 * HIGH))) for fit in fits]))
    held = [
        [
            *(parameter_statistic(fit, "b", np.array([B])) <= threshold(fit, 0.95)),
            *(prediction_statistic(fit, 10 * HIGH, np.array([truth(10 * HIGH), mean])) <= threshold(fit, 0.95)),
        ]
        for fit in fits
    ]
    return np.mean(held, axis=0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--clouds", type=int, default=200)
    parser.add_argument("--runs", type=int, default=0, help="clouds of so many runs only")
    args = parser.parse_args()
    print("| runs | tuning, noise | under | bias of b | sd of b | bias at 10x | sd | b | frontier at 10x | mean fit |")
    print("|---" * 10 + "|")
    for (runs, tuning, noise), weights in CLOUDS.items():
        for under in weights if args.runs in (0, runs) else ():
            fits = fits_of(runs, under, args.clouds, tuning=tuning, noise=noise)
            b, b_sd, off, off_sd = biases(fits)
            held = " | ".join(f"{v:.1%}" for v in coverage(fits))
            bias = f"{b:+.4f} | {b_sd:.4f} | {np.expm1(off):+.1%} | {off_sd:.1%}"
            print(f"| {runs} | {tuning:.0%}, {noise:.0%} | {under} | {bias} | {held} |", flush=True)


if __name__ == "__main__":
    main()
