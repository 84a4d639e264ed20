"""Budgets for laws of sizes and samples: the cost of a run, and the optimum from the command line."""

import json

import numpy as np
import pandas as pd
import pytest

from clip_jax.cli.main import main
from clip_jax.scaling.any_table.allocation import OPTION, cost_of
from clip_jax.scaling.any_table.fit import fit_any
from clip_jax.scaling.any_table.options import TableFit, asks_budget, budget_of
from clip_jax.scaling.any_table.rows import Rows
from clip_jax.scaling.laws import Chinchilla, ClipTowers, DataRepetition, law_named

from ...user_errors import raises_user_error

VALUES = {"E": 1.8, "A": 480.0, "alpha": 0.35, "B": 2100.0, "beta": 0.37}


def runs(sd=0.002, count=40):
    rng = np.random.default_rng(0)
    n, d = np.exp(rng.uniform(np.log([1e7, 1e9]), np.log([1e10, 1e11]), (count, 2))).T
    loss = Chinchilla().curve(VALUES, {"params": np.log(n), "samples_seen": np.log(d)}, np)
    return pd.DataFrame({"params": n, "samples_seen": d, "loss": loss * np.exp(sd * rng.standard_normal(count))})


def test_asks_budget_tells_a_budget_from_a_point():
    law = law_named("chinchilla")
    assert asks_budget(law, "flops=1e22")
    assert not asks_budget(law, "params=1e9,samples_seen=1e10")
    assert not asks_budget(law_named("power"), "flops=1e22")
    assert budget_of(DataRepetition(), "flops=1e22,unique_samples=1e9") == (1e22, {"unique_samples": 1e9})


@pytest.mark.parametrize("text", ["flops=1e22,unique_samples=1e9", "flops=-1", "flops=inf"])
def test_budget_of_an_impossible_text_names_the_option(text):
    with raises_user_error(field="--at"):
        budget_of(law_named("chinchilla"), text)


def cost(table, law, **options):
    columns = {c: table[c].to_numpy(float) for c in law.columns}
    rows = Rows(columns, np.ones(len(table)), table.index.to_numpy())
    return cost_of(law, rows, TableFit(laws=(law.key,), **options), table)


def test_cost_is_fitted_to_flops_or_six_or_the_given_factor():
    table = runs()
    law = Chinchilla()
    assert cost(table, law)[0].terms == {"params": (6.0, 1.0)}
    factor, power = cost(table.assign(flops=8 * table["params"] * table["samples_seen"]), law)[0].terms["params"]
    assert (factor, power) == pytest.approx((8, 1), rel=1e-6)
    gflops = table.assign(g=8e-9 * table["params"] * table["samples_seen"])
    assert cost(gflops, law, x=("flops=g*G",))[0].terms["params"][0] == pytest.approx(8, rel=1e-6)
    price = cost(table.assign(flops=1e20), law, flops_per_param_sample="7")[0]
    assert price.terms == {"params": (7.0, 1.0)}


def test_cost_of_two_towers_has_two_factors():
    rng, law = np.random.default_rng(0), ClipTowers()
    table = pd.DataFrame(np.exp(rng.uniform(15, 20, (12, 3))), columns=list(law.columns))
    with raises_user_error(field=OPTION):
        cost(table, law)
    with raises_user_error(value="6"):
        cost(table, law, flops_per_param_sample="6")
    price = cost(table, law, flops_per_param_sample="params_image=300,params_text=460")[0]
    assert price.terms["params_text"] == (460.0, 1.0)
    flops = (300 * table["params_image"] + 460 * table["params_text"]) * table["samples_seen"]
    terms = cost(table.assign(flops=flops), law)[0].terms
    assert [terms[c][0] for c in law.columns[:2]] == pytest.approx([300, 460], rel=1e-6)
    assert cost(table.assign(flops=flops), law)[0].residual_sd < 1e-6


def test_fit_command_prints_and_writes_the_optimum(tmp_path, capsys):
    runs().to_csv(tmp_path / "t.csv", index=False)
    arguments = [
        "--law=chinchilla",
        "--at=flops=1e22",
        "--at=params=1e9,samples_seen=1e11",
        f"--out={tmp_path / 'out'}",
    ]
    assert main(["fit", str(tmp_path / "t.csv"), *arguments]) == 0
    assert "flops=1e22" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "fit.json").read_text())
    optimum = record["allocation"]["budgets"][0]["optima"][0]
    size, samples = (float(v) for v in Chinchilla().optimum(record["values"], 1e22))
    assert optimum["params"]["value"] == pytest.approx(size, rel=1e-3)
    assert optimum["params"]["low"] < size < optimum["params"]["high"]
    assert optimum["samples_per_param"]["value"] == pytest.approx(samples / size, rel=1e-3)
    powers = [optimum[k]["params"]["value"] for k in ("exponents", "log_factors")]
    assert np.exp(powers[1]) * 1e22 ** powers[0] == pytest.approx(size, rel=1e-2)
    assert record["forecasts"][0]["at"] == "params=1e9,samples_seen=1e11"


@pytest.mark.parametrize("group", ["", "g"])
def test_fit_any_optimum_has_the_interval_of_the_curve(tmp_path, group):
    runs().assign(g=np.arange(40) % 10).to_csv(tmp_path / "t.csv", index=False)
    fit_any(tmp_path / "t.csv", TableFit(laws=("chinchilla",), at=("flops=1e22",), group=group), tmp_path)
    best = json.loads((tmp_path / "fit.json").read_text())["allocation"]["budgets"][0]["optima"][0]
    at = f"params={best['params']['value']!r},samples_seen={best['samples_seen']['value']!r}"
    fit_any(tmp_path / "t.csv", TableFit(laws=("chinchilla",), at=(at,), group=group), tmp_path)
    forecast = json.loads((tmp_path / "fit.json").read_text())["forecasts"][0]
    assert best["value"]["value"] == pytest.approx(forecast["value"], rel=1e-9)
    assert [best["value"]["low"], best["value"]["high"]] == pytest.approx(forecast["curve"], rel=1e-9)


def test_fit_any_cost_factor_without_a_budget_is_refused(tmp_path):
    runs().to_csv(tmp_path / "t.csv", index=False)
    with raises_user_error(field=OPTION):
        fit_any(tmp_path / "t.csv", TableFit(laws=("chinchilla",), flops_per_param_sample="6"))
