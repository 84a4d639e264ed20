"""The checklist holds what the fit knows and says what it cannot know."""

import json

import numpy as np
import pytest

from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.laws import SaturatingPowerLaw
from clip_jax.scaling.report.checklist import NOT_STATED, QUESTIONS, as_text, checklist, write_checklist

from ...user_errors import raises_user_error

C = np.geomspace(1e10, 1e13, 12)
Y = 0.7 * (C / C[0]) ** -0.1 * np.exp(0.01 * np.random.default_rng(0).standard_normal(12))


@pytest.fixture(scope="module")
def fit():
    return fit_law(SaturatingPowerLaw(), C, Y, fixed={})


def test_checklist_is_filled_from_the_fit(fit):
    answers = checklist(fit)
    assert set(answers) == {"form", "training", "data", "fitting"}
    assert answers["form"]["parameters"]["b"]["value"] == fit.values["b"]
    low, high = answers["form"]["parameters"]["b"]["interval_95"]
    assert low < fit.values["b"] < high
    assert answers["form"]["parameters"]["E"]["open"] == ["below"]
    assert "1e+03×" in answers["data"]["range of each column"]["flops"]
    assert answers["fitting"]["status"] == fit.status
    assert answers["fitting"]["flat profiles"] == ["E below"]
    assert set(answers["training"].values()) == {NOT_STATED}


def test_checklist_takes_answers_and_refuses_unknown_questions(fit):
    answers = checklist(fit, {"seeds": "3"}, intervals=False)
    (text,) = [t for name, t in QUESTIONS["data"] if name == "seeds"]
    assert answers["data"][text] == "3"
    with raises_user_error(field="answers", value="colour"):
        checklist(fit, {"colour": "blue"})


def test_write_checklist_writes_text_and_json(fit, tmp_path):
    content = checklist(fit)
    write_checklist(content, tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"checklist.json", "checklist.txt"}
    read = json.loads((tmp_path / "out" / "checklist.json").read_text())
    assert read["fitting"]["objective at the optimum"] == fit.objective
    text = (tmp_path / "out" / "checklist.txt").read_text()
    assert text == as_text(content)
    assert f"b = {fit.values['b']:.6g}  95 %" in text
    assert "identified: no" in text
