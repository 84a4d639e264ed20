"""The state and where it lies."""

import jax
import numpy as np

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


def test_init_state_is_equal_on_any_mesh(tiny_run):
    states = []
    for config, devices in ((MeshConfig(fsdp=2), None), (MeshConfig(), jax.devices()[:1])):
        mesh = make_mesh(config, devices)
        states.append(init_state(tiny_run, build(tiny_run.model, mesh), make_optimizer(tiny_run.optim, 8), mesh))
    jax.tree.map(np.testing.assert_array_equal, *states)
