"""Approaches 1 and 2 from the command line."""

import json
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clip_jax.cli.main import main
from clip_jax.scaling.any_table.approaches import fit_approach
from clip_jax.scaling.any_table.options import TableFit

from ...user_errors import raises_user_error

BENCHMARK = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "fit_approaches.py"))


def isoflop(sd=0.002):
    """Return runs with N* = 0.2·C^0.5, and a budget with three sizes only."""
    rng, rows = np.random.default_rng(0), []
    for c in np.geomspace(1e18, 1e21, 5):
        best = np.log(0.2) + 0.5 * np.log(c)
        for away in np.linspace(-1.5, 1.5, 7):
            loss = 3 * (c / 1e18) ** -0.05 * np.exp(0.02 * away**2 + sd * rng.standard_normal())
            rows.append({"flops": c, "n": np.exp(best + away), "loss": loss})
    rows += [{"flops": 1e17, "n": n, "loss": 4.0 + i % 2} for i, n in enumerate((1e7, 2e7, 4e7))]
    return pd.DataFrame(rows)


def test_fit_approach_2_from_the_command_line(tmp_path, capsys):
    isoflop().to_csv(tmp_path / "t.csv", index=False)
    out = tmp_path / "out"
    assert main(["fit", str(tmp_path / "t.csv"), "--approach=2", "--x=params=n", "--at=1e22", f"--out={out}"]) == 0
    assert "approach 2" in capsys.readouterr().out
    record = json.loads((out / "fit.json").read_text())
    exponent = record["params"]["exponent"]
    assert exponent["low"] < 0.5 < exponent["high"]
    assert exponent["value"] == pytest.approx(0.5, abs=0.03)
    size, samples = (record["optima"][0][c] for c in ("params", "samples_seen"))
    assert size["low"] < 0.2 * 1e11 < size["high"]
    assert size["value"] * samples["value"] * 6 == pytest.approx(1e22, rel=0.05)  # the table has no samples
    assert [v["status"] == "accepted" for v in record["valleys"]] == [False] + [True] * 5


def curves():
    return BENCHMARK["curve_table"](np.random.default_rng(0), sizes=40).rename(columns={"run_id": "name"})


def test_fit_approach_1_needs_a_run_column():
    with raises_user_error(field="--group"):
        fit_approach(curves(), TableFit(approach=1))
    data = fit_approach(curves(), TableFit(approach=1, group="name"))[1]
    exponent, truth = data["params"]["exponent"], BENCHMARK["TRUTH"]
    a = truth["beta"] / (truth["alpha"] + truth["beta"])
    assert exponent["value"] == pytest.approx(a, abs=0.05)
    assert exponent["low"] < a < exponent["high"]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"laws": ("power",)}, "--law"),
        ({"delta": 0.1}, "--delta"),
        ({"below": 1e19}, "--below"),
        ({"group": "n"}, "--group"),
        ({"at": ("-1",)}, "--at"),
        ({"flops_per_param_sample": "0"}, "--flops-per-param-sample"),
    ],
)
def test_fit_approach_refuses_options_it_would_ignore(options, field):
    with raises_user_error(field=field):
        fit_approach(isoflop(), TableFit(approach=2, x=("params=n",), **options))
