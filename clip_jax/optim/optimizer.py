"""Schedules and optimizers: weight-decay mask, layer-wise and muP rates, half-precision state, loss scaling.

The numbers of the schedule (peak, warm-up, length) are in the optimizer's *state*, not in the compiled program, so runs
of one shape that differ only in length or learning rate share one compilation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import KeyPath
from jax.typing import ArrayLike

from clip_jax.config import ModelConfig, OptimConfig
from clip_jax.config.mup import MUON_LR, Multipliers, multipliers
from clip_jax.optim.averaging import keep_average, schedule_free
from clip_jax.optim.muon import is_matrix, scale_by_muon
from clip_jax.optim.stochastic_rounding import narrow, widen
from clip_jax.types import Params

S = TypeVar("S")
T = TypeVar("T")
Number = jax.Array | float
# Leaves without weight decay, by the last part of their name: layers are stacked, so the number of axes does not tell.
NOT_DECAYED = ("bias", "projection_bias", "scale", "scale_1", "scale_2", "logit_scale", "logit_bias", "class_token")


class ScheduleState(NamedTuple):
    """State of the schedule: the number of updates so far (int32 scalar) and its parameters (float32 scalars)."""

    updates: jax.Array
    peak: jax.Array
    warmup: jax.Array
    decay_start: jax.Array
    steps: jax.Array


ScheduleNumbers = tuple[np.float32, np.float32, np.float32, np.float32]  # all of `ScheduleState` but the updates


def schedule_numbers(config: OptimConfig, steps: int) -> ScheduleNumbers:
    """Return the numbers of a run's schedule as its state holds them."""
    peak, warmup, decay_start, last = map(np.float32, _numbers(config, steps))
    return peak, warmup, decay_start, last


def with_schedule(opt_state: optax.OptState, numbers: ScheduleNumbers) -> optax.OptState:
    """Return an optimizer's state with other numbers of the schedule; `jax.jit` can trace it."""

    def replaced(part: Any) -> Any:
        if not isinstance(part, ScheduleState):
            return part
        return ScheduleState(part.updates, *(jnp.asarray(n, jnp.float32) for n in numbers))

    return jax.tree.map(replaced, opt_state, is_leaf=lambda part: isinstance(part, ScheduleState))


def _numbers(config: OptimConfig, steps: int) -> tuple[float, float, float, float]:
    warmup = float(config.warmup_of(steps))
    decay = config.lr_decay_fraction * steps if config.schedule == "wsd" else steps - warmup
    return config.peak_lr, warmup, max(steps - decay, warmup), float(steps)


def _rate(kind: str, step: ArrayLike, peak: Number, warmup: Number, decay_start: Number, steps: Number) -> jax.Array:
    step = jnp.asarray(step, jnp.float32)
    rise = jnp.minimum((step + 1.0) / jnp.maximum(warmup, 1.0), 1.0)
    done = jnp.clip((step - decay_start) / jnp.maximum(steps - decay_start, 1.0), 0.0, 1.0)
    fall = 0.5 * (1.0 + jnp.cos(jnp.pi * done)) if kind == "cosine" else 1.0 - done
    return peak * rise * fall


def schedule(config: OptimConfig, steps: int) -> Callable[[ArrayLike], jax.Array]:
    """Return a function from the update's number (from 0) to its learning rate, a float32 scalar.

    The rate rises linearly over ``warmup_steps`` (it is above zero at the first update), then follows either half a
    cosine to zero at ``steps`` (Loshchilov & Hutter, 2017) or a plateau and a linear decrease to zero over the last
    ``lr_decay_fraction`` of the steps (warm-up, stable, decay; Hu et al., 2024).
    """
    numbers = _numbers(config, steps)
    return lambda step: _rate(config.schedule, step, *numbers)


