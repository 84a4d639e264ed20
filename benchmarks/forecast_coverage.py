"""Do forecasts of whole sweeps hold what is measured afterwards? Simulated sweeps through the product's own path.

    python benchmarks/forecast_coverage.py [--sweeps=100] [--results=coverage.jsonl] [--only=power,8]
    python benchmarks/forecast_coverage.py --clouds=150 [--results=clouds.jsonl]

A sweep: budgets over 100 times of FLOPs, several sizes of one seed at each, two more seeds at each budget's best size
until the best one has three (as `sweep.run` does). The forecast is that of `preregistration.preregister` without its
rehearsals and its report: frontier, scatter, winner's curse, forms, weights and bands are the product's functions. Then
the budget 2 or 10 times above the largest is simulated in the same way, and graded as `preregistration.grade` does.

Results are appended to a file as they come, and a second call goes on where the first one stopped.
"""

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from clip_jax.scaling.analysis.analyze import Frontier, fit_forms, point_noise, winners_bias
from clip_jax.scaling.analysis.averaging import AveragedForecast
from clip_jax.scaling.analysis.frontier_fit import BUDGET, PARETO
from clip_jax.scaling.data.runs_table import fit_rows, prepare
from clip_jax.scaling.frontier.frontier import by_size, compute_optimal, seed_noise, unbeaten
from clip_jax.scaling.frontier.shared_trunks import TRUNK_CORRELATION
from clip_jax.scaling.planning.preregistration import forecast_bands

METRIC, CHANCE = "error_mean", 0.974
LOW, HIGH = 1e10, 1e12  # FLOPs of the smallest and the largest budget
REACHES = (2, 10)  # times the largest budget
BUDGETS = (8, 6, 5)
ROUND = 25  # sweeps of a case before the next case has its turn
NEAR_EVERY = 4  # only each fourth sweep is also forecast at twice the compute
CLOUDS = (60, 300)  # runs
CLOUD_B, CLOUD_NOISE = 0.1, 0.02
TRUTHS = {
    "power": lambda c: 0.9 * (c / LOW) ** -0.15,
    "saturating .10": lambda c: 0.10 + 0.8 * (c / LOW) ** -0.2,
    "saturating .25": lambda c: 0.25 + 0.65 * (c / LOW) ** -0.3,
    "shifted": lambda c: 0.10 + 0.85 * (1 + c / 3e10) ** -0.35,
    "bounded": lambda c: 0.10 + (CHANCE - 0.10) / (1 + (c / 1e11) ** 0.6),
    "sigmoid": lambda c: CHANCE / (1 + (c / 3e11) ** 0.6),
}


@dataclass(frozen=True)
class Case:
    """How sweeps of one row of the table are drawn.

    truth: key of `TRUTHS`. sd: of a run's ln(error). curvature: of the valley over ln(params). sizes: at each budget.
    seeds: at the best size. outlier: ln factor on all runs of one budget. pictures: of the test set; 0: no end of them.
    trunks: correlation of ln(error) between budgets of a size and seed, which share a trunk; 0: separate runs.
    """

    truth: str
    sd: float = 0.03
    curvature: float = 0.05
    sizes: int = 5
    seeds: int = 3
    outlier: float = 0.0
    pictures: int = 0
    trunks: float = 0.0


CASES = {
    **{name: Case(name) for name in TRUTHS},
    "power, one budget 20 % high": Case("power", outlier=float(np.log(1.2))),
    **{f"{name}, 516 pictures": replace(Case(name), pictures=516) for name in ("power", "saturating .25")},
    "power, flat valley, 1 seed": Case("power", sd=0.04, curvature=0.005, sizes=6, seeds=1),
    **{f"trunks: {name}": Case(name, trunks=TRUNK_CORRELATION) for name in ("power", "saturating .10", "shifted")},
}


