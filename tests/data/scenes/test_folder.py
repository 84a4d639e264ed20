"""Scenes as a folder of pictures."""

import numpy as np
from PIL import Image

from clip_jax.cli.main import main
from clip_jax.config import ScenesConfig
from clip_jax.data.scenes.folder import SIZE, write_pictures
from clip_jax.data.scenes.scenes import ScenesSource
from clip_jax.data.sources.folder import CaptionedFolder

from ...user_errors import raises_user_error


def test_the_pictures_are_the_scenes_with_their_captions(tmp_path):
    assert main(["data", "pictures", str(tmp_path / "pictures"), "--count=5"]) == 0
    source = CaptionedFolder(tmp_path / "pictures", "train")
    images, captions = ScenesSource(ScenesConfig(), "train", SIZE).batch(np.arange(5))
    assert [source.captions(i) for i in range(len(source))] == [(caption,) for caption in captions]
    assert sorted(p.name for p in (tmp_path / "pictures").iterdir())[:2] == ["000000.png", "000001.png"]
    with raises_user_error(field=tmp_path / "pictures" / "captions.csv", reason="exists already"):
        write_pictures(tmp_path / "pictures", 5)
    with raises_user_error(field="--count", value=0):
        write_pictures(tmp_path / "other", 0)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "pictures" / "000004.png")), images[4])
