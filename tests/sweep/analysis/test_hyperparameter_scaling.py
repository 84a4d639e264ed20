"""Rules fitted to records: a planted one is found again, and where records do not tell, no number is given."""

import numpy as np
import pandas as pd
import pytest

from clip_jax.sweep.analysis.batch_rules import critical_batch
from clip_jax.sweep.analysis.hyperparameter_scaling import best_value, fit_rate_rule, fit_rule, time_scale

from ...user_errors import raises_user_error

WIDE = tuple(2 ** (k / 2) for k in range(-6, 7))


def table(
    power, widths=(32, 64, 128, 256), factors=(0.5, 2**-0.5, 1, 2**0.5, 2), noise=0.0, seeds=3, offset=1.0, seed=0
):
    """Return runs whose error is a parabola in the log of the rate, lowest at 4e-3·offset·(width / 64)^power."""
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
def test_fit_rule_finds_a_planted_power_and_covers(power):
    rules = [fit_rule(table(power, factors=WIDE, noise=0.01, seed=seed)) for seed in range(40)]
    assert {r.status for r in rules} == {"identified"}
    assert sum(r.low <= power <= r.high for r in rules) >= 34  # 38 of 40 are expected, and 33 or less by chance in 1 %
    assert np.mean([r.power for r in rules]) == pytest.approx(power, abs=0.02)
    assert np.median([r.high - r.low for r in rules]) < 0.4
    at_64 = [r.value * (64 / r.reference) ** r.power for r in rules]
    assert np.mean(at_64) == pytest.approx(4e-3, rel=0.05)
    assert all(r.low < r.power < r.high for r in rules)
    assert f"[{rules[0].low:.3f}, {rules[0].high:.3f}]" in str(rules[0])


def test_fit_rule_of_noise_is_not_identified():
    rule = fit_rule(table(-0.5, widths=(32, 48, 64), noise=0.15))
    assert rule.power is None
    assert rule.status.startswith("not identified")


def test_fit_rule_best_at_the_edge_is_not_used():
    rule = fit_rule(table(-0.5, offset=4.0))
    assert rule.power is None
    assert all(b.status.startswith("edge") for b in rule.bests)
    assert str(rule).startswith("peak_lr over width: not identified: a best peak_lr is known at 0 values of width")


def test_fit_rule_of_two_widths_or_two_rates_is_not_identified():
    assert fit_rule(table(-0.5, widths=(32, 64))).status.startswith("not identified: a best peak_lr is known at 2")
    rule = fit_rule(table(-0.5, factors=(1, 2)))
    assert rule.bests[0].status.endswith("2 values tried, 3 are needed")


def test_best_value_compares_seeds_that_every_rate_has():
    rows = [(0, 1e-3, 0.5), (0, 2e-3, 0.4), (0, 4e-3, 0.5), (1, 1e-3, 0.1)]  # the second seed is an easy one
    cell = pd.DataFrame(rows, columns=["seed", "peak_lr", "error_mean"]).assign(width=32)
    assert best_value(cell, "peak_lr", "width", "error_mean").value == pytest.approx(2e-3)


def test_fit_rule_mentions_what_else_varies():
    df = table(-0.5, noise=0.001)
    df["budget"] = 1e9 * df["width"]
    assert [note.split()[0] for note in fit_rule(df).notes] == ["budget"]
    assert [note.split()[0] for note in fit_rule(df, x="budget").notes] == ["width"]


def test_fit_rule_ignores_unfinished_runs_and_refuses_missing_columns():
    df = table(-0.5).assign(final=False)
    assert fit_rule(df).bests == ()
    with raises_user_error(field="weight_decay", reason="column"):
        fit_rule(df, setting="weight_decay")


