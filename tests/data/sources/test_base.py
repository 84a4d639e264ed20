"""Opening what a config names."""

import dataclasses
import os

import pytest

from clip_jax.config import DataConfig
from clip_jax.data.open import data_notes, open_source, open_splits
from clip_jax.data.scenes.scenes import ScenesSource
from clip_jax.data.sources.base import BrokenRecord
from clip_jax.errors import ConfigError

from ...user_errors import raises_user_error


def test_open_source_default_is_scenes():
    assert isinstance(open_source(DataConfig(), "train", 32), ScenesSource)


def test_open_source_joins_paths_and_limits_records(pairs_dir):
    config = DataConfig(source="webdataset", paths=(str(pairs_dir), str(pairs_dir / "val" / "0.tar")))
    source = open_source(config, "train", 32)
    assert len(source) == 30
    assert source[19].captions[0] == "picture 9 of shard 1"
    assert source.name(20).endswith("val00")
    assert source.captions(29)[0] == "picture 9 of shard 0"
    cut = open_source(dataclasses.replace(config, unique_samples=5), "train", 32)
    assert len(cut) == 5
    assert cut[4].captions == source.captions(4) == cut.captions(4)
    apart = dataclasses.replace(config, unique_samples=5, val_paths=(str(pairs_dir),))
    assert len(open_source(apart, "val", 32)) == 20
    with raises_user_error(ConfigError, field="data.unique_samples", value=31):
        open_source(dataclasses.replace(config, unique_samples=31), "train", 32)


def test_open_source_missing_path_is_named(tmp_path):
    with raises_user_error(field="data.paths", value=str(tmp_path / "gone")):
        open_source(DataConfig(source="webdataset", paths=(str(tmp_path / "gone"),)), "train", 32)


@pytest.fixture
def shared(pairs_dir, tmp_path):
    """Return configs whose held-out split would be read from files of the training split, by kind."""
    flat = tmp_path / "flat"
    flat.mkdir()
    rows = "".join(f"{i}.jpg,caption {i}\n" for i in range(200))
    (flat / "captions.csv").write_text("filename,caption\n" + rows)
    (flat / "val").symlink_to(flat)
    (tmp_path / "link").symlink_to(pairs_dir / "train")
    shards = DataConfig(source="webdataset", paths=(f"{pairs_dir}/train/{{0..1}}.tar",))
    one = (f"{tmp_path}/link/1.tar",)
    return {
        "shards": shards,
        "flat folder of shards": DataConfig(source="webdataset", paths=(f"{pairs_dir}/train",)),
        "one shard by a link": dataclasses.replace(shards, val_paths=one),
        "captions.csv": DataConfig(source="folder", paths=(str(flat),)),
        "captions.csv by a link": DataConfig(source="folder", paths=(str(flat),), val_paths=(f"{flat}/val",)),
        "one split for both": DataConfig(source="webdataset", paths=(str(pairs_dir),), val_split="train"),
    }


KINDS = ("shards", "flat folder of shards", "one shard by a link", "captions.csv", "captions.csv by a link",
         "one split for both")  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_open_splits_that_share_a_file_is_refused(shared, kind):
    config = shared[kind]
    with raises_user_error(field="data.val_paths") as raised:
        open_splits(config, 32)
    assert raised.value.value.endswith((".tar", ".jpg"))
    train, held_out = open_splits(config, 32, may_share=True)  # as a run does that began so
    assert any("data.val_fraction" in note for note in data_notes(config, train, held_out))


def test_open_splits_with_val_paths(shared, pairs_dir):
    apart = dataclasses.replace(shared["shards"], val_paths=(str(pairs_dir / "val" / "0.tar"),))
    assert tuple(map(len, open_splits(apart, 32))) == (20, 10)


