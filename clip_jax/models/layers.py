"""Transformer parts shared by the towers. Shapes: B batch, T tokens, D width, N heads, K head size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

Init = Callable[..., jax.Array]


def normal(std: float) -> Init:
    """Gaussian initial values."""
    return nnx.initializers.normal(std)


def named_param(init: Init, shape: tuple[int, ...], axes: tuple[str | None, ...], dtype: Any, rngs: nnx.Rngs) -> Any:
    """A parameter with logical axis names, one an axis."""
    return nnx.Param(nnx.with_partitioning(init, axes)(rngs.params(), shape, dtype))


def linear(
    d_in: int, d_out: int, axes: tuple[str | None, str | None], *, std: float, bias: bool = True,
    dtype: Any, param_dtype: Any, rngs: nnx.Rngs,
) -> nnx.Linear:  # fmt: skip
    """A dense layer with named axes; its bias is small and lies on every device."""
    return nnx.Linear(
        d_in,
        d_out,
        use_bias=bias,
        kernel_init=nnx.with_partitioning(normal(std), axes),
        bias_init=nnx.with_partitioning(nnx.initializers.zeros, (None,)),
        dtype=dtype,
        param_dtype=param_dtype,
        rngs=rngs,
    )


def layer_norm(width: int, *, param_dtype: Any, rngs: nnx.Rngs, eps: float = 1e-5) -> nnx.LayerNorm:
    """Layer normalisation, computed in float32 (or more) whatever the compute dtype."""
    return nnx.LayerNorm(
        width,
        epsilon=eps,
        scale_init=nnx.with_partitioning(nnx.initializers.ones, (None,)),
        bias_init=nnx.with_partitioning(nnx.initializers.zeros, (None,)),
        dtype=jnp.promote_types(jnp.float32, param_dtype),
        param_dtype=param_dtype,
        rngs=rngs,
    )


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """``gelu`` (tanh form), ``gelu_erf`` (exact), or ``quick_gelu``, x·sigmoid(1.702x), of the published models."""
    return {
        "gelu": nnx.gelu,
        "gelu_erf": lambda x: nnx.gelu(x, approximate=False),
        "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    }[name]


@dataclass(frozen=True)
class BlockSpec:
    """All that blocks of one stack share."""

    width: int
    heads: int
    mlp_width: int
    depth: int  # of the stack; sets the initial size of the residual branches
    act: str
    dtype: Any
    param_dtype: Any
    causal: bool = False
    eps: float = 1e-5
    layer_scale: float = 0.0  # 0 has none

    @property
    def out_std(self) -> float:
        """Of the projections back into the residual stream (Radford et al., 2021, released code)."""
        return self.width**-0.5 * (2 * self.depth) ** -0.5

    @property
    def dtypes(self) -> dict[str, Any]:
        """Arguments of every dense layer."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}


