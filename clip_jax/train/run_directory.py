"""The files of a run directory: what each holds, and when it is written. Process 0 writes all of them.

``config.json`` never changes (unless all attempts failed before their first checkpoint), ``status.json`` and
``result.json`` are replaced atomically, and ``*.jsonl`` files are append-only (`storage.jsonl`). When a run resumes,
``metrics.jsonl`` and ``evals.jsonl`` are truncated to the checkpoint's step; ``events.jsonl`` (attempts, anomalies,
rollbacks) never is. `train.checkpoint` writes the checkpoints. The directory may lie in a bucket (`storage.paths`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from clip_jax._moved import names_of
from clip_jax.config import RunConfig
from clip_jax.config.io import as_begun, from_dict, run_id, to_dict
from clip_jax.errors import ConfigError, UserError
from clip_jax.storage.json_files import flatten, lines_text, parse_lines, read_json, read_lines, write_json
from clip_jax.storage.jsonl import JsonlWriter
from clip_jax.storage.lease import open_lock
from clip_jax.storage.lock import Busy, wait_until_silent
from clip_jax.storage.paths import as_path, disk_errors, exists, is_remote, list_names, mkdir, remove
from clip_jax.storage.records import EvaluationRow, Event, MetricsRow, Status
from clip_jax.train.extensions import EXTENSIONS, NONE, Extensions
from clip_jax.train.run_result import INPUTS, RunResult
from clip_jax.types import JsonObject

STATUS_EVERY_S = 5.0
RESULT, STATUS, CHECKPOINTS = "result.json", "status.json", "checkpoints"
SUBMISSION = "CLIP_JAX_SUBMISSION"  # environment variable: the launcher's name for the job of this process
SUBMISSION_FILE = "submission.json"  # what the launcher last submitted for this run
OF_CONFIG = ("tokenizer.json", "preprocess.json")  # written when a run begins, by what its config says
COMMITTED = "commit_success.txt"  # Orbax's commit marker in a bucket
ENGINE_JOB_VARIABLES = ("SLURM_JOB_ID", "SKYPILOT_TASK_ID", "JOB_ID")

__getattr__ = names_of(__name__, "storage.json_files")


def checkpoints_in(run_dir: Path) -> list[int]:
    """Return the steps of the run's complete checkpoints, ascending.

    An incomplete checkpoint has another name, or, in a bucket, lacks Orbax's commit marker.
    """
    folder = run_dir / CHECKPOINTS
    steps = sorted(int(name) for name in list_names(folder) if name.isdecimal())
    return [s for s in steps if not is_remote(folder) or exists(folder / str(s) / COMMITTED)]


def _is_placement(name: str) -> bool:
    """Return whether a field may change when a run resumes: devices, data workers, limits, where the run is tracked."""
    return name in ("wandb", "data.num_workers", "data.max_missing_shards") or name.startswith(("mesh.", "tracking."))


def read_records(run_dir: Path) -> JsonObject:
    """Return the fields of ``status.json``, overridden by those of ``result.json``; skip a file that cannot be read."""
    fields: JsonObject = {}
    for name in (STATUS, RESULT):
        with contextlib.suppress(UserError):  # a damaged file is an error only where its own values are needed
            fields |= read_json(run_dir / name) or {}
    return fields


def read_config(run_dir: Path) -> RunConfig | None:
    """Return the config that a run began with, or None if there is none.

    Raises:
      UserError: ``config.json`` was changed since, as its hash is not the run id in the other files.
      ConfigError: ``config.json`` is no config of this package.
    """
    values = read_json(run_dir / "config.json")
    if values is None:
        return None
    config, records = from_dict(RunConfig, values), read_records(run_dir)
    if records.get("run_id") in (None, run_id(config)):
        return config
    reason = f"was changed: its id is {run_id(config)}, the run's {records['run_id']}"
    with contextlib.suppress(ConfigError, TypeError, KeyError, StopIteration):  # only result.json holds the config
        old, new = (flatten(to_dict(c)) for c in (from_dict(RunConfig, records["config"]), config))
        name = next(n for n in sorted(old) if old[n] != new[n])
        reason += f", as {name} is {new[name]!r} and was {old[name]!r}"
    hint = "restore the original file, or begin another run"
    raise UserError(field=run_dir / "config.json", reason=reason, hint=hint)


class RunDirectory:
    """Files of one run. Every process may read them; only the writer writes."""

    def __init__(
        self,
        run_dir: str | Path,
        config: RunConfig,
        *,
        writer: bool = True,
        group: tuple[str, int] | None = None,
        extensions: Extensions = NONE,
    ) -> None:
        """Read the directory without writing to it.

        Args:
          run_dir: the directory, which need not exist.
          config: the run.
          writer: whether this process writes.
          group: for a run trained together with others, (its id, the number of runs that share its wall time).
          extensions: what the caller adds to the run.

        Raises:
          UserError: the directory belongs to another config (unless its attempts failed before their first checkpoint)
            or began with another loss or other evaluators, or is a file.
        """
        self.family_id: str | None = group[0] if group else None
        self.sharing = group[1] if group else 1
        self.path = as_path(run_dir)
        self.writer = writer
        self.config = config
        self.extensions = extensions.records()
        self.started = time.monotonic()
        self.last_heartbeat = -math.inf
        self.inherited: Mapping[str, object] = {}  # of `INPUTS`, from the trunk that a run branches off
        self.lock = open_lock(self.path)
        self.lines = JsonlWriter(self.path)
        self.replaced = ""  # how the config differs from that of a failed attempt, which this one takes the place of
        if not is_remote(self.path) and self.path.exists() and not self.path.is_dir():
            raise UserError(field=self.path, reason="must be a directory, and is a file")
        self.run_id = self._check_config()
        self._load_previous_status()

    def _check_config(self) -> str:
        """Return the id of the run; raise UserError if the directory belongs to another config."""
        try:
            first = read_config(self.path)  # fields added later are at their defaults
        except ConfigError as error:
            reason = f"belongs to another config ({error})"
            raise UserError(field=self.path, reason=reason, hint="use another directory") from None
        if first is None:
            return run_id(self.config)
        config = as_begun(self.config, first)
        old, new = flatten(to_dict(first)), flatten(to_dict(config))
        for name in sorted(old.keys() | new.keys()):
            if not _is_placement(name) and old.get(name) != new.get(name):
                differs = f"{name} is {old.get(name)!r} there and {new.get(name)!r} here"
                if not self._failed_at_start():
                    reason = f"belongs to another config ({differs})"
                    raise UserError(field=self.path, reason=reason, hint="use another directory")
                self.replaced = differs
                return run_id(self.config)
        self.config = config
        return run_id(dataclasses.replace(self.config, mesh=first.mesh))

    def _failed_at_start(self) -> bool:
        """Return whether all that the directory holds is of attempts that failed before their first checkpoint."""
        failed = self.read_status().get("state") == "failed"
        return failed and not checkpoints_in(self.path) and not exists(self.path / RESULT)

    def _discard_attempt(self) -> None:
        """Make place for another config; a kill in between leaves a directory that can still be taken over."""
        if not self._failed_at_start():
            raise Busy(field=self.path, reason="another process has begun a run in it")
        write_json(self.path / STATUS, {"state": "failed", "reason": "replaced by another config"})
        for name in OF_CONFIG:
            remove(self.path / name)
        write_json(self.path / "config.json", to_dict(self.config))

    @property
    def may_share(self) -> bool:
        """True for a run from before ``data.val_fraction``, when training records could also be held out."""
        values = None if self.replaced else read_json(self.path / "config.json")
        return values is not None and "val_fraction" not in values.get("data", {})

    def _load_previous_status(self) -> None:
        before = Status() if self.replaced else self.read_status()
        self.step_before = int(before.get("step") or 0)  # as the last attempt last recorded it
        self.wall_before = float(before.get("wall_s") or 0.0)
        self.seconds_before: dict[str, float] = before.get("seconds") or {}
        self.store_before: dict[str, int] = before.get("store") or {}
        self.attempt = int(before.get("attempt") or 0) + 1
        recorded = cast(dict[str, object], before)
        self.inputs: dict[str, Any] = {**self.inherited} | {
            name: recorded[name] for name in INPUTS if recorded.get(name) is not None
        }
        if self.attempt == 1 and self.extensions:
            self.inputs[EXTENSIONS] = self.extensions
        self._check_extensions()
        self.status: dict[str, object] = {"first_started": before.get("first_started") or time.time()}

    def _check_extensions(self) -> None:
        begun, now = (values or {} for values in (self.inputs.get(EXTENSIONS), self.extensions))
        for field in ("loss", "evaluators"):
            if (first := begun.get(field)) != now.get(field):
                reason = f"must be {first or 'left out'}, with which the run in {self.path} began"
                hint = "pass the same to clip_jax.train_run, or begin a run in another directory"
                raise UserError(field=field, value=now.get(field), reason=reason, hint=hint)

    def read_status(self) -> Status:
        """Return the content of ``status.json``, an empty dictionary if there is none."""
        return cast(Status, read_json(self.path / STATUS) or {})

    def result(self) -> RunResult | None:
        """Return the result of a finished run, else None; raise UserError if the file is damaged."""
        values = read_json(path := self.path / RESULT)
        return None if values is None else RunResult.from_json(values, path)

    @property
    def wall_s(self) -> float:
        """Wall time of the run in seconds over all attempts so far; of runs trained together, this run's share."""
        return self.wall_before + (time.monotonic() - self.started) / self.sharing

    def store_with(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Return what was asked of stores in all attempts, given what it was in this one; empty if nothing was."""
        return dict(Counter(self.store_before) + Counter(counts))

    def begin(self, steps: int) -> None:
        """Create the directory, lock it, write the config once and mark the attempt as running.

        Args:
          steps: training steps of the run.

        Raises:
          UserError: the directory cannot be created.
          Busy: another process trains in it, or a later submission has replaced this job.
        """
        if not self.writer:
            return
        with disk_errors(self.path):
            try:
                mkdir(self.path)
            except (FileExistsError, NotADirectoryError, PermissionError) as error:
                raise UserError(field=self.path, reason=f"cannot be created ({error.strerror})") from None
            self._check_submission()
            self.lock.acquire()
        if not is_remote(self.path):  # a lease holds on all machines
            wait_until_silent(self.path, self.read_status)
        if self.replaced:
            self._discard_attempt()
        self._load_previous_status()
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
        if not exists(self.path / "config.json"):
            write_json(self.path / "config.json", to_dict(self.config))
        self._rewrite("events.jsonl", read_lines(self.path / "events.jsonl"))  # a kill may have cut the last line
        self.heartbeat(force=True)
        if self.replaced:
            self.event("config", reason=f"in place of a config whose attempt failed: {self.replaced}")

    def note_input(self, name: str, value: object) -> None:
        """Record one of `INPUTS` in ``status.json`` if it is not recorded yet."""
        if name not in self.inputs:
            self.inputs[name] = value
            self.heartbeat(force=True, **{name: value})

    def _check_submission(self) -> None:
        name, last = os.environ.get(SUBMISSION), read_json(self.path / SUBMISSION_FILE)
        if name and last and last["name"] != name:
            raise Busy(
                field=self.path, reason=f"job {name} was given up, and the run belongs to job {last['name']} now"
            )

    def heartbeat(self, *, force: bool = False, **changes: object) -> None:
        """Update ``status.json`` with ``changes``: now if ``force``, else at most every `STATUS_EVERY_S` seconds.

        Raises:
          Busy: a later attempt has taken over the run, so this process must stop writing.
        """
        self.status |= changes
        now = time.monotonic()
        if not self.writer or not (force or now - self.last_heartbeat >= STATUS_EVERY_S):
            return
        status = self.read_status()
        if int(status.get("attempt") or 0) > self.attempt:
            raise Busy(
                field=self.path, reason=f"attempt {status['attempt']} on {status.get('host')} has taken over this run"
            )
        self.last_heartbeat = now
        if force or self.lines.due:
            self.flush()
        write_json(self.path / STATUS, self.status | {"heartbeat": time.time(), "wall_s": self.wall_s})

    def end(self, state: str, reason: str) -> None:
        """Record how the attempt ended: ``state`` is finished, stopped or failed. Later calls change nothing."""
        if self.status.get("state") != "running":
            return
        if state != "failed":
            self.heartbeat(force=True, state=state, reason=reason)
            return
        with contextlib.suppress(OSError, UserError):  # the disk may be what failed; keep the first reason
            self.heartbeat(force=True, state=state, reason=reason)

    def append(self, name: str, *rows: Mapping[str, object]) -> None:
        """Append rows to the ``.jsonl`` file ``name`` in one write."""
        if not self.writer or not rows:
            return
        self.lines.add(name, lines_text(rows))

    def flush(self) -> None:
        """Write the appended rows to disk or to the bucket.

        Raises:
          Busy: another process has taken over the run.
        """
        if self.writer:
            self.lock.check()
            self.lines.flush()

    def rows(self, name: str) -> list[JsonObject]:
        """Return the rows of a ``.jsonl`` file, parsed as by `read_lines`, with those that are not flushed yet."""
        return parse_lines(self.lines.text(name), self.path / name)

    def event(self, event: str, **details: object) -> None:
        """Append an event to ``events.jsonl``; it is on disk when this returns."""
        if self.writer:
            row = {"event": event, "attempt": self.attempt, "time": time.time(), **details}
            self.lines.add("events.jsonl", lines_text([row]), sync=True)
            self.flush()

    def events(self) -> list[Event]:
        """Return all events, oldest first."""
        return cast(list[Event], self.rows("events.jsonl"))

    def metrics(self) -> list[MetricsRow]:
        """Return the rows of all logged steps, oldest first."""
        return cast(list[MetricsRow], self.rows("metrics.jsonl"))

    def evaluations(self) -> list[EvaluationRow]:
        """Return the rows of all evaluations, oldest first."""
        return cast(list[EvaluationRow], self.rows("evals.jsonl"))

    def truncate_after(self, step: int) -> None:
        """Remove every metric and evaluation after ``step``; the resumed run makes them again."""
        if self.writer:
            for name in ("metrics.jsonl", "evals.jsonl"):
                self._rewrite(name, [row for row in self.rows(name) if row["step"] <= step])

    def replace_rows(self, name: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Replace all rows of the ``.jsonl`` file ``name``."""
        if self.writer:
            self.lines.replace(name, lines_text(rows))

    def _rewrite(self, name: str, rows: Sequence[Mapping[str, object]]) -> None:
        if self.lines.text(name):
            self.lines.replace(name, lines_text(rows))

    def finish(self, result: RunResult) -> None:
        """Write ``result.json``, once and as the last file."""
        if self.writer:
            self.end(result.state, result.exit_reason)
            write_json(self.path / RESULT, result.to_json())
