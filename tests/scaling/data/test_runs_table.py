"""Reading and checking a table."""

import numpy as np
import pytest

from clip_jax.scaling.any_table.options import TableFit
from clip_jax.scaling.any_table.rows import read_rows
from clip_jax.scaling.data.runs_table import fit_rows, prepare, read_table
from clip_jax.scaling.laws import law_named

from ...user_errors import raises_user_error


def test_read_table_csv_equals_parquet(runs, curves, tmp_path):
    df = runs(curves["power law"])
    df.to_csv(tmp_path / "t.csv", index=False)
    df.to_parquet(tmp_path / "t.parquet")
    a, b = read_table(tmp_path / "t.csv"), read_table(tmp_path / "t.parquet")
    assert list(a.columns) == list(b.columns)
    np.testing.assert_allclose(a["error_mean"], b["error_mean"])


def test_prepare_needs_required_columns_only(runs, curves):
    df = runs(curves["power law"])[["run_id", "flops", "params", "samples_seen", "error_mean"]]
    full = prepare(df, "error_mean")
    assert (full["budget"] == df["flops"]).all()
    assert full["final"].all()


def test_a_validation_loss_needs_one_number_of_negatives(runs, curves):
    df = runs(curves["power law"])
    df["val_loss"] = df["error_mean"]
    assert len(fit_rows(prepare(df, "val_loss"), "val_loss")[0]) == len(df)
    df["val_negatives"] = np.where(df.index == 3, np.nan, 511.0)  # the fourth is of an earlier version
    assert len(fit_rows(prepare(df, "val_loss"), "val_loss")[0]) == len(df)
    df.loc[1, "val_negatives"] = 1023
    wrong = {"field": "val_negatives", "value": [511, 1023], "hint": "--where=val_negatives=1023"}
    with raises_user_error(**wrong):
        fit_rows(prepare(df, "val_loss"), "val_loss")
    with raises_user_error(**wrong):
        read_rows(df, TableFit(y="val_loss"), law_named("power"))
    assert len(read_rows(df, TableFit(y="val_loss", where=("val_negatives=511",)), law_named("power"))) == len(df) - 2
    fit_rows(prepare(df, "error_mean"), "error_mean")
    df.loc[1, "kind"] = "batch_check"
    fit_rows(prepare(df, "val_loss"), "val_loss")  # a row that enters no fit does not count


def test_fit_rows_lists_left_out_runs_with_reasons(runs, curves):
    df = runs(curves["power law"])
    df.loc[0, "final"] = False
    df.loc[1, "kind"] = "lr_check"
    df.loc[2, "error_mean"] = np.nan
    df.loc[3, "error_mean"] = 0.0
    df.loc[4, "kind"] = "batch_check"
    kept, left_out = fit_rows(prepare(df, "error_mean"), "error_mean")
    assert len(kept) == len(df) - 5
    assert [x["run_id"] for x in left_out] == ["r0", "r1", "r2", "r3", "r4"]
    assert [x["reason"] for x in left_out][:2] == ["not finished", "a check of the learning rate"]
    assert left_out[4]["reason"] == "a check of the batch size"


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        (lambda d: d.drop(columns="params"), "params", None),
        (lambda d: d.drop(columns="error_mean"), "error_mean", None),
        (lambda d: d.assign(flops=-1.0), "flops", -1.0),
        (lambda d: d.assign(run_id="same"), "run_id", "same"),
        (lambda d: d.assign(flops=np.log10(d["flops"])), "flops", 10.0),
        (lambda d: d.assign(flops=np.log(d["flops"])), "flops", np.log(1e10)),
    ],
)
def test_prepare_wrong_table_is_named(runs, curves, change, field, value):
    with raises_user_error(field=field) as caught:
        prepare(change(runs(curves["power law"])), "error_mean")
    assert caught.value.value == (pytest.approx(value) if isinstance(value, float) else value)


@pytest.mark.parametrize(
    ("name", "text"), [("t.csv", None), ("t.csv", "a,b\n"), ("t.csv", ""), ("t.parquet", "junk"), ("t.jsonl", "")]
)
def test_read_table_missing_or_empty_file_is_named(tmp_path, name, text):
    if text is not None:
        (tmp_path / name).write_text(text)
    with raises_user_error(field=str(tmp_path / name)) as caught:
        read_table(tmp_path / name)
    assert caught.value.reason


def test_fit_rows_above_chance_are_left_out_unless_kept(runs, curves):
    df = prepare(runs(curves["power law"]), "error_mean")
    chance = float(df["error_mean"].median())
    kept, left_out = fit_rows(df, "error_mean", chance)
    assert (kept["error_mean"] <= chance).all()
    assert len(kept) + len(left_out) == len(df)
    assert len(fit_rows(df, "error_mean", chance, keep_above_chance=True)[0]) == len(df)


def test_prepare_reads_words_for_final_and_blank_as_unfinished(runs, curves, tmp_path):
    df = runs(curves["power law"])
    df["final"] = ["no", "False", "0", None] + ["yes"] * (len(df) - 4)
    df.to_csv(tmp_path / "t.csv", index=False)
    _, left_out = fit_rows(prepare(read_table(tmp_path / "t.csv"), "error_mean"), "error_mean")
    assert left_out == [{"run_id": f"r{i}", "reason": "not finished"} for i in range(4)]


def test_fit_rows_infinite_error_is_left_out(runs, curves):
    df = runs(curves["power law"])
    df.loc[0, "error_mean"] = np.inf
    kept, left_out = fit_rows(prepare(df, "error_mean"), "error_mean")
    assert len(kept) == len(df) - 1
    assert left_out == [{"run_id": "r0", "reason": "error_mean=inf has no finite logarithm"}]


@pytest.mark.parametrize(
    ("column", "value", "read"),
    [
        ("error_mean", "n/k", "n/k"),
        ("flops", "1e10 FLOP", "1e10 FLOP"),
        ("final", "perhaps", "perhaps"),
        ("samples_seen", np.inf, np.inf),
        ("params", None, np.nan),
    ],
)
def test_prepare_wrong_value_is_named_with_its_run(runs, curves, tmp_path, column, value, read):
    df = runs(curves["power law"]).astype({column: object})
    df.loc[3, column] = value
    df.to_csv(tmp_path / "t.csv", index=False)
    with raises_user_error(source="t.csv: run r3", field=column) as caught:
        prepare(read_table(tmp_path / "t.csv"), "error_mean", "t.csv")
    assert caught.value.value == (pytest.approx(read, nan_ok=True) if isinstance(read, float) else read)


def test_prepare_missing_batch_size_is_zero(runs, curves):
    df = runs(curves["power law"]).astype({"batch_size": float})
    df.loc[0, "batch_size"] = np.nan
    assert prepare(df, "error_mean")["batch_size"].tolist()[:2] == [0, 64]


@pytest.mark.parametrize("metric", ["flops", "params", "samples_seen", "budget"])
def test_prepare_scale_column_as_metric_is_refused(runs, curves, metric):
    with raises_user_error(field="--metric", value=metric):
        prepare(runs(curves["power law"]), metric)
