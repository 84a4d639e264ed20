"""The zero-shot tasks of the world."""

import numpy as np

from clip_jax.config import ScenesConfig
from clip_jax.data.scenes.scenes import ScenesSource
from clip_jax.data.scenes.tasks import zero_shot_tasks

TASKS = {t.name: t for t in zero_shot_tasks(ScenesConfig(), 32, 192)}


def test_zero_shot_tasks_hold_every_task():
    assert set(TASKS) == {
        "background", "colour", "count", "texture", "position", "relation", "family", "object_head", "object_common",
        "object_middling", "object_rare", "composition", "style_shift",
    }  # fmt: skip
    classes = {n: len(t.class_names) for n, t in TASKS.items()}
    assert [classes["object_" + b] for b in ("head", "common", "middling", "rare")] == [4, 12, 48, 192]


def test_zero_shot_tasks_are_balanced_with_distinct_names():
    for task in TASKS.values():
        counts = np.bincount(task.labels, minlength=len(task.class_names))
        assert counts.max() - counts.min() <= 1, task.name
        assert len(set(task.class_names)) == len(task.class_names)
        assert all("{c}" in template for template in task.templates)
        assert task.images.shape == (192, 32, 32, 3)


def test_zero_shot_tasks_labels_are_visible_in_the_images():
    corner = TASKS["position"].images.reshape(192, 2, 16, 2, 16, 3).transpose(0, 1, 3, 2, 4, 5).reshape(192, 4, -1, 3)
    busy = (corner != corner[:, :, :1]).any(axis=(2, 3))
    assert np.array_equal(busy.argmax(axis=1), TASKS["position"].labels)
    assert (busy.sum(axis=1) == 1).all()
    same = {}
    for image, label in zip(TASKS["background"].images, TASKS["background"].labels, strict=True):
        colors, counts = np.unique(image.reshape(-1, 3), axis=0, return_counts=True)
        same.setdefault(int(label), set()).add(tuple(colors[counts.argmax()].tolist()))
    assert all(len(v) == 1 for v in same.values())


def test_zero_shot_tasks_repeat_and_share_no_training_scene():
    again = zero_shot_tasks(ScenesConfig(), 32, 192)
    for task in again:
        assert np.array_equal(task.images, TASKS[task.name].images)
    train = {x.tobytes() for x in ScenesSource(ScenesConfig(), "train", 32).batch(np.arange(192))[0]}
    common = [x.tobytes() in train for x in TASKS["object_rare"].images]
    assert not any(common)


def test_zero_shot_tasks_of_a_small_world_lack_empty_bands():
    names = {t.name for t in zero_shot_tasks(ScenesConfig(objects=16), 32, 16)}
    assert "object_common" in names
    assert "object_rare" not in names
