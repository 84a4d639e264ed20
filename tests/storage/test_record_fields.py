"""A record of another shape than its readers expect is a damaged record, in one line."""

import json
import re

import pytest

from clip_jax.storage.json_files import read_json, read_lines
from clip_jax.storage.record_fields import FIELDS, REQUIRED

from ..user_errors import raises_user_error

DEEP = "[" * 100_000


def whole(name):
    """Return a record with every listed field, of the right types."""
    samples = {"text": "a", "name": "a", "flag": True, "object": {}, "whole": 3, "number": 0.5, "numbers": {"a": 1.5}}

    def make(kind):
        if isinstance(kind, dict):
            return {key: make(value) for key, value in kind.items()}
        return [make(kind[0])] if isinstance(kind, list) else samples[kind.rstrip("?")]

    return make(FIELDS[name])


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_read_record_whole_is_read_and_each_field_of_another_type_is_named(tmp_path, name):
    path, read = tmp_path / name, read_lines if name.endswith("l") else read_json
    values = whole(name)
    end = "\n" if name.endswith("l") else ""
    path.write_text(json.dumps(values) + end)
    assert read(path) in (values, [values])
    for field in FIELDS[name]:
        path.write_text(json.dumps(values | {field: [[]]}) + end)
        with raises_user_error(reason=field):
            read(path)
    for field in REQUIRED.get(name, ()):
        path.write_text(json.dumps({k: v for k, v in values.items() if k != field}) + end)
        with raises_user_error(field=re.compile(re.escape(str(path))), reason=f"field {field}"):
            read(path)


@pytest.mark.parametrize("data", [DEEP.encode(), b"\xff\xfe", b"[]", b"-1", b"9" * 5000, b'{"step": 1e999}'])
@pytest.mark.parametrize("name", ["status.json", "metrics.jsonl"])
def test_read_record_deep_binary_or_foreign_is_one_line(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data + (b"\n" if name.endswith("l") else b""))
    with raises_user_error(field=re.compile(re.escape(str(path)))):
        (read_lines if name.endswith("l") else read_json)(path)
