"""The coordinate check of muP (Yang et al., 2022, appendix D.1): do activations change equally at every width?

It takes a few updates at one learning rate and measures the mean absolute change of a coordinate of each module's
output. Under a width-stable parametrization this change does not depend on the width. Where it grows with the width,
training diverges at some width; where it falls, the module learns nothing in the limit. The check takes seconds, so it
comes before any search.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np

from clip_jax.config import ModelConfig, OptimConfig
from clip_jax.types import Params, PyTree

if TYPE_CHECKING:
    import jax

    from clip_jax.models.clip import CLIP


def module_outputs(model: CLIP, images: jax.Array, tokens: jax.Array) -> dict[str, jax.Array]:
    """Return the activations of each module of a CLIP model, float arrays by name.

    These are each tower's stream before and after every block, the embeddings (of unit norm, times sqrt(E), so that a
    coordinate has size 1) and the logits.
    """
    out, outputs = model(images, tokens), {}
    for name, tower, inputs in (("image", model.image, images), ("text", model.text, tokens)):
        for layer, state in enumerate(tower.hidden_states(inputs)):  # type: ignore[union-attr]  # muP: transformers
            outputs[f"{name} stream {layer}"] = state
        unit = getattr(out, name)
        outputs[f"{name} embedding"] = unit * unit.shape[-1] ** 0.5
    outputs["logits"] = out.scale * out.image @ out.text.T
    return outputs


def coordinate_changes(
    config: ModelConfig,
    lr: float,
    batch: Mapping[str, np.ndarray],
    *,
    steps: int = 4,
    seed: int = 0,
    optim: OptimConfig | None = None,
) -> dict[str, tuple[float, float]]:
    """Return {module: (mean |x| at initialization, mean |change| after ``steps`` updates)} on the training batch.

    The updates are those of ``optim`` (AdamW if None) at a constant learning rate ``lr`` without weight decay. The
    batch holds images float [B, H, W, 3] and tokens int32 [B, T].
    """
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from clip_jax.losses.contrastive import dense_contrastive_loss
    from clip_jax.models.clip import logical_axes, make_model
    from clip_jax.optim.optimizer import make_optimizer

    optimizer = make_optimizer(
        replace(optim or OptimConfig(), peak_lr=lr, warmup_steps=0, weight_decay=0.0, schedule="wsd"),
        10 * steps,
        config,
        axes=logical_axes(config),
    )
    images, tokens = jnp.asarray(batch["images"]), jnp.asarray(batch["tokens"])
    graphdef, state = nnx.split(make_model(config, rngs=nnx.Rngs(seed)))

    def loss(params: Params) -> tuple[jax.Array, dict[str, jax.Array]]:
        model = cast("CLIP", nnx.merge(graphdef, params))
        out = model(images, tokens)
        return dense_contrastive_loss(out.image, out.text, out.scale), module_outputs(model, images, tokens)

    @jax.jit
    def step(params: Params, opt_state: PyTree) -> tuple[Params, PyTree, dict[str, jax.Array]]:
        (_, outputs), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, outputs

    params = nnx.as_pure(state)
    opt_state, first, last = optimizer.init(params), None, None
    for _ in range(steps + 1):
        params, opt_state, last = step(params, opt_state)
        first = first or last
    assert first is not None
    assert last is not None
    return {k: (float(jnp.mean(jnp.abs(first[k]))), float(jnp.mean(jnp.abs(last[k] - first[k])))) for k in first}


def fit_powers(
    sizes: Iterable[float], changes: Iterable[Mapping[str, tuple[float, float]]]
) -> dict[str, tuple[float, float]]:
    """Return {module: (power of the initial size, power of the change)} over ``sizes``; a power of 0 is stable.

    Args:
      sizes: widths or depths.
      changes: the result of `coordinate_changes` for each size; modules that some of them lack are left out.
    """
    x, rows = np.log(list(sizes)), list(changes)
    common = [name for name in rows[0] if all(name in row for row in rows)]
    fitted = {name: np.polyfit(x, np.log([row[name] for row in rows]), 1)[0] for name in common}
    return {name: (float(a), float(b)) for name, (a, b) in fitted.items()}
