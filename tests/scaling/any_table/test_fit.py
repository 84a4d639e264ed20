"""Any table: its columns and units, its bad rows, its forecasts."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from clip_jax.cli.main import main
from clip_jax.scaling.any_table.fit import TableFit, fit_any

from ...user_errors import error_fields, raises_user_error

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


def test_fit_any_maps_columns_units_and_percent(table):
    plain = fit_any(table(), POWER)
    assert exponent(plain) == pytest.approx(0.1, abs=0.003)
    assert "a        6." in plain or "a        5." in plain  # in FLOPs, not GFLOPs
    percent = TableFit(laws=("power",), x=("gflops*1e9",), y="acc", y_is="accuracy%")
    assert fit_any(table(), percent).splitlines()[1:] == plain.splitlines()[1:]
    assert fit_any(table(name="t.parquet"), POWER).splitlines()[1:] == plain.splitlines()[1:]


@pytest.mark.parametrize("count", [3, 5])
def test_fit_any_few_rows_state_values_and_intervals_of_one_form(table, tmp_path, count):
    what = TableFit(laws=("saturating",), x=("flops=gflops*G",), at=("flops=1e15",), space="linear")  # not averaged
    text = fit_any(table(lambda d: d.head(count)), what, tmp_path)
    record = json.loads((tmp_path / "fit.json").read_text())
    listed = json.loads((tmp_path / "checklist.json").read_text())["form"]
    assert set(record["intervals_95"]) == {"E", "a", "b"}
    assert listed["fixed parameters"] == []
    v, (ahead,) = record["values"], record["forecasts"]
    assert ahead["value"] == pytest.approx(v["E"] + v["a"] * 1e15 ** -v["b"], rel=1e-6)
    assert f"{count} rows" in text
    assert any("too few to tell E" in w for w in record["warnings"])
    if count == 3:  # no degree of freedom
        assert all(ends == [True, True] for ends in record["open"].values())
        assert ahead["curve"] == ahead["new_run"] == [None, None]
        assert any("nothing is tested" in w for w in record["warnings"])
    else:
        low, high = ahead["curve"]
        assert low is None or low <= ahead["value"]
        assert high is None or ahead["value"] <= high


def test_fit_any_reports_copies_gaps_and_left_out_rows(table):
    def spoil(df):
        df = pd.concat([df, df.iloc[[3]]])  # an exact copy
        extra = df.iloc[[0, 1, 2]].assign(model=["x", "y", "z"], gflops=[5.0, 7.0, 9.0], error=[0.9995, np.nan, 0.0])
        return pd.concat([df, extra, df.iloc[[4]].assign(family="other", model="q")], ignore_index=True)

    text = fit_any(table(spoil), TableFit(laws=("power",), x=("gflops",), chance=0.999, where=("family=clip",)))
    assert "12 rows" in text.splitlines()[0]
    for words in (
        "1 rows are exact copies",
        "1 rows left out, the first is row 14: error is missing",
        "1 rows left out, the first is row 13: error above that of guessing, 0.999",
        "1 rows left out, the first is row 15: an error of 0 has no logarithm",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("change", "options", "field"),
    [
        (lambda d: d, {"y": "loss"}, "loss"),
        (lambda d: d, {"x": ("compute=gflops",)}, "--x"),
        (lambda d: d, {"x": ("gflops*Q",)}, "--x=gflops*Q"),
        (lambda d: d, {"where": ("family=coca",)}, "--where"),
        (lambda d: d, {"y": "acc", "y_is": "accuracy"}, "acc"),
        (lambda d: d.assign(error=-d["error"]), {}, "error"),
        (lambda d: d.assign(gflops=5.0), {}, "flops"),
        (lambda d: d.head(1), {}, "flops"),
        (lambda d: d.assign(gflops=np.where(np.arange(12) < 6, d["gflops"], d["gflops"] * 1e9)), {}, "flops"),
        (lambda d: d, {"at": ("-3",)}, "--at"),
        (lambda d: d, {"at": ("inf",)}, "--at"),
        (lambda d: d, {"at": ("params=3",)}, "--at"),
        (lambda d: d.assign(error=["bad", *d["error"][1:]]), {}, "error"),
        (lambda d: d, {"laws": ("chinchilla",), "x": ("params=gflops", "samples_seen=gflops")}, "params, samples_seen"),
        (lambda d: d, {"laws": ("power", "chinchilla")}, "--law"),
        (lambda d: d, {"group": "family"}, "--group"),
        (lambda d: d, {"group": "model", "examples": 50}, "--examples"),
        (
            lambda d: d,
            {"laws": ("chinchilla",), "x": ("params=gflops", "samples_seen=acc"), "frontier": "hull"},
            "--frontier",
        ),
    ],
)  # fmt: skip
def test_fit_any_what_cannot_be_fitted_names_the_field(table, change, options, field):
    with raises_user_error(field=field) as caught:
        fit_any(table(change), TableFit(**{"laws": ("power",), "x": ("gflops",), **options}))
    assert caught.value.reason


def test_fit_any_writes_forecasts_comparison_and_files(table, tmp_path):
    what = TableFit(laws=("saturating", "power"), x=("flops=gflops*G",), at=("1e15",), frontier="pareto")
    text = fit_any(table(), what, tmp_path / "out")
    assert "not identified: the profile of E is flat below" in text
    assert "held-out extrapolation" in text
    record = json.loads((tmp_path / "out" / "fit.json").read_text())
    assert record["law"] == "saturating"
    assert record["identified"] is False
    forecast = record["forecasts"][0]
    assert forecast["new_run"][0] < forecast["curve"][0] < forecast["value"] < forecast["curve"][1]
    assert record["compared"]["ranking"][0]["form"] == "power law"
    assert len(record["rows"]) <= 12
    assert (
        "frontier (pareto)"
        in json.loads((tmp_path / "out" / "checklist.json").read_text())["data"]["which rows were left out, and why"]
    )


def test_fit_any_small_evaluation_set_widens_intervals(table):
    def width(**options):
        (line,) = [
            w for w in fit_any(table(), TableFit(**{**vars(POWER), **options})).splitlines() if w.startswith("    b ")
        ]
        low, high = line.split("[")[1].split("]")[0].split(", ")
        return float(high) - float(low)

    assert width(examples=1000) > 3 * width()
    assert width(examples=10_000_000) == width()


def test_fit_any_new_examples_scatter_a_run_more_than_the_same_and_both_by_the_forecast_error(table, tmp_path):
    def forecasts(n):
        fit_any(table(), replace(POWER, at=("1e13", "1e15"), examples=n), tmp_path)
        return json.loads((tmp_path / "fit.json").read_text())["forecasts"]

    def width(row, key):
        return np.log(row[key][1] / row[key][0])

    (near, far), (_, known) = forecasts(2000), forecasts(0)
    assert known["new_run_on_new_examples"] is None
    assert width(far, "new_run_on_new_examples") > width(far, "new_run") > width(far, "curve")
    # 1e13 FLOPs are the table's largest: on the same examples nothing is left to become right
    assert width(near, "new_run") < width(near, "new_run_on_new_examples") < width(far, "new_run_on_new_examples")
    averaged = far["averaged"]
    assert width(averaged, "run_on_new_examples") > width(averaged, "run") > width(averaged, "curve")


def test_fit_any_chance_is_the_ceiling_of_the_chance_law(table):
    what = TableFit(laws=("chance",), x=("flops=gflops*G",), chance=0.999, at=("1e3",))
    assert "at 1e3: 0.99" in fit_any(table(), what)


def test_fit_command_accepts_the_options(table, capsys):
    path = str(table())
    assert main(["fit", path, "--law=power", "--x=flops=gflops*G", "--y=error", "--at=1e14", "--loss=squares"]) == 0
    assert "at 1e14: 0.2" in capsys.readouterr().out
    assert main(["fit", path, "--x=gflops"]) == 2
    assert error_fields(capsys.readouterr().err) == ["--x"]
    assert main(["fit", path, "--law=quadratic"]) == 2
    assert error_fields(capsys.readouterr().err) == ["law"]
    assert main(["fit", path, "--law=power", "--x=gflops", "--frontier=best"]) == 2
    assert error_fields(capsys.readouterr().err) == ["frontier"]


def test_fit_any_size_and_data_law_needs_no_option(tmp_path):
    rng = np.random.default_rng(0)
    n, d = (np.exp(rng.uniform(*np.log(ends), 40)) for ends in ((1e7, 1e10), (1e9, 1e11)))
    loss = 1.7 + 400 / n**0.34 + 410 / d**0.28
    pd.DataFrame({"params": n, "samples_seen": d, "loss": loss}).to_csv(tmp_path / "t.csv", index=False)
    text = fit_any(tmp_path / "t.csv", TableFit(laws=("chinchilla",)))
    (line,) = [w for w in text.splitlines() if w.startswith("    alpha ")]
    assert float(line.split()[1]) == pytest.approx(0.34, abs=1e-3)


def spread(tmp_path, groups=12, each=4, between=0.05, seed=0):
    """Write a table of a power law of exponent 0.1 whose groups scatter together."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(groups), each)
    x = np.exp(rng.uniform(np.log(1e17), np.log(1e20), groups))[labels] * rng.uniform(0.9, 1.1, groups * each)
    y = 50 * x**-0.1 * np.exp(between * rng.standard_normal(groups)[labels] + 0.005 * rng.standard_normal(len(x)))
    path = tmp_path / f"g{groups}.csv"
    pd.DataFrame({"flops": x, "error": y, "cell": [f"c{g}" for g in labels]}).to_csv(path, index=False)
    return path


