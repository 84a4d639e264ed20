"""The solver against scipy, near-L1 losses included, and against its own fits one by one."""

import numpy as np
import pytest
from scipy.optimize import minimize

from clip_jax.scaling.fit import solver
from clip_jax.scaling.fit.loss import Loss
from clip_jax.scaling.fit.solver import (
    compile_solver,
    finish_absolute,
    padded_rows,
    rows_for_starts,
    screen,
    solve,
    table_of,
)
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.laws import (
    BoundedPowerLaw,
    BrokenPowerLaw,
    Chinchilla,
    PowerLaw,
    SaturatingPowerLaw,
    SigmoidLogC,
)


@pytest.fixture(scope="module")
def cloud():
    """Return 80 Chinchilla rows with heavy tails: (law, x, y, low, high, starts)."""
    rng = np.random.default_rng(0)
    law = Chinchilla()
    columns = {"params": np.exp(rng.uniform(16, 23, 80)), "samples_seen": np.exp(rng.uniform(19, 27, 80))}
    truth = {"E": 1.8, "A": 480.0, "alpha": 0.35, "B": 2100.0, "beta": 0.37}
    y = law.curve(truth, {c: np.log(v) for c, v in columns.items()}, np) * np.exp(0.003 * rng.standard_t(3, 80))
    references = law.references(columns)
    x = {c: np.log(v / references[c]) for c, v in columns.items()}
    return law, x, y, *law.bounds(x, y), screen(law, x, y, law.starts(x, y), Loss("huber", delta=1e-3), np.ones(80), 16)


def objective(law, x, y, loss):
    return lambda theta: float(loss.values(loss.residuals(law.predict(theta, x), y)).sum())


@pytest.mark.parametrize(
    "loss", [Loss("huber", delta=1e-3), Loss("huber", delta=1e-4), Loss("squares"), Loss("squares", "linear")], ids=str
)
def test_no_other_optimizer_finds_a_lower_point(cloud, loss):
    law, x, y, low, high, starts = cloud
    ends = solve(law, x, y, starts, low, high, loss)
    assert ends.converged.all()
    # Huber weights alone need 37 iterations at delta 1e-3 and 77 at 1e-4
    assert ends.iterations.mean() < (50 if loss.delta < 1e-3 else 25)
    best = ends.objective.min()
    assert (ends.objective <= best * (1 + 1e-9)).mean() > 0.9
    f = objective(law, x, y, loss)
    assert f(ends.theta[ends.objective.argmin()]) == pytest.approx(best, rel=1e-12)
    scale = 1 / best  # scipy's tolerances are absolute
    options = {"xatol": 1e-11, "fatol": 1e-12, "maxiter": 4000, "maxfev": 4000}
    reference = (
        minimize(lambda t: f(t) * scale, ends.theta[0] + 0.01, method="Nelder-Mead", options=options).fun / scale
    )
    assert best <= reference * (1 + 1e-9)
    assert reference == pytest.approx(best, rel=1e-3)


def test_least_absolute_deviations_end_on_a_corner(cloud):
    law, x, y, low, high, starts = cloud
    loss = Loss("absolute")
    near = solve(law, x, y, starts, low, high, loss)
    at = near.theta[near.objective.argmin()]
    theta, best = finish_absolute(law, x, y, at, np.ones(5, bool), low, high, loss, np.ones(80))
    assert best <= near.objective.min()
    assert best == pytest.approx(near.objective.min(), rel=1e-5)
    r = np.sort(np.abs(loss.residuals(law.predict(theta, x), y)))
    assert r[4] < 1e-9 < r[5] / 100  # five parameters, five residuals of nothing
    f = objective(law, x, y, loss)
    for step in 1e-4 * np.vstack([np.eye(5), -np.eye(5)]):
        assert f(theta + step) > best


def test_resamples_together_are_resamples_alone(cloud):
    law, x, y, low, high, starts = cloud
    loss = Loss("huber", delta=1e-3)
    weights = np.random.default_rng(1).multinomial(80, np.full(80, 1 / 80), 70).astype(float)
    together = solve(law, x, y, np.tile(starts[0], (70, 1)), low, high, loss, weights=weights)
    for i in (0, 69):
        rows = np.repeat(np.arange(80), weights[i].astype(int))
        alone = solve(law, {c: v[rows] for c, v in x.items()}, y[rows], starts[:1], low, high, loss)
        assert together.objective[i] == pytest.approx(alone.objective[0], rel=1e-9)
        np.testing.assert_allclose(together.theta[i], alone.theta[0], rtol=1e-4, atol=1e-5)


def test_what_is_not_free_stays_and_bounds_hold():
    law, x = SaturatingPowerLaw(), {"flops": np.linspace(-3, 3, 10)}
    y = np.exp(-0.3 * x["flops"])
    low, high = law.bounds(x, y)
    begin = np.array([[0.05, 0.0, 0.2], [0.2, 0.0, 0.2]])
    ends = solve(law, x, y, begin, low, high, Loss(), free=np.array([False, True, True]))
    assert ends.theta[:, 0].tolist() == [0.05, 0.2]
    free = solve(law, x, y + 0.0, begin, np.array([0.01, low[1], low[2]]), high, Loss())
    np.testing.assert_allclose(free.theta[:, 0], 0.01, rtol=1e-9)  # the true asymptote, 0, is out of bounds
    # and the others are as good as if it were held there
    held = solve(law, x, y, np.array([[0.01, 0.0, 0.2]]), low, high, Loss(), free=np.array([False, True, True]))
    np.testing.assert_allclose(free.objective, held.objective[0], rtol=1e-9)
    assert free.converged.all()


