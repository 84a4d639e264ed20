"""Compute-optimal sizes and samples: against closed forms, on planted tables, and where nothing bounds them."""

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clip_jax.scaling.fit.loss import Loss
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.frontier.allocation import compute_optimal_allocation, expanded_tail
from clip_jax.scaling.frontier.cost import Cost, dense_cost, fit_cost
from clip_jax.scaling.frontier.cost_path import minimize_along_cost
from clip_jax.scaling.frontier.parametric import fit_parametric
from clip_jax.scaling.laws import (
    BoundedChinchilla,
    Chinchilla,
    ClipTowers,
    DataRepetition,
    OverTraining,
    PowerLaw,
)

from ...user_errors import raises_user_error

BENCHMARK = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "fit_allocation.py"))
VALUES = BENCHMARK["CHINCHILLA"]
BUDGETS = np.array([1e18, 1e21, 1e24])


def fitted(law, values, columns, noise=0.0, **options):
    """Return a fit whose parameters are the planted ones (``noise`` 0), or those of a noisy table."""
    y = law.curve(values, {c: np.log(v) for c, v in columns.items()}, np)
    y = y * np.exp(noise * np.random.default_rng(0).standard_normal(len(y)))
    fit = fit_law(law, columns, y, loss=Loss("squares"), fixed={}, **options)
    return fit if noise else replace(fit, theta=law.theta(values, fit.references))


@pytest.fixture(scope="module")
def exact():
    return fitted(Chinchilla(), VALUES, BENCHMARK["cloud"](40), profile=False)


def test_minimize_along_cost_equals_the_closed_form(exact):
    thetas = np.stack(
        [exact.law.theta({**VALUES, "alpha": a, "beta": b}, exact.references) for a, b in [(0.35, 0.37), (0.2, 0.5)]]
    )
    path = minimize_along_cost(exact, thetas, BUDGETS, dense_cost(exact.law))
    values = {k: v[:, None] for k, v in exact.law.describe(thetas, exact.references).items()}
    size, data = exact.law.optimum(values, BUDGETS)
    np.testing.assert_allclose(np.exp(path.sizes["params"]), size, rtol=1e-5)
    np.testing.assert_allclose(np.exp(path.samples), data, rtol=1e-5)
    np.testing.assert_allclose(path.value, exact.law.at_optimum(values, BUDGETS), rtol=1e-12)
    np.testing.assert_allclose(
        path.exponents["params"], np.broadcast_to([[0.37 / 0.72], [0.5 / 0.7]], (2, 3)), rtol=1e-5
    )
    assert not path.edge.any()


def test_minimize_along_cost_of_the_bounded_law_equals_its_two_terms():
    law, values = BoundedChinchilla(), BENCHMARK["BOUNDED"]
    fit = fitted(law, values, BENCHMARK["valleys"](42, 1e15, 1e19), profile=False)
    path = minimize_along_cost(fit, fit.theta[None], BUDGETS[:2], dense_cost(law))
    size, data = Chinchilla().optimum({**values, "A": values["a"], "B": values["b"]}, BUDGETS[:2])
    np.testing.assert_allclose(np.exp(path.sizes["params"][0]), size, rtol=1e-4)
    np.testing.assert_allclose(np.exp(path.samples[0]), data, rtol=1e-4)


def test_minimize_along_cost_of_two_towers_equals_the_search():
    law, values = ClipTowers(), BENCHMARK["TOWERS"]
    fit = fitted(law, values, BENCHMARK["towers"](40), profile=False)
    cost = Cost({"params_image": (300.0, 1.0), "params_text": (462.0, 1.0)}, 1e7)
    path = minimize_along_cost(fit, fit.theta[None], BUDGETS[:2], cost)
    for k, flops in enumerate(BUDGETS[:2]):
        image, text, data = law.optimum(values, flops, (300.0, 462.0, 1e7))
        optimum = [path.sizes["params_image"][0, k], path.sizes["params_text"][0, k], path.samples[0, k]]
        np.testing.assert_allclose(np.exp(optimum), [image, text, data], rtol=2e-3)


def test_allocation_of_overtraining_has_one_ratio_at_all_budgets():
    fit = fitted(OverTraining(), BENCHMARK["OVER"], BENCHMARK["cloud"](40), profile=False)
    allocation = compute_optimal_allocation(fit, BUDGETS, draws=2)
    ratios = [o.samples_per_param.value for o in allocation.optima]
    # d/dN of a·N^-eta + b·6^(-eta/2)·D^-eta along N·D constant
    wanted = (190.0 / 110.0) ** (1 / 0.24) * 6**-0.5
    np.testing.assert_allclose(ratios, wanted, rtol=1e-4)


def test_allocation_of_repetition_with_many_unique_samples_equals_chinchilla():
    law = DataRepetition()
    fit = fitted(law, BENCHMARK["REPEATED"], BENCHMARK["repeated"](60), profile=False)
    path = minimize_along_cost(fit, fit.theta[None], BUDGETS[:2], dense_cost(law), {"unique_samples": 1e14})
    plenty = Chinchilla().optimum(VALUES, BUDGETS[:2])
    scarce = minimize_along_cost(fit, fit.theta[None], BUDGETS[1:2], dense_cost(law), {"unique_samples": 1e9})
    # the law bends where N passes the size that is optimal for its samples, which is the optimum itself
    np.testing.assert_allclose(np.exp(path.samples[0]), plenty[1], rtol=1e-3)
    assert scarce.samples[0, 0] > path.samples[0, 1]  # excess parameters lose their worth sooner (5 against 15)