@pytest.mark.thorough
def test_fit_any_group_widens_intervals_of_rows_that_scatter_together(tmp_path):
    path, widths = spread(tmp_path), []
    for group in ("", "cell"):
        what = TableFit(laws=("power",), loss="squares", group=group, at=("1e21",))
        text = fit_any(path, what, tmp_path / "out")
        record = json.loads((tmp_path / "out" / "fit.json").read_text())
        low, high = record["intervals_95"]["b"]
        assert low < 0.1 < high
        widths.append(high - low)
        listed = json.loads((tmp_path / "out" / "checklist.json").read_text())["form"]["parameters"]["b"]
        assert listed["interval_95"] == [low, high]
        forecast = record["forecasts"][0]
        assert forecast["new_run"][0] < forecast["curve"][0] < forecast["value"] < forecast["curve"][1]
        assert ("groups of cell" in text) == bool(group)
        assert ("groups of cell" in record["interval_method"]) == bool(group)
    assert widths[1] > 1.5 * widths[0]


def test_fit_any_few_groups_are_refused_or_warned_of(tmp_path):
    what = TableFit(laws=("power",), group="cell")
    with raises_user_error(field="--group", reason="4 groups"):
        fit_any(spread(tmp_path, groups=4), what)
    assert "groups are few" in fit_any(spread(tmp_path, groups=6), what)
    assert "groups are few" not in fit_any(spread(tmp_path, groups=12), what)


