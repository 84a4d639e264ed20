"""How runs stand."""

import time

import pytest

from clip_jax.config.io import to_dict
from clip_jax.config.sweep import SweepConfig
from clip_jax.storage.json_files import write_json
from clip_jax.sweep.analysis.law_so_far import law_so_far
from clip_jax.sweep.plan import make_plan
from clip_jax.sweep.run_state import RunState
from clip_jax.sweep.status import run_row, status_table

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
def test_run_row_state_follows_the_files_and_the_queue(tmp_path, files, state):
    for name, values in files.items():
        if "age" in values:  # of the heartbeat, counted from now: collecting may be long ago
            values = values | {"heartbeat": time.time() - values["age"]}
        write_json(tmp_path / f"{name}.json", values)
    row = run_row(RunState.read(tmp_path))
    assert row.state == state
    if state == "failed" and "failure" in files:
        assert row.reason == "boom"


BUDGETS = (1e10, 1e11, 1e12, 1e13)


@pytest.fixture
def sweep(tmp_path):
    """Return (a sweep of four budgets of which the two smallest have finished, the function that finishes a budget)."""
    config = SweepConfig(
        name="s", rungs=(0.5, 1), budgets=BUDGETS, sizes_per_budget=0, min_steps=1, max_concurrent_runs=2
    )
    plan = make_plan(config)
    write_json(tmp_path / "sweep.json", to_dict(config))
    write_json(tmp_path / "plan.json", {"cells": plan.rows()})

    def finish(budget):
        for cell in plan.kept:
            if cell.budget == budget:
                numbers = {"flops": cell.flops, "params": cell.params, "wall_s": 10 + cell.flops / 1e11}
                error = 3.0 * cell.flops**-0.06
                (run_dir := tmp_path / "runs" / cell.run_id).mkdir(parents=True)
                write_json(run_dir / "result.json", WHOLE | numbers | {"final": True, "error_mean": error, "evals": []})

    finish(BUDGETS[0])
    finish(BUDGETS[1])
    return tmp_path, finish


def test_status_of_eighty_columns_has_progress_time_left_and_the_law(sweep):
    root, finish = sweep
    calls = []

    def law(finished):
        calls.append(finished)
        return law_so_far(root, "error_mean")

    text = status_table(root, slots=2, columns=80, law=law)
    assert text.splitlines()[0].startswith("  1.00e+10 FLOPs: 2 finished, best error 0.75")
    assert "  1.00e+12 FLOPs: 2 waiting" in text
    assert "1% of the planned FLOPs; about 2 min left, 2 at once" in text  # 2 × (10 + 10) and 2 × (10 + 100) s, by two
    assert "(10 s per run + FLOPs at 100 GFLOP/s, measured on 4)" in text
    assert "law" not in text
    assert not calls
    finish(BUDGETS[2])
    text = status_table(root, slots=2, columns=80, law=law)
    assert calls == [6]
    assert text.splitlines()[-1] == "  law so far: error_mean = 3·C^-0.06, from the best sizes of 3 budgets"
    assert max(map(len, text.splitlines())) <= 80
    every = status_table(root, slots=2, columns=80, every_run=True)
    assert len(every.splitlines()) == len(BUDGETS) * 2 + 4
    assert max(map(len, every.splitlines())) <= 80


def test_law_so_far_of_two_budgets_gives_the_reason(sweep):
    assert law_so_far(sweep[0], "error_mean") == "no law yet: 2 points, power law needs 3"