def test_one_program_serves_resamples_of_any_count():
    law, x = PowerLaw(), {"flops": np.linspace(-3, 3, 10)}
    y = np.exp(-0.3 * x["flops"])
    before = None
    for count in (1, 3, 130):
        ends = solve(law, x, y, np.zeros((count, 2)), *law.bounds(x, y), Loss())
        np.testing.assert_allclose(ends.theta[:, 1], 0.3, rtol=1e-6)
        compiled = compile_solver(
            law, "log", 1.0, False
        )._cache_size()  # one for each number of rows, of other tests too
        assert before in (None, compiled)
        before = compiled


@pytest.mark.parametrize("law", [PowerLaw(), SaturatingPowerLaw(), BoundedPowerLaw(), BrokenPowerLaw()], ids=str)
def test_padding_beyond_32_rows_changes_no_digit_of_theta(law, monkeypatch):
    rng = np.random.default_rng(0)
    c = np.sort(np.exp(rng.uniform(np.log(1e10), np.log(1e13), 24)))
    y = (0.1 + 0.85 * (1 + c / 3e10) ** -0.35) * np.exp(0.02 * rng.standard_normal(24))
    assert padded_rows(24) == 64
    fits = [fit_law(law, c, y, fixed={}, profile=False)]
    for least in (64, 256):
        monkeypatch.setattr(solver, "MIN_PADDED_ROWS", least)
        assert padded_rows(7) == least
        fits.append(fit_law(law, c, y, fixed={}, profile=False))
    for fit in fits[1:]:
        assert np.array_equal(fit.theta, fits[0].theta)
        assert fit.objective == pytest.approx(fits[0].objective, rel=1e-15)  # four units of the last place


def test_many_rows_share_few_programs():
    assert [padded_rows(n) for n in (3, 16, 17, 65, 240, 300, 4096, 4097, 100_000)] == [
        16, 16, 64, 256, 256, 1024, 4096, 8192, 131072,
    ]  # fmt: skip
    with table_of(100_000):
        assert [padded_rows(n) for n in (3, 300, 513, 4097)] == [512, 512, 4096, 8192]


def test_resamples_of_a_large_table_are_packed_into_the_rows_they_hold(monkeypatch):
    rng = np.random.default_rng(0)
    law, x = SaturatingPowerLaw(), {"flops": np.sort(rng.normal(0, 2, 1500))}
    y = (0.2 + 0.6 * np.exp(-0.3 * x["flops"])) * np.exp(0.02 * rng.standard_normal(1500))
    weights = np.zeros((3, 1500))
    for row in weights:
        row[rng.choice(1500, 40, replace=False)] = rng.integers(1, 3, 40)
    low, high = law.bounds(x, y)
    begin = np.repeat(law.starts(x, y)[:1], 3, axis=0)
    whole = solve(law, x, y, begin, low, high, Loss(), weights=weights)
    padded, asked = solver.padded_rows, []
    monkeypatch.setattr(solver, "padded_rows", lambda rows: asked.append(rows) or padded(rows))
    with table_of(100_000):
        packed = solve(law, x, y, begin, low, high, Loss(), weights=weights)
    assert asked == [40]
    np.testing.assert_allclose(packed.theta, whole.theta, rtol=1e-6)
    np.testing.assert_allclose(packed.objective, whole.objective, rtol=1e-9)


@pytest.mark.parametrize("law", [PowerLaw(), SaturatingPowerLaw(), SigmoidLogC()], ids=str)
def test_large_table_solves_a_law_by_the_program_of_the_law_that_contains_it(law):
    rng = np.random.default_rng(0)
    x = {"flops": np.sort(rng.normal(0, 2, 40))}
    y = (0.05 + 0.6 / (1 + np.exp(0.5 * x["flops"]))) * np.exp(0.02 * rng.standard_normal(40))
    low, high = law.bounds(x, y)
    begin = law.starts(x, y)[::200][:5]
    free = np.array([name != law.replaced for name in law.names])
    held = {"at": {"flops": 3.0}, "value": np.full(len(begin), 0.2), "free": free}
    for options in ({}, held):
        apart = solve(law, x, y, begin, low, high, Loss(), **options)
        with table_of(100_000):
            shared = solve(law, x, y, begin, low, high, Loss(), **options)
        np.testing.assert_allclose(shared.objective, apart.objective, rtol=1e-9)
        np.testing.assert_allclose(shared.theta, apart.theta, rtol=1e-5, atol=1e-6)


def test_rows_dealt_to_lanes_are_fitted_as_rows_of_one():
    rng = np.random.default_rng(0)
    law, x = SaturatingPowerLaw(), {"flops": np.sort(rng.normal(0, 2, 9000))}
    y = (0.2 + 0.6 * np.exp(-0.3 * x["flops"])) * np.exp(0.02 * rng.standard_normal(9000))
    weights = rng.integers(1, 4, 9000).astype(float)
    args = law, x, y, law.starts(x, y)[::300][:3], *law.bounds(x, y), Loss()
    dealt, abreast = (solve(*args, weights=weights, abreast=way) for way in (False, True))
    np.testing.assert_allclose(dealt.theta, abreast.theta, rtol=1e-7)
    np.testing.assert_allclose(dealt.objective, abreast.objective, rtol=1e-11)
    assert dealt.converged.all()


def test_starts_of_very_many_rows_are_compared_on_as_many_as_a_lane_holds():
    assert [rows_for_starts(n) for n in (100, 4096, 4097, 60_000, 70_000, 100_000)] == [
        100, 4096, 4096, 4096, 8192, 8192,
    ]  # fmt: skip
