"""What the dataclasses of this package say about their fields: types, choices, and former names.

A field that is renamed gets an entry in `RENAMED`. Its former name is read everywhere (`current_names`), and stays the
one under which it enters a run id (`former_names`), so that ids never change.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping

from clip_jax.errors import ConfigError, one_of
from clip_jax.plugins import Kind, check_name
from clip_jax.types import JsonObject

# class -> former name of a field -> its name
RENAMED: dict[str, dict[str, str]] = {
    "RunConfig": {"faults": "anomalies"},
    "ModelConfig": {"parametrisation": "parametrization"},
    "DataConfig": {
        "max_broken": "max_corrupt_records",
        "tokenizer_captions": "tokenizer_train_captions",
        "threads": "num_threads",
        "workers": "num_workers",
        "decoder": "jpeg_decoder",
        "keep_decoded": "cache_decoded",
    },
    "OptimConfig": {"decay_fraction": "lr_decay_fraction", "rounding": "half_rounding"},
    "LossConfig": {"kind": "name", "method": "implementation", "chunk": "chunk_size"},
    "EvalConfig": {"examples": "max_examples", "controls": "unscored_tasks"},
    "InitConfig": {"tower": "towers", "freeze": "freeze_tower"},
    "SweepConfig": {
        "seeds_at_best": "extra_seeds_at_optimum",
        "by_budget": "compute_scaling",
        "lr_checks": "lr_multipliers",
        "lr_checks_at": "lr_multipliers_at",
        "decay_checks": "weight_decay_multipliers",
        "warmup_checks": "warmup_multipliers",
        "batch_checks": "batch_multipliers",
        "slots": "max_concurrent_runs",
        "families": "vmap_runs",
        "family_size": "max_vmapped_runs",
    },
    "BudgetRules": {"decay_power": "weight_decay_power"},
    "SearchConfig": {"together": "trials_per_round", "keep": "survivor_fraction", "slots": "max_concurrent_runs"},
    "Resources": {
        "cores": "cpus_per_process",
        "setup": "setup_commands",
        "stop_before_s": "grace_period_s",
        "image": "container_image",
        "claim": "pvc_name",
        "mount": "mount_path",
    },
}
# (class, field) -> former value -> value
RENAMED_VALUES: dict[tuple[str, str], dict[str, str]] = {("SweepConfig", "vmap_runs"): {"measured": "auto"}}

# (class, field) -> kind of entry points whose names are choices too
ADDED_CHOICES: dict[tuple[str, str], Kind] = {
    ("DataConfig", "source"): "sources",
    ("LossConfig", "name"): "losses",
    ("SweepConfig", "engine"): "engines",
    ("IndexConfig", "engine"): "engines",
    ("SearchConfig", "engine"): "engines",
}

_TYPES: dict[type, dict[str, object]] = {}  # by dataclass, as resolving annotations is slow


def field_types(cls: type) -> dict[str, object]:
    """Return the types of a config dataclass's fields by name."""
    if cls not in _TYPES:
        hints = typing.get_type_hints(cls)
        _TYPES[cls] = {f.name: hints[f.name] for f in dataclasses.fields(cls)}
    return _TYPES[cls]


def choices_of(hint: object) -> tuple[str, ...]:
    """Return the values that a ``Literal`` type, or a union of such, allows; empty for any other type."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(choice for argument in arguments for choice in choices_of(argument))
    return arguments if typing.get_origin(hint) is typing.Literal else ()


def check_choices(config: object, group: str = "") -> None:
    """Check that each field whose type is a ``Literal`` has one of its values, or a name that a package adds to them.

    Args:
      config: a config dataclass.
      group: what stands before its fields' names in the error message, such as ``optim.``.

    Raises:
      ConfigError: another value.
    """
    for name, hint in field_types(type(config)).items():
        if not (choices := choices_of(hint)):
            continue
        if kind := ADDED_CHOICES.get((type(config).__name__, name)):
            check_name(f"{group}{name}", getattr(config, name), kind, choices)
        else:
            one_of(f"{group}{name}", getattr(config, name), choices)


def dotted_names(cls: type) -> list[str]:
    """Return the dotted names of a config's groups and fields, those of the config itself first."""
    groups = {
        name: typing.cast(type, hint) for name, hint in field_types(cls).items() if dataclasses.is_dataclass(hint)
    }
    return [*field_types(cls), *(f"{name}.{inner}" for name, group in groups.items() for inner in dotted_names(group))]


def type_of(cls: type, dotted: str) -> object:
    """Return the type of a field such as ``optim.peak_lr``; None if there is no such field."""
    head, _, rest = dotted.partition(".")
    hint = field_types(cls).get(head)
    return type_of(hint, rest) if rest and isinstance(hint, type) and dataclasses.is_dataclass(hint) else hint


def current_names(
    cls: type, values: Mapping[str, object], prefix: str = "", former: list[str] | None = None
) -> JsonObject:
    """Return a config's values with former names of fields, and former values, replaced by today's.

    Args:
      cls: the config dataclass; the groups in it are read likewise.
      values: field name -> value, as in a file.
      prefix: of the fields' names in the error message.
      former: receives a text for each former name that was found.

    Raises:
      ConfigError: a field is given under both names.
    """
    renamed, hints = RENAMED.get(cls.__name__, {}), field_types(cls)
    current: JsonObject = {}
    for written, value in values.items():
        name = renamed.get(written, written)
        if name != written:
            if name in values:
                reason = f"is the former name of {name}, and both are given"
                raise ConfigError(field=f"{prefix}{written}", value=value, reason=reason)
            if former is not None:
                former.append(f"{prefix}{written} is {prefix}{name} now")
        if dataclasses.is_dataclass(hint := hints.get(name)) and isinstance(value, Mapping):
            value = current_names(typing.cast(type, hint), value, f"{prefix}{name}.", former)
        elif isinstance(value, str):
            value = RENAMED_VALUES.get((cls.__name__, name), {}).get(value, value)
        current[name] = value
    return current


def current_path(cls: type, dotted: str) -> str:
    """Return the name of a field, such as ``loss.kind``, with former names replaced by today's."""
    head, dot, rest = dotted.partition(".")
    name = RENAMED.get(cls.__name__, {}).get(head, head)
    hint = field_types(cls).get(name)
    if rest and dataclasses.is_dataclass(hint):
        rest = current_path(typing.cast(type, hint), rest)
    return f"{name}{dot}{rest}"


def former_names(cls: type, values: Mapping[str, object]) -> JsonObject:
    """Return a config's values, as `io.to_dict` gives them, under the names that the fields had at first."""
    former = {name: first for first, name in RENAMED.get(cls.__name__, {}).items()}
    hints = field_types(cls)
    return {
        former.get(name, name): former_names(hint, value)
        if isinstance(hint := hints[name], type) and isinstance(value, Mapping)
        else value
        for name, value in values.items()
    }
