"""From a table of runs to a law with its evidence: `law.json`, figures, one HTML page, a summary for a terminal."""

from __future__ import annotations

import json
import math
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_jax.config import UserError
from clip_jax.scaling import figures
from clip_jax.scaling.fit import fit_law
from clip_jax.scaling.forecast import exponent_of, extrapolation_scores, forecast_check
from clip_jax.scaling.frontier import compute_optimal, seed_noise, unbeaten
from clip_jax.scaling.isoflop import allocation, isoflop
from clip_jax.scaling.laws import LAWS
from clip_jax.scaling.table import fit_rows, prepare, read_table
from clip_jax.scaling.uncertainty import Ensemble, bootstrap

if TYPE_CHECKING:
    import pandas as pd

LEAST_BUDGETS = 3
COLUMNS = 100  # of a terminal
SHOWN = 10  # budgets in the summary


def _analyse(
    df: pd.DataFrame, metric: str, lr_evidence: pd.DataFrame | None, planned: bool = True
) -> tuple[dict[str, Any], Any, list[Ensemble]]:
    rows, left_out = fit_rows(df, metric)
    if rows.empty:
        raise UserError(f"no run may enter the fit of {metric}; the first was left out: {left_out[0]['reason']}")
    if planned or rows["seed"].nunique() > 1:
        frontier = compute_optimal(rows, metric)
    else:  # runs of equal cost and size are no repeats of one another
        frontier = compute_optimal(rows.sort_values(metric).drop_duplicates("budget"), metric)
    if not planned:
        frontier = unbeaten(frontier)
    sd, degrees = seed_noise(rows, metric)
    noise = _noise(rows, metric, frontier)
    c, y = frontier["flops"].to_numpy(float), frontier["error"].to_numpy(float)
    parabolas = isoflop(rows, metric)
    law: dict[str, Any] = {
        "metric": metric,
        "runs": len(rows),
        "left_out": left_out,
        "frontier_rule": "best size of each budget" if planned else "runs that no cheaper run beats",
        "flops_span": float(c.max() / c.min()),
        "batch_sizes": sorted({int(b) for b in rows["batch_size"]}),
        "seed_sd_of_log_error": sd if degrees else None,
        "frontier": _with_drops(frontier, sd, degrees),
        "isoflop": parabolas,
        "allocation": asdict(allocation(parabolas)),
        "fits": [],
        "winner": None,
        "why": "",
        "extrapolation": [],
        "forecast_check": [],
        "next_budget": [],
        "lr_evidence": [] if lr_evidence is None else lr_evidence.to_dict("records"),
    }
    if len(c) < LEAST_BUDGETS:
        law["why"] = f"no law: {len(c)} budgets, at least {LEAST_BUDGETS} are needed"
        return law, frontier, []
    ensembles = [bootstrap(fit_law(form, c, y), **noise) for form in LAWS if len(c) >= len(form.parameters)]
    law["extrapolation"] = extrapolation_scores(c, y)
    before = rows[rows["budget"] < frontier["budget"].max()]  # the held-out budget tells nothing, its seeds neither
    law["forecast_check"] = forecast_check(c, y, **_noise(before, metric, frontier.iloc[:-1]))
    if law["extrapolation"]:
        best = law["extrapolation"][0]
        law["winner"] = best["form"]
        law["why"] = (
            f"{best['form']} forecasts the next budget best: mean |ln(predicted/measured)| "
            f"{best['mean_abs_log_error']:.4f} over {best['forecasts']} forecasts"
        )
    else:
        law["winner"], law["why"] = LAWS[0].name, "too few budgets to compare forms by extrapolation"
    for ensemble in ensembles:
        fit = ensemble.fit
        law["fits"].append(
            {
                "form": fit.law.name,
                "formula": fit.law.formula,
                "values": fit.values,
                "status": fit.status,
                "notes": list(fit.notes),
                "starts": fit.starts,
                "agree": fit.agree,
                "points": fit.points,
                "residual_sd": fit.residual_sd,
                "exponent": exponent_of(ensemble),
                "intervals": {name: ensemble.interval(name) for name in fit.values},
            }
        )
        target = float(c.max() * 10)
        low, high = ensemble.band(target)
        law["next_budget"].append(
            {
                "form": fit.law.name,
                "flops": target,
                "predicted": float(fit.predict(target)),
                "low": float(low),
                "high": float(high),
            }
        )
    return law, frontier, ensembles


