"""What a sweep's training has cost, each trained step counted once, against what separate runs would have."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from clip_jax.errors import UserError
from clip_jax.scaling.data.runs_table import CHECKED
from clip_jax.storage.json_files import read_lines
from clip_jax.storage.paths import as_path
from clip_jax.storage.records import Event
from clip_jax.sweep.cell import flops_after
from clip_jax.sweep.collect import cells_of
from clip_jax.sweep.run_state import RunState
from clip_jax.sweep.trunks import TRUNK


@dataclass(frozen=True)
class Spending:
    """FLOPs of a sweep's finished runs.

    law_points: from step 0 to the end of each run that a law may be fitted to. trained: the same runs, with the steps
    that they took from trunks counted once. best_separate: one separate run for each of the budgets' best sizes and
    seeds, the least that gives the same frontier. checks: runs that tried another setting. evaluations: of all runs.
    repeated: at least so many were trained again after rollbacks and interruptions.
    """

    law_points: float
    trained: float
    best_separate: float
    checks: float
    evaluations: float
    repeated: float

    @property
    def saved(self) -> float:
        """Share of the law points' FLOPs that was not spent."""
        return 1 - self.trained / max(self.law_points, 1.0)

    @property
    def text(self) -> str:
        """The figures in words."""
        return (
            f"trained {self.trained:.3g} FLOPs, where separate runs would have taken {self.law_points:.3g} "
            f"({self.saved:.0%} saved)\n  and the best size of each budget alone {self.best_separate:.3g}; "
            f"checks {self.checks:.3g}, evaluations {self.evaluations:.3g}, repeated {self.repeated:.3g}"
        )

    def to_json(self) -> dict[str, float]:
        """Return the figures by name."""
        return {**asdict(self), "saved": self.saved}


def spending(sweep_dir: str | Path, metric: str) -> Spending | None:
    """Return what a sweep with trunks has spent; None for one without trunks or without a finished run.

    Args:
      sweep_dir: the sweep's directory.
      metric: the field of results that picks the best size of a budget, such as ``error_mean``.
    """
    root = as_path(sweep_dir)
    rows = [(row, RunState.read(root / "runs" / row["run_id"])) for row in cells_of(root)]
    trunks = [(row, run) for row, run in rows if row["kind"] == TRUNK]
    points = [(row, run.result) for row, run in rows if run.result is not None and row["kind"] not in CHECKED]
    if not trunks or not points:
        return None
    trained = sum(row["flops"] / max(row["steps"], 1) * min(run.checkpoint, row["steps"]) for row, run in trunks)
    best: dict[tuple[float, int], tuple[float, float]] = {}  # (budget, seed) -> (value, FLOPs)
    for row, result in points:
        first = result.branched_from["step"] if result.branched_from else 0
        trained += flops_after(first, result.steps, result.flops)
        if (value := result[metric]) is not None:
            key = (row["budget"], row["seed"])
            best[key] = min(best.get(key, (float("inf"), 0.0)), (float(str(value)), result.flops))
    finished = [run.result for _, run in rows if run.result is not None]
    return Spending(
        law_points=sum(result.flops for _, result in points),
        trained=trained,
        best_separate=sum(flops for _, flops in best.values()),
        checks=sum(run.result.flops for row, run in rows if run.result is not None and row["kind"] in CHECKED),
        evaluations=sum(result.eval_flops or 0.0 for result in finished),
        repeated=sum(row["flops"] / max(row["steps"], 1) * _repeated_steps(run) for row, run in rows),
    )


def _repeated_steps(run: RunState) -> int:
    try:
        events = cast(list[Event], read_lines(run.run_dir / "events.jsonl"))
    except UserError:  # `collect` reports it
        return 0
    steps = 0
    for event in events:
        if event["event"] == "rollback":
            steps += event["step"] - event["to"]
        elif event["event"] == "attempt":
            steps += event.get("repeats", 0)
    return steps
