"""FLOPs of a run from its sizes and samples: the cost along which an allocation is optimal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clip_jax.errors import UserError
from clip_jax.scaling.laws.base import Array, Law
from clip_jax.scaling.laws.size_data import FLOPS_PER_PARAM_SAMPLE

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

SAMPLES = "samples_seen"
MAX_SIZES = 2  # size columns: one model, or two towers


@dataclass(frozen=True)
class Cost:
    """FLOPs of one training run: samples seen times FLOPs per sample.

    Attributes:
      terms: size column -> (factor, power): factor · size^power FLOPs per sample.
      constant: FLOPs per sample that no size column accounts for.
      residual_sd: standard deviation of ln(FLOPs) around this formula in the table it was fitted to; 0 when given.
    """

    terms: Mapping[str, tuple[float, float]]
    constant: float = 0.0
    residual_sd: float = 0.0

    def log_per_sample(self, log_sizes: Mapping[str, Array]) -> Array:
        """Return ln(FLOPs per sample) at ln(sizes); the arrays broadcast."""
        total = self.constant + sum(k * np.exp(power * log_sizes[c]) for c, (k, power) in self.terms.items())
        return np.log(total)


def dense_cost(law: Law, flops_per_param_sample: float | Mapping[str, float] = FLOPS_PER_PARAM_SAMPLE) -> Cost:
    """Build the cost k·N·D of a law's size columns.

    Args:
      law: with `samples_seen` and one or two size columns.
      flops_per_param_sample: k, one number for all size columns or one per column.

    Raises:
      UserError: not a law of sizes and samples; a column without a factor; a factor not above 0.
    """
    sizes = size_columns(law)
    factors = flops_per_param_sample
    if not isinstance(factors, Mapping):
        factors = dict.fromkeys(sizes, factors)
    if set(factors) != set(sizes) or not all(np.isfinite(k) and k > 0 for k in factors.values()):
        reason = f"must be a number above 0 for each of {sizes}"
        raise UserError(field="flops_per_param_sample", value=flops_per_param_sample, reason=reason)
    return Cost({c: (float(factors[c]), 1.0) for c in sizes})


def fit_cost(columns: Mapping[str, ArrayLike] | pd.DataFrame, flops: ArrayLike, size: str = "params") -> Cost:
    """Fit ln(FLOPs / samples) as a line in ln(size), from the FLOPs of a table's runs.

    Args:
      columns: dict or DataFrame with the size column and ``samples_seen``, [n] each, above 0.
      flops: of each run, [n].
      size: the size column.

    Raises:
      UserError: fewer than two sizes.
    """
    n = np.log(np.asarray(columns[size], float))
    per_sample = np.log(np.asarray(flops, float) / np.asarray(columns[SAMPLES], float))
    if len(np.unique(n)) < 2:
        reason = "at least 2 sizes are needed to fit the cost"
        raise UserError(field=size, reason=reason, hint="pass flops_per_param_sample")
    power, constant = np.polyfit(n - n.mean(), per_sample, 1)
    constant -= power * n.mean()
    return Cost({size: (float(np.exp(constant)), float(power))}, 0.0, float((per_sample - constant - power * n).std()))


def size_columns(law: Law) -> tuple[str, ...]:
    """Return a law's size columns. Raises UserError for a law that lacks sizes or ``samples_seen``."""
    sizes = tuple(c for c in law.columns if c.startswith("params"))
    if SAMPLES not in law.columns or not 1 <= len(sizes) <= MAX_SIZES:
        reason = f"must be a law of model size and {SAMPLES}, and is one of {', '.join(law.columns)}"
        raise UserError(field="law", value=law.key, reason=reason)
    return sizes
