"""Transformer parts shared by both towers. Shapes: B batch, T tokens, D width, N heads, K head size."""

from __future__ import annotations

from collections.abc import Callable
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


def layer_norm(width: int, *, param_dtype: Any, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Layer normalisation, computed in float32 whatever the compute dtype."""
    return nnx.LayerNorm(
        width,
        epsilon=1e-5,
        scale_init=nnx.with_partitioning(nnx.initializers.ones, (None,)),
        bias_init=nnx.with_partitioning(nnx.initializers.zeros, (None,)),
        dtype=jnp.float32,
        param_dtype=param_dtype,
        rngs=rngs,
    )


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """``gelu`` (tanh form) or ``quick_gelu``, x·sigmoid(1.702x), of the published models."""
    return {"gelu": nnx.gelu, "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x)}[name]


class Block(nnx.Module):
    """Pre-norm residual block (attention, then MLP), [B, T, D] -> [B, T, D]."""

    def __init__(
        self, width: int, heads: int, mlp_width: int, depth: int, *,
        causal: bool, act: str, dtype: Any, param_dtype: Any, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        kw: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        out_std = width**-0.5 * (2 * depth) ** -0.5  # of the published initialisation
        self.ln_1 = layer_norm(width, param_dtype=param_dtype, rngs=rngs)
        self.qkv = linear(width, 3 * width, ("embed", "heads"), std=width**-0.5, **kw)
        self.out = linear(width, width, ("heads", "embed"), std=out_std, **kw)
        self.ln_2 = layer_norm(width, param_dtype=param_dtype, rngs=rngs)
        self.fc = linear(width, mlp_width, ("embed", "mlp"), std=(2 * width) ** -0.5, **kw)
        self.proj = linear(mlp_width, width, ("mlp", "embed"), std=out_std, **kw)
        self.heads, self.causal, self.act, self.dtype = heads, causal, act, dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        b, t, d = x.shape
        q, k, v = jnp.split(self.qkv(self.ln_1(x).astype(self.dtype)), 3, axis=-1)
        q, k, v = (a.reshape(b, t, self.heads, d // self.heads) for a in (q, k, v))
        x = x + self.out(jax.nn.dot_product_attention(q, k, v, is_causal=self.causal).reshape(b, t, d))
        return x + self.proj(activation(self.act)(self.fc(self.ln_2(x).astype(self.dtype))))


class Stack(nnx.Module):
    """``depth`` blocks whose parameters are stacked on a leading ``layers`` axis.

    ``scan`` compiles one block for all; without it the same parameters run through an unrolled loop (larger
    program, faster on a CPU). ``remat`` recomputes each block in the backward pass. None changes a number
    beyond rounding.
    """

    def __init__(
        self, width: int, heads: int, mlp_width: int, depth: int, *, causal: bool, act: str,
        dtype: Any, param_dtype: Any, remat: bool, scan: bool, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        @nnx.split_rngs(splits=depth)
        @nnx.vmap(
            in_axes=(0,),
            out_axes=0,
            transform_metadata={nnx.PARTITION_NAME: "layers"},
            graph=True,
            graph_updates=True,
        )
        def create(r: nnx.Rngs) -> Block:
            return Block(
                width,
                heads,
                mlp_width,
                depth,
                causal=causal,
                act=act,
                dtype=dtype,
                param_dtype=param_dtype,
                rngs=r,
            )

        self.blocks = create(rngs)
        self.depth, self.remat, self.scan = depth, remat, scan

    def __call__(self, x: jax.Array) -> jax.Array:
        graphdef, stacked = nnx.split(self.blocks)

        def body(x: jax.Array, layer: Any) -> tuple[jax.Array, None]:
            return nnx.merge(graphdef, layer)(x), None

        if self.remat:
            body = jax.checkpoint(body, prevent_cse=not self.scan)
        return jax.lax.scan(body, x, stacked, unroll=1 if self.scan else self.depth)[0]
