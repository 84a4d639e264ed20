"""The status of a sweep, from its directory and, where it answers, from the engine's queue."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clip_jax.errors import UserError
from clip_jax.storage.json_files import read_json, read_lines
from clip_jax.storage.paths import as_path
from clip_jax.sweep.collect import cells_of
from clip_jax.sweep.launch.base import Engine, Job

STALE_S = 120.0  # a running run is stale after so long without a heartbeat
END_STATES = ("finished", "failed", "cancelled")


def run_state(run_dir: Path, queue: dict[str, str] | None = None) -> dict[str, Any]:
    """Return {state, step, reason, error} of one run, and {loss, samples_per_s, mfu, attempts, device_s} where known.

    The state is waiting, queued, starting, running, stale, stopped, gone, failed, cancelled, corrupt or finished.

    Args:
      run_dir: the run's directory.
      queue: the answer of `Engine.poll`; None if the engine was not asked.
    """
    damaged = {"state": "corrupt", "step": 0, "error": None}
    try:
        state = _state(run_dir, queue)
    except UserError as error:
        return damaged | {"reason": str(error)}
    try:
        return state | _speed(run_dir)
    except UserError as error:
        return (state if state["state"] == "finished" else damaged) | {"reason": str(error)}


def _state(run_dir: Path, queue: dict[str, str] | None) -> dict[str, Any]:
    result = read_json(run_dir / "result.json")
    if result:
        return {"state": "finished", "step": result.get("steps", 0), "reason": "", "error": result.get("error_mean")}
    status = read_json(run_dir / "status.json") or {}
    failure = read_json(run_dir / "failure.json")
    live = (queue or {}).get(run_dir.name)
    state, reason = status.get("state", "waiting"), status.get("reason") or ""
    if failure and state != "running":
        state, reason = "failed", failure["reason"]
        state = "cancelled" if reason == "cancelled" else state
    elif live == "queued":
        state, reason = "queued", ""
    elif state == "running" and queue is not None and live is None:
        state, reason = "gone", "its job ended without a result"
    elif state == "running" and time.time() - status.get("heartbeat", 0.0) > STALE_S:
        state, reason = "stale", f"no heartbeat for {time.time() - status.get('heartbeat', 0.0):.0f} s"
    elif live == "running" and state != "running":
        state, reason = "starting", ""
    return {"state": state, "step": status.get("step", 0), "reason": reason, "error": None}


def _speed(run_dir: Path) -> dict[str, Any]:
    status = read_json(run_dir / "status.json") or {}
    last = (read_lines(run_dir / "metrics.jsonl") or [{}])[-1]
    attempts = [e for e in read_lines(run_dir / "events.jsonl") if e["event"] == "attempt"]
    state = {k: last.get(k) for k in ("loss", "samples_per_s", "mfu")}
    devices = attempts[-1].get("devices", 0) if attempts else 0
    return state | {"attempts": status.get("attempt", 0), "device_s": devices * status.get("wall_s", 0.0)}


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
    queue, note = _poll(engine, [Job((root / "runs" / cell["run_id"],), ()) for cell in cells])
    head = "  run           kind          budget   rung  seed     step/steps        state    loss  samples/s    MFU"
    lines = [head + "   left  attempts   cost   error"]
    totals: dict[str, int] = {}
    spent = 0.0
    for cell in cells:
        s = run_state(root / "runs" / cell["run_id"], queue)
        totals[s["state"]] = totals.get(s["state"], 0) + 1
        cost = s.get("device_s", 0.0) / 3600 * price
        spent += cost
        speed = s.get("samples_per_s") if s["state"] == "running" else None
        left = _time((cell["steps"] - s["step"]) * cell["batch_size"] / speed) if speed else ""
        identity = f"{cell['run_id']}  {cell['kind']:11s} {cell['budget']:8.2e}  {cell['rung']:5g}  {cell['seed']:4d}"
        where = f"{s['step']:7,d}/{cell['steps']:<7,d}  {s['state']:>9}  {_number(s.get('loss'), '.3f'):>6}"
        pace = f"{_number(speed, ',.0f'):>9}  {_number(s.get('mfu') if speed else None, '.1%'):>5}  {left:>5}"
        paid = f"{s.get('attempts') or '':>8}  {_number(cost or None, '.2f'):>5}  {_number(s['error'], '.4f'):>6}"
        lines.append(f"  {identity}  {where}  {pace}  {paid}  {s['reason']}".rstrip())
    total = ", ".join(f"{n} {state}" for state, n in sorted(totals.items()))
    lines.append(f"  {total}" + (f"; {spent:.2f} spent" if price else "") + note)
    return "\n".join(lines), set(totals) <= set(END_STATES)


def _poll(engine: Engine | None, jobs: list[Job]) -> tuple[dict[str, str] | None, str]:
    if engine is None:
        return None, ""
    try:
        return engine.poll(jobs), ""
    except UserError as error:
        return None, f"\n  not known which jobs are queued: {error}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f}s"
    return f"{seconds / 60:.0f}m" if seconds < 7200 else f"{seconds / 3600:.1f}h"
