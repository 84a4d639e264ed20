"""A record of another shape than its readers expect is a damaged record, in one line."""

import json

import pytest

from clip_jax.errors import UserError
from clip_jax.storage.json_files import read_json, read_lines
from clip_jax.storage.record_fields import FIELDS, REQUIRED

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
        with pytest.raises(UserError) as caught:
            read(path)
        assert field in caught.value.reason
    for field in REQUIRED.get(name, ()):
        path.write_text(json.dumps({k: v for k, v in values.items() if k != field}) + end)
        with pytest.raises(UserError) as caught:
            read(path)
        assert caught.value.reason == f"lacks the field {field}"


@pytest.mark.parametrize("data", [DEEP.encode(), b"\xff\xfe", b"[]", b"-1", b"9" * 5000, b'{"step": 1e999}'])
@pytest.mark.parametrize("name", ["status.json", "metrics.jsonl"])
def test_read_record_deep_binary_or_foreign_is_one_line(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data + (b"\n" if name.endswith("l") else b""))
    with pytest.raises(UserError) as caught:
        (read_lines if name.endswith("l") else read_json)(path)
    assert "\n" not in str(caught.value)
