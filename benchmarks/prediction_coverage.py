"""Coverage of predictions: how often do 95 % intervals of a curve and of a new run, beyond the data, hold the truth?

    python benchmarks/prediction_coverage.py [--tables=300] [--intervals=60] [--only='sigmoid;bnsl'] [--json=FILE]

Simulated tables of every law, fitted as a user would. Laws of compute are predicted at multiples of the largest column,
laws of size and data at the optimum of multiples of the largest budget, links at losses below and above those seen.

Coverage is counted by inversion: the interval of the curve holds the truth where the curve held at the truth is not
worse by more than the threshold. That of a new run adds the scatter sd to the profile's z(root) in quadrature,
hypot(z(t) - center, sd·t), so it holds a run at distance d from the center where d <= sd·t, or where the curve held at
distance sqrt(d² - sd²t²) on the run's side is not worse by more than the threshold t². In some tables the intervals
themselves are computed, to count open sides and how often inversion and interval disagree.

ok: the 99 % Wilson interval of each coverage meets [93 %, 97 %], and the mean of a law's positions lies in it.
Where intervals hold too much, the row says how many fits rest on a bound (E >= 0) and how often the others hold.
--bounds=held counts parameters on a bound as held, which leaves a fit more degrees of freedom and narrower intervals.
--bounds=lifted allows asymptotes that no error can have, below 0 and above 1: how often would intervals hold without
these limits?
"""

import argparse
import json
import time
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from clip_jax.evals.metrics import proportion_interval
from clip_jax.scaling.fit import solver
from clip_jax.scaling.fit.loss import Loss
from clip_jax.scaling.fit.result import Fit
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.laws import (
    BoundedChinchilla,
    BoundedPowerLaw,
    BoundedRepetition,
    BrokenPowerLaw,
    Chinchilla,
    ClipTowers,
    DataRepetition,
    ExponentialLink,
    Law,
    OverTraining,
    PowerLaw,
    PowerLawFromChance,
    SaturatingPowerLaw,
    ShiftedPowerLaw,
    SigmoidLink,
    SigmoidLogC,
)
from clip_jax.scaling.profile.profile_likelihood import (
    prediction_profile,
    prediction_statistic,
    scatter,
    threshold,
)

