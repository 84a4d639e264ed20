"""Evidence about learning rates, and directories that hold no sweep."""

import math

import pandas as pd
import pytest

from clip_jax.storage.json_files import write_json
from clip_jax.sweep.analysis.hyperparameter_scaling import best_value
from clip_jax.sweep.collect import collect, curves, lr_evidence, several_data
from clip_jax.sweep.status import status_table
from clip_jax.sweep.tried_values import EDGE, FEW, FLAT, INSIDE, judge, noise_of

from ..user_errors import raises_user_error
from ..whole_result import WHOLE


def table(low, used, high):
    rows = [
        ("cell", 1e-3, used, 0),
        ("second_seed", 1e-3, used + 0.002, 1),
        ("lr_check", 5e-4, low, 0),
        ("lr_check", 2e-3, high, 0),
    ]
    return pd.DataFrame(
        [
            {"budget": 1e10, "params": 5, "kind": k, "peak_lr": r, "m": e, "final": True, "seed": s}
            for k, r, e, s in rows
        ]
    )


@pytest.mark.parametrize(
    ("errors", "kind"),
    [((0.6, 0.5, 0.6), INSIDE), ((0.4999, 0.5, 0.6), FLAT), ((0.4, 0.5, 0.6), EDGE), ((0.6, 0.5, 0.45), EDGE)],
)
def test_lr_evidence_verdict_is_the_judgment_that_rules_use(errors, kind):
    runs = table(*errors)
    evidence = lr_evidence(runs, "m")
    judged = judge(runs, "peak_lr", "m", noise_of(runs, "m"))
    assert evidence["peak_lr"].tolist() == [5e-4, 1e-3, 2e-3]
    assert evidence["verdict"].tolist() == ["", judged.text, ""]
    assert judged.kind == kind
    best = best_value(runs.assign(width=8), "peak_lr", "width", "m", noise_of(runs, "m"))
    assert (best.value is not None) == (kind == INSIDE)


def test_judge_usual_value_best_at_an_edge_is_an_edge():
    runs = table(0.4, 0.5, 0.6)
    runs.loc[runs["kind"] == "lr_check", "peak_lr"] = [2e-3, 4e-3]
    runs.loc[runs["kind"] == "lr_check", "m"] = [0.6, 0.7]
    assert judge(runs, "peak_lr", "m", 0.0).kind == EDGE
    assert judge(runs.iloc[:3], "peak_lr", "m", 0.0).kind == FEW


def test_lr_evidence_without_checks_is_empty():
    df = table(1, 1, 1)
    assert lr_evidence(df[df["kind"] != "lr_check"], "m").empty


def test_collect_keeps_a_row_for_each_missing_run(tmp_path):
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


def test_collect_of_no_sweep_is_refused(tmp_path):
    with raises_user_error(field=tmp_path, reason="plan.json"):
        collect(tmp_path)


@pytest.mark.parametrize(
    ("digests", "reported"), [(["a", "a", None], False), (["a", "b", "a"], True), ([None, None], False), ([], False)]
)
def test_several_data_reports_differing_digests(digests, reported):
    assert (several_data(pd.DataFrame({"train_digest": digests})) is not None) == reported
    assert several_data(pd.DataFrame({"final": digests})) is None  # as runs made before have it


def test_collect_and_status_survive_a_damaged_run(tmp_path, caplog):
    cell = {
        "kind": "cell", "rung": 1.0, "budget": 1e10, "seed": 0, "width": 16, "depth": 1, "params": 5,
        "batch_size": 8, "samples_seen": 80, "flops": 1e10, "peak_lr": 1e-3, "steps": 10, "dropped": None,
    }  # fmt: skip
    runs = ("lacking", "evals", "deep", "status", "well")
    write_json(tmp_path / "plan.json", {"cells": [{"run_id": name} | cell for name in runs]})
    write_json(tmp_path / "sweep.json", {})
    rows = [
        {"task": "a", "metric": "top1", "value": 0.5},
        {"task": "validation", "metric": "loss", "value": 2.0, "chance": math.log(512)},
    ]
    for name in runs:
        (tmp_path / "runs" / name).mkdir(parents=True)
    mixed = {"config": {"data": {"paths": ["web", "photos"]}}, "drawn_by_path": [30, 10]}
    write_json(tmp_path / "runs/well/result.json", WHOLE | {"evals": rows} | mixed)
    write_json(tmp_path / "runs/lacking/result.json", {"steps": 10})
    write_json(tmp_path / "runs/evals/result.json", WHOLE | {"evals": [{"task": []}]})
    for name, data in (("deep/result.json", b"[" * 100_000), ("status/status.json", b'{"wall_s": [[]]}')):
        (tmp_path / "runs" / name).write_bytes(data)
    (tmp_path / "runs/well/evals.jsonl").write_bytes(b"\xff\n")
    df = collect(tmp_path).set_index("run_id")
    assert df["state"].to_dict() == {
        "well": "finished", "lacking": "failed", "evals": "failed", "deep": "failed", "status": "missing",
    }  # fmt: skip
    assert df.loc["well", "error/a"] == 0.5
    assert df.loc["well", "val_negatives"] == 511
    assert df.loc["well", ["drawn/web", "drawn/photos"]].tolist() == [30, 10]
    assert df.loc["well", "passes"] == WHOLE["samples_seen"] / WHOLE["unique_samples"]
    assert curves(tmp_path) is None
    assert "evals.jsonl" in caplog.text
    table = status_table(tmp_path)
    assert "4 corrupt, 1 finished" in table
