"""The files of a run directory: what is written, when, and by whom (process 0 only).

``config.json`` never changes, ``status.json`` and ``result.json`` are replaced whole, ``*.jsonl`` only grow (`lines`).
When a run resumes, ``metrics.jsonl`` and ``evals.jsonl`` are cut back to the checkpoint's step; ``events.jsonl``
(attempts, faults, rollbacks) never is. The checkpoints are `checkpoint.py`'s. The directory may lie in a bucket
(`storage.paths`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import socket
import time
from pathlib import Path
from typing import Any

from clip_jax._moved import names_of
from clip_jax.config import RunConfig
from clip_jax.config.io import as_begun, from_dict, run_id, to_dict
from clip_jax.errors import ConfigError, UserError
from clip_jax.storage.json_files import flatten, lines_text, parse_lines, read_json, read_lines, write_json
from clip_jax.storage.jsonl import JsonlWriter
from clip_jax.storage.lease import open_lock
from clip_jax.storage.lock import Busy, wait_until_silent
from clip_jax.storage.paths import as_path, disk_errors, exists, is_remote, list_names, mkdir

HEARTBEAT_S = 5.0
INPUTS = ("data", "tokenizer_sha256")  # of status.json: what the run began with (`inputs`); no attempt changes them
SUBMISSION = "CLIP_JAX_SUBMISSION"  # what a launcher calls the job this process belongs to
SUBMISSION_FILE = "submission.json"  # and what it last handed to an engine for this run
COMMITTED = "commit_success.txt"  # Orbax's mark
ENGINE_JOB_VARIABLES = ("SLURM_JOB_ID", "SKYPILOT_TASK_ID", "JOB_ID")

__getattr__ = names_of(__name__, "storage.json_files")


def checkpoints_in(run_dir: Path) -> list[int]:
    """The steps of its whole checkpoints, rising. One being written has another name, and in a bucket no mark."""
    folder = run_dir / "checkpoints"
    steps = sorted(int(name) for name in list_names(folder) if name.isdecimal())
    return [s for s in steps if not is_remote(folder) or exists(folder / str(s) / COMMITTED)]


def _is_placement(name: str) -> bool:
    """Fields that may change while a run goes on: where it runs, who makes its batches and who watches."""
    return name in ("wandb", "data.workers") or name.startswith("mesh.")


def noted(run_dir: Path) -> dict[str, Any]:
    """What a run's records say of it, ``result.json`` over ``status.json``; nothing of one that cannot be read."""
    found: dict[str, Any] = {}
    for name in ("status.json", "result.json"):
        with contextlib.suppress(UserError):  # a damaged record is told where its own values are needed
            found |= read_json(run_dir / name) or {}
    return found


def read_config(run_dir: Path) -> RunConfig | None:
    """The config that a run began with, None where there is none.

    Raises UserError when ``config.json`` is another than the one that the run's records are of; ConfigError when it is
    none of ours.
    """
    there = read_json(run_dir / "config.json")
    if there is None:
        return None
    config, told = from_dict(RunConfig, there), noted(run_dir)
    if told.get("run_id") in (None, run_id(config)):
        return config
    reason = f"it was changed: its id is {run_id(config)}, the run's {told['run_id']}"
    with contextlib.suppress(ConfigError, TypeError, KeyError, StopIteration):  # only result.json holds the config
        old, new = (flatten(to_dict(c)) for c in (from_dict(RunConfig, told["config"]), config))
        name = next(n for n in sorted(old) if old[n] != new[n])
        reason += f"; {name} is {new[name]!r}, it was {old[name]!r}"
    hint = "put it back as it was; another config is another run"
    path = str(run_dir / "config.json")
    raise UserError(f"{path}: {reason}; {hint}", field=path, value=run_id(config), reason=reason, hint=hint)


