"""Traces of a few steps, and that the parts of the time add up over a run."""

import dataclasses
import itertools
import time

import pytest

from clip_jax.errors import ConfigError
from clip_jax.evals.in_training import make_evaluator
from clip_jax.storage.json_files import read_json, read_lines
from clip_jax.train.loop import train
from clip_jax.train.profiler import parse_window

from ..user_errors import raises_user_error

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:Sharding info:UserWarning")


def test_parse_window_accepts_two_steps_or_a_length():
    assert parse_window("3:6", 20) == (3, 6)
    assert parse_window("4", 20) == (10, 14)


@pytest.mark.parametrize("text", ["", "x", "6:3", "3:3", "-1:3", "0", "11", "3:21", "1:2:3"])
def test_parse_window_of_other_text_is_refused(text):
    with raises_user_error(ConfigError, field="--profile", value=text):
        parse_window(text, 20)


@pytest.mark.thorough
def test_train_with_profile_writes_a_trace_and_times_that_add_up(tiny_run, tmp_path, caplog):
    caplog.set_level("INFO", "clip_jax")
    run = dataclasses.replace(
        tiny_run, steps=24, evals=dataclasses.replace(tiny_run.evals, zero_shot=(), at_fractions=(0.5,))
    )
    train(run, tmp_path / "run", make_evaluator, stop_after=10, progress=False, profile=(3, 6))
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("clip_jax")]
    assert [line for line in lines if "trace" in line] == [f"trace in {tmp_path / 'run' / 'profile'}"]
    traces = list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
    assert len(traces) == 1
    assert traces[0].stat().st_size > 1000
    first = read_json(tmp_path / "run" / "status.json")["wall_s"]
    began = time.monotonic()
    result = train(run, tmp_path / "run", make_evaluator, progress=False, profile=(3, 6))  # lies behind: no trace
    second = time.monotonic() - began
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb")) == traces
    seconds = result["seconds"]
    # the clock starts a moment after the run, and stops a moment after the wall time was read
    assert sum(seconds.values()) == pytest.approx(result["wall_s"], rel=0.1)
    assert first < result["wall_s"] <= first + second
    for part in ("start", "compile", "data", "step", "evaluation", "checkpoint"):
        assert seconds[part] > 0
    # useful are the steps that led to the result, and nothing else
    rows = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert all(a["step_s"] < b["step_s"] for a, b in itertools.pairwise(rows))
    assert rows[-1]["step_s"] <= seconds["step"]
    assert result["goodput"] == pytest.approx(rows[-1]["step_s"] / result["wall_s"], rel=0.2)
    assert 0 < result["goodput"] <= seconds["step"] / result["wall_s"] < 1
