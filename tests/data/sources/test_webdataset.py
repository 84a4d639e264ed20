"""Tar shards: random access, and every way a shard can be wrong."""

import threading

import numpy as np
import pytest

from clip_jax.data.sources import webdataset
from clip_jax.data.sources.base import BrokenRecord
from clip_jax.data.sources.webdataset import Shards, WebDataset

from ...user_errors import raises_user_error


def test_webdataset_indexes_records_in_file_order(pairs_dir):
    source = WebDataset(pairs_dir, "train")
    assert len(source) == 20
    record = source[13]
    assert source.name(13).endswith("1.tar:train13")
    assert record.captions == source.captions(13) == ("picture 3 of shard 1", "another line 3")
    assert record.image[:2] == b"\xff\xd8"


def test_webdataset_that_took_long_to_look_up_says_so(pairs_dir, monkeypatch):
    assert WebDataset(pairs_dir, "train").notes == ()
    monkeypatch.setattr(webdataset, "SLOW_S", 0.0)
    assert "the members of 2 shards were looked up in " in WebDataset(pairs_dir, "train").notes[0]


def test_webdataset_of_one_tar_is_a_source(pairs_dir):
    assert len(WebDataset(pairs_dir / "val" / "0.tar", "train")) == 10


def test_webdataset_read_by_many_threads_gives_the_same_bytes(pairs_dir):
    source = WebDataset(pairs_dir, "train")
    alone = [source[i].image for i in range(20)]
    seen = []

    def read():
        seen.append([WebDataset.__getitem__(source, i).image for i in range(20)])

    threads = [threading.Thread(target=read) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert seen == [alone] * 4


def test_webdataset_missing_split_names_the_existing_ones(pairs_dir):
    with raises_user_error(field="data.paths", value=f"{pairs_dir}/test", reason="train, val"):
        WebDataset(pairs_dir, "test")


def test_webdataset_file_that_is_no_tar_is_named(pairs_dir):
    (pairs_dir / "train" / "0.tar").write_bytes(b"not a tar" * 200)
    with raises_user_error(field=pairs_dir / "train/0.tar", reason="readable tar"):
        WebDataset(pairs_dir, "train")


def test_webdataset_truncated_tar_is_named(pairs_dir):
    shard = pairs_dir / "train" / "1.tar"
    shard.write_bytes(shard.read_bytes()[:3000])
    with raises_user_error(field=pairs_dir / "train/1.tar", reason="readable tar"):
        WebDataset(pairs_dir, "train")


def test_webdataset_incomplete_samples_are_broken_records(tmp_path, write_shard):
    write_shard(
        tmp_path / "train" / "0.tar",
        {
            "a.txt": b"no picture",
            "b.jpg": b"x",
            "c.txt": b" \n",
            "c.jpg": b"x",
            "d.jpg": b"x",
            "d.txt": b"\xff\xfe",
        },
    )
    source = WebDataset(tmp_path, "train")
    for i, (key, part) in enumerate({"a": "no image", "b": "no .txt", "c": "empty", "d": "UTF-8"}.items()):
        with raises_user_error(BrokenRecord, field=f"{tmp_path}/train/0.tar:{key}", reason=part):
            source[i]


def read_of(store, path):
    return sum(end - start for file, start, end in store.asked if file == path)


@pytest.fixture
def stored(store, tmp_path, monkeypatch, write_shard):
    """Return two shards of ten samples in a store, and the same in a folder."""
    monkeypatch.setenv("CLIP_JAX_CACHE", str(tmp_path / "cache"))
    for shard in range(2):
        samples = {}
        for i in range(10):
            samples |= {f"k{i}.jpg": bytes([i + 1]) * (20_000 + i), f"k{i}.txt": f"text {shard} {i}".encode()}
        path = write_shard(tmp_path / "here" / "train" / f"{shard}.tar", samples)
        store.pipe(f"/box/train/{shard}.tar", path.read_bytes())
    return store


def test_webdataset_in_a_store_equals_one_in_a_folder(stored, tmp_path):
    local, remote = WebDataset(tmp_path / "here", "train"), WebDataset("slow://box", "train")
    rows = [13, 2, 19, 2]
    assert remote.get_many(rows) == local.get_many(rows)
    assert (
        remote.get_many_captions(rows)
        == local.get_many_captions(rows)
        == [("text 1 3",), ("text 0 2",), ("text 1 9",), ("text 0 2",)]
    )
    assert WebDataset("slow://box/train/{0..1}.tar", "any").get_many(rows) == local.get_many(rows)
    assert remote.name(13) == "slow:///box/train/1.tar:k3"


def test_webdataset_get_many_reads_only_the_requested_bytes(stored):
    source = WebDataset("slow://box", "train")
    stored.asked.clear()
    records = source.get_many([3, 17])
    wanted = sum(len(r.image) + len(r.captions[0]) for r in records)
    read = sum(end - start for _, start, end in stored.asked)
    assert len(stored.asked) == 2  # picture and text in one piece
    assert wanted <= read <= wanted + 2 * 1024  # and the padding and the header between them
    stored.asked.clear()
    source.get_many_captions(list(range(20)))
    assert sum(end - start for _, start, end in stored.asked) == 20 * len("text 0 0")


def test_shards_index_takes_sixteen_bytes_per_pair_and_is_shared(stored):
    shards = WebDataset("slow://box", "train").shards
    assert shards.members == ("image", "txt")
    assert shards.offsets.nbytes == 16 * len(shards)
    copy = Shards.__new__(Shards)
    copy.__setstate__(shards.__getstate__())
    assert isinstance(copy.offsets, np.memmap)
    assert not isinstance(shards.offsets, np.memmap)
    assert copy.read([4], ("image", "txt")) == shards.read([4], ("image", "txt"))


def test_shards_without_a_cache_folder_pickle_the_index(stored, tmp_path, monkeypatch):
    shards = WebDataset("slow://box", "train").shards
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("CLIP_JAX_CACHE", str(tmp_path / "file"))
    assert shards.__getstate__()["offsets"] is shards.offsets


@pytest.mark.parametrize("sign", ["\u2028", "\u0085", "\v", "\f", "\x1c"])
def test_webdataset_captions_end_at_a_line_feed_only(tmp_path, write_shard, sign):
    write_shard(tmp_path / "train" / "0.tar", {"a.txt": f"one{sign}caption\r\nanother\n".encode()})
    assert WebDataset(tmp_path, "train").captions(0) == (f"one{sign}caption", "another")
