"""Passes over the training data, and from how many on a reader is warned. Imports no jax."""

from __future__ import annotations

# up to about so many, text that is read again is worth nearly as much as new text (Muennighoff et al., 2023)
MANY_PASSES = 4.0


def passes_number(passes: float) -> str:
    """Return a number of passes with two digits, or as a whole number from 10 on."""
    return f"{passes:.2g}" if passes < 9.95 else f"{passes:,.0f}"


def passes_text(passes: float) -> str:
    """Return the number of passes over the training data in words, with a warning above `MANY_PASSES`."""
    text = f"{passes_number(passes)} passes over the data"
    return text + (f" (above {MANY_PASSES:g}, repeated pairs are worth less than new ones)" if is_many(passes) else "")


def is_many(passes: float) -> bool:
    """Return whether a run repeats its data so often that it is worth a warning."""
    return passes > MANY_PASSES