def scale_by_stored_schedule(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """Multiply updates by minus the learning rate, computed from the numbers in `ScheduleState`."""

    def init(params: optax.Params) -> ScheduleState:
        del params
        numbers = (jnp.asarray(n, jnp.float32) for n in _numbers(config, steps))
        return ScheduleState(jnp.zeros((), jnp.int32), *numbers)

    def update(
        updates: optax.Updates, state: ScheduleState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, ScheduleState]:
        del params
        rate = _rate(config.schedule, *state)
        updates = jax.tree.map(lambda u: -rate.astype(u.dtype) * u, updates)
        return updates, state._replace(updates=state.updates + 1)

    return optax.GradientTransformation(init, update)


def learning_rate(config: OptimConfig, opt_state: optax.OptState) -> jax.Array:
    """Return the learning rate of the next update, given a state of `make_optimizer`'s optimizer."""
    state = find_state(opt_state, ScheduleState)
    assert state is not None
    return _rate(config.schedule, *state)


def find_state(opt_state: optax.OptState, kind: type[S]) -> S | None:
    """Return the first part of an optimizer's state that is of a type; None if there is none."""
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, kind))
    return next((s for s in leaves if isinstance(s, kind)), None)


def weight_decay_mask(params: optax.Params) -> optax.Params:
    """Return a tree of booleans, True for the leaves with weight decay.

    These are the matrices, embeddings and positions included (as in the CLIP paper); gains, biases, the class token and
    the temperature are not decayed.
    """

    def decays(path: KeyPath, leaf: object) -> bool:
        name = next((n for n in reversed(_names(path)) if n not in ("value", "raw_value")), "")
        return name not in NOT_DECAYED and getattr(leaf, "ndim", 2) >= 2

    return jax.tree_util.tree_map_with_path(decays, params)


def layer_multipliers(params: optax.Params, decay: float) -> optax.Params:
    """Return layer-wise learning-rate factors, broadcastable to each leaf (Bao et al., 2022, BEiT).

    In a tower with L blocks, block i (from 0) has decay^(L - i), parameters before the blocks decay^(L + 1), and those
    after them, and the temperature, 1.
    """
    before = ("patch", "position", "token", "class_token", "ln_pre")
    # stacked on a leading axis
    depth = {names[0]: leaf.shape[0] for names, leaf in _named(params) if names[1:2] == ["blocks"]}

    def factor(names: list[str], leaf: jax.Array) -> ArrayLike:
        if len(names) < 2 or names[0] not in depth:
            return 1.0
        layers = depth[names[0]]
        if names[1] == "blocks":
            powers = decay ** jnp.arange(layers, 0, -1, dtype=jnp.float32)
            return powers.reshape(layers, *(1,) * (leaf.ndim - 1))
        return decay ** (layers + 1) if names[1] in before else 1.0

    factors = [factor(names, leaf) for names, leaf in _named(params)]
    return jax.tree.unflatten(jax.tree.structure(params), factors)


