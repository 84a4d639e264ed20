"""The collapse of planted sweeps: L0 found again, few sound runs flagged, most faulty ones by a third of the run."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clip_jax.scaling.curves.collapse import RunCurve, fit_collapse
from tests.user_errors import raises_user_error

LADDER = 1e6 * 3.0 ** np.arange(4)


@pytest.fixture(scope="module")
def planted():
    """Return the module of the simulation, whose runs are planted here."""
    path = Path(__file__).resolve().parents[3] / "benchmarks" / "curve_collapse.py"
    spec = importlib.util.spec_from_file_location("curve_collapse", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def collapse(planted):
    rng = np.random.default_rng(0)
    return fit_collapse([planted.run_of(rng, planted.SOUND, n) for n in LADDER for _ in range(2)])


def test_the_law_and_the_common_curve_are_found_again(planted, collapse):
    assert collapse.irreducible == pytest.approx(planted.L0, abs=0.02)
    assert collapse.exponent == pytest.approx(planted.SIZE_POWER, abs=0.02)
    normalized = planted.SOUND / planted.SOUND[-1]
    np.testing.assert_allclose(np.exp(collapse.shape[[7, 15, 22]]), normalized[[35, 68, 97]], rtol=0.02)
    assert 0 < collapse.between < 0.01
    assert 0 < collapse.within < 0.01


def test_noise_does_not_pull_the_irreducible_loss_to_zero():
    # the curves of L0 = 0 are the flattest, so that they differ least
    rng, steps = np.random.default_rng(0), np.arange(1, 101)
    curves = [(n, 1.5 + 60 * n**-0.3 * (0.4 + 0.6 * (steps / 100) ** -0.5)) for n in (1e6, 2e6, 4e6) for _ in range(3)]
    runs = [RunCurve("r", n, 100, steps, y * np.exp(0.02 * rng.standard_normal(100))) for n, y in curves]
    assert fit_collapse(runs).irreducible == pytest.approx(1.5, abs=0.2)


def test_sound_runs_are_rarely_flagged_and_faults_early(planted):
    shares, _ = planted.judged(4, 2, 30)
    assert shares["none"][0] <= 0.05
    assert shares["none"][2] <= 0.05
    for fault in ("rate, half", "rate, twice", "decay, for a third of the run", "data, 10 % worse from a fifth on"):
        assert shares[fault][1] >= 0.8, fault
    assert shares["decay, for twice the run"][1] < 0.5  # which no third of a run shows


def test_a_departure_says_where(planted, collapse):
    rng = np.random.default_rng(1)
    bad = planted.run_of(rng, planted.SOUND * np.where(planted.X > 0.5, 1.2, 1.0), LADDER[1])
    departure = collapse.departure(bad)
    assert 0.5 < departure.at < 0.6
    assert departure.low < departure.expected < departure.high < departure.measured
    assert collapse.departure(replace(bad, steps=bad.steps[:50], losses=bad.losses[:50])) is None  # not there yet
    assert collapse.departure(replace(bad, steps=bad.steps[:1], losses=bad.losses[:1])) is None


def test_a_loss_that_is_not_finite_departs(planted, collapse):
    run = planted.run_of(np.random.default_rng(2), planted.SOUND, LADDER[1])
    assert collapse.departure(run) is None
    losses = np.where(planted.X > 0.3, np.nan, run.losses)
    assert collapse.departure(replace(run, losses=losses)).at == pytest.approx(8 / 24)


def test_sizes_that_do_not_collapse_show_in_the_spread(planted):
    rng = np.random.default_rng(3)
    exact = [planted.run_of(rng, planted.SOUND, n) for n in LADDER for _ in range(2)]
    bent = [replace(r, losses=r.losses * (1 + 0.05 * np.log(r.params / 1e6) * (planted.X - 0.5))) for r in exact]
    assert fit_collapse(bent).between > 3 * fit_collapse(exact).between


def test_what_gives_no_collapse_is_refused(planted):
    rng = np.random.default_rng(0)
    runs = [planted.run_of(rng, planted.SOUND, n) for n in LADDER for _ in range(2)]
    with raises_user_error(field="runs", value=4):
        fit_collapse(runs[:4])
    with raises_user_error(field="params"):
        fit_collapse([replace(r, params=1.0) for r in runs])
    with raises_user_error(field="losses", source="run late"):
        fit_collapse([*runs[1:], replace(runs[0], name="late", steps=runs[0].steps[30:], losses=runs[0].losses[30:])])
    with raises_user_error(field="losses"):
        fit_collapse([*runs[1:], replace(runs[0], losses=-runs[0].losses)])
    unfinished = RunCurve("early", 1e6, 1000, np.arange(1, 500), np.ones(499))
    assert np.isnan(unfinished.window_means(24)[-1])
