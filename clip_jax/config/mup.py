"""muP and CompleteP: init std, learning rates and epsilon that transfer across width and depth. Loads no jax.

Width follows µP (Yang et al., 2022, "Tensor Programs V", table 8) in the form without multipliers in the forward pass:
each tensor is parametrized by three multipliers only: init std, learning rate, Adam's epsilon. Depth, an independent
setting, follows CompleteP (Dey et al., 2025; before it Yang et al., 2023, "Tensor Programs VI", with 1/sqrt(depth)):
residual branches are multiplied by base depth / depth. That factor is folded into the branch's last matrix and bias.
Under Adam, a factor is equivalent to a smaller init std with a smaller learning rate, once epsilon is scaled too
(Everett et al., 2024). So the forward pass uses the plain weights, and the model is saved, exported and counted like
any other.

`TABLE` holds the whole parametrization: exponents of the ratios of width and depth to the base, on top of the standard
parametrization *at the model's own size*, whose hidden matrices already have init std width**-0.5.

* Weight decay: its multiplier is 1 / that of the learning rate, so learning rate × weight decay, by which a step
  shrinks a weight, is the same for every tensor at every size.
* Epsilon scales with the size of a tensor's gradient entries.
* The projection to the embedding space is an output layer, for which µP scales init std and learning rate by 1/width.
  But embeddings are normalized, so a factor on the features cancels and only the ratio of init std to learning rate
  matters: the projection keeps the standard init std, width**-0.5, and its learning rate scales as width**-0.5. Its
  gradient is then no larger than the others', which global-norm clipping requires. A bias of the projection is added to
  features that are larger by sqrt(width).
* Temperature and logit bias do not depend on width.
* The table holds for AdamW, and for Lion, whose updates are entrywise and of the gradient's sign, as Adam's are in the
  limit (Yang & Littwin, 2023, "Tensor Programs IVb"). Muon's hidden matrices have an exponent of their own, `MUON_LR`;
  it trains all else by AdamW. Depth enters alike, since updates of all three do not depend on the gradient's scale.

Assumption: head size, embedding size, patches, vocabulary and MLP ratio are fixed while width grows (`presets.ladder`
ensures it). With a fixed head size, attention's 1/sqrt(head) and µP's 1/head differ by a constant only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from clip_jax.config.model import ModelConfig


@dataclass(frozen=True)
class Multipliers:
    """Multipliers of one tensor: its init std, its learning rate, and Adam's epsilon."""

    init: float = 1.0
    lr: float = 1.0
    eps: float = 1.0

    @property
    def weight_decay(self) -> float:
        """Multiplier of AdamW's weight decay, which keeps learning rate × weight decay constant."""
        return 1 / self.lr


@dataclass(frozen=True)
class Exponents:
    """Exponents of (width / base width, depth / base depth) for each multiplier."""

    init: tuple[float, float] = (0.0, 0.0)
    lr: tuple[float, float] = (0.0, 0.0)
    eps: tuple[float, float] = (0.0, 0.0)

    def at(self, width: float, depth: float) -> Multipliers:
        """Return the multipliers for the two ratios."""
        return Multipliers(*(width**w * depth**d for w, d in (self.init, self.lr, self.eps)))


TABLE = {
    # patch and token embeddings; the text's positions and class token, whose init std is a constant
    "embedding": Exponents(eps=(-1, 0)),
    # the image's positions and class token: the standard init std falls as width**-0.5, that of the patches does not
    "image_position": Exponents(init=(0.5, 0), eps=(-1, 0)),
    "norm": Exponents(eps=(-1, 0)),  # outside the blocks
    "residual_in": Exponents(lr=(-1, 0), eps=(-1, -1)),  # hidden matrices at the start of a residual branch: qkv, fc
    "residual_vector": Exponents(eps=(-1, -1)),  # norms and gains of a block, biases of qkv and fc
    # hidden matrices back into the residual stream: out, proj; the standard init std already falls as depth**-0.5
    "residual_out": Exponents(init=(0, -0.5), lr=(-1, -1), eps=(-1, 0)),
    "residual_out_bias": Exponents(lr=(0, -1), eps=(-1, 0)),
    "projection": Exponents(lr=(-0.5, 0), eps=(-0.5, 0)),
    "projection_bias": Exponents(lr=(0.5, 0), eps=(-0.5, 0)),
    "logits": Exponents(),  # temperature and bias
}
MATRICES = ("residual_in", "residual_out")
# Muon's updates of a matrix, by ``optim.muon_scale``: under ``spectral`` their spectral norm does not depend on the
# width, as the spectral condition asks (Yang et al., 2023); under ``rms`` it grows as width**0.5.
MUON_LR = {"rms": -0.5, "spectral": 0.0}


def table_row(path: Sequence[str]) -> str:
    """Return the key in `TABLE` for a parameter path such as ("image", "blocks", "blocks", "qkv", "kernel").

    Raises KeyError for a tensor without a row.
    """
    name = path[0]
    if name in ("logit_scale", "logit_bias"):
        return "logits"
    part = path[1]
    if part == "blocks":
        layer, leaf = path[-2:]
        if layer in ("out", "proj") and leaf in ("kernel", "bias"):
            return "residual_out" if leaf == "kernel" else "residual_out_bias"
        if layer in ("qkv", "fc") and leaf in ("kernel", "bias"):
            return "residual_in" if leaf == "kernel" else "residual_vector"
        if layer in ("ln_1", "ln_2") or leaf in ("scale_1", "scale_2"):
            return "residual_vector"
    if part in ("projection", "projection_bias"):
        return part
    if part.startswith("ln_"):
        return "norm"
    if part in ("position", "class_token"):
        return "image_position" if name == "image" else "embedding"
    if part in ("patch", "token"):
        return "embedding"
    raise KeyError(f"{'.'.join(path)}: no row in the table")


def multipliers(path: Sequence[str], model: ModelConfig, matrix_lr: float | None = None) -> Multipliers:
    """Return the multipliers of a CLIP parameter; all 1 in the standard parametrization and at the base sizes.

    Args:
      path: the parameter's name, part by part.
      model: the model.
      matrix_lr: the width's exponent of the learning rate of hidden matrices, for an optimizer with another than Adam's
        (`MUON_LR`).
    """
    base = model.parametrization
    if base.kind == "standard":
        return Multipliers()
    kind = table_row(path)
    if kind == "logits":
        return Multipliers()
    row = TABLE[kind]
    if matrix_lr is not None and kind in MATRICES:
        row = replace(row, lr=(matrix_lr, row.lr[1]))
    if path[0] == "image":
        tower, width, depth = model.image, base.base_image_width, base.base_image_depth
        return row.at(tower.width / width, tower.depth / (depth or tower.depth))
    width, depth = base.base_text_width, base.base_text_depth
    return row.at(model.text.width / width, model.text.depth / (depth or model.text.depth))
