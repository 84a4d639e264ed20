"""`clip-jax fit --law=annealing,multi-power`: curves of a table, what is predicted, what is refused."""

import json

import numpy as np
import pandas as pd
import pytest

from clip_jax.cli.main import main as clip_jax
from clip_jax.scaling.any_table.curves import fit_curve_laws, read_curves
from clip_jax.scaling.any_table.fit import fit_any
from clip_jax.scaling.any_table.options import TableFit
from clip_jax.scaling.curves.laws import Annealing
from clip_jax.scaling.curves.schedule import cosine, stable_then_decay
from clip_jax.scaling.curves.terms import terms_of
from tests.user_errors import error_fields, raises_user_error

PEAK = 3e-4
OPTIONS = {"warmup_steps": 500, "peak": PEAK}
TRUTH = {"L0": 2.9, "A": 0.55, "alpha": 0.5, "C": 0.8, "memory": 300.0}
SCHEDULES = {
    "cosine": cosine(6000, PEAK, warmup_steps=500, floor=0.1 * PEAK),
    "constant": stable_then_decay(6000, PEAK, decay_steps=0, warmup_steps=500),
    "decay": stable_then_decay(6000, PEAK, decay_steps=1600, warmup_steps=500),
}


@pytest.fixture(scope="module")
def table():
    """Curves of the annealing law logged every 200 steps after the warm-up."""
    rows = []
    steps = np.arange(600, 6001, 200)
    for name, schedule in SCHEDULES.items():
        law = Annealing(terms_of([(schedule, steps)], warmup=True))
        x = {"row": np.log(np.arange(1.0, len(steps) + 1)), "area": np.log(schedule.area(steps))}
        loss = law.predict(law.theta(TRUTH, {"area": 1.0}), x)
        rows += [
            {"schedule": name, "step": t, "lr": r, "loss": v}
            for t, r, v in zip(steps, schedule.rate(steps), loss, strict=True)
        ]
    return pd.DataFrame(rows)


def test_curves_of_a_table(table):
    curves = read_curves(table.iloc[::-1], TableFit(laws=("annealing",), **OPTIONS))  # in any order of rows
    assert [c.name for c in curves] == ["decay", "constant", "cosine"]
    logged = table.rename(columns={"schedule": "run", "lr": "learning_rate"})  # as in runs of this project
    assert [c.name for c in read_curves(logged, TableFit(laws=("annealing",), **OPTIONS))] == list(SCHEDULES)
    assert all(c.params is None for c in curves)
    np.testing.assert_array_equal(curves[0].steps, np.arange(600, 6001, 200))
    np.testing.assert_allclose(curves[0].schedule.rate(np.array([250, 500])), [PEAK / 2, PEAK])


def test_other_columns_sizes_and_schedules_without_a_loss(table):
    other = table.rename(columns={"schedule": "name", "lr": "eta", "loss": "acc"}).assign(
        acc=lambda d: 1 - d["acc"] / 9
    )
    other.loc[other["name"] == "decay", "acc"] = np.nan
    other = pd.concat([other.assign(n=1.0), other.assign(n=2.0)])
    options = {"x": ("rate=eta", "params=n*M"), "y": "acc", "y_is": "accuracy", "group": "name", **OPTIONS}
    curves = read_curves(other, TableFit(laws=("annealing",), **options))
    assert [(c.name, c.params) for c in curves[::3]] == [("cosine", 1e6), ("cosine", 2e6)]
    np.testing.assert_allclose(curves[0].losses, table["loss"][:28] / 9)
    assert curves[2].steps.tolist() == [6000]
    assert np.isnan(curves[2].losses).all()


