"""Published prompts: counts from the paper's tables, and a checker that can fail."""

import json

import pytest

from clip_jax.data.labeled.class_names import pair_names
from clip_jax.evals.prompts import PAPER27, POSTER, available, parse, prompt_set

from ..user_errors import raises_user_error

# classes and templates as published (Radford et al., 2021, released prompts); written down apart from the data
COUNTS = {
    "birdsnap": (500, 1), "kinetics700": (700, 28),
    "cifar10": (10, 18), "cifar100": (100, 18), "clevr_counts": (8, 1), "caltech101": (102, 34), "country211": (211, 5),
    "dtd": (47, 8), "eurosat": (10, 3), "fgvc_aircraft": (100, 2), "fer2013": (7, 6), "flowers102": (102, 1),
    "food101": (101, 1), "gtsrb": (43, 3), "hateful_memes": (2, 1), "kitti_distance": (4, 1), "mnist": (10, 1),
    "oxford_pets": (37, 1), "voc2007": (20, 1), "patch_camelyon": (2, 1), "resisc45": (45, 18), "rendered_sst2": (2, 1),
    "stl10": (10, 2), "sun397": (397, 2), "stanford_cars": (196, 8), "ucf101": (101, 48), "imagenet": (1000, 80),
}  # fmt: skip


def test_prompt_sets_of_the_paper_are_available():
    assert len(PAPER27) == len(set(PAPER27)) == 27
    assert set(PAPER27) <= set(available())
    assert set(POSTER) <= set(available())
    assert set(COUNTS) == set(PAPER27)


@pytest.mark.parametrize("name", COUNTS)
def test_prompt_set_counts_are_the_published_ones(name):
    prompts = prompt_set(name)
    assert (len(prompts.classes), len(prompts.templates)) == COUNTS[name]
    assert prompts.name == name
    assert "MIT" in prompts.license + prompts.source
    # "crane" and "maillot" name two ImageNet classes each in some lists; the published one has no doubles but these
    doubles = len(prompts.classes) - len(set(prompts.classes))
    assert doubles <= (2 if name == "imagenet" else 0)


def test_prompt_set_metrics_follow_the_paper():
    wanted = {"fgvc_aircraft": "mean_per_class", "oxford_pets": "mean_per_class", "caltech101": "mean_per_class",
              "flowers102": "mean_per_class", "voc2007": "11point_map", "hateful_memes": "roc_auc",
              "kinetics700": "mean_top1_top5"}  # fmt: skip
    for name in COUNTS:
        assert prompt_set(name).metric == wanted.get(name, "accuracy")


def test_prompt_set_prompts_are_filled_by_class():
    assert prompt_set("rendered_sst2").prompts() == [
        ["a negative review of a movie."],
        ["a positive review of a movie."],
    ]
    happy = prompt_set("fer2013").prompts()[3]
    assert len(happy) == 12
    assert "they look smiling." in happy
    assert prompt_set("birds").prompts(("wren",)) == [["a picture of a wren bird."]]
    assert prompt_set("brain_tumour").prompts(("no tumor", "glioma")) == [
        ["a MRI scan of an healthy patient"], ["a MRI scan of a patient with glioma"],
    ]  # fmt: skip


def test_parse_of_a_wrong_file_names_the_field():
    good = {"name": "x", "metric": "accuracy", "source": "s", "licence": "l", "templates": ["a {c}"], "classes": ["b"],
            "counts": {"classes": 1, "templates": 1}}  # fmt: skip
    assert parse(good, "x.json").prompts() == [["a b"]]
    for change, attributes in (
        ({"metric": "f1"}, {"field": "metric", "value": "f1"}),
        ({"counts": {"classes": 2, "templates": 1}}, {"field": "counts.classes", "value": 2}),
        ({"templates": ["a photo"]}, {"field": "template", "value": "a photo"}),
        (
            {"templates": ["a {c}", "a {c}"], "counts": {"classes": 1, "templates": 2}},
            {"field": "templates", "reason": "twice"},
        ),
        ({"classes": [""]}, {"field": "classes", "value": [""]}),
        ({"extra": 1}, {"field": "extra"}),
    ):
        with raises_user_error(source="x.json", **attributes):
            parse(good | change, "x.json")
    with raises_user_error(source="x.json", field="source"):
        parse({k: v for k, v in good.items() if k != "source"}, "x.json")
    with raises_user_error(field="prompts", value="kinetics"):
        prompt_set("kinetics")
    assert json.dumps(good)


@pytest.mark.parametrize(
    ("name", "label", "class_name", "source"),
    [("imagenet", "n02012849", "crane bird", "tensorflow-datasets"),
     ("imagenet", "n03126707", "construction crane", "tensorflow-datasets"),
     ("sun397", "/a/apartment_building/outdoor", "apartment building outdoor", "tensorflow-datasets"),
     ("eurosat", "SeaLake", "lake or sea", "tensorflow-datasets"),
     ("caltech101", "faces_easy", "centered face", "tensorflow-datasets"),
     ("flowers102", "ball moss", "air plant", "tensorflow-datasets"),
     ("fer2013", "disgust", "disgusted", "Kaggle"), ("clevr_counts", "ten", "10", "CLIP_benchmark"),
     ("country211", "CD", "DR Congo", "country211.md"), ("country211", "CH", "Switzerland", "country211.md")],
)  # fmt: skip
def test_prompt_set_labels_name_the_classes_with_their_source(name, label, class_name, source):
    known = prompt_set(name)
    assert known.classes[known.labels.index(label)] == class_name
    assert len(set(known.labels)) == len(known.labels) == len(known.classes)
    assert source in known.labels_source
    backwards = known.labels[::-1]
    order = pair_names(backwards, known.classes, name, labels=known.labels)
    assert [known.labels[i] for i in order] == list(backwards)


@pytest.mark.parametrize(
    ("name", "of_set", "class_name"),
    [("ucf101", "ApplyEyeMakeup", "Apply Eye Makeup"), ("birdsnap", "Allen's Hummingbird", "Allens Hummingbird"),
     ("kinetics700", "massaging_person's_head", "massaging person's head"),
     ("fgvc_aircraft", "F-A-18", "F/A-18"), ("voc2007", "tv_monitor", "tvmonitor")],
)  # fmt: skip
def test_prompt_set_names_that_differ_in_punctuation_pair_without_labels(name, of_set, class_name):
    known = prompt_set(name)
    assert not known.labels
    classes = [of_set if c == class_name else c for c in known.classes]
    assert of_set in classes
    assert pair_names(classes[::-1], known.classes, name) == list(range(len(classes)))[::-1]


def test_parse_labels_that_do_not_fit_are_refused():
    values = {"name": "x", "metric": "accuracy", "templates": ["a {c}"], "classes": ["a", "b"], "source": "s",
              "licence": "l", "counts": {"templates": 1, "classes": 2}}  # fmt: skip
    for field, wrong in (
        ("labels", {"labels": ["a"], "labels_source": "s"}), ("labels_source", {"labels": ["a", "b"]}),
        ("labels_source", {"labels_source": "s"}),
    ):  # fmt: skip
        with raises_user_error(source="x.json", field=field):
            parse(values | wrong, "x.json")
