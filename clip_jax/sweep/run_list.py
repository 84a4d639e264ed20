"""The runs below a folder and how each stands."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from clip_jax.durations import duration_text
from clip_jax.errors import UserError
from clip_jax.storage.paths import is_url
from clip_jax.sweep.run_state import RunState
from clip_jax.sweep.status import run_row
from clip_jax.sweep.text_table import Column, table_lines
from clip_jax.train.run_directory import RESULT, STATUS


def run_directories(folder: Path) -> Iterator[Path]:
    """Yield the run directories below a folder, or the folder itself, in the order of their names."""
    for path, folders, files in os.walk(folder):
        if STATUS in files or RESULT in files:
            folders.clear()
            yield Path(path)
        folders.sort()


def list_runs(folder: str | Path, columns: int | None = None) -> str:
    """Return a table with a line for each run below a folder.

    Args:
      folder: on this machine.
      columns: of the terminal; None: no limit.

    Raises:
      UserError: there is no run, or the folder lies elsewhere.
    """
    if is_url(folder):
        raise UserError(field="DIR", value=folder, reason="must be a folder on this machine")
    states = [RunState.read(path) for path in run_directories(Path(folder))]
    if not states:
        raise UserError(field="DIR", value=folder, reason="there is no run below it", hint="name another folder")
    rows = [run_row(state) for state in states]
    steps = [
        f"{r.step:,}/{s.status['steps']:,}" if "steps" in s.status else "" for s, r in zip(states, rows, strict=True)
    ]
    ages = [s.status.get("heartbeat") for s in states]
    return "\n".join(
        table_lines(
            [
                Column("run", [str(s.run_dir) for s in states], 0, left=True),
                Column("state", [r.state for r in rows], 1),
                Column("step/steps", steps, 2),
                Column("loss", ["" if r.loss is None else f"{r.loss:.3f}" for r in rows], 4),
                Column("error", ["" if r.error is None else f"{r.error:.4f}" for r in rows], 3),
                Column("updated", ["" if a is None else f"{duration_text(time.time() - a)} ago" for a in ages], 5),
                Column("", [r.reason for r in rows], 0, left=True, cut=True),
            ],
            columns,
        )
    )