@pytest.mark.parametrize("kind", ["shards", "captions.csv"])
def test_open_splits_with_val_fraction_holds_each_record_out_or_trains_on_it(shared, kind):
    whole = open_source(shared[kind], "train", 32)
    config = dataclasses.replace(shared[kind], val_fraction=0.3)
    train, held_out = open_splits(config, 32)
    names = [[s.name(i) for i in range(len(s))] for s in (train, held_out)]
    assert sorted(names[0] + names[1]) == sorted(whole.name(i) for i in range(len(whole)))
    assert 0.1 * len(whole) < len(held_out) < 0.5 * len(whole)
    assert [held_out.captions(i) for i in range(3)] == held_out.get_many_captions([0, 1, 2])
    assert [s.name(0) for s in open_splits(config, 32)] == [train.name(0), held_out.name(0)]  # the same every time
    (note,) = data_notes(config, train, held_out)[-1:]
    assert f"{len(held_out)} of {len(whole)}" in note
    with raises_user_error(field="data.paths", reason="val_fraction"):
        open_splits(dataclasses.replace(config, val_fraction=1e-9), 32)


def test_open_splits_records_that_come_later_leave_the_others_where_they_are(shared, pairs_dir, write_shard):
    config = dataclasses.replace(shared["shards"], paths=(f"{pairs_dir}/train/*.tar",), val_fraction=0.3)
    before = [{s.name(i) for i in range(len(s))} for s in open_splits(config, 32)]
    for name in ("-.tar", "2.tar"):  # before and behind the others
        write_shard(pairs_dir / "train" / name, {f"{i}.txt": b"x" for i in range(50)})
    after = [{s.name(i) for i in range(len(s))} for s in open_splits(config, 32)]
    assert all(old < new for old, new in zip(before, after, strict=True))


def test_open_splits_weights_are_of_what_is_left_to_train_on(pairs_dir):
    paths = (f"{pairs_dir}/train/*.tar", f"{pairs_dir}/val/*.tar")
    config = DataConfig(source="webdataset", paths=paths, weights=(1.0, 2.0), val_fraction=0.3)
    train, held_out = open_splits(config, 32)
    assert sum(map(len, train.parts)) + len(held_out) == 40


def test_source_digest_depends_on_the_records_only(shared, pairs_dir, tmp_path):
    def digests():
        return [open_source(shared[kind], "train", 32).digest for kind in ("shards", "captions.csv")]

    first = digests()
    for file in (pairs_dir / "train" / "0.tar", tmp_path / "flat" / "captions.csv"):
        os.utime(file, (0, 0))
    assert digests() == first
    table = tmp_path / "flat" / "captions.csv"
    table.write_text(table.read_text().replace("caption 7\n", "caption 8\n"))
    assert digests()[1] != first[1]
    table.write_text(table.read_text().replace("7.jpg,caption 8\n", "7.jpg,caption 7\n"))
    assert digests() == first
    (tmp_path / "flat" / "7.jpg").write_bytes(b"x")
    write = dataclasses.replace(shared["shards"], paths=(f"{pairs_dir}/train/0.tar",))
    changed = [digests()[1], open_source(write, "train", 32).digest]
    assert not set(changed) & set(first)


def test_open_source_empty_path_with_a_weight_is_refused(pairs_dir, write_shard, tmp_path):
    empty = write_shard(tmp_path / "empty.tar", {})
    config = DataConfig(source="webdataset", paths=(str(pairs_dir), str(empty)), weights=(1.0, 1.0))
    with raises_user_error(source=empty, field="data.weights"):
        open_source(config, "train", 32)


def test_concat_source_get_many_keeps_the_requested_order(pairs_dir, write_shard, tmp_path):
    extra = write_shard(tmp_path / "extra.tar", {"x.jpg": b"x", "x.txt": b"one", "y.txt": b"no picture"})
    config = DataConfig(source="webdataset", paths=(str(extra), str(pairs_dir)))
    source = open_source(config, "train", 32)
    first, broken, one = source.get_many([2, 1, 0])
    assert (one.captions, first.captions[0]) == (("one",), "picture 0 of shard 0")
    assert isinstance(broken, BrokenRecord)
    assert source.get_many_captions([21, 1, 0]) == [source.captions(21), ("no picture",), ("one",)]
    assert source.name(1) == f"{extra}:y"
    with raises_user_error(BrokenRecord, field=f"{tmp_path}/extra.tar:y", reason="no image"):
        source[1]
