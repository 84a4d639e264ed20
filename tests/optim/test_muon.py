"""Muon: which matrices it takes, and that stacked and fused kernels get the updates of the single matrices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from clip_jax.config import ImageTowerConfig, ModelConfig, OptimConfig, ParametrizationConfig, TextTowerConfig
from clip_jax.config.mup import MATRICES, table_row
from clip_jax.config.presets import preset
from clip_jax.distributed import mesh
from clip_jax.models.clip import logical_axes
from clip_jax.optim import muon
from clip_jax.optim import optimizer as optim

AXES = {
    "qkv": PartitionSpec("layers", "embed", "qkv"),
    "proj": PartitionSpec("layers", "mlp", "embed"),
    "bias": PartitionSpec("layers", None),
}


def by_name(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def in_three(kernel):
    return [kernel[:, i * 6 : (i + 1) * 6] for i in range(3)]


@pytest.mark.parametrize("scale", ["rms", "spectral"])
def test_muon_of_stacked_and_fused_kernels_equals_optax_on_each_matrix(scale):
    rng = np.random.default_rng(0)
    params = {
        "qkv": rng.normal(size=(2, 6, 18)), "proj": rng.normal(size=(2, 24, 6)), "bias": rng.normal(size=(2, 6)),
    }  # fmt: skip
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)

    def apart(tree):
        """Return every matrix alone, and the biases of each layer."""
        parts = {f"qkv {i} {j}": m for i in range(2) for j, m in enumerate(in_three(tree["qkv"][i]))}
        return parts | {f"{name} {i}": tree[name][i] for name in ("proj", "bias") for i in range(2)}

    config = OptimConfig(
        optimizer="muon", muon_scale=scale, muon_momentum=0.9, peak_lr=0.1, warmup_steps=0, clip_norm=1e9,
        weight_decay=0.3, schedule="wsd",
    )  # fmt: skip
    optimizer = optim.make_optimizer(config, 1000, axes=AXES)
    reference = optax.contrib.muon(
        0.1, beta=0.9, weight_decay=0.3, adam_b2=0.98, eps=1e-6, nesterov=True,
        consistent_rms=0.2 if scale == "rms" else None,
    )  # fmt: skip
    state, plain = optimizer.init(params), reference.init(apart(params))
    for step in range(3):
        grads = jax.tree.map(lambda x, s=step: jnp.sin(x * (s + 1)), params)
        updates, state = optimizer.update(grads, state, params)
        expected, plain = reference.update(apart(grads), plain, apart(params))
        for name, leaf in apart(updates).items():
            if "bias" not in name:
                np.testing.assert_allclose(leaf, expected[name], rtol=1e-4, atol=1e-6, err_msg=name)
        params = optax.apply_updates(params, updates)


def test_muon_trains_all_but_the_hidden_matrices_by_adamw():
    model = preset("debug")
    axes = logical_axes(model)
    shapes = jax.tree.map(lambda names: jnp.ones((2 if "layers" in names else 3,) + (6,) * (len(names) - 1)), axes)
    shapes = jax.tree.map(lambda x, n: jnp.ones((), x.dtype) if n == PartitionSpec() else x, shapes, axes)
    grads = jax.tree.map(lambda x: jnp.sin(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape), shapes)
    updates = []
    for name in ("muon", "adamw"):
        optimizer = optim.make_optimizer(OptimConfig(optimizer=name, warmup_steps=0), 100, axes=axes)
        updates.append(by_name(optimizer.update(grads, optimizer.init(shapes), shapes)[0]))
    alike = {name for name in updates[0] if np.array_equal(updates[0][name], updates[1][name])}
    matrices = {f"{t}.blocks.blocks.{m}.kernel" for t in ("image", "text") for m in ("qkv", "out", "fc", "proj")}
    assert updates[0].keys() - alike == matrices


def test_muon_of_a_smaller_adam_rate_scales_all_but_the_matrices():
    params = {name: jnp.ones((2, *(6,) * (len(names) - 1))) for name, names in AXES.items()}
    updates = []
    for factor in (1.0, 0.5):
        config = OptimConfig(optimizer="muon", muon_adam_lr=factor, warmup_steps=0)
        optimizer = optim.make_optimizer(config, 100, axes=AXES)
        updates.append(optimizer.update(params, optimizer.init(params), params)[0])
    np.testing.assert_allclose(updates[1]["bias"], 0.5 * updates[0]["bias"], rtol=1e-6)
    np.testing.assert_array_equal(updates[1]["qkv"], updates[0]["qkv"])


def test_muon_update_is_close_to_orthogonal_with_entries_of_adamws_size():
    grads = {"qkv": jax.random.normal(jax.random.key(0), (1, 32, 96))}
    transform = muon.scale_by_muon({"qkv": AXES["qkv"]}, 0.95, "rms")
    update = transform.update(grads, transform.init(grads))[0]["qkv"][0]
    for matrix in np.split(np.asarray(update), 3, axis=1):
        values = np.linalg.svd(matrix, compute_uv=False) / (0.2 * 32**0.5)
        assert 0.3 < values.min() < values.max() < 1.3
        assert 0.15 < np.sqrt(np.mean(matrix**2)) < 0.25


def test_mup_rates_make_both_scales_of_muon_grow_alike_with_width():
    factors = []
    for width in (16, 64):
        tower = {"width": width, "depth": 1, "heads": 2}
        model = ModelConfig(
            image=ImageTowerConfig(**tower), text=TextTowerConfig(**tower),
            parametrization=ParametrizationConfig("mup", 16, 16),
        )  # fmt: skip
        axes = {"image": {"blocks": {"blocks": {"fc": {"kernel": PartitionSpec("layers", "embed", "mlp")}}}}}
        grads = jax.tree.map(lambda _, w=width: jnp.eye(w, 4 * w)[None], axes)
        norms = []
        for scale in ("rms", "spectral"):
            config = OptimConfig(optimizer="muon", muon_scale=scale, warmup_steps=0, weight_decay=0.0)
            optimizer = optim.make_optimizer(config, 10, model, axes=axes)
            (update,) = jax.tree.leaves(optimizer.update(grads, optimizer.init(grads), grads)[0])
            norms.append(np.linalg.norm(update[0], 2))
        factors.append(norms)
    np.testing.assert_allclose(factors[0], factors[1], rtol=0.1)  # of a width that is four times as large
    assert factors[0][0] / factors[0][1] == pytest.approx(factors[1][0] / factors[1][1], rel=1e-4)


def test_matrix_axes_list_every_parameter_of_every_transformer():
    coca, bag = preset("CoCa-B/32"), TextTowerConfig(encoder="bag_of_words")
    tiny = preset("debug")
    models = [
        tiny, dataclasses.replace(tiny, logit_bias=True), coca, dataclasses.replace(tiny, text=bag),
        dataclasses.replace(tiny, image=dataclasses.replace(tiny.image, pool="map", class_token=False)),
        *(ModelConfig(objective=o) for o in ("caption", "bag_of_words")),
    ]  # fmt: skip
    for model in models:
        chosen = {name for name, matrix in by_name(muon.is_matrix(logical_axes(model))).items() if matrix}
        assert chosen
        assert all(name.endswith("kernel") and ("blocks" in name or "head" in name) for name in chosen)
        if model is tiny:
            assert chosen == {n for n in by_name(logical_axes(tiny)) if table_row(n.split(".")) in MATRICES}


def test_muon_parameter_without_declared_axes_is_an_error():
    with pytest.raises(ValueError, match=r"image\.novel.*'embed', 'novel'"):
        muon.is_matrix({"image": {"novel": PartitionSpec("layers", "embed", "novel")}})
    with pytest.raises(ValueError, match="axes="):
        optim.make_optimizer(OptimConfig(optimizer="muon"), 10)


def test_matrix_axes_name_axes_of_the_sharding_rules():
    known = {None, *dict(mesh.SHARDING_RULES)}
    assert all(set(names) <= known for names in mesh.MATRIX_AXES)
    assert mesh.SIDE_BY_SIDE.keys() <= known
