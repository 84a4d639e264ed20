"""Sweeps whose runs take their first steps from trunks."""

import dataclasses

import pytest

from clip_jax.config import RunConfig
from clip_jax.config.hyperparameter_rules import BudgetRules
from clip_jax.config.sweep import SweepConfig
from clip_jax.errors import ConfigError
from clip_jax.evals.in_training import make_evaluator
from clip_jax.storage.json_files import read_json, read_lines
from clip_jax.sweep.analysis.spending import spending
from clip_jax.sweep.driver import render, run_sweep
from clip_jax.sweep.plan import make_plan
from clip_jax.sweep.status import status_table
from clip_jax.train.loop import train
from clip_jax.train.run_directory import checkpoints_in

from ..user_errors import raises_user_error

BASE = RunConfig(checkpoint_every=10)
BASE = dataclasses.replace(BASE, optim=dataclasses.replace(BASE.optim, schedule="wsd", lr_decay_fraction=0.25))
SWEEP = SweepConfig(
    name="s", base=BASE, trunks=True, rungs=(0.5, 1), budgets=(1e10, 2e10, 4e10), sizes_per_budget=0, min_steps=40
)


def test_plan_counts_each_shared_step_once():
    plan = make_plan(SWEEP)
    assert len(plan.trunks) == 2
    for trunk in plan.trunks:
        assert trunk.until == max(c.branch_at for c in trunk.cells)
        assert trunk.flops < max(c.flops for c in trunk.cells)
        assert {c.config.model for c in trunk.cells} == {trunk.config.model}
    for cell in plan.kept:
        assert cell.branch_at % 10 == 0
        assert 0 <= 0.75 * cell.config.steps - cell.branch_at < 10
        assert cell.trained_flops == pytest.approx(cell.flops * (1 - cell.branch_at / cell.config.steps))
    spent = sum(c.trained_flops for c in plan.kept) + sum(t.flops for t in plan.trunks)
    saved = 1 - spent / sum(c.flops for c in plan.kept)
    assert f"{saved:.0%} are saved" in plan.table()
    rows = plan.rows()
    assert [r["kind"] for r in rows] == ["trunk"] * 2 + ["cell"] * len(plan.cells)
    assert all("branch_at" not in r for r in make_plan(dataclasses.replace(SWEEP, trunks=False)).rows())


def test_plan_without_two_runs_of_a_size_has_no_trunk():
    plan = make_plan(dataclasses.replace(SWEEP, budgets=(1e10,)))
    assert not plan.trunks
    assert not any(c.branch_at for c in plan.cells)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("base.optim.schedule", {"base": RunConfig()}),
        ("warmup_fraction", {"warmup_fraction": 0.2}),
        ("compute_scaling.lr_power", {"compute_scaling": BudgetRules(1e10, lr_power=-0.1)}),
        ("vmap_runs", {"vmap_runs": "auto"}),
        (
            "base.optim.optimizer",
            {
                "base": dataclasses.replace(
                    BASE, optim=dataclasses.replace(BASE.optim, optimizer="schedule_free", lr_decay_fraction=0.0)
                )
            },
        ),
        (
            "base.evals.at_fractions",
            {"base": dataclasses.replace(BASE, evals=dataclasses.replace(BASE.evals, at_fractions=(0.5,)))},
        ),
    ],
)
def test_setting_that_budgets_cannot_share_is_refused(field, changes):
    with raises_user_error(ConfigError, field=field):
        dataclasses.replace(SWEEP, **changes)


@pytest.fixture(scope="module")
def sweep(tiny_run):
    base = dataclasses.replace(
        tiny_run,
        checkpoint_every=4,
        log_every=4,
        optim=dataclasses.replace(tiny_run.optim, schedule="wsd", lr_decay_fraction=0.25, warmup_steps=2),
        evals=dataclasses.replace(tiny_run.evals, at_fractions=()),
    )
    step = make_plan(SweepConfig(name="x", base=base, rungs=(0.5,), budgets=(1e9,), min_steps=1)).kept[0]
    step = step.flops / step.config.steps
    return SweepConfig(
        name="s", base=base, trunks=True, rungs=(0.5,), budgets=(12 * step, 24 * step), sizes_per_budget=0, min_steps=1,
        extra_seeds_at_optimum=(), lr_multipliers=(),
    )  # fmt: skip


@pytest.mark.thorough
def test_sweep_with_trunks_ends_with_the_numbers_of_separate_runs(sweep, tmp_path):
    lines = []
    run_sweep(sweep, tmp_path / "trunks", lines.append)
    cells = make_plan(sweep).kept
    assert [c.branch_at for c in cells] == [8, 16]
    rows = read_json(tmp_path / "trunks" / "plan.json")["cells"]
    (trunk,) = [r["run_id"] for r in rows if r["kind"] == "trunk"]
    runs = tmp_path / "trunks" / "runs"
    for cell in cells:
        result = read_json(runs / cell.run_id / "result.json")
        assert result["branched_from"] == {"trunk": trunk, "step": cell.branch_at}
        first = [e["step"] for e in read_lines(runs / cell.run_id / "events.jsonl") if e["event"] == "attempt"]
        assert first == [cell.branch_at]
        alone = train(cell.config, tmp_path / "alone" / cell.run_id, make_evaluator, progress=False)
        assert result["evals"] == [dict(e) for e in alone["evals"]]
    assert checkpoints_in(runs / trunk) == [16], "only the last one, off which the trunk can grow"
    spent = spending(tmp_path / "trunks", "error_mean")
    step = cells[0].flops / cells[0].config.steps
    assert spent.law_points == pytest.approx((12 + 24) * step)
    assert spent.trained == pytest.approx((16 + 4 + 8) * step)
    assert spent.best_separate == pytest.approx((12 + 24) * step)
    assert (spent.checks, spent.repeated) == (0, 0)
    assert spent.evaluations > 0
    assert spent.text in "".join(lines)
    text = status_table(tmp_path / "trunks", every_run=True)
    assert "3 finished" in text
    assert "100% of the planned FLOPs" in text
    assert "  trunks: 1 finished\n" in status_table(tmp_path / "trunks")

    grown = dataclasses.replace(sweep, budgets=(*sweep.budgets, 2 * sweep.budgets[-1]))
    assert f"--trunk={runs / trunk}" in render(grown, tmp_path / "trunks")
    run_sweep(grown, tmp_path / "trunks", lines.append)
    (new,) = [c for c in make_plan(grown).kept if c.run_id not in {c.run_id for c in cells}]
    assert read_json(runs / new.run_id / "result.json")["branched_from"]["step"] == 36
    attempts = [e["step"] for e in read_lines(runs / trunk / "events.jsonl") if e["event"] == "attempt"]
    assert attempts == [0, 16]
