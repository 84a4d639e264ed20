"""Intervals as text and as plain data."""

from __future__ import annotations

from clip_jax.scaling.prediction import Interval


def ends_text(low: float | None, high: float | None) -> str:
    """Format ``[low, high]``; an end that is missing or infinite is written ``none``."""
    ends = ("none" if v is None or v in (float("-inf"), float("inf")) else f"{v:.4g}" for v in (low, high))
    return f"[{', '.join(ends)}]"


def span_text(found: Interval) -> str:
    """Format ``[low, high]``; an open end is written ``none``."""
    return ends_text(*found.bounded_ends)


def interval_text(found: Interval) -> str:
    """Format ``value [low, high]``; an open end is written ``none``."""
    return f"{found.value:.4g} {span_text(found)}"


def interval_data(found: Interval) -> dict[str, float | None]:
    """Return value, low and high; an open end is None."""
    low, high = (None if o else float(v) for o, v in ((found.open_low, found.low), (found.open_high, found.high)))
    return {"value": float(found.value), "low": low, "high": high, "level": found.level}