class Sweep:
    """Draws the runs of a sweep, budget by budget."""

    def __init__(self, case: Case, rng: np.random.Generator) -> None:
        self.case, self.rng = case, rng
        # picture i is wrong in a run whose error exceeds its difficulty: the same pictures test every run
        self.difficulty = np.sort(rng.uniform(size=case.pictures))
        self.of_trunk: dict[str, float] = {}

    def measure(self, error: float, trunk: str = "") -> float:
        """Return the measured error of one run."""
        noise, shared = self.rng.standard_normal(), self.case.trunks
        if shared:
            common = self.of_trunk.setdefault(trunk, self.rng.standard_normal())
            noise = np.sqrt(shared) * common + np.sqrt(1 - shared) * noise
        measured = min(error * np.exp(self.case.sd * noise), 0.9999)
        if self.case.pictures:
            measured = max(np.searchsorted(self.difficulty, measured), 1) / self.case.pictures
        return float(measured)

    def budget(self, flops: float, raised: float = 0.0) -> list[dict]:
        """Return the rows of one budget: all sizes once, then more seeds while the best size lacks some."""
        sizes = (np.arange(self.case.sizes) - (self.case.sizes - 1) / 2) * np.log(2)
        off = sizes + self.rng.uniform(-0.35, 0.35)  # the grid of sizes does not know where the valley is
        if self.case.trunks:  # one ladder of sizes for all budgets
            off = np.log(2) * np.arange(60) - np.log(flops / 100) / 2
            sizes = off = off[np.sort(np.argsort(np.abs(off))[: self.case.sizes])]
        truth = TRUTHS[self.case.truth](flops) * np.exp(self.case.curvature * off**2 + raised)
        params = np.sqrt(flops / 100) * np.exp(sizes)
        cells = [[self.measure(t, f"{p:.0f}-0")] for t, p in zip(truth, params, strict=True)]
        while len(cells[best := int(np.argmin([np.mean(f) for f in cells]))]) < self.case.seeds:
            cells[best] += [
                self.measure(truth[best], f"{params[best]:.0f}-{seed}") for seed in range(1, self.case.seeds)
            ]
        return [
            {"run_id": f"{flops:.4g}-{k}-{seed}", "budget": flops, "flops": flops, "params": params[k],
             "samples_seen": flops / 6 / params[k], "seed": seed, METRIC: y,
             **({"trunk": f"{params[k]:.0f}-{seed}"} if self.case.trunks else {})}
            for k, cell in enumerate(cells)
            for seed, y in enumerate(cell)
        ]  # fmt: skip

    def runs(self, budgets: int) -> pd.DataFrame:
        """Return the table of a sweep."""
        flops = np.geomspace(LOW, HIGH, budgets)
        raised = np.zeros(budgets)
        if self.case.outlier:
            raised[self.rng.integers(budgets)] = self.case.outlier
        return pd.DataFrame([r for c, up in zip(flops, raised, strict=True) for r in self.budget(float(c), up)])


def forecasts(df: pd.DataFrame, seeds: int, pictures: list, reaches=REACHES) -> dict:
    """Return {reach: forecast of `preregistration.preregister`}, and the band of the power law alone as ``own``."""
    rows, _ = fit_rows(prepare(df, METRIC), METRIC, CHANCE, keep_above_chance=True)
    points = compute_optimal(rows, METRIC)
    frontier = fit_forms(
        Frontier(BUDGET, points, chance=CHANCE), by_size(rows, METRIC), point_noise(rows, METRIC, points), True,
        winners_bias(rows, METRIC), strict=True,
    )  # fmt: skip
    sd, _ = seed_noise(rows, METRIC)
    noise = {"seed_sd": sd, "seeds": seeds}  # a single seed tells no scatter: then a point's own counts
    power = {"power": frontier.fitted["power"]}
    alone = AveragedForecast(power, np.ones(1), "power law only", {}, CHANCE)
    out = {}
    for reach in reaches:
        target = reach * float(points["flops"].max())
        bands = forecast_bands(frontier.averaged, target, noise, pictures)
        out[reach] = {k: bands[k] for k in ("predicted", "curve", "mean", "weights")}
        out[reach]["own"] = forecast_bands(alone, target, noise, pictures)["mean"]
    return out


def largest(df: pd.DataFrame, case: Case) -> list[tuple[float, int]]:
    """Return (mean error at the largest budget, number of pictures), as `sweep.forecast` does."""
    top = df[df["budget"] == df["budget"].max()]
    return [(float(top[METRIC].mean()), case.pictures)] if case.pictures else []


def simulated(case: Case, budgets: int, index: int, reaches=REACHES) -> dict:
    """Return one sweep's forecasts with what was true and what was measured."""
    sweep = Sweep(case, np.random.default_rng([index, budgets]))
    df = sweep.runs(budgets)
    out = forecasts(df, case.seeds, largest(df, case), reaches)
    for reach, forecast in out.items():
        flops = reach * HIGH
        ahead = prepare(pd.DataFrame(sweep.budget(flops)), METRIC)
        forecast["measured"] = float(compute_optimal(ahead, METRIC)["error"].iloc[0])
        forecast["true"] = float(TRUTHS[case.truth](flops))
    return out


