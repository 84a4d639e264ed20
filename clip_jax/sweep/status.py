"""The status of a sweep, from its directory and, where it answers, from the engine's queue."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from clip_jax.durations import duration_text
from clip_jax.errors import UserError
from clip_jax.storage.json_files import read_lines
from clip_jax.storage.lease import Lease
from clip_jax.storage.lock import is_held
from clip_jax.storage.paths import as_path, is_remote
from clip_jax.storage.records import PlannedRun
from clip_jax.sweep.collect import cells_of
from clip_jax.sweep.launch.base import Engine
from clip_jax.sweep.run_state import CANCELLED, FAILURE, RunState
from clip_jax.sweep.run_times import RunTimes, fit_times, time_left
from clip_jax.sweep.text_table import Column, table_lines
from clip_jax.sweep.trunks import TRUNK, trained_flops
from clip_jax.train.run_directory import RESULT, STATUS

STALE_S = 120.0  # a running run is stale after so long without a heartbeat
ENDED = ("finished", "failed", "cancelled")
GOING = ("queued", "starting", "running")  # something will happen without a driver too
FOLDED = ("finished", "waiting")  # runs of which there is little to see
MIN_BUDGETS_FOR_LAW = 3  # as many points as the report's laws need at least
KINDS = ("cell", "second_seed")  # not those that check a setting
CLEAR_SCREEN = "\x1b[H\x1b[2J"

LawSoFar = Callable[[int], str]
RowState = Literal[
    "waiting", "queued", "starting", "running", "stale", "stopped", "gone", "failed", "cancelled", "corrupt", "finished"
]


@dataclass(frozen=True)
class RunRow:
    """One run in the table."""

    state: RowState
    step: int = 0
    reason: str = ""
    error: float | None = None
    loss: float | None = None
    samples_per_s: float | None = None
    mfu: float | None = None
    attempts: int = 0
    device_s: float = 0.0
    wall_s: float = 0.0  # of all attempts, once finished
    goodput: float | None = None  # share of wall_s in training steps


def run_row(run: RunState, queue: Mapping[str, str] | None = None) -> RunRow:
    """Return how a run stands.

    Args:
      run: the run's state.
      queue: the answer of `Engine.poll`; None if the engine was not asked.
    """
    damage = next((run.damaged[name] for name in (RESULT, STATUS, FAILURE) if name in run.damaged), None)
    if damage is not None and not run.result:
        return RunRow("corrupt", reason=str(damage))
    row = _row(run, queue)
    try:
        metrics = (read_lines(run.run_dir / "metrics.jsonl") or [{}])[-1]
        attempts = [e for e in read_lines(run.run_dir / "events.jsonl") if e["event"] == "attempt"]
    except UserError as error:
        row = row if row.state == "finished" else RunRow("corrupt")
        return dataclasses.replace(row, reason=str(error))
    devices = attempts[-1].get("devices", 0) if attempts else 0
    return dataclasses.replace(
        row,
        loss=metrics.get("loss"),
        samples_per_s=metrics.get("samples_per_s"),
        mfu=metrics.get("mfu"),
        attempts=run.status.get("attempt", 0),
        device_s=devices * run.status.get("wall_s", 0.0),
    )


def _row(run: RunState, queue: Mapping[str, str] | None) -> RunRow:
    if run.result:
        result = run.result
        return RunRow("finished", result.steps, error=result.error_mean, wall_s=result.wall_s, goodput=result.goodput)
    status, live = run.status, (queue or {}).get(run.run_dir.name)
    state = cast(RowState, status.get("state", "waiting"))
    reason = status.get("reason") or ""
    silent_s = time.time() - status.get("heartbeat", 0.0)
    if run.failure and state != "running":
        reason = run.failure["reason"]
        state = "cancelled" if reason == CANCELLED else "failed"
    elif live == "queued":
        state, reason = "queued", ""
    elif state == "running" and queue is not None and live is None:
        state, reason = "gone", "its job ended without a result"
    elif state == "running" and silent_s > STALE_S:
        state, reason = "stale", f"no heartbeat for {silent_s:.0f} s"
    elif live == "running" and state != "running":
        state, reason = "starting", ""
    return RunRow(state, status.get("step", 0), reason)


def status_table(
    sweep_dir: str | Path,
    engine: Engine | None = None,
    price: float = 0.0,
    *,
    slots: int = 1,
    columns: int | None = None,
    every_run: bool = False,
    law: LawSoFar | None = None,
) -> str:
    """Return how a sweep stands as text: its runs, one line each, then progress, time left and the law so far.

    Finished and waiting runs are counted in one line per budget.

    Args:
      sweep_dir: the sweep's directory.
      engine: where its runs are queued; None asks nobody.
      price: per device-hour.
      slots: runs at once, for the time left.
      columns: of the terminal; None: no limit.
      every_run: give finished and waiting runs a line each too.
      law: from the number of finished runs to a line on their law; called from `MIN_BUDGETS_FOR_LAW` budgets on.

    Raises:
      UserError: the directory holds no sweep.
    """
    return SweepStatus.read(sweep_dir, engine, slots).text(price, columns, every_run=every_run, law=law)


def watch(
    sweep_dir: str | Path,
    engine: Engine | None,
    price: float,
    every_s: float,
    echo: Callable[[str], None] = print,
    *,
    slots: int = 1,
    columns: Callable[[], int | None] = lambda: None,
    every_run: bool = False,
    law: LawSoFar | None = None,
) -> None:
    """Show the status again and again until no driver is at work and no run is queued or trains.

    A terminal is cleared before each table; elsewhere a table is written when it differs from the one before.

    Args:
      sweep_dir, engine, price, slots, every_run, law: see `status_table`.
      every_s: seconds between two looks.
      echo: receives the tables.
      columns: asked for the width each time, as a terminal's may change.
    """
    before, terminal = None, sys.stdout.isatty()
    while True:
        driven = has_driver(as_path(sweep_dir))  # before the runs: a driver may start one and end between the two
        status = SweepStatus.read(sweep_dir, engine, slots)
        text = status.text(price, columns(), every_run=every_run, law=law)
        if text != before:
            echo(f"{CLEAR_SCREEN}{text}" if terminal else text)
        before = text
        if not driven and not any(row.state in GOING for row in status.rows):
            if not all(row.state in ENDED for row in status.rows):
                echo("  no driver is at work; `clip-jax sweep run` completes the sweep")
            return
        time.sleep(every_s)


def has_driver(root: Path) -> bool:
    """Return whether a driver holds the lock of a sweep, as far as this machine can tell."""
    return Lease(root).is_held() if is_remote(root) else is_held(root)


@dataclass(frozen=True)
class SweepStatus:
    """The planned runs of a sweep and how each of them stood at one moment."""

    cells: list[PlannedRun]
    rows: list[RunRow]
    slots: int  # runs at once
    note: str  # why the queue is not known

    @classmethod
    def read(cls, sweep_dir: str | Path, engine: Engine | None = None, slots: int = 1) -> SweepStatus:
        """Read the plan and the state of each run. Raises UserError if the directory holds no sweep."""
        root = as_path(sweep_dir)
        cells = cells_of(root)
        run_dirs = [root / "runs" / cell["run_id"] for cell in cells]
        queue, note = _poll(engine, run_dirs)
        rows = [run_row(RunState.read(run_dir), queue) for run_dir in run_dirs]
        rows = [_as_ended(cell, row) for cell, row in zip(cells, rows, strict=True)]
        return cls(cells, rows, slots, note)

    @property
    def times(self) -> RunTimes | None:
        """Wall time of its runs, from those that have finished."""
        pairs = zip(self.cells, self.rows, strict=True)
        return fit_times(
            [(trained_flops(cell), row.wall_s, row.goodput) for cell, row in pairs if row.state == "finished"]
        )

    def text(self, price: float, columns: int | None, *, every_run: bool, law: LawSoFar | None = None) -> str:
        """Return what `status_table` does."""
        several = list(zip(self.cells, self.rows, strict=True))
        shown = [(cell, row) for cell, row in several if every_run or row.state not in FOLDED]
        lines = table_lines(_columns([c for c, _ in shown], [r for _, r in shown], price), columns) if shown else []
        if not every_run:
            lines += self._folded()
        lines += self._summary(price)
        finished = [c["budget"] for c, row in several if row.state == "finished" and c["kind"] != TRUNK]
        if law is not None and len(set(finished)) >= MIN_BUDGETS_FOR_LAW:
            lines.append(f"  {law(len(finished))}")
        return "\n".join(lines) + self.note

    def _folded(self) -> list[str]:
        """Return one line per budget on its finished and waiting runs, and one on trunks."""
        lines = []
        groups: dict[str, list[tuple[PlannedRun, RunRow]]] = {}
        for pair in sorted(
            zip(self.cells, self.rows, strict=True), key=lambda p: (p[0]["kind"] != TRUNK, p[0]["budget"])
        ):
            name = "trunks" if pair[0]["kind"] == TRUNK else f"{pair[0]['budget']:.2e} FLOPs"
            groups.setdefault(name, []).append(pair)
        for name, pairs in groups.items():
            done = [(cell, row) for cell, row in pairs if row.state == "finished"]
            parts = [f"{len(done)} finished"] if done else []
            if measured := [
                (row.error, cell["rung"]) for cell, row in done if cell["kind"] in KINDS and row.error is not None
            ]:
                error, rung = min(measured)
                parts[0] += f", best error {error:.4f} at rung {rung:g}"
            if waiting := sum(row.state == "waiting" for _, row in pairs):
                parts.append(f"{waiting} waiting")
            if parts:
                lines.append(f"  {name}: {'; '.join(parts)}")
        return lines

    def _summary(self, price: float) -> list[str]:
        counts = Counter(row.state for row in self.rows)
        spent = sum(row.device_s for row in self.rows) / 3600 * price
        total = ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))
        lines = [f"  {total}" + (f"; {spent:.2f} spent" if price else "")]
        pairs = list(zip(self.cells, self.rows, strict=True))
        planned = sum(trained_flops(cell) for cell in self.cells)
        done = sum(trained_flops(cell) * _share(cell, row) for cell, row in pairs)
        progress = f"  {done / (planned or 1.0):.0%} of the planned FLOPs"
        open_ = [(cell, row) for cell, row in pairs if row.state not in ENDED]
        if (times := self.times) is None:
            progress += "; time left is known once a run has finished"
        elif open_:
            left = time_left([_left(times, cell, row) for cell, row in open_], self.slots)
            progress += f"; about {duration_text(left)} left, {self.slots} at once"
            return [*lines, progress, f"  ({times.text})"]
        return [*lines, progress]


def _left(times: RunTimes, cell: PlannedRun, row: RunRow) -> float:
    """Return the seconds that a run still needs; the fixed part counts as past once it trains."""
    if not row.step:
        return times.seconds(trained_flops(cell))
    return times.s_per_flop * trained_flops(cell) * (1 - _share(cell, row))


def _share(cell: PlannedRun, row: RunRow) -> float:
    """Return the share that a run has done of the steps that it trains itself."""
    first = cell.get("branch_at", 0)
    return 1.0 if row.state == "finished" else min(max(row.step - first, 0) / max(cell["steps"] - first, 1), 1.0)


def _as_ended(cell: PlannedRun, row: RunRow) -> RunRow:
    """Return the row, finished if it is of a trunk at its last branch, where it has a checkpoint and no result."""
    trained = cell["kind"] == TRUNK and row.state == "stopped" and row.step >= cell["steps"]
    return dataclasses.replace(row, state="finished", reason="") if trained else row


def _columns(cells: Sequence[PlannedRun], rows: Sequence[RunRow], price: float) -> list[Column]:
    """Return the columns of the table; those that come last in importance give way on a narrow terminal."""
    pairs = list(zip(cells, rows, strict=True))
    speeds = [row.samples_per_s if row.state == "running" and row.samples_per_s else None for row in rows]
    left = [
        "" if speed is None else duration_text((c["steps"] - r.step) * c["batch_size"] / speed, compact=True)
        for (c, r), speed in zip(pairs, speeds, strict=True)
    ]
    costs = [row.device_s / 3600 * price for row in rows]
    mfus = [row.mfu if row.state == "running" else None for row in rows]
    return [
        Column("run", [c["run_id"] for c in cells], 0, left=True),
        Column("kind", [c["kind"] for c in cells], 8, left=True),
        Column("budget", [f"{c['budget']:.2e}" for c in cells], 2),
        Column("rung", [f"{c['rung']:g}" for c in cells], 3),
        Column("seed", [f"{c['seed']}" for c in cells], 9),
        Column("step/steps", [f"{r.step:,}/{c['steps']:,}" for c, r in pairs], 4),
        Column("state", [r.state for r in rows], 1),
        Column("loss", [_number(r.loss, ".3f") for r in rows], 7),
        Column("samples/s", [_number(s, ",.0f") for s in speeds], 10),
        Column("MFU", [_number(m, ".1%") for m in mfus], 11),
        Column("left", left, 5),
        Column("attempts", [f"{r.attempts}" if r.attempts > 1 else "" for r in rows], 12),
        Column("cost", [_number(c or None, ".2f") for c in costs], 13),
        Column("error", [_number(r.error, ".4f") for r in rows], 6),
        Column("", [r.reason for r in rows], 0, left=True, cut=True),
    ]


def _poll(engine: Engine | None, run_dirs: Sequence[Path]) -> tuple[dict[str, str] | None, str]:
    if engine is None:
        return None, ""
    try:
        return engine.poll(run_dirs), ""
    except UserError as error:
        return None, f"\n  not known which jobs are queued: {error}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