def test_fit_any_weights_recover_the_law_from_noisy_rows_whatever_their_unit(table, tmp_path):
    noise = np.where(np.arange(12) % 3 == 2, 0.5, 0.003)
    spoilt = ERROR * np.exp(noise * np.random.default_rng(3).standard_normal(12))
    by_loss = {}
    for name, weights in (("equal", None), ("known", noise**-2.0), ("scaled", 1e6 * noise**-2.0)):
        path = table(lambda d, w=weights: d.assign(error=spoilt, w=1.0 if w is None else w))
        what = TableFit(laws=("power",), x=("flops=gflops*G",), loss="squares", weights="w")
        fit_any(path, what, tmp_path / name)
        by_loss[name] = json.loads((tmp_path / name / "fit.json").read_text())
    assert by_loss["known"]["values"]["b"] == pytest.approx(0.1, abs=0.003)
    assert abs(by_loss["equal"]["values"]["b"] - 0.1) > 0.01
    width = {k: np.ptp(f["intervals_95"]["b"]) for k, f in by_loss.items()}
    assert width["known"] < 0.1 * width["equal"]
    assert width["scaled"] == pytest.approx(width["known"], rel=1e-6)


def test_fit_any_below_judges_the_rows_above(tmp_path):
    rng = np.random.default_rng(0)
    x = np.geomspace(1e17, 1e21, 40)
    y = 50 * x**-0.1 * np.exp(0.01 * rng.standard_normal(40))
    y[-1] *= 1.3
    pd.DataFrame({"flops": x, "error": y}).to_csv(tmp_path / "t.csv", index=False)
    what = TableFit(laws=("power", "saturating"), below=1e19, loss="squares")
    text = fit_any(tmp_path / "t.csv", what, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "fit.json").read_text())
    judged = record["held_out"]
    assert (len(record["rows"]), judged["rows"], judged["shown"]) == (20, 20, 10)
    assert judged["table"][0]["row"] == 20
    assert judged["table"][-1]["inside"] is False
    assert judged["inside"] >= 8
    expected = np.log([r["predicted"] / r["measured"] for r in judged["table"]])
    assert judged["rms"] == pytest.approx(np.sqrt(np.mean(expected**2)))
    assert set(judged["rms_of_laws"]) == {"power law", "saturating power law"}
    assert text.count("inside") + text.count("OUTSIDE") == 11  # ten rows and their count


