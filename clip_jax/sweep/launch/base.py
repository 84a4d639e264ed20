"""What every engine can do. It queues, places and kills jobs; what became of a run is read from the run's directory."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from clip_jax.errors import UserError
from clip_jax.storage.paths import local_scratch

ANSWER_S = 60.0  # an engine's program that says nothing for so long is not answering


class EngineDown(UserError):
    """The engine does not answer now; nothing is known of its jobs."""


@dataclass(frozen=True)
class Job:
    """What an engine runs as one: the directories of the runs it trains, often one, and the arguments of ``clip-jax``
    that train them and go on with them. ``attempt`` counts its submissions; ``until`` is the step at which it pauses
    with a checkpoint, 0 for the end."""

    run_dirs: tuple[Path, ...]
    arguments: tuple[str, ...]
    attempt: int = 1
    until: int = 0

    @property
    def key(self) -> str:
        """Names it within its sweep: the id of its first run."""
        return self.run_dirs[0].name

    @property
    def log(self) -> Path:
        """What the attempt says, on this machine. Attempts that the engine itself repeats go on in the same file."""
        return local_scratch(self.run_dirs[0]) / "logs" / f"attempt-{self.attempt}.log"


def train_job(run_dir: Path, until: int = 0) -> Job:
    """One run, trained as its ``request.json`` says, up to step ``until`` if given."""
    arguments = ("train", f"--config={run_dir / 'request.json'}", f"--dir={run_dir}", "--quiet")
    return Job((run_dir,), (*arguments, *((f"--until={until}",) if until else ())), until=until)


class Engine(Protocol):
    """One small adapter a queueing system. A job is known to the engine by the name of its submission and its place in
    it, both fixed before it is handed over, so a driver that dies in between finds it again.

    ``name`` is the engine's in a config. At most ``at_once`` jobs are with it at a time (None: it limits itself), at
    most ``batch`` are handed over in one call, and it is looked at every ``poll_s`` seconds.
    """

    name: str
    at_once: int | None
    batch: int
    poll_s: float

    def submit(self, name: str, jobs: Sequence[Job]) -> None:
        """Hand over. Raises EngineDown when it is not known whether that worked, UserError when it was refused."""

    def poll(self, jobs: Sequence[Job]) -> dict[str, str]:
        """``queued`` or ``running`` by `Job.key`; what is missing is gone. Raises EngineDown."""

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Stop them; those that run save a checkpoint. What is gone already is passed over."""

    def render(self, name: str, jobs: Sequence[Job]) -> str:
        """What `submit` would hand over, to be read."""

    def leave(self) -> None:
        """The driver was asked to stop: end what cannot live without it."""


def ask(command: Sequence[str], down: Sequence[str], text: str | None = None) -> str:
    """The output of an engine's program; ``text`` is its input.

    Raises EngineDown when it does not answer or its message holds one of ``down``, UserError with the message when it
    refuses or is missing.
    """
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=ANSWER_S, check=False)
    except FileNotFoundError:
        raise UserError(
            f"engine: there is no {command[0]} on this machine; start the sweep where there is one, or choose another "
            f"engine"
        ) from None
    except subprocess.TimeoutExpired:
        raise EngineDown(f"{command[0]}: no answer in {ANSWER_S:.0f} s") from None
    if done.returncode == 0:
        return done.stdout
    said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
    if any(word.lower() in said.lower() for word in down):
        raise EngineDown(f"{command[0]}: {said}")
    raise UserError(f"{command[0]}: {said}")


def user() -> str:
    """Whose jobs to look for."""
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name
