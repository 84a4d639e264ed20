"""Saving and restoring, also onto another mesh, and what is done about files that are broken."""

import errno
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from clip_jax.config import MeshConfig
from clip_jax.distributed.mesh import make_mesh
from clip_jax.models.clip import build
from clip_jax.optim.optimizer import make_optimizer
from clip_jax.train import checkpoint as c
from clip_jax.train.checkpoint import Checkpoints, load_params, load_state
from clip_jax.train.state import TrainState, abstract_state, init_state

from ..user_errors import raises_user_error

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:Sharding info:UserWarning")


@pytest.fixture(scope="module")
def world(tiny_run):
    optimizer = make_optimizer(tiny_run.optim, 8)
    mesh = make_mesh(MeshConfig(fsdp=2))
    built = build(tiny_run.model, mesh)
    state = init_state(tiny_run, built, optimizer, mesh)
    return SimpleNamespace(
        optimizer=optimizer, built=built, state=state, abstract=abstract_state(built, optimizer, mesh)
    )


def at(state, step):
    """Return the state of another step, told from the others by its counter."""
    return TrainState(state.step + step, state.params, state.opt_state)


@pytest.fixture(scope="module")
def saved(world, tmp_path_factory):
    """Return a run directory with the checkpoints of steps 2 and 4."""
    root = tmp_path_factory.mktemp("saved")
    with Checkpoints(root, every=2) as checkpoints:
        for step in (2, 4):
            assert checkpoints.save(step, at(world.state, step))
    return root


@pytest.mark.thorough
def test_checkpoint_restores_on_another_mesh_bit_for_bit(tiny_run, tmp_path, world):
    with Checkpoints(tmp_path, every=2) as checkpoints:
        assert checkpoints.steps == []
        assert checkpoints.restore(world.abstract) is None
        for step in (2, 4, 6):
            checkpoints.save(step, world.state)
    other = make_mesh(MeshConfig(), jax.devices()[:1])
    other_built = build(tiny_run.model, other)
    with Checkpoints(tmp_path, every=2) as checkpoints:
        assert checkpoints.steps == [4, 6]
        step, again, broken = checkpoints.restore(abstract_state(other_built, world.optimizer, other))
    assert (step, broken) == (6, [])
    jax.tree.map(np.testing.assert_array_equal, again, world.state)
    assert jax.tree.structure(again) == jax.tree.structure(world.state)
    assert len(again.params["text"]["token"].sharding.device_set) == 1
    step, params = load_params(tmp_path, world.built)
    assert step == 6
    jax.tree.map(np.testing.assert_array_equal, params, world.state.params)


def test_load_params_without_a_checkpoint_is_refused(tmp_path, world):
    with raises_user_error(field=tmp_path, reason="no checkpoint"):
        load_params(tmp_path, world.built)


def test_checkpoints_keep_the_newest_and_the_newest_regular_one(tmp_path, world):
    with Checkpoints(tmp_path, every=10) as checkpoints:
        for step in (10, 20, 23, 26, 29):
            checkpoints.save(step, at(world.state, step))
        checkpoints.wait()
        assert checkpoints.steps == [20, 26, 29]
        assert checkpoints.restore(world.abstract)[0] == 29
        step, state, _ = checkpoints.restore(world.abstract, regular=True)
        assert (step, int(state.step)) == (20, 20)
        checkpoints.forget_after(20)
        assert checkpoints.steps == [20]


def test_checkpoint_of_a_non_finite_state_is_not_saved(tmp_path, world):
    broken = jax.tree.map(lambda x: x, world.state.params)
    broken["text"]["token"] = broken["text"]["token"].at[3, 5].set(jnp.nan)
    with Checkpoints(tmp_path, every=2) as checkpoints:
        assert not checkpoints.save(2, TrainState(world.state.step, broken, world.state.opt_state))
        assert checkpoints.steps == []


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble(path):
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 8] = bytes(b ^ 0x55 for b in data[middle : middle + 8])
    path.write_bytes(bytes(data))


def remove(path):
    path.unlink()


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("what", "damage"),
    [
        ("largest", truncate), ("largest", garble), ("largest", remove),
        ("_METADATA", truncate), ("manifest.ocdbt", remove), ("_CHECKPOINT_METADATA", garble),
    ],
)  # fmt: skip
def test_checkpoint_damaged_newest_falls_back_to_the_one_before(saved, world, tmp_path, what, damage, capfd, caplog):
    run = tmp_path / "run"
    shutil.copytree(saved, run)
    newest = run / "checkpoints" / "4"
    files = [newest / "_CHECKPOINT_METADATA", *(p for p in (newest / "params").rglob("*") if p.is_file())]
    largest = max(files, key=lambda p: p.stat().st_size)
    damage(largest if what == "largest" else next(p for p in files if p.name == what))
    step, _ = load_params(run, world.built)
    assert step == 2
    assert caplog.text.count("skipped") == 1
    with Checkpoints(run, every=2) as checkpoints:
        step, state, broken = checkpoints.restore(world.abstract)
        assert (step, int(state.step)) == (2, 2)
        assert len(broken) == 1
        assert broken[0].startswith("checkpoint 4: ")
        assert checkpoints.steps == [2]
        checkpoints.save(4, at(world.state, 4))
    jax.tree.map(np.testing.assert_array_equal, state.params, world.state.params)
    assert (run / "corrupt" / "4").is_dir()
    assert capfd.readouterr().err == "", "what broken files make of a reader is told in one line, by the caller"


def test_checkpoint_changed_bytes_are_found_by_the_checksums(saved, world, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    run = tmp_path / "run"
    data = max((p for p in (run / "checkpoints" / "4").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    whole, reasons = data.read_bytes(), set()
    for byte in range(len(whole) // 10, len(whole), len(whole) // 10):
        data.write_bytes(whole[:byte] + bytes([whole[byte] ^ 1]) + whole[byte + 1 :])
        with raises_user_error(field=run / "checkpoints" / "4") as refused:
            load_state(run, 4, world.abstract)
        reasons.add(refused.value.reason)
        if refused.value.reason == "cannot be read (its numbers are not those that were saved)":
            return
    raise AssertionError(f"every change was found by the reader itself: {reasons}")


def test_checkpoints_all_unreadable_are_left_in_place(saved, world, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    for step in ("2", "4"):
        for path in (tmp_path / "run" / "checkpoints" / step).rglob("manifest.ocdbt"):
            path.unlink()
    with Checkpoints(tmp_path / "run", every=2) as checkpoints:
        with raises_user_error(reason="none of its 2 checkpoints can be read (the newest, 4:"):
            checkpoints.restore(world.abstract)
        assert checkpoints.steps == [2, 4]
    with raises_user_error(field=tmp_path / "run", reason="can be read"):
        load_params(tmp_path / "run", world.built)


def test_checkpoint_without_checksums_is_read(world, tmp_path, monkeypatch):
    monkeypatch.setattr(c, "checksums_and_finite", lambda parts: ({}, True))
    with Checkpoints(tmp_path, every=2) as checkpoints:
        checkpoints.save(2, world.state)
    with Checkpoints(tmp_path, every=2) as checkpoints:
        assert checkpoints.restore(world.abstract)[0] == 2


def test_checkpoint_on_a_full_disk_is_one_line(tmp_path, world, monkeypatch):
    checkpoints = Checkpoints(tmp_path, every=2)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ocp.training.Checkpointer, "save_checkpointables_async", full)
    with raises_user_error(field=tmp_path / "checkpoints", reason="disk is full"):
        checkpoints.save(1, world.state)
