"""Pooled laws of several tasks: planted tables, what pooling gains, and what is refused."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from clip_jax.scaling.analysis.pooled import JointModel, fit_pooled
from clip_jax.scaling.fit.loss import Loss
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.laws import SaturatingPowerLaw

from ...user_errors import raises_user_error

BENCHMARK = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "fit_pooled.py"))


@pytest.fixture
def planted():
    return BENCHMARK["table"](np.random.default_rng(0))


def test_fit_pooled_recovers_exact_tables():
    rows, truth = BENCHMARK["table"](np.random.default_rng(1), noise=1e-4)
    pooled = fit_pooled(rows, draws=400)
    for i, parameters in enumerate(pooled.parameters().values()):
        assert parameters["E"].value == pytest.approx(truth["E"][i], rel=0.02)
        assert parameters["b"].value == pytest.approx(truth["b"][i], rel=0.02)
    assert pooled.mean(1e14).value == pytest.approx(truth["curve"](1e14).mean(), rel=2e-3)


@pytest.mark.parametrize("chance", [None, np.full(2, 0.9)])
def test_pooled_model_derivatives_equal_finite_differences(chance):
    rng = np.random.default_rng(2)
    x, index = rng.normal(size=10), np.repeat([0, 1], 5)
    model = JointModel(x, np.log(np.full(10, 0.4)), index, 2, np.full(10, 1e-4), chance)
    z, hyper = rng.normal(size=(1, 8)) * 0.3, np.array([[0.5, 0.3, 0.05]])
    matrix, linear = model.prior(hyper)
    gradient = model.hessian(z, hyper, matrix, linear)[0][0]
    for i in range(8):
        step = 1e-6 * np.eye(8)[i]
        up, down = (model.energy(z + s * step, hyper, matrix, linear)[0] for s in (1, -1))
        assert gradient[i] == pytest.approx((up - down) / 2e-6, rel=1e-5, abs=1e-6)


def test_fit_pooled_without_pooling_equals_separate_fits(planted):
    rows, _ = planted
    log_c = np.log(rows["flops"].to_numpy())
    index = np.searchsorted([f"t{i}" for i in range(6)], rows["task"].to_numpy(str))
    model = JointModel(log_c - log_c.mean(), np.log(rows["error"].to_numpy()), index, 6, np.zeros(len(rows)), None)
    z, _, _ = model.minimize(np.array([[50.0, 50.0, 0.001]]), model.start)
    for i in range(6):
        one = rows[rows["task"] == f"t{i}"]
        fit = fit_law(SaturatingPowerLaw(), one["flops"], one["error"], loss=Loss("squares"), fixed={}, profile=False)
        if fit.values["E"] > 0.02:
            assert np.exp(z[0, i]) == pytest.approx(fit.values["E"], rel=0.02)
            assert np.exp(z[0, 12 + i]) == pytest.approx(fit.values["b"], rel=0.02)


def test_fit_pooled_narrows_intervals_of_similar_tasks():
    rows, _ = BENCHMARK["table"](np.random.default_rng(3), spread=(0.1, 0.05))
    pooled, alone = (fit_pooled(rows, pool=p, draws=1000).parameters() for p in (True, False))
    widths = [np.median([p[k].width for p in intervals.values()]) for intervals in (pooled, alone) for k in ("b",)]
    assert widths[0] < 0.85 * widths[1]


def test_fit_pooled_intervals_cover_planted_tables():
    # The smallest form of the benchmark.
    shares, _ = BENCHMARK["coverage"]({}, 4, draws=400)
    assert shares["b"][0] >= 0.75
    assert shares["error at 10x"][0] >= 0.75


def test_fit_pooled_with_chance_stays_below_it():
    rows, truth = BENCHMARK["table"](np.random.default_rng(4), chance=0.9)
    pooled = fit_pooled(rows, chance={f"t{i}": 0.9 for i in range(6)}, draws=400)
    assert (pooled.curves(1e3) <= 0.9).all()
    assert (pooled.asymptotes < 0.9).all()
    for i, interval in enumerate(pooled.forecast(1e12).values()):
        assert interval.value == pytest.approx(truth["curve"](1e12)[i], rel=0.05)


def test_fit_pooled_few_test_examples_widen_the_intervals():
    rows, _ = BENCHMARK["table"](np.random.default_rng(5), noise=0.005)
    plain, few = (fit_pooled(rows.assign(examples=200), examples=e, draws=400) for e in (None, "examples"))
    assert few.mean(1e13).width > 2 * plain.mean(1e13).width


def test_fit_pooled_run_effects_widen_the_mean():
    rows, _ = BENCHMARK["table"](np.random.default_rng(6), together=0.8)
    apart, named = (fit_pooled(rows, run=r, draws=400).mean(1e13) for r in (None, "run"))
    assert named.width > 1.3 * apart.width


def test_fit_pooled_as_data_holds_the_forecast(planted):
    rows, _ = planted
    pooled = fit_pooled(rows, draws=200)
    data = pooled.as_data(1e14)
    assert set(data["forecast"]["tasks"]) == set(pooled.tasks)
    assert data["forecast"]["mean"]["low"] < data["forecast"]["mean"]["high"]


@pytest.mark.parametrize(
    ("change", "options", "attributes"),
    [
        (lambda d: d[d["task"] < "t2"], {}, {"field": "task", "value": 2}),
        (lambda d: d[d["flops"] < 1e11], {}, {"source": "t0", "field": "flops", "value": 3}),
        (lambda d: d.assign(error=0.0), {}, {"field": "flops, error"}),
        (lambda d: d, {"error": "loss"}, {"field": "loss", "reason": "column"}),
        (lambda d: d, {"run": "run_id"}, {"field": "run_id", "reason": "column"}),
        (lambda d: d, {"chance": {"t0": 0.9}}, {"field": "chance", "reason": "t1, t2"}),
        (lambda d: d, {"chance": {f"t{i}": 0.05 for i in range(6)}}, {"field": "chance", "reason": "mean error"}),
    ],
)
def test_fit_pooled_impossible_tables_are_refused(planted, change, options, attributes):
    with raises_user_error(**attributes):
        fit_pooled(change(planted[0]), **options)