def test_fit_rule_compares_runs_that_agree_in_other_settings():
    # A learning-rate check with a large error must not stand beside the weight decays, nor a short warm-up.
    rows = []
    for budget in (1e10, 1e11, 1e12, 1e13):
        best, steps = 0.1 * (budget / 1e12) ** 0.3, 1000
        usual = {"weight_decay": 0.1, "peak_lr": 1e-3, "warmup_fraction": 0.1, "batch_size": 64}
        tried = [("cell", usual)] + [
            ("decay_check", usual | {"weight_decay": 0.1 * 2.0**k}) for k in (-3, -2, -1, 1, 2, 3)
        ]
        for kind, run in tried:
            error = 0.3 + 0.1 * np.log(run["weight_decay"] / best) ** 2
            rows.append({"kind": kind, **run, "error_mean": error, "budget": budget})
        rows.append({"kind": "lr_check", **usual, "peak_lr": 2e-3, "error_mean": 0.9, "budget": budget})
        rows.append(
            {"kind": "cell", **usual, "weight_decay": 0.2, "peak_lr": 5e-3, "error_mean": 0.0, "budget": budget}
        )
    df = pd.DataFrame(rows).assign(seed=0, params=5, width=8, steps=steps)
    rule = fit_rule(df, setting="weight_decay", x="budget")
    assert rule.power == pytest.approx(0.3, abs=1e-6)
    assert rule.at(1e12) == pytest.approx(0.1)


def test_fit_rule_treats_warmups_within_a_step_as_equal():
    rows = []
    for budget in (1e10, 1e11, 1e12, 1e13):
        for batch in (16, 32, 64, 128, 256, 512):
            steps = 7 * 1024 // batch
            error = 0.3 + 0.1 * np.log(batch / (90 * (budget / 10**11.5) ** 0.2)) ** 2
            share = round(0.1 * steps) / steps
            rows.append(
                {"batch_size": batch, "steps": steps, "warmup_fraction": share, "budget": budget, "error_mean": error}
            )
    df = pd.DataFrame(rows).assign(seed=0, params=5, width=8)
    assert df["warmup_fraction"].nunique() > 1
    assert fit_rule(df, setting="batch_size", x="budget").power == pytest.approx(0.2, abs=1e-6)
    assert fit_rule(df, setting="batch_size", x="budget").notes == ()


def test_fit_rule_says_that_the_interval_contains_zero():
    rules = [fit_rule(table(0.0, factors=WIDE, noise=0.01, seed=seed)) for seed in range(5)]
    assert any(rule.low < 0 < rule.high for rule in rules)
    assert all(bool(rule.notes) == (rule.low < 0 < rule.high) for rule in rules)
    assert fit_rule(table(-0.5, factors=WIDE, noise=0.01)).notes == ()


def grid_of_cells(noise, seed, powers=(-0.3, -0.2), budgets=(1e10, 4e10, 1.6e11)):
    """Return runs of three sizes at three budgets; the best rate is a power of parameters times one of samples."""
    rng, rows = np.random.default_rng(seed), []
    for params in (1e5, 2e5, 4e5):
        for budget in budgets:
            samples = budget / 6 / params
            best = 2e-3 * (params / 2e5) ** powers[0] * (samples / 3e4) ** powers[1]
            for factor in (0.25, 0.5, 1, 2, 4):
                rate = 2e-3 * (params / 2e5) ** -0.5 * factor
                for run_seed in range(2):
                    error = 0.3 + 0.05 * np.log(rate / best) ** 2 + noise * rng.normal()
                    rows.append((budget, params, run_seed, samples, rate, error))
    return pd.DataFrame(rows, columns=["budget", "params", "seed", "samples_seen", "peak_lr", "error_mean"])


def test_fit_rate_rule_finds_planted_powers_and_covers():
    rules = [fit_rate_rule(grid_of_cells(0.004, seed)) for seed in range(60)]
    assert {r.status for r in rules} == {"identified"}
    inside = [[low <= p <= high for low, p, high in zip(r.lows, (-0.3, -0.2), r.highs, strict=True)] for r in rules]
    assert np.sum(inside, axis=0).min() >= 52  # 57 of 60 are expected, and 51 or less by chance in 1 %
    assert np.mean([r.at(4e5, 1e5) for r in rules]) == pytest.approx(2e-3 * 2**-0.3 * (1e5 / 3e4) ** -0.2, rel=0.05)
    assert "from 9 cells" in str(rules[0])


