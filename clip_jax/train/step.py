"""One training step: a pure function of state and batch, compiled once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from clip_jax.config import RunConfig
from clip_jax.data.transforms import normalise
from clip_jax.losses.contrastive import sharded_contrastive_loss
from clip_jax.models.clip import batch_statistics, with_statistics
from clip_jax.optim import learning_rate
from clip_jax.parallel import batch_sharding, replicated
from clip_jax.train.state import TrainState, state_shardings

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
METRICS = ("loss", "learning_rate", "grad_norm", "logit_scale")


def locked(params: Any, tower: str, function: Callable[[Any], Any]) -> Any:
    """Parameters with ``function`` over the leaves of one tower ("none" leaves all alone)."""

    def apply(path: tuple[Any, ...], leaf: Any) -> Any:
        return function(leaf) if str(getattr(path[0], "key", path[0])) == tower else leaf

    return params if tower == "none" else jax.tree_util.tree_map_with_path(apply, params)


def make_loss(
    built: Any, mesh: Mesh, freeze: str = "none"
) -> Callable[[Any, Batch, jax.Array], tuple[jax.Array, tuple[jax.Array, Any]]]:
    """The training loss: (params, batch of `make_train_step`, key) -> (loss over the global batch, (logit scale, new
    running statistics of batch norm))."""

    def loss_fn(params: Any, batch: Batch, rng: jax.Array) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        model = nnx.merge(built.graphdef, locked(params, freeze, jax.lax.stop_gradient))
        out = model(normalise(batch["images"]), batch["tokens"], train=freeze != "image", rng=rng)
        loss = sharded_contrastive_loss(out.image, out.text, out.scale, mesh=mesh)
        return loss, (out.scale, batch_statistics(model))

    return loss_fn


def make_train_step(
    config: RunConfig, built: Any, optimizer: optax.GradientTransformation, mesh: Mesh
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The jitted step (state, batch) -> (state, metrics).

    The batch holds ``images`` uint8 [B, H, W, C] and ``tokens`` int32 [B, T], sharded over the mesh; pixels are
    normalised on the device. The old state's memory is reused: do not touch a state after passing it in.
    Metrics are float32 scalars: loss, learning rate, gradient norm before clipping, logit scale.
    """
    freeze = config.init_from.freeze
    loss_fn = make_loss(built, mesh, freeze)
    shardings = state_shardings(built, optimizer, mesh)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(jax.random.key(config.seed), state.step)  # what is random is a function of the step
        (loss, (scale, statistics)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params, batch, rng)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        updates = locked(updates, freeze, jnp.zeros_like)  # else a locked tower would still decay
        params = with_statistics(optax.apply_updates(state.params, updates), statistics)
        metrics = {
            "loss": loss,
            "learning_rate": learning_rate(config.optim, state.opt_state),
            "grad_norm": optax.tree.norm(grads),
            "logit_scale": scale,
        }
        metrics = {k: jnp.asarray(v, jnp.float32) for k, v in metrics.items()}
        return TrainState(state.step + 1, params, opt_state), metrics

    everywhere = replicated(mesh)
    return jax.jit(
        train_step,
        in_shardings=(shardings, {"images": batch_sharding(mesh), "tokens": batch_sharding(mesh)}),
        out_shardings=(shardings, dict.fromkeys(METRICS, everywhere)),
        donate_argnums=(0,),
    )


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> Batch:
    """Start the transfer of this process's share of a batch to its devices."""
    sharding = batch_sharding(mesh)
    if jax.process_count() == 1:
        return {k: jax.device_put(batch[k], sharding) for k in ("images", "tokens")}
    return {k: jax.make_array_from_process_local_data(sharding, batch[k]) for k in ("images", "tokens")}