@pytest.mark.thorough
def test_command_predicts_the_curves_that_it_does_not_fit(table, tmp_path, capsys):
    table = table.copy()
    table.loc[table["schedule"] == "decay", "loss"] *= 1.01
    warm = pd.DataFrame({"schedule": "decay", "step": [100, 200], "lr": [0.2 * PEAK, 0.4 * PEAK], "loss": 99.0})
    table = pd.concat([table, warm])  # no law describes a warm-up, and no error is counted there
    table.to_csv(tmp_path / "curves.csv", index=False)
    names = "--curves=cosine,constant"
    arguments = ["--law=annealing,multi-power", names, "--warmup-steps=500", f"--peak={PEAK}", f"--out={tmp_path}"]
    assert not clip_jax(["fit", str(tmp_path / "curves.csv"), *arguments])
    text = capsys.readouterr().out
    assert "2 of 3 curves fitted, 56 rows" in text
    assert "95 % intervals: none: 2 curves" in text
    data = json.loads((tmp_path / "fit.json").read_text())
    assert data["annealing"]["values"]["memory"] == pytest.approx(
        TRUTH["memory"], rel=2e-2
    )  # a cosine is not linear between rows
    last = data["annealing"]["curves"][-1]
    assert (last["curve"], last["fitted"], last["step"]) == ("decay", False, 6000)
    assert last["predicted"] / last["measured"] == pytest.approx(1 / 1.01, rel=1e-4)
    assert last["mean_error"] == pytest.approx(0.01 / 1.01, rel=1e-2)
    assert last["low"] is None
    assert "none" in data["multi-power"]["intervals"]  # not simulated
    both = [data[law]["curves"][-1]["predicted"] for law in ("annealing", "multi-power")]
    assert data["mean"]["curves"][-1]["predicted"] == pytest.approx(np.sqrt(np.prod(both)))


@pytest.mark.thorough
def test_enough_curves_have_a_band_at_the_end_of_others(table):
    rng = np.random.default_rng(0)
    seeds = [
        table.assign(schedule=table["schedule"] + str(i), loss=table["loss"] * np.exp(2e-3 * rng.standard_normal(84)))
        for i in range(3)
    ]
    names = tuple(f"{name}{i}" for i in range(3) for name in SCHEDULES)[:-1]
    what = TableFit(laws=("annealing",), curves=names, **OPTIONS)
    lines, data = fit_curve_laws(pd.concat(seeds), what)
    assert any("bootstrap of 8 curves" in line for line in lines)
    *_, last = data["annealing"]["curves"]
    assert last["curve"] == "decay2"
    assert last["low"] < last["predicted"] < last["high"]
    assert last["low"] < table["loss"].iloc[-1] < last["high"]
    assert data["annealing"]["curves"][0]["low"] is None  # it was fitted
    low, high = data["annealing"]["intervals_95"]["alpha"]
    assert low < TRUTH["alpha"] < high


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"warmup_steps": None}, {"field": "--warmup-steps", "source": "curve cosine"}),
        ({"curves": ("cosine", "wsd")}, {"field": "--curves", "value": "wsd", "hint": "cosine, constant, decay"}),
        ({"group": "name"}, {"field": "--group"}),
        ({"x": ("rate=eta",)}, {"field": "eta"}),
    ],
)
def test_what_a_table_lacks_is_refused(table, tmp_path, options, wrong):
    table.to_csv(tmp_path / "curves.csv", index=False)
    with raises_user_error(**wrong):
        fit_any(tmp_path / "curves.csv", TableFit(laws=("annealing",), **{**OPTIONS, **options}))


@pytest.mark.parametrize("bad", [0.0, -1.0, np.inf])
def test_a_loss_out_of_range_is_named_by_its_row(table, bad):
    table = table.copy()
    table.loc[3, "loss"] = bad
    with raises_user_error(source="row 3", field="loss", value=bad):
        read_curves(table, TableFit(laws=("annealing",), **OPTIONS))


def test_options_of_other_laws_are_refused(tmp_path, capsys):
    with raises_user_error(field="--at", reason="--law=annealing"):
        TableFit(laws=("annealing",), at=("1e22",))
    with raises_user_error(field="--law"):
        TableFit(laws=("annealing", "power"))
    with raises_user_error(field="--peak"):
        TableFit(laws=("power",), peak=1.0)
    assert TableFit(laws=("annealing",)).loss_function.delta == 1e-3
    assert TableFit(laws=("annealing",), delta=0.02).loss_function.delta == 0.02
    assert TableFit(laws=("power",)).loss_function.delta == 0.02
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    assert clip_jax(["fit", str(tmp_path / "t.csv"), "--law=annealing", "--reading=last"])
    assert error_fields(capsys.readouterr().err) == ["--reading"]
