"""The state and where it lies."""

import dataclasses

import jax
import numpy as np
import pytest

from clip_jax.config import MeshConfig
from clip_jax.distributed.mesh import make_mesh
from clip_jax.models.clip import build
from clip_jax.optim.optimizer import make_optimizer
from clip_jax.train.state import abstract_state, init_state, state_shardings


def test_state_shardings_of_moments_follow_their_parameters(tiny_run):
    mesh = make_mesh(MeshConfig(fsdp=4))
    built = build(tiny_run.model, mesh)
    optimizer = make_optimizer(tiny_run.optim, 8)
    shardings = state_shardings(built, optimizer, mesh)
    (adam,) = (part for part in shardings.opt_state if hasattr(part, "mu"))
    assert jax.tree.leaves(adam.mu) == jax.tree.leaves(built.shardings) == jax.tree.leaves(adam.nu)
    state = init_state(tiny_run, built, optimizer, mesh)
    jax.tree.map(lambda x, s: (x.sharding == s) or 1 / 0, state, shardings)
    abstract = abstract_state(built, optimizer, mesh)
    jax.tree.map(
        lambda a, x: (a.shape, a.dtype, a.sharding) == (x.shape, x.dtype, x.sharding) or 1 / 0,
        abstract,
        state,
    )


@pytest.mark.parametrize("name", ["muon", "lion", "adafactor", "schedule_free"])
def test_state_of_every_optimizer_is_sharded_like_its_parameters(tiny_run, name):
    free = {"schedule": "wsd", "lr_decay_fraction": 0.0} if name == "schedule_free" else {"ema_decay": 0.9}
    optim = dataclasses.replace(tiny_run.optim, optimizer=name, **free)
    mesh = make_mesh(MeshConfig(fsdp=4))
    built = build(dataclasses.replace(tiny_run.model, embed_dim=32), mesh)
    optimizer = make_optimizer(optim, 8, axes=built.axes)
    state = abstract_state(built, optimizer, mesh)
    params = {(p.shape, p.sharding) for p in jax.tree.leaves(state.params)}
    sharded = [x for x in jax.tree.leaves(state.opt_state) if x.ndim and (x.shape, x.sharding) in params]
    others = [x for x in jax.tree.leaves(state.opt_state) if x.ndim and (x.shape, x.sharding) not in params]
    count = len(jax.tree.leaves(state.params))
    assert len(sharded) >= count * (1 if name == "lion" else 2) - 2
    assert any(not x.sharding.is_fully_replicated for x in sharded)
    assert all(x.sharding.is_fully_replicated for x in others)  # Adafactor's sums
    assert bool(others) == (name == "adafactor")


def test_init_state_is_equal_on_any_mesh(tiny_run):
    states = []
    for config, devices in ((MeshConfig(fsdp=2), None), (MeshConfig(), jax.devices()[:1])):
        mesh = make_mesh(config, devices)
        states.append(init_state(tiny_run, build(tiny_run.model, mesh), make_optimizer(tiny_run.optim, 8), mesh))
    jax.tree.map(np.testing.assert_array_equal, *states)
