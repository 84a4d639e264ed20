"""Published class names and prompt templates, stored as data (``prompt_data/``) with their source and license."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import Literal, get_args

from clip_jax.data.labeled.class_names import check_templates
from clip_jax.errors import UserError, one_of

OPTIONAL = {"literal", "labels", "labels_source"}
Metric = Literal["accuracy", "mean_per_class", "11point_map", "roc_auc", "mean_top1_top5"]
METRICS: tuple[Metric, ...] = get_args(Metric)

# Radford et al., 2021, table 9; CIFAR is two sets.
PAPER27 = (
    "food101", "cifar10", "cifar100", "birdsnap", "sun397", "stanford_cars", "fgvc_aircraft", "voc2007", "dtd",
    "oxford_pets", "caltech101", "flowers102", "mnist", "fer2013", "stl10", "eurosat", "resisc45", "gtsrb",
    "kitti_distance", "country211", "patch_camelyon", "ucf101", "kinetics700", "clevr_counts", "hateful_memes",
    "rendered_sst2", "imagenet",
)  # fmt: skip
POSTER = ("minerals", "food", "birds", "brain_tumour", "sports")
SUITES = {"paper27": PAPER27, "poster": POSTER}


@dataclass(frozen=True)
class PromptSet:
    """Prompts of one data set. ``classes`` is () if the data set's own class names are to be used.

    ``literal`` gives the full prompts of a class in place of the templates. ``labels`` are the names of the classes in
    the set's own files, in the order of ``classes``; ``labels_source`` says where they are documented.
    """

    name: str
    metric: Metric
    templates: tuple[str, ...]
    classes: tuple[str, ...]
    literal: dict[str, tuple[str, ...]]
    source: str
    license: str
    labels: tuple[str, ...] = ()
    labels_source: str = ""

    def prompts(self, class_names: tuple[str, ...] = ()) -> list[list[str]]:
        """Return the prompts of each class; ``class_names`` is used if the prompt set has no class names."""
        return [
            list(self.literal.get(c, tuple(t.replace("{c}", c) for t in self.templates)))
            for c in self.classes or class_names
        ]


def parse(values: object, source: str) -> PromptSet:
    """Check the content of a prompt file. Raises UserError, one line, naming the field that is wrong."""
    fields = {"name", "metric", "templates", "classes", "counts", "source", "licence"} | OPTIONAL
    if not isinstance(values, dict):
        raise UserError(field=source, reason="must hold a JSON object")
    for field in sorted(fields - OPTIONAL - set(values)):
        raise UserError(source=source, field=field, reason="missing")
    for field in sorted(set(values) - fields):
        raise UserError(source=source, field=field, reason="unknown field")
    one_of("metric", values["metric"], METRICS, source)
    for field in ("templates", "classes"):
        items = values[field]
        if not isinstance(items, list) or not all(isinstance(i, str) and i for i in items):
            raise UserError(source=source, field=field, value=items, reason="must be a list of texts")
        if len(items) != values["counts"].get(field):
            reason = f"there are {len(items)} {field}"
            raise UserError(source=source, field=f"counts.{field}", value=values["counts"].get(field), reason=reason)
    labels = values.get("labels", [])
    if not isinstance(labels, list) or len(labels) not in (0, len(values["classes"])):
        raise UserError(source=source, field="labels", reason="must be a list with a label for each class")
    if bool(labels) != bool(values.get("labels_source")):
        reason = "must name the source of the labels"
        raise UserError(source=source, field="labels_source", value=values.get("labels_source"), reason=reason)
    check_templates(values["templates"], source)
    if len(set(values["templates"])) < len(values["templates"]):
        raise UserError(source=source, field="templates", reason="a template occurs twice")
    return PromptSet(
        values["name"], values["metric"], tuple(values["templates"]), tuple(values["classes"]),
        {k: tuple(v) for k, v in values.get("literal", {}).items()}, values["source"], values["licence"],
        tuple(labels), values.get("labels_source", ""),
    )  # fmt: skip


def available() -> tuple[str, ...]:
    """Return the names of the built-in prompt sets."""
    folder = resources.files("clip_jax.evals").joinpath("prompt_data")
    return tuple(sorted(f.name.removesuffix(".json") for f in folder.iterdir() if f.name.endswith(".json")))


def prompt_set(name: str) -> PromptSet:
    """Return a built-in prompt set. Raises UserError listing the names when there is none of that name."""
    one_of("prompts", name, available())
    file = resources.files("clip_jax.evals").joinpath("prompt_data", f"{name}.json")
    return parse(json.loads(file.read_text()), f"prompt_data/{name}.json")
