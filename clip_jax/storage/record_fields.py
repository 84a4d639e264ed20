"""Fields and types of the records of runs and sweeps; a record that does not match counts as damaged.

Every record is checked here when it is read, so its users need not check types. Unlisted fields are not checked; listed
fields may be missing unless they are in `REQUIRED`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from clip_jax.errors import UserError, name_within, short
from clip_jax.types import JsonObject

INT64_LIMIT = 2**63  # an int64 column of a table holds less
Kind = str | dict[str, "Kind"] | list["Kind"]  # a key of `_IS`, the fields of an object, or the items of a list

NUMBER_COLUMNS = (  # of result.json; they are columns of the table of runs
    "flops", "flops_logits", "flops_per_sample", "params", "params_image", "params_text", "params_no_embed",
    "samples_seen", "unique_samples", "batch_size", "seed", "steps", "peak_lr", "error_mean", "val_loss",
    "val_loss_refit", "wall_s", "eval_s", "samples_per_s", "mfu", "attempts", "broken_records",
)  # fmt: skip
_MEASUREMENT: dict[str, Kind] = {
    "task": "text", "metric": "text", "value": "number?", "step": "whole", "flops": "number?", "low": "number?",
    "high": "number?", "chance": "number?", "examples": "number?",
}  # fmt: skip
_CELL: dict[str, Kind] = {
    "run_id": "name", "kind": "text", "rung": "number", "budget": "number", "seed": "whole", "width": "whole",
    "depth": "whole", "params": "whole", "batch_size": "whole", "samples_seen": "whole", "flops": "number",
    "peak_lr": "number", "steps": "whole", "dropped": "text?",
    "branch_at": "whole",
}  # fmt: skip
_OF_EVERY_CELL = tuple(name for name in _CELL if name != "branch_at")
_SPLIT: Kind = {"records": "whole", "digest": "text?"}  # rendered scenes have no digest
_INPUTS: dict[str, Kind] = {
    "data": {"train": _SPLIT, "val": _SPLIT},
    "tokenizer_sha256": "text",
    "extensions": {"loss": "text?", "evaluators": ["text"]},
    "missing_shards": ["text"],
    "branched_from": {"trunk": "name", "step": "whole"},
}  # `inputs`
FIELDS: dict[str, dict[str, Kind]] = {
    "result.json": {
        "run_id": "text", "family_id": "text?", "state": "text", "exit_reason": "text", "final": "flag",
        **dict.fromkeys(NUMBER_COLUMNS, "number?"), "steps": "whole", "goodput": "number?", "config": "object",
        "store": "numbers",
        "device": {"kind": "text"}, "versions": {"jax": "text"}, "evals": [_MEASUREMENT], **_INPUTS,
    },
    "status.json": {
        "state": "text", "step": "whole", "steps": "whole", "attempt": "whole", "reason": "text?", "host": "text?",
        "pid": "whole?", "heartbeat": "number", "wall_s": "number", "started": "number", "first_started": "number",
        "seconds": "numbers", "store": "numbers", "run_id": "text", "last_event": "text?", "family_id": "text?",
        **_INPUTS,
    },
    "submission.json": {
        "name": "text", "engine": "text", "index": "whole", "attempt": "whole", "tries": "whole", "step": "whole",
        "accepted": "flag", "job": "name",
    },
    "lease.json": {"pid": "whole", "host": "text", "machine": "text?", "began": "text?", "heartbeat": "number",
                   "released": "flag", "token": "text"},
    "exit.json": {"name": "text", "code": "whole"},
    "failure.json": {"reason": "text", "code": "whole?", "log": "text?"},
    "plan.json": {"cells": [_CELL]},
    "metrics.jsonl": {
        "step": "whole", "loss": "number?", "samples_per_s": "number?", "mfu": "number?", "samples_seen": "number?",
    },
    "evals.jsonl": _MEASUREMENT,
    "events.jsonl": {"event": "text", "devices": "whole", "step": "whole", "attempt": "whole", "time": "number",
                     "to": "whole", "repeats": "whole"},
}  # fmt: skip
REQUIRED: dict[str, tuple[str, ...]] = {
    "submission.json": ("name", "engine", "index", "attempt", "tries", "step", "accepted"),
    "exit.json": ("name", "code"),
    "lease.json": ("pid", "host", "heartbeat"),
    "failure.json": ("reason",),
    "plan.json": ("cells",),
    "metrics.jsonl": ("step",),
    "evals.jsonl": ("step", "task", "metric", "value"),
    "events.jsonl": ("event",),
}


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < INT64_LIMIT if isinstance(value, int) else math.isfinite(value)


_MEANING = {
    "text": "text", "name": "text", "flag": "true or false", "object": "an object", "whole": "a whole number",
    "number": "a finite number", "numbers": "an object of numbers",
}  # fmt: skip
_IS: dict[str, Callable[[object], bool]] = {
    "text": lambda value: isinstance(value, str),
    "name": lambda value: isinstance(value, str),
    "flag": lambda value: isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "whole": lambda value: isinstance(value, int) and _is_number(value),
    "number": _is_number,
    "numbers": lambda value: isinstance(value, dict) and all(map(_is_number, value.values())),
}


def check_fields(name: str, values: object, source: object) -> None:
    """Check the fields of one record, or of one line of a ``.jsonl`` file.

    Args:
      name: the file's name; under a name that is not in `FIELDS` any object passes.
      values: the parsed JSON.
      source: the record, as named in the message.

    Raises:
      UserError: the value is not an object, lacks a required field, or has a field of another type.
    """
    record = check_object(values, FIELDS.get(name, {}), REQUIRED.get(name, ()), source)
    if name == "plan.json":
        for index, cell in enumerate(record["cells"]):
            require_fields(cell, _OF_EVERY_CELL, source, f"cells[{index}].")


def check_object(values: object, kinds: dict[str, Kind], required: tuple[str, ...], source: object) -> JsonObject:
    """Check the fields of an object, and return it.

    Args:
      values: the parsed JSON.
      kinds: of the fields that are checked, by name.
      required: names of fields that must be there.
      source: the record, as named in the message.

    Raises:
      UserError: the value is not an object, lacks a required field, or has a field of another type.
    """
    if not isinstance(values, dict):
        raise _damaged(source, "must hold a JSON object")
    require_fields(values, required, source)
    _check(values, kinds, source, "")
    return values


def require_fields(values: Mapping[str, object], names: tuple[str, ...], source: object, prefix: str = "") -> None:
    """Check that an object has these fields, named with ``prefix`` in the message; raise UserError otherwise."""
    for name in names:
        if name not in values:
            raise _damaged(source, f"lacks the field {prefix}{name}")


def _check(value: object, kind: Kind, source: object, field: str) -> None:
    if isinstance(kind, list):
        if not isinstance(value, list):
            raise _damaged(source, f"{field}={short(value)} must be a list")
        for index, item in enumerate(value):
            _check(item, kind[0], source, f"{field}[{index}]")
    elif isinstance(kind, dict):
        if not isinstance(value, dict):
            raise _damaged(source, f"{field}={short(value)} must be an object")
        for name in kind.keys() & value.keys():
            _check(value[name], kind[name], source, f"{field}.{name}" if field else name)
    elif not (value is None and kind.endswith("?")) and not _IS[kind.rstrip("?")](value):
        raise _damaged(source, f"{field}={short(value)} must be {_MEANING[kind.rstrip('?')]}")
    elif kind == "name":
        name_within(f"{source}: {field}", value)


def _damaged(source: object, reason: str) -> UserError:
    return UserError(field=str(source), reason=reason)
