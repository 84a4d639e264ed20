"""The files of a run directory."""

import dataclasses
import errno
import json

import pytest

from clip_jax.config import MeshConfig, TrackingConfig
from clip_jax.config.io import run_id, to_dict
from clip_jax.storage.lock import Busy
from clip_jax.train import run_directory as r

from ..user_errors import raises_user_error


def test_write_json_on_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "status.json"
    r.write_json(path, {"a": 1})

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(r.os, "fsync", full)
    with raises_user_error(field=tmp_path / "status.json", reason="disk is full"):
        r.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["status.json"]


def test_write_json_writes_non_finite_as_null(tmp_path):
    r.write_json(tmp_path / "x.json", {"a": float("nan"), "b": [float("inf"), 1.5]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": [None, 1.5]}


def test_read_lines_skips_a_truncated_last_line_and_names_a_bad_one(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert [x["step"] for x in r.read_lines(path)] == [1, 2]
    path.write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with raises_user_error(field=f"{tmp_path}/m.jsonl: line 2", reason="not JSON"):
        r.read_lines(path)


@pytest.fixture
def begin():
    """Return the function that begins run directories; their locks are released at the end."""
    begun = []

    def start(*args, **kwargs):
        begun.append(r.RunDirectory(*args, **kwargs))
        begun[-1].begin(8)
        return begun[-1]

    yield start
    for record in begun:
        record.lock.close()


def test_run_directory_of_another_config_names_the_first_difference(tmp_path, tiny_run, begin):
    r.RunDirectory(tmp_path / "run", tiny_run)
    assert not (tmp_path / "run").exists()
    begin(tmp_path / "run", tiny_run)
    with raises_user_error(field=tmp_path / "run", reason="optim.peak_lr is 0.003 there and 0.5 here"):
        r.RunDirectory(
            tmp_path / "run",
            dataclasses.replace(tiny_run, optim=dataclasses.replace(tiny_run.optim, peak_lr=0.5)),
        )


def with_lr(run, lr):
    return dataclasses.replace(run, optim=dataclasses.replace(run.optim, peak_lr=lr))


def test_run_directory_that_failed_at_its_start_takes_a_corrected_config(tmp_path, tiny_run, begin):
    first = begin(tmp_path, tiny_run)
    first.note_input("tokenizer_sha256", "old")
    first.event("attempt")
    for name in r.OF_CONFIG:
        (tmp_path / name).write_text("{}")
    first.end("failed", "ConfigError: …")
    first.lock.close()
    corrected = with_lr(tiny_run, 0.5)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    again = r.RunDirectory(tmp_path, corrected)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before, "nothing written yet"
    assert (again.run_id, again.attempt, again.inputs) == (run_id(corrected), 1, {})
    begin(tmp_path, corrected)
    assert json.loads((tmp_path / "config.json").read_text()) == to_dict(corrected)
    status = again.read_status()
    assert (status["run_id"], status["state"], status["attempt"]) == (run_id(corrected), "running", 1)
    assert "tokenizer_sha256" not in status
    assert not any((tmp_path / name).exists() for name in r.OF_CONFIG)
    attempt, config = r.RunDirectory(tmp_path, corrected).events()
    assert (attempt["event"], config["event"]) == ("attempt", "config")
    assert config["reason"].endswith("optim.peak_lr is 0.003 there and 0.5 here")
    with raises_user_error(field=tmp_path, reason="belongs to another config"):
        r.RunDirectory(tmp_path, tiny_run)


def test_run_directory_killed_while_replacing_the_config_accepts_either(tmp_path, tiny_run, begin, monkeypatch):
    first = begin(tmp_path, tiny_run)
    first.end("failed", "ConfigError: …")
    first.lock.close()
    again = r.RunDirectory(tmp_path, with_lr(tiny_run, 0.5))
    monkeypatch.setattr(r, "remove", lambda path: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):
        again.begin(8)
    again.lock.close()
    monkeypatch.undo()
    for lr in (0.003, 0.25):
        assert r.RunDirectory(tmp_path, with_lr(tiny_run, lr)).attempt == 1


@pytest.mark.parametrize(
    ("state", "files"), [("stopped", ()), ("failed", ("checkpoints/4/x",)), ("failed", ("result.json",))]
)
def test_run_directory_with_a_checkpoint_or_result_keeps_its_config(tmp_path, tiny_run, begin, state, files):
    record = begin(tmp_path, tiny_run)
    record.end(state, "a reason")
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    with raises_user_error(field=tmp_path, reason="belongs to another config"):
        r.RunDirectory(tmp_path, with_lr(tiny_run, 0.5))


def test_run_directory_taken_over_by_another_process_is_busy(tmp_path, tiny_run, begin):
    first = begin(tmp_path, tiny_run)
    first.end("failed", "ConfigError: …")
    first.lock.close()
    late = r.RunDirectory(tmp_path, with_lr(tiny_run, 0.25))
    other = begin(tmp_path, with_lr(tiny_run, 0.5))
    other.end("stopped", "SIGTERM")
    other.lock.close()
    with raises_user_error(Busy, field=tmp_path, reason="another process"):
        late.begin(8)
    late.lock.close()


def test_run_directory_accepts_another_mesh_and_tracking(tmp_path, tiny_run, begin):
    first = begin(tmp_path, tiny_run)
    tracking = TrackingConfig(wandb_tags=("a",), tensorboard=True)
    other = dataclasses.replace(tiny_run, wandb="offline", tracking=tracking, mesh=MeshConfig(fsdp=4))
    assert r.RunDirectory(tmp_path, other).run_id == first.run_id == run_id(tiny_run) != run_id(other)


def test_run_directory_accepts_a_config_without_later_fields(tmp_path, tiny_run):
    values = to_dict(tiny_run)
    del values["anomalies"]
    r.write_json(tmp_path / "config.json", values)
    assert r.RunDirectory(tmp_path, tiny_run).run_id == run_id(tiny_run)
    r.write_json(tmp_path / "config.json", values | {"colour": 1})
    with raises_user_error(field=tmp_path, reason="colour: unknown field"):
        r.RunDirectory(tmp_path, tiny_run)


def test_run_directory_keeps_the_former_default_of_auto_fields(tmp_path, tiny_run):
    values = to_dict(tiny_run)
    values["model"]["remat_policy"] = "nothing"
    del values["model"]["attention"]
    r.write_json(tmp_path / "config.json", values)
    record = r.RunDirectory(tmp_path, tiny_run)
    assert record.run_id == run_id(tiny_run)
    assert (tiny_run.model.remat_policy, record.config.model.remat_policy) == ("auto", "nothing")


def test_run_directory_adds_wall_time_over_attempts(tmp_path, tiny_run, begin):
    first = begin(tmp_path, tiny_run)
    first.started -= 100
    first.heartbeat(force=True, step=4, seconds={"step": 90.0})
    second = r.RunDirectory(tmp_path, tiny_run)
    assert second.attempt == 2
    assert second.wall_s >= 100
    assert second.seconds_before == {"step": 90.0}


def test_truncate_after_drops_later_rows_and_keeps_events(tmp_path, tiny_run, begin):
    record = begin(tmp_path, tiny_run)
    for name in ("metrics.jsonl", "evals.jsonl"):
        record.append(name, *({"step": s, "task": "t", "metric": "m", "value": 0.5} for s in (2, 4, 6)))
    record.event("spike", step=6)
    record.truncate_after(4)
    assert [x["step"] for x in r.read_lines(tmp_path / "metrics.jsonl")] == [2, 4]
    assert [x["step"] for x in r.read_lines(tmp_path / "evals.jsonl")] == [2, 4]
    assert [(e["event"], e["step"], e["attempt"]) for e in record.events()] == [("spike", 6, 1)]


def test_run_directory_event_after_a_truncated_line_is_whole(tmp_path, tiny_run, begin):
    begin(tmp_path, tiny_run).lock.close()
    (tmp_path / "events.jsonl").write_text('{"event": "attempt", "step": 0}\n{"event": "sp')
    begin(tmp_path, tiny_run).event("attempt", step=2)
    assert [e["step"] for e in r.read_lines(tmp_path / "events.jsonl")] == [0, 2]


def test_run_directory_older_attempt_writes_nothing(tmp_path, tiny_run, begin):
    old = begin(tmp_path, tiny_run)
    old.lock.close()  # as on a file system without locks
    new = begin(tmp_path, tiny_run)
    with raises_user_error(field=tmp_path, reason="attempt 2 on"):
        old.heartbeat(force=True, step=3)
    old.end("failed", "taken over")
    status = r.read_json(tmp_path / "status.json")
    assert (status["attempt"], status["state"], new.attempt) == (2, "running", 2)


def test_run_directory_of_a_superseded_submission_does_not_begin(tmp_path, tiny_run, begin, monkeypatch):
    about = {"engine": "local", "index": 0, "attempt": 1, "tries": 1, "step": 0, "accepted": True}
    r.write_json(tmp_path / r.SUBMISSION_FILE, about | {"name": "clip-new"})
    monkeypatch.setenv(r.SUBMISSION, "clip-old")
    with raises_user_error(Busy, field=tmp_path, reason="clip-new"):
        begin(tmp_path, tiny_run)
    assert not (tmp_path / "status.json").exists()
    monkeypatch.setenv(r.SUBMISSION, "clip-new")
    assert begin(tmp_path, tiny_run).attempt == 1


def test_run_directory_without_writer_writes_nothing(tmp_path, tiny_run):
    record = r.RunDirectory(tmp_path / "run", tiny_run, writer=False)
    record.begin(8)
    record.append("metrics.jsonl", {"step": 1})
    record.event("attempt")
    record.finish({"state": "finished", "exit_reason": ""})
    assert not (tmp_path / "run").exists()


def test_run_directory_where_a_file_is_in_the_way_is_refused(tmp_path, tiny_run):
    (tmp_path / "run").write_text("")
    with raises_user_error(field=tmp_path / "run", reason="is a file"):
        r.RunDirectory(tmp_path / "run", tiny_run)
