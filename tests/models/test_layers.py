"""Blocks and stacks: a plain twin for every way to run them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clip_jax.config import ModelConfig
from clip_jax.flops import jaxpr_flops
from clip_jax.models.layers import Block, BlockSpec, Stack, activation


def make(remat=False, scan=True, policy="nothing", **change):
    spec = BlockSpec(16, 2, 32, 3, **({"act": "gelu", "dtype": jnp.float32, "param_dtype": jnp.float32,
                                       "causal": True} | change))  # fmt: skip
    config = ModelConfig(remat=remat, remat_policy=policy, scan_layers=scan)
    return Stack(lambda r: Block(spec, r), 3, config, nnx.Rngs(0))


def value_and_grads(stack):
    graphdef, state = nnx.split(stack)
    x = jax.random.normal(jax.random.key(1), (2, 5, 16))

    def loss(params):
        return jnp.sum(jnp.sin(nnx.merge(graphdef, params)(x)))

    return jax.jit(jax.value_and_grad(loss))(nnx.as_pure(state))


@pytest.mark.parametrize(
    "change",
    [
        {"scan": False},
        {"remat": True},
        {"remat": True, "scan": False},
        {"remat": True, "policy": "attention"},
        {"remat": True, "policy": "dense"},
        {"remat": True, "policy": "dots"},
    ],
)
def test_unrolled_and_recomputed_stacks_equal_the_scanned_one(change):
    value, grads = value_and_grads(make())
    other, other_grads = value_and_grads(make(**change))
    np.testing.assert_allclose(other, value, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), other_grads, grads)


@pytest.mark.parametrize("change", [{"remat": True}, {"remat": True, "scan": False}])
def test_the_recomputed_path_is_really_taken(change):
    def text(stack):
        graphdef, state = nnx.split(stack)
        x = jnp.ones((1, 5, 16))
        return str(jax.make_jaxpr(lambda s: nnx.merge(graphdef, s)(x))(nnx.as_pure(state)))

    assert "remat" in text(make(**change)) or "checkpoint" in text(make(**change))
    assert "remat" not in text(make())
    assert "checkpoint" not in text(make())


def test_policies_keep_more_and_more():
    def products(policy):
        graphdef, state = nnx.split(make(remat=True, policy=policy))
        x = jnp.ones((1, 5, 16))
        return jaxpr_flops(jax.grad(lambda s: jnp.sum(nnx.merge(graphdef, s)(x))), nnx.as_pure(state))

    nothing, attention, dense, dots = (products(policy) for policy in ("nothing", "attention", "dense", "dots"))
    assert nothing > attention > dense > dots
    logits = 3 * 2 * (2 * 5 * 5 * 16)  # in each of three layers, the products that make the softmax again
    assert dense - dots <= logits


def test_layers_equal_a_loop_over_single_blocks():
    stack = make()
    x = jax.random.normal(jax.random.key(1), (2, 5, 16))
    graphdef, state = nnx.split(stack.blocks)
    expected = x
    for i in range(3):
        expected = nnx.merge(graphdef, jax.tree.map(lambda a, i=i: a[i], state))(expected)
    np.testing.assert_allclose(stack(x), expected, rtol=1e-5, atol=1e-6)
    kernels = state["qkv"]["kernel"][...]
    assert not np.allclose(kernels[0], kernels[1]), "layers must not start equal"


def test_causal_means_no_token_sees_a_later_one():
    x = jax.random.normal(jax.random.key(1), (1, 5, 16))
    jacobian = jax.jacobian(lambda x: make()(x)[0].sum(-1))(x)[:, 0]  # [out token, in token, D]
    moved = np.abs(jacobian).sum(-1) > 1e-7
    assert np.array_equal(moved, np.tril(np.ones((5, 5), bool)))
    free = jax.jacobian(lambda x: make(causal=False)(x)[0].sum(-1))(x)[:, 0]
    assert (np.abs(free).sum(-1) > 1e-7).all()


def test_quick_gelu_is_its_formula():
    x = jnp.linspace(-3, 3, 7)
    np.testing.assert_allclose(activation("quick_gelu")(x), x / (1 + np.exp(-1.702 * x)), rtol=1e-6)
