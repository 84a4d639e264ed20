"""Errors carry what was wrong as attributes, and travel between processes."""

import ast
import copy
import pickle
from pathlib import Path

import pytest

import clip_jax
from clip_jax.errors import (
    ConfigError,
    UserError,
    at_least,
    between,
    closest,
    did_you_mean,
    foreign,
    mask_secrets,
    name_within,
    no_secret,
    one_line,
    one_of,
    parse_json,
    short,
)

from .user_errors import error_fields, raises_user_error


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
    ("attributes", "line"),
    [
        ({"field": "--x", "value": 0, "reason": "too small", "hint": "give 4"}, "--x=0: too small; give 4"),
        ({"field": "t.csv", "reason": "has no rows"}, "t.csv: has no rows"),
        ({"reason": "no arm"}, "no arm"),
        ({"source": "c.json", "field": "a.b", "value": "x", "reason": "must be y"}, "c.json: a.b='x': must be y"),
        ({"field": "--x", "value": "a b", "reason": "unknown"}, "--x=a b: unknown"),
        ({"field": "f", "value": None, "reason": "missing"}, "f=None: missing"),
        ({"field": Path("t.csv"), "reason": "empty"}, "t.csv: empty"),
    ],
)
def test_user_error_without_message_is_composed_in_one_line(attributes, line):
    assert str(UserError(**attributes)) == line


def test_user_error_at_a_source_keeps_its_class_and_attributes():
    error = ConfigError(field="a", value=1, reason="too small").at("s.json")
    assert type(error) is ConfigError
    assert str(error) == "s.json: a=1: too small"
    assert (error.source, error.field, error.value, error.reason) == ("s.json", "a", 1, "too small")
    assert error.at("t").source == "t: s.json"


@pytest.mark.parametrize(
    ("check", "value"),
    [(lambda: one_of("a.b", 5, (1, 2)), 5), (lambda: at_least("a.b", 0, 1), 0), (lambda: between("a.b", 9, 0, 1), 9)],
)
def test_checks_out_of_range_name_field_and_value(check, value):
    with pytest.raises(ConfigError) as caught:
        check()
    assert (caught.value.field, caught.value.value) == ("a.b", value)
    assert caught.value.reason.startswith("must ")


@pytest.mark.parametrize(
    ("name", "known", "near"),
    [
        ("trian", ["family", "train"], "train"),
        ("vit-b-32", ["ViT-L/14", "ViT-B/32"], "ViT-B/32"),
        ("lr", ["steps", "optim.peak_lr"], "optim.peak_lr"),
        ("widht", ["depth", "width"], "width"),
        ("zero_shot", ["few_shot", "zeroshot_classification", "zeroshot_retrieval"], "zeroshot_classification"),
        ("----", ["a-bc"], None),
        ("nothing", ["depth", "width"], None),
        (None, [], None),
    ],
)
def test_did_you_mean_names_the_nearest_or_none(name, known, near):
    assert did_you_mean(name, known) == (near and f"did you mean {near}?")


def test_closest_is_best_first_and_no_more_than_asked():
    assert closest("ViT-B/32", ["RN50", "ViT-S/32", "ViT-B/16", "ViT-B/32"], 2) == ["ViT-B/32", "ViT-S/32"]


def test_one_line_escapes_and_cuts():
    assert one_line("a\nb\0c\u2028é") == "a\\nb\\x00c\\u2028é"
    assert one_line("a" * 250 + "z" * 250, 8) == "aaaa…zz"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("http://user:SECRET@host/a.tar", "http://***@host/a.tar"),
        ("s3://SECRET@bucket/a: no such file", "s3://***@bucket/a: no such file"),
        ("http:/user:SECRET@host/a?sig=SECRET", "http:/***@host/a?sig=***"),  # what pathlib makes of it
        ("https://h/a.tar?x=1&sig=SECRET&y=2: no such file", "https://h/a.tar?x=1&sig=***&y=2: no such file"),
        ("'https://h/a?X-Amz-Signature=SECRET'", "'https://h/a?X-Amz-Signature=***'"),
        ("https://h/a?X-Goog-Credential=a%40b&X-Goog-Signature=SECRET",
         "https://h/a?X-Goog-Credential=***&X-Goog-Signature=***"),
        ("gs://bucket/token=1/train-{0..9}.tar", "gs://bucket/token=1/train-{0..9}.tar"),
        ("me@host: a?sig=1", "me@host: a?sig=1"),
    ],
)  # fmt: skip
def test_secrets_of_urls_are_masked_in_every_error_and_refused_in_configs(text, masked):
    assert mask_secrets(text) == masked
    error = UserError(field="data.paths", value=text, reason=text)
    assert "SECRET" not in f"{error}{error.value}{error.args}"
    if masked == text:
        no_secret("data.paths", text)
    else:
        with pytest.raises(ConfigError) as caught:
            no_secret("data.paths", text)
        assert caught.value.field == "data.paths"
        assert "SECRET" not in f"{caught.value}{caught.value.value}"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "a/../../b", "/etc/passwd", "a\\b", "a\nb", "a\0b", "x" * 1000, None, 3, ["a"]]
)
def test_name_within_what_leaves_its_folder_is_refused(name):
    for folders in (False, True):
        with raises_user_error(field="suite: name", value=name):
            name_within("suite: name", name, folders=folders)


