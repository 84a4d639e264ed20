"""Cells that share a program: every one once, together only with its like, and only where it pays."""

import dataclasses
import json
import subprocess
import sys

import pytest

from clip_jax.config import RunConfig
from clip_jax.config.sweep import SweepConfig
from clip_jax.sweep.batching import group_cells, keep_faster_groups, measure_gain, vmapped_arguments
from clip_jax.sweep.plan import make_cell
from clip_jax.train.vmapped.benchmark import Gain

from ..user_errors import raises_user_error

SWEEP = SweepConfig(name="x")


def cells(base=None):
    config = SweepConfig(name="x", base=base or RunConfig())
    rates = [make_cell(config, 1, 1e11, 0, kind="lr_check", lr_factor=f) for f in (0.5, 1, 2)]
    seeds = [make_cell(config, 1, 1e11, s) for s in (1, 2)]
    others = [make_cell(config, 1, 2e11, 0), make_cell(config, 2, 1e11, 0)]
    return [rates[0], others[0], *rates[1:], others[1], *seeds]


def gain(steady, start_s=0.0):
    return Gain(2, "vmap", 100, 64, start_s, 1e-9, 1e-9, 1e-9, 1.0, 2 / steady)


def test_group_cells_groups_one_shape_and_length():
    every = cells()
    groups = group_cells(every, 8)
    assert [len(g) for g in groups] == [5, 1, 1]
    assert sorted(c.run_id for g in groups for c in g) == sorted(c.run_id for c in every)
    assert {(c.size, c.budget) for c in groups[0]} == {(1, 1e11)}
    assert [len(g) for g in group_cells(every, 3)] == [2, 3, 1, 1]
    assert [len(g) for g in group_cells(every, 1)] == [1] * 7


def test_group_cells_incompatible_runs_stand_alone():
    every = cells(dataclasses.replace(RunConfig(), microbatch_size=64))
    assert [len(g) for g in group_cells(every, 8)] == [1] * 7


def test_keep_faster_groups_drops_groups_with_gain_below_one(tmp_path):
    groups, lines = group_cells(cells(), 8), []
    assert keep_faster_groups(groups, SWEEP, tmp_path, lines.append, lambda *_: gain(1.2)) == groups
    assert "gain 1.20" in lines[0]
    assert lines[0].endswith(": used")
    apart = keep_faster_groups(groups, SWEEP, tmp_path, lines.append, lambda *_: gain(0.7))
    assert [len(g) for g in apart] == [1] * 7
    assert lines[1].endswith("steps 0.70): not used")
    # a slow step is made good by one start in place of two
    assert keep_faster_groups(groups, SWEEP, tmp_path, lines.append, lambda *_: gain(0.7, start_s=1e9)) == groups


def test_keep_faster_groups_measures_each_shape_once(tmp_path):
    asked = []

    def measure(configs, folder, config):
        asked.append(folder)
        folder.parent.mkdir(exist_ok=True)
        folder.with_suffix(".json").write_text(json.dumps(dataclasses.asdict(gain(1.5))))
        return gain(1.5)

    for _ in range(2):
        keep_faster_groups(group_cells(cells(), 8), SWEEP, tmp_path, lambda line: None, measure)
    assert len(asked) == 1
    keep_faster_groups(group_cells(cells(), 3), SWEEP, tmp_path, lambda line: None, measure)
    assert len(asked) == 3, "another number of members is another measurement"


@pytest.mark.slow
def test_measure_gain_runs_on_this_machine(tiny_run, tmp_path):
    configs = [tiny_run, dataclasses.replace(tiny_run, seed=1)]
    gain = measure_gain(configs, tmp_path / "measured", SWEEP)
    assert (gain.members, gain.steps, gain.form) == (2, 8, "vmap")
    assert min(gain.start_s, gain.compile_first_s, gain.compile_family_s, gain.step_s, gain.step_family_s) > 0
    assert gain.step_family_s > gain.step_s
    with raises_user_error(field="vmap_runs", reason="batch_size=8"):
        measure_gain([tiny_run, dataclasses.replace(tiny_run, batch_size=8)], tmp_path / "bad", SWEEP)


def test_keep_faster_groups_drops_groups_that_fail_to_run(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", "false")
    lines = []
    apart = keep_faster_groups(group_cells(cells(), 8), SWEEP, tmp_path, lines.append)
    assert [len(g) for g in apart] == [1] * 7
    assert lines[0].endswith("not used; vmap_runs: timing 5 runs failed (without a message)")


def test_batching_imports_no_jax():
    code = "import sys, clip_jax.sweep.batching; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_vmapped_arguments_are_those_of_the_command(tmp_path):
    assert vmapped_arguments([tmp_path / "a", tmp_path / "b"]) == (
        "family", str(tmp_path / "a"), str(tmp_path / "b"), "--form=vmap", "--quiet",
    )  # fmt: skip
