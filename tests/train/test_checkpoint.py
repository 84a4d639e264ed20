"""Saving and restoring, also onto another mesh."""

import errno

import jax
import numpy as np
import pytest

from clip_jax.config import MeshConfig, UserError
from clip_jax.models.clip import build
from clip_jax.optim import make_optimizer
from clip_jax.parallel import make_mesh
from clip_jax.train.checkpoint import Checkpoints, load_params
from clip_jax.train.state import abstract_state, init_state

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:Sharding info:UserWarning")


def test_a_state_comes_back_on_another_mesh_bit_for_bit(tiny_run, tmp_path):
    optimizer = make_optimizer(tiny_run.optim, 8)
    mesh = make_mesh(MeshConfig(fsdp=2))
    built = build(tiny_run.model, mesh)
    state = init_state(tiny_run, built, optimizer, mesh)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step is None
        for step in (2, 4, 6):
            checkpoints.save(step, state)
    other = make_mesh(MeshConfig(), jax.devices()[:1])
    other_built = build(tiny_run.model, other)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step == 6
        again = checkpoints.restore(abstract_state(other_built, optimizer, other))
    jax.tree.map(np.testing.assert_array_equal, again, state)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    assert len(again.params["text"]["token"].sharding.device_set) == 1
    assert len([p for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()]) == 2
    step, params = load_params(tmp_path, built)
    assert step == 6
    jax.tree.map(np.testing.assert_array_equal, params, state.params)


def test_no_checkpoint_is_named(tiny_run, tmp_path):
    built = build(tiny_run.model, make_mesh(MeshConfig()))
    with pytest.raises(UserError, match="has no checkpoint"):
        load_params(tmp_path, built)


def test_a_full_disk_is_one_line(tiny_run, tmp_path, monkeypatch):
    mesh = make_mesh(MeshConfig())
    state = init_state(tiny_run, build(tiny_run.model, mesh), make_optimizer(tiny_run.optim, 8), mesh)
    checkpoints = Checkpoints(tmp_path)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints._orbax, "save_checkpointables_async", full)
    with pytest.raises(UserError, match="the disk is full"):
        checkpoints.save(1, state)
