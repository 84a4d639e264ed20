"""Rows chosen from a table: nothing is guessed, and what is left out or refused is named by its row in the file."""

import io

import numpy as np
import pandas as pd
import pytest

from clip_jax.scaling.any_table.options import TableFit
from clip_jax.scaling.any_table.rows import columns_from, read_rows, rows_where
from clip_jax.scaling.laws import Chinchilla, ClipTowers, ExponentialLink, PowerLaw, PowerLawFromChance

from ...user_errors import raises_user_error

C = np.geomspace(1e17, 1e20, 8)
Y = 0.8 * (C / C[0]) ** -0.1


def table(**columns):
    return pd.DataFrame({"name": [f"r{i}" for i in range(8)], "flops": C, "error": Y, **columns})


def sizes(**columns):
    n = np.geomspace(1e6, 1e9, 8)
    d = 1e9 * np.array([1.0, 3, 2, 5, 1, 4, 2, 9])
    return pd.DataFrame({"params": n, "samples_seen": d, "loss": 2 + 400 / n**0.3, **columns})


def changed(row, value, values=Y):
    out = np.array(values, float)
    out[row] = value
    return out


@pytest.mark.parametrize(
    ("value", "count"), [("512", 7), ("512.0", 7), ("5.12e2", 7), ("256", 0), ("nan", 0), ("wide", 0)]
)
def test_rows_where_a_gap_makes_numbers_floats_they_still_match(value, count):
    df = table(width=[512] * 7 + [None])
    if count:
        assert len(rows_where(df, (f"width={value}",))) == count
    else:
        with raises_user_error(field="--where", value=f"width={value}"):
            rows_where(df, (f"width={value}",))


def test_rows_where_large_numbers_and_text_are_compared_by_kind():
    df = table(kind=["7"] + ["007"] * 7)
    assert len(rows_where(df, ("flops=1e17",))) == 1
    assert len(rows_where(df, ("kind=7",))) == 1  # text that is there is taken as text
    assert len(rows_where(df, ("kind=7.0",))) == 8
    assert len(rows_where(df, ("name=r3", f"flops={float(C[3])!r}"))) == 1


@pytest.mark.parametrize(
    ("columns", "options", "field", "value"),
    [
        ({}, {"y": "loss"}, "loss", None),
        ({"acc": 0.1 + Y / 2}, {"y": "acc", "y_is": "accuracy%"}, "--y-is", "accuracy%"),
        ({}, {"y_is": "error%"}, "--y-is", "error%"),
        ({"acc": 100 * Y}, {"y": "acc", "y_is": "accuracy"}, "acc", 80.0),
        ({"error": changed(3, -0.1)}, {}, "error", -0.1),
        ({"flops": changed(3, 0.0, C)}, {}, "flops", 0.0),
        ({"flops": changed(3, np.inf, C)}, {}, "flops", np.inf),
        ({"flops": changed(3, -2.0, C)}, {}, "flops", -2.0),
        ({"flops": np.linspace(18, 23, 8)}, {}, "flops", 18.0),
        ({"log10_flops": np.linspace(18, 23, 8)}, {"x": ("log10_flops",)}, "log10_flops", 18.0),
        ({"train_flops": np.log(C)}, {"x": ("flops=train_flops",)}, "train_flops", np.log(1e17)),
        ({}, {"x": ("flops", "flops=flops*G")}, "--x", "flops=flops*G"),
        ({}, {"x": ("compute=flops",)}, "--x", "compute=flops"),
        ({}, {"where": ("width=3",)}, "--where", "width"),
        ({}, {"where": ("flops",)}, "--where", "flops"),
        ({}, {"chance": 0.3}, "--chance", 0.3),
        ({"error": np.full(8, 0.5)}, {}, "error", 0.5),
        ({"error": np.full(8, np.nan)}, {}, "error", None),
        ({"error": ["0,5", *map(str, Y[1:])]}, {}, "error", "0,5"),
        ({"n": [1.0] * 7 + [0.0]}, {"weights": "n"}, "n", 0.0),
        ({"n": [1.0] * 7 + [-1.0]}, {"weights": "n"}, "n", -1.0),
        ({"n": [1.0] * 7 + [np.inf]}, {"weights": "n"}, "n", np.inf),
        ({"n": [1.0] * 7 + [np.nan]}, {"weights": "n"}, "n", np.nan),
        ({}, {"weights": "n"}, "n", None),
        ({}, {"group": "cell"}, "--group", "cell"),
        ({}, {"below": 1e16}, "--below", "1e+16"),
        ({}, {"below": 1e22}, "--below", "1e+22"),
        ({}, {"y": "flops"}, "--y", "flops"),
        ({"loss": Y}, {}, "--y", None),  # error and loss: which?
        ({"error_mean": Y}, {}, "--y", None),
    ],
)  # fmt: skip
def test_read_rows_what_cannot_be_treated_is_refused(columns, options, field, value):
    with raises_user_error(field=field) as caught:
        read_rows(table(**columns), TableFit(laws=("power",), **options), PowerLaw())
    if value is not None or field == "--y":
        assert caught.value.value == (pytest.approx(value, nan_ok=True) if isinstance(value, float) else value)


@pytest.mark.parametrize("column", ["error", "flops", "n"])
def test_read_rows_refused_value_is_named_by_its_row_in_the_file(column):
    df = table(n=1.0)
    df.loc[[0, 2], "error"] = np.nan
    df.loc[5, column] = -1.0
    with raises_user_error(source="row 5", field=column, value=-1.0):
        read_rows(df, TableFit(laws=("power",), weights="n"), PowerLaw())