def split_heads(x: jax.Array, heads: int) -> jax.Array:
    """[B, T, D] -> [B, T, N, K]."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None = None, causal: bool = False) -> jax.Array:
    """Softmax attention: [B, Q, N, K], [B, T, N, K] twice -> [B, Q, N, K]. ``mask``: bool [B, 1, Q, T]."""
    if q.dtype != jnp.float64:
        return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=causal)
    logits = jnp.einsum("bqnk,btnk->bnqt", q, k) / q.shape[-1] ** 0.5  # the library's softmax is float32 at most
    seen = jnp.tril(jnp.ones(logits.shape[-2:], bool))[None, None] if causal else jnp.ones((1, 1, 1, 1), bool)
    seen = seen if mask is None else seen & mask
    return jnp.einsum("bnqt,btnk->bqnk", jax.nn.softmax(jnp.where(seen, logits, -jnp.inf), axis=-1), v)


class Mlp(nnx.Module):
    """Two dense layers around an activation, [..., D] -> [..., D]."""

    def __init__(self, spec: BlockSpec, rngs: nnx.Rngs) -> None:
        self.fc = linear(
            spec.width, spec.mlp_width, ("embed", "mlp"), std=(2 * spec.width) ** -0.5, rngs=rngs, **spec.dtypes
        )
        self.proj = linear(spec.mlp_width, spec.width, ("mlp", "embed"), std=spec.out_std, rngs=rngs, **spec.dtypes)
        self.act = spec.act

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.proj(activation(self.act)(self.fc(x)))


class Block(nnx.Module):
    """Pre-norm residual block (attention, then MLP), [B, T, D] -> [B, T, D].

    ``mask``, bool [B, 1, T, T], says which keys a query sees, beside the causal mask.
    """

    def __init__(self, spec: BlockSpec, rngs: nnx.Rngs) -> None:
        d, kw = spec.width, spec.dtypes
        norm: dict[str, Any] = {"param_dtype": spec.param_dtype, "rngs": rngs, "eps": spec.eps}
        self.ln_1 = layer_norm(d, **norm)
        self.qkv = linear(d, 3 * d, ("embed", "heads"), std=d**-0.5, rngs=rngs, **kw)
        self.out = linear(d, d, ("heads", "embed"), std=spec.out_std, rngs=rngs, **kw)
        self.ln_2 = layer_norm(d, **norm)
        self.fc = linear(d, spec.mlp_width, ("embed", "mlp"), std=(2 * d) ** -0.5, rngs=rngs, **kw)
        self.proj = linear(spec.mlp_width, d, ("mlp", "embed"), std=spec.out_std, rngs=rngs, **kw)
        if spec.layer_scale:
            gain = nnx.initializers.constant(spec.layer_scale)
            self.scale_1 = named_param(gain, (d,), (None,), spec.param_dtype, rngs)
            self.scale_2 = named_param(gain, (d,), (None,), spec.param_dtype, rngs)
        self.spec = spec

    def _scaled(self, x: jax.Array, name: str) -> jax.Array:
        if not self.spec.layer_scale:
            return x
        return x * getattr(self, name)[...].astype(x.dtype)[None, None]

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        s = self.spec
        qkv = jnp.split(self.qkv(self.ln_1(x).astype(s.dtype)), 3, axis=-1)
        q, k, v = (split_heads(a, s.heads) for a in qkv)
        a = attend(q, k, v, mask, s.causal)
        x = x + self._scaled(self.out(a.reshape(x.shape)), "scale_1")
        hidden = activation(s.act)(self.fc(self.ln_2(x).astype(s.dtype)))
        return x + self._scaled(self.proj(hidden), "scale_2")


class Stack(nnx.Module):
    """``depth`` blocks whose parameters are stacked on a leading ``layers`` axis.

    ``scan`` compiles one block for all; without it the same parameters run through an unrolled loop (larger
    program, faster on a CPU). ``remat`` recomputes each block in the backward pass. None changes a number
    beyond rounding. ``make`` builds one block from its random streams.
    """

    def __init__(
        self, make: Callable[[nnx.Rngs], nnx.Module], depth: int, *, remat: bool, scan: bool, rngs: nnx.Rngs
    ) -> None:
        @nnx.split_rngs(splits=depth)
        @nnx.vmap(
            in_axes=(0,),
            out_axes=0,
            transform_metadata={nnx.PARTITION_NAME: "layers"},
            graph=True,
            graph_updates=True,
        )
        def create(r: nnx.Rngs) -> nnx.Module:
            return make(r)

        self.blocks = create(rngs)
        self.depth, self.remat, self.scan = depth, remat, scan

    def _run(self, x: jax.Array, shared: tuple[Any, ...], keep: bool) -> tuple[jax.Array, jax.Array | None]:
        graphdef, stacked = nnx.split(self.blocks)

        def body(x: jax.Array, layer: Any) -> tuple[jax.Array, jax.Array | None]:
            y = nnx.merge(graphdef, layer)(x, *shared)
            return y, y if keep else None

        if self.remat:
            body = jax.checkpoint(body, prevent_cse=not self.scan)
        return jax.lax.scan(body, x, stacked, unroll=1 if self.scan else self.depth)

    def __call__(self, x: jax.Array, *shared: Any) -> jax.Array:
        """[B, T, D] -> [B, T, D]. ``shared`` goes to every block."""
        return self._run(x, shared, False)[0]

    def hidden(self, x: jax.Array, *shared: Any) -> jax.Array:
        """[B, T, D] -> [depth + 1, B, T, D]: the input, then what each block gives."""
        _, outputs = self._run(x, shared, True)
        assert outputs is not None
        return jnp.concatenate([x[None].astype(outputs.dtype), outputs])
