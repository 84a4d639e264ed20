"""Several tasks of one table, in long and in wide form."""

import json

import numpy as np
import pandas as pd
import pytest

from clip_jax.cli.main import main
from clip_jax.scaling.any_table.options import TableFit
from clip_jax.scaling.any_table.tasks import fit_tasks

from ...user_errors import raises_user_error

FLOPS = np.geomspace(1e18, 1e21, 7)
TASKS = {"a": (0.1, 0.2), "b": (0.15, 0.25), "c": (0.12, 0.3)}


def wide():
    rng, out = np.random.default_rng(0), {"flops": FLOPS}
    for name, (floor, b) in TASKS.items():
        out[name] = (floor + 0.5 * (FLOPS / 1e18) ** -b) * np.exp(0.01 * rng.standard_normal(7))
    return pd.DataFrame(out)


def test_fit_tasks_of_several_columns_from_the_command_line(tmp_path, capsys):
    wide().to_csv(tmp_path / "t.csv", index=False)
    assert main(["fit", str(tmp_path / "t.csv"), "--y=a,b,c", "--at=1e22", f"--out={tmp_path / 'out'}"]) == 0
    assert "3 tasks" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "fit.json").read_text())
    assert record["tasks"].keys() == TASKS.keys()
    for name, (floor, b) in TASKS.items():
        truth = floor + 0.5 * 1e4**-b
        interval = record["forecasts"][0]["tasks"][name]
        assert interval["low"] < truth < interval["high"]
    mean = record["forecasts"][0]["mean"]
    assert mean["low"] < np.mean([floor + 0.5 * 1e4**-b for floor, b in TASKS.values()]) < mean["high"]


def test_fit_tasks_mean_has_an_interval_only_with_run_names():
    flat = wide().reset_index(names="run").melt(["run", "flops"], var_name="task", value_name="error")
    apart, named = (
        fit_tasks(flat, TableFit(tasks="task", group=g, at=("1e22",)))[1]["forecasts"][0]["mean"] for g in ("", "run")
    )
    assert (apart["low"], apart["high"]) == (None, None)
    assert named["low"] < apart["value"] < named["high"]
    bounded = fit_tasks(flat, TableFit(tasks="task", group="run", at=("1e22",), chance=0.99))[1]["forecasts"][0]["mean"]
    assert (bounded["low"], bounded["high"]) == (None, None)


def test_fit_tasks_long_form_equals_wide_form_with_run_names():
    flat = wide().reset_index(names="run").melt(["run", "flops"], var_name="task", value_name="error")
    long = fit_tasks(flat, TableFit(tasks="task", group="run"))[1]
    assert long["tasks"] == fit_tasks(wide(), TableFit(y="a,b,c"))[1]["tasks"]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"y": "a,b,c", "tasks": "flops"}, "--tasks"),
        ({"y": "a,b,c", "laws": ("power",)}, "--law"),
        ({"y": "a,b,c", "weights": "flops"}, "--weights"),
        ({"y": "a,a"}, "--y"),
        ({"tasks": "nothing"}, "--tasks"),
    ],
)
def test_fit_tasks_unsupported_options_are_refused(options, field):
    with raises_user_error(field=field):
        fit_tasks(wide(), TableFit(**options))


def test_fit_tasks_of_two_names_the_option_and_how_to_fit_one():
    with raises_user_error(field="--y", value="a,b", hint="fit each alone: --law=saturating --y=a or --y=b"):
        fit_tasks(wide(), TableFit(y="a,b"))
    flat = wide()[["flops", "a", "b"]].melt(["flops"], var_name="task", value_name="error")
    with raises_user_error(field="--tasks", value="task", hint="--law=saturating --where=task=a or --where=task=b"):
        fit_tasks(flat, TableFit(tasks="task"))
