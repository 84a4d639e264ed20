"""Transformer parts shared by the towers. Shapes: B batch, T tokens, D width, N heads, K head size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike

from clip_jax.config.model import ModelConfig
from clip_jax.distributed.mesh import AXES, BATCH_AXES, constrain

if TYPE_CHECKING:
    from jax.extend.core import Primitive

Init = Callable[..., jax.Array]


def normal(std: float) -> Init:
    """Return a Gaussian initializer with standard deviation ``std``."""
    return nnx.initializers.normal(std)


def named_axes(init: Init, axes: tuple[str | None, ...]) -> Init:
    """Attach logical axis names, one per axis, to the parameter that ``init`` creates.

    `clip.build` later maps the names to mesh axes, so a module can be built without a mesh.
    """
    return nnx.with_partitioning(init, axes, eager_sharding=False)


def named_param(
    init: Init, shape: tuple[int, ...], axes: tuple[str | None, ...], dtype: DTypeLike, rngs: nnx.Rngs
) -> nnx.Param:
    """Create a parameter with logical axis names, one per axis."""
    return nnx.Param(named_axes(init, axes)(rngs.params(), shape, dtype))


def linear(
    d_in: int, d_out: int, axes: tuple[str | None, str | None], *, std: float, bias: bool = True,
    dtype: DTypeLike, param_dtype: DTypeLike, rngs: nnx.Rngs,
) -> nnx.Linear:  # fmt: skip
    """Create a dense layer with named axes; its bias is small and replicated on every device."""
    return nnx.Linear(
        d_in,
        d_out,
        use_bias=bias,
        kernel_init=named_axes(normal(std), axes),
        bias_init=named_axes(nnx.initializers.zeros, (None,)),
        dtype=dtype,
        param_dtype=param_dtype,
        rngs=rngs,
    )


def check_images(images: jax.Array, size: int) -> None:
    """Check that images are floats [B, size, size, 3]; raise ValueError otherwise.

    Integer pixels of 0 to 255 would otherwise pass silently and give wrong features.
    """
    if images.shape[1:] != (size, size, 3):
        raise ValueError(f"images of shape {images.shape}: expected [B, {size}, {size}, 3]")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images of dtype {images.dtype}: expected floats, as clip_jax.data.images.train_transforms.normalize gives"
        )


def on_rows(layer: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """Apply a dense layer to [..., D] flattened to [rows, D].

    The result is the same, and the weight gradient is then a plain matrix product, more than twice as fast on a CPU.
    """
    return layer(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


def layer_norm(width: int, *, param_dtype: DTypeLike, rngs: nnx.Rngs, eps: float = 1e-5) -> nnx.LayerNorm:
    """Create a layer norm that computes in float32 (or wider) whatever the compute dtype."""
    return nnx.LayerNorm(
        width,
        epsilon=eps,
        scale_init=named_axes(nnx.initializers.ones, (None,)),
        bias_init=named_axes(nnx.initializers.zeros, (None,)),
        dtype=jnp.promote_types(jnp.float32, param_dtype),
        param_dtype=param_dtype,
        rngs=rngs,
    )


def _gelu_erf(x: jax.Array) -> jax.Array:
    if x.dtype not in (jnp.bfloat16, jnp.float16):
        return nnx.gelu(x, approximate=False)
    wide = x.astype(jnp.float32)  # erfc would be several passes over memory on a GPU, erf is fused
    return (0.5 * wide * (1 + jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """Return ``gelu`` (tanh form), ``gelu_erf`` (exact) or the published models' ``quick_gelu``, x·sigmoid(1.702x)."""
    return {
        "gelu": nnx.gelu,
        "gelu_erf": _gelu_erf,
        "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    }[name]


class DTypes(TypedDict):
    """Dtypes of a layer: of its computation and of its parameters."""

    dtype: DTypeLike
    param_dtype: DTypeLike


@dataclass(frozen=True)
class BlockSpec:
    """Settings shared by all blocks of a stack."""

    width: int
    heads: int
    mlp_width: int
    depth: int  # of the stack; sets the init std of the residual branches' outputs
    act: str
    dtype: DTypeLike
    param_dtype: DTypeLike
    causal: bool = False
    eps: float = 1e-5
    layer_scale: float = 0.0  # 0 has none
    attention: str = "auto"  # see `attend`

    @property
    def out_std(self) -> float:
        """Init std of the projections back into the residual stream (Radford et al., 2021, released code)."""
        return self.width**-0.5 * (2 * self.depth) ** -0.5

    @property
    def dtypes(self) -> DTypes:
        """Dtype arguments of every dense layer."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}


def split_heads(x: jax.Array, heads: int) -> jax.Array:
    """Split the width into heads, [B, T, D] -> [B, T, N, K]."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


FUSED: Literal["cudnn", "xla"] = "cudnn"  # JAX's name of the fused kernel; a test replaces it


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None = None, causal: bool = False,
    form: str = "auto", length: int | None = None,
) -> jax.Array:  # fmt: skip
    """Compute softmax attention.

    Args:
      q: queries [B, Q, N, K].
      k, v: keys and values [B, T, N, K].
      mask: bool [B, 1, Q, T], True where a query may attend to a key.
      causal: whether a query sees only keys up to its own position.
      form: ``auto`` is the equation written out, for CPUs, whose batched products need the heads before the tokens, and
        for float64, which the other forms do not preserve. ``xla`` is JAX's implementation. ``cudnn`` is the fused
        kernel where there is no mask and both sequences have even lengths, and ``xla`` otherwise.
      length: positions from ``length`` on are padding (``cudnn`` only): no query attends to them, and what comes out
        at them means nothing.

    Returns:
      [B, Q, N, K].
    """
    if form == "cudnn" and mask is None and not (q.shape[1] % 2 or k.shape[1] % 2):
        return _fused(q, k, v, causal, length)
    if form != "auto":
        return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=causal, implementation="xla")
    wide = jnp.promote_types(jnp.float32, q.dtype)
    q, k, v = (x.swapaxes(1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))
    products = None if q.dtype == jnp.float16 else wide  # CPUs have no float16 product with a wider accumulator
    logits = jnp.einsum("bnqk,bntk->bnqt", q, k, preferred_element_type=products).astype(wide)
    if causal:
        logits = jnp.where(jnp.tril(jnp.ones(logits.shape[-2:], bool))[None, None], logits, -jnp.inf)
    if mask is not None:
        logits = jnp.where(mask, logits, -jnp.inf)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bnqt,bntk->bnqk", weights, v).swapaxes(1, 2)


