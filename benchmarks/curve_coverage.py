"""How often do 95 % intervals of laws of whole learning curves hold the truth? Planted curves, fitted as a user would.

    python benchmarks/curve_coverage.py [--tables=200] [--replicas=200] [--only=annealing]

The rows of a curve scatter together: the noise of ln(loss) is an offset of the curve, as of a seed, and a part that
falls off by 0.7 from one row to the next. "Law" is the interval of the curve without noise, "run" that of the loss of a
new run.
"""

import argparse
import time
from dataclasses import replace

import numpy as np

from clip_jax.errors import UserError
from clip_jax.scaling.curves.fit import CURVE_LOSS, Curve, CurveFit, law_at
from clip_jax.scaling.curves.intervals import curve_intervals
from clip_jax.scaling.curves.laws import CURVE_LAWS
from clip_jax.scaling.curves.schedule import cosine, stable_then_decay
from clip_jax.scaling.fit_law import fit_law

PEAK, WARMUP = 3e-4, 500
OFFSET, DRIFT, KEPT = 1e-3, 2e-3, 0.7  # standard deviations of ln(loss), and what is kept of the drift at the next row
TRUTH = {
    "annealing": {"L0": 2.9, "A": 0.55, "alpha": 0.5, "C": 0.8, "memory": 300.0, "B_N": 40.0, "beta_N": 0.3},
    "multi-power": {
        "L0": 2.9, "A": 0.55, "alpha": 0.5, "B": 500.0, "C": 1.5, "beta": 0.5, "gamma": 0.6, "B_N": 40.0, "beta_N": 0.3,
    },
}  # fmt: skip


def decayed(steps, decay_steps, floor=0.0):
    return stable_then_decay(steps, PEAK, decay_steps=decay_steps, warmup_steps=WARMUP, floor=floor * PEAK)


def waved(steps, floor=0.1):
    return cosine(steps, PEAK, warmup_steps=WARMUP, floor=floor * PEAK, knots=25)


# of 6,000 steps or fewer
FITTED = [
    (6000, waved(6000)), (4000, waved(4000)), (2000, waved(2000)),
    (6000, decayed(6000, 0)), (6000, decayed(6000, 0)), (6000, decayed(6000, 1200)), (3000, decayed(3000, 600)),
    (6000, decayed(3000, 1, 0.3)), (6000, decayed(3000, 1, 0.1)),
]  # fmt: skip
UNSEEN = {"1x": (6000, decayed(6000, 2400)), "3x": (18000, waved(18000))}
CELLS = {  # law, number of schedules, sizes, rows of a curve
    "annealing, 7 curves": ("annealing", 7, (None,), 12),
    "annealing, 9 curves": ("annealing", 9, (None,), 12),
    "annealing, 4 curves of 3 sizes": ("annealing", 4, (1e6, 4e6, 3e7), 12),
    "multi-power, 9 curves": ("multi-power", 9, (None,), 12),
}


def noise(rng, curves, rows):
    """ln(loss) of the noise, [curves, rows]."""
    out = rng.standard_normal((curves, rows))
    for i in range(1, rows):
        out[:, i] = KEPT * out[:, i - 1] + np.sqrt(1 - KEPT**2) * out[:, i]
    return DRIFT * out + OFFSET * rng.standard_normal((curves, 1))


def coverage(key, schedules, sizes, rows, *, tables, replicas, seed=0):
    """point -> (share of intervals of the law and of new runs that hold the truth, their median half widths), and how
    many tables had intervals.
    """
    rng = np.random.default_rng(seed)
    curves = [
        Curve(str(i), s, np.linspace(WARMUP + 100, last, rows).round().astype(int), np.ones(rows), size)
        for size in sizes
        for i, (last, s) in enumerate(FITTED[:schedules])
    ]
    largest = sizes[-1] and 4 * sizes[-1]
    unseen = [Curve(n, s, np.array([last]), np.ones(1), largest) for n, (last, s) in UNSEEN.items()]
    kind = CURVE_LAWS[key][len(sizes) > 1]

    def planted(some):
        law, columns = law_at(kind, some, "first-step")
        ones = dict.fromkeys(law.columns, 1.0)
        return law, columns, law.predict(law.theta(TRUTH[key], ones), {c: np.log(v) for c, v in columns.items()})

    law, columns, exact = planted(curves)
    wanted = planted(unseen)[2]
    held, widths = [], []
    for _ in range(tables):
        y = exact * np.exp(noise(rng, len(curves), rows).ravel())
        fit = fit_law(law, columns, y, loss=CURVE_LOSS, profile=False)
        measured = [replace(c, losses=part) for c, part in zip(curves, y.reshape(-1, rows), strict=True)]
        fitted = CurveFit(fit, tuple(measured), "first-step")
        new = wanted * np.exp(noise(rng, len(wanted), rows)[:, -1])
        try:
            spans = curve_intervals(fitted, replicas=replicas, seed=int(rng.integers(1e9))).ends(unseen)
        except UserError:
            continue
        held.append([[i.low <= v <= i.high for i, v in zip(pair, (w, n), strict=True)]
                     for pair, w, n in zip(spans, wanted, new, strict=True)])  # fmt: skip
        widths.append([[np.log(i.high / i.low) / 2 for i in pair] for pair in spans])
    share, width = np.mean(held, axis=0), np.median(widths, axis=0)
    return {n: (*share[i], *width[i]) for i, n in enumerate(UNSEEN)}, len(held)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=200)
    parser.add_argument("--replicas", type=int, default=200)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    print("| curves | point | law held | new run held | half width of the law | of a new run | tables |")
    print("|---|---|---|---|---|---|---|")
    for name, cell in CELLS.items():
        if args.only not in name:
            continue
        begin = time.perf_counter()
        shares, count = coverage(*cell, tables=args.tables, replicas=args.replicas)
        for point, (law, run, law_width, run_width) in shares.items():
            print(f"| {name} | {point} | {law:.1%} | {run:.1%} | ±{law_width:.2%} | ±{run_width:.2%} | {count} |")
        print(f"<!-- {name}: {time.perf_counter() - begin:.0f} s -->", flush=True)


if __name__ == "__main__":
    main()
