"""Format intervals as text and as plain data."""

from __future__ import annotations

from clip_jax.scaling.profile.prediction import Interval


def ends_text(low: float | None, high: float | None, form: str = ".4g") -> str:
    """Format ``[low, high]``; an end that is missing or infinite is written ``none``."""
    ends = ("none" if v is None or v in (float("-inf"), float("inf")) else f"{v:{form}}" for v in (low, high))
    return f"[{', '.join(ends)}]"


def span_text(interval: Interval) -> str:
    """Format ``[low, high]``; an open end is written ``none``."""
    return ends_text(*interval.bounded_ends)


def interval_text(interval: Interval) -> str:
    """Format ``value [low, high]``; an open end is written ``none``."""
    return f"{interval.value:.4g} {span_text(interval)}"


def interval_data(interval: Interval) -> dict[str, float | None]:
    """Return value, low, high and level; an open end is None."""
    low, high = ends_data(interval)
    return {"value": float(interval.value), "low": low, "high": high, "level": interval.level}


def ends_data(interval: Interval) -> tuple[float | None, float | None]:
    """Return (low, high); an open end is None."""
    return None if interval.open_low else float(interval.low), None if interval.open_high else float(interval.high)


def times_text(factor: float) -> str:
    """Format a factor: 1.51×, 100×, 3,200×."""
    return f"{factor:,.0f}×" if factor >= 10 else f"{factor:.3g}×"
