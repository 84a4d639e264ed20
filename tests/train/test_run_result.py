"""The type of ``result.json``: it reads what earlier versions wrote, and its items are its fields."""

import json

import pytest

from clip_jax.storage.record_fields import FIELDS
from clip_jax.train.run_result import REQUIRED, RunResult

from ..user_errors import raises_user_error
from ..whole_result import WHOLE


def test_record_fields_of_result_are_fields_of_run_result():
    assert set(FIELDS["result.json"]) <= set(RunResult.__dataclass_fields__)


def test_run_result_of_another_version_is_read():
    result = RunResult.from_json(WHOLE | {"a_later_field": 1}, "result.json")
    assert result.goodput is result.extensions is None
    assert result.seconds == {}
    written = json.loads(json.dumps(result.to_json()))
    assert WHOLE.items() <= written.items()
    assert not {"a_later_field", "data", "extensions"} & set(written)
    assert RunResult.from_json(written, "result.json") == result


def test_run_result_fields_are_readable_as_items():
    result = RunResult.from_json(WHOLE, "result.json")
    assert result["state"] == result.state == "finished"
    assert result.get("no_such_field") is None
    assert dict(result) == result


@pytest.mark.parametrize("field", REQUIRED)
def test_run_result_without_a_field_names_it(field):
    with raises_user_error(field="result.json", reason=f"field {field}"):
        RunResult.from_json({k: v for k, v in WHOLE.items() if k != field}, "result.json")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"device": {}}, "device.kind"),
        ({"versions": {}}, "versions.jax"),
        ({"evals": [{"task": "a"}]}, "evals[0].metric"),
    ],
)
def test_run_result_part_without_a_field_names_it(change, field):
    with raises_user_error(field="result.json", reason=f"field {field}"):
        RunResult.from_json(WHOLE | change, "result.json")
