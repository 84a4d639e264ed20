"""Progress line and Weights & Biases."""

import dataclasses
import io

import pytest
from PIL import Image

from clip_jax.train.trackers import NoTracker, Progress, open_tracker, sweep_of, track_law


def test_the_line_says_all():
    out = io.StringIO()
    progress = Progress(100, 0, stream=out)
    progress.show(50, 1.23456, 1234.0, 0.456)
    assert "50/100" in out.getvalue()
    assert all(word in out.getvalue() for word in ("loss 1.2346", "1,234 samples/s", "MFU 45.6%", "left"))
    assert "MFU unknown" in progress.text(50, 1.0, None, None)


def test_hidden_means_silent():
    out = io.StringIO()
    Progress(10, 0, stream=out, shown=False).show(5, 1.0, 1.0, None)
    assert out.getvalue() == ""


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
def test_the_law_is_a_run_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    figure = tmp_path / "f.png"
    Image.new("RGB", (4, 4)).save(figure)
    track_law("disabled", tmp_path, {"a": 1.0}, figure)
    assert not (tmp_path / "wandb").exists()
    track_law("offline", tmp_path, {"power law/b": 0.1}, figure)
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/error_vs_flops*.png"))
