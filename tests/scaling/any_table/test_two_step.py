"""Two steps from the command line, beside the direct law; losses at several batch sizes are refused."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from clip_jax.cli.main import main
from clip_jax.scaling.any_table.fit import fit_any
from clip_jax.scaling.any_table.options import TableFit

from ...user_errors import raises_user_error


def table():
    rng, flops = np.random.default_rng(1), np.geomspace(1e18, 1e21, 14)
    loss = 4.5 * (flops / 1e18) ** -0.06 * np.exp(0.003 * rng.standard_normal(14))
    error = (0.85 - 2.08 * np.exp(-0.756 * loss)) * np.exp(0.005 * rng.standard_normal(14))
    return pd.DataFrame({"flops": flops, "ce": loss, "error": error, "batch_size": 1024})


TWO = {"laws": ("power",), "then": "link-exponential", "through": "ce"}


@pytest.mark.thorough
def test_fit_command_prints_both_steps_and_the_direct_law(tmp_path, capsys):
    table().to_csv(tmp_path / "t.csv", index=False)
    options = ["--law=power", "--then=link-exponential", "--through=ce", "--at=1e22", f"--out={tmp_path / 'out'}"]
    assert main(["fit", str(tmp_path / "t.csv"), *options]) == 0
    assert "two steps" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "fit.json").read_text())
    assert [s["law"] for s in record["two_step"]["steps"]] == ["power", "link-exponential"]
    at = record["two_step"]["forecasts"][0]
    truth = 0.85 - 2.08 * np.exp(-0.756 * 4.5 * 1e4**-0.06)
    assert at["curve"]["error"]["low"] < truth < at["curve"]["error"]["high"]
    assert at["new_run"]["error"]["low"] < at["curve"]["error"]["low"]
    assert at["curve"]["fixed_loss"]["value"] == at["curve"]["error"]["value"]
    assert record["forecasts"][0]["at"] == "1e22"  # of the direct law


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        ({}, "--constant", "batch_size"),
        ({"constant": ("error",)}, "--constant", "error"),
        ({"constant": ("nothing",)}, "--constant", "nothing"),
        ({"weights": "ce"}, "--weights", "ce"),
        ({"fixed": ("E=0",)}, "--fix", "E=0"),
    ],
)
def test_fit_any_two_step_mixed_losses_and_ignored_options_are_refused(tmp_path, options, field, value):
    table().assign(batch_size=[1024, 2048] * 7).to_csv(tmp_path / "t.csv", index=False)
    with raises_user_error(field=field, value=value):
        fit_any(tmp_path / "t.csv", TableFit(**TWO, **options))


def test_fit_any_two_step_with_constant_none_mixes_batch_sizes(tmp_path):
    table().assign(batch_size=[1024, 2048] * 7).to_csv(tmp_path / "t.csv", index=False)
    fit_any(tmp_path / "t.csv", TableFit(**TWO, constant=("none",), frontier="pareto"), tmp_path)
    steps = json.loads((tmp_path / "fit.json").read_text())["two_step"]["steps"]
    assert steps[0]["rows"] <= steps[1]["rows"] == 14


@pytest.mark.parametrize(
    "options", [{"then": "link-exponential"}, {"through": "ce"}, {"then": "power", "through": "ce"}]
)
def test_table_fit_then_and_through_are_given_together(options):
    with raises_user_error(field=re.compile("^--(then|through)$")):
        TableFit(**options)


def test_fit_any_two_step_loss_equal_to_y_is_refused(tmp_path):
    table().to_csv(tmp_path / "t.csv", index=False)
    with raises_user_error(field="--through", value="ce"):
        fit_any(tmp_path / "t.csv", TableFit(**TWO, y="ce"))
