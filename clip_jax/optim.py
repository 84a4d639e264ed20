"""Learning-rate schedules and AdamW with a decay mask.

The numbers of the schedule (peak, warm-up, length) live in the optimiser's *state*, not in the compiled
program, so runs of one shape that differ only in length or learning rate share one compilation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from clip_jax.config import OptimConfig

# Leaves that never decay, by the last part of their name: layers are stacked, so the number of axes cannot tell.
NOT_DECAYED = ("bias", "projection_bias", "scale", "scale_1", "scale_2", "logit_scale", "logit_bias", "class_token")


class ScheduleState(NamedTuple):
    """Where the schedule stands: updates done (int32 scalar), and its numbers (float32 scalars)."""

    updates: jax.Array
    peak: jax.Array
    warmup: jax.Array
    decay_start: jax.Array
    steps: jax.Array


def _numbers(config: OptimConfig, steps: int) -> tuple[float, float, float, float]:
    warmup = float(config.warmup_steps)
    decay = config.decay_fraction * steps if config.schedule == "wsd" else steps - warmup
    return config.peak_lr, warmup, max(steps - decay, warmup), float(steps)


def _rate(kind: str, step: Any, peak: Any, warmup: Any, decay_start: Any, steps: Any) -> jax.Array:
    step = jnp.asarray(step, jnp.float32)
    rise = jnp.minimum((step + 1.0) / jnp.maximum(warmup, 1.0), 1.0)
    done = jnp.clip((step - decay_start) / jnp.maximum(steps - decay_start, 1.0), 0.0, 1.0)
    fall = 0.5 * (1.0 + jnp.cos(jnp.pi * done)) if kind == "cosine" else 1.0 - done
    return peak * rise * fall


def schedule(config: OptimConfig, steps: int) -> Callable[[Any], jax.Array]:
    """The learning rate of update ``step`` (from 0), a float32 scalar.

    Linear warm-up over ``warmup_steps`` (the first update already moves), then either half a cosine to zero at
    ``steps`` (Loshchilov & Hutter, 2017) or a plateau followed by a linear fall to zero over the last
    ``decay_fraction`` of the steps (warm-up, stable, decay; Hu et al., 2024).
    """
    numbers = _numbers(config, steps)
    return lambda step: _rate(config.schedule, step, *numbers)


def scale_by_stored_schedule(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """Multiply updates by minus the learning rate, computed from the numbers held in `ScheduleState`."""

    def init(params: Any) -> ScheduleState:
        del params
        numbers = (jnp.asarray(n, jnp.float32) for n in _numbers(config, steps))
        return ScheduleState(jnp.zeros((), jnp.int32), *numbers)

    def update(updates: Any, state: ScheduleState, params: Any = None) -> tuple[Any, ScheduleState]:
        del params
        rate = _rate(config.schedule, *state)
        updates = jax.tree.map(lambda u: -rate.astype(u.dtype) * u, updates)
        return updates, state._replace(updates=state.updates + 1)

    return optax.GradientTransformation(init, update)


def learning_rate(config: OptimConfig, opt_state: Any) -> jax.Array:
    """The rate the next update will use, read from an optimiser state of `make_optimizer`."""
    (found,) = (s for s in opt_state if isinstance(s, ScheduleState))
    return _rate(config.schedule, *found)


def decay_mask(params: Any) -> Any:
    """True for the leaves that decay: matrices (embeddings and positions among them, as in the CLIP paper),
    and neither gains, biases, the class token nor the temperature."""

    def decays(path: tuple[Any, ...], leaf: Any) -> bool:
        names = [str(getattr(k, "key", getattr(k, "name", k))) for k in path]
        name = next((n for n in reversed(names) if n not in ("value", "raw_value")), "")
        return name not in NOT_DECAYED and getattr(leaf, "ndim", 2) >= 2

    return jax.tree_util.tree_map_with_path(decays, params)


def make_optimizer(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """Clip the global gradient norm, then AdamW (Loshchilov & Hutter, 2019) under `schedule`.

    The decay is multiplied by the learning rate, as in optax and PyTorch.
    """
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
        optax.add_decayed_weights(config.weight_decay, mask=decay_mask),
        scale_by_stored_schedule(config, steps),
    )