def test_fit_rate_rule_of_few_cells_or_of_one_ray_is_not_identified():
    table = grid_of_cells(0.001, 0)
    few = fit_rate_rule(table[table["params"] == 1e5])
    assert few.status.startswith("not identified: a best peak_lr is known in 3 cells, 4 are needed")
    with raises_user_error(field="peak_lr", reason="4 are needed"):
        few.at(1e5, 1e5)
    assert "vary together" in fit_rate_rule(table.assign(samples_seen=table["params"])).status


def decay_table(power, noise, seed):
    """Return runs whose best time scale of weight decay is a power of samples per parameter."""
    rng, rows = np.random.default_rng(seed), []
    for ratio in (2.0, 8.0, 32.0, 128.0):
        params, rate, batch = 1e5, 1e-3, 64
        samples = ratio * params
        best = 0.2 * (ratio / 10) ** power
        for factor in (0.25, 0.5, 1, 2, 4):
            decay = factor * batch / (rate * best * samples)
            error = 0.3 + 0.05 * np.log(factor) ** 2 + noise * rng.normal()
            rows.append((samples, params, 0, samples, rate, batch, decay, error))
    columns = ["budget", "params", "seed", "samples_seen", "peak_lr", "batch_size", "weight_decay", "error_mean"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(time_scale=time_scale(table), samples_per_param=table["samples_seen"] / table["params"])


def test_fit_rule_of_the_time_scale_of_weight_decay_covers():
    rules = [
        fit_rule(decay_table(-0.5, 0.003, seed), setting="time_scale", x="samples_per_param") for seed in range(60)
    ]
    assert {r.status for r in rules} == {"identified"}
    assert sum(r.low <= -0.5 <= r.high for r in rules) >= 52
    assert np.mean([r.at(10.0) for r in rules]) == pytest.approx(0.2, rel=0.03)


def test_time_scale_without_weight_decay_is_unknown():
    table = decay_table(-0.5, 0.0, 0).assign(weight_decay=0.0)
    assert time_scale(table).isna().all()


def batch_table(power, noise, seed, batches=(64, 512)):
    """Return runs of one size at eight budgets; samples to a loss grow by 1 + B/B_crit, B_crit a power of D_min."""
    rng, rows = np.random.default_rng(seed), []
    for samples in np.geomspace(1e4, 1e6, 8):
        for batch in batches:
            if batch > 64 and samples < 5e4:
                continue
            fewest = samples
            for _ in range(200):  # D_min·(1 + B/B_crit(D_min)) = D
                fewest = 0.5 * fewest + 0.5 * samples / (1 + batch / (400 * (fewest / 1e5) ** power))
            loss = 3 * (fewest / 1e5) ** -0.2 * np.exp(noise * rng.normal())
            kind = "cell" if batch == 64 else "batch_check"
            rows.append((kind, samples, 1e5, 0, samples, batch, loss))
    columns = ["kind", "budget", "params", "seed", "samples_seen", "batch_size", "val_loss"]
    return pd.DataFrame(rows, columns=columns)


def test_critical_batch_of_a_planted_law_is_found():
    exact = critical_batch(batch_table(0.0, 0.0, 0), metric="val_loss")
    assert exact.batches == pytest.approx((400,) * len(exact.batches), rel=0.02)
    rules = [critical_batch(batch_table(0.4, 0.003, seed), metric="val_loss") for seed in range(60)]
    assert np.median([r.power for r in rules]) == pytest.approx(0.4, abs=0.05)
    at_1e5 = [r.value * (1e5 / r.reference) ** r.power for r in rules]
    assert np.median(at_1e5) == pytest.approx(400, rel=0.05)
    assert "without an interval" in str(rules[0])


def test_critical_batch_says_why_checks_tell_none():
    better = batch_table(0.0, 0.0, 0)
    better.loc[better["kind"] == "batch_check", "val_loss"] *= 0.5
    none = critical_batch(better, metric="val_loss")
    assert none.batches == ()
    assert str(none).startswith("critical batch, in samples: not identified; 5 of 5 checks: ends no higher")
    worse = batch_table(0.0, 0.0, 0)
    worse.loc[worse["kind"] == "batch_check", "val_loss"] *= 9
    assert "ends higher than the smallest run" in critical_batch(worse, metric="val_loss").status
