"""Training as the commands do it: `train.loop` and `train.vmapped` with evaluation and ``init_from`` wired in."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from clip_jax.config import RunConfig
from clip_jax.evals.in_training import AddedEvaluator, make_evaluator
from clip_jax.inference import start_from
from clip_jax.losses.pairs import PairLoss
from clip_jax.train.branch import Branch
from clip_jax.train.extensions import Callback, Extensions
from clip_jax.train.loop import train
from clip_jax.train.run_result import RunResult, UnfinishedRun
from clip_jax.train.vmapped.compatibility import Form
from clip_jax.train.vmapped.trainer import train_vmapped


def train_run(
    config: RunConfig,
    run_dir: str | Path,
    *,
    loss: PairLoss | None = None,
    evaluators: Mapping[str, AddedEvaluator] | None = None,
    callbacks: Sequence[Callback] | None = None,
    stop_after: int | None = None,
    progress: bool = True,
    profile: tuple[int, int] | None = None,
    branch: Branch | None = None,
    keep: Collection[int] = (),
) -> RunResult | UnfinishedRun:
    """Train one model as ``clip-jax train`` does, with the evaluations of ``evals`` and the weights of ``init_from``.

    Args:
      config: the run.
      run_dir: created if missing; the same call on it resumes from the last checkpoint, and a finished run is returned.
      loss: trained instead of the loss that ``config.loss`` names. It maps (image [B, E], text [B, E], scale [],
        bias []) to a float [], as `losses.make_pair_loss` describes: embeddings of the global batch, of unit length. It
        is compiled with the step, so it must be traceable by JAX. The bias is 0 unless ``model.logit_bias``; a CoCa
        model adds ``loss.caption_weight`` times its caption loss.
      evaluators: functions by name, called after the config's own evaluation, on every process. Each maps the model
        (`evals.embedding_model.EmbeddingModel`, to be used only during the call, as the step donates the parameters) to
        rows {metric, value} with, where known, ``low``, ``high``, ``examples`` and ``chance``. They enter
        ``evals.jsonl`` and ``result.json`` with the name as ``task``. ``eval_flops`` does not count them.
      callbacks: functions (step, metrics), called on process 0 with what Weights & Biases gets: ``train/loss``,
        ``train/grad_norm``, … of every logged step (``log_every``), a step late so that the device never waits, and
        ``eval/TASK/METRIC`` after every evaluation. An exception ends the run as failed; the same call resumes it.
      stop_after: stop with a checkpoint after this many steps.
      progress: show a progress line on stderr.
      profile: trace the steps after the first number up to the second.
      branch: where to take the first steps from instead of training them (`train.branch.Branch`).
      keep: steps whose checkpoints are kept for branches.

    Returns:
      The run's result, as in ``result.json``; of a run that was asked to stop before its end, an `UnfinishedRun`. Their
      fields can also be read as items.

    Raises:
      UserError: as `train.loop.train`, and if a source of ``init_from`` or a set of ``evals`` cannot be used; the
        run's objective does not use ``loss``, or ``loss`` leaves a field of ``config.loss`` unused; an evaluator has
        the name of a task or returns something else than such rows; or the run began with another loss or other
        evaluators, whose names its records hold.
    """
    evaluators = dict(evaluators or {})
    return train(
        config,
        run_dir,
        functools.partial(make_evaluator, evaluators=evaluators),
        start_from=start_from,
        stop_after=stop_after,
        progress=progress,
        profile=profile,
        extensions=Extensions(loss, tuple(evaluators), tuple(callbacks or ())),
        branch=branch,
        keep=keep,
    )


def train_runs(
    configs: Sequence[RunConfig], run_dirs: Sequence[str | Path], *, progress: bool = True, form: Form = "vmap"
) -> list[RunResult | UnfinishedRun]:
    """Train runs of one shape in one program as ``clip-jax family`` does; see `train.vmapped.trainer.train_vmapped`."""
    return train_vmapped(configs, run_dirs, make_evaluator, start_from=start_from, progress=progress, form=form)