def test_read_rows_left_out_rows_are_counted_by_reason():
    csv = "name,flops,loss\nr0,1e17,\nr1,2e17,\nr2,4e17,3.1\nr3,,3.0\nr4,1.6e18,2.9\nr5,3.2e18,inf\nr6,6.4e18,2.7\n"
    rows = read_rows(pd.read_csv(io.StringIO(csv)), TableFit(laws=("power",)), PowerLaw())
    assert rows.index.tolist() == [2, 4, 6]
    assert [s.split(" is ")[1] for s in rows.treatment] == ["row 0: loss", "row 5: loss", "row 3: flops"]
    assert [s.rsplit(" ", 1)[1] for s in rows.treatment] == ["missing", "infinite", "missing"]


def test_read_rows_above_chance_stay_only_for_laws_with_a_ceiling(monkeypatch):
    what = TableFit(laws=("chance",), chance=0.75)
    for ceiling in (False, True):
        monkeypatch.setattr(PowerLawFromChance, "has_ceiling", ceiling, raising=False)
        rows = read_rows(table(), what, PowerLawFromChance(ceiling=0.75))
        assert len(rows) == (8 if ceiling else int((Y <= 0.75).sum()))
        assert len(rows.treatment) == (0 if ceiling else 1)


def test_read_rows_without_options_take_the_laws_own_columns():
    rows = read_rows(sizes(), TableFit(laws=("chinchilla",)), Chinchilla())
    assert set(rows.columns) == {"params", "samples_seen"}
    np.testing.assert_array_equal(rows.y, sizes()["loss"])
    link = pd.DataFrame({"loss": np.linspace(2, 4, 8), "error": 1 - np.exp(-np.linspace(2, 4, 8))})
    assert read_rows(link, TableFit(), ExponentialLink()).y[0] == link["error"][0]  # the loss is its x, not its y


def test_columns_from_a_unit_says_that_small_numbers_are_meant():
    df = table(flops=np.linspace(18, 23, 8))
    np.testing.assert_allclose(columns_from(df, PowerLaw(), ("flops=flops*E",))["flops"], df["flops"] * 1e18)
    np.testing.assert_allclose(columns_from(df, PowerLaw(), ("flops*1",))["flops"], df["flops"])
    gflops = table(gflops=np.linspace(18, 23, 8))
    np.testing.assert_allclose(columns_from(gflops, PowerLaw(), ("gflops",))["flops"], gflops["gflops"])


@pytest.mark.parametrize(
    ("columns", "options", "warned"),
    [
        ({}, {}, []),
        ({"acc": 1 - Y}, {"y": "acc"}, ["--y-is=accuracy"]),
        ({"acc": Y}, {"y": "acc", "y_is": "accuracy"}, ["--y-is=error"]),
        ({"family": ["clip", "coca"] * 4}, {}, ["--where=family=clip"]),
        ({"arm": ["a", "b"] * 4}, {"where": ("arm=b",)}, []),
        ({"arm": ["a", "b"] * 4}, {"group": "arm"}, []),
        ({"family": "clip"}, {}, []),
    ],
)
def test_read_rows_what_looks_wrong_is_a_warning(columns, options, warned):
    rows = read_rows(table(**columns), TableFit(laws=("power",), **{"y": "error", **options}), PowerLaw())
    assert len(rows.warnings) == len(warned)
    for text, option in zip(rows.warnings, warned, strict=True):
        assert option in text


def test_read_rows_below_splits_by_the_laws_column_and_keeps_all_that_belongs_to_rows():
    df = table(n=np.arange(1.0, 9), cell=list("aabbccdd"))
    rows = read_rows(df, TableFit(laws=("power",), below=C[5], weights="n", group="cell"), PowerLaw())
    assert (rows.index.tolist(), rows.held_out.index.tolist()) == ([0, 1, 2, 3, 4], [5, 6, 7])
    assert rows.weights.tolist() == [1, 2, 3, 4, 5]
    assert rows.held_out.groups.tolist() == ["c", "d", "d"]


def test_read_rows_below_with_a_frontier_chooses_one_on_each_side():
    df = table(error=np.array([0.8, 0.85, 0.7, 0.72, 0.6, 0.65, 0.5, 0.55]))
    rows = read_rows(df, TableFit(laws=("power",), below=C[5], frontier="pareto"), PowerLaw())
    assert (rows.index.tolist(), rows.held_out.index.tolist()) == ([0, 2, 4], [5, 6])


@pytest.mark.parametrize("with_flops", [True, False])
def test_read_rows_below_of_size_and_data_takes_flops_or_six_n_d(with_flops):
    df = sizes()
    product = 6 * df["params"] * df["samples_seen"]
    df = df.assign(flops=1e3 * product) if with_flops else df
    cut = float(np.sort(product)[5]) * (1e3 if with_flops else 1)
    rows = read_rows(df, TableFit(laws=("chinchilla",), below=cut), Chinchilla())
    assert (len(rows), len(rows.held_out)) == (5, 3)
    assert any("6·params·samples_seen" in s for s in rows.treatment) != with_flops


def test_read_rows_below_without_flops_is_refused_for_towers():
    df = sizes().rename(columns={"params": "params_image"}).assign(params_text=1e7)
    with raises_user_error(field="--below"):
        read_rows(df, TableFit(laws=("clip",), below=1e18), ClipTowers())
