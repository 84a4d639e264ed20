"""The table of the width- and depth-stable parametrization: what it says, and that models and optimizers do it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from clip_jax.config import (
    ImageTowerConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    ParametrizationConfig,
    RunConfig,
    TextTowerConfig,
)
from clip_jax.config.io import from_dict, run_id
from clip_jax.config.mup import MUON_LR, TABLE, Multipliers, multipliers, table_row
from clip_jax.config.presets import PRESETS
from clip_jax.distributed.mesh import make_mesh
from clip_jax.models.clip import build, init_params, make_model
from clip_jax.optim.optimizer import make_optimizer
from clip_jax.train.state import init_state
from clip_jax.train.step import make_train_step, put_batch

from ..user_errors import raises_user_error

MUP = ParametrizationConfig("mup", base_image_width=16, base_text_width=16)
DEEP = dataclasses.replace(MUP, base_image_depth=1, base_text_depth=1)


def model_of(width, depth=2, kind=MUP, **changes):
    shape = {"width": width, "depth": depth, "heads": width // 8}
    return ModelConfig(
        image=ImageTowerConfig(**shape, image_size=32, patch_size=16),
        text=TextTowerConfig(**shape, context_length=8, vocab_size=260),
        embed_dim=16,
        parametrization=kind,
        **{"scan_layers": False, **changes},
    )


def standard(model):
    return dataclasses.replace(model, parametrization=ParametrizationConfig())


def by_path(tree):
    return {tuple(k.key for k in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@functools.cache
def train(model, mesh=None, steps=2):
    """Return parameters by path after some steps on noise, and the losses."""
    run = RunConfig(model=model, optim=OptimConfig(peak_lr=1e-2, warmup_steps=1), batch_size=8, steps=10)
    mesh = make_mesh(mesh or MeshConfig(), None if mesh else jax.devices()[:1])
    built = build(model, mesh)
    optimizer = make_optimizer(run.optim, run.steps, model)
    state, losses = init_state(run, built, optimizer, mesh), []
    step = make_train_step(run, built, optimizer, mesh)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        images, tokens = rng.integers(0, 255, (8, 32, 32, 3), np.uint8), rng.integers(1, 260, (8, 8), np.int32)
        state, metrics = step(state, put_batch({"images": images, "tokens": tokens}, mesh))
        losses.append(float(metrics["loss"]))
    return by_path(jax.device_get(state.params)), losses


def close(a, b, tolerance):
    assert a.keys() == b.keys()
    for path in a:
        one, other = (np.array(x[path]) for x in (a, b))
        if path[-2:] == ("qkv", "bias"):
            # a key's bias moves all logits of a query alike: its gradient is rounding, of which Adam makes whole steps
            width = one.shape[-1] // 3
            one[..., width : 2 * width] = other[..., width : 2 * width] = 0
        np.testing.assert_allclose(one, other, atol=tolerance, err_msg=str(path))


@pytest.mark.parametrize("name", ["debug", "ViT-B/32", "ViT-S/16"])
def test_multipliers_cover_every_tensor(name):
    model = dataclasses.replace(PRESETS[name], image=dataclasses.replace(PRESETS[name].image, layer_scale=0.1))
    params = by_path(jax.eval_shape(lambda: init_params(model, 0)))
    kinds = {table_row(path) for path in params}
    assert kinds <= TABLE.keys()
    assert {table_row(p) for p in params if p[-1] == "kernel" and "blocks" in p} == {"residual_in", "residual_out"}
    with pytest.raises(KeyError, match="image.head.query: no row"):
        table_row(("image", "head", "query"))


def test_multipliers_at_four_times_the_width_and_depth_are_the_table():
    model = model_of(64, 4, DEEP)

    def row(path):
        return dataclasses.astuple(multipliers(path.split("."), model))

    assert row("text.token") == (1, 1, 1 / 4)
    assert row("image.patch.kernel") == (1, 1, 1 / 4)
    assert row("image.position") == (2, 1, 1 / 4)
    assert row("text.position") == (1, 1, 1 / 4)
    assert row("image.blocks.blocks.qkv.kernel") == (1, 1 / 4, 1 / 16)
    assert row("image.blocks.blocks.proj.kernel") == (1 / 2, 1 / 16, 1 / 4)
    assert row("image.blocks.blocks.proj.bias") == (1, 1 / 4, 1 / 4)
    assert row("image.blocks.blocks.ln_1.scale") == (1, 1, 1 / 16)
    assert row("image.projection") == (1, 1 / 2, 1 / 2)
    assert row("logit_scale") == (1, 1, 1)
    assert multipliers(("text", "projection"), model).weight_decay == 2
    assert multipliers(("image", "projection"), standard(model)) == Multipliers()


@pytest.mark.thorough
def test_initial_values_scale_by_the_table():
    model = model_of(64, 4, DEEP)
    scaled, usual = (by_path(init_params(m, 3)) for m in (model, standard(model)))
    for path, value in scaled.items():
        np.testing.assert_allclose(value, usual[path] * multipliers(path, model).init, rtol=1e-6)
    assert float(jnp.std(scaled["image", "position"])) == pytest.approx(16**-0.5, rel=0.2)  # as at the base width


@pytest.mark.thorough
def test_mup_at_base_sizes_equals_standard():
    model = model_of(16, 1, DEEP)
    close(train(model)[0], train(standard(model))[0], 0)


def test_mup_optimizer_is_adamw_with_per_tensor_lr_decay_and_eps():
    model, config = model_of(64, 4, DEEP), OptimConfig(peak_lr=1e-2, warmup_steps=0, eps=1e-2, clip_norm=1e9)
    params = {"image": {"projection": jnp.ones((2, 3)), "blocks": {"blocks": {"qkv": {"kernel": jnp.ones((4, 2, 3))}}}}}
    optimizer = make_optimizer(config, 10**6, model)
    state, moved = optimizer.init(params), params
    grads = jax.tree.map(lambda p: jnp.linspace(-1e-2, 1e-2, p.size).reshape(p.shape), params)
    for _ in range(3):
        updates, state = optimizer.update(grads, state, moved)
        moved = optax.apply_updates(moved, updates)
    for path, value in by_path(moved).items():
        m = multipliers(path, model)
        plain = optax.adamw(
            config.peak_lr * m.lr, b1=config.b1, b2=config.b2, eps=config.eps * m.eps,
            weight_decay=config.weight_decay * m.weight_decay,
        )  # fmt: skip
        want = by_path(params)[path]
        inner, grad = plain.init(want), by_path(grads)[path]
        for _ in range(3):
            update, inner = plain.update(grad, inner, want)
            want = want + update
        np.testing.assert_allclose(value, want, rtol=1e-5, err_msg=str(path))


@pytest.mark.parametrize(("scale", "power"), [("rms", 0.5), ("spectral", 0.0)])
def test_mup_rates_of_muons_matrices_have_an_exponent_of_their_own(scale, power):
    model = model_of(64, 4, DEEP)

    def lr(path):
        return multipliers(path.split("."), model, MUON_LR[scale]).lr

    assert lr("image.blocks.blocks.qkv.kernel") == 4**-power
    assert lr("image.blocks.blocks.proj.kernel") == 4**-power / 4  # depth enters as under Adam
    for path in ("text.token", "image.projection", "image.blocks.blocks.proj.bias", "logit_scale"):
        assert lr(path) == multipliers(path.split("."), model).lr


@pytest.mark.thorough
def test_mup_folded_residual_multiplier_equals_an_explicit_one():
    # Plain twin of the depth rule: out and proj times base depth / depth, with first sizes and rates of a branch
    # that knows no depth.
    factor = 1 / 3
    model = model_of(16, 3, DEEP)
    folded = init_params(model, 0)
    graph, _ = nnx.split(nnx.eval_shape(lambda: make_model(model, rngs=nnx.Rngs(0))))
    images, tokens = jnp.ones((4, 32, 32, 3)) * jnp.arange(4.0)[:, None, None, None], jnp.arange(32).reshape(4, 8)
    branch = {("out", "kernel"), ("out", "bias"), ("proj", "kernel"), ("proj", "bias")}

    def scaled(params, by):
        def one(path, value):
            return value * by if tuple(k.key for k in path[-2:]) in branch else value

        return jax.tree_util.tree_map_with_path(one, params)

    def loss(params):
        out = nnx.merge(graph, params)(images, tokens)
        return jnp.sum(out.image * out.text) * out.scale

    def multiplied(params):  # the forward pass with the multiplier
        return loss(scaled(params, factor))

    config = OptimConfig(peak_lr=1e-3, warmup_steps=0, eps=1e-5, clip_norm=1e9, weight_decay=0.0)
    optimizer = make_optimizer(config, 10**6, model)
    # CompleteP with the multiplier: rates as at the base, epsilon / depth ratio inside the residual branches
    inside = jax.tree_util.tree_map_with_path(lambda k, _: factor if "blocks" in [x.key for x in k] else 1.0, folded)
    reference = optax.chain(
        optax.stateless(lambda u, _: jax.tree.map(lambda g, e: g / e, u, inside)), optax.adam(1e-3, 0.9, 0.98, 1e-5)
    )
    plain = scaled(folded, 1 / factor)
    a, b = optimizer.init(folded), reference.init(plain)
    grad_folded, grad_plain = jax.jit(jax.grad(loss)), jax.jit(jax.grad(multiplied))
    for _ in range(3):
        updates, a = optimizer.update(grad_folded(folded), a, folded)
        folded = optax.apply_updates(folded, updates)
        updates, b = reference.update(grad_plain(plain), b, plain)
        plain = optax.apply_updates(plain, updates)
    close(by_path(folded), by_path(scaled(plain, factor)), 2e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["scanned and recomputed", "sharded"])
def test_mup_training_is_independent_of_sharding_and_remat(how):
    model = model_of(32, 2, DEEP)
    usual, losses = train(model)
    if how == "sharded":
        other, its_losses = train(model, MeshConfig(data=2, fsdp=2, tensor=2))
    else:
        other, its_losses = train(dataclasses.replace(model, scan_layers=True, remat=True))
    np.testing.assert_allclose(losses, its_losses, rtol=1e-5)
    close(usual, other, 1e-5)
    moved = np.abs(
        usual["image", "blocks", "blocks", "fc", "kernel"]
        - init_params(model, 0)["image"]["blocks"]["blocks"]["fc"]["kernel"]
    )
    assert 0 < moved.max() < 0.6 * 2 * 1e-2  # the table's rate: half of the usual one


@pytest.mark.parametrize(
    ("values", "attributes"),
    [
        ({"base_image_width": 8}, {"field": "model.parametrization.base_image_width", "value": 8}),
        ({"kind": "ntk"}, {"field": "model.parametrization.kind", "value": "ntk"}),
        ({"kind": "mup"}, {"field": "model.parametrization.base_image_width", "value": 0}),
        (
            {"kind": "mup", "base_image_width": 8, "base_text_width": 8, "base_text_depth": -1},
            {"field": "model.parametrization.base_text_depth", "value": -1},
        ),
    ],
)
def test_parametrization_wrong_setting_names_the_field(values, attributes):
    with raises_user_error(**attributes):
        from_dict(RunConfig, {"model": {"parametrization": values}})


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("RN50", {"field": "model.image.stages", "value": (3, 4, 6, 3)}),
        ("SigLIP-B/16", {"field": "model.image.pool", "value": "map"}),
        ("CoCa-B/32", {"field": "model.image.pool", "value": "attentional"}),
    ],
)
def test_parametrization_of_unsupported_models_is_refused(name, attributes):
    with raises_user_error(**attributes):
        dataclasses.replace(PRESETS[name], parametrization=MUP)


def test_parametrization_unsupported_model_fields_are_refused():
    model = model_of(16)
    with raises_user_error(field="model.image.projection", value=False):
        dataclasses.replace(model, image=dataclasses.replace(model.image, projection=False))
    with raises_user_error(field="model.objective", value="caption"):
        ModelConfig(objective="caption", parametrization=MUP)
    bag = TextTowerConfig(encoder="bag_of_words")
    with raises_user_error(field="model.parametrization.base_text_depth", reason="ignored"):
        ModelConfig(text=bag, parametrization=DEEP)
    assert run_id(RunConfig()) != run_id(RunConfig(model=ModelConfig(text=bag, parametrization=MUP)))
