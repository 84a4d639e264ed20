"""Labeled sets for zero-shot classification."""

import io

import numpy as np
import pytest

from clip_jax.data.labeled.classification import load_classification_set

from ...user_errors import raises_user_error


@pytest.fixture
def folder(tmp_path, write_shard, jpeg):
    samples = {}
    for i in range(12):
        samples[f"{i}.jpg"] = jpeg((20 * i, 0, 0))
        samples[f"{i}.cls"] = str(i // 4).encode()
    root = tmp_path / "sets" / "reds"
    write_shard(root / "test" / "0.tar", samples)
    (root / "classnames.txt").write_text("dark\nmiddle\nbright\n")
    (root / "zeroshot_classification_templates.txt").write_text("a {c} picture\n{c}\n")
    return root


def test_load_classification_set_reads_images_labels_names_and_templates(folder):
    data = load_classification_set(folder, 16, 0)
    assert (data.name, data.class_names, data.templates) == (
        "reds",
        ("dark", "middle", "bright"),
        ("a {c} picture", "{c}"),
    )
    assert data.images.shape == (12, 16, 16, 3)
    assert data.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_load_classification_set_limit_is_spread_over_classes(folder):
    assert np.bincount(load_classification_set(folder, 16, 6).labels).tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("file", "text", "attributes"),
    [
        ("classnames.txt", None, {"field": "{file}", "reason": "no such file"}),
        ("classnames.txt", "dark\nmiddle", {"field": "label", "value": 2}),
        (
            "zeroshot_classification_templates.txt",
            "a picture",
            {"source": "{file}", "field": "template", "value": "a picture"},
        ),
        ("zeroshot_classification_templates.txt", "", {"field": "{file}", "reason": "empty"}),
        ("test/0.tar", "junk", {"field": "{file}", "reason": "tar"}),
    ],
)
def test_load_classification_set_of_a_damaged_folder_names_the_file(folder, file, text, attributes):
    (folder / file).unlink()
    if text is not None:
        (folder / file).write_text(text)
    with raises_user_error(**{k: v.format(file=folder / file) if k != "value" else v for k, v in attributes.items()}):
        load_classification_set(folder, 16, 0)


def test_load_classification_set_undecodable_image_is_named(folder, write_shard):
    write_shard(folder / "test" / "0.tar", {"x.jpg": b"junk", "x.cls": b"0"})
    with raises_user_error(source=f"{folder}/test/0.tar:x", reason="decode"):
        load_classification_set(folder, 16, 0)


def test_load_classification_set_names_are_utf8_with_or_without_byte_order_mark(tmp_path, write_shard, jpeg):
    root = tmp_path / "cafe"
    write_shard(root / "test" / "0.tar", {"a.jpg": jpeg(), "a.cls": b"2"})
    (root / "classnames.txt").write_bytes("\ufeffcafé\n\nbar\n".encode())
    (root / "zeroshot_classification_templates.txt").write_text("\ufeffa {c}\n", encoding="utf-8")
    data = load_classification_set(root, 32, 0)
    assert data.class_names == ("café", "", "bar")
    assert data.templates == ("a {c}",)
    (root / "classnames.txt").write_bytes("café\n\nbar\n".encode("latin-1"))
    with raises_user_error(field=str(root / "classnames.txt")):
        load_classification_set(root, 32, 0)


def test_load_classification_set_of_shards_without_splits(folder):
    (folder / "test" / "0.tar").rename(folder / "0.tar")
    (folder / "test").rmdir()
    assert load_classification_set(folder, 16, 0).labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_load_classification_set_of_class_folders(tmp_path, jpeg):
    for i, name in enumerate(("old_cat", "dog")):
        (tmp_path / "pets" / "test" / name).mkdir(parents=True)
        (tmp_path / "pets" / "test" / name / "a.jpg").write_bytes(jpeg((255 * i, 0, 0)))
    (tmp_path / "pets" / "zeroshot_classification_templates.txt").write_text("a {c}\n")
    task = load_classification_set(tmp_path / "pets", 16, 0)
    assert (task.class_names, task.labels.tolist()) == (("dog", "old cat"), [0, 1])
    assert task.images[:, 0, 0, 0].tolist() == [254, 0]


def test_load_classification_set_of_several_labels_is_refused(folder, write_shard, jpeg):
    out = io.BytesIO()
    np.save(out, np.array([1, 0, 1]))
    write_shard(folder / "test" / "0.tar", {"x.jpg": jpeg(), "x.npy": out.getvalue()})
    (folder / "dataset_type.txt").write_text("multilabel\n")
    with raises_user_error(reason="multi-label"):
        load_classification_set(folder, 16, 0)
