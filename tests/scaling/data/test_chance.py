"""The error of guessing, from evaluations."""

import numpy as np
import pandas as pd
import pytest

from clip_jax.errors import UserError
from clip_jax.scaling.data.chance import chance_beside, chance_of, chance_of_table

from ...user_errors import raises_user_error

EVALS = pd.DataFrame(
    [
        ("mean", "error", 0.974), ("icons", "top1", 1 / 39), ("icons", "top5", 5 / 39),
        ("validation", "loss", np.log(1024)),
    ],
    columns=["task", "metric", "chance"],
)  # fmt: skip


def test_chance_of_gives_chance_by_metric():
    assert chance_of(EVALS, "error_mean") == 0.974
    assert chance_of(EVALS, "error/icons") == pytest.approx(38 / 39)
    assert chance_of(EVALS, "val_loss") == pytest.approx(np.log(1024))
    assert chance_of(EVALS, "gpu_hours") is None
    assert chance_of(EVALS, "error/other") is None


def test_chance_of_runs_that_differ_is_refused():
    mixed = pd.concat([EVALS, EVALS.assign(chance=EVALS["chance"] / 2)])
    with raises_user_error(source="evals", field="val_loss", reason="guessing"):
        chance_of(mixed, "val_loss")


def test_chance_beside_reads_evals_csv(tmp_path):
    assert chance_beside(tmp_path, "error_mean") is None
    EVALS.to_csv(tmp_path / "evals.csv", index=False)
    assert chance_beside(tmp_path, "error_mean") == 0.974


def test_chance_of_table_prefers_the_given_value(tmp_path):
    df = pd.DataFrame({"error_mean": [0.99, 0.9]})
    EVALS.to_csv(tmp_path / "evals.csv", index=False)
    assert chance_of_table(df, "error_mean", tmp_path) == 0.974
    assert chance_of_table(df, "error_mean", tmp_path, 0.95) == 0.95
    for wrong in (-1.0, np.nan, np.inf, 0.5):  # 0.5: below every row
        with pytest.raises(UserError) as caught:
            chance_of_table(df, "error_mean", tmp_path, wrong)
        assert (caught.value.field, str(caught.value.value)) == ("--chance", str(wrong))
