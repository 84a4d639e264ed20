"""Durations as text."""

from __future__ import annotations


def duration_text(seconds: float, *, compact: bool = False) -> str:
    """Return a duration in seconds, minutes or hours, such as ``45 s``, ``12 min`` or ``3.1 h``; compact: ``12m``."""
    units = ("s", "m", "h") if compact else (" s", " min", " h")
    if seconds < 60:
        return f"{seconds:.0f}{units[0]}"
    return f"{seconds / 60:.0f}{units[1]}" if seconds < 7200 else f"{seconds / 3600:.1f}{units[2]}"


def clock_text(seconds: float) -> str:
    """Return a duration as h:mm:ss, rounded down; a negative one as 0:00:00."""
    whole = int(max(seconds, 0))
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
