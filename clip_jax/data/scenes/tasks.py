"""Zero-shot tasks on procedural scenes, of graded difficulty; training never shows these scenes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from clip_jax.config import ScenesConfig
from clip_jax.data.labeled.classification import ClassificationSet
from clip_jax.data.scenes import captions as text
from clip_jax.data.scenes.scenes import FAMILIES, Scenes, allowed_color, render, sample, world

HEAD, COMMON, MIDDLING = 4, 16, 64  # upper ranks of the frequency bands of objects
_PLAIN = ("{c}", "a picture of {c}", "a drawing of {c}", "this is {c}.")


def _with(templates: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(p.format(c=t) for t in templates for p in _PLAIN)


_OF_A = _with(("a {c}",))
_SOME = _with(tuple("a {c} " + noun for noun in text.NOUNS))


def _single(s: Scenes) -> Scenes:
    n = len(s.object)
    s.count, s.other = np.zeros(n, np.int64), np.full(n, -1)
    return s


def zero_shot_tasks(config: ScenesConfig, image_size: int, examples: int) -> list[ClassificationSet]:
    """Return every task, each with ``examples`` images spread evenly over its classes.

    A pure function of the arguments. Tasks: ``background colour count texture position relation family``, objects by
    frequency (``object_head object_common object_middling object_rare``), pairs of color and family withheld from
    training (``composition``), and common objects in another drawing style (``style_shift``).
    """
    w = world(config)
    ranks = config.objects
    by_rank = w.object_of_rank
    bands = {
        "object_head": by_rank[: min(HEAD, ranks)],
        "object_common": by_rank[HEAD : min(COMMON, ranks)],
        "object_middling": by_rank[COMMON : min(MIDDLING, ranks)],
        "object_rare": by_rank[MIDDLING:],
        "style_shift": by_rank[: min(COMMON, ranks)],
    }
    pairs = np.argwhere(w.withheld)
    tasks: list[ClassificationSet] = []

    def add(
        name: str, classes: list[str], templates: tuple[str, ...], put: Callable[[Scenes, np.ndarray], Scenes],
        *, shifted: bool = False,
    ) -> None:  # fmt: skip
        if len(classes) < 2:
            return
        labels = np.arange(examples) % len(classes)
        scenes = put(sample(config, 2 + len(tasks), np.arange(examples)), labels)
        images = render(config, scenes, image_size, shifted=shifted)
        tasks.append(ClassificationSet(name, images, labels.astype(np.int32), tuple(classes), templates))

    def setter(field: str, *, single: bool = True) -> Callable[[Scenes, np.ndarray], Scenes]:
        def put(s: Scenes, labels: np.ndarray) -> Scenes:
            s = _single(s) if single else s
            setattr(s, field, labels)
            return s

        return put

    def put_count(s: Scenes, labels: np.ndarray) -> Scenes:
        s = _single(s)
        s.count = labels
        return s

    def put_relation(s: Scenes, labels: np.ndarray) -> Scenes:
        # the first object is red and the second blue, so the classes differ in their order only
        other = sample(config, 1, np.arange(len(labels)) + 1_000_000).object
        s.count = np.zeros(len(labels), np.int64)
        s.other = np.where(other == s.object, (other + 1) % config.objects, other)
        s.color, s.other_color = np.zeros(len(labels), np.int64), np.full(len(labels), 2)
        s.relation = labels
        return s

    def put_object(objects: np.ndarray) -> Callable[[Scenes, np.ndarray], Scenes]:
        def put(s: Scenes, labels: np.ndarray) -> Scenes:
            s = _single(s)
            s.object = objects[labels]
            s.color = allowed_color(w, s.object, s.color)
            return s

        return put

    def put_family(s: Scenes, labels: np.ndarray) -> Scenes:
        s = _single(s)
        s.object = labels * w.per_family + s.object % w.per_family
        s.color = allowed_color(w, s.object, s.color)
        return s

    def put_pair(s: Scenes, labels: np.ndarray) -> Scenes:
        s = _single(s)
        s.object = pairs[labels, 0] * w.per_family + s.object % w.per_family
        s.color = pairs[labels, 1]
        return s

    grounds = _with(tuple(text.article(noun) + f" {noun} on {{c}}" for noun in text.NOUNS))
    corners = _with(tuple(text.article(noun) + f" {noun} in the {{c}}" for noun in text.NOUNS))
    relations = _with(tuple("a red " + noun + " {c} a blue " + noun for noun in text.NOUNS))
    add("background", list(text.BACKGROUNDS), grounds, setter("background"))
    add("colour", list(text.COLORS), _SOME, setter("color"))
    add("count", ["an object", *(f"{n} objects" for n in text.NUMBERS[1:])], _PLAIN, put_count)
    add("texture", list(text.TEXTURES), _SOME, setter("texture"))
    add("position", list(text.CORNERS), corners, setter("corner"))
    add("relation", list(text.RELATIONS), relations, put_relation)
    add("family", [w.families[f] for f in range(FAMILIES)], _OF_A, put_family)
    for band in ("object_head", "object_common", "object_middling", "object_rare"):
        add(band, [w.names[o] for o in bands[band]], _OF_A, put_object(bands[band]))
    add("composition", [f"{text.COLORS[c]} {w.families[f]}" for f, c in pairs], _OF_A, put_pair)
    add(
        "style_shift", [w.names[o] for o in bands["style_shift"]], _OF_A, put_object(bands["style_shift"]), shifted=True
    )
    return tasks
