"""FLOPs of optimizers, which `flops.training_flops` and the records of runs leave out. Loads no jax."""

from __future__ import annotations

from clip_jax.config import ModelConfig

NEWTON_SCHULZ_STEPS = 5  # of `optim.muon`
Matrices = list[tuple[int, int, int]]  # (number, inputs, outputs)


def _mlp(width: int, mlp: int) -> Matrices:
    return [(1, width, mlp), (1, mlp, width)]


def _cross(width: int, context: int) -> Matrices:
    return [(2, width, width), (2, context, width)]


def hidden_matrices(model: ModelConfig) -> Matrices:
    """Return (number, inputs, outputs) of the matrices that Muon trains in a transformer.

    Args:
      model: a model without a ResNet.
    """
    i, t, d = model.image, model.text, model.decoder
    counts = [(i.depth * n, a, b) for n, a, b in [(4, i.width, i.width), *_mlp(i.width, i.mlp_width)]]
    if i.pool == "map":
        counts += _cross(i.width, i.width) + _mlp(i.width, i.mlp_width)
    elif i.pool == "attentional":
        counts += _cross(model.embed_dim, i.width)
    if model.objective != "bag_of_words" and t.encoder == "transformer":
        counts += [(t.depth * n, a, b) for n, a, b in [(4, t.width, t.width), *_mlp(t.width, t.mlp_width)]]
    both = [(8, d.width, d.width), *_mlp(d.width, d.mlp_width), *_mlp(d.width, d.mlp_width)]
    return counts + [(d.depth * n, a, b) for n, a, b in both if d.depth]


def muon_flops(model: ModelConfig) -> int:
    """Return the FLOPs of the Newton-Schulz iterations of one step, 2 per multiply-add; the batch does not matter.

    A matrix [m, n] with m <= n takes 4 m² n + 2 m³ per iteration: its product with its transpose, the square of that,
    and their product with the matrix.

    Args:
      model: a model without a ResNet.
    """
    total = 0
    for number, inputs, outputs in hidden_matrices(model):
        m, n = sorted((inputs, outputs))
        total += number * NEWTON_SCHULZ_STEPS * (4 * m * m * n + 2 * m**3)
    return total
