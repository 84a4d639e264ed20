"""A run in a bucket: the numbers of a run here, whatever befalls it."""

import json
import signal

import pytest

from clip_jax.cli.main import main
from clip_jax.config.io import to_dict
from clip_jax.evals.in_training import make_evaluator
from clip_jax.train import run_directory as r
from clip_jax.train.loop import train

from ..user_errors import error_fields, raises_user_error

THERE = "gs://bucket/sweep/run"
CLOCK = ("wall_s", "eval_s", "seconds", "goodput", "samples_per_s", "mfu", "attempts", "events")

ELSEWHERE = {"pid": 7, "host": "elsewhere", "heartbeat": 0.0}  # a lease


def rows(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.thorough
def test_bucket_run_killed_and_resumed_equals_a_local_run(
    bucket, tiny_run, tmp_path, spawn, same_params, without_times
):
    local = tmp_path / "run"
    result = train(tiny_run, local, make_evaluator, progress=False)
    child = spawn(tiny_run, THERE)
    child.wait_until(lambda: "checkpoints/4/commit_success.txt" in bucket.names("sweep/run/"))
    child.process.send_signal(signal.SIGKILL)
    child.end()
    assert "result.json" not in bucket.names("sweep/run/")
    before = rows(bucket.text("sweep/run/metrics.jsonl"))
    assert [x["step"] for x in before][:2] == [2, 4], "no checkpoint knows of steps that are not recorded"
    again = train(tiny_run, THERE, make_evaluator, progress=False)
    assert again["attempts"] == 2
    same_params(tiny_run, local, THERE)
    for name in ("metrics.jsonl", "evals.jsonl"):
        remote = rows(bucket.text(f"sweep/run/{name}"))
        assert without_times(remote) == without_times(rows((local / name).read_text()))
    assert {k: v for k, v in again.items() if k not in CLOCK} == {k: v for k, v in result.items() if k not in CLOCK}
    assert json.loads(bucket.text("sweep/run/result.json")) == json.loads(json.dumps(again.to_json()))
    files = {p.name for p in local.iterdir()} - {".lock"}
    assert {name.partition("/")[0] for name in bucket.names("sweep/run/")} - {".lease"} == files


@pytest.fixture
def record(bucket, tiny_run):
    """Begin a run directory in the bucket."""
    directory = r.RunDirectory(THERE, tiny_run)
    directory.begin(8)
    yield directory
    directory.lock.close()


def test_bucket_run_lines_precede_their_checkpoint_and_an_old_attempt_writes_none(
    bucket, tiny_run, record, monkeypatch
):
    record.append("metrics.jsonl", {"step": 1})
    assert "metrics.jsonl" not in bucket.names("sweep/run/"), "not a request a line"
    assert [x["step"] for x in record.rows("metrics.jsonl")] == [1]
    record.flush()
    assert rows(bucket.text("sweep/run/metrics.jsonl")) == [{"step": 1}]
    record.append("metrics.jsonl", {"step": 2})
    bucket.put("sweep/run/.lease/000009.json", json.dumps(ELSEWHERE).encode(), {})
    with raises_user_error(r.Busy, field="gs://bucket/sweep/run", reason="process 7 on elsewhere"):
        record.flush()
    assert rows(bucket.text("sweep/run/metrics.jsonl")) == [{"step": 1}]


def test_bucket_run_mistakes_are_one_line(bucket, tiny_run, tmp_path, record, capsys):
    config = tmp_path / "c.json"
    config.write_text(json.dumps(to_dict(tiny_run)))

    def numbers_of(run_dir):
        code = main(["train", f"--config={config}", f"--dir={run_dir}", "--quiet"])
        return code, capsys.readouterr().err

    code, line = numbers_of(THERE)
    assert (code, line.count("\n")) == (75, 1)
    assert error_fields(line) == [THERE]
    code, line = numbers_of("s3://b/run")
    assert (code, error_fields(line)) == (2, ["s3://b/run"])
    code, line = numbers_of("gs://nowhere/run")
    assert (code, error_fields(line)) == (2, ["gs://nowhere/run/.lease/000001.json"])
    bucket.put("sweep/run/config.json", b"{", {})
    code, line = numbers_of(THERE)
    assert (code, line.count("\n")) == (2, 1)
    assert error_fields(line) == [f"{THERE}/config.json"]
    bucket.refuse = 403
    code, line = numbers_of("gs://bucket/other")
    assert (code, line.count("\n")) == (2, 1)
    assert "Forbidden" in line
    with raises_user_error(reason="Forbidden"):
        r.read_json(record.path / "status.json")
