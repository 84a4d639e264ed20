"""The exponential moving average of weights, and schedule-free training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clip_jax.config import OptimConfig
from clip_jax.optim import averaging
from clip_jax.optim import optimizer as optim

PARAMS = {"kernel": jnp.arange(6.0).reshape(2, 3) / 7, "bias": jnp.ones(3)}
FREE = OptimConfig(
    optimizer="schedule_free", schedule="wsd", lr_decay_fraction=0.0, peak_lr=1e-2, warmup_steps=4, weight_decay=0.2
)


def test_average_equals_optax_ema_without_the_initial_weights():
    config = OptimConfig(ema_decay=0.8)
    state = optim.make_optimizer(config, 10).init(PARAMS)
    reference = optax.ema(0.8, debias=True)
    reference_state = reference.init(PARAMS)
    for step in range(5):
        params = jax.tree.map(lambda p, s=step: jnp.cos(p + s), PARAMS)
        state = averaging.with_average(state, params, 0.8)
        expected, reference_state = reference.update(params, reference_state)
        average = averaging.averaged_weights(config, params, averaging.second_weights(state))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), average, expected)


def test_average_of_half_precision_weights_is_float32_and_evaluated_in_their_dtype():
    config, params = OptimConfig(ema_decay=0.999), {"kernel": jnp.ones((2, 2), jnp.bfloat16)}
    state = optim.make_optimizer(config, 10).init(params)
    for value in (1.0, 1.0078125):  # neighbors in bfloat16, whose average it does not have
        state = averaging.with_average(state, jax.tree.map(lambda p, v=value: p * v, params), 0.999)
    second = averaging.second_weights(state)
    assert second["kernel"].dtype == jnp.float32
    np.testing.assert_allclose(second["kernel"], 1.00390625, atol=1e-5)
    assert averaging.averaged_weights(config, params, second)["kernel"].dtype == jnp.bfloat16


def test_weights_without_an_average_are_evaluated_as_they_are():
    assert averaging.second_weights(optim.make_optimizer(OptimConfig(), 10).init(PARAMS)) is None
    assert averaging.averaged_weights(OptimConfig(), PARAMS, None) is PARAMS


def test_schedule_free_equals_optax_with_the_average_to_evaluate():
    rate = optim.schedule(FREE, 10)
    base = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_rms(0.98, 1e-6, eps_in_sqrt=False, bias_correction=True),
        optax.add_decayed_weights(0.2, mask={"kernel": True, "bias": False}),
        optax.scale_by_learning_rate(rate),
    )
    # counts its updates from 1, and the rate's function from 0
    plain = optax.contrib.schedule_free(base, lambda count: rate(count - 1), b1=0.9)
    optimizer = optim.make_optimizer(FREE, 10)
    a, b, sa, sb = PARAMS, PARAMS, optimizer.init(PARAMS), plain.init(PARAMS)
    for step in range(6):
        grads = jax.tree.map(lambda p, s=step: jnp.sin(p + s) * 3, PARAMS)
        assert float(optim.learning_rate(FREE, sa)) == float(rate(step))
        ua, sa = optimizer.update(grads, sa, a)
        ub, sb = plain.update(grads, sb, b)
        a, b = optax.apply_updates(a, ua), optax.apply_updates(b, ub)
    evaluated = averaging.averaged_weights(FREE, a, averaging.second_weights(sa))
    expected = optax.contrib.schedule_free_eval_params(sb, b)
    for actual, wanted in ((a, b), (evaluated, expected)):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6), actual, wanted)
    assert not np.allclose(evaluated["kernel"], a["kernel"], atol=1e-4)


def test_second_weights_can_be_taken_out_of_a_state_and_put_back():
    for config in (FREE, OptimConfig(ema_decay=0.9, optimizer="lion")):
        state = optim.make_optimizer(config, 10).init(PARAMS)
        rest = averaging.with_second_weights(state, None)
        taken = averaging.second_weights(state)
        assert len(jax.tree.leaves(rest)) == len(jax.tree.leaves(state)) - len(jax.tree.leaves(PARAMS))
        again = averaging.with_second_weights(rest, taken)
        assert jax.tree.structure(again) == jax.tree.structure(state)
        jax.tree.map(np.testing.assert_array_equal, again, state)
