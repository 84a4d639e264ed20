"""Would forecasts of published tables have held? Cut each below its largest compute, forecast, look above the cut.

    python benchmarks/back_tests.py TABLES_DIR [--old=f1d4935] [--only=cherti]

Every table with at least five levels of compute is cut at 3, 10 and 30 times below its largest. The report's own path
(`analysis.analyze`) sees the rows below the cut; the frontier above it, picked by the same rule from all rows, is what
was measured afterwards. With ``--old``, the package as it was at that commit forecasts the same rows in a process of
its own: there the winning law alone made the band.

The last table compares the curve of Chinchilla's law far beyond its data by profile and by a bootstrap of cases.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd

try:
    from clip_jax.errors import UserError
    from clip_jax.scaling.analysis.analyze import analyze
    from clip_jax.scaling.data.runs_table import fit_rows, prepare
    from clip_jax.scaling.frontier.frontier import compute_optimal, unbeaten
except ModuleNotFoundError:  # the package of ``--old``, by the names that it had
    UserError = import_module("clip_jax.checks").UserError
    analyze = import_module("clip_jax.scaling.analysis").analyse
    compute_optimal, unbeaten = (
        getattr(import_module("clip_jax.scaling.frontier"), n) for n in ("compute_optimal", "unbeaten")
    )
    fit_rows, prepare = (getattr(import_module("clip_jax.scaling.table"), n) for n in ("fit_rows", "prepare"))

CUTS = (3, 10, 30)  # times below the largest compute
LEVELS = 5  # distinct computes that a table needs
METRIC = "value"
GUESSING = 0.999  # error of ImageNet's 1,000 classes, and of R@5 among COCO's 5,000 pictures
CHINCHILLA_BUDGETS = (6e18, 1e19, 3e19, 6e19, 1e20, 3e20, 6e20, 1e21, 3e21)
TARGETS = ({"params": 70e9, "samples_seen": 1.4e12}, {"params": 1e12, "samples_seen": 2e13})


@dataclass(frozen=True)
class Series:
    """One table of runs: columns run_id, flops, params, samples_seen, value, and budget where budgets were planned.

    chance: the value of guessing. cuts: times below the largest compute.
    """

    name: str
    df: pd.DataFrame
    chance: float | None = None
    cuts: tuple[float, ...] = CUTS


def runs(flops, value, params=1.0, budget=None) -> pd.DataFrame:
    """Return a table of runs as the report reads it."""
    flops, value = np.asarray(flops, float), np.asarray(value, float)
    df = pd.DataFrame({"run_id": np.arange(len(flops)).astype(str), "flops": flops, "params": params, METRIC: value})
    df["samples_seen"] = df["flops"] / 6 / df["params"]
    return df if budget is None else df.assign(budget=np.asarray(budget, float))


def cherti(df):
    """OpenCLIP's runs on LAION."""
    df = df[~df["upstream_dataset"].str.contains("WIT")]
    for name, column in (("ImageNet", "imagenet1k_acc1"), ("COCO R@5", "mscoco_image_retrieval_r5")):
        yield Series(f"OpenCLIP, {name}", runs(df["gmacs_total"] * 2e9, 1 - df[column]), GUESSING)


def family_best(df):
    """Best of each model and samples seen on DataComp."""
    for family, rows in df.groupby("family"):
        yield Series(f"DataComp best, {family}", runs(rows["gflops_total"] * 1e9, 1 - rows["score"]), GUESSING)


def mammut_runs(df):
    """Every single run on DataComp."""
    for family, rows in df.groupby("family"):
        yield Series(
            f"DataComp runs, {family}", runs(rows["gflops_total"] * 1e9, 1 - rows["imagenet1k_acc1"]), GUESSING
        )


