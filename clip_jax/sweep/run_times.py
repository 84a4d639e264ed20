"""Wall time of runs to come, from the wall time of runs that have finished. Imports no jax."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clip_jax.durations import duration_text
from clip_jax.storage.paths import exists
from clip_jax.sweep.collect import cells_of
from clip_jax.sweep.run_state import RunState
from clip_jax.sweep.trunks import trained_flops

SPREAD = 2.0  # between the largest and the least FLOPs, from which on wall times tell the two parts apart


@dataclass(frozen=True)
class RunTimes:
    """Wall time of a run: a fixed part (start, compilation, evaluation) and a part that grows with its FLOPs."""

    fixed_s: float
    s_per_flop: float
    runs: int  # that were measured

    def seconds(self, flops: float) -> float:
        """Return the wall time that a run of so many FLOPs is expected to take."""
        return self.fixed_s + self.s_per_flop * flops

    @property
    def text(self) -> str:
        """The two parts in words."""
        speed = f" + FLOPs at {1e-9 / self.s_per_flop:.3g} GFLOP/s" if self.s_per_flop else ""
        return f"{duration_text(self.fixed_s)} per run{speed}, measured on {self.runs}"


def fit_times(measured: Sequence[tuple[float, float, float | None]]) -> RunTimes | None:
    """Fit the wall time of finished runs, by least squares of relative errors with no part below 0.

    Args:
      measured: FLOPs, wall seconds and the share of these in training steps (None: not known, taken as all) of each.

    Returns:
      The times; None without a run. Of runs of about one cost, the part that grows is that of the training steps.
    """
    measured = [run for run in measured if run[0] > 0 and run[1] > 0]
    if not measured:
        return None
    u, v = [1 / s for _, s, _ in measured], [f / s for f, s, _ in measured]
    sum_u, sum_v = sum(u), sum(v)
    uu, uv, vv = sum(a * a for a in u), sum(a * b for a, b in zip(u, v, strict=True)), sum(b * b for b in v)
    determinant = uu * vv - uv * uv
    fixed, rate = 0.0, sum_v / vv
    costs = [flops for flops, _, _ in measured]
    if max(costs) < SPREAD * min(costs):
        steps_s = [s * (1.0 if share is None else min(share, 1.0)) for _, s, share in measured]
        fixed = (sum(s for _, s, _ in measured) - sum(steps_s)) / len(measured)
        rate = sum(steps_s) / sum(f for f, _, _ in measured)
    else:
        both = (sum_u * vv - sum_v * uv) / determinant, (sum_v * uu - sum_u * uv) / determinant
        if both[1] < 0:
            fixed, rate = sum_u / uu, 0.0
        elif both[0] > 0:
            fixed, rate = both
    return RunTimes(fixed, rate, len(measured))


def time_left(seconds: Iterable[float], slots: int) -> float:
    """Return how long runs of so many seconds each take, so many at once: never less than the longest of them."""
    each = list(seconds)
    return max([sum(each) / slots, *each])


def times_in(root: Path) -> RunTimes | None:
    """Return the times of the finished runs of a sweep's directory; None without one."""
    if not exists(root / "plan.json"):
        return None
    results = [(trained_flops(cell), RunState.read(root / "runs" / cell["run_id"]).result) for cell in cells_of(root)]
    return fit_times([(flops, result.wall_s, result.goodput) for flops, result in results if result is not None])