def _fused(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool, length: int | None) -> jax.Array:
    if causal or length is None:  # the causal mask hides the appended position
        return jax.nn.dot_product_attention(q, k, v, is_causal=causal, implementation=FUSED)
    # The padded query attends to the real keys, and its output, which nothing reads, has a gradient of zero. What the
    # kernel gives as gradient of the padded key and value is undocumented: they are constants. One row is replaced in
    # place; a mask over the whole array would be read in every layer.
    k, v = (x.at[:, length:].set(0) for x in (k, v))
    # depends on q so that `jax.vmap` batches it too, which older JAX needs
    queries, keys = (jnp.where(q[:, 0, 0, 0] == 0, n, n) for n in (q.shape[1], length))
    return jax.nn.dot_product_attention(
        q, k, v, query_seq_lengths=queries, key_value_seq_lengths=keys, implementation=FUSED
    )


class Mlp(nnx.Module):
    """Two dense layers around an activation, [..., D] -> [..., D]."""

    def __init__(self, spec: BlockSpec, rngs: nnx.Rngs) -> None:
        self.fc = linear(
            spec.width, spec.mlp_width, ("embed", "mlp"), std=(2 * spec.width) ** -0.5, rngs=rngs, **spec.dtypes
        )
        self.proj = linear(spec.mlp_width, spec.width, ("mlp", "embed"), std=spec.out_std, rngs=rngs, **spec.dtypes)
        self.act = spec.act

    def __call__(self, x: jax.Array) -> jax.Array:
        return on_rows(self.proj, activation(self.act)(on_rows(self.fc, x)))


def residual(x: jax.Array) -> jax.Array:
    """Constrain the residual stream [B, T, D] on a mesh: rows sharded, width not."""
    return constrain(x, "batch", None, None)


def row_major(x: jax.Array) -> jax.Array:
    """Fix the layout in memory of the residual stream [B, T, D], of each device's rows on a mesh."""

    def fixed(rows: jax.Array) -> jax.Array:
        return with_layout_constraint(rows, Layout((0, 1, 2)))

    mesh = jax.sharding.get_abstract_mesh()
    if mesh.axis_names != AXES:
        return fixed(x) if mesh.empty else x
    spec = PartitionSpec(BATCH_AXES)  # the partitioner would gather the rows that it is asked to lay out
    return jax.shard_map(fixed, in_specs=spec, out_specs=spec, axis_names=set(BATCH_AXES), check_vma=False)(x)


class Block(nnx.Module):
    """Pre-norm residual block (attention, then MLP), [B, T, D] -> [B, T, D].

    ``mask``, bool [B, 1, T, T], says which keys a query sees in addition to the causal mask; positions from ``length``
    on are padding.
    """

    def __init__(self, spec: BlockSpec, rngs: nnx.Rngs) -> None:
        d, kw = spec.width, spec.dtypes
        norm: dict[str, Any] = {"param_dtype": spec.param_dtype, "rngs": rngs, "eps": spec.eps}
        self.ln_1 = layer_norm(d, **norm)
        self.qkv = linear(d, 3 * d, ("embed", "qkv"), std=d**-0.5, rngs=rngs, **kw)
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

    def __call__(self, x: jax.Array, mask: jax.Array | None = None, *, length: int | None = None) -> jax.Array:
        s = self.spec
        qkv = jnp.split(on_rows(self.qkv, self.ln_1(x).astype(s.dtype)), 3, axis=-1)
        q, k, v = (constrain(split_heads(a, s.heads), "batch", None, "heads", None) for a in qkv)
        a = attend(q, k, v, mask, s.causal, s.attention, length).reshape(x.shape)
        if s.attention != "cudnn":  # the policies recognize the fused kernel's results by its primitive
            a = checkpoint_name(a, "attention")
        x = residual(x + self._scaled(on_rows(self.out, a), "scale_1"))
        hidden = constrain(on_rows(self.fc, self.ln_2(x).astype(s.dtype)), "batch", None, "mlp")
        return residual(x + self._scaled(on_rows(self.proj, activation(s.act)(hidden)), "scale_2"))


