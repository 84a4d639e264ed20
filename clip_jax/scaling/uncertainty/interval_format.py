"""Intervals as text and as plain data."""

from __future__ import annotations

from clip_jax.scaling.profile.prediction import Interval


def ends_text(low: float | None, high: float | None, form: str = ".4g") -> str:
    """Format ``[low, high]``; an end that is missing or infinite is written ``none``."""
    ends = ("none" if v is None or v in (float("-inf"), float("inf")) else f"{v:{form}}" for v in (low, high))
    return f"[{', '.join(ends)}]"


def span_text(found: Interval) -> str:
    """Format ``[low, high]``; an open end is written ``none``."""
    return ends_text(*found.bounded_ends)


def interval_text(found: Interval) -> str:
    """Format ``value [low, high]``; an open end is written ``none``."""
    return f"{found.value:.4g} {span_text(found)}"


def interval_data(found: Interval) -> dict[str, float | None]:
    """Return value, low, high and level; an open end is None."""
    low, high = ends_data(found)
    return {"value": float(found.value), "low": low, "high": high, "level": found.level}


def ends_data(found: Interval) -> tuple[float | None, float | None]:
    """Return (low, high); an open end is None."""
    return None if found.open_low else float(found.low), None if found.open_high else float(found.high)


def times_text(factor: float) -> str:
    """Format a factor: 1.51×, 100×, 3,200×."""
    return f"{factor:,.0f}×" if factor >= 10 else f"{factor:.3g}×"
