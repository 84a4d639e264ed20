"""How often do 95 % intervals hold the truth? Simulated tables with a known law, fitted as a user would.

    python benchmarks/fit_coverage.py [--replicates=2000] [--only=power]

Profile intervals are tested by inversion: an interval holds the truth where the fit with the truth held is not worse by
more than the threshold. Fits begin at the truth (and at two more asymptotes), so this is about intervals, not starts.
"""

import argparse
import time
from dataclasses import replace

import numpy as np

from clip_jax.scaling.data.observations import Points
from clip_jax.scaling.fit.loss import Loss
from clip_jax.scaling.fit.result import Fit
from clip_jax.scaling.fit.solver import solve
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.laws import Chinchilla, PowerLaw, SaturatingPowerLaw
from clip_jax.scaling.profile.profile_likelihood import statistic, threshold
from clip_jax.scaling.uncertainty.bootstrap import bootstrap

POWER = {"a": 0.7 * 1e10**0.1, "b": 0.1}
BENT = {"E": 0.15, "a": 0.5 * 1e10**0.25, "b": 0.25}
SIZES = {"E": 1.8, "A": 480.0, "alpha": 0.35, "B": 2100.0, "beta": 0.37}


def flops(n, decades=3.0):
    return {"flops": np.geomspace(1e10, 10 ** (10 + decades), n)}


def cells(n, seed=0):
    """Sizes and samples around the optimum of budgets over four decades."""
    rng = np.random.default_rng(seed)
    c = np.exp(rng.uniform(np.log(1e18), np.log(1e22), n))
    size = np.sqrt(c / 120) * np.exp(rng.normal(0, 1.0, n))
    return {"params": size, "samples_seen": c / 6 / size}


# name: law, truth, columns, standard deviation of ln(y), loss, held parameters, what is looked at, weakly identified
CASES = {
    "power law, 6 points": (PowerLaw(), POWER, flops(6), 0.02, Loss("squares"), {}, ["b"], False),
    "power law, 12 points": (PowerLaw(), POWER, flops(12), 0.02, Loss("squares"), {}, ["b"], False),
    "power law, 12 points, Huber 0.02": (PowerLaw(), POWER, flops(12), 0.02, Loss(), {}, ["b"], False),
    "saturating, E pinned, 8 points": (
        SaturatingPowerLaw(), BENT, flops(8), 0.02, Loss("squares"), {"E": 0.15}, ["b"], False),
    "saturating, E pinned, 16 points": (
        SaturatingPowerLaw(), BENT, flops(16), 0.02, Loss("squares"), {"E": 0.15}, ["b"], False),
    "Chinchilla, 60 rows": (
        Chinchilla(), SIZES, cells(60), 0.005, Loss("squares"), {}, ["alpha", "beta", "E"], False),
    "Chinchilla, 240 rows": (
        Chinchilla(), SIZES, cells(240), 0.005, Loss("squares"), {}, ["alpha", "beta", "E"], False),
    "Chinchilla, 240 rows, Huber 1e-3": (
        Chinchilla(), SIZES, cells(240), 0.005, Loss("huber", delta=1e-3), {}, ["alpha", "beta", "E"], False),
    "saturating, E free, 5 points": (
        SaturatingPowerLaw(), BENT, flops(5, 1.5), 0.02, Loss("squares"), {}, ["b", "E"], True),
    "saturating, E free, 16 points": (
        SaturatingPowerLaw(), BENT, flops(16, 1.5), 0.02, Loss("squares"), {}, ["b", "E"], True),
}  # fmt: skip


def fits_of(case, replicates, seed=0):
    """(a Fit whose data and theta are replaced for each replicate, theta [R, p], objective [R], y [R, n])."""
    law, truth, columns, sd, loss, held, _, _ = case
    rng = np.random.default_rng(seed)
    exact = law.curve(truth, {c: np.log(v) for c, v in columns.items()}, np)
    y = exact * np.exp(sd * rng.standard_normal((replicates, len(exact))))
    first = fit_law(
        law, columns, exact * np.exp(1e-3 * rng.standard_normal(len(exact))), loss=loss, fixed=held, profile=False
    )
    first = replace(first, low=np.where(np.array(law.names) == "E", 0.0, first.low))
    first = replace(first, theta=law.theta(truth, first.references))
    begins = [first.theta]
    if "E" in law.names and "E" not in held:
        for share in (0.02, 0.9):
            begin = first.theta.copy()
            begin[law.index("E")] = share * exact.min()
            begins.append(begin)
    ends = [
        solve(law, first.logs, y, np.tile(b, (replicates, 1)), first.low, first.high, loss, free=first.free_mask)
        for b in begins
    ]
    best = np.argmin([e.objective for e in ends], axis=0)
    theta = np.stack([e.theta for e in ends])[best, np.arange(replicates)]
    return first, theta, np.min([e.objective for e in ends], axis=0), y


def one(first: Fit, theta, objective, y) -> Fit:
    return replace(first, theta=theta, objective=float(objective), data=Points(first.data.columns, y, np.ones(len(y))))


def profile_coverage(case, replicates, seed=0):
    """name -> share of replicates whose profile interval holds the truth."""
    law, truth, _, _, loss, _, names, _ = case
    first, theta, objective, y = fits_of(case, replicates, seed)
    wanted, out = law.theta(truth, first.references), {}
    for name in names:
        i = law.index(name)
        free = first.free_mask & (np.arange(len(wanted)) != i)
        held = [theta.copy(), np.tile(wanted, (replicates, 1))]
        for h in held:
            h[:, i] = wanted[i]
        ends = np.min(
            [solve(law, first.logs, y, h, first.low, first.high, loss, free=free).objective for h in held], axis=0
        )
        inside = 0
        for r in range(replicates):
            fit = one(first, theta[r], objective[r], y[r])
            inside += float(statistic(fit, ends[r])) <= threshold(fit, 0.95)
        out[name] = inside / replicates
    return out


