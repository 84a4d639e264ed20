"""FLOPs of optimizers."""

import dataclasses
import math
from collections import Counter

import jax
import jax.numpy as jnp
import optax
import pytest

from clip_jax.config import ModelConfig, TextTowerConfig
from clip_jax.config.presets import preset
from clip_jax.flops import jaxpr_flops
from clip_jax.flops.optimizer import hidden_matrices, muon_flops
from clip_jax.models.clip import init_params, logical_axes
from clip_jax.optim.muon import is_matrix

DEBUG = preset("debug")


@pytest.mark.parametrize(
    "model",
    [
        DEBUG,
        dataclasses.replace(DEBUG, image=dataclasses.replace(DEBUG.image, pool="map", class_token=False)),
        dataclasses.replace(DEBUG, text=TextTowerConfig(encoder="bag_of_words")),
        ModelConfig(objective="bag_of_words"),
        preset("CoCa-B/32"),
    ],
    ids=["CLIP", "MAP head", "bag of words", "bag-of-words objective", "CoCa"],
)
def test_hidden_matrices_are_those_that_muon_trains(model):
    params = jax.eval_shape(lambda: init_params(model, 0))
    axes = logical_axes(model)
    entries, counted = 0, Counter()
    for leaf, names, matrix in zip(*map(jax.tree.leaves, (params, axes, is_matrix(axes))), strict=True):
        if matrix:
            inputs, outputs = leaf.shape[-2:]
            fused = 3 if "qkv" in names else 1
            counted[inputs, outputs // fused] += fused * math.prod(leaf.shape[:-2])
            entries += leaf.size
    shapes = Counter()
    for number, inputs, outputs in hidden_matrices(model):
        shapes[inputs, outputs] += number
    assert shapes == counted
    assert sum(n * a * b for (a, b), n in shapes.items()) == entries


def test_muon_flops_are_those_of_its_matrix_products():
    matrix, muon = jnp.ones((6, 10)), optax.contrib.scale_by_muon()
    assert jaxpr_flops(lambda x: muon.update(x, muon.init(x))[0], matrix) == 5 * (4 * 6 * 6 * 10 + 2 * 6**3)
    tower = {"width": 8, "depth": 1, "heads": 1}
    small = dataclasses.replace(
        DEBUG, image=dataclasses.replace(DEBUG.image, **tower), text=dataclasses.replace(DEBUG.text, **tower)
    )
    assert muon_flops(small) == 2 * 5 * (4 * 6 * 8**3 + 2 * (4 * 4 + 2) * 8**3)
