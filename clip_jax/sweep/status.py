"""How a sweep stands, read from its directory alone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from clip_jax.sweep.collect import cells_of
from clip_jax.train.record import read_json

STALE_S = 120.0  # without a heartbeat


def run_state(run_dir: Path) -> dict[str, Any]:
    """{state, step, reason} of one run: waiting, running, stale, stopped, failed or finished."""
    result = read_json(run_dir / "result.json")
    if result:
        return {"state": "finished", "step": result["steps"], "reason": "", "error": result.get("error_mean")}
    status = read_json(run_dir / "status.json") or {}
    failure = read_json(run_dir / "failure.json")
    state, reason = status.get("state", "waiting"), status.get("reason") or ""
    if failure and state != "running":
        state, reason = "failed", failure["reason"]
    elif state == "running" and time.time() - status.get("heartbeat", 0.0) > STALE_S:
        state, reason = "stale", f"no sign of life for {time.time() - status['heartbeat']:.0f} s"
    return {"state": state, "step": status.get("step", 0), "reason": reason, "error": None}


def status_table(sweep_dir: str | Path) -> str:
    """One line a run and a line of totals. Raises UserError when there is no sweep."""
    root = Path(sweep_dir)
    lines = ["  run           kind           budget   rung  seed      step / steps       state     error"]
    totals: dict[str, int] = {}
    for cell in cells_of(root):
        s = run_state(root / "runs" / cell["run_id"])
        totals[s["state"]] = totals.get(s["state"], 0) + 1
        error = "" if s["error"] is None else f"{s['error']:.4f}"
        lines.append(
            f"  {cell['run_id']}  {cell['kind']:12s} {cell['budget']:8.2e}  {cell['rung']:5g}  {cell['seed']:4d}  "
            f"{s['step']:8,d} / {cell['steps']:<8,d}  {s['state']:>8}  {error:>8}  {s['reason']}".rstrip()
        )
    lines.append("  " + ", ".join(f"{n} {state}" for state, n in sorted(totals.items())))
    return "\n".join(lines)
