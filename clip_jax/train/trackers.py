"""What a user watches while a run trains: the progress line and Weights & Biases.

Neither is the record of the run; losing them loses no data.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from clip_jax.config import RunConfig
from clip_jax.config.io import run_id, to_dict
from clip_jax.durations import clock_text
from clip_jax.errors import UserError
from clip_jax.storage.paths import absolute, local_scratch, mkdir
from clip_jax.train.extensions import Callback


class Tracker(Protocol):
    """Experiment tracker: an external display of a run's metrics."""

    def log(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class NoTracker:
    """Tracker that shows nothing."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class CallbackTracker:
    """Tracker that also calls functions with (step, metrics)."""

    def __init__(self, tracker: Tracker, callbacks: Sequence[Callback]) -> None:
        self._tracker, self._callbacks = tracker, callbacks

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send the metrics of one step to the tracker and to each callback."""
        self._tracker.log(values, step)
        for callback in self._callbacks:
            callback(step, dict(values))

    def close(self) -> None:
        """Close the tracker."""
        self._tracker.close()


class WandbTracker:
    """Weights & Biases, offline or online. A resumed run continues under the same name."""

    def __init__(self, config: RunConfig, run_dir: Path) -> None:
        import wandb

        name = run_id(config)
        try:
            self._run: Any = wandb.init(
                project="clip-jax",
                id=name,
                name=run_dir.name,
                group=sweep_of(run_dir),
                job_type="train",
                dir=str(_wandb_dir(run_dir)),
                mode=config.wandb,  # type: ignore[arg-type]
                resume="allow" if config.wandb == "online" else None,
                reinit="create_new",  # a process may train several runs
                config=to_dict(config),
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.errors.UsageError as error:
            reason = str(error).splitlines()[0]
            raise UserError(field="wandb", value=config.wandb, reason=reason, hint="offline needs no account") from None

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send the metrics of one step."""
        self._run.log(values, step=step)

    def close(self) -> None:
        """Flush and end the W&B run."""
        self._run.finish()


def _wandb_dir(path: Path) -> Path:
    """Create and return the local directory for wandb's files; wandb cannot write to a bucket."""
    mkdir(local_scratch(path))
    return local_scratch(path)


def sweep_of(run_dir: Path) -> str | None:
    """Return the name of the sweep's directory that contains a run, else None; W&B groups runs by it."""
    root = absolute(run_dir).parent.parent
    return root.name if absolute(run_dir).parent.name == "runs" and (root / "plan.json").exists() else None


def track_law(mode: str, sweep_dir: Path, numbers: dict[str, float], figure: Path) -> None:
    """Log the end of a sweep as a W&B run ``law`` in the group of its runs, with some numbers and the main figure.

    Raises:
      UserError: ``mode`` is ``online`` and there is no account to write to.
    """
    if mode == "disabled":
        return
    import wandb

    try:
        run = wandb.init(
            project="clip-jax",
            name="law",
            group=absolute(sweep_dir).name,
            job_type="law",
            dir=str(_wandb_dir(sweep_dir)),
            mode=mode,  # type: ignore[arg-type]
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )
    except wandb.errors.UsageError as error:
        raise UserError(
            field="wandb", value=mode, reason=str(error).splitlines()[0], hint="offline needs no account"
        ) from None
    if figure.exists():
        run.log({"error_vs_flops": wandb.Image(str(figure))})
    run.summary.update(numbers)
    run.finish()


def open_tracker(
    config: RunConfig, run_dir: Path, *, writer: bool = True, callbacks: Sequence[Callback] = ()
) -> Tracker:
    """Return the tracker that ``config.wandb`` asks for; processes other than the writer get `NoTracker`.

    Args:
      config: the run.
      run_dir: its directory.
      writer: whether this process writes.
      callbacks: called with what the tracker gets.

    Raises:
      UserError: ``config.wandb`` is ``online`` and there is no account to write to.
    """
    if not writer:
        return NoTracker()
    tracker: Tracker = NoTracker() if config.wandb == "disabled" else WandbTracker(config, run_dir)
    return CallbackTracker(tracker, callbacks) if callbacks else tracker


class Progress:
    """Progress line of a run: rewritten in place on a terminal, else one line per logged step."""

    def __init__(self, steps: int, start: int, *, stream: TextIO | None = None, shown: bool = True) -> None:
        self.steps, self.start, self.shown = steps, start, shown
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.began = time.monotonic()
        self.width = 0

    def text(self, step: int, loss: float, samples_per_s: float | None, mfu: float | None) -> str:
        """Return the line."""
        filled = 20 * step // self.steps
        elapsed = time.monotonic() - self.began
        left = clock_text(elapsed * (self.steps - step) / max(step - self.start, 1))
        speed = "?" if samples_per_s is None else f"{samples_per_s:,.0f}"
        use = "unknown" if mfu is None else f"{mfu:.1%}"
        return (
            f"{'#' * filled}{'.' * (20 - filled)} {step}/{self.steps}  loss {loss:.4f}  "
            f"{speed} samples/s  MFU {use}  {left} left"
        )

    def show(self, step: int, loss: float, samples_per_s: float | None, mfu: float | None) -> None:
        """Print the line."""
        if not self.shown:
            return
        line = self.text(step, loss, samples_per_s, mfu)
        end = "\r" if self.live else "\n"
        self.stream.write(line.ljust(self.width) + end)
        self.stream.flush()
        self.width = len(line) if self.live else 0

    def close(self) -> None:
        """End the line, so that it stays on the terminal."""
        if self.shown and self.live and self.width:
            self.stream.write("\n")
            self.stream.flush()