def test_minimize_along_cost_with_a_power_equals_the_surface_path():
    columns = BENCHMARK["cloud"](40)
    y = Chinchilla().curve(VALUES, {c: np.log(v) for c, v in columns.items()}, np)
    flops = 40.0 * columns["params"] ** 0.9 * columns["samples_seen"]
    surface = fit_parametric(pd.DataFrame({**columns, "loss": y, "flops": flops}), "loss")
    cost = fit_cost(columns, flops)
    assert cost.terms["params"] == pytest.approx((40.0, 0.9))
    path = minimize_along_cost(surface.fit, surface.fit.theta[None], BUDGETS[:2], cost)
    size, data, value = surface.path(BUDGETS[:2])
    np.testing.assert_allclose(np.exp(path.sizes["params"][0]), size, rtol=1e-3)
    np.testing.assert_allclose(np.exp(path.samples[0]), data, rtol=1e-3)
    np.testing.assert_allclose(path.value[0], value, rtol=1e-9)


def test_allocation_intervals_cover_planted_tables():
    # The smallest form of the benchmark: 200 tables cover 91 to 98 %.
    shares = BENCHMARK["coverage"](BENCHMARK["CASES"]["Chinchilla, 42 runs"], 12, draws=100)
    assert all(held >= 0.75 and opened == 0 for held, opened, _ in shares.values())
    assert shares["params 10x"][2] < 0.5


def test_allocation_of_an_unidentified_surface_is_open():
    columns = BENCHMARK["valleys"](12, low=1e20, high=3e20, spread=0.3)
    fit = fitted(Chinchilla(), VALUES, columns, noise=0.02)
    allocation = compute_optimal_allocation(fit, 1e21, draws=50)
    assert not allocation.identified
    intervals = [
        *allocation.optima[0].sizes.values(),
        allocation.optima[0].samples,
        *allocation.optima[0].exponents.values(),
    ]
    assert all(i.open_low and i.open_high for i in intervals)
    assert allocation.as_data()["optima"][0]["params"]["low"] is None


def test_allocation_with_an_asymmetric_loss_is_open(exact):
    allocation = compute_optimal_allocation(replace(exact, loss=Loss("squares", under=0.1)), 1e21, draws=20)
    best = allocation.optima[0]
    assert allocation.identified
    assert all(i.open_low and i.open_high for i in (*best.sizes.values(), best.samples, best.value))
    assert np.isfinite(best.samples.value)


def test_allocation_bootstrap_kind_follows_the_number_of_rows(exact):
    few = fitted(Chinchilla(), VALUES, BENCHMARK["valleys"](18), noise=0.003, profile=False)
    assert compute_optimal_allocation(few, 1e21, draws=20).method == "parametric"
    assert compute_optimal_allocation(exact, 1e21, draws=20).method == "cases"


def test_expanded_tail_tends_to_the_plain_one():
    assert expanded_tail(10**6, 5, 0.95) == pytest.approx(0.025, rel=1e-3)
    assert expanded_tail(30, 5, 0.95) < 0.015


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"flops": 0.0}, "flops"),
        ({"flops": []}, "flops"),
        ({"held": {"unique_samples": 1e9}}, "held"),
        ({"kind": "jackknife"}, "allocation.kind"),
        ({"flops_per_param_sample": -6.0}, "flops_per_param_sample"),
        ({"flops_per_param_sample": Cost({"width": (6.0, 1.0)})}, "cost"),
    ],
)
def test_allocation_impossible_requests_are_refused(exact, options, field):
    with raises_user_error(field=field):
        compute_optimal_allocation(exact, **{"flops": 1e20, "draws": 2, **options})


def test_allocation_of_a_one_column_law_is_refused():
    fit = fit_law(PowerLaw(), np.geomspace(1, 10, 5), np.geomspace(1, 0.5, 5), profile=False)
    with raises_user_error(field="law", value="power"):
        compute_optimal_allocation(fit, 1e3)


def test_allocation_of_the_published_table_gives_the_size_of_chinchilla(tables):
    df = pd.read_csv(tables / "chinchilla_epoch245.csv").query("excluded_by_published_fit == 0")
    columns = {"params": df["n_params"], "samples_seen": df["tokens"]}
    fit = fit_law(Chinchilla(), columns, df["loss"], loss=Loss(delta=1e-3))
    best = compute_optimal_allocation(fit, 6 * 70e9 * 1.4e12).optima[0]
    assert 70e9 in best.sizes["params"]
    assert 1.4e12 in best.samples
    assert best.exponents["params"].value == pytest.approx(0.5139, abs=1e-3)
    assert best.exponents["params"].low == pytest.approx(0.480, abs=0.01)  # published bootstrap
    assert best.exponents["params"].high == pytest.approx(0.556, abs=0.01)
    assert best.samples_per_param.value == pytest.approx(17.9, abs=0.1)
