"""Blocks and stacks: a plain twin for every way to run them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clip_jax.config import ModelConfig
from clip_jax.flops import jaxpr_flops
from clip_jax.models import layers
from clip_jax.models.layers import Block, BlockSpec, Stack, activation, attend


def make(remat=False, scan=True, policy="nothing", attention="auto", **change):
    spec = BlockSpec(16, 2, 32, 3, **({"act": "gelu", "dtype": jnp.float32, "param_dtype": jnp.float32,
                                       "causal": True, "attention": attention} | change))  # fmt: skip
    config = ModelConfig(
        remat=remat, remat_policy=policy, scan_layers=scan, attention=attention, compute_dtype="bfloat16"
    )
    return Stack(lambda r: Block(spec, r), 3, config, nnx.Rngs(0))


def value_and_grads(stack):
    graphdef, state = nnx.split(stack)
    x = jax.random.normal(jax.random.key(1), (2, 5, 16))

    def loss(params):
        return jnp.sum(jnp.sin(nnx.merge(graphdef, params)(x)))

    return jax.jit(jax.value_and_grad(loss))(nnx.as_pure(state))


@pytest.mark.thorough
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
def test_blocks_unrolled_or_recomputed_equal_scanned_ones(change):
    value, grads = value_and_grads(make())
    other, other_grads = value_and_grads(make(**change))
    np.testing.assert_allclose(other, value, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), other_grads, grads)


@pytest.mark.parametrize("change", [{"remat": True}, {"remat": True, "scan": False}])
def test_blocks_with_remat_are_recomputed(change):
    def text(stack):
        graphdef, state = nnx.split(stack)
        x = jnp.ones((1, 5, 16))
        return str(jax.make_jaxpr(lambda s: nnx.merge(graphdef, s)(x))(nnx.as_pure(state)))

    assert "remat" in text(make(**change)) or "checkpoint" in text(make(**change))
    assert "remat" not in text(make())
    assert "checkpoint" not in text(make())


def test_blocks_remat_policies_recompute_less_in_order():
    def products(policy):
        graphdef, state = nnx.split(make(remat=True, policy=policy))
        x = jnp.ones((1, 5, 16))
        return jaxpr_flops(jax.grad(lambda s: jnp.sum(nnx.merge(graphdef, s)(x))), nnx.as_pure(state))

    nothing, attention, dense, dots = (products(policy) for policy in ("nothing", "attention", "dense", "dots"))
    assert nothing > attention > dense > dots
    logits = 3 * 2 * (2 * 5 * 5 * 16)  # in each of three layers, the products that make the softmax again
    assert dense - dots <= logits


def test_blocks_equal_a_loop_over_single_blocks():
    stack = make()
    x = jax.random.normal(jax.random.key(1), (2, 5, 16))
    graphdef, state = nnx.split(stack.blocks)
    expected = x
    for i in range(3):
        expected = nnx.merge(graphdef, jax.tree.map(lambda a, i=i: a[i], state))(expected)
    np.testing.assert_allclose(stack(x), expected, rtol=1e-5, atol=1e-6)
    kernels = state["qkv"]["kernel"][...]
    assert not np.allclose(kernels[0], kernels[1]), "layers must not start equal"


def test_blocks_causal_outputs_ignore_later_tokens():
    x = jax.random.normal(jax.random.key(1), (1, 5, 16))
    jacobian = jax.jacobian(lambda x: make()(x)[0].sum(-1))(x)[:, 0]  # [out token, in token, D]
    moved = np.abs(jacobian).sum(-1) > 1e-7
    assert np.array_equal(moved, np.tril(np.ones((5, 5), bool)))
    free = jax.jacobian(lambda x: make(causal=False)(x)[0].sum(-1))(x)[:, 0]
    assert (np.abs(free).sum(-1) > 1e-7).all()


def test_activation_quick_gelu_equals_its_formula():
    x = jnp.linspace(-3, 3, 7)
    np.testing.assert_allclose(activation("quick_gelu")(x), x / (1 + np.exp(-1.702 * x)), rtol=1e-6)


def values_of(stack, params, x):
    """Return every state of the stack, and the gradients by parameters and input of a function of them all."""
    graphdef = nnx.split(stack)[0]

    def loss(params, x):
        states = nnx.merge(graphdef, params).hidden(x)
        return jnp.sum(jnp.sin(3 * states)), states

    (_, states), grads = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, x)
    return states, grads


def close(actual, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5 * np.abs(b).max()), actual, expected
    )


@pytest.mark.parametrize(
    ("length", "policy"),
    [
        (77, "dense"),
        (77, None),
        pytest.param(50, None, marks=pytest.mark.thorough),
        pytest.param(197, None, marks=pytest.mark.thorough),
        pytest.param(257, "dense", marks=pytest.mark.thorough),
    ],
)
@pytest.mark.parametrize("causal", [True, False])
def test_fused_attention_with_padding_equals_the_plain_equation(length, causal, policy, monkeypatch):
    monkeypatch.setattr(layers, "FUSED", "xla")
    plain = make(causal=causal)
    fused = make(causal=causal, attention="cudnn", remat=policy is not None, policy=policy or "nothing")
    params = nnx.as_pure(nnx.split(plain)[1])
    x = jax.random.normal(jax.random.key(1), (2, length, 16))
    states, grads = values_of(fused, params, x)
    assert states.shape == (4, 2, length, 16)
    close((states, grads), values_of(plain, params, x))


@pytest.mark.parametrize(
    "change", [{"attention": "cudnn", "remat": True, "policy": "dense"}, {"attention": "xla"}], ids=["fused", "xla"]
)
def test_stack_unrolled_on_an_accelerator_equals_a_scanned_one(change, monkeypatch):
    monkeypatch.setattr(layers, "FUSED", "xla")
    plain, unrolled = make(causal=False), make(causal=False, scan=False, **change)
    assert unrolled.unrolled
    assert not make(scan=False).unrolled  # on a CPU
    params = nnx.as_pure(nnx.split(plain)[1])
    x = jax.random.normal(jax.random.key(1), (2, 7, 16))
    close(values_of(unrolled, params, x), values_of(plain, params, x))


@pytest.mark.thorough
@pytest.mark.parametrize("scan", [True, False])
def test_fused_attention_with_padding_under_vmap(scan, monkeypatch):
    monkeypatch.setattr(layers, "FUSED", "xla")
    for causal in (True, False):
        plain, fused = make(causal=causal), make(causal=causal, attention="cudnn", scan=scan)
        params = nnx.as_pure(nnx.split(plain)[1])
        params = jax.tree.map(lambda a: jnp.stack([a, 1.1 * a]), params)
        x = jax.random.normal(jax.random.key(1), (2, 3, 7, 16))
        together = jax.vmap(lambda p, x, fused=fused: values_of(fused, p, x))(params, x)
        close(together, jax.vmap(lambda p, x, plain=plain: values_of(plain, p, x))(params, x))


@pytest.mark.thorough
def test_fused_attention_values_beyond_the_length_are_ignored(monkeypatch):
    # A kernel whose gradient of the keys and values is NaN there gives the numbers of one that writes zero.

    def spoilt(x, length):
        return jnp.where((jnp.arange(x.shape[1]) < length)[None, :, None, None], x, jnp.nan)

    @jax.custom_vjp
    def barrier(x, length):  # NaN in the gradient
        return x

    barrier.defvjp(lambda x, length: (x, length), lambda length, g: (spoilt(g, length), None))

    def kernel(q, k, v, *, is_causal=False, query_seq_lengths=None, key_value_seq_lengths=None, implementation):
        assert implementation == "cudnn"
        assert not q.shape[1] % 2
        lengths = {"query_seq_lengths": query_seq_lengths, "key_value_seq_lengths": key_value_seq_lengths}
        if is_causal:
            return true(q, k, v, is_causal=True)
        k, v = (barrier(x, key_value_seq_lengths[0]) for x in (k, v))
        return true(barrier(q, query_seq_lengths[0]), k, v, **lengths)

    true = jax.nn.dot_product_attention
    for causal in (True, False):
        plain, fused = make(causal=causal), make(causal=causal, attention="cudnn")
        params = nnx.as_pure(nnx.split(plain)[1])
        x = jax.random.normal(jax.random.key(1), (2, 7, 16))
        with monkeypatch.context() as patch:
            patch.setattr(jax.nn, "dot_product_attention", kernel)
            actual = values_of(fused, params, x)
        close(actual, values_of(plain, params, x))


def test_attention_with_masks_or_odd_lengths_uses_jax_nn(monkeypatch):
    used = []
    true = jax.nn.dot_product_attention

    def noted(*args, implementation, **kwargs):
        used.append(implementation)
        return true(*args, **kwargs, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", noted)
    q, k = (jax.random.normal(jax.random.key(i), (2, n, 2, 8)) for i, n in ((0, 6), (1, 10)))
    mask = jnp.ones((2, 1, 6, 10), bool).at[:, :, :, 7:].set(False)
    for query, keys, visible in ((q, k, mask), (q[:, :1], k, None), (q, k[:, :7], None), (q, k, None)):
        actual = attend(query, keys, keys, visible, form="cudnn")
        np.testing.assert_allclose(actual, attend(query, keys, keys, visible), atol=1e-5)
    assert used == ["xla", "xla", "xla", "cudnn"]


def test_fused_kernel_runs_once_per_layer_and_direction(monkeypatch):
    # As it is lowered for a GPU; with nothing kept it runs again in the backward pass.
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91200)
    x = jnp.ones((2, 7, 16), jnp.bfloat16)

    def calls(causal, **change):
        stack = make(attention="cudnn", causal=causal, dtype=jnp.bfloat16, **change)
        graphdef, state = nnx.split(stack)
        loss = jax.grad(lambda s: jnp.sum(nnx.merge(graphdef, s)(x).astype(jnp.float32)))
        text = str(jax.make_jaxpr(loss)(nnx.as_pure(state)))
        return [text.count(f"= dot_product_attention_{way}_wrapper") for way in ("fwd", "bwd")]

    for causal in (True, False):
        for change in ({}, *({"remat": True, "policy": p} for p in ("dense", "attention", "dots"))):
            assert calls(causal, **change) == [1, 1], change
        assert calls(causal, remat=True) == [2, 1]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_exact_gelu_in_half_precision_is_rounded_once(dtype):
    x = jnp.linspace(-6, 6, 4001).astype(dtype)
    gelu = layers.activation("gelu_erf")

    def value_and_slope(x):
        return gelu(x), jax.vmap(jax.grad(gelu))(x)

    actual = value_and_slope(x)
    for half, wide in zip(actual, value_and_slope(x.astype(jnp.float32)), strict=True):
        assert half.dtype == dtype
        np.testing.assert_allclose(half, wide, rtol=2 * float(jnp.finfo(dtype).eps), atol=1e-6)
