"""TFDS sets prepared as array_record, read without TensorFlow."""

import contextlib
import json
import sys

import pytest

from clip_jax.data.images.train_transforms import decode
from clip_jax.data.pipeline.prefetch import Prefetcher
from clip_jax.data.sources.tfds import TfdsSource

from ...user_errors import raises_user_error

BUILDER = """
import io
import tensorflow_datasets as tfds
from PIL import Image

class Dots(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    def _info(self):
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({
            "image": tfds.features.Image(shape=(16, 16, 3), encoding_format="png"),
            "caption": tfds.features.Text(),
        }))
    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}
    def _generate_examples(self):
        for i in range(6):
            out = io.BytesIO()
            Image.new("RGB", (16, 16), (i, 0, 0)).save(out, "PNG")
            out.seek(0)
            yield i, {"image": out, "caption": f"dot number {i}"}
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    package = root / "tiny_tfds_sets"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "dots.py").write_text(BUILDER)
    sys.path.insert(0, str(root))
    try:
        from tiny_tfds_sets.dots import Dots

        builder = Dots(data_dir=root / "data", file_format="array_record")
        builder.download_and_prepare()
    finally:
        sys.path.remove(str(root))
    assert "tensorflow" not in sys.modules
    return builder.data_path


def test_tfds_source_keeps_the_encoded_image(prepared):
    source = TfdsSource(prepared, "train", "image", "caption")
    assert len(source) == 6
    colors = {source.captions(i)[0]: int(decode(source[i].image, 16)[0, 0, 0]) for i in range(6)}
    assert colors == {f"dot number {i}": i for i in range(6)}
    assert isinstance(source[0].image, bytes)


@pytest.mark.parametrize(
    ("split", "image", "caption", "field", "value"),
    [
        ("test", "image", "caption", "split", "test"),
        ("train", "picture", "caption", "data.image_key", "picture"),
        ("train", "image", "text", "data.caption_key", "text"),
    ],
)
def test_tfds_source_of_unknown_split_or_feature_names_the_field(prepared, split, image, caption, field, value):
    with raises_user_error(source=prepared, field=field, value=value):
        TfdsSource(prepared, split, image, caption)


def test_tfds_source_of_another_folder_is_refused(tmp_path):
    with raises_user_error(field=tmp_path, reason="TFDS"):
        TfdsSource(tmp_path, "train", "image", "caption")


def test_tfds_source_of_tfrecord_names_the_command_that_converts_it(prepared, tmp_path):
    copy = tmp_path / "dots" / "1.0.0"
    copy.mkdir(parents=True)
    for file in prepared.iterdir():
        if file.suffix == ".json":
            (copy / file.name).write_bytes(file.read_bytes())
    info = json.loads((copy / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    (copy / "dataset_info.json").write_text(json.dumps(info))
    with raises_user_error(field=tmp_path / "dots/1.0.0", reason="tfrecord", hint=f"--dataset_dir={copy}"):
        TfdsSource(copy, "train", "image", "caption")


def test_tfds_source_is_read_in_worker_processes(prepared):
    source = TfdsSource(prepared, "train", "image", "caption")
    with contextlib.closing(Prefetcher(source.captions, range(6), 1, 1)) as made:
        assert list(made) == [source.captions(i) for i in range(6)]
