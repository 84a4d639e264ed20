"""Averaged weights, which are evaluated and exported in place of those that are trained.

They are an exponential moving average (``optim.ema_decay``), or the average of schedule-free training, which follows
from the trained weights and a second sequence of weights. Either way the optimizer's state holds one tree of the size
of the parameters, which a checkpoint keeps apart so that an evaluation can read it alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from clip_jax.config import OptimConfig
from clip_jax.optim.stochastic_rounding import widen
from clip_jax.types import Params, PyTree

Number = jax.Array | float


class AverageState(NamedTuple):
    """Updates so far (int32 scalar), and the average of the weights after each of them, float32 or wider."""

    updates: jax.Array
    average: Params


def keep_average() -> optax.GradientTransformation:
    """Return a transformation that changes no update, and whose state has room for `with_average`."""

    def init(params: optax.Params) -> AverageState:
        return AverageState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, widen(params)))

    return optax.GradientTransformation(init, lambda updates, state, params=None: (updates, state))


def with_average(opt_state: optax.OptState, params: Params, decay: float) -> optax.OptState:
    """Return an optimizer's state in which the weights after an update have entered their average.

    The weights after update i (of n, from 1) have weight (1 - decay) decay**(n - i) / (1 - decay**n), as in `optax.ema`
    with ``debias``: initial weights do not count.

    Args:
      opt_state: the state of `keep_average`, or of an optimizer that holds it.
      params: the weights after the update, in any dtype.
      decay: of the average.
    """

    def replaced(part: Any) -> Any:
        if not isinstance(part, AverageState):
            return part
        count = part.updates + 1
        newest = (1 - decay) / (1 - decay ** count.astype(jnp.float32))
        average = jax.tree.map(lambda a, p: a + newest.astype(a.dtype) * (p - a), part.average, widen(params))
        return AverageState(count, average)

    return jax.tree.map(replaced, opt_state, is_leaf=lambda part: isinstance(part, AverageState))


def schedule_free(
    inner: optax.GradientTransformation, b1: Number, rate: Callable[[optax.OptState], jax.Array]
) -> optax.GradientTransformationExtraArgs:
    """Wrap ``inner`` in `optax.contrib.schedule_free` (Defazio et al., 2024).

    Args:
      inner: the optimizer, learning rate included, without a first moment.
      b1: share of the average in the weights at which gradients are taken.
      rate: function from the state of ``inner`` to the learning rate of its next update. It takes the state, since runs
        of one program differ in their rates.
    """

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, optax.OptState]:
        now = optax.contrib.schedule_free(inner, rate(state), b1=b1)
        return now.update(updates, state, params, **extra)

    first = optax.contrib.schedule_free(inner, 0.0, b1=b1)
    return optax.GradientTransformationExtraArgs(first.init, update)


# state that holds a second tree of weights -> the name of the tree in it
_SECOND: dict[type, str] = {AverageState: "average", optax.contrib.ScheduleFreeState: "z"}


def _holds_weights(part: Any) -> bool:
    return type(part) in _SECOND


def second_weights(opt_state: optax.OptState) -> Params | None:
    """Return the tree of weights that an optimizer's state holds for `averaged_weights`; None if there is none."""
    parts = jax.tree.leaves(opt_state, is_leaf=_holds_weights)
    return next((getattr(part, _SECOND[type(part)]) for part in parts if _holds_weights(part)), None)


def with_second_weights(opt_state: optax.OptState, weights: PyTree) -> optax.OptState:
    """Return an optimizer's state with another value in place of its `second_weights`."""

    def replaced(part: Any) -> Any:
        return part._replace(**{_SECOND[type(part)]: weights}) if _holds_weights(part) else part

    return jax.tree.map(replaced, opt_state, is_leaf=_holds_weights)


def averaged_weights(config: OptimConfig, params: Params, second: Params | None) -> Params:
    """Return the weights to evaluate and to export, in the dtypes of the trained ones.

    Args:
      config: the optimizer's settings.
      params: the trained weights.
      second: the `second_weights` of the same step; if None, the trained weights are evaluated.
    """
    if second is None:
        return params
    return _averaged(config.b1 if config.optimizer == "schedule_free" else 0.0, params, second)


@functools.partial(jax.jit, static_argnums=0)
def _averaged(b1: float, params: Params, second: Params) -> Params:
    if b1:  # schedule-free: params = b1 average + (1 - b1) second
        second = jax.tree.map(lambda y, z: (y - (1.0 - b1) * z) / b1, params, second)
    return jax.tree.map(lambda a, p: a.astype(p.dtype), second, params)
