"""Rows that move a fit are named, and residuals that say more than noise."""

import numpy as np
import pytest

from clip_jax.scaling.diagnostics import influence, moved_by_rows, residual_checks
from clip_jax.scaling.fit import fit_law
from clip_jax.scaling.laws import PowerLaw, SaturatingPowerLaw
from clip_jax.scaling.loss import Loss

C = np.geomspace(1e10, 1e13, 16)
LINE = 0.7 * (C / C[0]) ** -0.1 * np.exp(0.01 * np.random.default_rng(0).standard_normal(16))
SQUARES = Loss("squares")


def test_leaving_one_out_is_fitting_without_it():
    fit = fit_law(SaturatingPowerLaw(), C, LINE, loss=SQUARES, fixed={"E": 0.1})
    for found in influence(fit)[:3]:
        rest = np.arange(16) != found.row
        alone = fit_law(SaturatingPowerLaw(), C[rest], LINE[rest], loss=SQUARES, fixed={"E": 0.1})
        assert found.all["b"] == pytest.approx(alone.values["b"], rel=1e-6)
        assert found.all["E"] == 0.1
        assert found.without == pytest.approx(alone.values[found.parameter], rel=1e-6)


def test_the_row_that_moves_the_exponent_is_named():
    bad = LINE.copy()
    bad[15] *= 1.15
    found = influence(fit_law(PowerLaw(), C, bad, loss=SQUARES))
    assert found[0].row == 15
    assert abs(found[0].shift) > 1
    assert moved_by_rows(fit_law(PowerLaw(), C, bad, loss=SQUARES))[0].startswith("row 15 moves b from 0.1")
    assert not moved_by_rows(fit_law(PowerLaw(), C, LINE, loss=Loss("huber", delta=0.05)))


def test_too_few_rows_have_no_influence():
    assert influence(fit_law(PowerLaw(), C[:3], LINE[:3])) == []


def test_sound_residuals_raise_no_warning_and_a_wrong_form_does():
    assert residual_checks(fit_law(PowerLaw(), C, LINE, loss=SQUARES))["warnings"] == []
    bent = 0.2 + 0.5 * (C / C[0]) ** -0.5
    found = residual_checks(fit_law(PowerLaw(), C, bent, loss=SQUARES))
    assert any("residuals bend over flops" in w for w in found["warnings"])


def test_outliers_and_growing_scatter_are_seen():
    bad = LINE.copy()
    bad[4] *= 1.5
    assert residual_checks(fit_law(PowerLaw(), C, bad))["outliers"] == [4]
    rng = np.random.default_rng(1)
    c = np.geomspace(1e10, 1e13, 80)
    y = 0.7 * (c / c[0]) ** -0.1 * np.exp(np.geomspace(0.002, 0.05, 80) * rng.standard_normal(80))
    assert any("the scatter changes with flops" in w for w in residual_checks(fit_law(PowerLaw(), c, y))["warnings"])
