"""Rules fitted to records: a planted one is found again, and where records do not tell, no number is given."""

import numpy as np
import pandas as pd
import pytest

from clip_jax.config import UserError
from clip_jax.sweep.rules import best_value, fit_rule

WIDE = tuple(2 ** (k / 2) for k in range(-6, 7))


def table(
    power, widths=(32, 64, 128, 256), factors=(0.5, 2**-0.5, 1, 2**0.5, 2), noise=0.0, seeds=3, offset=1.0, seed=0
):
    """Runs whose error is a parabola in the log of the rate, lowest at 4e-3·offset·(width / 64)^power."""
    rng, rows = np.random.default_rng(seed), []
    for width in widths:
        for run_seed in range(seeds):
            for factor in factors:
                rate = 4e-3 * (width / 64) ** -0.5 * factor
                best = 4e-3 * offset * (width / 64) ** power
                error = 0.3 + 0.1 * np.log(rate / best) ** 2 + noise * rng.normal()
                rows.append((width, 1e11, 1000 * width, run_seed, rate, error))
    return pd.DataFrame(rows, columns=["width", "budget", "params", "seed", "peak_lr", "error_mean"])


@pytest.mark.parametrize("power", [-0.5, 0.2])
def test_a_planted_power_is_found_and_its_interval_covers(power):
    rules = [fit_rule(table(power, factors=WIDE, noise=0.01, seed=seed)) for seed in range(40)]
    assert {r.status for r in rules} == {"identified"}
    assert sum(r.low <= power <= r.high for r in rules) >= 34  # 38 of 40 are expected, and 33 or less by chance in 1 %
    assert np.mean([r.power for r in rules]) == pytest.approx(power, abs=0.02)
    assert np.median([r.high - r.low for r in rules]) < 0.4
    at_64 = [r.value * (64 / r.reference) ** r.power for r in rules]
    assert np.mean(at_64) == pytest.approx(4e-3, rel=0.05)
    assert "95 % interval of the power" in str(rules[0])


def test_noise_that_tells_nothing_gives_no_number():
    rule = fit_rule(table(-0.5, widths=(32, 48, 64), noise=0.15))
    assert rule.power is None
    assert rule.status.startswith("not identified")


def test_the_edge_is_no_optimum():
    rule = fit_rule(table(-0.5, offset=4.0))
    assert rule.power is None
    assert {b.status for b in rule.bests} == {"the best is at the edge of what was tried"}
    assert str(rule).startswith("peak_lr over width: not identified: a best peak_lr is known at 0 values of width")


def test_two_widths_or_two_rates_are_too_few():
    assert fit_rule(table(-0.5, widths=(32, 64))).status.startswith("not identified: a best peak_lr is known at 2")
    rule = fit_rule(table(-0.5, factors=(1, 2)))
    assert rule.bests[0].status == "2 values tried, 3 are needed"


def test_only_seeds_that_every_rate_has_are_compared():
    rows = [(0, 1e-3, 0.5), (0, 2e-3, 0.4), (0, 4e-3, 0.5), (1, 1e-3, 0.1)]  # the second seed is an easy one
    cell = pd.DataFrame(rows, columns=["seed", "peak_lr", "error_mean"]).assign(width=32)
    assert best_value(cell, "peak_lr", "width", "error_mean").value == pytest.approx(2e-3)


def test_what_varies_too_is_said():
    df = table(-0.5, noise=0.001)
    df["budget"] = 1e9 * df["width"]
    assert "budget varies too" in str(fit_rule(df))
    assert "width varies too" in str(fit_rule(df, x="budget"))


def test_unfinished_runs_and_missing_columns():
    df = table(-0.5).assign(final=False)
    assert fit_rule(df).bests == ()
    with pytest.raises(UserError, match="lacks the column weight_decay"):
        fit_rule(df, setting="weight_decay")
