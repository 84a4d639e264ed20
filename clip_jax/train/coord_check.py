"""The coordinate check: does what a model computes move by as much at every width? (Yang et al., 2022, appendix D.1)

A few updates at one learning rate, then the mean absolute change of a coordinate of each module's output. Under a
width-stable parametrisation it does not know the width; where it grows with it, some width makes training blow up, and
where it falls, a module learns nothing in the limit. Costs seconds, so it comes before any search.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from clip_jax.config import ModelConfig, OptimConfig


def module_outputs(model: Any, images: Any, tokens: Any) -> dict[str, Any]:
    """What each part of a CLIP model computes, float arrays by name: each tower's stream before and after every block,
    the embeddings (of unit length, times sqrt(E), so that a coordinate is of size 1) and the logits."""
    out, found = model(images, tokens), {}
    for name, tower, given in (("image", model.image, images), ("text", model.text, tokens)):
        for layer, state in enumerate(tower.hidden_states(given)):
            found[f"{name} stream {layer}"] = state
        unit = getattr(out, name)
        found[f"{name} embedding"] = unit * unit.shape[-1] ** 0.5
    found["logits"] = out.scale * out.image @ out.text.T
    return found


def moved(config: ModelConfig, lr: float, batch: Mapping[str, Any], *, steps: int = 4, seed: int = 0) -> dict[str, Any]:
    """{module: (mean |x| at first, mean |change| after ``steps`` updates)} on the batch that it trains on.

    AdamW at a constant ``lr`` without decay; the batch holds images float [B, H, W, 3] and tokens int32 [B, T].
    """
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from clip_jax.losses.contrastive import dense_contrastive_loss
    from clip_jax.models.clip import make_model
    from clip_jax.optim.optimizer import make_optimizer

    optimizer = make_optimizer(
        OptimConfig(peak_lr=lr, warmup_steps=0, weight_decay=0.0, schedule="wsd"), 10 * steps, config
    )
    images, tokens = jnp.asarray(batch["images"]), jnp.asarray(batch["tokens"])
    graphdef, state = nnx.split(make_model(config, rngs=nnx.Rngs(seed)))

    def loss(params: Any) -> tuple[Any, dict[str, Any]]:
        model: Any = nnx.merge(graphdef, params)
        out = model(images, tokens)
        return dense_contrastive_loss(out.image, out.text, out.scale), module_outputs(model, images, tokens)

    @jax.jit
    def step(params: Any, opt_state: Any) -> tuple[Any, Any, dict[str, Any]]:
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


def slopes(
    sizes: Iterable[float], found: Iterable[Mapping[str, tuple[float, float]]]
) -> dict[str, tuple[float, float]]:
    """{module: (power of the first size, power of the change)} over ``sizes`` (widths or depths), for the modules that
    all results of `moved` have; 0 is stable."""
    x, rows = np.log(list(sizes)), list(found)
    common = [name for name in rows[0] if all(name in row for row in rows)]
    fitted = {name: np.polyfit(x, np.log([row[name] for row in rows]), 1)[0] for name in common}
    return {name: (float(a), float(b)) for name, (a, b) in fitted.items()}
