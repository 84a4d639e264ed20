"""The training state: the one pytree that is carried from step to step."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from clip_jax import flops
from clip_jax.config import RunConfig
from clip_jax.distributed.mesh import replicated
from clip_jax.errors import UserError
from clip_jax.models.clip import AbstractModel
from clip_jax.optim.optimizer import ScheduleNumbers, schedule_numbers, with_schedule
from clip_jax.types import Params, PyTree


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Updates done (int32 scalar, also the position in the data), parameters, optimizer state."""

    step: jax.Array
    params: Params
    opt_state: PyTree


def check_memory(config: RunConfig, mesh: Mesh) -> None:
    """Check that parameters and Adam's moments alone fit in the memory of this machine if its devices are CPUs.

    Without the check XLA aborts or the system kills the process; other platforms report it themselves.

    Raises:
      UserError: they do not fit.
    """
    if mesh.devices.flat[0].platform != "cpu":
        return
    local = sum(d.process_index == jax.process_index() for d in mesh.devices.flat)
    copies = max(1, local // (mesh.shape["fsdp"] * mesh.shape["tensor"]))
    needed = flops.params(config.model).total * config.state_bytes * copies
    if not hasattr(os, "sysconf"):
        return  # Windows, where the lock of the run directory says that it cannot be
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > available:
        raise UserError(
            field="model",
            reason=f"parameters and moments take {needed / 1e9:,.0f} GB, this machine has {available / 1e9:,.0f}",
            hint="a smaller model, or more of mesh.fsdp",
        )  # fmt: skip


def state_shardings(built: AbstractModel, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Return a TrainState of NamedShardings: moments are sharded like their parameters, all else is replicated.

    The latter are counters, and Adafactor's sums over rows and columns, which are small.
    """
    everywhere = replicated(mesh)

    def placed(leaf: Any, sharding: Any, param: Any) -> Any:
        if isinstance(leaf, optax.MaskedNode):
            return leaf
        return sharding if leaf.shape == param.shape else everywhere

    opt_state = optax.tree_utils.tree_map_params(
        optimizer,
        placed,
        jax.eval_shape(optimizer.init, built.abstract_params),
        built.shardings,
        built.abstract_params,
        transform_non_params=lambda _: everywhere,
        is_leaf=lambda part: isinstance(part, optax.MaskedNode),
    )
    return TrainState(step=cast(jax.Array, everywhere), params=built.shardings, opt_state=opt_state)


def abstract_state(built: AbstractModel, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Return the shapes, dtypes and shardings of the state, into which a checkpoint is restored; no array is made."""

    def make(params: Params) -> TrainState:
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    shapes = jax.eval_shape(make, built.abstract_params)
    return jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shapes, state_shardings(built, optimizer, mesh)
    )


def make_init(
    config: RunConfig, built: AbstractModel, optimizer: optax.GradientTransformation, mesh: Mesh
) -> Callable[[ScheduleNumbers], TrainState]:
    """Return a function from the numbers of a schedule to a fresh state, created in its shardings.

    The state is equal for equal ``config.seed`` on any mesh.
    """
    from clip_jax.models.clip import init_params

    shardings = state_shardings(built, optimizer, mesh)
    first_params = jax.jit(lambda: init_params(config.model, config.seed), out_shardings=shardings.params)
    first_step = jax.jit(lambda: jnp.zeros((), jnp.int32), out_shardings=shardings.step)
    first_opt_state = jax.jit(
        lambda params, numbers: with_schedule(optimizer.init(params), numbers), out_shardings=shardings.opt_state
    )

    def init(numbers: ScheduleNumbers) -> TrainState:
        with jax.set_mesh(mesh):
            params = first_params()
            return TrainState(first_step(), params, first_opt_state(params, numbers))

    return init


def init_state(
    config: RunConfig, built: AbstractModel, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Return the fresh state of a run; see `make_init`."""
    return make_init(config, built, optimizer, mesh)(schedule_numbers(config.optim, config.steps))
