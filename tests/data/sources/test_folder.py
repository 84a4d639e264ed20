"""A folder of images with a CSV."""

import pytest

from clip_jax.data.sources.base import BrokenRecord
from clip_jax.data.sources.folder import CaptionedFolder

from ...user_errors import raises_user_error


def test_captioned_folder_repeated_names_are_captions_of_one_image(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"A")
    (tmp_path / "captions.csv").write_text('filename,caption\na.jpg,"one, two"\nb.jpg,\na.jpg,three\n')
    source = CaptionedFolder(tmp_path, "train")
    assert len(source) == 2
    assert source[0].captions == ("one, two", "three")
    assert source[0].image == b"A"
    with raises_user_error(BrokenRecord, field=tmp_path / "b.jpg", reason="No such file"):
        source[1]


def test_captioned_folder_prefers_the_split_folder(tmp_path):
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "captions.csv").write_text("filename,caption\nx.png,hello\n")
    source = CaptionedFolder(tmp_path, "val")
    assert source.captions(0) == ("hello",)
    with raises_user_error(BrokenRecord, field=tmp_path / "val/x.png", reason="No such file"):
        source[0]


def test_captioned_folder_missing_file_or_column_is_named(tmp_path):
    with raises_user_error(field=tmp_path / "captions.csv", reason="no such file"):
        CaptionedFolder(tmp_path, "train")
    (tmp_path / "apart" / "train").mkdir(parents=True)
    (tmp_path / "apart" / "train" / "captions.csv").write_text("filename,caption\na.png,a\n")
    apart = {"field": "data.paths", "value": tmp_path / "apart", "hint": "data.val_fraction"}
    with raises_user_error(**apart, reason="has no split 'val'; the splits are train"):
        CaptionedFolder(tmp_path / "apart", "val")
    (tmp_path / "captions.csv").write_text("file,caption\n")
    with raises_user_error(field="data.filename_column", value="filename", hint="file, caption") as raised:
        CaptionedFolder(tmp_path, "train")
    assert "file, caption" in raised.value.hint  # those that are there


WANTED = {"a.jpg": ("café, a terrace",), "b.jpg": ('a "red" kettle', "two\nlines")}
ROWS = (("a.jpg", "café, a terrace"), ("b.jpg", 'a "red" kettle'), ("./b.jpg", "two\nlines"))


def table(rows, separator=",", header=("filename", "caption"), line="\n"):
    """Return text of a table, every field in quotes."""
    quoted = [separator.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    return line.join([separator.join(header), *quoted]) + line


def captions(path, *columns):
    """Return the captions of a folder by image."""
    source = CaptionedFolder(path, "train", *columns)
    return {name: source.captions(i) for i, name in enumerate(source.names)}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_captioned_folder_reads_every_encoding_and_separator(tmp_path, encoding, separator):
    (tmp_path / "captions.csv").write_bytes(table(ROWS, separator, line="\r\n").encode(encoding))
    assert captions(tmp_path) == WANTED
    assert {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}[separator] in CaptionedFolder(
        tmp_path, "train"
    ).notes[0]


def test_captioned_folder_reads_other_column_names(tmp_path):
    rows = [(name, str(i), text) for i, (name, text) in enumerate(ROWS)]
    (tmp_path / "captions.csv").write_text(table(rows, "|", ("image_name", " comment_number", " comment")))
    assert captions(tmp_path, ("image_name", "comment")) == WANTED


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"filename,caption\na.jpg,a red kettle, on a stove\n", 2),
        (b"filename,caption\n\na.jpg,x\nb.jpg\n", 4),
        (b"filename,caption\na.jpg,caf\xe9\n", 2),
        (b"filename,caption\n../secret.png,x\n", 2),
        (b"filename,caption\na.jpg,x\n/abs/path.png,x\n", 3),
        (b"filename,caption\na/b.jpg,x\na/../../secret.png,x\n", 3),
        (b"filename,caption\na\\b.png,x\n", 2),
        (b"filename,caption\nb/../../a.png,x\n", 2),
        (b"filename,caption\n,x\n", 2),
        (b"filename,caption\na\0.png,x\n", 2),
        (b'filename,caption\na.jpg,"never closed\nb.jpg,x\n', None),
        (b'filename,caption\na.jpg,"quoted" and not\n', None),
        (b"filename,caption\na.jpg," + b"x" * 200_000 + b"\n", None),
    ],
)
def test_captioned_folder_malformed_row_names_its_line(tmp_path, text, line):
    (tmp_path / "captions.csv").write_bytes(text)
    table = tmp_path / "captions.csv"
    with raises_user_error(source=table if line else None, field=f"line {line}" if line else table):
        CaptionedFolder(tmp_path, "train")


def test_captioned_folder_repeated_column_is_refused(tmp_path):
    (tmp_path / "captions.csv").write_text("filename,caption,caption\na.jpg,x,y\n")
    with raises_user_error(field="data.caption_column", value="caption"):
        CaptionedFolder(tmp_path, "train")