class Record:
    """One run's directory. Reading is open to every process; writing is done by the writer only."""

    def __init__(
        self, run_dir: str | Path, config: RunConfig, *, writer: bool = True, family: tuple[str, int] | None = None
    ) -> None:
        """Looks, and writes nothing. Raises UserError when the directory belongs to another config.

        ``family``: the id of the family that this attempt trains in, and how many runs share its wall time.
        """
        self.family_id: str | None = family[0] if family else None
        self.sharing = family[1] if family else 1
        self.dir = as_path(run_dir)
        self.writer = writer
        self.config = config
        self.started = time.monotonic()
        self.last_beat = -math.inf
        self.lock = open_lock(self.dir)
        self.lines = JsonlWriter(self.dir)
        if not is_remote(self.dir) and self.dir.exists() and not self.dir.is_dir():
            raise UserError(f"{self.dir}: is a file; a run needs a directory")
        self.run_id = self._check_config()
        self._look_back()

    def _check_config(self) -> str:
        """The run's id: that of the config it began with."""
        try:
            first = read_config(self.dir)  # fields that came later are at their defaults
        except ConfigError as error:
            raise UserError(f"{self.dir}: belongs to another config ({error}); use another directory") from None
        if first is None:
            return run_id(self.config)
        self.config = as_begun(self.config, first)
        old, new = flatten(to_dict(first)), flatten(to_dict(self.config))
        for name in sorted(old.keys() | new.keys()):
            if not _is_placement(name) and old.get(name) != new.get(name):
                raise UserError(
                    f"{self.dir}: belongs to another config ({name} is {old.get(name)!r} there and "
                    f"{new.get(name)!r} here); use another directory"
                )
        return run_id(dataclasses.replace(self.config, mesh=first.mesh))

    @property
    def may_share(self) -> bool:
        """Whether the run began when training records could be held-out ones too: before ``data.val_fraction``."""
        there = read_json(self.dir / "config.json")
        return there is not None and "val_fraction" not in there.get("data", {})

    def _look_back(self) -> None:
        before = self.read_status()
        self.wall_before = float(before.get("wall_s") or 0.0)
        self.seconds_before: dict[str, float] = before.get("seconds") or {}
        self.attempt = int(before.get("attempt") or 0) + 1
        self.inputs = {name: before[name] for name in INPUTS if before.get(name) is not None}
        self.status: dict[str, Any] = {"first_started": before.get("first_started") or time.time()}

    def read_status(self) -> dict[str, Any]:
        """``status.json`` as it stands."""
        return read_json(self.dir / "status.json") or {}

    def result(self) -> dict[str, Any] | None:
        """The result of a finished run, else None."""
        return read_json(self.dir / "result.json")

    @property
    def wall_s(self) -> float:
        """Seconds spent on this run, its share if they were a family's, over all attempts up to now."""
        return self.wall_before + (time.monotonic() - self.started) / self.sharing

    def begin(self, steps: int) -> None:
        """Make the directory, lock it, write the config once, say that an attempt runs.

        Raises UserError when the directory cannot be made, and Busy when another process trains in it or should.
        """
        if not self.writer:
            return
        with disk_errors(self.dir):
            try:
                mkdir(self.dir)
            except (FileExistsError, NotADirectoryError, PermissionError) as error:
                raise UserError(f"{self.dir}: cannot make this directory ({error.strerror})") from None
            self._refuse_late_start()
            self.lock.acquire()
        if not is_remote(self.dir):  # a lease reaches everywhere
            wait_until_silent(self.dir, self.read_status)
        self._look_back()
        self.status |= {
            "run_id": self.run_id,
            "state": "running",
            "step": 0,
            "steps": steps,
            "attempt": self.attempt,
            "family_id": self.family_id,
            "engine_job": next((os.environ[v] for v in ENGINE_JOB_VARIABLES if v in os.environ), None),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": time.time(),
            "reason": None,
            **self.inputs,
        }
        if not exists(self.dir / "config.json"):
            write_json(self.dir / "config.json", to_dict(self.config))
        self._rewrite("events.jsonl", read_lines(self.dir / "events.jsonl"))  # a kill may have cut the last line
        self.beat(force=True)

    def note_input(self, name: str, value: Any) -> None:
        """Note one of `INPUTS`, unless it is noted."""
        if name not in self.inputs:
            self.inputs[name] = value
            self.beat(force=True, **{name: value})

    def _refuse_late_start(self) -> None:
        mine, last = os.environ.get(SUBMISSION), read_json(self.dir / SUBMISSION_FILE)
        if mine and last and last["name"] != mine:
            raise Busy(f"{self.dir}: this is job {mine}, given up since; {last['name']} has the run now")

    def beat(self, *, force: bool = False, **changes: Any) -> None:
        """Update ``status.json``: at once when forced, else at most every few seconds.

        Raises Busy when a later attempt has taken over: this one is a leftover and must touch nothing more.
        """
        self.status |= changes
        now = time.monotonic()
        if not self.writer or not (force or now - self.last_beat >= HEARTBEAT_S):
            return
        there = self.read_status()
        if int(there.get("attempt") or 0) > self.attempt:
            raise Busy(f"{self.dir}: attempt {there['attempt']} on {there.get('host')} has taken over from this one")
        self.last_beat = now
        if force or self.lines.due:
            self.flush()
        write_json(self.dir / "status.json", self.status | {"heartbeat": time.time(), "wall_s": self.wall_s})

    def end(self, state: str, reason: str) -> None:
        """Say how the attempt ended: finished, stopped or failed. The first word counts."""
        if self.status.get("state") != "running":
            return
        if state != "failed":
            self.beat(force=True, state=state, reason=reason)
            return
        with contextlib.suppress(OSError, UserError):  # the disk may be what failed; keep the first reason
            self.beat(force=True, state=state, reason=reason)

    def append(self, name: str, *rows: dict[str, Any]) -> None:
        """Add rows to ``name`` (a ``.jsonl`` file) in one write."""
        if not self.writer or not rows:
            return
        self.lines.add(name, lines_text(rows))

    def flush(self) -> None:
        """Have on disk, or in the bucket, what was appended. Raises Busy when another has taken over."""
        if self.writer:
            self.lock.check()
            self.lines.flush()

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Of a ``.jsonl`` file, as `read_lines` gives them, with those that are not flushed yet."""
        return parse_lines(self.lines.text(name), self.dir / name)

    def event(self, event: str, **details: Any) -> None:
        """Note in ``events.jsonl`` what befell the run; on disk when this returns."""
        if self.writer:
            row = {"event": event, "attempt": self.attempt, "time": time.time(), **details}
            self.lines.add("events.jsonl", lines_text([row]), sync=True)
            self.flush()

    def events(self) -> list[dict[str, Any]]:
        """All that was noted, oldest first."""
        return self.rows("events.jsonl")

    def cut_back(self, step: int) -> None:
        """Forget every metric and evaluation after ``step``: they will be made again."""
        if self.writer:
            for name in ("metrics.jsonl", "evals.jsonl"):
                self._rewrite(name, [row for row in self.rows(name) if row["step"] <= step])

    def _rewrite(self, name: str, rows: list[dict[str, Any]]) -> None:
        if self.lines.text(name):
            self.lines.replace(name, lines_text(rows))

    def finish(self, result: dict[str, Any]) -> None:
        """Write ``result.json``, once and last."""
        if self.writer:
            self.end(result["state"], result["exit_reason"])
            write_json(self.dir / "result.json", result)
