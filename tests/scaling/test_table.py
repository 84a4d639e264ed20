"""Reading and checking a table."""

import numpy as np
import pytest

from clip_jax.config import UserError
from clip_jax.scaling.table import fit_rows, prepare, read_table


def test_csv_and_parquet_read_the_same(runs, curves, tmp_path):
    df = runs(curves["power law"])
    df.to_csv(tmp_path / "t.csv", index=False)
    df.to_parquet(tmp_path / "t.parquet")
    a, b = read_table(tmp_path / "t.csv"), read_table(tmp_path / "t.parquet")
    assert list(a.columns) == list(b.columns)
    np.testing.assert_allclose(a["error_mean"], b["error_mean"])


def test_only_columns_that_must_be_are_needed(runs, curves):
    df = runs(curves["power law"])[["run_id", "flops", "params", "samples_seen", "error_mean"]]
    full = prepare(df, "error_mean")
    assert (full["budget"] == df["flops"]).all()
    assert full["final"].all()


def test_what_may_not_be_fitted_is_listed_with_the_reason(runs, curves):
    df = runs(curves["power law"])
    df.loc[0, "final"] = False
    df.loc[1, "kind"] = "lr_check"
    df.loc[2, "error_mean"] = np.nan
    df.loc[3, "error_mean"] = 0.0
    kept, left_out = fit_rows(prepare(df, "error_mean"), "error_mean")
    assert len(kept) == len(df) - 4
    assert [x["run_id"] for x in left_out] == ["r0", "r1", "r2", "r3"]
    assert [x["reason"] for x in left_out][:2] == ["not finished", "a check of the learning rate"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.drop(columns="params"), "lacks the column params"),
        (lambda d: d.assign(flops=-1.0), "run r0: flops must be above 0"),
        (lambda d: d.assign(run_id="same"), "run_id 'same' stands twice"),
    ],
)
def test_a_wrong_table_is_named(runs, curves, change, said):
    with pytest.raises(UserError, match=said):
        prepare(change(runs(curves["power law"])), "error_mean")


def test_a_missing_or_empty_file_is_named(tmp_path):
    with pytest.raises(UserError, match="no such table"):
        read_table(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("a,b\n")
    with pytest.raises(UserError, match="has no rows"):
        read_table(tmp_path / "t.csv")
    (tmp_path / "t.parquet").write_text("junk")
    with pytest.raises(UserError, match="not a readable table"):
        read_table(tmp_path / "t.parquet")
