"""What the page's script looks up: every law on every frontier over one grid of FLOPs, fitted beforehand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from clip_jax.scaling.analysis import Analysis
from clip_jax.scaling.checklist import plain_json
from clip_jax.scaling.evidence import REACH, RULES
from clip_jax.scaling.figures.style import LAW_COLORS, color_scale, label_of
from clip_jax.scaling.laws import LAWS
from clip_jax.scaling.page.tables import text_of

if TYPE_CHECKING:
    import pandas as pd

GRID = 321  # places; between them the script draws straight lines in log-log
TIP = ("run_id", "budget", "flops", "params", "samples_seen", "batch_size", "seed", "peak_lr", "kind")


def embedded(found: Analysis) -> dict[str, Any]:
    """JSON for the page.

    {metric, grid [G], law, rule (shown first), target, most (FLOPs of the largest run), runs: [{id, x, y, color,
    tip}], curves: [{color, points}], rules: [{key, name, points: [[flops, error]], reasons, fits: {law: {name, text,
    values, status, agree, warnings, color, y, low, high, run_low, run_high [G]}}}]}; an end that the data do not bound
    is null.
    """
    rows, flops = found.rows, found.rows["flops"].to_numpy(float)
    grid = np.geomspace(flops.min() * REACH[0], flops.max() * REACH[-1], GRID)
    colors = _colors(rows)
    rules = []
    for key, frontier in found.frontiers.items():
        fits = {}
        for law, fitted in frontier.fitted.items():
            fit = fitted.fit
            fits[law] = {
                "name": fit.law.name, "text": fit.law.text(fit.values), "values": fit.values, "status": fit.status,
                "agree": f"{fit.agree} of {fit.starts} starts agree", "warnings": fitted.warnings(),
                "color": LAW_COLORS[law], **{k: v.tolist() for k, v in fitted.bands(grid).items()},
            }  # fmt: skip
        points = frontier.points[["flops", "error"]].to_numpy(float).tolist()
        rules.append({"key": key, "name": RULES[key], "points": points, "reasons": frontier.reasons, "fits": fits})
    tips = (*(c for c in TIP if c in rows.columns), found.metric)
    runs = [
        {
            "id": str(r["run_id"]), "x": float(r["flops"]), "y": float(r[found.metric]),
            "color": colors[str(r["run_id"])], "tip": "\n".join(f"{c}: {text_of(r[c])}" for c in tips),
        }
        for r in rows.to_dict("records")
    ]  # fmt: skip
    lines = []
    if found.curves is not None:
        for run_id, part in found.curves.sort_values("flops").groupby("run_id"):
            if str(run_id) in colors:
                lines.append(
                    {"color": colors[str(run_id)], "points": part[["flops", "error"]].to_numpy(float).tolist()}
                )
    return plain_json(
        {
            "metric": label_of(found.metric), "grid": grid.tolist(), "law": found.winner or LAWS[0].key,
            "rule": found.frontier.rule, "target": found.target, "most": float(flops.max()), "runs": runs,
            "curves": lines, "rules": rules,
        }
    )  # fmt: skip


def _colors(rows: pd.DataFrame) -> dict[str, str]:
    from matplotlib.colors import to_hex

    colors, norm = color_scale(rows["params"])
    return {str(run): to_hex(colors(norm(n))) for run, n in zip(rows["run_id"], rows["params"], strict=True)}
