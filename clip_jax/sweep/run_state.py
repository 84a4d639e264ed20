"""Snapshot of a run directory: everything that a sweep asks of a run, read once.

``submission.json``: what was submitted to which engine, written before the submission. ``exit.json``: the exit code of
the job, written by the process that observes the exit (the local launcher or the Slurm script). ``failure.json``: why
the run is not tried again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from clip_jax.errors import UserError
from clip_jax.storage.json_files import read_json
from clip_jax.storage.paths import list_names
from clip_jax.storage.records import Failure, Status, Submission
from clip_jax.train.run_directory import CHECKPOINTS, RESULT, STATUS, SUBMISSION_FILE, checkpoints_in
from clip_jax.train.run_result import RunResult

EXIT, FAILURE = "exit.json", "failure.json"
CANCELLED = "cancelled"
STATE_FILES = (RESULT, STATUS, SUBMISSION_FILE, EXIT, FAILURE)


@dataclass(frozen=True)
class RunState:
    """The state files of a run as they were at one moment.

    A file that is damaged counts as missing, but for `finished`; ``damaged`` has the error by file name.
    """

    run_dir: Path
    result: RunResult | None
    status: Status  # empty if there is none
    submission: Submission | None
    failure: Failure | None
    exit_code: int | None  # of the last submission's job; None if no process observed its end
    checkpoint: int  # step of the newest checkpoint, 0 if there is none
    damaged: Mapping[str, UserError]

    @classmethod
    def read(cls, run_dir: Path) -> RunState:
        """Read the files of a run directory, which need not exist."""
        names = list_names(run_dir)
        result: RunResult | None = None
        values, damaged = {}, {}
        for name in (n for n in STATE_FILES if n in names):
            try:
                record = values[name] = read_json(run_dir / name)
                result = (
                    RunResult.from_json(record, run_dir / name) if name == RESULT and record is not None else result
                )
            except UserError as error:
                values[name], damaged[name] = None, error
        submission, ended = values.get(SUBMISSION_FILE), values.get(EXIT)
        counts = submission and ended and ended["name"] == submission["name"]
        return cls(
            run_dir,
            result,
            cast(Status, values.get(STATUS) or {}),
            cast(Submission | None, submission),
            cast(Failure | None, values.get(FAILURE)),
            ended["code"] if ended and counts else None,
            max(checkpoints_in(run_dir), default=0) if CHECKPOINTS in names else 0,
            damaged,
        )

    @property
    def finished(self) -> bool:
        """Whether the run has a result, readable or not."""
        return self.result is not None or RESULT in self.damaged

    @property
    def given_up(self) -> Failure | None:
        """The reason why the run is not tried again; None if it may be."""
        return None if self.finished else self.failure

    @property
    def engine(self) -> str:
        """Name of the engine that the run was last submitted to; empty if any engine may run it."""
        return self.submission["engine"] if self.submission else ""