LEVEL, NEAR = 0.95, (0.93, 0.97)
BEYOND = (1, 2, 5, 10, 100)
CHANCE = 0.97
LOOKED_AT = ("10x", "highest · 2")  # where open sides are counted in more tables
FEW_LANES = 8
SQUARES, HUBER, SHARP = Loss("squares"), Loss(), Loss("huber", delta=1e-3)
LOSS_NAMES = {SQUARES: "squares", HUBER: "Huber 0.02", SHARP: "Huber 0.001"}
ERROR_LAWS = {  # name: law, truth, parameters that are known
    "power": (PowerLaw(), {"a": 6.5, "b": 0.1}, {}),
    "saturating": (SaturatingPowerLaw(), {"E": 0.25, "a": 600.0, "b": 0.3}, {}),
    "sigmoid": (SigmoidLogC(), {"top": 0.95, "k": 0.5, "C_half": 3e11}, {}),
    "sigmoid, top known": (SigmoidLogC(), {"top": 0.95, "k": 0.5, "C_half": 3e11}, {"top": 0.95}),
    "shifted": (ShiftedPowerLaw(), {"E": 0.1, "a": 3e3, "b": 0.33, "c": 3e10}, {}),
    "chance": (PowerLawFromChance(CHANCE), {"E": 0.1, "c": 3e10, "b": 0.4}, {}),
    "bounded": (BoundedPowerLaw(), {"E": 0.1, "top": CHANCE, "b": 0.5, "c": 1e11}, {}),
    "bounded, top known": (BoundedPowerLaw(), {"E": 0.1, "top": CHANCE, "b": 0.5, "c": 1e11}, {"top": CHANCE}),
}
BROKEN = {"E": 0.05, "a": 3.0, "b": 0.08, "s": 0.4, "d": 1e11, "f": 0.2}
CHINCHILLA = {"E": 1.8, "A": 480.0, "alpha": 0.35, "B": 2100.0, "beta": 0.37}
BOUNDED = {"E": 0.1, "top": CHANCE, "a": 40.0, "alpha": 0.3, "b": 900.0, "beta": 0.4}
TOWERS = {"E": 0.4, "A": 30.0, "alpha": 0.3, "T": 200.0, "tau": 0.45, "B": 900.0, "beta": 0.36}
SIZE_LAWS = {  # name: law, truth, known parameters, smallest and largest budget, sd of ln(y)
    "chinchilla": (Chinchilla(), CHINCHILLA, {}, (1e18, 1e21), 0.005),
    "bounded-chinchilla": (BoundedChinchilla(), BOUNDED, {}, (1e14, 1e17), 0.01),
    "bounded-chinchilla, top known": (BoundedChinchilla(), BOUNDED, {"top": CHANCE}, (1e14, 1e17), 0.01),
    "bounded-repetition": (BoundedRepetition(), BOUNDED | {"R_data": 8.0}, {}, (1e14, 1e17), 0.01),
    "bounded-repetition, top known": (
        BoundedRepetition(), BOUNDED | {"R_data": 8.0}, {"top": CHANCE}, (1e14, 1e17), 0.01),
    "overtraining": (OverTraining(), {"E": 1.5, "a": 110.0, "b": 190.0, "eta": 0.25}, {}, (1e18, 1e21), 0.005),
    "clip": (ClipTowers(), TOWERS, {}, (1e16, 1e19), 0.005),
    "repetition": (DataRepetition(), CHINCHILLA | {"R_data": 15.0, "R_params": 5.0}, {}, (1e18, 1e21), 0.005),
}  # fmt: skip
LINKS = {
    "link-exponential": (ExponentialLink(), {"top": 0.85, "k": 2.1, "gamma": 0.75}),
    "link-sigmoid": (SigmoidLink(), {"low": 0.1, "top": 0.9, "k": 6.0, "middle": 2.8}),
}
REPEATS = (1.0, 3.0, 10.0, 40.0)  # of the unique samples, in a repetition table
FORECAST_REPEATS = 4.0


@dataclass(frozen=True, eq=False)
class Row:
    """One kind of table: its law and truth, its columns, scatter and loss, and the points that are predicted."""

    name: str
    law: Law
    truth: dict
    known: dict
    columns: dict
    points: dict  # where -> columns
    sd: float
    loss: Loss

    @property
    def rows(self):
        return len(self.columns[self.law.columns[0]])

    @property
    def title(self):
        return f"{self.name} | {self.rows} | {LOSS_NAMES[self.loss]}, sd {self.sd:g}"

    def curve(self, columns):
        return self.law.curve(self.truth, {c: np.log(np.asarray(v, float)) for c, v in columns.items()}, np)


@dataclass
class Cell:
    """What was counted at one point of one row."""

    curve: list = field(default_factory=list)
    run: list = field(default_factory=list)
    open_sides: list = field(default_factory=list)
    disagreed: list = field(default_factory=list)
    bound: list = field(default_factory=list)  # whether a parameter rests on its bound


def compute_row(name, n, sd, loss):
    law, truth, known = ERROR_LAWS[name] if name in ERROR_LAWS else (BrokenPowerLaw(), BROKEN, {})
    columns = {"flops": np.geomspace(1e10, 1e12, n)}
    return Row(name, law, truth, known, columns, {f"{k}x": {"flops": 1e12 * k} for k in BEYOND}, sd, loss)