def _noise(rows: pd.DataFrame, metric: str, frontier: pd.DataFrame) -> dict[str, Any]:
    """What seeds say about the scatter of one point of the frontier, for `bootstrap`."""
    sd, degrees = seed_noise(rows, metric)
    return {"seed_sd": sd / math.sqrt(float(frontier["seeds"].mean())), "seed_degrees": degrees}


def _with_drops(frontier: pd.DataFrame, sd: float, degrees: int) -> list[dict[str, Any]]:
    """Each budget's best, and whether the error falls to the next budget by more than twice its noise."""
    rows: list[Any] = frontier.to_dict("records")
    for now, after in zip(rows, [*rows[1:], None], strict=True):
        now["drop"] = now["noise"] = now["falls"] = None
        if after is not None:
            now["drop"] = now["error"] - after["error"]
            if degrees:
                now["noise"] = 2 * sd * now["error"] * math.sqrt(1 / now["seeds"] + 1 / after["seeds"])
                now["falls"] = bool(now["drop"] > now["noise"])
    return rows


def write_report(
    df: pd.DataFrame,
    out_dir: str | Path,
    *,
    metric: str = "error_mean",
    curves: pd.DataFrame | None = None,
    lr_evidence: pd.DataFrame | None = None,
    title: str = "Zero-shot transfer against compute",
) -> dict[str, Any]:
    """Fit and write ``law.json``, four PNG figures and ``report.html`` into ``out_dir``; returns the law.

    Args:
      df: one row a run (see `table.prepare`).
      out_dir: made if missing.
      metric: the column to explain, an error in (0, 1] or a loss.
      curves: rows (run_id, step, flops, error) of evaluations during training; drawn, never fitted. Points
        without a finite logarithm cannot be drawn and are left out.
      lr_evidence: rows (budget, peak_lr, error, verdict) of learning rates tried.
      title: of the page and of the main figure.

    Raises:
      UserError: a missing column, or no run that may enter the fit.
    """
    from clip_jax.scaling.page import write_page

    planned = "budget" in df.columns
    df = prepare(df, metric)
    if curves is not None:
        drawable = (curves[["flops", "error"]] > 0) & np.isfinite(curves[["flops", "error"]])
        curves = curves[drawable.all(axis=1)]
        curves = None if curves.empty else curves
    law, frontier, ensembles = _analyse(df, metric, lr_evidence, planned)
    law = _plain({"title": title, **law})
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    rows, _ = fit_rows(df, metric)
    figures.error_against_flops(
        out / "error_vs_flops.png",
        rows,
        frontier,
        ensembles,
        law["winner"],
        metric,
        title,
        law["forecast_check"],
        curves,
    )
    figures.learning_curves(out / "learning_curves.png", rows, curves, metric)
    figures.isoflop_parabolas(out / "isoflop.png", rows, law["isoflop"], metric)
    figures.residuals(out / "residuals.png", frontier, ensembles)
    write_page(out / "report.html", law, rows, ensembles, curves)
    partial = out / ".law.json.partial"
    partial.write_text(json.dumps(law, indent=1, allow_nan=False) + "\n")
    partial.replace(out / "law.json")
    return law


