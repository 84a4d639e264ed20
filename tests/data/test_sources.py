"""Opening what a config names."""

import dataclasses

import pytest

from clip_jax.config import ConfigError, DataConfig, UserError
from clip_jax.data.scenes import ScenesSource
from clip_jax.data.sources import BrokenRecord, open_source


def test_scenes_is_the_default():
    assert isinstance(open_source(DataConfig(), "train", 32), ScenesSource)


def test_paths_are_joined_and_can_be_cut(pairs_dir):
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
    with pytest.raises(ConfigError, match="unique_samples=31: the training split has only 30"):
        open_source(dataclasses.replace(config, unique_samples=31), "train", 32)


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(UserError, match="gone: no such file or folder"):
        open_source(DataConfig(source="webdataset", paths=(str(tmp_path / "gone"),)), "train", 32)


def test_shards_named_themselves_are_not_held_out_from_themselves(pairs_dir):
    config = DataConfig(source="webdataset", paths=(str(pairs_dir / "train") + "/{0..1}.tar",))
    with pytest.raises(UserError, match="names shards, which have no held-out split; name others in data.val_paths"):
        open_source(config, "val", 32)
    apart = dataclasses.replace(config, val_paths=(str(pairs_dir / "val" / "0.tar"),))
    assert (len(open_source(apart, "train", 32)), len(open_source(apart, "val", 32))) == (20, 10)


def test_a_path_without_records_can_have_no_share(pairs_dir, write_shard, tmp_path):
    empty = write_shard(tmp_path / "empty.tar", {})
    config = DataConfig(source="webdataset", paths=(str(pairs_dir), str(empty)), weights=(1.0, 1.0))
    with pytest.raises(UserError, match="empty.tar: split 'train' has no records, so it can have no share"):
        open_source(config, "train", 32)


def test_the_answers_of_joined_sources_come_in_the_order_asked(pairs_dir, write_shard, tmp_path):
    extra = write_shard(tmp_path / "extra.tar", {"x.jpg": b"x", "x.txt": b"one", "y.txt": b"no picture"})
    config = DataConfig(source="webdataset", paths=(str(extra), str(pairs_dir)))
    source = open_source(config, "train", 32)
    first, broken, one = source.many([2, 1, 0])
    assert (one.captions, first.captions[0]) == (("one",), "picture 0 of shard 0")
    assert isinstance(broken, BrokenRecord)
    assert source.many_captions([21, 1, 0]) == [source.captions(21), ("no picture",), ("one",)]
    assert source.name(1) == f"{extra}:y"
    with pytest.raises(BrokenRecord, match="extra.tar:y: has no image"):
        source[1]
