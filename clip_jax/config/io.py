"""Reading and writing configs: plain dictionaries, JSON, YAML, and Python files that return a dict or a ConfigDict.

Only this module uses ``ml_collections``: config files return a ConfigDict, and the rest of the package uses the
dataclasses of `config`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import math
import traceback
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from clip_jax.config.fields import (
    choices_of,
    current_names,
    current_path,
    dotted_names,
    field_types,
    former_names,
    type_of,
)
from clip_jax.config.model import ModelConfig
from clip_jax.config.presets import preset
from clip_jax.config.run import VAL_PAIRS, WARMUP_STEPS, RunConfig, two_lengths
from clip_jax.errors import ConfigError, UserError, closest, no_secret, parse_json, short
from clip_jax.storage.paths import as_path, is_remote, read_text
from clip_jax.types import JsonObject

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
LOG = logging.getLogger(__name__)
PRESET, FROM_SOURCE = "preset", "from source"  # an entry of ``model``, and a value of it
YAML = (".yaml", ".yml")
RECORDS = ("config.json", "request.json", "sweep.json", "search.json")  # written by earlier versions too
LONGEST_FIELD = 200  # characters of an unknown field's name that are shown
MAX_INT, MAX_FLOAT = 10**15, 1e38  # limits of whole numbers and of floats (float32 range)
# Limits of fields that set memory use, by the last part of their name: far above any real run, but low enough that the
# process is not aborted.
_LIMITS = {
    "width": 2**16, "depth": 1000, "stages": 1000, "heads": 2**14, "mlp_ratio": 1024, "image_size": 2**14,
    "patch_size": 2**14, "context_length": 2**16, "vocab_size": 2**24, "embed_dim": 2**16, "pool_heads": 2**14,
    "pool_queries": 2**16, "prefix_tokens": 2**14, "batch_size": 2**24, "evals.batch_size": 2**16,
    "microbatch_size": 2**24, "chunk_size": 2**24,
    "vocab_chunk": 2**24, "steps": 10**10, "seed": 2**32 - 1, "seeds": 2**32 - 1, "extra_seeds_at_optimum": 2**32 - 1,
    "world_seed": 2**32 - 1, "proposal_seed": 2**32 - 1, "max_examples": 10**8, "retrieval_images": 10**8,
    "val_pairs": 10**7, "val_partitions": 10**7, "prior_images": 10**7, "num_threads": 4096, "num_workers": 4096,
    "tokenizer_train_captions": 10**9, "max_concurrent_runs": 10**6, "max_vmapped_runs": 10**5, "trials": 10**7,
    "trials_per_round": 10**6, "window_shards": 10**5, "window_mb": 10**6, "streams": 10**5,
    "max_missing_shards": 10**7,
    "nodes": 10**6, "processes_per_node": 10**4, "devices_per_process": 10**4, "cpus_per_process": 10**5,
    "slices": 10**5,
    "runs_per_device": 10**4, "heartbeat_s": 10**7, "start_s": 10**7, "time_limit_min": 10**8, "rungs": 1000,
    "sizes_per_budget": 10**6, "epochs": 10**9,
}  # fmt: skip


def to_dict(config: DataclassInstance) -> JsonObject:
    """Convert a config dataclass to JSON-serializable data; tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(cls: type[T], values: Mapping[str, object], prefix: str = "") -> T:
    """Build a config dataclass from data as `to_dict` gives it.

    Args:
      cls: the dataclass.
      values: field name -> value; missing fields take their defaults. Former names of fields are read too.
      prefix: of the fields' names in error messages, such as ``model.``.

    Raises:
      ConfigError: an unknown or missing field, a wrong type, or a value out of range.
    """
    return _build(cls, current_names(cls, values, prefix), prefix)


def _build(cls: type[T], values: Mapping[str, object], prefix: str) -> T:
    types = field_types(cls)
    unknown = sorted(map(str, set(values) - types.keys()))
    if unknown:
        name = f"{prefix}{str(unknown[0])[:LONGEST_FIELD]}"
        near = closest(unknown[0], dotted_names(cls))
        hint = f"did you mean {prefix}{near[0]}?" if near else f"known here: {', '.join(sorted(types))}"
        raise ConfigError(field=name, reason="unknown field", hint=hint)
    kwargs = {k: _convert(types[k], v, f"{prefix}{k}") for k, v in values.items()}
    try:
        return cls(**kwargs)
    except TypeError as error:  # a field without a default is missing
        raise ConfigError(field=prefix.rstrip(".") or cls.__name__, reason=str(error)) from None


