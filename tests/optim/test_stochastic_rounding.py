"""Half precision that does not stall: the mean of many roundings is the number itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clip_jax.optim.stochastic_rounding import narrow, stochastic_round, widen

DTYPES = [jnp.bfloat16, jnp.float16]
SEEDS = 4000


def rounded(values, dtype, seeds=SEEDS):
    """Return float64 [seeds, values]: one rounding a seed."""
    keys = jax.random.split(jax.random.key(7), seeds)
    out = jax.jit(jax.vmap(lambda k: stochastic_round(jnp.asarray(values, jnp.float32), dtype, k)))(keys)
    return np.asarray(out, np.float64)


@pytest.mark.parametrize("dtype", DTYPES)
def test_stochastic_round_is_unbiased(dtype):
    values = np.array([1.0001, -0.7003, 3.14159, 1e-3, -2e-5, 5e-7, 3e-8, 1234.56], np.float32)
    draws = rounded(values, dtype)
    spread = draws.std(axis=0)
    assert np.all(spread > 0)  # none of these can be held exactly
    np.testing.assert_array_less(np.abs(draws.mean(axis=0) - values), 4.5 * spread / np.sqrt(SEEDS) + 1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_stochastic_round_gives_one_of_two_neighbors(dtype):
    values = np.array([1.0001, -0.7003, 6.1e-5, 5e-7], np.float32)
    nearest = np.asarray(jnp.asarray(values).astype(dtype), np.float64)
    for column, value, near in zip(rounded(values, dtype, 200).T, values, nearest, strict=True):
        assert len(np.unique(column)) == 2
        assert column.min() < value < column.max()
        assert near in column


@pytest.mark.parametrize("dtype", DTYPES)
def test_stochastic_round_keeps_representable_values(dtype):
    values = np.array([0.0, -0.0, 1.0, -1.5, 0.0078125, 2.0**-24, 60000.0 if dtype == jnp.float16 else 2.0**100])
    exact = np.asarray(jnp.asarray(values, jnp.float32).astype(dtype), np.float32)
    np.testing.assert_array_equal(rounded(exact, dtype, 50), np.broadcast_to(exact.astype(np.float64), (50, 7)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_stochastic_round_keeps_non_finite_and_does_not_overflow(dtype):
    out = stochastic_round(jnp.asarray([jnp.inf, -jnp.inf, jnp.nan, 65519.0]), dtype, jax.random.key(0))
    assert out[0] == jnp.inf
    assert out[1] == -jnp.inf
    assert jnp.isnan(out[2])
    assert jnp.isfinite(out[3])


@pytest.mark.parametrize("dtype", DTYPES)
def test_stochastic_round_follows_updates_where_nearest_stalls(dtype):
    weight, update, steps = jnp.ones(2000, dtype), 2e-5, 60

    def walk(key):
        def one(w, k):
            return narrow(widen(w) + update, w, k), None

        keys = None if key is None else jax.random.split(key, steps)
        return jax.lax.scan(one, weight, keys, length=steps)[0]

    assert np.all(np.asarray(walk(None)) == 1)  # 60 updates of less than half a step: nothing happened
    walked = np.asarray(walk(jax.random.key(1)), np.float64)
    error = walked.std() / np.sqrt(len(walked))
    assert abs(walked.mean() - (1 + steps * update)) < 4 * error
    assert walked.mean() > 1 + steps * update / 2


def test_narrow_draws_noise_per_leaf_and_keeps_float32():
    tree = {"a": jnp.full(500, 1.001), "b": jnp.full(500, 1.001), "c": jnp.full(500, 1.001)}
    like = {"a": jnp.ones(500, jnp.bfloat16), "b": jnp.ones(500, jnp.bfloat16), "c": jnp.ones(500)}
    out = narrow(tree, like, jax.random.key(0))
    assert not np.array_equal(out["a"], out["b"])
    np.testing.assert_array_equal(out["c"], tree["c"])
    assert {k: v.dtype for k, v in widen(out).items()} == dict.fromkeys("abc", jnp.float32)
