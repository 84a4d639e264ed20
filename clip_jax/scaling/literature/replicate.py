"""Repeat published fits on the user's copy of the table: expected value, value of this fitter, difference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clip_jax.errors import UserError, one_of, require_columns
from clip_jax.scaling.data.runs_table import read_table
from clip_jax.scaling.fit.loss import Loss
from clip_jax.scaling.fit.result import Fit
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.frontier.frontier import binned, binned_centers, octaves, pareto
from clip_jax.scaling.frontier.isoflop import lowest_point
from clip_jax.scaling.laws import BrokenPowerLaw, Chinchilla, ExponentialLink, OverTraining, PowerLaw, ShiftedPowerLaw
from clip_jax.scaling.literature import published

if TYPE_CHECKING:
    import pandas as pd

SQUARES, LINEAR, NEAR_L1 = Loss("squares"), Loss("squares", "linear"), Loss("huber", "log", 1e-3)
Results = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Row:
    """One number of a replication; ``tolerance`` is absolute."""

    block: str
    what: str
    expected: float
    fitted: float
    tolerance: float
    source: str

    @property
    def met(self) -> bool:
        """True if |fitted - expected| lies within the tolerance; "at most" rows need only not exceed it."""
        if self.what.endswith("at most"):
            return self.fitted <= self.expected
        return abs(self.fitted - self.expected) <= self.tolerance * (1 + 1e-9)


def chinchilla(df: pd.DataFrame) -> Results:
    """Fit approach 3 to the points read from Hoffmann et al.'s figure 4."""
    require_columns(df.columns, ("n_params", "tokens", "loss", "excluded_by_published_fit"))
    law = Chinchilla()

    def fit(rows: pd.DataFrame, loss: Loss) -> Fit:
        columns = {"params": rows["n_params"].to_numpy(float), "samples_seen": rows["tokens"].to_numpy(float)}
        return fit_law(law, columns, rows["loss"].to_numpy(float), loss=loss, profile=False)

    kept = df[df["excluded_by_published_fit"] == 0]
    first, second = fit(kept, NEAR_L1), fit(kept, Loss("absolute"))
    from clip_jax.scaling.uncertainty.bootstrap import from_weights

    legacy = np.random.RandomState(42)  # the published resamples were drawn by this generator
    n = len(kept)
    weights = np.stack([np.bincount(legacy.choice(n, n), minlength=n) for _ in range(4000)]).astype(float)
    again = from_weights(first, weights)
    ends = {name: again.interval(name) for name in law.names}
    exponent = again.draws["beta"] / (again.draws["alpha"] + again.draws["beta"])
    v = first.values
    return {
        "C1 Huber 1e-3, 240 rows": {"objective": first.objective, **v},
        "C2 least absolute deviations": {"sum |r|": second.objective, **second.values},
        "C3 standard errors, 4000 resamples": {name: again.spread(name) for name in law.names},
        "C4 95 % intervals": {f"{k} {s}": e[i] for k, e in ends.items() for i, s in enumerate(("low", "high"))},
        "C5 Huber 1e-3, all 245 rows": fit(df, NEAR_L1).values,
        "C6 squares of logs, 240 rows": fit(kept, SQUARES).values,
        "C7 squares of logs, all 245 rows": fit(df, SQUARES).values,
        "allocation of C1": {
            "exponent of N*": v["beta"] / (v["alpha"] + v["beta"]),
            "exponent low": float(np.quantile(exponent, 0.025)),
            "exponent high": float(np.quantile(exponent, 0.975)),
            "tokens per parameter at C = 6·70e9·1.4e12": float(law.samples_per_param(v, 6 * 70e9 * 1.4e12)),
        },
    }


