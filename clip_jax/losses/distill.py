"""Distillation of a teacher's similarities, as in open_clip."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Float


def distill_loss(
    image: Float[Array, "b e"],
    text: Float[Array, "b e"],
    logit_scale: Float[Array, ""],
    teacher_image: Float[Array, "b f"],
    teacher_text: Float[Array, "b f"],
    teacher_scale: Float[Array, ""],
) -> Float[Array, ""]:
    """Compute the cross-entropy of the student's softmax under the teacher's, the mean of both directions in nats [].

    Embeddings [B, E] (student) and [B, F] (teacher) have unit length; scales are []. No gradient reaches the teacher.
    """
    logits = logit_scale * (image @ text.T)
    target = jax.lax.stop_gradient(teacher_scale * (teacher_image @ teacher_text.T))

    def one_way(student: jax.Array, teacher: jax.Array) -> jax.Array:
        return -jnp.mean(jnp.sum(jax.nn.softmax(teacher, axis=1) * jax.nn.log_softmax(student, axis=1), axis=1))

    return (one_way(logits, target) + one_way(logits.T, target.T)) / 2
