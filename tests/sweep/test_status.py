"""How runs stand."""

import time

import pytest

from clip_jax.storage.json_files import write_json
from clip_jax.sweep.run_state import RunState
from clip_jax.sweep.status import run_row

from ..whole_result import WHOLE


@pytest.mark.parametrize(
    ("files", "state"),
    [
        ({}, "waiting"),
        ({"status": {"state": "running", "step": 4, "age": 0}}, "running"),
        ({"status": {"state": "running", "step": 4, "age": 500}}, "stale"),
        ({"status": {"state": "stopped", "step": 4, "heartbeat": 0}}, "stopped"),
        ({"status": {"state": "failed", "step": 4}, "failure": {"reason": "boom"}}, "failed"),
        ({"failure": {"reason": "boom"}}, "failed"),
        ({"status": {"state": "finished"}, "result": WHOLE | {"steps": 9, "error_mean": 0.5}}, "finished"),
    ],
)
def test_states(tmp_path, files, state):
    for name, values in files.items():
        if "age" in values:  # of the heartbeat, counted from now: collecting may be long ago
            values = values | {"heartbeat": time.time() - values["age"]}
        write_json(tmp_path / f"{name}.json", values)
    row = run_row(RunState.read(tmp_path))
    assert row.state == state
    if state == "failed" and "failure" in files:
        assert row.reason == "boom"