def _named(params: optax.Params) -> list[tuple[list[str], jax.Array]]:
    return [(_names(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]


def _names(path: KeyPath) -> list[str]:
    return jax.tree_util.keystr(path, simple=True, separator="/").split("/")


def _scale(factors: Callable[[optax.Params], optax.Params]) -> optax.GradientTransformation:
    """Multiply updates by ``factors(params)``, a tree of numbers or of broadcastable arrays."""
    return optax.stateless(lambda updates, params: jax.tree.map(lambda u, m: u * m, updates, factors(params)))


def _with_mup(
    inner: optax.GradientTransformation, model: ModelConfig, matrix_lr: float | None
) -> list[optax.GradientTransformation]:
    """Wrap an optimizer's direction with the multipliers of `config.mup`, each applied where it is exact.

    Dividing a gradient by the epsilon multiplier multiplies Adam's epsilon by it; Lion and Muon do not see a gradient's
    scale. Applying the rate multiplier before weight decay is added leaves learning rate × weight decay unchanged.
    """

    def factors(value: Callable[[Multipliers], float]) -> Callable[[optax.Params], optax.Params]:
        def tree(params: optax.Params) -> optax.Params:
            scales = [value(multipliers(names, model, matrix_lr)) for names, _ in _named(params)]
            return jax.tree.unflatten(jax.tree.structure(params), scales)

        return tree

    if model.parametrization.kind == "standard":
        return [inner]
    return [_scale(factors(lambda m: 1 / m.eps)), inner, _scale(factors(lambda m: m.lr))]


def half_precision_state(
    inner: optax.GradientTransformation, dtype: str, rounding: str
) -> optax.GradientTransformationExtraArgs:
    """Wrap ``inner`` so that its float32 arrays are stored in ``dtype``, rounded after each update.

    Rounding is stochastic or to nearest. `update` takes ``key=``. With rounding to nearest, a second moment stalls when
    its step is below half a unit in the last place.
    """

    def store(state: optax.OptState) -> optax.OptState:
        return jax.tree.map(lambda x: x.astype(dtype) if x.dtype == jnp.float32 and x.ndim else x, state)

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        key: jax.Array | None = None,
        **_: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        updates, new = inner.update(updates, widen(state), params)
        return updates, narrow(new, state, key if rounding == "stochastic" else None)

    return optax.GradientTransformationExtraArgs(lambda params: store(inner.init(params)), update)


class LossScaleState(NamedTuple):
    """The loss scale (float32 scalar), finite updates since it changed (int32 scalar), and the wrapped state."""

    scale: jax.Array
    finite: jax.Array
    inner: optax.OptState


GROWTH_INTERVAL = 2000  # finite updates after which the loss scale doubles (Micikevicius et al., 2018)


def skip_overflows(inner: optax.GradientTransformation, first_scale: float) -> optax.GradientTransformationExtraArgs:
    """Skip updates that are not finite, and adapt the loss scale.

    The scale is halved after such an update and doubled after `GROWTH_INTERVAL` finite ones.

    Gradients must already be divided by the scale (`loss_scale`).
    """
    guarded = optax.with_extra_args_support(inner)

    def init(params: optax.Params) -> LossScaleState:
        return LossScaleState(jnp.asarray(first_scale, jnp.float32), jnp.zeros((), jnp.int32), inner.init(params))

    def update(
        updates: optax.Updates, state: LossScaleState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, LossScaleState]:
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(u)) for u in jax.tree.leaves(updates)]))
        new, after = guarded.update(updates, state.inner, params, **extra)
        new = jax.tree.map(lambda u: jnp.where(finite, u, 0), new)
        after = jax.tree.map(lambda a, b: jnp.where(finite, a, b), after, state.inner)
        count = jnp.where(finite, state.finite + 1, 0)
        grown = jnp.where(count == GROWTH_INTERVAL, state.scale * 2, state.scale)
        scale = jnp.where(finite, grown, jnp.maximum(state.scale / 2, 1.0))
        return new, LossScaleState(scale, count % GROWTH_INTERVAL, after)

    return optax.GradientTransformationExtraArgs(init, update)


def loss_scale(opt_state: optax.OptState) -> jax.Array | None:
    """Return the factor to multiply the loss by and divide its gradients by; None without `skip_overflows`."""
    state = find_state(opt_state, LossScaleState)
    return None if state is None else state.scale


# Fields that `make_optimizer` takes as arrays, so that runs which differ in them share a program. The numbers of the
# schedule and of the loss scale are in the state anyway.
TRACEABLE = ("clip_norm", "b1", "b2", "eps", "weight_decay")


def _direction(config: OptimConfig, number: Mapping[str, Any], axes: Params | None) -> optax.GradientTransformation:
    """Return what turns gradients into updates of learning rate 1, before weight decay."""

    def stored(inner: optax.GradientTransformation) -> optax.GradientTransformation:
        in_float32 = optax.GradientTransformation(lambda params: inner.init(widen(params)), inner.update)
        if config.state_dtype == "float32":
            return in_float32
        return half_precision_state(in_float32, config.state_dtype, config.half_rounding)

    if config.optimizer == "lion":
        return stored(optax.scale_by_lion(b1=number["b1"], b2=number["b2"]))
    if config.optimizer == "adafactor":
        return optax.chain(_factored_rms(number["b2"]), stored(optax.ema(number["b1"], debias=False)))
    if config.optimizer == "schedule_free":
        # Adam without its first moment, whose part the average takes
        return optax.scale_by_rms(number["b2"], number["eps"], eps_in_sqrt=False, bias_correction=True)
    adam = optax.scale_by_adam(b1=number["b1"], b2=number["b2"], eps=number["eps"])
    if config.optimizer == "adamw":
        return stored(adam)
    if axes is None:
        raise ValueError("Muon needs axes=, the logical names of the parameters' axes (clip.AbstractModel.axes)")
    matrices = is_matrix(axes)
    muon = scale_by_muon(axes, config.muon_momentum, config.muon_scale)
    others = jax.tree.map(lambda matrix: not matrix, matrices)
    return stored(optax.chain(optax.masked(muon, matrices), optax.masked(adam, others)))


