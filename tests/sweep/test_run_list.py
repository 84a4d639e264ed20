"""The runs below a folder."""

import json

from clip_jax.cli.main import main
from clip_jax.sweep.run_list import list_runs

from ..user_errors import error_fields, raises_user_error


def test_each_run_below_a_folder_has_a_line(tmp_path):
    for name, status in {
        "one": {"state": "failed", "step": 3, "steps": 1000, "reason": "the loss is nan"},
        "family/runs/abc": {"state": "stopped", "step": 20, "steps": 40, "reason": "SIGTERM"},
    }.items():
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "status.json").write_text(json.dumps(status))
    (tmp_path / "one" / "metrics.jsonl").write_text('{"step": 3, "loss": 2.5}\n')
    head, *lines = list_runs(tmp_path).splitlines()
    assert head.split() == ["run", "state", "step/steps", "loss"]
    assert [line.split(maxsplit=2)[:2] for line in lines] == [
        [f"{tmp_path}/family/runs/abc", "stopped"],
        [f"{tmp_path}/one", "failed"],
    ]
    assert lines[0].endswith("20/40         SIGTERM")
    assert lines[1].split(maxsplit=2)[2] == "3/1,000  2.500  the loss is nan"
    assert max(map(len, list_runs(tmp_path / "one", 80).splitlines())) <= 80 or len(str(tmp_path)) > 40


def test_a_folder_without_runs_is_said(tmp_path, capsys):
    with raises_user_error(field="DIR", value=tmp_path, reason="there is no run below it"):
        list_runs(tmp_path)
    with raises_user_error(field="DIR", value="gs://b/runs", reason="must be a folder on this machine"):
        list_runs("gs://b/runs")
    assert main(["runs", "list", str(tmp_path / "gone")]) == 2
    assert error_fields(capsys.readouterr().err) == ["DIR"]
