"""Planning: what is kept, what is dropped, and why."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_jax import flops
from clip_jax.config import DataConfig, ModelConfig, ParametrizationConfig, RunConfig, TextTowerConfig
from clip_jax.config.hyperparameter_rules import BudgetRules
from clip_jax.config.sweep import Resources, SweepConfig
from clip_jax.errors import ConfigError
from clip_jax.sweep.plan import make_plan, setting_checks, training_pairs
from clip_jax.sweep.run_times import RunTimes

from ..user_errors import raises_user_error

SWEEP = SweepConfig(name="s", rungs=(0.5, 1, 2, 4), budgets=(1e10, 1e11), sizes_per_budget=0, min_steps=10)


@given(st.lists(st.floats(1e10, 1e13), min_size=1, max_size=4, unique=True))
def test_budgets_are_met_within_one_step(budgets):
    for cell in make_plan(SweepConfig(name="s", budgets=tuple(budgets), min_steps=2)).kept:
        step = cell.flops / cell.config.steps
        assert abs(cell.flops - cell.budget) <= step / 2 * 1.001


def test_the_same_config_plans_the_same_runs():
    assert make_plan(SWEEP).rows() == make_plan(SWEEP).rows()
    ids = [c.run_id for c in make_plan(SWEEP).kept]
    assert len(set(ids)) == len(ids) == 8 - sum(c.reason is not None for c in make_plan(SWEEP).cells)


def test_too_few_steps():
    plan = make_plan(SweepConfig(name="s", rungs=(1, 8), budgets=(1e10,), min_steps=20, sizes_per_budget=0))
    assert plan.cells[0].reason is None
    assert plan.cells[1].reason.startswith("too few steps: ")
    assert "min_steps=20" in plan.cells[1].reason


def test_too_many_epochs():
    base = RunConfig(data=DataConfig(unique_samples=1000), batch_size=64)
    plan = make_plan(SweepConfig(name="s", base=base, rungs=(0.5, 4), budgets=(1e10,), max_epochs=5, min_steps=2), 1000)
    assert "epochs > max_epochs=5" in plan.cells[0].reason
    assert plan.cells[1].reason is None
    with raises_user_error(ConfigError, field="max_epochs", reason="endless"):
        make_plan(SweepConfig(name="s", max_epochs=5))


def test_sizes_nearest_to_the_guess_are_kept():
    plan = make_plan(SweepConfig(name="s", rungs=(0.5, 1, 2, 3, 4), budgets=(1e12,), sizes_per_budget=3,
                                 optimum_samples_per_param=1.0, min_steps=2))  # fmt: skip
    ratios = [abs(1 - (c.config.samples_seen / c.params)) for c in plan.kept]
    assert len(ratios) == 3
    dropped = [c for c in plan.cells if c.reason == "away from the guessed optimum"]
    assert len(dropped) == 2


def test_seeds_are_added_to_the_bases():
    base = RunConfig(seed=100)
    plan = make_plan(SweepConfig(name="s", base=base, budgets=(1e10,), seeds=(0, 3), min_steps=2))
    assert {c.config.seed for c in plan.cells} == {100, 103}


def test_the_learning_rate_shrinks_with_width():
    plan = make_plan(SWEEP)
    rates = {c.config.model.image.width: c.config.optim.peak_lr for c in plan.cells}
    assert rates[32] == pytest.approx(4e-3)
    assert rates[8] == pytest.approx(8e-3)


MUP = ModelConfig(embed_dim=24, parametrization=ParametrizationConfig("mup", 32, 32))
RULED = dataclasses.replace(SWEEP, base=RunConfig(model=MUP), lr_rule="mup")


def test_under_mup_the_rate_is_one_and_only_width_and_depth_grow():
    plan = make_plan(RULED)
    assert {c.config.optim.peak_lr for c in plan.cells} == {4e-3}
    models = [c.config.model for c in plan.cells]
    assert {m.embed_dim for m in models} == {24}
    assert {m.image.width // m.image.heads for m in models} == {64 // 4}
    assert {m.image.width for m in models} == {16, 32, 64}


@pytest.mark.parametrize(
    ("changes", "attributes"),
    [
        ({"lr_rule": "linear"}, {"field": "lr_rule", "value": "linear"}),
        ({"lr_rule": "width_power"}, {"field": "lr_rule", "value": "width_power"}),
        ({"lr_width_power": 1.0}, {"field": "base_width, lr_width_power", "reason": "ignored with"}),
        ({"base": RunConfig()}, {"field": "lr_rule", "value": "mup"}),
    ],
)
def test_a_rule_that_does_not_fit_is_an_error(changes, attributes):
    with raises_user_error(ConfigError, **attributes):
        dataclasses.replace(RULED, **changes)


def test_a_constant_rate():
    plan = make_plan(dataclasses.replace(SWEEP, lr_rule="constant"))
    assert {c.config.optim.peak_lr for c in plan.cells} == {4e-3}


def test_settings_follow_the_budget():
    rules = BudgetRules(1e10, lr_power=-0.5, batch_power=0.5, warmup_power=-0.25, weight_decay_power=0.5)
    sweep = dataclasses.replace(SWEEP, budgets=(1e10, 1e12), compute_scaling=rules, rungs=(2,))
    usual, ruled = make_plan(dataclasses.replace(sweep, compute_scaling=BudgetRules())).cells, make_plan(sweep).cells
    assert ruled[0].config == usual[0].config  # at the base budget
    run, plain = ruled[1].config, usual[1].config
    assert run.batch_size == 8 * plain.batch_size  # 10, to the nearest power of two
    assert run.optim.peak_lr == pytest.approx(plain.optim.peak_lr / 10)
    assert run.optim.weight_decay == pytest.approx(plain.optim.weight_decay * 10)
    assert abs(run.optim.warmup_steps - sweep.warmup_fraction / 10**0.5 * run.steps) <= 0.5
    assert ruled[1].flops == pytest.approx(1e12, rel=0.01)


def test_a_power_needs_its_budget():
    for wrong in ({"lr_power": 0.5}, {"base_budget": 1e9}):
        with raises_user_error(ConfigError, field="compute_scaling.base_budget"):
            BudgetRules(**wrong)


def test_nothing_left_is_an_error():
    with raises_user_error(ConfigError, field="budgets, rungs", reason="min_steps=50"):
        make_plan(SweepConfig(name="s", budgets=(1e6,)))


def test_the_table_shows_every_cell_and_the_total():
    text = make_plan(SWEEP).table()
    assert text.count("\n") == len(make_plan(SWEEP).cells) + 3
    assert "runs kept" in text
    assert max(map(len, text.splitlines())) <= 130


@pytest.mark.parametrize(
    ("objective", "encoder"),
    [("contrastive", "bag_of_words"), ("bag_of_words", "transformer"), ("caption", "transformer")],
)
def test_every_objective_is_planned_to_the_same_compute(objective, encoder):
    model = ModelConfig(objective=objective, text=TextTowerConfig(encoder=encoder))
    plan = make_plan(dataclasses.replace(SWEEP, base=RunConfig(model=model)))
    for cell, usual in zip(plan.cells, make_plan(SWEEP).cells, strict=True):
        assert cell.budget == usual.budget
        assert abs(cell.flops - cell.budget) <= cell.flops / cell.config.steps / 2 * 1.001
        assert cell.config.model.image == usual.config.model.image
        cheaper = flops.flops_per_sample(cell.config.model).total < flops.flops_per_sample(usual.config.model).total
        assert cheaper == (cell.config.steps > usual.config.steps)
    tower = plan.cells[-1].config.model.text
    assert (tower.width, tower.depth) == {"caption": (64, 2)}.get(objective, (64, TextTowerConfig.depth))


def test_named_sizes_in_place_of_rungs():
    base = RunConfig(model=ModelConfig(compute_dtype="bfloat16", remat=True), batch_size=1024)
    config = SweepConfig(name="s", base=base, models=("ViT-B/32", "ViT-L/14"), budgets=(1e20,), sizes_per_budget=0)
    small, large = make_plan(config).kept
    assert (small.size, large.size) == (0, 1)
    assert large.config.model.image.width == 1024
    assert large.config.model.remat
    assert large.config.model.compute_dtype == "bfloat16"
    with raises_user_error(ConfigError, field="rungs", reason="models"):
        SweepConfig(name="s", models=("ViT-B/32",), rungs=(1, 2))
    with raises_user_error(ConfigError, field="preset", value="ViT-B/33"):
        make_plan(SweepConfig(name="s", models=("ViT-B/33",)))


def test_the_table_ends_in_what_it_costs():
    config = dataclasses.replace(
        SWEEP, resources=Resources(price_per_device_hour=2.0), gflops_per_second=1.0, lr_multipliers_at="rungs"
    )
    kept = make_plan(config).kept
    hours = sum(c.flops for c in kept) / 1e9 / 3600
    text = make_plan(config).table()
    assert f"{sum(c.flops for c in kept):.3g} FLOPs" in text
    assert f"{hours:.3g} device-hours, {2 * hours:.3g} at 2 each" in text
    assert "8 at each size's smallest budget (learning rates × [0.5, 2.0])" in text
    with raises_user_error(ConfigError, field="lr_multipliers_at", reason="lr_multipliers"):
        SweepConfig(name="s", lr_multipliers=(), lr_multipliers_at="rungs")


def test_times_are_arithmetic_until_runs_were_measured():
    plan = make_plan(dataclasses.replace(SWEEP, gflops_per_second=1.0))
    text = plan.table()
    assert "times are training arithmetic only" in text
    assert "at 1 GFLOP/s per slot" in text
    text = plan.table(RunTimes(60.0, 0.0, 5))
    assert "arithmetic" not in text
    assert f"about {len(plan.kept)} min 1 at once (1 min per run, measured on 5)" in text


def test_passes_over_the_data_are_in_the_plan_with_a_warning_above_four():
    plan = make_plan(SWEEP)
    most = max(c.config.samples_seen for c in plan.kept)
    assert "passes" not in plan.table()
    few = plan.table(pairs=most)
    assert few.splitlines()[0].split().index("passes") == few.splitlines()[0].split().index("samples") + 1
    assert "up to" not in few.splitlines()[-1]
    text = plan.table(pairs=most // 8)
    assert text.splitlines()[-1].startswith(" up to 8 passes over the data (above 4, repeated pairs are worth less")
    assert max(map(len, text.splitlines())) <= 140


def test_training_pairs_are_counted_where_the_data_is(pairs_dir):
    def pairs(**data):
        return training_pairs(dataclasses.replace(SWEEP, base=RunConfig(data=DataConfig(**data))))

    assert pairs() is None
    assert pairs(unique_samples=9) == 9
    assert pairs(source="webdataset", paths=(str(pairs_dir),)) == 20
    assert pairs(source="webdataset", paths=(str(pairs_dir / "none"),)) is None
    assert pairs(source="webdataset", paths=("gs://bucket/pairs",)) is None


def test_checks_change_one_setting_and_are_counted():
    config = dataclasses.replace(
        SWEEP, weight_decay_multipliers=(0.5, 4), warmup_multipliers=(0.01, 0.02, 3), batch_multipliers=(0.5, 64)
    )
    usual = next(c for c in make_plan(config).kept if (c.size, c.budget) == (0.5, 1e10)).config
    cells = setting_checks(config, 0.5, 1e10)
    assert [c.kind for c in cells] == ["batch_check"] * 2 + ["warmup_check"] * 2 + ["decay_check"] * 2
    half, _, *warm, low, high = (c.config for c in cells)
    assert half.batch_size == usual.batch_size / 2
    assert half.steps == pytest.approx(2 * usual.steps, rel=0.02)
    assert cells[1].reason.startswith("too few steps"), "a batch 64 times as large"
    assert warm[0].optim.warmup_steps == 1, "as both short ones, so it stands once"
    assert warm[1].optim.warmup_steps == pytest.approx(3 * usual.optim.warmup_steps, abs=2)
    assert (low.optim.weight_decay, high.optim.weight_decay) == (0.05, 0.4)
    assert dataclasses.replace(low, optim=usual.optim) == usual
    text = make_plan(config).table()
    assert (
        "14 runs at each budget's best (batch × [0.5, 64], warm-up × [0.01, 0.02, 3], weight decay × [0.5, 4])" in text
    )


def test_a_batch_that_cannot_be_is_said_before_anything_runs():
    base = RunConfig(batch_size=128, microbatch_size=64)
    attributes = {"field": "batch_multipliers", "reason": "must divide"}
    with raises_user_error(ConfigError, **attributes):
        make_plan(dataclasses.replace(SWEEP, base=base, batch_multipliers=(0.25,)))
    with raises_user_error(ConfigError, field="batch_multipliers", reason="batch_size=0.5"):
        make_plan(dataclasses.replace(SWEEP, batch_multipliers=(2**-8,)))


@pytest.mark.parametrize(
    ("seeds", "rates", "stages"),
    [
        ((1,), (0.5, 2), "then up to 2 runs at each budget's best (seeds [1]) and 4 at each budget's best (learning"),
        ((), (0.5, 2), "then up to 4 runs at each budget's best (learning rates × [0.5, 2])"),
        ((1,), (), "then up to 2 runs at each budget's best (seeds [1]): at most"),
        ((), (), None),
    ],
)
def test_the_table_names_the_later_stages_that_there_are(seeds, rates, stages):
    table = make_plan(
        SweepConfig(name="s", budgets=(1e10, 1e11), extra_seeds_at_optimum=seeds, lr_multipliers=rates, min_steps=1)
    ).table()
    assert stages in table if stages else "then up to" not in table
