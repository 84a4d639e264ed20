"""Training as the commands do it: `train.loop` and `train.vmapped` with evaluation and ``init_from`` wired in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clip_jax.config import RunConfig
from clip_jax.evals.in_training import make_evaluator
from clip_jax.inference import start_from
from clip_jax.train.loop import train
from clip_jax.train.vmapped.trainer import train_vmapped


def train_run(
    config: RunConfig,
    run_dir: str | Path,
    *,
    stop_after: int | None = None,
    progress: bool = True,
    profile: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Train one model as ``clip-jax train`` does, with the evaluations of ``evals`` and the weights of ``init_from``.

    Args:
      config: the run.
      run_dir: created if missing; the same call on it resumes from the last checkpoint, and a finished run is returned.
      stop_after: stop with a checkpoint after this many steps.
      progress: show a progress line on stderr.
      profile: trace the steps after the first number up to the second.

    Returns:
      The run's result, as in ``result.json``.

    Raises:
      UserError: as `train.loop.train`, and if a source of ``init_from`` or a set of ``evals`` cannot be used.
    """
    return train(
        config,
        run_dir,
        make_evaluator,
        start_from=start_from,
        stop_after=stop_after,
        progress=progress,
        profile=profile,
    )


def train_runs(
    configs: Sequence[RunConfig], run_dirs: Sequence[str | Path], *, progress: bool = True, form: str = "vmap"
) -> list[dict[str, Any]]:
    """Train runs of one shape in one program as ``clip-jax family`` does; see `train.vmapped.trainer.train_vmapped`."""
    return train_vmapped(configs, run_dirs, make_evaluator, start_from=start_from, progress=progress, form=form)