def _plain(value: Any) -> Any:
    """JSON's own types; NaN becomes null."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def fit_table(path: str | Path, metric: str = "error_mean") -> dict[str, Any]:
    """The law of a table on disk, without figures: what `clip-jax fit` prints. Raises UserError."""
    table = read_table(path)
    law, _, _ = _analyse(prepare(table, metric, str(path)), metric, None, "budget" in table.columns)
    return _plain({"title": str(path), **law})


def text_summary(law: dict[str, Any]) -> str:
    """The law for a terminal of 100 columns."""
    span = f"{law['flops_span']:.0f}× of FLOPs"
    lines = [f"{law['title']}  ({law['metric']}; {law['runs']} runs over {span})", ""]
    if law["frontier_rule"] != "best size of each budget":
        lines.insert(1, f"  no column 'budget': the frontier is the {law['frontier_rule']}")
    lines.append("   budget      params     samples  seeds   error     sd  drop to next  beyond noise  bracketed")
    hidden = max(len(law["frontier"]) - SHOWN, 0)
    for i, r in enumerate(law["frontier"]):
        if hidden and 3 <= i < 3 + hidden:
            if i == 3:
                lines.append(f"  … {hidden} more")
            continue
        sd = "-" if r["sd"] is None else f"{r['sd']:.4f}"
        drop = "" if r["drop"] is None else f"{r['drop']:+.4f}"
        falls = "" if r["drop"] is None else {True: "yes", False: "NO", None: "unknown"}[r["falls"]]
        lines.append(
            f"  {r['budget']:8.2e}  {r['params']:8,.0f}  {r['samples_seen']:10,.0f}  {r['seeds']:5d}  {r['error']:.4f} "
            f"{sd:>7}  {drop:>12}  {falls:>12}  {'yes' if r['bracketed'] else 'no':>9}"
        )
    a = law["allocation"]
    if a["status"] == "identified":
        lines.append(
            f"  optimal size ~ C^{a['params']:.2f} (se {a['params_se']:.2f}), samples ~ C^{a['samples']:.2f} "
            f"(se {a['samples_se']:.2f})"
        )
    else:
        lines.append(f"  exponents of optimal size and samples {a['status']}")
    lines += [
        "",
        "  form                   law                               exponent  95 % interval     extrapolation",
    ]
    scores = {s["form"]: s["mean_abs_log_error"] for s in law["extrapolation"]}
    for f in law["fits"]:
        e = f["exponent"]
        values = ", ".join(f"{k}={v:.3g}" for k, v in f["values"].items() if k != e["name"])
        score = f"{scores[f['form']]:.4f}" if f["form"] in scores else "-"
        mark = " *" if f["form"] == law["winner"] else ""
        interval = f"[{e['low']:.4f}, {e['high']:.4f}]"
        lines.append(f"  {f['form']:21s}  {values:32s}  {e['name']}={e['value']:.4f}  {interval}  {score}{mark}")
        if f["status"] != "converged" or f["notes"]:
            lines.append(f"      {'; '.join([f['status'], *f['notes']])}")
    lines.append(f"  {law['why']}")
    if law["forecast_check"]:
        first = law["forecast_check"][0]
        lines += [
            "",
            f"  forecast check: fitted without {first['flops']:.2e} FLOPs, where {first['measured']:.4f} was measured;",
            f"  the naive guess 'same as the last budget' is {first['naive']:.4f} (off by {first['naive_error']:+.4f})",
        ]
        for r in law["forecast_check"]:
            verdict = r["verdict"].split(":")[0].replace("does not beat the naive guess", "does not beat it")
            lines.append(
                f"  {r['form']:21s}  {r['predicted']:.4f} [{r['low']:.4f}, {r['high']:.4f}] width {r['width']:.4f}  "
                f"off by {r['error']:+.4f}: {verdict}"
            )
        if any(r["verdict"].startswith("no forecast") for r in law["forecast_check"]):
            lines.append("  no forecast: the band is wider than the remaining error")
    for r in law["next_budget"]:
        if r["form"] == law["winner"]:
            lines.append(
                f"  at {r['flops']:.1e} FLOPs it expects {r['predicted']:.4f} [{r['low']:.4f}, {r['high']:.4f}]"
            )
    edges = [r for r in law["lr_evidence"] if str(r.get("verdict", "")).startswith("edge")]
    if law["lr_evidence"]:
        budgets = len({r["budget"] for r in law["lr_evidence"]})
        inside = budgets - len({r["budget"] for r in edges})
        lines.append(f"  learning rate: {inside} of {budgets} budgets inside the rates tried")
    wrapped = [textwrap.wrap(line, COLUMNS, subsequent_indent="      ") or [""] for line in lines[1:]]
    return "\n".join([lines[0], *(part for parts in wrapped for part in parts)])