def plain(record):
    """JSON has no infinity: an open end is null."""
    if isinstance(record, dict):
        return {str(k): plain(v) for k, v in record.items()}
    if isinstance(record, list):
        return [plain(v) for v in record]
    return None if isinstance(record, float) and not np.isfinite(record) else record


def inside(band, value) -> int:
    """0: the band holds the value; 1: the value lies above it; -1: below."""
    low, high = band
    return int(high is not None and value > high) - int(low is not None and value < low)


def width(band) -> float:
    """Return ln(high / low)."""
    return np.inf if None in band else float(np.log(band[1] / max(band[0], 1e-12)))


def summary(records: list[dict], reach: str) -> dict:
    """Return what one row of the table says of the records of one case."""
    rows = [r["reaches"][reach] for r in records if reach in r["reaches"]]
    curve = np.array([inside(f["curve"], f["true"]) for f in rows])
    mean = np.array([inside(f["mean"], f["measured"]) for f in rows])
    ratio = [width(f["mean"]) / width(f["own"]) for f in rows if None not in f["own"]]
    return {
        "n": len(rows), "curve": np.mean(curve == 0), "mean": np.mean(mean == 0), "above": np.mean(mean > 0),
        "below": np.mean(mean < 0), "width": float(np.median([width(f["mean"]) for f in rows])),
        "ratio": float(np.median(ratio)), "bias": float(np.median([np.log(f["predicted"] / f["true"]) for f in rows])),
        "open": np.mean([None in f["mean"] for f in rows]),
    }  # fmt: skip


