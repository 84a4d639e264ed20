"""Trackers, which show a run's metrics elsewhere: Weights & Biases, TensorBoard. None is the record of the run."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL.Image import open as open_picture

from clip_jax.config import RunConfig
from clip_jax.config.io import run_id, to_dict
from clip_jax.errors import UserError
from clip_jax.storage.paths import absolute, local_scratch, mkdir
from clip_jax.train.extensions import Callback

if TYPE_CHECKING:
    from PIL.Image import Image

Draw = Callable[[], Mapping[str, "Image"]]  # -> pictures by name


class Tracker(Protocol):
    """Experiment tracker: an external display of a run's metrics."""

    def log(self, values: Mapping[str, float], step: int) -> None: ...

    def show(self, draw: Draw, step: int) -> None: ...

    def close(self) -> None: ...


class NoTracker:
    """Tracker that shows nothing."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Do nothing."""

    def show(self, draw: Draw, step: int) -> None:
        """Do nothing; nothing is drawn."""

    def close(self) -> None:
        """Do nothing."""


class Trackers:
    """Several trackers, and functions of (step, metrics), as one tracker."""

    def __init__(self, trackers: Sequence[Tracker], callbacks: Sequence[Callback]) -> None:
        self._trackers, self._callbacks = trackers, callbacks

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send the metrics of one step to each tracker and callback."""
        for tracker in self._trackers:
            tracker.log(values, step)
        for callback in self._callbacks:
            callback(step, dict(values))

    def show(self, draw: Draw, step: int) -> None:
        """Draw the pictures of one step once and send them to each tracker."""
        if self._trackers:
            pictures = draw()
            for tracker in self._trackers:
                tracker.show(lambda: pictures, step)

    def close(self) -> None:
        """Close the trackers."""
        with contextlib.ExitStack() as stack:  # all of them, even where one raises
            for tracker in self._trackers:
                stack.callback(tracker.close)


class TensorBoardTracker:
    """TensorBoard event files in ``RUN_DIR/tensorboard`` (for a run in a bucket, in `storage.paths.local_scratch`)."""

    def __init__(self, run_dir: Path) -> None:
        """Check that the files can be written; raise UserError without the package ``tensorboardX``."""
        if importlib.util.find_spec("tensorboardX") is None:
            raise UserError(
                field="tracking.tensorboard", value=True, reason="needs the package tensorboardX",
                hint="pip install 'clip-jax-scaling[tensorboard]'",
            )  # fmt: skip
        self._folder = local_scratch(run_dir) / "tensorboard"
        self._writer: Any = None

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write the metrics of one step."""
        for name, value in values.items():
            self._open(step).add_scalar(name, value, step)

    def show(self, draw: Draw, step: int) -> None:
        """Write the pictures of one step."""
        for name, picture in draw().items():
            self._open(step).add_image(name, np.asarray(picture), step, dataformats="HWC")

    def _open(self, step: int) -> Any:
        if self._writer is None:
            from tensorboardX import SummaryWriter

            # what an attempt wrote after the checkpoint that this one goes on from is not shown
            self._writer = SummaryWriter(str(self._folder), purge_step=step, filename_suffix=f".{step}")
        return self._writer

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()


class WandbTracker:
    """Weights & Biases, offline or online. A resumed run continues under the same name."""

    def __init__(self, config: RunConfig, run_dir: Path) -> None:
        self._run = _begin_wandb(
            config,
            run_dir,
            id=run_id(config),
            name=run_dir.name,
            group=sweep_of(run_dir),
            job_type="train",
            resume="allow" if config.wandb == "online" else None,
            config=to_dict(config),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send the metrics of one step."""
        self._run.log(values, step=step)

    def show(self, draw: Draw, step: int) -> None:
        """Send the pictures of one step."""
        import wandb

        self._run.log({name: wandb.Image(picture) for name, picture in draw().items()}, step=step)

    def close(self) -> None:
        """Flush and end the W&B run."""
        self._run.finish()


def _begin_wandb(run: RunConfig, folder: Path, **about: Any) -> Any:
    """Return a W&B run that the tracking fields of ``run`` and the environment place.

    Args:
      run: its config, or the base of a sweep.
      folder: of the run; W&B's files go into it, or for a bucket, where it cannot write, to this machine.
      about: further arguments of ``wandb.init``.

    Raises:
      UserError: ``run.wandb`` is ``online`` and there is no account to write to.
    """
    import wandb

    tracking, local = run.tracking, local_scratch(folder)
    mkdir(local)
    try:
        return wandb.init(
            project=tracking.wandb_project or os.environ.get("WANDB_PROJECT") or "clip-jax",
            entity=tracking.wandb_entity or None,  # None: W&B reads its environment variables
            tags=list(tracking.wandb_tags) or None,
            notes=tracking.wandb_notes or None,
            dir=str(local),
            mode=run.wandb,
            reinit="create_new",  # a process may train several runs
            settings=wandb.Settings(silent=True, console="off"),
            **about,
        )
    except wandb.errors.UsageError as error:
        reason, hint = str(error).splitlines()[0], "offline needs no account"
        raise UserError(field="wandb", value=run.wandb, reason=reason, hint=hint) from None


def sweep_of(run_dir: Path) -> str | None:
    """Return the name of the sweep's directory that contains a run, else None; W&B groups runs by it."""
    root = absolute(run_dir).parent.parent
    return root.name if absolute(run_dir).parent.name == "runs" and (root / "plan.json").exists() else None


def track_law(config: RunConfig, sweep_dir: Path, numbers: dict[str, float], figure: Path) -> None:
    """Log the end of a sweep with some numbers and the main figure.

    In W&B it is a run ``law`` in the group of the sweep's runs; for TensorBoard it is in ``SWEEP_DIR/tensorboard``.

    Raises:
      UserError: ``config.wandb`` is ``online`` and there is no account to write to, or a package is missing.
    """
    if config.tracking.tensorboard:
        with contextlib.closing(TensorBoardTracker(sweep_dir)) as board:
            board.log({f"law/{name}": value for name, value in numbers.items()}, 0)
            if figure.exists():
                board.show(lambda: {"law/error_vs_flops": open_picture(figure).convert("RGB")}, 0)
    if config.wandb == "disabled":
        return
    import wandb

    run = _begin_wandb(config, sweep_dir, name="law", group=absolute(sweep_dir).name, job_type="law")
    if figure.exists():
        run.log({"error_vs_flops": wandb.Image(str(figure))})
    run.summary.update(numbers)
    run.finish()


def open_tracker(
    config: RunConfig, run_dir: Path, *, writer: bool = True, callbacks: Sequence[Callback] = ()
) -> Tracker:
    """Return the trackers that the config asks for as one; processes other than the writer get `NoTracker`.

    Args:
      config: the run.
      run_dir: its directory.
      writer: whether this process writes.
      callbacks: called with what the tracker gets.

    Raises:
      UserError: ``config.wandb`` is ``online`` and there is no account to write to, or a package is missing.
    """
    if not writer:
        return NoTracker()
    trackers: list[Tracker] = []
    if config.tracking.tensorboard:
        trackers.append(TensorBoardTracker(run_dir))
    if config.wandb != "disabled":
        trackers.append(WandbTracker(config, run_dir))
    return Trackers(trackers, callbacks) if trackers or callbacks else NoTracker()
