"""A setting that was tried, and its results."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from clip_jax.config import RunConfig
from clip_jax.sweep.search.space import Setting


@dataclass(frozen=True)
class Trial:
    """One setting and its results. ``values`` are the metric of each seed at ``step``; None if the run failed."""

    number: int
    setting: Setting
    runs: tuple[RunConfig, ...]
    step: int = 0
    values: tuple[float | None, ...] = ()

    @property
    def mean(self) -> float | None:
        """Mean over seeds; None if any of them failed."""
        known = [v for v in self.values if v is not None and math.isfinite(v)]
        return statistics.fmean(known) if known and len(known) == len(self.values) else None