def chinchilla(df):
    """Hoffmann et al.'s figure 4: as a cloud, and its IsoFLOP budgets (read from a figure, within 15 %)."""
    df = df[df["excluded_by_published_fit"] == 0]
    yield Series("Chinchilla, all runs", runs(df["train_flop"], df["loss"], df["n_params"].to_numpy()))
    budgets = np.array(CHINCHILLA_BUDGETS)
    off = np.abs(np.log(df["train_flop"].to_numpy(float)[:, None] / budgets))
    near, budget = off.min(axis=1) < 0.15, budgets[off.argmin(axis=1)]
    df, budget = df[near], budget[near]
    yield Series("Chinchilla, IsoFLOP", runs(df["train_flop"], df["loss"], df["n_params"].to_numpy(), budget))


def porian(df):
    """Two setups of IsoFLOP curves."""
    for name in ("kaplan", "tuned"):
        rows = df[df["config"].str.contains(f"|{name}|", regex=False)]
        yield Series(f"Porian, {name}", runs(rows["flops"], rows["loss"], rows["n"].to_numpy(), rows["flops"]))


def marin(df):
    """IsoFLOP curves, without runs that the source flags (but with budgets flagged for having few runs)."""
    rows = df[~df["flagged_outlier"].astype(bool) | (df["flag_reason"] == "too_few_points")]
    yield Series("Marin", runs(rows["budget"], rows["loss"], rows["params"].to_numpy(), rows["budget"]))


def gadre(df):
    """Models of several sizes and tokens per parameter on C4: a frontier."""
    yield Series("Gadre", runs(df["flops_6ND"], df["loss_c4_val"], df["N"].to_numpy()))


def bnsl(df):
    """Arithmetic against the size of its training set: a sharp break. It spans a factor of 6: cut as published."""
    x = df["train_set_size"]
    yield Series("BNSL arithmetic", runs(x, df["test_loss"], budget=x), cuts=(float(x.max()) / 740, 3))


TABLES = {
    "openclip_cherti.csv": cherti, "clip_family_best_datacomp_imagenet.csv": family_best,
    "clip_mammut_runs_datacomp_imagenet.csv": mammut_runs, "chinchilla_epoch245.csv": chinchilla,
    "porian_isoflop_dev.csv": porian, "isoflop_marin_nemotron.csv": marin, "gadre_overtrain_c4.csv": gadre,
    "bnsl_arithmetic.csv": bnsl,
}  # fmt: skip


def frontier(series: Series) -> pd.DataFrame:
    """Return the points that the report's rule picks from all rows."""
    rows, _ = fit_rows(prepare(series.df, METRIC), METRIC, series.chance)
    if "budget" in series.df:
        return compute_optimal(rows, METRIC)
    return unbeaten(compute_optimal(rows.sort_values(METRIC).drop_duplicates("budget"), METRIC))


def forecast(df: pd.DataFrame, chance: float | None, flops: list[float]) -> dict:
    """Return {form, points, bands: [low, median, high of a new run], ends open: null} from the rows given.

    It also runs on the package as it was before forecasts were averaged: then the winning law's band is returned.
    """
    try:
        analysis = analyze(df, METRIC, chance=chance, full=False)
    except UserError as error:
        return {"form": None, "reason": str(error), "bands": []}
    points = len(analysis.frontier.points)
    if hasattr(analysis, "averaged"):
        if analysis.averaged is None or points < LEVELS:
            return {"form": None, "reason": f"{points} points", "bands": []}
        weights = sorted(zip(analysis.averaged.weights, analysis.averaged.fitted, strict=True), reverse=True)
        form = " ".join(f"{key} {w:.2f}" for w, key in weights if w > 0.05)
        bands = [analysis.averaged.run_at(c).interval() for c in flops]
    else:
        if analysis.best is None or points < LEVELS:
            return {"form": None, "reason": f"{points} points", "bands": []}
        form, bands = analysis.best.fit.law.key, [analysis.best.run_at(analysis.best.curve_at(c)) for c in flops]
    ends = [[None if b.open_low else b.low, b.value, None if b.open_high else b.high] for b in bands]
    return {"form": form, "points": points, "bands": ends}


