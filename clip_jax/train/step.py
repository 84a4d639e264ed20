"""The training step: a pure function of state and batch, compiled once."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from clip_jax.config import RunConfig
from clip_jax.data.images.train_transforms import normalize
from clip_jax.distributed.mesh import batch_sharding, on_mesh, replicated
from clip_jax.losses.pairs import PairLoss, make_pair_loss
from clip_jax.losses.predictive import caption_loss
from clip_jax.models.clip import AbstractModel, batch_statistics, build, with_statistics
from clip_jax.models.predictive import TokenPrediction
from clip_jax.optim.averaging import with_average
from clip_jax.optim.optimizer import apply_updates, learning_rate, loss_scale, make_optimizer
from clip_jax.train.determinism import model_to_build
from clip_jax.train.grad_cache import (
    Auxiliary,
    Batch,
    LossFunction,
    example_keys,
    full_batch_gradients,
    make_accumulated_gradients,
    map_tower,
)
from clip_jax.train.objectives import predictive_loss
from clip_jax.train.state import TrainState, abstract_state, state_shardings
from clip_jax.types import Params

Metrics = dict[str, jax.Array]
STEP_METRICS = ("loss", "learning_rate", "grad_norm", "logit_scale")
ROUNDING = 2**31 - 1  # index of stochastic rounding in the step's random stream; no example has it


def make_loss(config: RunConfig, built: AbstractModel, mesh: Mesh, pair_loss: PairLoss | None = None) -> LossFunction:
    """Return the training loss, a function of (params, batch, key).

    It returns (loss over the global batch, (logit scale, new running statistics of batch norm)). The batch is that of
    `make_train_step`. ``pair_loss`` is the contrastive loss, by default the one that ``config.loss`` names. For a CoCa
    model the caption loss is added.
    """
    freeze, pair_loss = config.init_from.freeze_tower, pair_loss or make_pair_loss(config.loss, mesh)
    pixels = config.pixels.mean, config.pixels.std

    def loss_fn(params: Params, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Auxiliary]:
        with on_mesh(mesh):
            model = nnx.merge(built.graphdef, map_tower(params, freeze, jax.lax.stop_gradient))
            keys = example_keys(rng, batch["images"].shape[0])
            out = model(normalize(batch["images"], *pixels), batch["tokens"], train=freeze != "image", rng=keys)
        if isinstance(out, TokenPrediction):
            return predictive_loss(model, out, mesh)
        loss = pair_loss(out.image, out.text, out.scale, out.bias)
        if out.captions is not None:
            captions = caption_loss(out.captions[:, :-1], batch["tokens"][:, 1:], config.model.text.pad_id)
            loss = loss + config.loss.caption_weight * captions
        return loss, (out.scale, batch_statistics(model))

    return loss_fn


# (state, batch, optimizer, the run's random key) -> (state, metrics)
Update = Callable[[TrainState, Batch, optax.GradientTransformation, jax.Array], tuple[TrainState, Metrics]]


def make_update(config: RunConfig, built: AbstractModel, mesh: Mesh, pair_loss: PairLoss | None = None) -> Update:
    """Return the training step as a pure function that is not yet compiled; see `make_train_step`.

    The optimizer and the random key are arguments of each call because they may hold traced values
    (`vmapped.trainer.VmappedStep`).
    """
    freeze, rounding = config.init_from.freeze_tower, config.optim.half_rounding
    if config.microbatch_size:
        gradients = make_accumulated_gradients(config, built, mesh, pair_loss)
    else:
        gradients = full_batch_gradients(make_loss(config, built, mesh, pair_loss))

    def update(
        state: TrainState, batch: Batch, optimizer: optax.GradientTransformation, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(key, state.step)  # randomness is a function of the step
        moments_key, weights_key = jax.random.split(jax.random.fold_in(rng, ROUNDING))
        factor = loss_scale(state.opt_state)
        (loss, (scale, statistics)), grads = gradients(state.params, batch, rng, factor)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params, key=moments_key)
        updates = map_tower(updates, freeze, jnp.zeros_like)  # else weight decay would change a frozen tower
        params = apply_updates(state.params, updates, weights_key, rounding)
        params = with_statistics(params, statistics)
        if config.optim.ema_decay:
            opt_state = with_average(opt_state, params, config.optim.ema_decay)
        metrics = {
            "loss": loss,
            "learning_rate": learning_rate(config.optim, state.opt_state),
            "grad_norm": optax.tree.norm(grads),
            "logit_scale": scale,
        }
        metrics = {k: jnp.asarray(v, jnp.float32) for k, v in metrics.items()}
        return TrainState(state.step + 1, params, opt_state), metrics

    return update


def make_train_step(
    config: RunConfig,
    built: AbstractModel,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    pair_loss: PairLoss | None = None,
) -> jax.stages.Wrapped:
    """Return the jitted step (state, batch) -> (state, metrics).

    The batch holds ``images`` uint8 [B, H, W, C] and ``tokens`` int32 [B, T], sharded over the mesh; pixels are
    normalized on the device. The old state's buffers are donated: do not use a state after passing it in. The metrics
    are float32 scalars: loss, learning rate, gradient norm before clipping, logit scale. ``pair_loss`` is as in
    `make_loss`.
    """
    update = make_update(config, built, mesh, pair_loss)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return update(state, batch, optimizer, jax.random.key(config.seed))

    shardings, everywhere = state_shardings(built, optimizer, mesh), replicated(mesh)
    return jax.jit(
        train_step,
        in_shardings=(shardings, {"images": batch_sharding(mesh), "tokens": batch_sharding(mesh)}),
        out_shardings=(shardings, dict.fromkeys(STEP_METRICS, everywhere)),
        donate_argnums=(0,),
    )


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> Batch:
    """Start the transfer of this process's share of a batch to its devices."""
    sharding = batch_sharding(mesh)
    if jax.process_count() == 1:
        return {k: jax.device_put(batch[k], sharding) for k in ("images", "tokens")}
    return {k: jax.make_array_from_process_local_data(sharding, batch[k]) for k in ("images", "tokens")}


def abstract_step(
    config: RunConfig, mesh: Mesh
) -> tuple[jax.stages.Wrapped, TrainState, dict[str, jax.ShapeDtypeStruct]]:
    """Return the jitted step with abstract state and batch on ``mesh``, to compile or count it.

    Raises:
      ConfigError: the mesh cannot hold the model.
    """
    model, spread = config.model, batch_sharding(mesh)
    built = build(model_to_build(config, mesh.devices.flat[0]), mesh)
    optimizer = make_optimizer(config.optim, config.steps, model, axes=built.axes)
    size, count = model.image.image_size, config.batch_size
    batch = {
        "images": jax.ShapeDtypeStruct((count, size, size, 3), jnp.uint8, sharding=spread),
        "tokens": jax.ShapeDtypeStruct((count, model.text.context_length), jnp.int32, sharding=spread),
    }
    return make_train_step(config, built, optimizer, mesh), abstract_state(built, optimizer, mesh), batch
