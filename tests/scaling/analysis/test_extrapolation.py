"""Laws are chosen by what they forecast."""

import numpy as np
import pytest

from clip_jax.scaling.analysis.averaging import average
from clip_jax.scaling.analysis.extrapolation import (
    AVERAGED,
    compare_laws,
    extrapolation_scores,
    forecast_check,
    rival_forms,
    rolling,
)
from clip_jax.scaling.analysis.frontier_fit import FrontierFit
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.laws import LAWS, Chinchilla, PowerLaw, SaturatingPowerLaw, law_named

C = np.geomspace(1e10, 1e12, 6)


@pytest.mark.parametrize("form", ["power law", "sigmoid in log C"])
def test_extrapolation_scores_rank_the_true_form_first(curves, form):
    c = np.geomspace(1e10, 1e13, 8)
    assert extrapolation_scores(c, curves[form](c))[0]["form"] == form


def check(errors, laws=("power", "saturating", "sigmoid")):
    """Return `forecast_check` of the last of six budgets from the others."""
    fitted = {k: FrontierFit(fit_law(law_named(k), C[:5], errors[:5])) for k in laws}
    return forecast_check(fitted, average(fitted), float(C[5]), float(errors[5]), float(errors[4]))


def test_forecast_check_of_a_law_beats_the_naive_guess():
    noise = np.array([1, -1, 1, 1, -1, 0.5]) * 0.003
    rows = {r["form"]: r for r in check(0.7 * (C / C[0]) ** -0.1 * np.exp(noise))}
    row = rows["power law"]
    assert next(iter(rows)) == AVERAGED
    assert row["beats_naive"]
    assert row["inside"]
    assert abs(row["error"]) < abs(row["naive_error"]) / 5
    assert row["width"] == pytest.approx(row["high"] - row["low"])
    assert row["error"] == pytest.approx(row["predicted"] - row["measured"])


def test_forecast_check_without_a_law_beats_nothing():
    flat = 0.5 * np.exp([0.0, 0.05, -0.04, 0.03, -0.05, 0.05])
    assert not any(r["beats_naive"] for r in check(np.append(flat[:5], flat[4])))


def test_forecast_check_band_wider_than_the_error_is_no_forecast():
    wild = np.exp([0.0, -1.5, 0.7, -2.0, 0.5, -2.5]) * 0.3
    for row in check(wild):
        assert row["verdict"].startswith("no forecast")
        assert not row["beats_naive"]


def test_extrapolation_scores_of_four_budgets_are_empty():
    assert extrapolation_scores(C[:4], C[:4] ** -0.1) == []


def test_extrapolation_scores_form_held_at_a_simpler_one_was_not_tested():
    errors = 0.7 * (C / C[0]) ** -0.1 * np.exp(0.01 * np.random.default_rng(0).standard_normal(6))
    scores = {r["form"]: r for r in extrapolation_scores(C, errors)}
    assert scores["power law"]["forecasts"] == 2
    for form in ("saturating power law", "bounded power law", "shifted power law"):
        assert scores[form] == {"form": form, "mean_abs_log_error": None, "forecasts": 0}
    assert next(iter(scores)) == "power law"  # the top of the sigmoid was held too
    known = {r["form"]: r for r in extrapolation_scores(C, errors, known={"sigmoid": {"top": 0.95}})}
    assert known["sigmoid in log C"]["forecasts"] == 2


def test_rolling_scores_find_the_form_that_was_planted(curves):
    c = np.geomspace(1e10, 1e13, 16)
    noise = np.exp(0.003 * np.random.default_rng(0).standard_normal(16))
    for true, wrong in (("power law", "sigmoid in log C"), ("saturating power law", "power law")):
        scores = {law.name: rolling(law, c, curves[true](c) * noise) for law in LAWS}
        assert scores[true]["score"] < 0.6 * scores[wrong]["score"]
        cuts = scores[true]["cuts"]
        assert len(cuts) == 4
        assert all(r["rows_below"] + r["rows_above"] == 16 for r in cuts)
        assert cuts[0]["reach"] > cuts[-1]["reach"] > 1
    assert scores["power law"]["bias"] < 0  # it forecasts on where the truth levels off: too low an error