def old_forecasts(asked: list[dict], commit: str) -> list[dict]:
    """Return `forecast` of each {df, chance, flops} by the package as it was at a commit of this repository."""
    root = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", commit, "clip_jax"], cwd=root, capture_output=True, check=True)
        with tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
            tar.extractall(folder, filter="data")
        path = Path(folder) / "asked.json"
        path.write_text(json.dumps([{**a, "df": a["df"].to_dict("list")} for a in asked]))
        paths = [str(folder), str(Path(__file__).parent)]
        code = f"import sys; sys.path[:0] = {paths!r}; import back_tests; back_tests.answer()"
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], cwd=folder, check=True, stdout=subprocess.PIPE, text=True,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        )  # fmt: skip
    answer = json.loads(done.stdout)
    assert Path(answer["package"]).is_relative_to(folder), answer["package"]
    return answer["forecasts"]


def answer() -> None:
    """Forecast what a file asks for (`old_forecasts`), and print it."""
    import clip_jax

    asked = json.loads(Path(sys.argv[-1]).read_text())
    forecasts = [forecast(pd.DataFrame(a["df"]), a["chance"], a["flops"]) for a in asked]
    print(json.dumps({"package": clip_jax.__file__, "forecasts": forecasts}))


@dataclass(frozen=True)
class Test:
    """One cut of a table: what was known, and what was measured above it."""

    name: str
    cut: float
    df: pd.DataFrame
    chance: float | None
    ahead: pd.DataFrame

    @property
    def asked(self) -> dict:
        """What a forecast needs."""
        return {"df": self.df, "chance": self.chance, "flops": self.ahead["flops"].tolist()}


def tests_of(series: Series) -> list[Test]:
    """Return the cuts of a table that leave something on both sides."""
    points, top = frontier(series), float(series.df["flops"].max())
    out: list[Test] = []
    for cut in series.cuts:
        below = series.df["flops"] <= top / cut
        ahead = points[points["flops"] > top / cut]
        if "budget" in series.df:  # a budget is known as a whole or not at all
            below = series.df["budget"] < ahead["budget"].min()
        known = series.df[below].reset_index(drop=True)
        again = out and len(ahead) == len(out[-1].ahead)  # the same points above: the same test
        if known["flops"].nunique() >= LEVELS and len(ahead) and not again:
            out.append(Test(series.name, cut, known, series.chance, ahead))
    return out


def judged(test: Test, forecast: dict) -> dict:
    """Return {n, inside, above, below, width, bias, misses} of a forecast's bands against the points ahead."""
    n, misses, widths, off = len(test.ahead), [], [], []
    places = test.ahead[["flops", "error"]].to_numpy(float)
    above = below = 0
    for (flops, y), (low, middle, high) in zip(places, forecast["bands"], strict=True):
        widths.append(np.log(high / low) if low and high else np.inf)
        off.append(np.log(middle / y))
        above += high is not None and y > high
        below += low is not None and y < low
        if (high is not None and y > high) or (low is not None and y < low):
            reach = flops / float(test.df["flops"].max())
            ends = [f"{e:.4f}" if e is not None else "open" for e in (low, high)]
            misses.append(f"at {reach:.1f}x {y:.4f}, band {ends[0]} to {ends[1]}")
    return {
        "n": n, "inside": n - above - below, "above": int(above), "below": int(below),
        "width": float(np.median(widths)), "bias": float(np.mean(off)), "misses": misses,
    }  # fmt: skip


def row(test: Test, judgment: dict) -> str:
    """Return the cells of one forecast."""
    if judgment["form"] is None:
        return f"none: {judgment['reason'][:60]} | | | "
    j, form = judged(test, judgment), judgment["form"]
    return f"{form} | {j['inside']}/{j['n']} (+{j['above']} -{j['below']}) | {j['width']:.3f} | {j['bias']:+.1%}"