def link_row(name, n, sd, loss):
    law, truth = LINKS[name]
    lowest, highest = 2.0, 4.0
    points = {"lowest / 1.5": lowest / 1.5, "lowest": lowest, "highest · 1.2": highest * 1.2}
    points |= {"highest · 1.5": highest * 1.5, "highest · 2": highest * 2}
    below = 2 if name == "link-sigmoid" else 1.2  # the exponential link's error is 0 at a loss of 1.2
    points[f"lowest / {below}"] = lowest / below
    columns = {"loss": np.linspace(lowest, highest, n)}
    return Row(name, law, truth, {}, columns, {k: {"loss": v} for k, v in points.items()}, sd, loss)


def optimum(law, truth, flops):
    """Return the columns at which a budget gives the lowest y."""
    if isinstance(law, ClipTowers):
        return dict(zip(law.columns, law.optimum(truth, flops, (6.0, 6.0, 0.0)), strict=True))
    if isinstance(law, OverTraining):
        values = {"A": truth["a"], "B": truth["b"] * 6 ** (-truth["eta"] / 2), "alpha": truth["eta"]}
        values["beta"] = truth["eta"]
    else:
        values = {"A": truth.get("A", truth.get("a")), "B": truth.get("B", truth.get("b"))}
        values |= {k: truth[k] for k in ("alpha", "beta")}
    size, data = Chinchilla().optimum(values, flops)
    columns = {"params": float(size), "samples_seen": float(data)}
    if "unique_samples" in law.columns:
        columns["unique_samples"] = columns["samples_seen"] / FORECAST_REPEATS
    return columns


def size_row(name, n, loss, seed=0):
    """Budgets times sizes around the optimum; the further columns (second tower, repetitions) are shuffled."""
    law, truth, known, (low, high), sd = SIZE_LAWS[name]
    rng = np.random.default_rng(seed)
    budgets = np.geomspace(low, high, 6 if n < 100 else 12)
    each = n // len(budgets)
    columns = {c: [] for c in law.columns}
    for budget in budgets:
        best, away = optimum(law, truth, budget), np.linspace(-1.5, 1.5, each)
        if isinstance(law, ClipTowers):
            image = best["params_image"] * np.exp(rng.permutation(away))
            text = best["params_text"] * np.exp(rng.permutation(away))
            columns["params_image"].extend(image)
            columns["params_text"].extend(text)
            columns["samples_seen"].extend(budget / 6 / (image + text))
            continue
        size = best["params"] * np.exp(away)
        columns["params"].extend(size)
        columns["samples_seen"].extend(budget / 6 / size)
        if "unique_samples" in law.columns:
            columns["unique_samples"].extend(budget / 6 / size / rng.permutation(np.resize(REPEATS, each)))
    points = {f"{k}x": optimum(law, truth, high * k) for k in BEYOND}
    return Row(name, law, truth, known, {c: np.array(v) for c, v in columns.items()}, points, sd, loss)


def every_row():
    """Return the rows of the benchmark; a law needs three points more than it has free parameters."""
    kinds = ((8, 0.0115, SQUARES), (8, 0.02, HUBER), (24, 0.02, SQUARES), (24, 0.02, HUBER))
    rows = [compute_row(name, *kind) for name in ERROR_LAWS for kind in kinds]
    rows += [compute_row(name, 8, 0.05, HUBER) for name in ("power", "saturating", "sigmoid, top known")]
    rows += [compute_row("bnsl", 24, 0.0115, loss) for loss in (SQUARES, HUBER)]
    rows += [link_row(name, *kind) for name in LINKS for kind in (kinds[0], kinds[1], kinds[3])]
    for name in SIZE_LAWS:
        rows += [size_row(name, 24, SQUARES), size_row(name, 240, SQUARES if name != "chinchilla" else SHARP)]
    return [*rows, size_row("chinchilla", 24, SHARP), size_row("chinchilla", 240, SQUARES)]


