"""Collect the data of the page's script: every law on every frontier over one grid of FLOPs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from clip_jax.plotting.style import LAW_COLORS, ceiling, color_scale, label_of
from clip_jax.scaling.analysis.analyze import Analysis
from clip_jax.scaling.analysis.frontier_fit import FRONTIER_RULES, REACH
from clip_jax.scaling.laws import LAWS
from clip_jax.scaling.report.figures.drawn import drawn_rows
from clip_jax.scaling.report.figures.headline import AVERAGED_KEY, Headline, headline
from clip_jax.scaling.report.figures.learning import known_curves
from clip_jax.scaling.report.figures.same_curves import same_curves
from clip_jax.scaling.report.figures.seeds import standard_errors
from clip_jax.scaling.report.page.tables import text_of
from clip_jax.storage.json_files import plain_json

if TYPE_CHECKING:
    import pandas as pd

GRID_POINTS = 321  # grid points; the script interpolates linearly in log-log between them
TIP = ("run_id", "budget", "flops", "params", "samples_seen", "batch_size", "seed", "peak_lr", "kind")


def embedded(analysis: Analysis) -> dict[str, object]:
    """Collect the data that the page's script shows, as JSON.

    Returns:
      {metric, ceiling, grid [G], law, rule (shown first), target, most (FLOPs of the largest run), runs: [{id, x, y,
      color, tip}], curves: [{color, points}], rules: [{key, name, points: [{x, y, se}], reasons, fits: {law: FIT}}]},
      where FIT is {name, same (the law that leads those of its curve), text, status, agree, warnings, color, values,
      y, low, high, run_low, run_high [G]}. On the reported frontier the first may be ``averaged`` over forms. An end
      that the data do not bound, and the standard error of a point with one seed, are null.
    """
    rows, flops = analysis.rows, analysis.rows["flops"].to_numpy(float)
    grid = np.geomspace(flops.min() * REACH[0], flops.max() * REACH[-1], GRID_POINTS)
    shown = drawn_rows(analysis)
    colors = _colors(shown, rows["params"])
    rules = [_rule(analysis, key, grid) for key in analysis.frontiers]
    first = headline(analysis)
    if first is not None and first.key == AVERAGED_KEY:
        rules[0]["fits"] = {AVERAGED_KEY: _averaged(first, analysis, grid), **rules[0]["fits"]}
    tips = (*(c for c in TIP if c in rows.columns), analysis.metric)
    runs = [
        {
            "id": str(r["run_id"]), "x": float(r["flops"]), "y": float(r[analysis.metric]),
            "color": colors[str(r["run_id"])], "tip": "\n".join(f"{c}: {text_of(r[c])}" for c in tips),
        }
        for r in shown.to_dict("records")
    ]  # fmt: skip
    lines = [
        {"color": colors[run], "points": part[["flops", "error"]].to_numpy(float).tolist()}
        for run, part in known_curves(analysis)
    ]
    top = ceiling(analysis.metric, rows[analysis.metric], analysis.law["chance"])
    return plain_json(
        {
            "metric": label_of(analysis.metric, rows), "ceiling": top if np.isfinite(top) else None,
            "grid": grid.tolist(), "law": LAWS[0].key if first is None else first.key,
            "rule": analysis.frontier.rule, "target": analysis.target, "most": float(flops.max()), "runs": runs,
            "curves": lines, "rules": rules,
        }
    )  # fmt: skip


def _rule(analysis: Analysis, key: str, grid: np.ndarray) -> dict[str, Any]:
    """Describe one frontier: its points with the standard error over seeds, and each law's fit."""
    frontier = analysis.frontiers[key]
    lead: dict[str, str] = {}
    for group in same_curves(frontier.fitted, grid, analysis.winner):
        lead |= dict.fromkeys(group, group[0])
    fits = {}
    for law, fitted in frontier.fitted.items():
        fit = fitted.fit
        fits[law] = {
            "name": fit.law.name, "same": lead[law], "text": fit.law.text(fit.values), "values": fit.values,
            "status": fit.status, "agree": f"{fit.agree} of {fit.starts} starts agree",
            "warnings": fitted.warnings(),
            "color": LAW_COLORS[law], **{k: v.tolist() for k, v in fitted.bands(grid).items()},
        }  # fmt: skip
    se = standard_errors(analysis.rows, frontier.points)
    points = [
        {"x": float(x), "y": float(y), "se": float(e)}
        for x, y, e in zip(frontier.points["flops"], frontier.points["error"], se, strict=True)
    ]
    return {"key": key, "name": FRONTIER_RULES[key], "points": points, "reasons": frontier.reasons, "fits": fits}


def _averaged(first: Headline, analysis: Analysis, grid: np.ndarray) -> dict[str, object]:
    shares = sorted(first.weights.items(), key=lambda w: -w[1])
    return {
        "name": first.name, "same": AVERAGED_KEY, "values": {}, "status": f"{len(analysis.frontier.fitted)} forms",
        "text": " + ".join(f"{share:.2f} × {form}" for form, share in shares) or "the mean of all forms",
        "agree": "", "warnings": [], "color": first.color, **{k: v.tolist() for k, v in first.bands(grid).items()},
    }  # fmt: skip


def _colors(rows: pd.DataFrame, sizes: pd.Series) -> dict[str, str]:
    """Return the color of each run on the scale of all sizes."""
    from matplotlib.colors import to_hex

    colors, norm = color_scale(sizes)
    rgba = colors(norm(rows["params"].to_numpy(float)))
    return {str(run): to_hex(color) for run, color in zip(rows["run_id"], rgba, strict=True)}
