"""The report as files and as text."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clip_jax.scaling.analysis import analyze as analysis
from clip_jax.scaling.analysis.extrapolation import AVERAGED, rival_forms
from clip_jax.scaling.analysis.frontier_fit import NOT_RESELECTED, FrontierFit
from clip_jax.scaling.data.provenance import rows_hash
from clip_jax.scaling.data.runs_table import fit_rows, prepare
from clip_jax.scaling.report.figures import FIGURES, FORMATS
from clip_jax.scaling.report.page.data import embedded
from clip_jax.scaling.report.write import fit_table, passes_answer, text_summary, write_report
from clip_jax.scaling.uncertainty.interval_format import times_text

from ...user_errors import raises_user_error


def learning(df):
    return pd.DataFrame(
        [
            {"run_id": r, "step": s, "flops": f * s / 4, "error": e * (5 - s) ** 0.2}
            for r, f, e in zip(df["run_id"], df["flops"], df["error_mean"], strict=True)
            for s in (1, 2, 4)
        ]
    )


EVIDENCE = pd.DataFrame(
    [{"budget": 1e10, "params": 9, "peak_lr": x, "error": 0.5, "verdict": v} for x, v in ((1, ""), (2, "inside"))]
)


REGISTERED = {"registration": "1", "metric": "error_mean", "form": "<b>", "predicted": 0.3509, "inside": None}


@pytest.fixture(scope="module")
def report(runs, curves, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("report")
    df = runs(curves["power law"], budgets=6)
    df.loc[0, "final"] = False
    df.loc[1, "run_id"] = "<script>alert(1)</script>"
    law = write_report(
        df, tmp_path / "report", curves=learning(df), lr_evidence=EVIDENCE, title="A & B", forecasts=[REGISTERED]
    )
    return df, law, tmp_path / "report"


@pytest.mark.parametrize(
    ("unique", "answer"),
    [
        ([100, 200], "no pair was seen twice in a run"),
        ([50, 10], "runs made 2 to 20 passes over the data (above 4, repeated pairs are worth less than new ones)"),
        ([100, 100], "runs made 1 to 2 passes over the data"),
        ([None, None], ""),
    ],
)
def test_passes_answer_tells_whether_data_was_repeated(unique, answer):
    assert passes_answer(pd.DataFrame({"samples_seen": [100, 200], "unique_samples": unique})) == answer


@pytest.mark.thorough
def test_write_report_writes_readable_files(report):
    _, law, out = report
    names = {"law.json", "report.html", "checklist.json", "checklist.txt"}
    drawn = {f"{name}.{kind}" for name, reason in law["figures"].items() for kind in FORMATS if reason is None}
    assert set(law["figures"]) == set(FIGURES)
    assert {f"{name}.png" for name in FIGURES if name != "contour"} <= drawn
    assert {p.name for p in out.iterdir()} == names | drawn
    for path in out.glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 400
            assert np.asarray(image.convert("L")).std() > 5
    assert json.loads((out / "law.json").read_text()) == law


@pytest.mark.thorough
def test_write_report_finds_the_planted_law(report):
    df, law, _ = report
    assert law["winner"] == "power law"
    (fit,) = [f for f in law["fits"] if f["form"] == "power law"]
    assert fit["exponent"]["low"] < 0.1 < fit["exponent"]["high"]
    assert fit["exponent"]["high"] - fit["exponent"]["low"] < 0.02
    assert fit["agree"] == fit["starts"] > 5
    assert law["left_out"] == [{"run_id": "r0", "reason": "not finished"}]
    assert law["runs"] == len(df) - 1
    assert all(r["falls"] for r in law["frontier"][:-1])
    assert law["allocation"]["status"] == "identified"
    assert {r["form"] for r in law["forecast_check"]} == {AVERAGED, *(f["form"] for f in law["fits"])}


@pytest.mark.thorough
def test_report_page_is_self_contained_and_escaped(report):
    html = (report[2] / "report.html").read_text()
    assert "<script>alert" not in html
    assert "http:" not in html.replace("http://www.w3.org/2000/svg", "")
    assert "https:" not in html
    assert "eval(" not in html
    assert "A &amp; B" in html
    start = html.index('id="data">') + 10
    data = json.loads(html[start : html.index("</script>", start)])
    assert len(data["runs"]) == len(report[0]) - 1
    fits = [len(f["fits"]) for f in report[1]["frontiers"].values()]
    assert [len(rule["fits"]) for rule in data["rules"]] == [fits[0] + 1, *fits[1:]]  # the average leads the first
    assert "default-src 'none'" in html
    assert report[1]["rows_sha256"] in html
    (section,) = re.findall("<h2>Registered forecasts</h2>.*?</table>", html, re.DOTALL)
    assert "0.3509" in section
    assert "&lt;b&gt;" in section


@pytest.mark.thorough
def test_text_summary_is_short_and_complete(report):
    text = text_summary(report[1])
    assert len(text.splitlines()) < 44
    assert max(map(len, text.splitlines())) <= 100
    for words in (
        "power law",
        "sigmoid in log C",
        "95 % interval",
        "naive guess",
        "bracketed",
        "beats the naive guess",
    ):
        assert words in text


@pytest.mark.thorough
def test_text_summary_has_the_forecast_of_every_form(report):
    law = report[1]
    ahead = law["averaged"][-1]
    assert any(f["weight"] < 0.005 for f in ahead["forms"])
    text = text_summary(law).replace("\n", " ")
    for form in ahead["forms"]:
        assert f"{form['predicted']:.4f}" in text.split("it expects")[1]


@pytest.mark.parametrize(("factor", "text"), [(1.512, "1.51×"), (99.8, "100×"), (218.2, "218×"), (9907.3, "9,907×")])
def test_times_text_is_no_power_of_ten(factor, text):
    assert times_text(factor) == text


def test_write_report_of_two_budgets_gives_no_law(runs, curves, tmp_path):
    law = write_report(runs(curves["power law"], budgets=2, sizes=1, seeds=1), tmp_path)
    assert law["fits"] == []
    assert law["why"].startswith("no law: 2 points")
    assert "no law" in text_summary(law)
    assert law["figures"]["residuals"].startswith("no law: 2 points")
    html = (tmp_path / "report.html").read_text()
    assert "2 points, power law needs 3" in html
    assert not (tmp_path / "checklist.json").exists()


def test_write_report_without_finished_runs_is_refused(runs, curves, tmp_path):
    df = runs(curves["power law"]).assign(final=False)
    with raises_user_error(field="error_mean", reason="no run"):
        write_report(df, tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_fit_table_of_a_foreign_table_finds_the_law(runs, curves, tmp_path):
    df = runs(curves["power law"], sizes=1, seeds=1, noise=0.0)
    df = df.rename(columns={"error_mean": "imagenet"})[["run_id", "flops", "params", "samples_seen", "imagenet"]]
    df.to_csv(tmp_path / "t.csv", index=False)
    law = fit_table(tmp_path / "t.csv", "imagenet")
    assert law["fits"][0]["values"]["b"] == pytest.approx(0.1, rel=1e-3)
    with raises_user_error(source=tmp_path / "t.csv", field="error_mean"):
        fit_table(tmp_path / "t.csv")


def test_fit_table_without_budgets_takes_unbeaten_runs(runs, curves, tmp_path):
    df = runs(curves["power law"], sizes=1, seeds=1, noise=0.0)
    badly_trained = df.iloc[::2].assign(flops=df["flops"] * 1.5, error_mean=df["error_mean"] * 1.02)
    badly_trained["run_id"] = "bad" + badly_trained["run_id"]
    other_data = df.assign(run_id="other" + df["run_id"], error_mean=df["error_mean"] * 1.1)  # equal cost and size
    pd.concat([df, badly_trained, other_data]).drop(columns=["budget", "seed"]).to_csv(tmp_path / "t.csv", index=False)
    law = fit_table(tmp_path / "t.csv")
    assert [r["flops"] for r in law["frontier"]] == pytest.approx(df["flops"].tolist())
    assert law["fits"][0]["values"]["b"] == pytest.approx(0.1, rel=1e-3)
    assert [r["error"] for r in law["frontier"]] == pytest.approx(df["error_mean"].tolist())
    assert law["seed_sd_of_log_error"] is None
    assert "no cheaper run beats" in text_summary(law)


def test_write_report_skips_undrawable_points(runs, curves):
    df = runs(curves["power law"], budgets=3, sizes=2, seeds=1)
    points = learning(df)
    points.loc[0, "error"], points.loc[1, "error"], points.loc[2, "flops"] = np.nan, 0.0, np.inf
    data = embedded(analysis.analyze(df, curves=points, full=False))
    drawn = [point for curve in data["curves"] for point in curve["points"]]
    assert len(drawn) == len(points) - 3
    assert all(np.isfinite(drawn).ravel())


@pytest.mark.thorough
def test_forecast_check_ignores_seeds_of_the_held_out_budget(runs, curves, tmp_path):
    df = runs(curves["power law"], sizes=3)
    wild = df["budget"] == df["budget"].max()
    means = df[wild].groupby("params")["error_mean"].transform("mean")
    spread = df.copy()
    spread.loc[wild, "error_mean"] = means * np.where(df.loc[wild, "seed"] == 0, 0.8, 1.2)
    checks = []
    for i, table in enumerate((df, spread)):
        table.to_csv(tmp_path / f"{i}.csv", index=False)
        checks.append(fit_table(tmp_path / f"{i}.csv")["forecast_check"][0])
    assert checks[0]["width"] == pytest.approx(checks[1]["width"], rel=1e-9)


@pytest.mark.thorough
def test_text_summary_of_many_budgets_and_wide_bands_is_short(runs, curves, tmp_path):
    runs(curves["power law"], budgets=13, sizes=1, seeds=1, noise=0.3).to_csv(tmp_path / "t.csv", index=False)
    lines = text_summary(fit_table(tmp_path / "t.csv")).splitlines()
    assert len(lines) < 48
    assert max(map(len, lines[1:])) <= 100  # the first line holds a path
    assert any("3 more" in line for line in lines)


@pytest.mark.thorough
def test_law_json_records_fit_status_and_row_hash(report):
    df, law, _ = report
    assert law["rows_sha256"] == rows_hash(fit_rows(prepare(df, "error_mean"), "error_mean")[0])
    assert law["versions"]["numpy"] == np.__version__
    for fit in law["fits"]:
        assert fit["values"].keys() >= fit["intervals"].keys()
        assert 0 < fit["share_of_starts"] <= 1
        assert fit["condition"] > 0
        assert isinstance(fit["identified"], bool)
        assert fit["loss"] == ["huber", "log", 0.02]
    assert law["frontiers"].keys() == {"budget", "pareto", "binned", "hull"}
    assert law["frontiers"]["budget"]["fits"] == law["fits"]
    assert len(law["influence"]) == len(law["frontier"])
    assert law["surface"]["status"]


def test_law_json_averages_the_forms_and_warns_of_rivals(runs, tmp_path):
    df = runs(lambda c: 0.2 + 0.5 * (c / 1e10) ** -0.35, sizes=1, noise=0.03)
    df.to_csv(tmp_path / "t.csv", index=False)
    law = fit_table(tmp_path / "t.csv")
    weights = law["averaged"][-1]["weights"]
    assert sum(weights.values()) == pytest.approx(1)
    assert sum(w >= 0.05 for w in weights.values()) >= 2
    assert law["rivals"] == rival_forms(law["averaged"][-1])
    assert set(law["rivals"]) <= set(law["warnings"])


def test_analyze_rows_above_chance_stay_where_the_law_has_a_ceiling(runs, curves):
    df = runs(curves["power law"], budgets=6, sizes=1, seeds=1)
    df.loc[0, "error_mean"] = 0.95
    law = analysis.analyze(df, chance=0.9, full=False).law
    points = {f["law"]: f["points"] for f in law["fits"]}
    assert law["left_out"] == []
    assert {k: v for k, v in points.items() if v == 6}.keys() == {"sigmoid", "bounded", "chance"}
    assert {k: v for k, v in points.items() if v == 5}.keys() == {"power", "saturating", "shifted"}
    tops = {f["law"]: f["values"]["top"] for f in law["fits"] if "top" in f["values"]}
    assert tops == {"sigmoid": 0.9, "bounded": 0.9}
    assert law["averaged"][-1]["curve"][1] <= 0.9


@pytest.mark.parametrize("value", [0.0, -0.1, np.nan])
def test_analyze_errors_of_zero_or_less_are_left_out(runs, curves, value):
    df = runs(curves["power law"], budgets=4, sizes=3, seeds=1)
    df.loc[0, "error_mean"] = value
    (gone,) = analysis.analyze(df, full=False).law["left_out"]
    assert gone["run_id"] == "r0"
    assert "no finite logarithm" in gone["reason"]


@pytest.mark.thorough
def test_write_report_mentions_constant_sizes_and_copies(runs, curves, tmp_path):
    df = runs(curves["power law"], budgets=5, sizes=1, seeds=1, noise=0.0).drop(columns="budget").assign(params=7e4)
    law = write_report(df, tmp_path)
    assert law["surface"]["status"] == "left out: 1 sizes, at least 3 are needed"
    assert law["figures"]["contour"] == "1 sizes, at least 3 are needed"
    assert "1 sizes, at least 3 are needed" in (tmp_path / "report.html").read_text()
    with raises_user_error(field="run_id"):
        analysis.analyze(pd.concat([df, df.head(1)]))


def test_analyze_two_units_in_one_column_are_refused(runs, curves):
    df = runs(curves["power law"], budgets=5, sizes=1, seeds=1)
    df["flops"] *= np.where(df.index < 3, 1e-9, 1.0)
    with raises_user_error(field="flops", reason="two units"):
        analysis.analyze(df, full=False)


def test_write_report_with_budgets_above_chance_names_forms_that_lack_points():
    flops = np.repeat([2e8, 4e8, 8e8], 2) * ([1.0, 1.01] * 3)
    rows = pd.DataFrame(
        {
            "run_id": list("abcdef"), "kind": "cell", "budget": np.repeat([2e8, 4e8, 8e8], 2), "flops": flops,
            "params": [1e4, 2e4] * 3, "samples_seen": flops / 2e4, "width": [8, 16] * 3, "depth": 1, "seed": 0,
            "final": True, "error_mean": [0.8718, 0.872, 0.8686, 0.8654, 0.8622, 0.8622],
        }
    )  # fmt: skip
    for error in (rows["error_mean"], rows["error_mean"] + 0.01):  # one point above guessing, and all three
        law = analysis.analyze(rows.assign(error_mean=error), "error_mean", chance=0.8693).law
        assert "power" in law["frontiers"]["budget"]["left_out"]
        assert law["fits"]


def test_interval_of_an_unidentified_fit_is_one_everywhere_and_never_closed(runs, curves):
    law = analysis.analyze(runs(curves["power law"], budgets=6), full=False).law
    assert any(not f["identified"] for f in law["fits"])
    assert any(f["identified"] for f in law["fits"])
    summary = text_summary(law)
    for f in law["fits"]:
        for span in [*f["intervals"].values()] if not f["identified"] else []:
            assert None in (span["low"], span["high"])
        low, high = ("none" if v is None else f"{v:.4f}" for v in (f["exponent"]["low"], f["exponent"]["high"]))
        assert f"{f['exponent']['name']}={f['exponent']['value']:.4f}  [{low}, {high}]" in summary


def test_analyze_rows_above_chance_enter_no_fit_of_a_law_without_a_ceiling(runs, curves):
    df = runs(lambda c: min(curves["power law"](c) * 1.5, 1.0), budgets=7)
    law = analysis.analyze(df, chance=0.95).law
    above = int((df["error_mean"] > 0.95).sum())
    assert above
    assert f"{above} runs above guessing, 0.95, are left out" in law["surface"]["notes"]
    assert law["surface"]["rows"] == len(df) - above
    scores = {s["form"]: s["mean_abs_log_error"] for s in law["extrapolation"]}
    assert scores["power law"] < 0.01  # exact below guessing; points of 0.95 and more would bend it


def test_summary_of_few_runs_without_budgets_says_that_selection_is_left_out(runs, curves):
    df = runs(curves["power law"], budgets=8, sizes=1, seeds=1).drop(columns="budget")
    law = analysis.analyze(df, full=False).law
    assert law["selection"] == f"{NOT_RESELECTED}: 8 runs are fewer than 20"
    assert law["selection"] in law["fits"][0]["interval_kind"]
    assert law["selection"] in text_summary(law)
    assert analysis.analyze(runs(curves["power law"], budgets=5), full=False).law["selection"] is None


def test_summary_of_accuracies_read_as_errors_warns(runs, curves):
    df = runs(curves["power law"], sizes=1, seeds=1).drop(columns="budget")
    law = analysis.analyze(df.assign(error_mean=1 - df["error_mean"]), full=False).law
    assert law["rising"].startswith("error_mean grows with FLOPs (rank correlation +")
    assert law["warnings"][0] == law["rising"]
    assert "note: error_mean grows with FLOPs" in text_summary(law)
    assert analysis.analyze(df, full=False).law["rising"] is None


def test_law_json_a_side_that_is_flat_is_open_in_the_interval(report):
    for fit in report[1]["fits"]:
        for name, side in (f.split() for f in fit["flat"]):
            assert side in fit["intervals"][name]["open"]


def test_law_json_warns_of_a_band_that_is_open_for_fits_that_did_not_converge(runs, curves, monkeypatch):
    whole = FrontierFit.prediction_at
    monkeypatch.setattr(FrontierFit, "prediction_at", lambda f, c: replace(whole(f, c), converged=(True, False)))
    analyzed = analysis.analyze(runs(curves["power law"], budgets=5), full=False)
    reason = "the band of the power law at the target is open above: the fits behind it did not converge"
    assert reason in analyzed.law["warnings"]
    ahead = analyzed.law["averaged"][-1]
    assert ahead["union"][1] is None
    (line,) = [line for line in text_summary(analyzed.law).splitlines() if "the bands of all forms together" in line]
    assert line.endswith(", none]")
