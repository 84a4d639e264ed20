"""Does the collapse of learning curves tell faulty runs from sound ones? Planted sweeps, in simulation.

    python benchmarks/curve_collapse.py [--sweeps=400] [--only=rate]

Each sweep has sound runs of some sizes and seeds under a cosine, from which the common curve and its band are fitted
(`scaling.curves.collapse`). Then a new run of a size within them, and one of twice the largest, are judged: sound ones,
and ones with a fault that is there from the start or begins before a third of the run. "Flagged" is over the whole run,
"by a third" before a third of it.

The reducible loss is R(N)·(0.35 + 0.5·S^-0.5 + 0.15·r): r is the rate relative to the peak of sound runs, S its
integral over the part of the run that is done. Noise: 0.5 % of the reducible loss between runs; 0.3 % of the loss from
row to row, half of it kept at the next of 100 rows.
"""

import argparse

import numpy as np

from clip_jax.scaling.curves.collapse import RunCurve, fit_collapse

L0, ROWS, WARMUP, SIZE_POWER = 1.5, 100, 0.02, 0.3
BETWEEN, ROW, KEPT = 5e-3, 3e-3, 0.5
STEPS = 10_000
X = np.arange(1, ROWS + 1) / ROWS


def rate(x, length=1.0):
    """Rate relative to its peak at parts of a run, whose cosine to a tenth ends at ``length``."""
    wave = 0.55 + 0.45 * np.cos(np.pi * np.minimum(x / length, 1))
    return np.minimum(x / WARMUP, 1) * wave


def shape(*, times=1.0, length=1.0):
    fine = np.linspace(0, 1, 20 * ROWS + 1)[1:]
    area = times * np.cumsum(rate(fine, length)) / len(fine)
    return 0.35 + 0.5 * area[19::20] ** -0.5 + 0.15 * times * rate(X, length)


def linear(start, end):
    """0 before ``start``, rising to 1 at ``end``."""
    return np.clip((X - start) / (end - start), 0, 1)


SOUND = shape()
FAULTS = {
    "none": SOUND,
    "rate, half": shape(times=0.5),
    "rate, a third": shape(times=1 / 3),
    "rate, twice": shape(times=2.0),
    "decay, for a third of the run": shape(length=1 / 3),
    "decay, for half the run": shape(length=0.5),
    "decay, for twice the run": shape(length=2.0),
    "data, 5 % of the reducible loss worse from a tenth on": SOUND * (1 + 0.05 * linear(0.1, 0.15)),
    "data, 10 % worse from a fifth on": SOUND * (1 + 0.1 * linear(0.2, 0.25)),
    "data, repeated: 10 % better from a tenth on": SOUND * (1 - 0.1 * linear(0.1, 0.3)),
}
SWEEPS = {"4 sizes, 2 seeds": (4, 2), "5 sizes, 3 seeds": (5, 3)}


def run_of(rng, curve, params):
    reducible = 0.9 * (params / 1e6) ** -SIZE_POWER * curve * np.exp(BETWEEN * rng.standard_normal())
    noise = rng.standard_normal(ROWS)
    for i in range(1, ROWS):
        noise[i] = KEPT * noise[i - 1] + np.sqrt(1 - KEPT**2) * noise[i]
    losses = (L0 + reducible) * np.exp(ROW * noise)
    horizon = round(STEPS * (params / 1e6) ** 0.5)
    return RunCurve("run", params, horizon, np.round(X * horizon).astype(int), losses)


def judged(sizes, seeds, sweeps, only="", seed=0):
    """fault -> (flagged within the sizes, by a third, flagged at twice the largest size, by a third), and every L0."""
    rng = np.random.default_rng(seed)
    ladder = 1e6 * 3.0 ** np.arange(sizes)
    flagged = {name: [] for name in FAULTS if only in name}
    irreducible = []
    for _ in range(sweeps):
        collapse = fit_collapse([run_of(rng, SOUND, n) for n in ladder for _ in range(seeds)])
        irreducible.append(collapse.irreducible)
        for name, curve in FAULTS.items():
            if name in flagged:
                departures = [collapse.departure(run_of(rng, curve, n)) for n in (ladder[1], 2 * ladder[-1])]
                flagged[name].append([v for d in departures for v in (d is not None, d is not None and d.at <= 1 / 3)])
    return {name: np.mean(f, axis=0) for name, f in flagged.items()}, irreducible


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=400)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    print("| sound runs | fault | flagged | by a third | at twice the largest size | by a third |")
    print("|---|---|---|---|---|---|")
    for name, (sizes, seeds) in SWEEPS.items():
        shares, irreducible = judged(sizes, seeds, args.sweeps, args.only)
        for fault, share in shares.items():
            print(f"| {name} | {fault} | " + " | ".join(f"{s:.1%}" for s in share) + " |")
        print(f"<!-- {name}: L0 {np.mean(irreducible):.3f} ± {np.std(irreducible):.3f} (planted {L0}) -->", flush=True)


if __name__ == "__main__":
    main()
