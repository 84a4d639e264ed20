"""Intervals as text and as plain data."""

from __future__ import annotations

from clip_jax.scaling.profile import Interval


def interval_text(found: Interval) -> str:
    """Format ``value [low, high]``; an open end is written ``open``."""
    low = "open" if found.open_low else f"{found.low:.4g}"
    high = "open" if found.open_high else f"{found.high:.4g}"
    return f"{found.value:.4g} [{low}, {high}]"


def interval_data(found: Interval) -> dict[str, float | None]:
    """Return value, low and high; an open end is None."""
    low, high = (None if o else float(v) for o, v in ((found.open_low, found.low), (found.open_high, found.high)))
    return {"value": float(found.value), "low": low, "high": high, "level": found.level}
