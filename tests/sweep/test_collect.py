"""Evidence about learning rates, and directories that hold no sweep."""

import pandas as pd
import pytest

from clip_jax.config import UserError
from clip_jax.sweep.collect import collect, curves, lr_evidence
from clip_jax.train.record import write_json


def table(low, used, high):
    rows = [
        ("cell", 1e-3, used),
        ("second_seed", 1e-3, used + 0.002),
        ("lr_check", 5e-4, low),
        ("lr_check", 2e-3, high),
    ]
    return pd.DataFrame(
        [{"budget": 1e10, "params": 5, "kind": k, "peak_lr": r, "m": e, "final": True} for k, r, e in rows]
    )


@pytest.mark.parametrize(
    ("errors", "verdict"),
    [
        ((0.6, 0.5, 0.6), "inside"),
        ((0.4999, 0.5, 0.6), "flat: lower is better by less than the noise"),
        ((0.4, 0.5, 0.6), "edge: lower is better"),
        ((0.6, 0.5, 0.45), "edge: higher is better"),
    ],
)
def test_verdicts(errors, verdict):
    found = lr_evidence(table(*errors), "m")
    assert found["peak_lr"].tolist() == [5e-4, 1e-3, 2e-3]
    assert found["verdict"].tolist() == ["", verdict, ""]


def test_no_checks_no_evidence():
    df = table(1, 1, 1)
    assert lr_evidence(df[df["kind"] != "lr_check"], "m").empty


def test_a_run_that_has_not_run_keeps_its_row(tmp_path):
    cell = {
        "run_id": "abc", "kind": "cell", "rung": 1.0, "budget": 1e10, "seed": 0, "width": 16, "depth": 1, "params": 5,
        "batch_size": 8, "samples_seen": 80, "flops": 1e10, "peak_lr": 1e-3, "steps": 10, "dropped": None,
    }  # fmt: skip
    write_json(tmp_path / "plan.json", {"cells": [cell, {**cell, "run_id": "xyz", "dropped": "too few steps"}]})
    df = collect(tmp_path)
    assert df[["run_id", "state", "final"]].values.tolist() == [["abc", "missing", False]]
    assert (tmp_path / "runs.csv").exists()
    assert curves(tmp_path) is None
    assert curves(tmp_path, "some_other_metric") is None


def test_no_sweep_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no sweep"):
        collect(tmp_path)
