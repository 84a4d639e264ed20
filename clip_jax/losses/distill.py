"""Distillation of a teacher's similarities, as in open_clip."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def distill_loss(
    image: jax.Array,
    text: jax.Array,
    logit_scale: jax.Array,
    teacher_image: jax.Array,
    teacher_text: jax.Array,
    teacher_scale: jax.Array,
) -> jax.Array:
    """Compute the cross-entropy of the student's softmax under the teacher's, the mean of both directions in nats [].

    Embeddings [B, E] (student) and [B, F] (teacher) have unit length; scales are []. No gradient reaches the teacher.
    """
    logits = logit_scale * (image @ text.T)
    target = jax.lax.stop_gradient(teacher_scale * (teacher_image @ teacher_text.T))

    def one_way(student: jax.Array, teacher: jax.Array) -> jax.Array:
        return -jnp.mean(jnp.sum(jax.nn.softmax(teacher, axis=1) * jax.nn.log_softmax(student, axis=1), axis=1))

    return (one_way(logits, target) + one_way(logits.T, target.T)) / 2