def percentile_coverage(case, replicates, resamples=200, seed=0):
    """The same for percentile intervals of a case bootstrap."""
    law, truth, _, _, loss, _, names, _ = case
    first, theta, _, y = fits_of(case, replicates, seed)
    n, rng = y.shape[1], np.random.default_rng(seed + 1)
    inside = dict.fromkeys(names, 0)
    for part in np.array_split(np.arange(replicates), max(1, replicates // 20)):
        weights = np.stack(
            [np.bincount(d, minlength=n) for d in rng.integers(0, n, (len(part) * resamples, n))]
        ).astype(float)
        ends = solve(
            law, first.logs, np.repeat(y[part], resamples, axis=0), np.repeat(theta[part], resamples, axis=0),
            first.low, first.high, loss, weights=weights, free=first.free_mask,
        )  # fmt: skip
        enough = (weights > 0).sum(axis=1) > first.free
        draws = law.describe(ends.theta, first.references)
        for name in names:
            values = np.where(enough, draws[name], np.nan).reshape(len(part), resamples)
            low, high = np.nanquantile(values, (0.025, 0.975), axis=1)
            inside[name] += int(((low <= truth[name]) & (truth[name] <= high)).sum())
    return {k: v / replicates for k, v in inside.items()}


def bootstrap_t(fit, quantity, ensemble, level=0.95):
    """Return the studentized interval of a quantity of theta ([..., p] -> [...]), from a ``cases`` ensemble.

    Each replica's distance is measured in its own standard error (Efron and Tibshirani, 1993, chapter 12).
    """
    center, drawn = float(quantity(fit.theta)), quantity(ensemble.replicas)
    se = standard_errors(fit, quantity, fit.theta[None], np.array([fit.residual_sd]))[0]
    each = standard_errors(fit, quantity, ensemble.replicas, ensemble.noise)
    t = (drawn - center) / np.maximum(each, 1e-12 * se)
    low, high = np.quantile(t, [(1 - level) / 2, (1 + level) / 2])
    return center - se * float(high), center - se * float(low)


def standard_errors(fit, quantity, thetas, noise):
    """Return the delta-method standard error of the quantity at each theta [R, p]; noise [R] is its residual sd."""
    free = np.flatnonzero(fit.free_mask)
    out, parts = [], max(1, len(thetas) // 200)  # a Jacobian of thousands of replicas is large
    for part, sd in zip(np.array_split(thetas, parts), np.array_split(noise, parts), strict=True):
        j = fit.jacobian(part)[..., free]
        inverse = np.linalg.pinv(np.einsum("rnk,rnl->rkl", j, j), hermitian=True)
        slopes = []
        for i in free:
            step = np.zeros(part.shape[1])
            step[i] = 1e-5
            slopes.append((quantity(part + step) - quantity(part - step)) / 2e-5)
        s = np.stack(slopes, axis=-1)
        out.append(sd * np.sqrt(np.maximum(np.einsum("rk,rkl,rl->r", s, inverse, s), 0)))
    return np.concatenate(out)


def studentised(case, replicates, seed=0):
    """The same for bootstrap-t intervals (200 resamples)."""
    law, truth, _, _, _, _, names, _ = case
    first, theta, objective, y = fits_of(case, replicates, seed)
    wanted, inside = law.theta(truth, first.references), dict.fromkeys(names, 0)
    for r in range(replicates):
        fit = one(first, theta[r], objective[r], y[r])
        ensemble = bootstrap(fit, kind="cases", replicas=200, seed=seed + r)
        for name in names:
            i = law.index(name)
            low, high = bootstrap_t(fit, lambda t, i=i: t[..., i], ensemble)
            inside[name] += low <= wanted[i] <= high
    return {k: v / replicates for k, v in inside.items()}


def warned(case, count=40, seed=0):
    """Share of replicates in which the fit says that it is not identified."""
    law, _, columns, _, loss, held, _, _ = case
    _, _, _, y = fits_of(case, count, seed)
    return float(np.mean([not fit_law(law, columns, row, loss=loss, fixed=held).identified for row in y]))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--replicates", type=int, default=2000)
    parser.add_argument("--bootstrap", type=int, default=400, help="replicates of the bootstraps; 0 skips them")
    parser.add_argument("--only", default="", help="cases whose name has this")
    args = parser.parse_args()
    print(f"profile: {args.replicates} replicates; case bootstraps: {args.bootstrap} of 200 resamples\n")
    print(
        "| law | parameter | profile | percentile bootstrap | bootstrap-t | fits that warn |\n|---|---|---|---|---|---|"
    )
    start = time.time()
    for name, case in CASES.items():
        if args.only not in name:
            continue
        profile = profile_coverage(case, args.replicates)
        percentile = percentile_coverage(case, args.bootstrap) if args.bootstrap else {}
        t = studentised(case, args.bootstrap) if args.bootstrap and len(case[2][case[0].columns[0]]) < 20 else {}
        share = f"{warned(case):.0%}" if case[-1] else "-"
        for parameter, covered in profile.items():
            other = f"{percentile[parameter]:.1%}" if percentile else "-"
            third = f"{t[parameter]:.1%}" if t else "-"
            print(f"| {name} | {parameter} | {covered:.1%} | {other} | {third} | {share} |", flush=True)
    print(f"\n{time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