def test_name_within_gives_the_name():
    assert name_within("f", "a b.jpg") == "a b.jpg"
    assert name_within("f", "a/b..c/d.jpg", folders=True) == "a/b..c/d.jpg"
    assert name_within("f", "mdi-light", allowed="[a-z-]+") == "mdi-light"
    for name, options in (("a/b", {}), ("MDI", {"allowed": "[a-z-]+"})):
        with raises_user_error(field="f", value=name):
            name_within("f", name, **options)


@pytest.mark.parametrize("text", ["[" * 100_000, b"\xff", "9" * 5000, '["\\ud800"]', "", "{", '{"a": 1} x'])
def test_parse_json_what_is_none_is_one_line_with_its_source(text):
    with pytest.raises(UserError) as caught:
        parse_json(text, "a.json")
    assert caught.value.field == "a.json"
    assert caught.value.reason.startswith("not JSON (")
    assert "\n" not in str(caught.value)


def test_parse_json_passes_over_a_byte_order_mark():
    assert parse_json(b'\xef\xbb\xbf{"a": [1]}', "a.json") == {"a": [1]}
    assert parse_json('\ufeff{"a": [1]}', "a.json") == {"a": [1]}


class PanicException(BaseException):
    """As a library in Rust raises it."""


@pytest.mark.parametrize(
    "error", [KeyError("a"), TypeError("x\ny"), OverflowError(), RecursionError("deep"), PanicException("a\nb")]
)
def test_foreign_turns_any_exception_into_one_line(error):
    with pytest.raises(UserError) as caught, foreign("a.json", "a suite"):
        raise error
    assert caught.value.field == "a.json"
    assert caught.value.reason.startswith(f"not a suite ({type(error).__name__}")
    assert "\n" not in str(caught.value)
    for other in (UserError("mine"), MemoryError(), FileNotFoundError(), KeyboardInterrupt()):
        with pytest.raises(type(other)) as caught, foreign("a.json", "a suite"):
            raise other
        assert caught.value is other


def test_short_cuts_what_is_long():
    assert short("abc") == "'abc'"
    assert len(short("x" * 10_000)) < 130
    assert "digits" in short(10**5000)


@pytest.mark.parametrize(
    "expected", [{"field": "a"}, {"value": 3}, {"source": "s"}, {"reason": "large"}, {"hint": "give"}, {"field": None}]
)
def test_raises_user_error_of_another_attribute_fails(expected):
    with pytest.raises(AssertionError, match=next(iter(expected))), raises_user_error(**expected):
        raise UserError(field="b", value=2, reason="too small")


def test_error_fields_of_output_are_what_each_line_names():
    output = "clip-jax: --top=3: must be 2\nnote\nclip-jax: a/b.csv: no such file\n"
    assert error_fields(output) == ["--top", "a/b.csv"]


KINDS = {"UserError", "ConfigError", "BrokenRecord", "Busy", "Diverged", "EngineDown", "NotFinite", "TooFewPoints"}


def test_errors_of_the_package_are_given_by_attributes():
    package = Path(clip_jax.__file__).parent
    calls = [
        (path, node)
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in KINDS
    ]
    assert len(calls) > 500
    assert not [f"{path}:{node.lineno}" for path, node in calls if node.args], "a message in place of attributes"
