"""The interface of an engine. It queues, places and kills jobs; a run's outcome is read from its directory."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from clip_jax.errors import UserError
from clip_jax.storage.paths import local_scratch

ANSWER_S = 60.0  # timeout of an engine's command-line tool


class EngineDown(UserError):
    """Error for an engine that does not answer, so that the state of its jobs is unknown."""


@dataclass(frozen=True)
class Job:
    """Unit of work of an engine: the directories of the runs that it trains, often one, and a command line.

    The arguments of ``clip-jax`` both start and resume the runs. ``attempt`` counts the job's submissions; ``until`` is
    the step at which it pauses with a checkpoint, 0 for the end. A job that trains no run has a directory for its log
    and its state, and a file ``made`` that it writes at its end.
    """

    run_dirs: tuple[Path, ...]
    arguments: tuple[str, ...]
    attempt: int = 1
    until: int = 0
    made: Path | None = None

    @property
    def key(self) -> str:
        """Name of the job within its sweep: the id of its first run."""
        return self.run_dirs[0].name

    @property
    def log(self) -> Path:
        """Local log file of the attempt. Attempts that the engine itself repeats append to the same file."""
        return local_scratch(self.run_dirs[0]) / "logs" / f"attempt-{self.attempt}.log"


def train_job(
    run_dir: Path, until: int = 0, *, trunk: Path | None = None, branch_at: int = 0, keep: Collection[int] = ()
) -> Job:
    """Return the job that trains one run as its ``request.json`` says.

    Args:
      run_dir: of the run.
      until: step at which it pauses; 0: the end.
      trunk: directory of the trunk that it branches off at step ``branch_at``.
      branch_at: see ``trunk``.
      keep: steps whose checkpoints are kept for branches.
    """
    arguments = ["train", f"--config={run_dir / 'request.json'}", f"--dir={run_dir}", "--quiet"]
    arguments += [f"--until={until}"] if until else []
    arguments += [f"--trunk={trunk}", f"--branch-at={branch_at}"] if trunk else []
    arguments += [f"--keep={','.join(map(str, sorted(keep)))}"] if keep else []
    return Job((run_dir,), tuple(arguments), until=until)


class Engine(Protocol):
    """Adapter of one queueing system.

    The engine knows a job by the name of its submission and its index in it. Both are fixed before the job is
    submitted, so the successor of a driver that died in between finds it again.

    ``name`` is the engine's name in a config. At most ``max_in_flight`` jobs are submitted at a time (None: the engine
    limits itself), at most ``max_jobs_per_submit`` per call, and the queue is polled every ``poll_s`` seconds.
    """

    name: str
    max_in_flight: int | None
    max_jobs_per_submit: int
    poll_s: float

    def submit(self, name: str, jobs: Sequence[Job]) -> None:
        """Submit jobs; raise EngineDown if it is unknown whether that worked, UserError if they were refused."""

    def poll(self, run_dirs: Sequence[Path]) -> dict[str, str]:
        """Return ``queued`` or ``running`` by run id, without runs whose job is gone; may raise EngineDown."""

    def cancel(self, run_dirs: Sequence[Path]) -> None:
        """Stop the jobs of these runs; those that run save a checkpoint. Jobs that are gone already are skipped."""

    def render(self, name: str, jobs: Sequence[Job]) -> str:
        """Return what `submit` would submit, as text."""

    def detach(self) -> None:
        """End the jobs and processes that cannot live without the driver, which ends or was asked to stop."""


def run_command(command: Sequence[str], down: Sequence[str], text: str | None = None) -> str:
    """Run a command-line tool of an engine and return its output.

    Args:
      command: the tool and its arguments.
      down: parts of messages that mean that the engine does not answer.
      text: standard input.

    Raises:
      EngineDown: the tool does not answer, or its message holds one of ``down``.
      UserError: the tool refuses, with its message, or is not installed.
    """
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=ANSWER_S, check=False)
    except FileNotFoundError:
        raise UserError(
            field="engine",
            reason=f"{command[0]} is not installed on this machine",
            hint="start the sweep where it is, or choose another engine",
        ) from None
    except subprocess.TimeoutExpired:
        raise EngineDown(field=command[0], reason=f"no answer in {ANSWER_S:.0f} s") from None
    if done.returncode == 0:
        return done.stdout
    message = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
    if any(word.lower() in message.lower() for word in down):
        raise EngineDown(field=command[0], reason=message)
    raise UserError(field=command[0], reason=message)


def user_name() -> str:
    """Return the name of the user whose jobs to look for."""
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name