def test_rolling_scores_of_a_two_column_law_cut_by_compute():
    rng = np.random.default_rng(0)
    columns = {"params": np.exp(rng.uniform(16, 23, 60)), "samples_seen": np.exp(rng.uniform(19, 27, 60))}
    truth = {"E": 1.8, "A": 480.0, "alpha": 0.35, "B": 2100.0, "beta": 0.37}
    y = Chinchilla().curve(truth, {c: np.log(v) for c, v in columns.items()}, np)
    rolled = rolling(Chinchilla(), columns, y, by=6 * columns["params"] * columns["samples_seen"], cuts=2)
    assert rolled["score"] < 1e-6
    assert len(rolled["cuts"]) == 2


def test_compare_laws_equal_scores_that_disagree_give_a_warning(curves):
    c = np.geomspace(1e10, 3e11, 12)
    y = curves["power law"](c) * np.exp(0.01 * np.random.default_rng(1).standard_normal(12))
    far = compare_laws(LAWS, c, y, 1e16)
    near = compare_laws(LAWS, c, y, 4e11)
    assert any("disagree at the target" in w for w in far["warnings"])
    assert not near["warnings"]
    assert {r["form"] for r in far["ranking"]} == {law.name for law in LAWS}
    assert far["ranking"][0]["form"] == far["best"]


def test_compare_laws_of_too_few_rows_gives_no_ranking():
    few = compare_laws((PowerLaw(), SaturatingPowerLaw()), C[:4], C[:4] ** -0.1, 1e13)
    assert few["ranking"][0]["score"] is None
    assert "too few rows" in few["warnings"][0]


def test_compare_laws_uses_row_weights(curves):
    c = np.geomspace(1e10, 3e11, 12)
    y = curves["power law"](c)
    wrong = y * np.where(np.arange(12) % 4 == 1, 1.3, 1.0)
    weights = np.where(np.arange(12) % 4 == 1, 1e-6, 1.0)
    forms = (PowerLaw(), law_named("shifted"))
    weighed, plain = (compare_laws(forms, c, wrong, 1e12, weights=w)["ranking"] for w in (weights, None))
    truth = float(curves["power law"](1e12))
    off = [abs(next(r for r in rows if r["form"] == "power law")["predicted"] / truth - 1) for rows in (weighed, plain)]
    assert off[0] < 1e-3 < off[1]
    assert max(r["score"] for r in weighed) < 0.1 * max(r["score"] for r in plain)


def test_rival_forms_are_weighty_and_outside_each_other():
    def form(name, weight, predicted, low, high):
        return {"form": name, "weight": weight, "predicted": predicted, "low": low, "high": high}

    low, high = form("a", 0.7, 0.2, 0.18, 0.22), form("b", 0.1, 0.3, 0.25, 0.35)
    (sentence,) = rival_forms({"forms": [low, high]})
    assert "a (weight 0.70)" in sentence
    assert rival_forms({"forms": [low, {**high, "weight": 0.01}]}) == []
    assert rival_forms({"forms": [{**low, "high": 0.4}, {**high, "low": 0.1}]}) == []
    assert rival_forms({"forms": [low]}) == []


def test_forecast_check_predicts_the_median_of_the_curve():
    c = np.geomspace(1e10, 1e12, 8)
    y = (0.1 + 0.8 * (c / 1e10) ** -0.2) * np.exp(0.01 * np.random.default_rng(1).standard_normal(8))
    fitted = {
        law.key: FrontierFit(fit_law(law, c, y, profile=False)) for law in LAWS if law.key in ("power", "bounded")
    }
    averaged = average(fitted)
    first = forecast_check(fitted, averaged, 1e13, 0.3, 0.4)[0]
    assert first["predicted"] == averaged.curve_at(1e13).median != averaged.run_at(1e13).median
    assert [first["low"], first["high"]] == list(averaged.run_at(1e13).interval().bounded_ends)