def series_of(folder: Path, only: str = "") -> list[Series]:
    """Return the series of every table that lies in a folder."""
    return [
        s
        for file, read in TABLES.items()
        if only in file and (folder / file).is_file()
        for s in read(pd.read_csv(folder / file))
        if s.df["flops"].nunique() >= LEVELS
    ]


def back_tests(series: list[Series], old: str = "") -> None:
    """Print a row a cut, then the misses one by one, then the totals."""
    tests = [t for s in series for t in tests_of(s)]
    news = [forecast(**t.asked) for t in tests]
    olds = old_forecasts([t.asked for t in tests], old) if old else [None] * len(tests)
    print("| table | cut | averaged: weights | inside (above, below) | width (ln) | bias " + (
        "| winner's law before | inside | width | bias |" if old else "|"))  # fmt: skip
    print("|---|---|---|---|---|---|" + ("---|---|---|---|" if old else ""))
    for t, new, before in zip(tests, news, olds, strict=True):
        print(f"| {t.name} | {t.cut:.3g}x | {row(t, new)} |" + (f" {row(t, before)} |" if before else ""), flush=True)
    print()
    for title, judgments in (("averaged", news), *([(f"winner's law at {old}", olds)] if old else [])):
        both = [(t, judged(t, f)) for t, f in zip(tests, judgments, strict=True) if f["form"] is not None]
        count, inside = (sum(j[k] for _, j in both) for k in ("n", "inside"))
        whole = sum(j["inside"] == j["n"] for _, j in both)
        equal = np.mean([j["inside"] / j["n"] for _, j in both])
        print(f"{title}: {inside} of {count} points inside, {whole} of {len(both)} cuts without a miss, "
              f"mean over cuts {equal:.1%}, median width {np.median([j['width'] for _, j in both]):.3f}")  # fmt: skip
        for t, j in both:
            for miss in j["misses"]:
                print(f"  miss: {t.name}, cut {t.cut:.3g}x: {miss}")


def chinchilla_band(df: pd.DataFrame, replicas: int = 1000) -> None:
    """Print the curve of Chinchilla's law beyond its data: profile interval, and bootstrap of cases."""
    from clip_jax.scaling.fit.loss import Loss
    from clip_jax.scaling.fit_law import fit_law
    from clip_jax.scaling.laws import Chinchilla
    from clip_jax.scaling.profile.profile_likelihood import prediction_interval
    from clip_jax.scaling.uncertainty.bootstrap import bootstrap

    df = df[df["excluded_by_published_fit"] == 0]
    columns = {"params": df["n_params"].to_numpy(float), "samples_seen": df["tokens"].to_numpy(float)}
    fit = fit_law(Chinchilla(), columns, df["loss"].to_numpy(float), loss=Loss("huber", "log", 1e-3), profile=False)
    ensemble = bootstrap(fit, kind="cases", replicas=replicas)
    print("\n| params, samples | curve | profile, 95 % | bootstrap of cases, 95 % | ratio of widths |")
    print("|---|---|---|---|---|")
    for at in TARGETS:
        band = prediction_interval(fit, at)
        low, high = ensemble.band({k: np.array([v]) for k, v in at.items()}, observation=False)
        cells = [
            f"{at['params']:.3g}, {at['samples_seen']:.3g}", f"{band.value:.4f}", f"{band.low:.4f} to {band.high:.4f}",
            f"{low[0]:.4f} to {high[0]:.4f}", f"{band.width / (high[0] - low[0]):.2f}",
        ]  # fmt: skip
        print(f"| {' | '.join(cells)} |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("tables", type=Path)
    parser.add_argument("--old", default="", help="commit whose forecasts are printed beside")
    parser.add_argument("--only", default="", help="tables whose file name has this")
    args = parser.parse_args()
    back_tests(series_of(args.tables, args.only), args.old)
    path = args.tables / "chinchilla_epoch245.csv"
    if path.is_file() and args.only in path.name:
        chinchilla_band(pd.read_csv(path))


if __name__ == "__main__":
    main()
