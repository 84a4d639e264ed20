"""Families compared and runs designed from tables, in text."""

import re

import numpy as np
import pandas as pd
import pytest

from clip_jax.scaling.any_table.compare import compare_tables, design_from_table
from clip_jax.scaling.any_table.fit import TableFit

from ...user_errors import raises_user_error

POWER = TableFit(laws=("power",))


def table(path, a, b, seed=0, repeats=1):
    rng = np.random.default_rng(seed)
    x = np.repeat(np.geomspace(1e10, 1e14, 12), repeats)
    y = a * x**-b * np.exp(0.01 * rng.standard_normal(len(x)))
    pd.DataFrame({"flops": x, "error": y, "cell": [f"{v:.3g}" for v in x]}).to_csv(path, index=False)
    return path


@pytest.fixture
def families(tmp_path):
    """Write two tables; the second needs half the compute, as its curve is the first's at twice the FLOPs."""
    return table(tmp_path / "a.csv", 10.0, 0.12), table(tmp_path / "b.csv", 10.0 * 2**-0.12, 0.12, seed=1)


def test_compare_tables_finds_the_planted_gain(families):
    text = compare_tables(*families, POWER)
    gain, low, high = map(float, re.search(r"needs ([\d.]+)× \(([\d.]+) to ([\d.]+)\) less compute", text).groups())
    assert low < 2 < high
    assert 1.7 < gain < 2.3
    assert text.count("surely lower") == 5
    assert "no crossing" in text


def test_compare_tables_with_group_resamples_groups(tmp_path):
    a, b = (table(tmp_path / f"{i}.csv", 10.0, 0.12, seed=i, repeats=3) for i in range(2))
    grouped = compare_tables(a, b, POWER, group="cell")
    assert grouped != compare_tables(a, b, POWER)
    with raises_user_error(field="--group", value="budget", source=a):  # which of the two
        compare_tables(a, b, POWER, group="budget")


def test_compare_tables_without_common_range_is_refused(tmp_path, families):
    far = pd.read_csv(families[1])
    far["flops"] *= 1e6
    far.to_csv(tmp_path / "far.csv", index=False)
    with raises_user_error(field="flops"):
        compare_tables(families[0], tmp_path / "far.csv", POWER)


def test_design_from_table_narrows_the_forecast_within_the_budget(families):
    what = TableFit(laws=("power",), at=("1e16",))
    text = design_from_table(families[0], what, ["1e10", "1e12", "1e15"], budget=2.5e15)
    before, after = (float(v) for v in re.findall(r"±([\d.]+)%", text))
    assert after < before
    assert "run 2 × flops=1e+15" in text
    precise = design_from_table(families[0], what, ["1e12", "1e15"], precision=after / 100)
    assert float(re.findall(r"±([\d.]+)%", precise)[1]) <= after + 0.005


def test_design_from_table_states_the_scatter_of_the_same_and_of_new_examples(families):
    text = design_from_table(families[0], TableFit(laws=("power",), at=("1e16",), examples=500), ["1e12"], budget=1e13)
    _, same, new, _ = (float(v) for v in re.findall(r"±([\d.]+)%", text))
    assert 0 < same < new


AT = TableFit(laws=("power",), at=("1e16",))


@pytest.mark.parametrize(
    ("what", "candidates", "options", "field", "value"),
    [
        (AT, ["1e12"], {}, "--budget, --precision", None),
        (POWER, ["1e12"], {"budget": 1e13}, "--at", ()),
        (AT, [], {"budget": 1e13}, "--candidate", None),
        (AT, ["x"], {"budget": 1e13}, "--candidate", "x"),
        (AT, ["2e12:xyz"], {"budget": 1e13}, "--candidate", "2e12:xyz"),
        (AT, ["2e12:"], {"budget": 1e13}, "--candidate", "2e12:"),
        (AT, ["2e12:-3"], {"budget": 1e13}, "--candidate", "2e12:-3"),
        (AT, ["2e12:nan"], {"budget": 1e13}, "--candidate", "2e12:nan"),
        (AT, ["-2e12"], {"budget": 1e13}, "--candidate", "-2e12"),
        (AT, ["inf"], {"budget": 1e13}, "--candidate", "inf"),
        (AT, ["params=3"], {"budget": 1e13}, "--candidate", "params=3"),
        (TableFit(laws=("power",), at=("0",)), ["1e12"], {"budget": 1e13}, "--at", "0"),
        (TableFit(laws=("power",), at=("1e16",), below=1e12), ["1e12"], {"budget": 1e13}, "--below", 1e12),
        (TableFit(laws=("power",), at=("1e16",), group="cell"), ["1e12"], {"budget": 1e13}, "--group", "cell"),
    ],
)
def test_design_wrong_option_is_named(families, what, candidates, options, field, value):
    with raises_user_error(field=field, value=value):
        design_from_table(families[0], what, candidates, **options)


@pytest.mark.parametrize("verb", ["design", "compare"])
@pytest.mark.parametrize("rows", [2, 3])
def test_design_and_compare_without_a_row_to_spare_are_refused(tmp_path, families, verb, rows):
    path = tmp_path / "few.csv"
    pd.read_csv(families[0]).iloc[[0, 5, 11][:rows]].to_csv(path, index=False)
    what = TableFit(
        laws=("power",) if rows == 2 else ("saturating",), at=("1e16",), fixed=() if rows == 2 else ("none",)
    )
    run = {
        "design": lambda: design_from_table(path, what, ["1e12"], budget=1e13),
        "compare": lambda: compare_tables(families[0], path, what),
    }[verb]
    with raises_user_error(field=path, reason=f"{rows} rows", hint="--fix"):
        run()


def test_compare_and_design_weights_change_the_fit(tmp_path, families):
    df = pd.read_csv(families[0])
    df.loc[11, "error"] *= 1.5
    df["n"] = [1.0] * 11 + [1e-6]
    df.to_csv(tmp_path / "w.csv", index=False)
    squares = TableFit(laws=("power",), loss="squares", at=("1e16",))
    weighted = TableFit(laws=("power",), loss="squares", at=("1e16",), weights="n")
    for verb in (
        lambda w: design_from_table(tmp_path / "w.csv", w, ["1e12"], budget=1e13),
        lambda w: compare_tables(tmp_path / "w.csv", tmp_path / "w.csv", w, replicas=50),
    ):
        slopes = [float(re.search(r"C\^-([\d.]+)", verb(w)).group(1)) for w in (squares, weighted)]
        assert slopes[1] == pytest.approx(0.12, abs=0.005)
        assert slopes[0] < 0.112


@pytest.mark.parametrize("law", ["power", "sigmoid", "saturating"])
def test_design_of_rows_above_guessing_is_refused(families, law):
    with raises_user_error(field="--chance"):
        design_from_table(families[0], TableFit(laws=(law,), at=("1e16",), chance=1e-3), ["1e12"], budget=1e13)