def from_fields(cls: type[T], fields: Mapping[str, str], prefix: str) -> T:
    """Build a dataclass from ``{prefix + dotted name: text}``, with texts parsed as in `load`. Raises ConfigError."""
    values: JsonObject = {}
    for name, text in fields.items():
        name = name.removeprefix(prefix)
        set_dotted(values, name, parse_field(type_of(cls, name), text))
    return from_dict(cls, values, prefix)


def _convert(hint: Any, value: object, name: str) -> object:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        if hint is ModelConfig:
            value = _named_model(value)
        if not isinstance(value, Mapping):
            raise _wrong(name, value, "must be a group of fields")
        if hint is ModelConfig and PRESET in value:
            value = _with_preset(value, f"{name}.")
        return _build(hint, value, f"{name}.")
    if choices_of(hint):
        return value  # the class checks it
    if typing.get_origin(hint) is tuple:
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            raise _wrong(name, value, "must be a list")
        return tuple(_convert(typing.get_args(hint)[0], v, name) for v in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise _wrong(name, value, "must be a finite number") from None
    if hint is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise _wrong(name, value, f"must be of type {hint.__name__}")
    if hint is float and not math.isfinite(value):
        raise _wrong(name, value, "must be a finite number")
    *_, group, last = ["", *name.split(".")]
    limit = _LIMITS.get(f"{group}.{last}", _LIMITS.get(last, MAX_INT if hint is int else MAX_FLOAT))
    if hint in (int, float) and abs(value) > limit:
        raise _wrong(name, value, f"must be at most {limit:,}")
    if hint is str:
        no_secret(name, value)
    return value


def _wrong(name: str, value: object, reason: str) -> ConfigError:
    return ConfigError(field=name, value=value, reason=reason)


# Fields added after the first runs, under their first names: at their default they do not enter the run id, so that
# earlier runs keep theirs.
_ADDED_LATER = {
    "": ("init_from", "loss", "microbatch_size", "faults", "pixels", "epochs", "deterministic"),
    "data": (
        "weights", "val_paths", "decoder", "val_fraction", "filename_column", "caption_column", "tokenizer", "order",
        "window_shards", "window_mb", "streams", "caption_keys", "caption_weights",
    ),
    "mesh": ("tensor", "slices"),
    "optim": (
        "state_dtype", "rounding", "loss_scale", "layer_decay", "optimizer", "muon_momentum", "muon_scale",
        "muon_adam_lr", "ema_decay",
    ),
    "model": (
        "decoder", "logit_bias", "text_param_dtype", "remat_policy", "objective", "prefix_tokens", "vocab_chunk",
        "parametrisation", "attention", "text_activation",
    ),
    "model.image": (
        "stages", "pool", "class_token", "norm_pre", "norm_after_pool", "norm_eps", "patch_bias", "projection",
        "layer_scale", "patch_dropout", "pool_heads", "pool_queries",
    ),
    "model.text": ("causal", "pool", "norm_eps", "layer_scale", "projection", "projection_bias", "pad_id", "encoder"),
    "evals": ("prior_images", "predictive_score", "evaluators"),
}  # fmt: skip

# (group, field) whose default later became one that is resolved when the run begins -> (that default, the earlier one,
# under which it enters the run id).
_BECAME_AUTO: dict[tuple[str, str], tuple[object, object]] = {
    ("model", "remat_policy"): ("auto", "nothing"), ("evals", "val_pairs"): (0, VAL_PAIRS),
    ("optim", "warmup_steps"): (-1, WARMUP_STEPS),
}  # fmt: skip


def as_begun(config: RunConfig, first: RunConfig) -> RunConfig:
    """Return ``config`` for continuing a run begun with config ``first``.

    Fields at a default that is resolved when a run begins, but with an earlier default in ``first``, keep that value.
    """
    for (group, name), (auto, old) in _BECAME_AUTO.items():
        fields: Any = getattr(config, group)
        if getattr(fields, name) == auto and getattr(getattr(first, group), name) == old:
            changes: dict[str, Any] = {group: dataclasses.replace(fields, **{name: old})}
            config = dataclasses.replace(config, **changes)
    return config


def run_id(config: RunConfig) -> str:
    """Return the run's id, 12 hex digits of a hash of its config.

    Fields enter it under the names that they had at first. Tracking (``wandb``, ``tracking``) and ``data.num_workers``
    are excluded, since they do not change the results, and ``data.max_missing_shards``, which may be raised later.
    """
    values, defaults = (former_names(RunConfig, to_dict(c)) for c in (config, RunConfig()))
    del values["wandb"], values["tracking"], values["data"]["workers"], values["data"]["max_missing_shards"]
    for (group, name), (auto, old) in _BECAME_AUTO.items():
        defaults[group][name] = old
        if values[group][name] == auto:
            values[group][name] = old
    for group, names in _ADDED_LATER.items():
        fields, usual = values, defaults
        for part in filter(None, group.split(".")):
            fields, usual = fields[part], usual[part]
        for name in names:
            if fields[name] == usual[name]:
                del fields[name]
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def load(
    cls: type[T],
    path: str | Path,
    overrides: Mapping[str, str] | None = None,
    commands: Mapping[str, type] = {},
    model_of: Callable[[str], ModelConfig] | None = None,
) -> T:
    """Read a config file (Python with ``get_config()`` -> dict or ConfigDict, YAML or JSON) and apply overrides.

    Args:
      cls: RunConfig or SweepConfig.
      path: a ``.py`` file of the user (it is executed), or a ``.yaml``, ``.yml`` or ``.json`` file, which may be in a
        bucket.
      overrides: dotted field name -> text (`parse_field`). ``epochs`` alone replaces the file's ``steps``, and the
        reverse.
      commands: command -> the class of the config that it takes; the error for a config of another class names its
        command.
      model_of: function from ``init_from.source`` to its model, for a config with ``model: "from source"``.

    A former name of a field is logged once as a warning, except in a run's or sweep's own record.

    Raises:
      UserError: the file is missing or is not a config.
      ConfigError: an unknown field or a wrong value.
    """
    path = as_path(path)
    plain = path.suffix in (".json", *YAML)
    if is_remote(path) and not plain:
        raise UserError(field=path, reason="must be a .json or .yaml file, as every config in a bucket")
    if not (is_remote(path) or path.is_file()):
        raise UserError(field=path, reason="no such config file")
    values = _read_plain(path) if plain else _run_python(path)
    former: list[str] = []
    overridden: set[str] = set()
    values = current_names(cls, values, former=former)
    _check_kind(cls, values, path, commands)
    if path.name in RECORDS:
        former.clear()
    for dotted, text in sorted((overrides or {}).items(), key=lambda item: item[0].count(".")):  # groups first
        if (name := current_path(cls, dotted)) != dotted:
            former.append(f"{dotted} is {name} now")
        set_dotted(values, name, parse_field(type_of(cls, name), text))
        overridden.add(name)
    for length, other in (("epochs", "steps"), ("steps", "epochs")):
        if length in overridden and other not in overridden and values[length]:  # 0 epochs: as long as the steps say
            values.pop(other, None)
    if values.get("epochs") and "steps" in (overridden & values.keys() if path.suffix == ".json" else values):
        raise two_lengths(values["epochs"], values["steps"])  # records, in JSON, have all fields
    for renamed in former:
        warn_renamed(renamed)
    run = values.get("base", values)
    if model_of is not None and isinstance(run, dict):
        _take_from_source(run, model_of)
    return from_dict(cls, values)


def _take_from_source(run: JsonObject, model_of: Callable[[str], ModelConfig]) -> None:
    model, init_from = _named_model(run.get("model")), run.get("init_from")
    source = init_from.get("source") if isinstance(init_from, dict) else None
    if isinstance(model, dict) and model.get(PRESET) == FROM_SOURCE and isinstance(source, str) and source:
        run["model"] = _updated(to_dict(model_of(source)), {k: v for k, v in model.items() if k != PRESET})


def _named_model(value: object) -> object:
    """Return what a config says of ``model``, where the name of a preset stands for an entry ``preset``."""
    return {PRESET: value} if isinstance(value, str) else value


def _with_preset(fields: Mapping[str, object], prefix: str) -> Mapping[str, object]:
    """Return the fields of a model, with those of its entry ``preset`` written out."""
    name = fields[PRESET]
    if name == FROM_SOURCE:
        hint = "set init_from.source" if prefix == "model." else "name a preset"
        raise ConfigError(field=prefix[:-1], value=name, reason="there is no source model to copy", hint=hint)
    if not isinstance(name, str):
        raise _wrong(f"{prefix}{PRESET}", name, "must be the name of a preset")
    return _updated(to_dict(preset(name)), {k: v for k, v in fields.items() if k != PRESET})


def _updated(values: JsonObject, changes: Mapping[str, object]) -> JsonObject:
    """Return nested ``values`` with ``changes``; a group keeps what they do not name."""
    groups = {
        k: _updated(values[k], v)
        for k, v in changes.items()
        if isinstance(v, Mapping) and isinstance(values.get(k), dict)
    }
    return {**values, **changes, **groups}


@functools.cache  # once for each name
def warn_renamed(renamed: str) -> None:
    """Warn, once in a process, of a field's former name; ``renamed`` is ``FORMER is CURRENT now``."""
    LOG.warning("config field %s; the former name goes with the next release", renamed)


def _check_kind(cls: type, values: JsonObject, path: Path, commands: Mapping[str, type]) -> None:
    """Raise UserError if another class than ``cls`` knows more of the fields, and name its command."""

    def unknown(kind: type) -> int:
        return len({current_path(kind, name) for name in values} - field_types(kind).keys())

    command, kind = min(commands.items(), key=lambda item: unknown(item[1]), default=("", cls))
    if unknown(kind) < unknown(cls):
        raise UserError(field=str(path), reason=f"is a config of another command: {command} --config={path}")


def _read_plain(path: Path) -> JsonObject:
    try:
        text = read_text(path)
        if path.suffix in YAML:
            from clip_jax.config.yaml_files import parse_yaml

            values, kind = parse_yaml(text, path), "mapping of fields"
        else:
            values, kind = parse_json(text, path), "JSON object"
    except FileNotFoundError:
        raise UserError(field=path, reason="no such config file") from None
    except UnicodeDecodeError as error:
        raise UserError(field=path, reason=f"not UTF-8 ({error.reason})") from None
    if not isinstance(values, dict):
        raise UserError(field=path, reason=f"must hold a {kind}")
    return values


def _run_python(path: Path) -> JsonObject:
    import runpy

    from ml_collections import ConfigDict

    def plain(value: object) -> object:
        if callable(as_python := getattr(value, "item", None)):  # a NumPy scalar
            return as_python()
        raise UserError(field=path, reason=f"holds {short(value)}, and only numbers, texts and lists can be stored")

    try:
        get_config = runpy.run_path(str(path)).get("get_config")
        if get_config is None:
            raise UserError(field=path, reason="defines no get_config()")
        config = get_config()
        if not isinstance(config, (dict, ConfigDict)):
            raise UserError(field=path, reason="its get_config() must return a dict, or a ConfigDict of ml_collections")
        values = config.to_dict() if isinstance(config, ConfigDict) else config
        return json.loads(json.dumps(values, default=plain))
    except SyntaxError as error:
        raise UserError(field=path, reason=f"not Python ({error.msg}, line {error.lineno})") from None
    except UserError:
        raise
    except Exception as error:  # the user's code can raise anything
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        where = f"line {lines[-1]}: " if lines else ""
        message = (str(error).splitlines() or [""])[0]
        raise UserError(field=path, reason=f"{where}{type(error).__name__}: {message}") from error


def parse_value(text: str) -> object:
    """Parse a value from the command line: JSON if it parses, True and False as in Python, else the text itself."""
    try:
        return parse_json(text, "")
    except UserError:
        return {"True": True, "False": False}.get(text, text)


def parse_field(hint: object, text: str) -> object:
    """Parse a field's value from the command line.

    Args:
      hint: the field's type; None if it is not known.
      text: the value. Of a list, JSON, one item, or items with commas between them; a comma inside brackets of any kind
        or in a quoted item separates nothing, so that ``a-{0,1}.tar`` is one path. Of a text field, the text as it is.
        Otherwise as `parse_value` takes it; numbers also as Python writes them.
    """
    value = parse_value(text)
    if typing.get_origin(hint) is tuple and not isinstance(value, (list, dict)):
        item = typing.get_args(hint)[0]
        return [parse_field(item, piece) for piece in _split_list(text)]
    if hint in (int, float) and isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(text)  # such as .5, which is no JSON
    return text if hint is str and not isinstance(value, str) else value


def _split_list(text: str) -> list[str]:
    pieces, depth, quoted = [""], 0, False
    for character in text:
        quoted ^= character == '"'
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not (quoted or depth > 0):
            pieces.append("")
        else:
            pieces[-1] += character
    return [piece.strip() for piece in pieces if piece.strip()]


def set_dotted(values: JsonObject, dotted: str, value: object) -> None:
    """Set ``group.field`` in nested dictionaries; raise ConfigError if a group is a plain value."""
    *groups, last = dotted.split(".")
    for group in groups:
        if group == "model":
            values[group] = _named_model(values.get(group, {}))
        values = values.setdefault(group, {})
        if not isinstance(values, dict):
            raise ConfigError(field=dotted, reason=f"unknown field: {group} is a single value, not a group of fields")
    values[last] = value
