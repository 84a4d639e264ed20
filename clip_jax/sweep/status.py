"""The status of a sweep, from its directory and, where it answers, from the engine's queue."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clip_jax.durations import duration_text
from clip_jax.errors import UserError
from clip_jax.storage.json_files import read_lines
from clip_jax.storage.paths import as_path
from clip_jax.sweep.collect import cells_of
from clip_jax.sweep.launch.base import Engine
from clip_jax.sweep.run_state import CANCELLED, FAILURE, RunState
from clip_jax.train.run_directory import RESULT, STATUS

STALE_S = 120.0  # a running run is stale after so long without a heartbeat
END_STATES = ("finished", "failed", "cancelled")


@dataclass(frozen=True)
class RunRow:
    """One run in the table.

    The state is waiting, queued, starting, running, stale, stopped, gone, failed, cancelled, corrupt or finished.
    """

    state: str
    step: int = 0
    reason: str = ""
    error: float | None = None
    loss: float | None = None
    samples_per_s: float | None = None
    mfu: float | None = None
    attempts: int = 0
    device_s: float = 0.0


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
        return RunRow("finished", run.result.steps, error=run.result.error_mean)
    status, live = run.status, (queue or {}).get(run.run_dir.name)
    state, reason = status.get("state", "waiting"), status.get("reason") or ""
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


def status_table(sweep_dir: str | Path, engine: Engine | None = None, price: float = 0.0) -> str:
    """Return a table with one line per run and a line of totals; ``price`` is per device-hour.

    Raises:
      UserError: the directory holds no sweep.
    """
    return _table(sweep_dir, engine, price)[0]


def watch(
    sweep_dir: str | Path, engine: Engine | None, price: float, every_s: float, echo: Callable[[str], None] = print
) -> None:
    """Show the table every ``every_s`` seconds until every run has ended."""
    while True:
        table, over = _table(sweep_dir, engine, price)
        echo(f"\x1b[H\x1b[2J{table}")
        if over:
            return
        time.sleep(every_s)


def _table(sweep_dir: str | Path, engine: Engine | None, price: float) -> tuple[str, bool]:
    root = as_path(sweep_dir)
    cells = cells_of(root)
    run_dirs = [root / "runs" / cell["run_id"] for cell in cells]
    queue, note = _poll(engine, run_dirs)
    head = "  run           kind          budget   rung  seed     step/steps        state    loss  samples/s    MFU"
    lines = [head + "   left  attempts   cost   error"]
    totals: dict[str, int] = {}
    spent = 0.0
    for cell, run_dir in zip(cells, run_dirs, strict=True):
        row = run_row(RunState.read(run_dir), queue)
        totals[row.state] = totals.get(row.state, 0) + 1
        cost = row.device_s / 3600 * price
        spent += cost
        speed, mfu = (row.samples_per_s, row.mfu) if row.state == "running" and row.samples_per_s else (None, None)
        left = duration_text((cell["steps"] - row.step) * cell["batch_size"] / speed, compact=True) if speed else ""
        identity = f"{cell['run_id']}  {cell['kind']:11s} {cell['budget']:8.2e}  {cell['rung']:5g}  {cell['seed']:4d}"
        where = f"{row.step:7,d}/{cell['steps']:<7,d}  {row.state:>9}  {_number(row.loss, '.3f'):>6}"
        pace = f"{_number(speed, ',.0f'):>9}  {_number(mfu, '.1%'):>5}  {left:>5}"
        paid = f"{row.attempts or '':>8}  {_number(cost or None, '.2f'):>5}  {_number(row.error, '.4f'):>6}"
        lines.append(f"  {identity}  {where}  {pace}  {paid}  {row.reason}".rstrip())
    total = ", ".join(f"{n} {state}" for state, n in sorted(totals.items()))
    lines.append(f"  {total}" + (f"; {spent:.2f} spent" if price else "") + note)
    return "\n".join(lines), set(totals) <= set(END_STATES)


def _poll(engine: Engine | None, run_dirs: Sequence[Path]) -> tuple[dict[str, str] | None, str]:
    if engine is None:
        return None, ""
    try:
        return engine.poll(run_dirs), ""
    except UserError as error:
        return None, f"\n  not known which jobs are queued: {error}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
