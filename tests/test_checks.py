"""Errors carry what was wrong as attributes, and travel between processes."""

import copy
import pickle

import pytest

from clip_jax.checks import ConfigError, UserError, at_least, between, one_line, one_of


@pytest.mark.parametrize("kind", [UserError, ConfigError])
@pytest.mark.parametrize("travel", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])  # noqa: S301
def test_user_error_copied_keeps_message_and_attributes(kind, travel):
    error = travel(kind("one line", field="--x", value=3, reason="too small", hint="give 4"))
    assert type(error) is kind
    assert (error.args, str(error)) == (("one line",), "one line")
    assert (error.field, error.value, error.reason, error.hint) == ("--x", 3, "too small", "give 4")


def test_user_error_with_message_alone_has_empty_attributes():
    error = UserError("one line")
    assert str(error) == "one line"
    assert (error.field, error.value, error.reason, error.hint) == (None, None, None, None)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"field": "--x", "value": 0, "reason": "too small", "hint": "give 4"}, "--x=0: too small; give 4"),
        ({"field": "t.csv", "reason": "has no rows"}, "t.csv: has no rows"),
        ({"reason": "no arm"}, "no arm"),
    ],
)
def test_user_error_without_message_is_composed_in_one_line(given, line):
    assert str(UserError(**given)) == line


@pytest.mark.parametrize(
    ("check", "value"),
    [(lambda: one_of("a.b", 5, (1, 2)), 5), (lambda: at_least("a.b", 0, 1), 0), (lambda: between("a.b", 9, 0, 1), 9)],
)
def test_checks_out_of_range_name_field_and_value(check, value):
    with pytest.raises(ConfigError) as caught:
        check()
    assert (caught.value.field, caught.value.value) == ("a.b", value)
    assert caught.value.reason.startswith("must ")


def test_one_line_escapes_and_cuts():
    assert one_line("a\nb\0c\u2028é") == "a\\nb\\x00c\\u2028é"
    assert one_line("x" * 500, 9) == "x" * 9 + "…"
