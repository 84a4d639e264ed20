"""What a run compiles, which runs that differ only in length and learning rate share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import jax
import optax
from jax.sharding import Mesh

from clip_jax.config import RunConfig
from clip_jax.losses.pairs import PairLoss
from clip_jax.models.clip import AbstractModel
from clip_jax.optim.optimizer import ScheduleNumbers, make_optimizer
from clip_jax.reuse import reuse
from clip_jax.train.state import TrainState, abstract_state, make_init
from clip_jax.train.step import make_train_step


@dataclass(frozen=True)
class Programs:
    """The optimizer, the step, what makes a fresh state, and the state's shapes (see `step` and `state`)."""

    optimizer: optax.GradientTransformation
    step: jax.stages.Wrapped
    init: Callable[[ScheduleNumbers], TrainState]
    abstract: TrainState


def without_schedule(config: RunConfig) -> RunConfig:
    """Return the config with one length and learning rate for all: the state holds these numbers, not the program."""
    optim = dataclasses.replace(config.optim, peak_lr=1.0, warmup_steps=0)
    return dataclasses.replace(config, steps=2**30, epochs=0.0, optim=optim)


def make_programs(config: RunConfig, built: AbstractModel, mesh: Mesh, pair_loss: PairLoss | None = None) -> Programs:
    """Return the programs of a run.

    Args:
      config: the run.
      built: its model.
      mesh: its devices.
      pair_loss: see `step.make_train_step`.
    """

    def make() -> Programs:
        optimizer = make_optimizer(config.optim, config.steps, config.model, axes=built.axes)
        return Programs(
            optimizer,
            make_train_step(config, built, optimizer, mesh, pair_loss),
            make_init(config, built, optimizer, mesh),
            abstract_state(built, optimizer, mesh),
        )

    return reuse(("programs", without_schedule(config), mesh, pair_loss), make)
