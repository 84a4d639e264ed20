"""The step: sharded equals single, compiled once, and it learns."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clip_jax.config import DecoderConfig, InitConfig, LossConfig, MeshConfig, OptimConfig
from clip_jax.distributed.mesh import make_mesh
from clip_jax.errors import ConfigError
from clip_jax.models import execution, layers
from clip_jax.models.clip import build, init_params
from clip_jax.optim.optimizer import loss_scale, make_optimizer
from clip_jax.train.grad_cache import full_batch_gradients, make_accumulated_gradients
from clip_jax.train.state import init_state
from clip_jax.train.step import make_loss, make_train_step, put_batch

from ..user_errors import raises_user_error


def batch_of(run, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 390, (run.batch_size, run.model.text.context_length)).astype(np.int32)
    tokens[:, -1] = 399
    return {"images": rng.integers(0, 255, (run.batch_size, 32, 32, 3), np.uint8), "tokens": tokens}


def parts(run, config, devices=None):
    mesh = make_mesh(config, devices)
    built = build(run.model, mesh)
    optimizer = make_optimizer(run.optim, run.steps, run.model)
    return mesh, built, optimizer, init_state(run, built, optimizer, mesh)


ONE = MeshConfig()
MESHES = [
    MeshConfig(data=8),
    MeshConfig(data=2, fsdp=4),
    MeshConfig(data=2, fsdp=2, tensor=2),
    MeshConfig(data=1, tensor=2, fsdp=2, slices=2),
]


@functools.cache
def fresh(model):
    return jax.tree.map(np.asarray, jax.jit(lambda: init_params(model, 0))())


def value_and_gradients(run, mesh_config=ONE, devices=1):
    mesh = make_mesh(mesh_config, jax.devices()[:devices])
    built = build(run.model, mesh)
    if run.microbatch_size:
        gradients = make_accumulated_gradients(run, built, mesh)
    else:
        gradients = full_batch_gradients(make_loss(run, built, mesh))
    params = jax.device_put(fresh(run.model), built.shardings)
    (value, _), grads = jax.jit(gradients)(params, put_batch(batch_of(run), mesh), jax.random.key(0))
    return value, grads


def assert_close(actual, wanted, tolerance):
    """Check that values and gradients agree: absolutely for tensors below one, else relative to the largest entry.

    What rounding leaves of a sum is a share of its terms, and the terms of an entry near zero are as large as its
    neighbors'; this shows on some processors.
    """
    np.testing.assert_allclose(actual[0], wanted[0], atol=tolerance)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, float(np.abs(b).max()))),
        actual[1],
        wanted[1],
    )


@pytest.mark.thorough
def test_loss_and_gradients_on_eight_devices_equal_one(tiny_run):
    one = value_and_gradients(tiny_run)
    for config in MESHES:
        assert_close(value_and_gradients(tiny_run, config, 8), one, 1e-5)


def test_tensor_axis_splits_heads_and_hidden_units(tiny_run):
    mesh, built, optimizer, state = parts(tiny_run, MeshConfig(data=2, fsdp=2, tensor=2))
    block = state.params["image"]["blocks"]["blocks"]
    assert block["fc"]["kernel"].sharding.shard_shape((1, 16, 64)) == (1, 8, 32)
    (moments,) = (s for s in jax.tree.leaves(state.opt_state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(s, "mu"))
    moment = moments.mu["image"]["blocks"]["blocks"]["fc"]["kernel"]
    assert moment.sharding.is_equivalent_to(block["fc"]["kernel"].sharding, 3)
    text = make_train_step(tiny_run, built, optimizer, mesh).lower(state, put_batch(batch_of(tiny_run), mesh)).as_text()
    assert '{"tensor"}' in text  # activations are constrained, not left to chance


VARIANTS = {
    "softmax": {},
    "ring": {"loss": LossConfig(implementation="ring", chunk_size=3)},
    "sigmoid": {"loss": LossConfig(name="sigmoid"), "model.logit_bias": True},
    "patch dropout": {"image.patch_dropout": 0.5, "image.patch_size": 8},
    "locked image tower": {"init_from": InitConfig(source="x", freeze_tower="image")},
    "recomputed": {"model.remat": True},
}


def variant(run, changes):
    """Return the run with fields of it, its model ("model.x") or its image tower ("image.x") changed."""
    group = {name.split(".")[-1]: value for name, value in changes.items()}
    image = {k: group[k] for k in group if f"image.{k}" in changes}
    model = {k: group[k] for k in group if f"model.{k}" in changes}
    model["image"] = dataclasses.replace(run.model.image, **image)
    rest = {k: v for k, v in changes.items() if "." not in k}
    return dataclasses.replace(run, model=dataclasses.replace(run.model, **model), **rest)


@pytest.mark.thorough
@pytest.mark.parametrize("name", VARIANTS)
def test_accumulated_gradients_equal_those_of_the_whole_batch(tiny_run, name):
    with jax.enable_x64(True):  # so that nothing but rounding of float64 may differ
        run = variant(tiny_run, VARIANTS[name] | {"model.compute_dtype": "float64", "model.param_dtype": "float64"})
        config, count = (MeshConfig(data=2, fsdp=2), 4) if name in ("ring", "patch dropout") else (ONE, 1)
        whole = value_and_gradients(run, config, count)
        pieces = value_and_gradients(dataclasses.replace(run, microbatch_size=4), config, count)
    assert whole[0].dtype == np.float64
    assert_close(pieces, whole, 1e-10)
    assert any(np.abs(g).max() > 1e-4 for g in jax.tree.leaves(whole[1]))


def test_accumulated_gradients_equal_those_of_the_whole_batch_in_float32(tiny_run):
    pieces = value_and_gradients(dataclasses.replace(tiny_run, microbatch_size=4))
    assert_close(pieces, value_and_gradients(tiny_run), 1e-5)


FUSED = {
    "eight devices": ({}, MeshConfig(data=2, fsdp=2, tensor=2), 8),
    "eight devices, unrolled": ({"model.scan_layers": False}, MeshConfig(data=2, fsdp=2, tensor=2), 8),
    "in pieces": ({"microbatch_size": 4}, ONE, 1),
    "in pieces, unrolled": ({"microbatch_size": 4, "model.scan_layers": False}, ONE, 1),
    "pooled by attention": ({"image.pool": "map", "image.class_token": False, "image.patch_size": 8}, ONE, 1),
    "CoCa": (
        {
            "image.pool": "attentional", "image.pool_heads": 2, "image.pool_queries": 4, "image.width": 16,
            "model.decoder": DecoderConfig(depth=1, width=16, heads=2),
        }, ONE, 1,
    ),
}  # fmt: skip


@pytest.mark.thorough
@pytest.mark.parametrize("name", FUSED)
def test_fused_attention_gives_the_gradients_of_the_written_out_equation(tiny_run, name, monkeypatch):
    # Padded as for the kernel (five patches, 15 tokens), which the library's form stands in for; what is off may
    # not exceed what bfloat16 is off by itself.
    monkeypatch.setattr(execution, "no_fused_attention", lambda config, device: "")
    monkeypatch.setattr(layers, "FUSED", "xla")
    changes, mesh, count = FUSED[name]
    run = variant(tiny_run, changes | {"model.text": dataclasses.replace(tiny_run.model.text, context_length=15)})

    def losses_of(**model):
        return value_and_gradients(dataclasses.replace(run, model=dataclasses.replace(run.model, **model)), mesh, count)

    true, written = losses_of(), losses_of(compute_dtype="bfloat16")
    fused = losses_of(compute_dtype="bfloat16", attention="cudnn", remat=True, remat_policy="dense")
    assert abs(fused[0] - true[0]) < 0.02

    def off(grads):
        return optax.tree.norm(jax.tree.map(jnp.subtract, grads, true[1])) / optax.tree.norm(true[1])

    assert off(fused[1]) < 1.5 * off(written[1]) < 0.1


def test_accumulated_loss_differs_from_the_mean_of_microbatch_losses(tiny_run):
    whole, _ = value_and_gradients(dataclasses.replace(tiny_run, microbatch_size=4))
    small = dataclasses.replace(tiny_run, batch_size=4)
    assert value_and_gradients(small)[0] < float(whole) - 0.5


@pytest.mark.thorough
def test_train_step_compiles_once_and_learns_one_batch(tiny_run):
    run = dataclasses.replace(tiny_run, steps=40)
    mesh, built, optimizer, state = parts(run, MeshConfig(fsdp=2))
    step = make_train_step(run, built, optimizer, mesh)
    losses = []
    for _ in range(30):
        state, metrics = step(state, put_batch(batch_of(run), mesh))
        losses.append(float(metrics["loss"]))
    assert step._cache_size() == 1
    assert losses[-1] < losses[0] / 2
    assert int(state.step) == 30
    assert all(np.asarray(v).shape == () for v in metrics.values())


@pytest.mark.thorough
def test_train_step_program_is_shared_by_runs_of_other_length_and_rate(tiny_run):
    texts = []
    for steps, rate in ((8, 1e-3), (800, 7e-3)):
        run = dataclasses.replace(tiny_run, steps=steps, optim=dataclasses.replace(tiny_run.optim, peak_lr=rate))
        mesh, built, optimizer, state = parts(run, MeshConfig())
        lowered = make_train_step(run, built, optimizer, mesh).lower(state, put_batch(batch_of(run), mesh))
        texts.append(lowered.as_text())
    assert texts[0] == texts[1]


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_train_step_half_precision_compute_keeps_float32_parameters(tiny_run, dtype):
    run = dataclasses.replace(tiny_run, model=dataclasses.replace(tiny_run.model, compute_dtype=dtype))
    mesh, built, optimizer, state = parts(run, MeshConfig())
    step = make_train_step(run, built, optimizer, mesh)
    losses = []
    for _ in range(8):
        state, metrics = step(state, put_batch(batch_of(run), mesh))
        losses.append(float(metrics["loss"]))
    assert {str(x.dtype) for x in jax.tree.leaves(state.params)} == {"float32"}
    assert losses[-1] < losses[0] - 0.1


def test_train_step_float16_overflow_is_skipped_and_halves_the_loss_scale(tiny_run):
    model = dataclasses.replace(tiny_run.model, compute_dtype="float16")
    run = dataclasses.replace(tiny_run, model=model, optim=dataclasses.replace(tiny_run.optim, loss_scale=2.0**40))
    mesh, built, optimizer, state = parts(run, MeshConfig())
    before = jax.tree.map(np.asarray, state.params)
    state, metrics = make_train_step(run, built, optimizer, mesh)(state, put_batch(batch_of(run), mesh))
    assert np.isfinite(float(metrics["loss"]))
    jax.tree.map(np.testing.assert_array_equal, state.params, before)
    assert float(loss_scale(state.opt_state)) == 2.0**39


@pytest.mark.thorough
def test_train_step_learns_with_bfloat16_text_weights_and_moments(tiny_run):
    model = dataclasses.replace(tiny_run.model, text_param_dtype="bfloat16")
    optim = dataclasses.replace(tiny_run.optim, state_dtype="bfloat16")
    run = dataclasses.replace(tiny_run, model=model, optim=optim, steps=40)
    mesh, built, optimizer, state = parts(run, MeshConfig(fsdp=2))
    step = make_train_step(run, built, optimizer, mesh)
    losses = []
    for _ in range(30):
        state, metrics = step(state, put_batch(batch_of(run), mesh))
        losses.append(float(metrics["loss"]))
    assert {str(x.dtype) for x in jax.tree.leaves(state.params["text"])} == {"bfloat16"}
    assert {str(x.dtype) for x in jax.tree.leaves(state.params["image"])} == {"float32"}
    assert losses[-1] < losses[0] / 2
    assert step._cache_size() == 1


@pytest.mark.thorough
def test_train_step_of_coca_learns_captions(tiny_run):
    image = dataclasses.replace(tiny_run.model.image, pool="attentional", pool_heads=2, pool_queries=4)
    text = dataclasses.replace(tiny_run.model.text, pool="cls")
    decoder = DecoderConfig(depth=1, width=16, heads=2)
    run = dataclasses.replace(
        tiny_run, model=dataclasses.replace(tiny_run.model, image=image, text=text, decoder=decoder)
    )
    one = value_and_gradients(run)
    no_captions = dataclasses.replace(run, loss=LossConfig(caption_weight=0.0))
    bare = value_and_gradients(no_captions)
    assert float(one[0]) > float(bare[0]) + 2 * 0.8 * np.log(400)  # an untrained decoder guesses among 400 tokens
    assert np.abs(one[1]["decoder"]["projection"]).max() > 0


@pytest.mark.parametrize(
    ("changes", "attributes"),
    [
        ({"microbatch_size": 5}, {"field": "microbatch_size", "value": 5}),
        ({"loss": LossConfig(name="sigmoid")}, {"field": "model.logit_bias", "value": False}),
        ({"model.logit_bias": True}, {"field": "model.logit_bias", "value": True}),
        ({"loss": LossConfig(caption_weight=1.0)}, {"field": "loss.caption_weight", "reason": "ignored"}),
        (
            {"optim": OptimConfig(warmup_steps=1, half_rounding="nearest")},
            {"field": "optim.half_rounding", "reason": "ignored"},
        ),
        ({"optim": OptimConfig(warmup_steps=1, loss_scale=8.0)}, {"field": "optim.loss_scale", "reason": "ignored"}),
    ],
)
def test_run_config_ignored_or_impossible_step_settings_are_refused(tiny_run, changes, attributes):
    with raises_user_error(ConfigError, **attributes):
        variant(tiny_run, changes)
