"""Texts that `clip-jax sweep forecast` prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clip_jax.scaling.analysis.averaging import NO_BREAK
from clip_jax.scaling.data.records import ForecastRecord, OutcomeRecord


def registered_text(forecasts: Sequence[ForecastRecord], budgets: Sequence[float], path: Path) -> str:
    """Return the forecasts of a registration, and the command that trains the sweep with these budgets."""
    command = f"  {path}: commit it, then train with --budgets='{budgets}'"
    return "\n\n".join(map(_forecast_text, forecasts)) + f"\n{command}"


def _forecast_text(r: ForecastRecord) -> str:
    noise = r["noise"]
    pictures = r["picture_sd"]
    of_pictures = f", pictures {pictures['same']:.2%} of the error ({pictures['new']:.2%} on new ones)"
    of_pictures = of_pictures if pictures["new"] else ""
    rehearsed = [row["inside"] for row in r["rehearsals"]]
    lines = [
        f"  {r['metric']} at {r['target']:.4g} FLOPs, {r['rule']}, mean of {noise['seeds']} seeds",
        f"  {r['form']}: {r['predicted']:.4f}, 95 % band {_band(r['mean'])}; one run {_band(r['run'])}",
        *([f"  on as many new pictures: {_band(r['mean_new_pictures'])}"] if pictures["new"] else []),
        f"  the guess to beat, same as the last budget: {r['naive']:.4f}",
        *(
            [f"  rehearsed at {len(rehearsed)} earlier budgets: {sum(rehearsed)} inside their bands"]
            if rehearsed
            else []
        ),
        f"  scatter: seeds {noise['seed_sd']:.2%}{of_pictures}; of the measured mean {r['noise_floor']:.2%}",
        *(
            f"  {o['form']}, weight {o['weight']:.2f}: {o['predicted']:.4f} {_band([o['low'], o['high']])}"
            for o in r["forms"]
        ),
        *(f"  note: {w}" for w in r.get("warnings", [])),
    ]
    if "union" in r:
        lines.append(f"  the curves' bands of all forms together: {_band([*r['union']])}; {NO_BREAK}")
    return "\n".join(lines)


def outcome_text(graded: OutcomeRecord) -> str:
    """Return how a forecast came out."""
    g = graded
    form = f", {g['form']}" if g.get("form", "").startswith("through") else ""
    floor = f" (scatter of the measured mean: {g['noise_floor']:.2%})" if "noise_floor" in g else ""
    lines = [
        f"  {g['metric']} at {g['flops']:.4g} FLOPs{form}: measured {g['measured']:.4f}, forecast {g['predicted']:.4f} "
        f"{_band(g['mean'])}: {'inside' if g['inside'] else 'OUTSIDE'} the band, off by "
        f"{g['predicted'] / g['measured'] - 1:+.2%}{floor}",
        f"  same as the last budget would have said {g['naive']:.4f}: {'beaten' if g['beats_naive'] else 'NOT beaten'}",
        "  seeds: " + ", ".join(f"{s['measured']:.4f}{'' if s['inside'] else ' (outside)'}" for s in g["seeds"]),
        f"  {g['sizes']} sizes, the best {'between the others' if g['bracketed'] else 'on the EDGE'}",
    ]
    return "\n".join(lines + [f"  not as registered: {a}" for a in g["amendments"] or ["nothing"]])


def _band(ends: list[float | None]) -> str:
    low, high = ("open" if e is None else f"{e:.4f}" for e in ends)
    return f"[{low}, {high}]"
