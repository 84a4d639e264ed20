"""Schedules, optimizers, what decays."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from clip_jax.config import ModelConfig, OptimConfig
from clip_jax.config.presets import preset
from clip_jax.models.clip import init_params
from clip_jax.optim import optimizer as optim


def test_schedule_cosine_equals_its_formula():
    config = OptimConfig(peak_lr=2.0, warmup_steps=4)
    rate = optim.schedule(config, 20)
    np.testing.assert_allclose([rate(s) for s in range(4)], [0.5, 1.0, 1.5, 2.0], rtol=1e-6)
    np.testing.assert_allclose(
        [rate(s) for s in (4, 8, 12, 20)],
        [1 + np.cos(np.pi * (s - 4) / 16) for s in (4, 8, 12, 20)],
        atol=1e-6,
    )


def test_schedule_wsd_holds_then_falls_to_zero():
    rate = optim.schedule(OptimConfig(peak_lr=1.0, warmup_steps=2, schedule="wsd", lr_decay_fraction=0.25), 40)
    np.testing.assert_allclose([rate(s) for s in (2, 15, 30, 35, 40)], [1, 1, 1, 0.5, 0], atol=1e-6)


def test_optimizer_equals_optax_adamw():
    config = OptimConfig(peak_lr=1e-2, warmup_steps=2, clip_norm=1.0, weight_decay=0.2)
    params = {"kernel": jnp.arange(6.0).reshape(2, 3) / 7, "bias": jnp.ones(3)}
    plain = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            optim.schedule(config, 10), b1=0.9, b2=0.98, eps=1e-6, weight_decay=0.2,
            mask={"kernel": True, "bias": False},
        ),
    )  # fmt: skip
    optimizer = optim.make_optimizer(config, 10)
    a, b, sa, sb = params, params, optimizer.init(params), plain.init(params)
    for step in range(5):
        grads = jax.tree.map(lambda p, s=step: jnp.sin(p + s) * 3, params)
        assert float(optim.learning_rate(config, sa)) == pytest.approx(float(optim.schedule(config, 10)(step)))
        ua, sa = optimizer.update(grads, sa, a)
        ub, sb = plain.update(grads, sb, b)
        a, b = optax.apply_updates(a, ua), optax.apply_updates(b, ub)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(left, right, rtol=2e-6)


def test_weight_decay_mask_excludes_gains_biases_and_temperature():
    mask = optim.weight_decay_mask(jax.eval_shape(lambda: init_params(preset("debug"), 0)))
    flat = {
        jax.tree_util.keystr(k, simple=True, separator="."): v for k, v in jax.tree_util.tree_leaves_with_path(mask)
    }
    kept = {k for k, v in flat.items() if not v}
    assert all(any(n in k for n in ("bias", "scale", "class_token")) for k in kept)
    decayed = {k for k, v in flat.items() if v}
    assert len(kept) + len(decayed) == len(flat)
    assert not any("bias" in k or "ln_" in k or "logit_scale" in k for k in decayed)
    assert any("token" in k for k in decayed)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (5, 4), (20, 19), (21, 20), (100, 20)])
def test_the_usual_warm_up_fits_short_runs(steps, warmup):
    usual, same = (optim.schedule(OptimConfig(warmup_steps=w), steps) for w in (-1, warmup))
    rates = [float(usual(step)) for step in range(steps)]
    assert rates == [float(same(step)) for step in range(steps)]
    assert min(rates) > 0
    assert max(rates) == pytest.approx(OptimConfig.peak_lr)


@pytest.mark.parametrize(("reference", "settings"), [("const", "wsd"), ("cosine", "cosine"), ("const-cooldown", "wsd")])
def test_schedule_equals_the_reference(golden, reference, settings):
    records = [r for r in json.loads((golden / "lr_schedules.json").read_text()) if r["kind"] == reference]
    record = next(r for r in records if r.get("cooldown_power", 1.0) == 1.0)  # optimizer falls in a straight line
    steps = record["steps"]
    extra = {"lr_decay_fraction": record.get("cooldown_steps", 0) / steps} if settings == "wsd" else {}
    config = OptimConfig(peak_lr=record["base_lr"], warmup_steps=record["warmup"], schedule=settings, **extra)
    rate = optim.schedule(config, steps)
    np.testing.assert_allclose([rate(s) for s in range(steps)], record["lr"], rtol=2e-5, atol=1e-10)


def test_optimizer_bfloat16_moments_follow_float32_where_nearest_rounding_stalls():
    config = dict(peak_lr=1e-2, warmup_steps=0, weight_decay=0.0, b2=0.999)
    params = {"kernel": jnp.zeros((40, 50))}

    def second_moment(**changes):
        optimizer = optim.make_optimizer(OptimConfig(**config, **changes), 10**6)

        def step(state, key):
            # a little above the running mean: each update moves it by less than half a unit in the last place
            grads = {"kernel": jnp.full((40, 50), 0.012)}
            return optimizer.update(grads, state, params, key=key)[1], None

        state = optimizer.init(params)
        moments = optax.tree_utils.tree_get(state, "nu")
        moments["kernel"] = jnp.full((40, 50), 1.0e-4, moments["kernel"].dtype)
        state = jax.lax.scan(step, state, jax.random.split(jax.random.key(0), 400))[0]
        return np.asarray(optax.tree_utils.tree_get(state, "nu")["kernel"], np.float64)

    exact = second_moment()
    stochastic = second_moment(state_dtype="bfloat16")
    nearest = second_moment(state_dtype="bfloat16", half_rounding="nearest")
    assert exact.mean() > 1.1e-4
    np.testing.assert_allclose(stochastic.mean(), exact.mean(), rtol=3e-3)
    assert nearest.mean() == pytest.approx(1e-4, rel=5e-3)


def test_layer_multipliers_fall_away_from_the_output():
    params = jax.eval_shape(lambda: init_params(preset("ViT-S/32"), 0))
    factors = optim.layer_multipliers(params, 0.5)
    np.testing.assert_allclose(
        np.ravel(factors["image"]["blocks"]["blocks"]["fc"]["kernel"]), 0.5 ** np.arange(12, 0, -1)
    )
    assert factors["image"]["blocks"]["blocks"]["fc"]["kernel"].shape == (12, 1, 1)
    assert factors["text"]["token"] == factors["image"]["patch"]["kernel"] == 0.5**13
    assert factors["image"]["ln_post"]["scale"] == factors["text"]["projection"] == factors["logit_scale"] == 1


def test_optimizer_layer_decay_scales_update_and_weight_decay():
    params = {"image": {"blocks": {"kernel": jnp.ones((2, 3, 3))}, "projection": jnp.ones((3, 3))}}
    grads = jax.tree.map(jnp.ones_like, params)
    updates = []
    for decay in (1.0, 0.5):
        optimizer = optim.make_optimizer(OptimConfig(peak_lr=0.1, warmup_steps=0, layer_decay=decay), 10)
        updates.append(optimizer.update(grads, optimizer.init(params), params)[0]["image"])
    blocks = updates[1]["blocks"]["kernel"] / updates[0]["blocks"]["kernel"]
    np.testing.assert_allclose(blocks[:, 0, 0], [0.25, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(updates[0]["projection"], updates[1]["projection"])


def test_loss_scale_doubles_after_many_finite_updates_and_halves_after_overflow():
    optimizer = optim.make_optimizer(
        OptimConfig(warmup_steps=0, loss_scale=8.0), 10**4, ModelConfig(compute_dtype="float16")
    )
    params = {"kernel": jnp.ones((2, 2))}
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    bad, good = {"kernel": jnp.full((2, 2), jnp.nan)}, {"kernel": jnp.ones((2, 2))}
    updates, state = update(bad, state, params)
    assert float(optim.loss_scale(state)) == 4.0
    np.testing.assert_array_equal(updates["kernel"], 0)
    assert int(optax.tree_utils.tree_get(state, "updates")) == 0
    for _ in range(optim.GROWTH_INTERVAL):
        updates, state = update(good, state, params)
    assert float(optim.loss_scale(state)) == 8.0
    assert np.all(np.asarray(updates["kernel"]) < 0)


AXES = {"kernel": PartitionSpec("layers", "embed", "mlp"), "bias": PartitionSpec("layers", None)}
STACKED = {"kernel": jnp.sin(jnp.arange(2.0 * 4 * 8)).reshape(2, 4, 8), "bias": jnp.ones((2, 8))}
OTHERS = {
    "muon": {"optimizer": "muon"}, "lion": {"optimizer": "lion"}, "adafactor": {"optimizer": "adafactor"},
    "schedule_free": {"optimizer": "schedule_free", "schedule": "wsd", "lr_decay_fraction": 0.0},
}  # fmt: skip


def one_update(traced=None, **fields):
    config = OptimConfig(**{"peak_lr": 0.1, "warmup_steps": 0, **fields})
    optimizer = optim.make_optimizer(config, 10, traced=traced, axes=AXES)
    state = optimizer.init(STACKED)
    return optimizer.update(jax.tree.map(jnp.cos, STACKED), state, STACKED, key=jax.random.key(0))


def test_adamw_state_and_updates_are_those_of_earlier_versions_bit_for_bit():
    config = OptimConfig(peak_lr=1e-2, warmup_steps=2)
    adam = optax.scale_by_adam(b1=0.9, b2=0.98, eps=1e-6)
    before = optax.chain(
        optax.stateless(lambda updates, _: updates),
        optax.clip_by_global_norm(1.0),
        optax.GradientTransformation(adam.init, adam.update),
        optax.add_decayed_weights(0.1, mask=optim.weight_decay_mask),
        optim.scale_by_stored_schedule(config, 10),
    )
    now = optim.make_optimizer(config, 10, axes=AXES)
    state, state_before = now.init(STACKED), before.init(STACKED)
    assert jax.tree.structure(state) == jax.tree.structure(state_before)  # checkpoints are read by it
    for step in range(3):
        grads = jax.tree.map(lambda p, s=step: jnp.sin(p + s) * 3, STACKED)
        updates, state = now.update(grads, state, STACKED)
        updates_before, state_before = before.update(grads, state_before, STACKED)
        jax.tree.map(np.testing.assert_array_equal, (updates, state), (updates_before, state_before))


def test_lion_equals_optax():
    config = OptimConfig(optimizer="lion", peak_lr=1e-2, warmup_steps=2, weight_decay=0.2, clip_norm=1e9)
    mask = {"kernel": True, "bias": False}
    plain = optax.lion(optim.schedule(config, 10), b1=0.9, b2=0.98, weight_decay=0.2, mask=mask)
    optimizer = optim.make_optimizer(config, 10)
    a, b, sa, sb = STACKED, STACKED, optimizer.init(STACKED), plain.init(STACKED)
    for step in range(4):
        grads = jax.tree.map(lambda p, s=step: jnp.sin(p + s) * 3, STACKED)
        (ua, sa), (ub, sb) = optimizer.update(grads, sa, a), plain.update(grads, sb, b)
        a, b = optax.apply_updates(a, ua), optax.apply_updates(b, ub)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-6), a, b)


def test_adafactor_equals_its_formula():
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.asarray(rng.normal(size=(2, 32, 48)), jnp.float32)}
    config = OptimConfig(optimizer="adafactor", warmup_steps=0, schedule="wsd", weight_decay=0.0, clip_norm=1e9, b2=0.6)
    optimizer = optim.make_optimizer(config, 100)
    state, rows, columns, momentum = optimizer.init(params), 0.0, 0.0, 0.0
    for step in range(1, 5):
        gradient = rng.normal(size=(2, 32, 48)).astype(np.float32)
        updates, state = optimizer.update({"kernel": jnp.asarray(gradient)}, state, params)
        decay = min(0.6, 1 - step**-0.8)  # 0, 0.43, 0.58, then the largest
        rows = decay * rows + (1 - decay) * (gradient**2).mean(axis=2)
        columns = decay * columns + (1 - decay) * (gradient**2).mean(axis=1)
        second = rows[:, :, None] * columns[:, None] / rows.mean(axis=1)[:, None, None]
        momentum = 0.9 * momentum + 0.1 * gradient / np.sqrt(second)
        np.testing.assert_allclose(updates["kernel"], -config.peak_lr * momentum, rtol=2e-4, atol=1e-8)
    factored = optim.find_state(state, type(optax.scale_by_factored_rms().init(params)))
    assert factored.v_row["kernel"].shape == (2, 32)
    assert factored.v_col["kernel"].shape == (2, 48)


@pytest.mark.parametrize("name", OTHERS)
def test_weight_decay_and_layer_rates_act_alike_in_every_optimizer(name):
    with_decay, without = (one_update(**OTHERS[name], weight_decay=w)[0] for w in (0.5, 0.0))
    expected = -0.1 * 0.5 * STACKED["kernel"]
    np.testing.assert_allclose(with_decay["kernel"] - without["kernel"], expected, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(with_decay["bias"], without["bias"])
    params = {"image": {"blocks": STACKED, "projection": jnp.ones((3, 3))}}
    axes = {"image": {"blocks": AXES, "projection": PartitionSpec("embed", "joint")}}
    updates = []
    for decay in (1.0, 0.5):
        config = OptimConfig(**OTHERS[name], peak_lr=0.1, warmup_steps=0, layer_decay=decay)
        optimizer = optim.make_optimizer(config, 10, axes=axes)
        updates.append(optimizer.update(params, optimizer.init(params), params)[0]["image"])
    for layer, factor in ((0, 0.25), (1, 0.5)):
        jax.tree.map(
            lambda a, b, i=layer, f=factor: np.testing.assert_allclose(a[i], f * b[i], rtol=1e-3, atol=1e-6),
            updates[1]["blocks"],
            updates[0]["blocks"],
        )
    np.testing.assert_array_equal(updates[0]["projection"], updates[1]["projection"])


@pytest.mark.parametrize("name", ["muon", "lion", "adafactor"])
def test_half_precision_moments_of_every_optimizer_follow_float32(name):
    exact, state = one_update(**OTHERS[name])
    half, half_state = one_update(**OTHERS[name], state_dtype="bfloat16")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-2, atol=1e-3), half, exact)
    dtypes = [x.dtype for x in jax.tree.leaves(half_state) if x.shape in ((2, 4, 8), (2, 8))]
    moments = {"muon": 3, "lion": 2, "adafactor": 2}[name]  # Adafactor's second moment stays float32
    assert dtypes.count(jnp.bfloat16) == moments
    assert all(x.dtype != jnp.bfloat16 for x in jax.tree.leaves(state))


@pytest.mark.parametrize("name", OTHERS)
def test_numbers_of_every_optimizer_may_be_traced(name):
    fields = {"b1": 0.8, "b2": 0.9, "clip_norm": 0.5, "weight_decay": 0.3}
    plain = one_update(**OTHERS[name], **fields)[0]
    traced = jax.jit(lambda numbers: one_update(numbers, **OTHERS[name])[0])(fields)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), traced, plain)