def _factored_rms(largest_decay: Number) -> optax.GradientTransformation:
    """Return Adafactor's second moment (Shazeer & Stern, 2018) in the form of Zhai et al., 2022, for transformers.

    The decay rate at update t (from 1) is 1 - t**-0.8, at most ``largest_decay``. Axes of 32 entries or more are
    factored. Updates are neither clipped nor scaled by the size of the parameters.
    """

    def decay(step: ArrayLike, exponent: ArrayLike) -> jax.Array:
        return jnp.minimum(largest_decay, 1.0 - (jnp.asarray(step, jnp.float32) + 1.0) ** jnp.negative(exponent))

    plain = optax.scale_by_factored_rms(min_dim_size_to_factor=32, decay_rate_fn=decay)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        return plain.update(updates, state, widen(params))

    return optax.GradientTransformation(lambda params: plain.init(widen(params)), update)


def make_optimizer(
    config: OptimConfig,
    steps: int,
    model: ModelConfig | None = None,
    traced: Mapping[str, jax.Array] | None = None,
    axes: Params | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Build the optimizer: global-norm clipping, ``config.optimizer`` with decoupled weight decay, `schedule`.

    Weight decay is multiplied by the learning rate, as in optax and PyTorch (AdamW: Loshchilov & Hutter, 2019; Lion:
    Chen et al., 2023; Muon: `optim.muon`; Adafactor: Zhai et al., 2022; schedule-free: Defazio et al., 2024). Gradients
    and updates are float32 whatever the dtype of the parameters.

    Args:
      config: the optimizer's settings.
      steps: length of the run in updates.
      model: the model (the default one if None). With compute dtype float16 a loss scale is added, and its
        parametrization sets the learning rate and epsilon of each tensor.
      traced: fields among `TRACEABLE` as arrays, which replace the config's numbers.
      axes: the logical names of each parameter's axes (`clip.AbstractModel.axes`); only Muon needs them.

    Returns:
      A transformation whose `update` takes ``key=``, used only by half-precision state.

    Raises:
      ValueError: Muon was asked for without ``axes``, or `distributed.mesh.MATRIX_AXES` lacks a parameter's.
    """
    model = model or ModelConfig()
    number: dict[str, Any] = {name: getattr(config, name) for name in TRACEABLE} | dict(traced or {})
    muon = config.optimizer == "muon"
    parts = [
        optax.stateless(lambda updates, _: widen(updates)),
        optax.clip_by_global_norm(number["clip_norm"]),
        *_with_mup(_direction(config, number, axes), model, MUON_LR.get(config.muon_scale) if muon else None),
        optax.add_decayed_weights(number["weight_decay"], mask=weight_decay_mask),
    ]
    if config.layer_decay < 1:
        parts.append(_scale(lambda params: layer_multipliers(params, config.layer_decay)))
    if config.muon_adam_lr != 1 and axes is not None:
        rates = jax.tree.map(lambda matrix: 1.0 if matrix else config.muon_adam_lr, is_matrix(axes))
        parts.append(_scale(lambda _: rates))
    whole: optax.GradientTransformation = optax.chain(*parts, scale_by_stored_schedule(config, steps))
    if config.optimizer == "schedule_free":
        whole = schedule_free(whole, number["b1"], lambda state: learning_rate(config, state))
    if model.compute_dtype == "float16":
        whole = skip_overflows(whole, config.loss_scale)
    if config.ema_decay:
        whole = optax.chain(whole, keep_average())
    return optax.with_extra_args_support(whole)


def apply_updates(params: T, updates: optax.Updates, key: jax.Array, rounding: str) -> T:
    """Add float32 updates to parameters in float32, then round half-precision parameters by ``rounding``."""
    updated = jax.tree.map(lambda p, u: p + u, widen(params), updates)
    return narrow(updated, params, key if rounding == "stochastic" else None)
