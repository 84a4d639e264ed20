"""Batches that a thread puts on their devices: the arrays of the plain form."""

import contextlib
import dataclasses
import time

import jax
import numpy as np
import pytest

from clip_jax.config import MeshConfig
from clip_jax.data.open import open_source
from clip_jax.data.pipeline import loader
from clip_jax.distributed.mesh import make_mesh
from clip_jax.storage.json_files import read_lines
from clip_jax.train import loop
from clip_jax.train.anomalies import BatchStream, DataOffsets
from clip_jax.train.device_batches import AHEAD, DeviceBatches
from clip_jax.train.loop import train
from clip_jax.train.step import put_batch

from ..user_errors import raises_user_error


def streams(run):
    source = open_source(run.data, "train", run.model.image.image_size)
    tokenizer = loader.learn_tokenizer(run, source)
    return [BatchStream(run, source, tokenizer, DataOffsets(), 0) for _ in range(2)]


@pytest.mark.parametrize("mesh", [MeshConfig(), MeshConfig(fsdp=2, tensor=2), MeshConfig(data=1, tensor=8)])
@pytest.mark.parametrize("piece", [3, 16])
def test_device_batches_are_those_of_put_batch(tiny_run, monkeypatch, mesh, piece):
    monkeypatch.setattr(loader, "PIECE", piece)
    mesh, (ahead_stream, plain) = make_mesh(mesh), streams(tiny_run)
    with contextlib.closing(ahead_stream), contextlib.closing(plain):
        ahead = DeviceBatches(ahead_stream, mesh, tiny_run.batch_size, tiny_run.steps)
        kept = []
        with contextlib.closing(ahead):
            for step in (0, 1, 2, 3, 1, 2, 7):  # back as after a rollback, then to the last one
                actual, expected = ahead.batch(step), put_batch(plain.batch(step), mesh)
                kept.append((actual, expected))
        for actual, expected in kept:  # after the buffers were written again
            assert actual.keys() == expected.keys()
            for name in actual:
                assert actual[name].sharding == expected[name].sharding
                np.testing.assert_array_equal(jax.device_get(actual[name]), jax.device_get(expected[name]))


def test_device_batches_run_ahead_by_a_bounded_number_and_raise_in_their_turn(tiny_run):
    asked = []

    class Stream:
        def pieces(self, step):
            asked.append(step)
            if step == 3:
                raise ValueError("broken")
            yield {"images": np.zeros((16, 2, 2, 3), np.uint8), "tokens": np.zeros((16, 4), np.int32)}

    with contextlib.closing(DeviceBatches(Stream(), make_mesh(MeshConfig()), 16, 8)) as ahead:
        ahead.batch(0)
        end = time.monotonic() + 30
        while len(asked) < 1 + AHEAD and time.monotonic() < end:
            time.sleep(0.001)
        assert asked == list(range(1 + AHEAD))
        ahead.batch(1)
        ahead.batch(2)
        with pytest.raises(ValueError, match="broken"):
            ahead.batch(3)


@pytest.mark.thorough
def test_a_run_fed_ahead_has_the_numbers_of_one_that_is_not(tiny_run, tmp_path, monkeypatch, without_times):
    run = dataclasses.replace(tiny_run, steps=6)
    train(run, tmp_path / "plain", progress=False)
    monkeypatch.setattr(loop, "feeds_ahead", lambda mesh: True)
    train(run, tmp_path / "ahead", progress=False, stop_after=3)
    train(run, tmp_path / "ahead", progress=False)
    rows = [without_times(read_lines(tmp_path / name / "metrics.jsonl")) for name in ("ahead", "plain")]
    assert rows[0] == rows[1] != []
    monkeypatch.setattr(BatchStream, "pieces", lambda self, step: (_ for _ in ()).throw(loop.UserError(reason="gone")))
    with raises_user_error(reason="gone"):
        train(dataclasses.replace(run, seed=1), tmp_path / "broken", progress=False)
