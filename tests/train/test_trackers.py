"""Weights & Biases and TensorBoard."""

import dataclasses
import sys

import pytest
from PIL import Image

from clip_jax.config.io import run_id
from clip_jax.config.run import TrackingConfig, untracked
from clip_jax.train.trackers import NoTracker, open_tracker, sweep_of, track_law

from ..user_errors import raises_user_error


def test_disabled_is_nothing(tiny_run, tmp_path):
    assert isinstance(open_tracker(tiny_run, tmp_path), NoTracker)


@pytest.mark.filterwarnings("ignore")
def test_offline_leaves_its_files_beside_the_run(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    mirror = open_tracker(dataclasses.replace(tiny_run, wandb="offline"), tmp_path)
    mirror.log({"train/loss": 1.0}, 1)
    mirror.close()
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))


def test_runs_of_a_sweep_form_a_group(tmp_path):
    run_dir = tmp_path / "family" / "runs" / "abc"
    assert sweep_of(run_dir) is None
    run_dir.mkdir(parents=True)
    (tmp_path / "family" / "plan.json").write_text("{}")
    assert sweep_of(run_dir) == "family"


@pytest.mark.filterwarnings("ignore")
def test_the_law_is_a_run_of_its_own(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    figure = tmp_path / "f.png"
    Image.new("RGB", (4, 4)).save(figure)
    track_law(untracked(tiny_run), tmp_path, {"a": 1.0}, figure)
    assert not (tmp_path / "wandb").exists()
    track_law(dataclasses.replace(tiny_run, wandb="offline"), tmp_path, {"power law/b": 0.1}, figure)
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/error_vs_flops*.png"))


def test_the_law_is_beside_the_runs_in_tensorboard(tiny_run, tmp_path):
    figure = tmp_path / "f.png"
    Image.new("RGBA", (6, 4)).save(figure)
    config = dataclasses.replace(tiny_run, tracking=TrackingConfig(tensorboard=True))
    track_law(config, tmp_path, {"power law/b": 0.25}, figure)
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert events(file, "law/power_law/b") == [("start", 0), (0, 0.25)]
    assert events(file, "law/error_vs_flops") == [("start", 0), (0, (4, 6))]


@pytest.fixture
def begun(monkeypatch):
    """Return arguments of ``wandb.init``, which is not called."""
    calls = []
    monkeypatch.setattr("wandb.init", lambda **arguments: calls.append(arguments))
    for name in ("PROJECT", "ENTITY", "TAGS", "NOTES"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    return calls


def test_project_entity_tags_and_notes_are_the_fields_or_the_environment(tiny_run, tmp_path, begun, monkeypatch):
    plain = dataclasses.replace(tiny_run, wandb="offline")
    fields = TrackingConfig(wandb_project="p", wandb_entity="e", wandb_tags=("a", "b"), wandb_notes="n")
    tracked = dataclasses.replace(plain, tracking=fields)
    open_tracker(plain, tmp_path)
    monkeypatch.setenv("WANDB_PROJECT", "from-the-environment")
    open_tracker(plain, tmp_path)
    open_tracker(tracked, tmp_path)
    names = ("project", "entity", "tags", "notes")
    assert [tuple(call[name] for name in names) for call in begun] == [
        ("clip-jax", None, None, None), ("from-the-environment", None, None, None), ("p", "e", ["a", "b"], "n"),
    ]  # fmt: skip
    assert run_id(tracked) == run_id(plain) == run_id(tiny_run)
    with raises_user_error(field="tracking.wandb_entity", reason="ignored with wandb='disabled'"):
        dataclasses.replace(tiny_run, tracking=TrackingConfig(wandb_entity="e"))


def test_tensorboard_shows_the_metrics_of_both_attempts_once(tiny_run, tmp_path):
    config = dataclasses.replace(tiny_run, tracking=TrackingConfig(tensorboard=True))
    calls = []
    for steps in ((1, 2, 3), (3, 4)):  # the second goes on from a checkpoint of step 2
        tracker = open_tracker(config, tmp_path, callbacks=[lambda step, values: calls.append(step)])
        for step in steps:
            tracker.log({"train/loss": 5.0 - step}, step)
        tracker.close()
    assert calls == [1, 2, 3, 3, 4]
    first, second = sorted((tmp_path / "tensorboard").iterdir())
    assert [events(first), events(second)] == [
        [("start", 1), (1, 4.0), (2, 3.0), (3, 2.0)],
        [("start", 3), (3, 2.0), (4, 1.0)],
    ]


def events(file, tag="train/loss"):
    """Return (step, value or size) of a tag, and ("start", step) from which earlier files no longer count."""
    from tensorboardX.proto.event_pb2 import Event

    data, out = file.read_bytes(), []
    while data:  # length, its checksum, the event, its checksum
        size = int.from_bytes(data[:8], "little")
        event, data = Event.FromString(data[12 : 12 + size]), data[16 + size :]
        if event.session_log.status:
            out.append(("start", event.step))
        for value in event.summary.value:
            if value.tag == tag:
                size = (value.image.height, value.image.width)
                out.append((event.step, size if size[0] else value.simple_value))
    return out


def picture():
    return {"retrieval/examples": Image.new("RGB", (6, 4), "red")}


@pytest.mark.filterwarnings("ignore")
def test_pictures_are_drawn_once_and_shown_by_every_tracker(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    drawn = []
    config = dataclasses.replace(tiny_run, wandb="offline", tracking=TrackingConfig(tensorboard=True))
    tracker = open_tracker(config, tmp_path)
    tracker.show(lambda: drawn.append(1) or picture(), 3)
    tracker.close()
    assert drawn == [1]
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/retrieval/examples_*.png"))
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert events(file, "retrieval/examples") == [("start", 3), (3, (4, 6))]


def test_without_a_tracker_no_picture_is_drawn(tiny_run, tmp_path):
    for tracker in (NoTracker(), open_tracker(tiny_run, tmp_path, callbacks=[print])):
        tracker.show(lambda: pytest.fail("drawn"), 1)


def test_without_the_package_the_extra_is_named(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with raises_user_error(field="tracking.tensorboard", hint="pip install 'clip-jax-scaling[tensorboard]'"):
        open_tracker(dataclasses.replace(tiny_run, tracking=TrackingConfig(tensorboard=True)), tmp_path)
    assert not list(tmp_path.iterdir())


def test_tensorboardx_is_loaded_only_where_it_is_asked_for(tiny_run, tmp_path):
    before = set(sys.modules)
    open_tracker(tiny_run, tmp_path, callbacks=[print]).close()
    assert "tensorboardX" not in set(sys.modules) - before