def test_fit_any_chance_is_the_top_of_every_law_that_has_one(tmp_path):
    x = np.geomspace(1e10, 1e12, 8)
    y = 0.9 / (1 + (x / 3e11) ** 0.6)
    pd.DataFrame({"flops": x, "error": y}).to_csv(tmp_path / "t.csv", index=False)
    for key in ("sigmoid", "bounded"):
        fit_any(tmp_path / "t.csv", TableFit(laws=(key,), chance=0.9), tmp_path / key)
        record = json.loads((tmp_path / key / "fit.json").read_text())
        assert record["values"]["top"] == 0.9


def test_fit_any_with_every_parameter_held_is_refused(tmp_path):
    pd.DataFrame({"flops": [1e10, 1e11, 1e12], "error": [0.5, 0.4, 0.3]}).to_csv(tmp_path / "t.csv", index=False)
    with raises_user_error(field="fixed"):
        fit_any(tmp_path / "t.csv", TableFit(laws=("power",), fixed=("a=20", "b=0.1")))


def test_fit_any_out_that_is_a_file_is_refused(tmp_path):
    pd.DataFrame({"flops": [1e10, 1e11, 1e12], "error": [0.5, 0.4, 0.3]}).to_csv(tmp_path / "t.csv", index=False)
    with raises_user_error(field="--out"):
        fit_any(tmp_path / "t.csv", TableFit(laws=("power",)), tmp_path / "t.csv")


def test_fit_any_reads_chance_of_the_evaluations_beside_a_table(tmp_path):
    c = np.geomspace(1e9, 1e13, 12)
    y = 0.1 + (0.974 - 0.1) / (1 + (c / 1e11) ** 0.5) * np.exp(0.01 * np.random.default_rng(0).standard_normal(12))
    table, bounded = tmp_path / "runs.csv", TableFit(laws=("bounded",), at=("1e14",))
    pd.DataFrame({"flops": c, "error_mean": y}).to_csv(table, index=False)
    stated = fit_any(table, replace(bounded, chance=0.974))
    free = fit_any(table, bounded)
    evals = pd.DataFrame([("mean", "error", 0.974)], columns=["task", "metric", "chance"])
    evals.to_csv(tmp_path / "evals.csv", index=False)
    head, second, *lines = fit_any(table, bounded).splitlines()
    assert second.startswith("  guessing is 0.974 (evals.csv beside the table)")
    assert [head, *lines] == stated.splitlines() != free.splitlines()
    assert fit_any(table, replace(bounded, chance=0.9)) != stated
