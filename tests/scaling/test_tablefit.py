"""Any table: its columns and units, its bad rows, its forecasts."""

import json

import numpy as np
import pandas as pd
import pytest

from clip_jax.cli import main
from clip_jax.config import UserError
from clip_jax.scaling.tablefit import TableFit, fit_any

GFLOPS = np.geomspace(1e1, 1e4, 12)
ERROR = 6.0 * (GFLOPS * 1e9) ** -0.1 * np.exp(0.003 * np.random.default_rng(0).standard_normal(12))


@pytest.fixture
def table(tmp_path):
    df = pd.DataFrame(
        {"model": [f"m{i}" for i in range(12)], "gflops": GFLOPS, "error": ERROR, "acc": 100 * (1 - ERROR)}
    )
    df["family"] = "clip"

    def write(change=lambda d: d, name="t.csv"):
        path = tmp_path / name
        changed = change(df.copy())
        changed.to_parquet(path) if name.endswith("parquet") else changed.to_csv(path, index=False)
        return path

    return write


POWER = TableFit(laws=("power",), x=("flops=gflops*G",))


def exponent(text):
    (line,) = [w for w in text.splitlines() if w.startswith("    b ")]
    return float(line.split()[1])


def test_columns_units_and_percent_are_mapped(table):
    plain = fit_any(table(), POWER)
    assert exponent(plain) == pytest.approx(0.1, abs=0.003)
    assert "a        6." in plain or "a        5." in plain  # in FLOPs, not GFLOPs
    percent = TableFit(laws=("power",), x=("gflops*1e9",), y="acc", y_is="accuracy%")
    assert fit_any(table(), percent).splitlines()[1:] == plain.splitlines()[1:]
    assert fit_any(table(name="t.parquet"), POWER).splitlines()[1:] == plain.splitlines()[1:]


def test_treatments_are_stated(table):
    def spoil(df):
        df = pd.concat([df, df.iloc[[3]]])  # an exact copy
        extra = df.iloc[[0, 1, 2]].assign(model=["x", "y", "z"], gflops=[5.0, 7.0, 9.0], error=[0.9995, np.nan, 0.0])
        return pd.concat([df, extra, df.iloc[[4]].assign(family="other", model="q")], ignore_index=True)

    said = fit_any(table(spoil), TableFit(laws=("power",), x=("gflops",), chance=0.999, where=("family=clip",)))
    assert "12 rows" in said.splitlines()[0]
    for words in (
        "1 rows are exact copies",
        "1 rows left out, the first is row 14: error is missing",
        "1 rows left out, the first is row 13: error above that of guessing, 0.999",
        "1 rows left out, the first is row 15: an error of 0 has no logarithm",
    ):
        assert words in said


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (lambda d: d, {"y": "loss"}, "lacks the column loss"),
        (lambda d: d, {"x": ("compute=gflops",)}, "power law has no column 'compute'; it has flops"),
        (lambda d: d, {"x": ("gflops*Q",)}, "'Q' is not a number"),
        (lambda d: d, {"where": ("family=coca",)}, "no row has it"),
        (lambda d: d, {"y": "acc", "y_is": "accuracy"}, "row 0: acc=.* read as accuracy is an error of"),
        (lambda d: d.assign(error=-d["error"]), {}, "y=-.* must be above 0"),
        (lambda d: d.assign(gflops=5.0), {}, "needs rows that differ"),
        (lambda d: d.head(1), {}, "in all 1 rows"),
        (lambda d: d.assign(gflops=np.where(np.arange(12) < 6, d["gflops"], d["gflops"] * 1e9)), {}, "two units"),
        (lambda d: d, {"at": ("-3",)}, "must be above 0"),
        (lambda d: d, {"at": ("params=3",)}, "must give flops"),
        (lambda d: d, {"fixed": ("E=0.1",)}, "no parameter 'E'"),
        (lambda d: d.assign(error=["bad", *d["error"][1:]]), {}, "row 0: error='bad' is not a number"),
        (lambda d: d, {"laws": ("chinchilla",), "x": ("params=gflops", "samples_seen=gflops")}, "along one line"),
        (
            lambda d: d,
            {"laws": ("chinchilla",), "x": ("params=gflops", "samples_seen=acc"), "frontier": "hull"},
            "only 'all' is possible",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_fitted_is_refused_with_the_reason(table, change, options, said):
    with pytest.raises(UserError, match=said):
        fit_any(table(change), TableFit(**{"laws": ("power",), "x": ("gflops",), **options}))


def test_forecasts_comparison_and_files(table, tmp_path):
    what = TableFit(laws=("saturating", "power"), x=("flops=gflops*G",), at=("1e15",), frontier="pareto")
    text = fit_any(table(), what, tmp_path / "out")
    assert "not identified: the profile of E is flat below" in text
    assert "held-out extrapolation" in text
    found = json.loads((tmp_path / "out" / "fit.json").read_text())
    assert found["law"] == "saturating"
    assert found["identified"] is False
    forecast = found["forecasts"][0]
    assert forecast["new_run"][0] < forecast["curve"][0] < forecast["value"] < forecast["curve"][1]
    assert found["compared"]["ranking"][0]["form"] == "power law"
    assert len(found["rows"]) <= 12
    assert (
        "frontier (pareto)"
        in json.loads((tmp_path / "out" / "checklist.json").read_text())["data"]["which rows were left out, and why"]
    )


def test_a_small_evaluation_set_widens_intervals(table):
    def width(**options):
        (line,) = [
            w for w in fit_any(table(), TableFit(**{**vars(POWER), **options})).splitlines() if w.startswith("    b ")
        ]
        low, high = line.split("[")[1].split("]")[0].split(", ")
        return float(high) - float(low)

    assert width(examples=1000) > 3 * width()
    assert width(examples=10_000_000) == width()
    with pytest.raises(UserError, match="examples=100: must be above 0, with space=log"):
        TableFit(examples=100, space="linear")


def test_chance_is_the_ceiling_of_laws_that_have_one(table):
    what = TableFit(laws=("chance",), x=("flops=gflops*G",), chance=0.999, at=("1e3",))
    assert "at 1e3: 0.99" in fit_any(table(), what)


def test_the_command_takes_the_same_words(table, capsys):
    path = str(table())
    assert main(["fit", path, "--law=power", "--x=flops=gflops*G", "--y=error", "--at=1e14", "--loss=squares"]) == 0
    assert "at 1e14: 0.2" in capsys.readouterr().out
    assert main(["fit", path, "--x=gflops"]) == 2
    assert "--x: ignored without --law" in capsys.readouterr().err
    assert main(["fit", path, "--law=quadratic"]) == 2
    assert "law='quadratic'" in capsys.readouterr().err
    assert main(["fit", path, "--law=power", "--x=gflops", "--frontier=best"]) == 2
    assert "frontier='best': must be one of all" in capsys.readouterr().err