def cherti(df: pd.DataFrame) -> Results:
    """Fit power laws to OpenCLIP's runs: error against GMACs."""
    require_columns(
        df.columns, ("arch", "upstream_dataset", "gmacs_total", "imagenet1k_acc1", "mscoco_image_retrieval_r5")
    )

    def line(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
        v = fit_law(PowerLaw(), x, y, loss=SQUARES, profile=False).values
        return {"k": v["a"], "s": -v["b"]}

    openai = df["upstream_dataset"].str.contains("WIT")
    laion, wit = df[~openai], df[openai]
    results = {}
    for n, (name, metric) in enumerate(
        (("ImageNet error", "imagenet1k_acc1"), ("COCO image R@5 error", "mscoco_image_retrieval_r5"))
    ):
        x, y = laion["gmacs_total"].to_numpy(float), 1 - laion[metric].to_numpy(float)
        results[f"O{2 * n + 1} {name}, binned frontier"] = line(*binned_centers(x, y))
        results[f"O{2 * n + 2} {name}, CLIP-WIT"] = line(
            wit["gmacs_total"].to_numpy(float), 1 - wit[metric].to_numpy(float)
        )
    x, y = laion["gmacs_total"].to_numpy(float), 1 - laion["imagenet1k_acc1"].to_numpy(float)
    front = pareto(x, y)
    results["O5 ImageNet error, strict Pareto frontier"] = line(x[front], y[front])
    results["O6 ImageNet error, all 29 runs"] = line(x, y)
    k, s = results["O1 ImageNet error, binned frontier"].values()
    seen = 407332084 * 84
    results["O7 accuracy that O1 predicts, %"] = {
        name: 100 * (1 - k * (gmacs * seen * times) ** s)
        for name, gmacs, times in (("G/14 34B", 532.92, 1), ("G/14 68B", 532.92, 2), ("H/14 34B", 190.97, 1))
    }
    small = x < 1.2e12
    front = pareto(x[small], y[small])
    ways = {"binned": binned_centers(x[small], y[small]), "strict Pareto": (x[small][front], y[small][front])}
    target = laion.loc[laion["arch"] == "ViT-H-14", "gmacs_total"].max()
    results["H/14 34B from runs below 1.2e12 GMAC"] = {
        name: 1 - v["k"] * target ** v["s"] for name, way in ways.items() for v in (line(*way),)
    }
    return results


def _shifted(x: np.ndarray, y: np.ndarray) -> tuple[Fit, dict[str, float]]:
    fit = fit_law(ShiftedPowerLaw(), x, y, loss=LINEAR, profile=False)
    rmse = float(np.sqrt(np.mean((fit.predict(x) - y) ** 2)))
    return fit, {"points": len(x), "a": fit.values["a"], "b": fit.values["b"], "rmse": rmse}


def datacomp(df: pd.DataFrame) -> Results:
    """Fit error = a·(C + c)^-b + d to CLIP and MaMMUT on DataComp."""
    require_columns(df.columns, ("family", "gflops_total", "score"))
    results, fits, number = (
        {},
        {},
        {("pareto", "clip"): 1, ("pareto", "mammut"): 2, ("binned", "clip"): 3, ("binned", "mammut"): 4},
    )
    for (rule, family), n in number.items():
        rows = df[df["family"] == family]
        x, y = rows["gflops_total"].to_numpy(float), 1 - rows["score"].to_numpy(float)
        kept = pareto(x, y) if rule == "pareto" else binned(x, y, octaves(x))
        name = f"N{n} {family}, {'strict Pareto' if rule == 'pareto' else 'binned frontier'}"
        fits[n], results[name] = _shifted(x[kept], y[kept])
    from scipy.optimize import brentq

    low, high = np.log(1e10), np.log(1e12)
    crossing = brentq(lambda c: float(fits[3].predict(np.exp(c)) - fits[4].predict(np.exp(c))), low, high)
    results["N3 and N4"] = {
        "crossing, GFLOPs": float(np.exp(crossing)),
        "N4 at 2.59e12 GFLOPs, accuracy": 1 - float(fits[4].predict(2.59e12)),
    }  # fmt: skip
    return results


def datacomp_runs(df: pd.DataFrame) -> Results:
    """Fit the same form to every run, tuned or not, and forecast the largest run from those below 1e11 GFLOPs."""
    require_columns(df.columns, ("family", "gflops_total", "imagenet1k_acc1"))
    results = {}
    for family in ("clip", "mammut"):
        rows = df[df["family"] == family]
        x, y = rows["gflops_total"].to_numpy(float), 1 - rows["imagenet1k_acc1"].to_numpy(float)
        kept = binned(x, y, octaves(x))
        block = results[f"{family}, binned frontier of all runs"] = _shifted(x[kept], y[kept])[1]
        below = kept[x[kept] < 1e11]
        fit, _ = _shifted(x[below], y[below])
        block["forecast of the largest run"] = float(fit.predict(x.max()))
    return results


def gadre(df: pd.DataFrame) -> Results:
    """Forecast the largest runs from five small ones, through the loss to the error of downstream tasks."""
    require_columns(df.columns, ("N", "D", "token_multiplier", "loss_c4_val", "err_avg17"))
    chosen = (df["N"] < 5e8) & (df["token_multiplier"] == 20)
    chosen |= (df["N"] == df["N"].min()) & (df["token_multiplier"] == 320)
    rows = df[chosen]
    fit = fit_law(
        OverTraining(), {"params": rows["N"], "samples_seen": rows["D"]}, rows["loss_c4_val"],
        loss=LINEAR, fixed={}, profile=False,
    )  # fmt: skip
    billion = (df["N"] > 1e9) & (df["N"] < 2e9)
    more = df[chosen | (billion & (df["token_multiplier"] == 20))]
    link = fit_law(ExponentialLink(), more["loss_c4_val"], more["err_avg17"], loss=LINEAR, profile=False)

    def loss(big: pd.Series, ratio: int) -> float:
        row = df[big & (df["token_multiplier"] == ratio)].iloc[0]
        return float(fit.predict({"params": row["N"], "samples_seen": row["D"]}))

    last = loss(df["N"] > 5e9, 20)
    return {
        "loss law, 5 runs": fit.values,
        "error law, 6 runs": link.values,
        "predictions": {
            "loss of 1.4B at M=80": loss(billion, 80), "loss of 6.9B at M=20": last,
            "error of 6.9B at M=20": float(link.predict(last)),
        },
    }  # fmt: skip


SETUPS = {"Kaplan's setup": "|kaplan|", "tuned setup": "|tuned|"}


def porian(df: pd.DataFrame) -> Results:
    """Fit the exponent of the optimal size to the source's optima."""
    require_columns(df.columns, ("config", "flops", "n_star", "log_n_star_std"))
    results = {}
    for name, part in SETUPS.items():
        rows = df[df["config"].str.contains(part, regex=False)]
        x, y = rows["flops"].to_numpy(float), rows["n_star"].to_numpy(float)
        weights = rows["log_n_star_std"].to_numpy(float) ** -2
        fits = [fit_law(PowerLaw(), x, y, loss=SQUARES, weights=w, profile=False) for w in (None, weights)]
        results[name] = {"exponent, OLS": -fits[0].values["b"], "exponent, weights 1/sd²": -fits[1].values["b"]}
    return results


def porian_isoflop(df: pd.DataFrame) -> Results:
    """Fit the exponent of the optimal size to the runs themselves, by Akima interpolation."""
    require_columns(df.columns, ("config", "flops", "n", "loss"))
    results = {}
    for name, part in SETUPS.items():
        rows = df[df["config"].str.contains(part, regex=False)]
        optima = []
        for flops, group in rows.groupby("flops"):
            at = lowest_point(np.log(group["n"].to_numpy(float)), np.log(group["loss"].to_numpy(float)), "akima")
            if at.x is not None:
                optima.append((flops, np.exp(at.x)))
        x, y = np.array(optima, float).T
        results[name] = {"exponent, Akima": -fit_law(PowerLaw(), x, y, loss=SQUARES, profile=False).values["b"]}
    return results


def marin(df: pd.DataFrame) -> Results:
    """Fit IsoFLOP runs by approach 3 and approach 2, which disagree."""
    require_columns(df.columns, ("params", "tokens", "budget", "loss"))
    columns = {"params": df["params"] / 1e6, "samples_seen": df["tokens"] / 1e9}
    fit = fit_law(Chinchilla(), columns, df["loss"], loss=Loss("huber", "linear", 1e-3), profile=False)
    slopes = {}
    for name, column in (("exponent of N*", "params"), ("exponent of D*", "tokens")):
        optima = []
        for budget, group in df.groupby("budget"):
            at = lowest_point(np.log(group[column].to_numpy(float)), group["loss"].to_numpy(float))
            if at.x is not None:
                optima.append((budget, np.exp(at.x)))
        x, y = np.array(optima, float).T
        slopes[name] = -fit_law(PowerLaw(), x, y, loss=SQUARES, profile=False).values["b"]
    return {
        "Huber 1e-3 of the loss, 88 rows": {"objective, mean": fit.objective / len(df), **fit.values},
        "parabolas": slopes,
    }


def bnsl(df: pd.DataFrame) -> Results:
    """Fit a sharp break before its end and forecast beyond it."""
    require_columns(df.columns, ("train_set_size", "test_loss"))
    x, y = df["train_set_size"].to_numpy(float), df["test_loss"].to_numpy(float)
    fit = fit_law(BrokenPowerLaw(), x[:14], y[:14], loss=Loss("squares", "log1p"), fixed={}, profile=False)
    off = np.log1p(fit.predict(x[14:])) - np.log1p(y[14:])
    return {
        "fit of the first 14 rows in log(1+y)": {"RMSLE on the last three, at most": float(np.sqrt(np.mean(off**2)))}
    }


Replication = tuple[str, Callable[["pd.DataFrame"], Results], dict[str, published.Expected]]
# name -> (file that ``all`` searches for, function that fits it, expected numbers)
REPLICATIONS: dict[str, Replication] = {
    "chinchilla": ("chinchilla_epoch245.csv", chinchilla, published.CHINCHILLA),
    "cherti": ("openclip_cherti.csv", cherti, published.CHERTI),
    "datacomp": ("clip_family_best_datacomp_imagenet.csv", datacomp, published.DATACOMP),
    "datacomp-runs": ("clip_mammut_runs_datacomp_imagenet.csv", datacomp_runs, published.DATACOMP_RUNS),
    "gadre": ("gadre_overtrain_c4.csv", gadre, published.GADRE),
    "porian": ("porian_optimal_dev.csv", porian, published.PORIAN),
    "porian-isoflop": ("porian_isoflop_dev.csv", porian_isoflop, published.PORIAN_ISOFLOP),
    "marin": ("isoflop_marin_nemotron.csv", marin, published.MARIN),
    "bnsl": ("bnsl_arithmetic.csv", bnsl, published.BNSL),
}


def replicate(name: str, path: str | Path) -> list[Row]:
    """Run one replication on its table, or with ``all`` every one whose table exists in a folder.

    Raises:
      UserError: an unknown name, a missing file or column, a folder without any of the tables.
    """
    if name == "all":
        tables = [(n, Path(path) / file) for n, (file, _, _) in REPLICATIONS.items() if (Path(path) / file).is_file()]
        if not tables:
            reason = f"holds none of {', '.join(file for file, _, _ in REPLICATIONS.values())}"
            raise UserError(field=path, reason=reason)
        return [row for n, file in tables for row in replicate(n, file)]
    one_of("name", name, (*REPLICATIONS, "all"))
    _, compute, expected = REPLICATIONS[name]
    results = compute(read_table(path))
    return [
        Row(f"{name} {block}", what, value, results[block][what], tolerance * (abs(value) if relative else 1), source)
        for block, numbers in expected.items()
        for what, (value, tolerance, relative, source) in numbers.items()
    ]


def table(rows: list[Row]) -> str:
    """Format expected value, value of this fitter and difference, one row per number, and how many were met."""
    lines = [f"{'':44s} {'expected':>14} {'ours':>14} {'difference':>11}  tolerance  source"]
    block = ""
    for r in rows:
        if r.block != block:
            lines.append(block := r.block)
        tolerance = f"{r.tolerance:9.1e}" if not r.what.endswith("at most") else "         "
        lines.append(
            f"  {r.what:42s} {r.expected:14.8g} {r.fitted:14.8g} {r.fitted - r.expected:+11.2e}"
            f"  {tolerance}  {r.source}" + ("" if r.met else "  MISSED")
        )
    return "\n".join([*lines, f"{sum(r.met for r in rows)} of {len(rows)} within tolerance"])
