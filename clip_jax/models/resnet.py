"""CLIP's modified ResNet (Radford et al., 2021): three-convolution stem, anti-aliased strides, attention pooling.

Batch norm's means and variances are taken over the global batch: under `jax.jit` with a sharded batch the reduction
runs over all devices, so that the mesh does not change the numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from clip_jax.config.model import ModelConfig
from clip_jax.models.layers import (
    attend,
    check_images,
    linear,
    named_axes,
    named_param,
    normal,
    remat_policy,
    split_heads,
)

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Key

MOMENTUM = 0.1  # weight of the newest batch in the running statistics, as in PyTorch
EPS = 1e-5


class BatchNorm(nnx.Module):
    """Batch norm over channels [..., C], with batch statistics in training and running ones in evaluation.

    The running statistics are `nnx.BatchStat`s: they get no gradient, and each training step updates them.
    """

    def __init__(self, channels: int, *, param_dtype: DTypeLike, rngs: nnx.Rngs, gain: float = 1.0) -> None:
        self.scale = named_param(nnx.initializers.constant(gain), (channels,), (None,), param_dtype, rngs)
        self.bias = named_param(nnx.initializers.zeros, (channels,), (None,), param_dtype, rngs)
        self.mean = nnx.BatchStat(jnp.zeros((channels,), param_dtype))
        self.var = nnx.BatchStat(jnp.ones((channels,), param_dtype))

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        wide = jnp.promote_types(jnp.float32, x.dtype)
        y = x.astype(wide)
        mean, var = self.mean[...].astype(wide), self.var[...].astype(wide)
        if train:
            count = x.size // x.shape[-1]
            old_mean, old_var = mean, var
            mean = jnp.mean(y, axis=(0, 1, 2))
            var = jnp.mean(jnp.square(y - mean[None, None, None]), axis=(0, 1, 2))
            self.mean[...] = (old_mean + MOMENTUM * (jax.lax.stop_gradient(mean) - old_mean)).astype(
                self.mean[...].dtype
            )
            unbiased = jax.lax.stop_gradient(var) * (count / max(count - 1, 1))
            self.var[...] = (old_var + MOMENTUM * (unbiased - old_var)).astype(self.var[...].dtype)
        factor = jax.lax.rsqrt(var + EPS) * self.scale[...].astype(wide)
        shift = self.bias[...].astype(wide) - mean * factor
        return (y * factor[None, None, None] + shift[None, None, None]).astype(x.dtype)


def _pool(x: jax.Array, stride: int) -> jax.Array:
    """Average stride × stride cells, [B, H, W, C] -> [B, H/stride, W/stride, C]."""
    b, h, w, c = x.shape
    return x.reshape(b, h // stride, stride, w // stride, stride, c).mean(axis=(2, 4))


class Bottleneck(nnx.Module):
    """Three convolutions around a shortcut; a stride is an average pool before the last one (Zhang, 2019)."""

    def __init__(self, c_in: int, width: int, stride: int, config: ModelConfig, rngs: nnx.Rngs) -> None:
        param_dtype = jnp.dtype(config.param_dtype)
        kw: dict[str, Any] = {"param_dtype": param_dtype, "rngs": rngs}
        self.conv1 = _conv(c_in, width, 1, config, rngs)
        self.bn1 = BatchNorm(width, **kw)
        self.conv2 = _conv(width, width, 3, config, rngs)
        self.bn2 = BatchNorm(width, **kw)
        self.conv3 = _conv(width, 4 * width, 1, config, rngs)
        self.bn3 = BatchNorm(4 * width, gain=0.0, **kw)  # each block starts as the identity
        self.shortcut = stride > 1 or c_in != 4 * width
        if self.shortcut:
            self.conv_shortcut = _conv(c_in, 4 * width, 1, config, rngs)
            self.bn_shortcut = BatchNorm(4 * width, **kw)
        self.stride = stride

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = nnx.relu(self.bn1(self.conv1(x), train))
        y = nnx.relu(self.bn2(self.conv2(y), train))
        y = self.bn3(self.conv3(_pool(y, self.stride)), train)
        if self.shortcut:
            x = self.bn_shortcut(self.conv_shortcut(_pool(x, self.stride)), train)
        return nnx.relu(x + y)


def _conv(c_in: int, c_out: int, size: int, config: ModelConfig, rngs: nnx.Rngs, stride: int = 1) -> nnx.Conv:
    init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    return nnx.Conv(
        c_in,
        c_out,
        (size, size),
        strides=(stride, stride),
        padding=[(size // 2, size // 2)] * 2,
        use_bias=False,
        kernel_init=named_axes(init, (None, None, None, "embed")),
        dtype=jnp.dtype(config.compute_dtype),
        param_dtype=jnp.dtype(config.param_dtype),
        rngs=rngs,
    )


class AttentionPool(nnx.Module):
    """Attention pooling whose query is the mean of all cells; it attends to them and itself: [B, h, w, C] -> [B, E]."""

    def __init__(self, width: int, config: ModelConfig, rngs: nnx.Rngs) -> None:
        c = config.image
        dtype, param_dtype = jnp.dtype(config.compute_dtype), jnp.dtype(config.param_dtype)
        kw: dict[str, Any] = {"std": width**-0.5, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.position = named_param(normal(width**-0.5), (c.tokens, width), ("position", "embed"), param_dtype, rngs)
        self.q = linear(width, width, ("embed", "heads"), **kw)
        self.k = linear(width, width, ("embed", "heads"), **kw)
        self.v = linear(width, width, ("embed", "heads"), **kw)
        self.out = linear(width, config.embed_dim, ("embed", "joint"), **kw)
        self.heads, self.dtype, self.form = c.heads, dtype, config.attention

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        x = jnp.concatenate([x.mean(axis=1, keepdims=True), x], axis=1)
        x = x + self.position[...].astype(self.dtype)[None]
        q, k, v = (split_heads(a, self.heads) for a in (self.q(x[:, :1]), self.k(x), self.v(x)))
        return self.out(attend(q, k, v, form=self.form).reshape(x.shape[0], -1))


class ModifiedResNet(nnx.Module):
    """CLIP's modified ResNet: normalized images [B, H, W, 3] -> image features [B, E].

    Args:
      config: of the model, whose image tower this is.
      rngs: random numbers of the initial parameters.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        c = config.image
        half = c.width // 2
        kw: dict[str, Any] = {"param_dtype": jnp.dtype(config.param_dtype), "rngs": rngs}
        self.conv1, self.bn1 = _conv(3, half, 3, config, rngs, stride=2), BatchNorm(half, **kw)
        self.conv2, self.bn2 = _conv(half, half, 3, config, rngs), BatchNorm(half, **kw)
        self.conv3, self.bn3 = _conv(half, c.width, 3, config, rngs), BatchNorm(c.width, **kw)
        channels = c.width
        for stage, blocks in enumerate(c.stages):
            width = c.width * 2**stage
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                setattr(self, f"stage{stage + 1}_{block}", Bottleneck(channels, width, stride, config, rngs))
                channels = 4 * width
        self.pool = AttentionPool(channels, config, rngs)
        self.config, self.dtype = c, jnp.dtype(config.compute_dtype)
        self.policy = config.remat_policy if config.remat else None

    def _block(self, name: str, x: jax.Array, train: bool) -> jax.Array:
        block = getattr(self, name)
        if self.policy is None or not train:
            return block(x, train)
        # The statistics are returned as values, because a write inside the rematerialized function would be lost.
        graphdef, state = nnx.split(block)

        def body(state: nnx.State, x: jax.Array) -> tuple[jax.Array, nnx.State]:
            inner = nnx.merge(graphdef, state)
            return inner(x, train), nnx.state(inner, nnx.BatchStat)

        y, stats = jax.checkpoint(body, policy=remat_policy(self.policy))(state, x)
        nnx.update(block, stats)
        return y

    def feature_maps(self, images: Float[Array, "b h w 3"], *, train: bool = False) -> list[jax.Array]:
        """Return the outputs of the stem and of each stage, [B, h, w, C].

        Args:
          images: normalized pixels.
          train: normalize by the batch's statistics and update the running ones; else by the running ones.
        """
        c = self.config
        check_images(images, c.image_size)
        x = images.astype(self.dtype)
        for i in (1, 2, 3):
            x = nnx.relu(getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x), train))
        maps = [_pool(x, 2)]
        for stage, blocks in enumerate(c.stages):
            x = maps[-1]
            for block in range(blocks):
                x = self._block(f"stage{stage + 1}_{block}", x, train)
            maps.append(x)
        return maps

    def penultimate(self, images: Float[Array, "b h w 3"]) -> jax.Array:
        """Return the features for linear probes [B, E]: the attention pool's output, as there is no other projection.

        Args:
          images: normalized, float [B, H, W, 3].
        """
        return self(images)

    def __call__(
        self, images: Float[Array, "b h w 3"], *, train: bool = False, rng: Key[Array, " b"] | None = None
    ) -> Float[Array, "b e"]:
        del rng  # nothing here is random
        return self.pool(self.feature_maps(images, train=train)[-1])
