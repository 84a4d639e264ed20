"""Fill in the checklist of Li, Kudugunta and Zettlemoyer (2025), "(Mis)Fitting: a survey of scaling laws", from a fit.

It lists the facts a reader needs to judge a scaling law, in four parts: form, training, data, fitting. Facts that only
the experimenter knows are ``not stated`` until they are given.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clip_jax.errors import UserError, one_of
from clip_jax.scaling.fit.result import Fit
from clip_jax.scaling.profile.prediction import Interval
from clip_jax.scaling.profile.profile_likelihood import parameter_interval
from clip_jax.scaling.profile.statistic import interval_method
from clip_jax.scaling.uncertainty.diagnostics import influence_method, moved_by_rows, residual_checks
from clip_jax.scaling.uncertainty.interval_format import ends_text
from clip_jax.storage.json_files import write_json
from clip_jax.storage.paths import write_text

Checklist = dict[str, dict[str, Any]]  # part -> question -> answer
NOT_STATED = "not stated"
MAX_MOVED = 50  # rows that are named
# what the fit cannot know; a caller may answer by these names
QUESTIONS = {
    "training": (
        ("variables_counted", "how sizes and FLOPs were counted (embeddings, recomputation, multiply-adds)"),
        ("architecture", "what was trained, and which shapes at which size"),
        ("data", "which data, unique or repeated"),
        ("hyperparameters", "how learning rate, batch size and warmup were chosen at each scale"),
        ("schedule", "whether each run's learning rate was planned for its own end"),
    ),
    "data": (
        ("metric", "what y is, on which examples, and how many of them"),
        ("checkpoints", "whether rows are ends of runs or intermediate checkpoints"),
        ("seeds", "how many seeds a cell"),
        ("left_out", "which rows were left out, and why"),
    ),
}


def checklist(
    fit: Fit,
    answers: dict[str, str] | None = None,
    *,
    intervals: bool | Mapping[str, Interval] = True,
    moved: list[str] | None = None,
    method: str = "",
) -> Checklist:
    """Return the checklist as plain data: {part: {question: answer}}.

    Args:
      fit: the fit.
      answers: to `QUESTIONS`, by name.
      intervals: of the parameters by name, as they are shown elsewhere, so that a fit has one each; True: profile
        intervals (a second or so); False: none.
      moved: the result of `diagnostics.moved_by_rows` for this fit, where it is known already.
      method: of the intervals; empty: profile likelihood.

    Raises:
      UserError: an unknown name in ``answers``.
    """
    answers = dict(answers or {})
    known = sorted({name for part in QUESTIONS.values() for name, _ in part})
    for name in sorted(answers):
        one_of("answers", name, known)
    answered = {part: {text: answers.get(name, NOT_STATED) for name, text in rows} for part, rows in QUESTIONS.items()}
    spans = {
        c: f"{v.min():.4g} to {v.max():.4g} ({v.max() / v.min():.3g}×), {len(np.unique(v))} values"
        for c, v in fit.data.columns.items()
    }
    parameters: dict[str, object] = {}
    for p, free in zip(fit.law.parameters, fit.free_mask, strict=True):
        row: dict[str, object] = {"value": fit.values[p.name], "meaning": p.meaning, "fixed": not free}
        if free and intervals:
            interval = parameter_interval(fit, p.name) if intervals is True else intervals[p.name]  # type: ignore[index]
            row["interval_95"] = list(interval.bounded_ends)
            row["open"] = [s for s, is_open in (("below", interval.open_low), ("above", interval.open_high)) if is_open]
        parameters[p.name] = row
    checks = residual_checks(fit)
    return {
        "form": {
            "law": fit.law.formula, "fitted": fit.law.text(fit.values, 6), "parameters": parameters,
            "fixed parameters": [n for n, free in zip(fit.law.names, fit.free_mask, strict=True) if not free],
        },
        "training": answered["training"],
        "data": {
            "rows": fit.points, "rows beyond the free parameters": fit.points - fit.free, "range of each column": spans,
            "range of y": f"{fit.data.y.min():.4g} to {fit.data.y.max():.4g}",
            "weights": "equal" if np.ptp(fit.data.weights) == 0 else "given", **answered["data"],
        },
        "fitting": {
            "objective": f"sum of {fit.loss.kind} losses of {fit.loss.space} residuals"
            + (f", delta {fit.loss.delta:g}" if fit.loss.kind == "huber" else "")
            + (f", rows above the curve weighing {fit.loss.under:g}" if fit.loss.under < 1 else ""),
            "objective at the optimum": fit.objective,
            "optimiser": "screening by objective, then damped Gauss-Newton in float64 with bounds",
            "starts": f"{fit.screened} screened, {fit.starts} polished, {fit.agree} ended at the best optimum",
            "status": fit.status, "condition": fit.condition,
            "flat profiles": list(fit.flat) if fit.profiled else NOT_STATED, "identified": fit.identified,
            "residual standard deviation": checks["sd"], "residual warnings": checks["warnings"],
            "rows that move a parameter by a standard error": moved_by_rows(fit, most=MAX_MOVED)
            if moved is None
            else moved,
            "influence of rows": influence_method(fit), "intervals": method or interval_method(fit),
            "notes": list(fit.notes),
        },
    }  # fmt: skip


def as_text(content: Checklist) -> str:
    """Format the checklist for a reader: one line per answer."""
    lines = []
    for part, rows in content.items():
        lines.append(part.upper())
        for question, answer in rows.items():
            if question == "parameters":
                for name, p in answer.items():
                    low, high = p.get("interval_95", (np.nan, np.nan))
                    span = "fixed" if p["fixed"] else "" if np.isnan(low) else f"95 % {ends_text(low, high)}"
                    lines.append(f"  {name} = {p['value']:.6g}  {span}  {p['meaning']}".rstrip())
                continue
            lines.append(f"  {question}: {_plain(answer)}")
    return "\n".join(lines) + "\n"


def _plain(answer: object) -> str:
    if isinstance(answer, dict):
        return "; ".join(f"{k} {v}" for k, v in answer.items())
    if isinstance(answer, list):
        return "; ".join(map(str, answer)) or "none"
    return f"{answer:.6g}" if isinstance(answer, float) else {True: "yes", False: "no"}.get(answer, str(answer))  # type: ignore[call-overload]


def folder_for(out: str | Path) -> Path:
    """Make a folder to write into, if missing. Raises UserError where it cannot be made."""
    path = Path(out)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"cannot be made a folder ({error.strerror or error})"
        raise UserError(field="--out", value=path, reason=reason) from None
    return path


def write_checklist(content: Checklist, out_dir: str | Path) -> None:
    """Write ``checklist.json`` and ``checklist.txt`` beside a fit; ``content`` is the result of `checklist`."""
    out = folder_for(out_dir)
    write_json(out / "checklist.json", content)
    write_text(out / "checklist.txt", as_text(content))
