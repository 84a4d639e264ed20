"""Labeled sets in every form."""

import gzip
import io
import re
import struct
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from clip_jax.data.images.eval_preprocess import Preprocess
from clip_jax.data.labeled.open import open_labeled

from ...user_errors import raises_user_error

COLORS = ("red", "green", "blue")


def picture(color, size=(12, 10)):
    out = io.BytesIO()
    Image.new("RGB", size, color).save(out, "PNG")
    return out.getvalue()


def write_idx(path, array):
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    data = head + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def shards(tmp_path):
    (tmp_path / "classnames.txt").write_text("\n".join(COLORS))
    (tmp_path / "zeroshot_classification_templates.txt").write_text("a {c} thing\n")
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        with tarfile.open(tmp_path / split / "0.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for i, color in enumerate(COLORS):
                for name, data in ((f"{split}{i}.png", picture(color)), (f"{split}{i}.cls", str(i).encode())):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return tmp_path


def colors_of(split):
    return split.pixels(Preprocess(4), np.arange(len(split.labels)))[:, 0, 0].argmax(axis=1)


def test_open_labeled_webdataset_gives_splits_names_and_labels(shards):
    data = open_labeled(shards)
    assert data.splits == ("test", "train")
    assert (data.class_names, data.templates) == (COLORS, ("a {c} thing",))
    split = data.split("train")
    assert split.labels.tolist() == colors_of(split).tolist() == [0, 1, 2]
    with raises_user_error(field="split", value="val"):
        data.split("val")
    (shards / "classnames.txt").write_text("red\ngreen")
    with raises_user_error(source=f"{shards}/test/0.tar:test2", field="label", value=2):
        open_labeled(shards).split("test")


@pytest.mark.parametrize("splits", [("train", "test"), ("",)])
def test_open_labeled_class_folders_are_sorted_classes(tmp_path, splits):
    for split in splits:
        for color in COLORS:
            folder = tmp_path / split / f"dark_{color}"
            folder.mkdir(parents=True)
            (folder / "a.png").write_bytes(picture(color))
    data = open_labeled(tmp_path)
    assert data.class_names == ("dark blue", "dark green", "dark red")
    assert colors_of(data.split("test")).tolist() == [2, 1, 0]


def test_open_labeled_class_folders_skips_hidden_entries(tmp_path):
    for name in ("cat/0.png", "dog/0.png", ".ipynb_checkpoints/0-checkpoint.png", "__MACOSX/0.png", "dog/._0.png"):
        (tmp_path / "test" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "test" / name).write_bytes(picture("red"))
    data = open_labeled(tmp_path)
    assert data.class_names == ("cat", "dog")
    assert data.split("test").labels.tolist() == [0, 1]


def test_open_labeled_webdataset_skips_hidden_folders(shards):
    (shards / "__MACOSX").mkdir()
    (shards / "__MACOSX" / "._0.tar").write_bytes(b"junk")
    (shards / "train" / "._0.tar").write_bytes(b"junk")
    data = open_labeled(shards)
    assert data.splits == ("test", "train")
    assert len(data.split("train").labels) == 3


@pytest.mark.parametrize("label", ["²", "9" * 5000, "-1", "1.0", ""])
def test_open_labeled_webdataset_label_that_is_no_number_is_named(tmp_path, write_shard, label):
    write_shard(tmp_path / "test" / "0.tar", {"a.png": picture("red"), "a.cls": label.encode()})
    with raises_user_error(source=f"{tmp_path}/test/0.tar:a", field="label", value=label):
        open_labeled(tmp_path).split("test")


@pytest.mark.parametrize("end", ["", ".gz"])
def test_open_labeled_idx_files_give_images_and_labels(tmp_path, end):
    images, labels = np.arange(3 * 25).reshape(3, 5, 5), np.array([2, 0, 1])
    write_idx(tmp_path / f"t10k-images-idx3-ubyte{end}", images)
    write_idx(tmp_path / f"t10k-labels-idx1-ubyte{end}", labels)
    data = open_labeled(tmp_path)
    assert (data.splits, data.class_names) == (("test",), ("0", "1", "2"))
    split = data.split("test")
    assert split.labels.tolist() == [2, 0, 1]
    np.testing.assert_array_equal(split.pixels(Preprocess(5), np.arange(3))[..., 0], images)
    (tmp_path / f"t10k-images-idx3-ubyte{end}").write_bytes(b"\x00\x00\x08")
    with raises_user_error(field=tmp_path / f"t10k-images-idx3-ubyte{end}", reason="idx"):
        open_labeled(tmp_path).split("test")


def test_open_labeled_other_folders_are_refused(tmp_path, shards):
    with raises_user_error(field=tmp_path / "none", reason="no such folder"):
        open_labeled(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with raises_user_error(field=tmp_path / "empty", reason="neither"):
        open_labeled(tmp_path / "empty")
    (shards / "zeroshot_classification_templates.txt").write_text("a thing\n")
    with raises_user_error(
        source=tmp_path / "zeroshot_classification_templates.txt", field="template", value="a thing"
    ):
        open_labeled(shards)


def test_labeled_split_undecodable_image_is_named(tmp_path):
    for color in COLORS:
        (tmp_path / color).mkdir()
        (tmp_path / color / "a.png").write_bytes(b"no picture")
    split = open_labeled(tmp_path).split("test")
    with raises_user_error(source=tmp_path / "blue/a.png", reason="decode"):
        split.pixels(Preprocess(4), np.arange(3))


def write_vectors(path, vectors):
    (path / "dataset_type.txt").write_text("multilabel")
    with tarfile.open(path / "test" / "0.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for i, vector in enumerate(vectors):
            out = io.BytesIO()
            np.save(out, vector)
            for name, data in ((f"{i}.png", picture("red")), (f"{i}.npy", out.getvalue())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def test_open_labeled_multi_label_set_has_boolean_labels(shards):
    write_vectors(shards, [np.array([0, 1, 1]), np.array([1.0, 0.0, 0.0])])
    labels = open_labeled(shards).split("test").labels
    assert labels.dtype == bool
    assert labels.tolist() == [[False, True, True], [True, False, False]]
    for wrong in (np.array([0, 1]), np.array([0, 1, 2]), np.array(1)):
        write_vectors(shards, [wrong])
        with raises_user_error(source=re.compile(r"test/0\.tar:0$"), field=".npy", reason="3 zeros"):
            open_labeled(shards).split("test")
    write_vectors(shards, [np.array([{}, 1, 1], object)])  # a pickle in an array's clothes
    with raises_user_error(field=re.compile(r"test/0\.tar:0: \.npy$"), reason="array"):
        open_labeled(shards).split("test")


BUILDER = """
import io
from PIL import Image
import tensorflow_datasets as tfds

class Spots(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    def _info(self):
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({
            "image": tfds.features.Image(shape=(8, 8, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=["dark_red", "dark_green", "dark_blue"]),
        }))
    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(), "test": self._generate_examples()}
    def _generate_examples(self):
        for i in range(6):
            out = io.BytesIO()
            Image.new("RGB", (8, 8), [(9, 0, 0), (0, 9, 0), (0, 0, 9)][i % 3]).save(out, "PNG")
            out.seek(0)
            yield i, {"image": out, "label": i % 3}
"""


def test_open_labeled_reads_a_prepared_tfds_set(tmp_path):
    package = tmp_path / "tiny_labelled_sets"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "spots.py").write_text(BUILDER)
    sys.path.insert(0, str(tmp_path))
    try:
        from tiny_labelled_sets.spots import Spots

        builder = Spots(data_dir=tmp_path / "data", file_format="array_record")
        builder.download_and_prepare()
    finally:
        sys.path.remove(str(tmp_path))
    data = open_labeled(builder.data_path)
    assert set(data.splits) == {"train", "test"}
    assert data.class_names == ("dark red", "dark green", "dark blue")
    split = data.split("test")
    assert sorted(split.labels.tolist()) == [0, 0, 1, 1, 2, 2]
    assert split.labels.tolist() == colors_of(split).tolist()


def test_open_labeled_class_names_pair_with_folders_by_name(tmp_path):
    for color in COLORS:
        (tmp_path / color).mkdir()
        (tmp_path / color / "a.png").write_bytes(picture(color))
    names = tmp_path / "classnames.txt"
    names.write_text("Red\nGreen\nBlue\n")
    assert open_labeled(tmp_path).class_names == ("Blue", "Green", "Red")  # as the folders sort
    names.write_text("rot\nGreen\nBlue\n")
    with raises_user_error(field="pair", value="name", reason="red"):
        open_labeled(tmp_path)
    assert open_labeled(tmp_path, "place").class_names == ("rot", "Green", "Blue")


@pytest.mark.parametrize("first", [0, 1])
def test_open_labeled_numbered_folders_take_the_line_of_their_number(tmp_path, first):
    for i in range(11):
        (tmp_path / str(i + first)).mkdir()
        (tmp_path / str(i + first) / "a.png").write_bytes(picture("red"))
    names = [f"thing {i}" for i in range(11)]
    (tmp_path / "classnames.txt").write_text("\n".join(names))
    folders = sorted(str(i + first) for i in range(11))
    assert open_labeled(tmp_path).class_names == tuple(names[int(f) - first] for f in folders)
