"""Pictures decoded once for all runs: same batches, shared files, torn writes seen."""

import copy
import dataclasses
import errno
from pathlib import Path

import numpy as np
import pytest

from clip_jax.config import DataConfig
from clip_jax.data.open import open_source
from clip_jax.data.pipeline import decode_cache as module
from clip_jax.data.pipeline.decode_cache import DecodeCache
from clip_jax.data.pipeline.loader import BatchOfStep, learn_tokenizer
from clip_jax.data.sources.base import ConcatSource


@pytest.fixture
def setup(tiny_run, pairs_dir, tmp_path, monkeypatch):
    """Return (run that keeps what it decoded, its source, tokenizer), with a cache of its own."""
    monkeypatch.setenv("CLIP_JAX_CACHE", str(tmp_path / "cache"))
    data = DataConfig(source="webdataset", paths=(str(pairs_dir),), num_threads=1, cache_decoded=True)
    run = dataclasses.replace(tiny_run, data=data)
    source = open_source(data, "train", 32)
    return run, source, learn_tokenizer(run, source)


def equal(a, b):
    return all(np.array_equal(a[k], b[k]) for k in a)


def test_decode_cache_second_run_decodes_nothing_and_gives_the_same_batches(setup, monkeypatch):
    run, source, tokenizer = setup
    plain = dataclasses.replace(run, data=dataclasses.replace(run.data, cache_decoded=False))
    for augment in ("none", "flip"):
        views = [dataclasses.replace(r, data=dataclasses.replace(r.data, augment=augment)) for r in (plain, run, run)]
        wanted = [BatchOfStep(views[0], source, tokenizer)(step) for step in range(3)]
        first = BatchOfStep(views[1], source, tokenizer)
        assert all(equal(first(step), wanted[step]) for step in range(3))
    second = BatchOfStep(views[2], source, tokenizer)
    monkeypatch.setattr(type(source), "get_many", lambda self, rows: [1 / 0 for _ in rows])  # nothing left to read
    assert all(equal(second(step), wanted[step]) for step in range(2))


def test_decode_cache_damaged_image_is_decoded_again(setup):
    run, source, tokenizer = setup
    make = BatchOfStep(run, source, tokenizer)
    wanted = [make(step) for step in range(2)]
    make.cache.pictures[:, 3] ^= 1
    make.cache.pictures.flush()
    again = BatchOfStep(run, source, tokenizer)
    assert again.cache.get(0) is None
    assert all(equal(again(step), wanted[step]) for step in range(2))
    assert again.cache.get(int(again.order(np.arange(1))[0])) is not None


@pytest.mark.parametrize("name", ["captions.txt", "ends.npy", "captions.sha256"])
@pytest.mark.parametrize("how", ["a bit", "cut", "junk", "gone"])
def test_decode_cache_damaged_captions_are_read_again(setup, name, how):
    _, source, _ = setup
    file = DecodeCache(source, 32, "pillow").folder / name
    good = file.read_bytes()
    damaged = {"a bit": good[:9] + bytes([good[9] ^ 1]) + good[10:], "cut": good[:9], "junk": b"\xffjunk" * 9}
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(damaged[how])
    made = DecodeCache(source, 32, "pillow")
    for i in range(len(source)):
        made.put(i, np.zeros((32, 32, 3), np.uint8))
    assert [made.get(i).captions for i in range(len(source))] == [source.captions(i) for i in range(len(source))]
    assert file.read_bytes() == good


def test_decode_cache_has_one_folder_per_records_size_and_decoder(setup, write_shard, jpeg, pairs_dir):
    _, source, _ = setup
    folder = DecodeCache(source, 32, "pillow").folder
    assert DecodeCache(source, 32, "pillow").folder == folder
    assert DecodeCache(source, 16, "pillow").folder != folder
    assert DecodeCache(source, 32, "simplejpeg").folder != folder
    write_shard(pairs_dir / "train" / "0.tar", {"a.jpg": jpeg((1, 2, 3)), "a.txt": b"changed"})
    changed = open_source(DataConfig(source="webdataset", paths=(str(pairs_dir),)), "train", 32)
    assert DecodeCache(changed, 32, "pillow").folder != folder


def test_decode_cache_is_mapped_by_worker_processes(setup):
    run, source, tokenizer = setup
    make = BatchOfStep(run, source, tokenizer)
    batch = make(0)
    copied = copy.copy(make.cache)  # as a worker gets it: by name
    i = int(make.order(np.arange(1))[0])
    assert np.array_equal(copied.get(i).image, batch["images"][0])


def test_decode_cache_of_uncacheable_data_is_none(setup):
    run, source, tokenizer = setup
    cropped = dataclasses.replace(run, data=dataclasses.replace(run.data, augment="square_crop"))
    assert BatchOfStep(cropped, source, tokenizer).cache is None
    assert ConcatSource([source, source]).identity == f"{source.identity} | {source.identity}"


def test_decode_cache_on_a_full_disk_is_not_mapped(setup, monkeypatch):
    # To write into a hole of a mapped file would kill the process with SIGBUS.
    run, source, tokenizer = setup
    plain = dataclasses.replace(run, data=dataclasses.replace(run.data, cache_decoded=False))
    wanted = BatchOfStep(plain, source, tokenizer)(0)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "posix_fallocate", full)
        with pytest.raises(OSError, match="No space"):
            DecodeCache(source, 32, "pillow")
        without = BatchOfStep(run, source, tokenizer)
        assert without.cache is None  # it goes on without the files
        assert equal(without(0), wanted)
        assert len(without.prepared) > 0, "in memory"
    files = DecodeCache(source, 32, "pillow")
    path = Path(files.pictures.filename)
    for made in (path, Path(files.sums.filename)):
        assert made.stat().st_blocks * 512 >= made.stat().st_size
    size = path.stat().st_size
    del files
    path.unlink()
    with path.open("wb") as file:
        file.truncate(size)  # as an older version left it
    DecodeCache(source, 32, "pillow")
    assert path.stat().st_blocks * 512 >= size