def simulate(row, table):
    """Return (a table's y, a new run at each point)."""
    rng = np.random.default_rng((zlib.crc32(row.title.encode()), table))
    runs = row.sd * rng.standard_normal(len(row.points))
    exact = np.array([row.curve(at) for at in row.points.values()]).ravel()
    return row.curve(row.columns) * np.exp(row.sd * rng.standard_normal(row.rows)), exact * np.exp(runs)


@contextmanager
def few_lanes():
    """Solve few constrained fits abreast: lanes are independent, so the fits are the same, and sooner there."""
    usual, solver.FITS_PER_CHUNK = solver.FITS_PER_CHUNK, FEW_LANES
    try:
        yield
    finally:
        solver.FITS_PER_CHUNK = usual


def degrees_on_bounds(fit):
    """Return the degrees of freedom of a fit whose parameters on a bound are held."""
    near = [np.isclose(fit.theta, bound, rtol=1e-6, atol=1e-6) for bound in (fit.low, fit.high)]
    return max(fit.points - fit.free + int((fit.free_mask & (near[0] | near[1])).sum()), 1)


def lift_bounds(cls):
    """Let a law's asymptotes reach the highest value below 0, and four times the highest above it."""
    limited = cls.bounds

    def bounds(law, x, y):
        low, high = limited(law, x, y)
        for name, ends, end in ((law.below, low, -np.max(y)), (law.above, high, 4 * np.max(y))):
            if name:
                ends[law.index(name)] = end
        return low, high

    cls.bounds = bounds


def inverted(fit, at, truth, run):
    """Return (whether the curve's interval holds the truth, whether that of a new run holds the run), by inversion."""
    wanted = threshold(fit, LEVEL)
    center, goal = (float(np.log(v)) for v in (np.ravel(fit.predict(at))[0], run))
    sd = scatter(fit)
    beyond = (goal - center) ** 2 - sd**2 * wanted
    held = center + np.sign(goal - center) * np.sqrt(max(beyond, 0.0))
    if fit.law.above:  # a curve that may come to its ceiling leaves the side open, and a run has no ceiling
        i = fit.law.index(fit.law.above)
        top = fit.high[i] if fit.free_mask[i] else fit.theta[i]
        held = min(held, np.log(top) - 1e-6)
    statistics = prediction_statistic(fit, at, np.array([truth, np.exp(held)]))
    return bool(statistics[0] <= wanted), bool(beyond <= 0 or statistics[1] <= wanted)


