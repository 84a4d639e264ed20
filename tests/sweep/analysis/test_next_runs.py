"""The next runs of a sweep: a planted power law, sharpened where the design says."""

import re

import numpy as np
import pandas as pd
import pytest

from clip_jax.cli.main import main
from clip_jax.config.io import to_dict
from clip_jax.config.sweep import SweepConfig
from clip_jax.storage.json_files import write_json
from clip_jax.sweep.analysis import next_runs as module
from clip_jax.sweep.analysis.next_runs import next_runs

from ...user_errors import raises_user_error

SWEEP = SweepConfig(name="s", rungs=(0.5, 1, 2, 4), budgets=(1e10, 1e11, 1e12, 1e13))


def runs(noise=0.01, budgets=SWEEP.budgets):
    """Return five sizes a budget in a valley whose bottom is at 30,000 parameters for 1e10, and grows as C^0.5."""
    rng, rows = np.random.default_rng(0), []
    same = {"kind": "cell", "final": True, "batch_size": 64, "state": "finished"}
    for budget in budgets:
        for factor in (0.125, 0.35, 1.0, 2.8, 8.0):
            params = 3e4 * (budget / 1e10) ** 0.5 * factor
            for seed in range(2):
                y = 10 * budget**-0.1 * np.exp(0.1 * np.log(factor) ** 2 + noise * rng.standard_normal())
                shape = {"budget": budget, "flops": budget, "params": params, "samples_seen": budget / 6 / params}
                rows.append({"run_id": f"{len(rows)}", **shape, "error_mean": y, "seed": seed, **same})
    return pd.DataFrame(rows)


@pytest.fixture
def sweep_dir(tmp_path, monkeypatch):
    write_json(tmp_path / "sweep.json", to_dict(SWEEP))
    write_json(tmp_path / "plan.json", {"cells": []})
    monkeypatch.setattr("clip_jax.sweep.collect.collect", lambda root: runs())
    return tmp_path


def test_next_runs_narrow_the_forecast_within_the_budget(sweep_dir):
    plan, text = next_runs(sweep_dir, 1e15, budget=6e13)
    assert plan.after < plan.before
    assert plan.cost <= 6e13
    assert f"±{plan.after:.2%}" in text
    budgets, seeds = re.search(r"takes them with --budgets=(\S+) --extra_seeds_at_optimum=(\S*)$", text).groups()
    assert {*SWEEP.budgets} < {*map(float, budgets.split(","))}
    assert budgets.startswith("1e+10,")
    assert {*SWEEP.extra_seeds_at_optimum} <= {*map(int, seeds.split(","))}
    assert "at rung " in text  # the valleys are identified
    assert max(row.runs for row in plan.chosen) <= module.MAX_SEEDS


def test_next_runs_to_a_width_cost_less_than_the_budget(sweep_dir):
    plan, _ = next_runs(sweep_dir, 1e15, budget=6e13)
    cheaper, _ = next_runs(sweep_dir, 1e15, half_width=(plan.before + plan.after) / 2)
    assert cheaper.after <= (plan.before + plan.after) / 2
    assert cheaper.cost < plan.cost


def test_next_runs_size_follows_the_valleys(sweep_dir):
    wanted = module.optimal_params([{"status": "accepted", "budget": 1e10, "params": 3e4}], 0.5, 4e10)
    assert wanted == pytest.approx(6e4)


@pytest.mark.parametrize(
    ("arguments", "attributes"),
    [
        ({"target": 1e15}, {"field": "--budget, --precision", "reason": "exactly one"}),
        ({"target": 1e12, "budget": 1e13}, {"field": "--at", "value": 1000000000000.0}),
        ({"target": 1e15, "budget": 1e9}, {"field": "--budget", "value": 1000000000.0}),
        ({"target": 1e15, "budget": 1e13, "law": "chinchilla"}, {"field": "--law", "value": "chinchilla"}),
    ],
)
def test_next_runs_missing_or_wrong_arguments_are_refused(sweep_dir, arguments, attributes):
    with raises_user_error(**attributes):
        next_runs(sweep_dir, **arguments)


def test_next_runs_of_two_budgets_is_refused(sweep_dir, monkeypatch):
    monkeypatch.setattr("clip_jax.sweep.collect.collect", lambda root: runs(budgets=(1e10, 1e11)))
    with raises_user_error(reason="2 budgets"):
        next_runs(sweep_dir, 1e15, budget=1e13)


def test_sweep_next_from_the_command_line(sweep_dir, capsys):
    assert main(["sweep", "next", f"--dir={sweep_dir}", "--at=1e15", "--budget=6e13"]) == 0
    assert "runs, " in capsys.readouterr().out
