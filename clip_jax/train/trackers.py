"""What people watch while a run trains: a progress line and, if asked for, Weights & Biases.

Neither is the record: losing them loses nothing.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Protocol, TextIO

from clip_jax.config import RunConfig
from clip_jax.config.io import run_id, to_dict
from clip_jax.errors import UserError
from clip_jax.storage.paths import absolute, local_scratch, mkdir


class Mirror(Protocol):
    """Somewhere else that shows the numbers of a run."""

    def log(self, values: dict[str, Any], step: int) -> None: ...

    def close(self) -> None: ...


class NoMirror:
    """Shows nothing."""

    def log(self, values: dict[str, Any], step: int) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class WandbMirror:
    """Weights & Biases, offline or online. A resumed run goes on under the same name."""

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
                dir=str(_here(run_dir)),
                mode=config.wandb,  # type: ignore[arg-type]
                resume="allow" if config.wandb == "online" else None,
                reinit="create_new",  # a process may train several runs
                config=to_dict(config),
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.errors.UsageError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"wandb={config.wandb!r}: {reason} (offline needs no account)") from None

    def log(self, values: dict[str, Any], step: int) -> None:
        """Send numbers of one step."""
        self._run.log(values, step=step)

    def close(self) -> None:
        """Flush and end."""
        self._run.finish()


def _here(path: Path) -> Path:
    """Where its files go: wandb writes to this machine only."""
    mkdir(local_scratch(path))
    return local_scratch(path)


def sweep_of(run_dir: Path) -> str | None:
    """The name of the sweep's directory that a run lies in, by which its runs are grouped; None outside of one."""
    root = absolute(run_dir).parent.parent
    return root.name if absolute(run_dir).parent.name == "runs" and (root / "plan.json").exists() else None


def mirror_law(mode: str, sweep_dir: Path, numbers: dict[str, float], figure: Path) -> None:
    """Show the end of a sweep among its runs: a run of its own, ``law``, with some numbers and the main figure.

    Raises UserError when ``online`` has no account to write to.
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
            dir=str(_here(sweep_dir)),
            mode=mode,  # type: ignore[arg-type]
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )
    except wandb.errors.UsageError as error:
        raise UserError(f"wandb={mode!r}: {str(error).splitlines()[0]} (offline needs no account)") from None
    if figure.exists():
        run.log({"error_vs_flops": wandb.Image(str(figure))})
    run.summary.update(numbers)
    run.finish()


def open_mirror(config: RunConfig, run_dir: Path, *, writer: bool = True) -> Mirror:
    """The mirror that ``config.wandb`` asks for; processes other than the writer get none.

    Raises UserError when ``online`` has no account to write to.
    """
    if config.wandb == "disabled" or not writer:
        return NoMirror()
    return WandbMirror(config, run_dir)


def duration(seconds: float) -> str:
    """``seconds`` as h:mm:ss."""
    whole = int(max(seconds, 0))
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


class Progress:
    """One line that says how training goes: rewritten in place on a terminal, a line a log step elsewhere."""

    def __init__(self, steps: int, start: int, *, stream: TextIO | None = None, shown: bool = True) -> None:
        self.steps, self.start, self.shown = steps, start, shown
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.began = time.monotonic()
        self.width = 0

    def text(self, step: int, loss: float, samples_per_s: float | None, mfu: float | None) -> str:
        """The line itself."""
        filled = 20 * step // self.steps
        elapsed = time.monotonic() - self.began
        left = duration(elapsed * (self.steps - step) / max(step - self.start, 1))
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
        """Leave the last line standing."""
        if self.shown and self.live and self.width:
            self.stream.write("\n")
            self.stream.flush()
