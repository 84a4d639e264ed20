"""The files of a run directory."""

import dataclasses
import errno
import json

import pytest

from clip_jax.config import UserError
from clip_jax.train import record as r


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "status.json"
    r.write_json(path, {"a": 1})

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(r.os, "fsync", full)
    with pytest.raises(UserError, match="the disk is full"):
        r.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["status.json"]


def test_nan_becomes_null(tmp_path):
    r.write_json(tmp_path / "x.json", {"a": float("nan"), "b": [float("inf"), 1.5]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": [None, 1.5]}


def test_a_line_cut_by_a_kill_is_passed_over_and_a_bad_one_is_named(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert [x["step"] for x in r.read_lines(path)] == [1, 2]
    path.write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"m\.jsonl: line 2"):
        r.read_lines(path)


def test_another_config_is_refused_by_its_first_different_field(tmp_path, tiny_run):
    record = r.Record(tmp_path / "run", tiny_run)
    assert not (tmp_path / "run").exists()
    record.begin(8)
    with pytest.raises(UserError, match="optim.peak_lr is 0.003 there and 0.5 here"):
        r.Record(
            tmp_path / "run",
            dataclasses.replace(tiny_run, optim=dataclasses.replace(tiny_run.optim, peak_lr=0.5)),
        )
    r.Record(tmp_path / "run", dataclasses.replace(tiny_run, wandb="offline"))


def test_attempts_and_wall_time_add_up(tmp_path, tiny_run):
    first = r.Record(tmp_path, tiny_run)
    first.begin(8)
    first.started -= 100
    first.beat(force=True, step=4)
    second = r.Record(tmp_path, tiny_run)
    assert second.attempt == 2
    assert second.wall_s >= 100


def test_cut_back_forgets_later_steps(tmp_path, tiny_run):
    record = r.Record(tmp_path, tiny_run)
    record.begin(8)
    record.append("metrics.jsonl", *({"step": s} for s in (2, 4, 6)))
    record.cut_back(4)
    assert [x["step"] for x in r.read_lines(tmp_path / "metrics.jsonl")] == [2, 4]


def test_only_the_writer_writes(tmp_path, tiny_run):
    record = r.Record(tmp_path / "run", tiny_run, writer=False)
    record.begin(8)
    record.append("metrics.jsonl", {"step": 1})
    record.finish({"state": "finished", "exit_reason": ""})
    assert not (tmp_path / "run").exists()


def test_a_file_in_the_way_is_named(tmp_path, tiny_run):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="is a file"):
        r.Record(tmp_path / "run", tiny_run)
