"""Tar shards: random access, and every way a shard can be wrong."""

import threading

import pytest

from clip_jax.config import UserError
from clip_jax.data.sources import BrokenRecord
from clip_jax.data.webdataset import WebDataset


def test_records_by_index_in_file_order(pairs_dir):
    source = WebDataset(pairs_dir, "train")
    assert len(source) == 20
    record = source[13]
    assert source.name(13).endswith("1.tar:train13")
    assert record.captions == source.captions(13) == ("picture 3 of shard 1", "another line 3")
    assert record.image[:2] == b"\xff\xd8"


def test_one_tar_is_a_source_too(pairs_dir):
    assert len(WebDataset(pairs_dir / "val" / "0.tar", "train")) == 10


def test_many_threads_read_the_same_bytes(pairs_dir):
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


def test_a_missing_split_names_those_that_are_there(pairs_dir):
    with pytest.raises(UserError, match="splits found: train, val"):
        WebDataset(pairs_dir, "test")


def test_what_is_no_tar_is_named(pairs_dir):
    (pairs_dir / "train" / "0.tar").write_bytes(b"not a tar" * 200)
    with pytest.raises(UserError, match=r"0\.tar: not a readable tar shard"):
        WebDataset(pairs_dir, "train")


def test_a_truncated_tar_is_named(pairs_dir):
    shard = pairs_dir / "train" / "1.tar"
    shard.write_bytes(shard.read_bytes()[:3000])
    with pytest.raises(UserError, match=r"1\.tar: not a readable tar shard"):
        WebDataset(pairs_dir, "train")


def test_incomplete_samples_are_broken_records(tmp_path, write_shard):
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
    for i, said in enumerate(("a: has no image", "b: has no .txt", "c: its .txt is empty", "d: .txt is not UTF-8")):
        with pytest.raises(BrokenRecord, match=said):
            source[i]
