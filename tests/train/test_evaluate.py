"""Evaluating a run again gives the rows of its record."""

import pytest

from clip_jax.evals.in_training import make_evaluator
from clip_jax.train.evaluate import evaluate_run
from clip_jax.train.loop import train

from ..user_errors import raises_user_error

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:Sharding info:UserWarning")


def test_evaluate_run_equals_the_recorded_rows(tiny_run, tmp_path):
    result = train(tiny_run, tmp_path / "run", make_evaluator, progress=False)
    assert evaluate_run(tmp_path / "run", make_evaluator) == result["evals"]


def test_evaluate_run_of_no_run_is_refused(tmp_path):
    with raises_user_error(field=tmp_path, reason="config.json"):
        evaluate_run(tmp_path, make_evaluator)