def table(records: list[dict]) -> str:
    """Return the table of all cases."""
    lines = [
        "| truth | budgets | n at 2x, 10x | curve 2x | mean 2x | curve 10x | mean 10x | above / below at 10x "
        "| width 10x (ln) | times the power law's own | bias 10x | open |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in CASES:
        for k in BUDGETS:
            rows = [r for r in records if (r["case"], r["budgets"]) == (name, k)]
            if not rows:
                continue
            a, b = (summary(rows, str(r)) for r in REACHES)
            cells = [
                name, k, f"{a['n']}, {b['n']}", *(f"{x[c]:.1%}" for x in (a, b) for c in ("curve", "mean")),
                f"{b['above']:.1%} / {b['below']:.1%}", f"{b['width']:.2f}", f"{b['ratio']:.2f}", f"{b['bias']:+.1%}",
                f"{b['open']:.1%}",
            ]  # fmt: skip
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def spread(rng, truth):
    """Return what runs measure: an exponential 10 % of bad tuning above the frontier, 2 % of noise."""
    return truth * np.exp(rng.exponential(0.1, len(truth)) + CLOUD_NOISE * rng.standard_normal(len(truth)))


def cloud(rng: np.random.Generator, runs: int) -> pd.DataFrame:
    """Draw runs of no planned budget around a power law."""
    flops = np.exp(rng.uniform(np.log(LOW), np.log(1e13), runs))
    y = spread(rng, cloud_truth(flops))
    return pd.DataFrame(
        {"run_id": [str(i) for i in range(runs)], "flops": flops, "params": 1e6, "samples_seen": flops / 6e6, METRIC: y}
    )


def cloud_truth(flops):
    """Return the true frontier."""
    return 0.7 * (flops / LOW) ** -CLOUD_B


def simulated_cloud(runs: int, index: int) -> dict:
    """Return what the report's path says of one cloud: pareto frontier, selected again in resamples."""
    rng = np.random.default_rng([index, runs])
    df = cloud(rng, runs)
    rows, _ = fit_rows(prepare(df, METRIC), METRIC)
    points, candidates = unbeaten(compute_optimal(rows, METRIC)), by_size(rows, METRIC)
    noise = point_noise(rows, METRIC, points, planned=False)
    frontier = fit_forms(Frontier(PARETO, points), candidates, noise, False, {}, strict=True)
    target = 10 * float(rows["flops"].max())
    power = frontier.fitted["power"]
    # the next point of the frontier: the best of as many runs as the cloud has in a doubling, moved to the target
    count = max(2, round(runs * np.log(2) / np.log(1e13 / LOW)))
    near = target * np.exp(np.log(2) * rng.uniform(-0.5, 0.5, count))
    ahead = spread(rng, cloud_truth(near)) * cloud_truth(target) / cloud_truth(near)
    each = {
        "b": power.intervals["b"], "power curve": power.curve_at(target), "power run": power.run_at(target),
        "curve": frontier.averaged.curve_at(target).interval(), "run": frontier.averaged.run_at(target).interval(),
    }  # fmt: skip
    return {
        **{name: list(band.bounded_ends) for name, band in each.items()}, "true": float(cloud_truth(target)),
        "median": frontier.averaged.curve_at(target).median, "measured": float(ahead.min()), "points": len(points),
        "tuned": float(cloud_truth(target) * np.exp(CLOUD_NOISE * rng.standard_normal())),
    }  # fmt: skip


def cloud_table(records: list[dict]) -> str:
    """Return the table of clouds."""
    lines = [
        "| runs | n | b | power law: curve 10x / new best run | averaged: curve 10x / new best run / well tuned run "
        "| bias 10x | width of the run's band (ln) |",
        "|---|---|---|---|---|---|---|",
    ]
    for runs in CLOUDS:
        rows = [r["cloud"] for r in records if r.get("runs") == runs]
        if not rows:
            continue
        share = lambda band, value: np.mean([inside(f[band], f.get(value, CLOUD_B)) == 0 for f in rows])  # noqa: B023, E731
        bias = np.median([np.log(f["median"] / f["true"]) for f in rows])
        lines.append(
            f"| {runs} | {len(rows)} | {share('b', ''):.1%} | {share('power curve', 'true'):.1%} / "
            f"{share('power run', 'measured'):.1%} | {share('curve', 'true'):.1%} / {share('run', 'measured'):.1%} / "
            f"{share('run', 'tuned'):.1%} | {bias:+.1%} | {np.median([width(f['run']) for f in rows]):.2f} |"
        )
    return "\n".join(lines)


def read(path: Path) -> list[dict]:
    """Return the records of a file of results; its last line may be cut off."""
    out = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            out.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sweeps", type=int, default=100, help="of each case and number of budgets")
    parser.add_argument("--clouds", type=int, default=0, help="of each size, in place of sweeps")
    parser.add_argument(
        "--results", default="/tmp/forecast_coverage.jsonl", help="appended to; what it holds is not redone"
    )
    parser.add_argument("--only", default="", help="CASE or CASE,BUDGETS")
    parser.add_argument("--print", action="store_true", help="only print the table of what is there")
    args = parser.parse_args()
    path = Path(args.results)
    if not args.print:
        run_clouds(path, args.clouds) if args.clouds else run_sweeps(path, args.sweeps, args.only)
    records = [r for r in read(path) if ("runs" in r) == bool(args.clouds)]
    print(cloud_table(records) if args.clouds else table(records))
    print(f"\n{sum(r['seconds'] for r in records):.0f} s of processor time")


def run_sweeps(path: Path, sweeps: int, only: str) -> None:
    """Simulate what is missing, all cases abreast, and append it."""
    case_wanted, _, budgets_wanted = only.partition(",")
    done = {(r["case"], r["budgets"], r["index"]) for r in read(path) if "case" in r}
    for first in range(0, sweeps, ROUND):
        for name, case in CASES.items():
            for k in BUDGETS:
                if (case_wanted and name != case_wanted) or (budgets_wanted and int(budgets_wanted) != k):
                    continue
                for index in range(first, min(first + ROUND, sweeps)):
                    if (name, k, index) in done:
                        continue
                    start = time.process_time()
                    reaches = simulated(case, k, index, REACHES if index % NEAR_EVERY == 0 else REACHES[-1:])
                    append(path, {"case": name, "budgets": k, "index": index, "reaches": reaches}, start)


def run_clouds(path: Path, clouds: int) -> None:
    """Simulate the clouds that are missing and append them."""
    done = {(r["runs"], r["index"]) for r in read(path) if "runs" in r}
    for index in range(clouds):
        for runs in CLOUDS:
            if (runs, index) not in done:
                start = time.process_time()
                append(path, {"runs": runs, "index": index, "cloud": simulated_cloud(runs, index)}, start)


def append(path: Path, record: dict, start: float) -> None:
    """Write one record as a line."""
    with path.open("a") as file:
        file.write(json.dumps(plain(record | {"seconds": time.process_time() - start})) + "\n")


if __name__ == "__main__":
    main()
