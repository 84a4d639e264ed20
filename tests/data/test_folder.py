"""A folder of images with a CSV."""

import pytest

from clip_jax.config import UserError
from clip_jax.data.folder import CaptionedFolder
from clip_jax.data.sources import BrokenRecord


def test_repeated_names_are_captions_of_one_picture(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"A")
    (tmp_path / "captions.csv").write_text('filename,caption\na.jpg,"one, two"\nb.jpg,\na.jpg,three\n')
    source = CaptionedFolder(tmp_path, "train")
    assert len(source) == 2
    assert source[0].captions == ("one, two", "three")
    assert source[0].image == b"A"
    with pytest.raises(BrokenRecord, match="b.jpg"):
        source[1]


def test_a_split_folder_goes_first(tmp_path):
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "captions.csv").write_text("filename,caption\nx.png,hello\n")
    source = CaptionedFolder(tmp_path, "val")
    assert source.captions(0) == ("hello",)
    with pytest.raises(BrokenRecord, match=r"x\.png: No such file"):
        source[0]


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match=r"captions\.csv: no such file"):
        CaptionedFolder(tmp_path, "train")
    (tmp_path / "captions.csv").write_text("file,caption\n")
    with pytest.raises(UserError, match="lacks the column filename"):
        CaptionedFolder(tmp_path, "train")


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "a/../../secret.png", "a\\b.png"])
def test_a_name_that_leaves_the_folder_is_refused(tmp_path, name):
    (tmp_path / "captions.csv").write_text(f"filename,caption\na/b.jpg,well\n{name},evil\n")
    with pytest.raises(UserError) as caught:
        CaptionedFolder(tmp_path, "train")
    assert caught.value.value == name
