"""Options of a fit to a table: each is checked, and read from text."""

import re

import numpy as np
import pytest

from clip_jax.scaling.any_table.options import TableFit, fixed_values, law_of, pairs, point_of
from clip_jax.scaling.laws import Chinchilla, PowerLaw, SaturatingPowerLaw

from ...user_errors import raises_user_error


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"delta": 1e-300}, "--delta"),
        ({"delta": 9e-13}, "--delta"),
        ({"delta": np.inf}, "--delta"),
        ({"below": 0.0}, "--below"),
        ({"below": np.nan}, "--below"),
        ({"chance": -1.0}, "--chance"),
        ({"examples": -1}, "--examples"),
        ({"examples": 10, "space": "linear"}, "--examples"),
        ({"y_is": "loss"}, "y-is"),
        ({"approach": 3}, "--approach"),
    ],
)
def test_table_fit_option_out_of_range_is_named(options, field):
    with raises_user_error(field=field):
        TableFit(**options)
    TableFit(delta=1e-12)


def test_pairs_are_split_and_a_name_twice_or_alone_is_refused():
    assert pairs(["a=1", "b=x=y"], "fix") == {"a": "1", "b": "x=y"}
    for wrong in (["a"], ["a="], ["=1"], ["a=1", "a=2"]):
        with raises_user_error(field="--fix", value=wrong[-1]):
            pairs(wrong, "fix")


def test_point_of_text_is_a_value_or_one_of_each_column():
    assert point_of(PowerLaw(), "1e22") == {"flops": 1e22}
    assert point_of(Chinchilla(), "samples_seen=2,params=1") == {"params": 1.0, "samples_seen": 2.0}
    for law, text in ((Chinchilla(), "params=1"), (Chinchilla(), "5"), (PowerLaw(), "x"), (PowerLaw(), "flops=x")):
        with raises_user_error(field=re.compile("^--at")):
            point_of(law, text)


def test_fixed_values_none_is_the_same_as_nothing():
    assert fixed_values(TableFit()) == {}
    assert fixed_values(TableFit(fixed=("none",))) == {}
    assert fixed_values(TableFit(fixed=("E=0.1",))) == {"E": 0.1}


def test_law_of_takes_chance_as_its_ceiling():
    assert law_of(TableFit(chance=0.9)) == SaturatingPowerLaw(ceiling=0.9)
    assert law_of(TableFit(chance=0.9), "power") == PowerLaw()


def test_approach_3_and_a_budget_without_its_name_hint_at_what_was_meant():
    with raises_user_error(hint="--law=chinchilla"):
        TableFit(approach=3)
    with raises_user_error(field="--at", value="1e22", hint="--at=flops=1e22"):
        point_of(Chinchilla(), "1e22")