def measure(row, tables, intervals):
    """Return where -> `Cell`, from simulated tables."""
    cells = {where: Cell() for where in row.points}
    for table in range(tables):
        y, runs = simulate(row, table)
        fit = fit_law(row.law, row.columns, y, loss=row.loss, fixed=row.known, profile=False)
        for (where, at), run in zip(row.points.items(), runs, strict=True):
            truth, cell = float(row.curve(at)), cells[where]
            with few_lanes():
                curve_in, run_in = inverted(fit, at, truth, run)
            cell.curve.append(curve_in)
            cell.run.append(run_in)
            cell.bound.append(fit.status.startswith("bound"))
            if table < (intervals if where in LOOKED_AT else intervals // 3):
                with few_lanes():
                    profile = prediction_profile(fit, at)
                curve, new = profile.interval(LEVEL), profile.scattered(scatter(fit)).interval(LEVEL)
                cell.open_sides.append(curve.open_low or curve.open_high)
                cell.disagreed.append(((truth in curve) != curve_in, (run in new) != run_in))
    return cells


def is_ok(hits):
    """Whether the 99 % Wilson interval of a coverage meets [93 %, 97 %]."""
    low, high = proportion_interval(np.mean(hits), len(hits), "wilson", 0.99)
    return low <= NEAR[1] and high >= NEAR[0]


def shares_text(hits):
    low, high = proportion_interval(np.mean(hits), len(hits), "wilson", 0.99)
    return f"{np.mean(hits):.1%} [{100 * low:.1f}, {100 * high:.1f}]"


def verdict(cell):
    """Return ok, or what is outside; where too much is held, also the share of tables whose fit rests on no bound."""
    lines = []
    for name, hits in (("curve", cell.curve), ("run", cell.run)):
        if not is_ok(hits):
            lines.append(f"{name} high{without_bounds(cell, hits)}" if np.mean(hits) > LEVEL else f"{name} LOW")
    return ", ".join(lines) or "ok"


def without_bounds(cell, hits):
    """Return in words how often tables are covered whose fit rests on no bound."""
    rest = np.array(hits)[~np.array(cell.bound, bool)]
    return f" ({np.mean(cell.bound):.0%} of fits on a bound, the others {np.mean(rest):.1%})"


def lines_of(row, cells):
    """Return the lines of one row, one a point."""
    lines = []
    for where, cell in cells.items():
        opened = f"{np.mean(cell.open_sides):.0%}" if cell.open_sides else "-"
        shares = f"{shares_text(cell.curve)} | {shares_text(cell.run)}"
        lines.append(f"| {row.title} | {where} | {shares} | {opened} | {verdict(cell)} |")
    return lines


def table_of(results):
    """Return the whole table: every row, and after the last one of a law the mean of all its positions."""
    lines = [
        "",
        "| law | n | loss | where | curve covered | new run covered | open sides | verdict |",
        "|---" * 8 + "|",
    ]
    for name in dict.fromkeys(row.name for row in results):
        rows = {row: cells for row, cells in results.items() if row.name == name}
        lines += [line for row, cells in rows.items() for line in lines_of(row, cells)]
        every = [c for cells in rows.values() for c in cells.values()]
        means = [np.mean([np.mean(getattr(c, kind)) for c in every]) for kind in ("curve", "run")]
        outcome = "ok" if all(NEAR[0] <= m <= NEAR[1] for m in means) else "OUTSIDE"
        if min(means) > NEAR[0] and outcome != "ok":
            hits, bound = (np.concatenate([getattr(c, kind) for c in every]) for kind in ("curve", "bound"))
            outcome = f"high: {bound.mean():.0%} of fits on a bound, the others {hits[~bound.astype(bool)].mean():.1%}"
        lines.append(f"| **{name}** | | | **mean** | **{means[0]:.1%}** | **{means[1]:.1%}** | | **{outcome}** |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tables", type=int, default=300)
    parser.add_argument(
        "--intervals",
        type=int,
        default=60,
        help="tables whose intervals are computed (a third of them elsewhere than at 10x)",
    )
    parser.add_argument("--only", default="", help="rows whose title begins with one of these, by semicolons")
    parser.add_argument("--json", default="", help="file for the counts, a line a row")
    parser.add_argument(
        "--bounds", choices=("free", "held", "lifted"), default="free", help="how parameters on them count"
    )
    args = parser.parse_args()
    if args.bounds == "held":
        Fit.degrees = property(degrees_on_bounds)
    elif args.bounds == "lifted":
        for cls in {type(row.law) for row in every_row()}:
            lift_bounds(cls)
    results, start = {}, time.time()
    for row in every_row():
        if not row.title.startswith(tuple(args.only.split(";"))):
            continue
        begun = time.time()
        results[row] = cells = measure(row, args.tables, args.intervals)
        wrong = np.array([d for c in cells.values() for d in c.disagreed], bool).reshape(-1, 2)
        print("\n".join(lines_of(row, cells)))
        print(
            f"  inversion and interval disagree in {wrong[:, 0].sum()} curves and {wrong[:, 1].sum()} runs of "
            f"{len(wrong)}; {time.time() - begun:.0f} s",
            flush=True,
        )
        if args.json:
            with Path(args.json).open("a") as f:
                counts = {w: {k: np.array(v, int).tolist() for k, v in vars(c).items()} for w, c in cells.items()}
                f.write(json.dumps({"row": row.title, "cells": counts}) + "\n")
    print(table_of(results))
    print(f"\n{time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