def remat_policy(name: str) -> Callable[..., bool] | None:
    """Return the `jax.checkpoint` policy: which values of a block are saved rather than recomputed.

    ``nothing``; ``attention``: attention's output, so that no softmax is recomputed; ``dense``: also the outputs of the
    dense layers, so that attention's are the only matrix products recomputed; ``dots``: the output of every product.
    """
    policies = jax.checkpoint_policies
    attention = policies.save_from_both_policies(policies.save_only_these_names("attention"), _of_fused_attention)
    return {
        "auto": policies.nothing_saveable,  # not resolved for a device
        "nothing": policies.nothing_saveable,
        "attention": attention,
        "dense": policies.save_from_both_policies(policies.dots_with_no_batch_dims_saveable, attention),
        "dots": policies.save_from_both_policies(policies.dots_saveable, _of_fused_attention),
    }[name]


def _of_fused_attention(primitive: Primitive, *_: object, **__: object) -> bool:
    """Return whether a primitive is the fused attention kernel, so that all its results are saved.

    Its backward pass also needs the softmax statistics of the forward pass; without them the kernel would run again
    even if its output was saved.
    """
    return primitive.name.startswith("dot_product_attention_fwd")


class Stack(nnx.Module):
    """``depth`` blocks whose parameters are stacked on a leading ``layers`` axis.

    ``config.scan_layers`` compiles one block for all layers; without it the same parameters run through an unrolled
    loop (larger program, faster). ``config.remat`` recomputes each block in the backward pass. Fused attention
    takes even lengths only, so with it a sequence of odd length is padded by one position. None of these changes the
    result beyond rounding. ``make_block`` builds one block from its random streams.
    """

    def __init__(
        self, make_block: Callable[[nnx.Rngs], nnx.Module], depth: int, config: ModelConfig, rngs: nnx.Rngs
    ) -> None:
        @nnx.split_rngs(splits=depth)
        @nnx.vmap(
            in_axes=(0,), out_axes=0, transform_metadata={nnx.PARTITION_NAME: "layers"}, graph=True, graph_updates=True
        )
        def create(r: nnx.Rngs) -> nnx.Module:
            return make_block(r)

        self.blocks = create(rngs)
        self.depth, self.scan, self.fused = depth, config.scan_layers, config.attention == "cudnn"
        self.policy = config.remat_policy if config.remat else None
        self.unrolled = not config.scan_layers and config.attention != "auto"

    def _run(
        self, x: jax.Array, shared: tuple[jax.Array | None, ...], keep: bool
    ) -> tuple[jax.Array, jax.Array | None]:
        graphdef, stacked = nnx.split(self.blocks)
        length = x.shape[1]
        padded = {"length": length} if self.fused and length % 2 else {}
        if padded:
            x = jnp.pad(x, ((0, 0), (0, 1), (0, 0)))

        def body(x: jax.Array, layer: nnx.State) -> tuple[jax.Array, jax.Array | None]:
            y = nnx.merge(graphdef, layer)(x, *shared, **padded)
            return y, y[:, :length] if keep else None

        if self.policy is not None:
            body = jax.checkpoint(body, prevent_cse=not self.scan, policy=remat_policy(self.policy))
        if self.unrolled:
            x, kept = self._run_unrolled(body, x, stacked)
        else:
            x, kept = jax.lax.scan(body, x, stacked, unroll=1 if self.scan else self.depth)
        return x[:, :length], kept

    def _run_unrolled(
        self,
        body: Callable[[jax.Array, nnx.State], tuple[jax.Array, jax.Array | None]],
        x: jax.Array,
        stacked: nnx.State,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Run the blocks one after the other on an accelerator, as a scan would.

        A scan, unrolled or not, copies what the backward pass needs into stacked buffers and out of them again. The
        layout is fixed because XLA may choose one that every norm has to transpose.
        """
        outputs: list[jax.Array] = []
        for i in range(self.depth):
            x, kept = body(row_major(x), jax.tree.map(lambda a, i=i: a[i], stacked))
            outputs += [] if kept is None else [kept]
        x = row_major(x)
        return x, jnp.stack(outputs) if outputs else None

    def __call__(self, x: jax.Array, *shared: jax.Array | None) -> jax.Array:
        """Run the blocks, [B, T, D] -> [B, T, D]; ``shared`` is passed to every block."""
        return self._run(x, shared, False)[0]

    def hidden(self, x: jax.Array, *shared: jax.Array | None) -> jax.Array:
        """Return the input and the output of every block, [B, T, D] -> [depth + 1, B, T, D]."""
        _, outputs = self._run(x, shared, True)
        assert outputs is not None
        return jnp.concatenate([x[None].astype(outputs.dtype), outputs])
