"""Rows that move a fit are named, and residuals that say more than noise."""

import numpy as np
import pytest

from clip_jax.scaling.fit.loss import Loss
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.laws import Chinchilla, PowerLaw, SaturatingPowerLaw
from clip_jax.scaling.uncertainty.diagnostics import (
    ONE_STEP,
    REFIT,
    influence,
    influence_method,
    moved_by_rows,
    residual_checks,
)

C = np.geomspace(1e10, 1e13, 16)
LINE = 0.7 * (C / C[0]) ** -0.1 * np.exp(0.01 * np.random.default_rng(0).standard_normal(16))
SQUARES = Loss("squares")


def test_leaving_one_out_is_fitting_without_it():
    fit = fit_law(SaturatingPowerLaw(), C, LINE, loss=SQUARES, fixed={"E": 0.1})
    for row in influence(fit)[:3]:
        rest = np.arange(16) != row.row
        alone = fit_law(SaturatingPowerLaw(), C[rest], LINE[rest], loss=SQUARES, fixed={"E": 0.1})
        assert row.all["b"] == pytest.approx(alone.values["b"], rel=1e-6)
        assert row.all["E"] == 0.1
        assert row.without == pytest.approx(alone.values[row.parameter], rel=1e-6)


def test_the_row_that_moves_the_exponent_is_named():
    bad = LINE.copy()
    bad[15] *= 1.15
    rows = influence(fit_law(PowerLaw(), C, bad, loss=SQUARES))
    assert rows[0].row == 15
    assert abs(rows[0].shift) > 1
    assert moved_by_rows(fit_law(PowerLaw(), C, bad, loss=SQUARES))[0].startswith("row 15 moves b from 0.1")
    assert not moved_by_rows(fit_law(PowerLaw(), C, LINE, loss=Loss("huber", delta=0.05)))


def test_too_few_rows_have_no_influence():
    assert influence(fit_law(PowerLaw(), C[:3], LINE[:3])) == []


def test_sound_residuals_raise_no_warning_and_a_wrong_form_does():
    assert residual_checks(fit_law(PowerLaw(), C, LINE, loss=SQUARES))["warnings"] == []
    bent = 0.2 + 0.5 * (C / C[0]) ** -0.5
    checks = residual_checks(fit_law(PowerLaw(), C, bent, loss=SQUARES))
    assert any("residuals bend over flops" in w for w in checks["warnings"])


def test_outliers_and_growing_scatter_are_seen():
    bad = LINE.copy()
    bad[4] *= 1.5
    assert residual_checks(fit_law(PowerLaw(), C, bad))["outliers"] == [4]
    rng = np.random.default_rng(1)
    c = np.geomspace(1e10, 1e13, 80)
    y = 0.7 * (c / c[0]) ** -0.1 * np.exp(np.geomspace(0.002, 0.05, 80) * rng.standard_normal(80))
    assert any("the scatter changes with flops" in w for w in residual_checks(fit_law(PowerLaw(), c, y))["warnings"])


def many(n, seed=0):
    rng = np.random.default_rng(seed)
    c = np.exp(rng.uniform(np.log(1e10), np.log(1e13), n))
    return c, (0.2 + 0.5 * (c / 1e10) ** -0.3) * np.exp(0.01 * rng.standard_t(4, n))


@pytest.mark.parametrize(
    ("law", "loss"),
    [
        (PowerLaw(), Loss("huber", delta=0.02)),
        (SaturatingPowerLaw(), SQUARES),
        (SaturatingPowerLaw(), Loss("huber", "linear", 0.005)),
    ],
)
def test_one_step_influence_agrees_with_refits(law, loss):
    c, y = many(300)
    y = y - 0.2 if law.key == "power" else y
    y[7] *= 1.08
    weights = np.random.default_rng(1).uniform(0.5, 2, 300)
    fit = fit_law(law, c, y, loss=loss, weights=weights, fixed={}, profile=False)
    exact, quick = ({r.row: r for r in influence(fit, method=m)} for m in (REFIT, ONE_STEP))
    assert {r.method for r in quick.values()} == {ONE_STEP}
    top = max(exact.values(), key=lambda r: abs(r.shift))
    for row in exact:
        for name, value in exact[row].all.items():
            moved = abs(top.all[name] - fit.values[name])
            assert quick[row].all[name] == pytest.approx(value, abs=0.12 * moved + 1e-12 * abs(value))


def test_one_step_influence_agrees_on_two_columns():
    rng = np.random.default_rng(0)
    n, d = np.exp(rng.uniform(13, 21, 250)), np.exp(rng.uniform(17, 25, 250))
    y = (1.7 + 400 / n**0.34 + 410 / d**0.28) * np.exp(0.005 * rng.standard_normal(250))
    fit = fit_law(Chinchilla(), {"params": n, "samples_seen": d}, y, loss=SQUARES, profile=False)
    exact, quick = ({r.row: r.shift for r in influence(fit, method=m)} for m in (REFIT, ONE_STEP))
    a, b = (np.array([abs(shifts[r]) for r in range(250)]) for shifts in (exact, quick))
    np.testing.assert_allclose(a, b, atol=0.05 * a.max())


def test_influence_above_two_thousand_rows_is_one_step_and_names_the_row():
    c, y = many(2500)
    c[99] = 1e16
    y[99] = 0.05
    fit = fit_law(PowerLaw(), c, y, loss=SQUARES, profile=False)
    assert influence_method(fit) == ONE_STEP
    assert influence_method(fit_law(PowerLaw(), C, LINE)) == REFIT
    assert influence(fit, most=3)[0].row == 99
    assert len(influence(fit, most=3)) == 3
    assert moved_by_rows(fit)[0].startswith("row 99 moves b from about ")


def test_one_step_influence_is_exact_for_least_squares_on_a_line():
    fit = fit_law(PowerLaw(), C[:8], LINE[:8], loss=SQUARES, weights=np.arange(1.0, 9.0), profile=False)
    exact, quick = ({r.row: r.all for r in influence(fit, method=m)} for m in (REFIT, ONE_STEP))
    for row in exact:
        assert quick[row]["b"] == pytest.approx(exact[row]["b"], rel=1e-6)
