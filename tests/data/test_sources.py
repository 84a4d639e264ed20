"""Opening what a config names."""

import dataclasses

import pytest

from clip_jax.config import ConfigError, DataConfig, UserError
from clip_jax.data.scenes import ScenesSource
from clip_jax.data.sources import open_source


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
    assert len(open_source(dataclasses.replace(config, unique_samples=5), "val", 32)) == 30
    with pytest.raises(ConfigError, match="unique_samples=31: the training split has only 30"):
        open_source(dataclasses.replace(config, unique_samples=31), "train", 32)


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(UserError, match="gone: no such file or folder"):
        open_source(DataConfig(source="webdataset", paths=(str(tmp_path / "gone"),)), "train", 32)
