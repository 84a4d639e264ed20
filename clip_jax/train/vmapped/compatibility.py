"""Which runs can be trained in one program, and the id of such a group. Imports no jax."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence

from clip_jax.config import RunConfig
from clip_jax.config.io import run_id, to_dict
from clip_jax.errors import UserError
from clip_jax.storage.json_files import flatten

# Numbers that a program of several runs holds as arrays, one entry per run. All else is equal for all of its runs.
VMAPPABLE_FIELDS = (
    "seed",
    *(f"optim.{name}" for name in ("peak_lr", "warmup_steps", "lr_decay_fraction", "loss_scale")),  # in the state
    *(f"optim.{name}" for name in ("clip_norm", "b1", "b2", "eps", "weight_decay")),
)
WITHOUT_EFFECT = ("wandb", "data.num_workers", "data.num_threads")  # change no number of a run


def shared_fields(config: RunConfig) -> dict[str, object]:
    """Return every field that must be equal in all runs of a group, by dotted name."""
    return {
        name: value for name, value in flatten(to_dict(config)).items() if name not in VMAPPABLE_FIELDS + WITHOUT_EFFECT
    }


def shape_key(config: RunConfig) -> str:
    """Return a text that is equal for runs that can share a program."""
    return json.dumps(shared_fields(config), sort_keys=True)


def incompatibility_reason(config: RunConfig) -> str | None:
    """Return why this run cannot be trained together with any other, or None if it can."""
    mesh = dataclasses.asdict(config.mesh)
    if any(size not in (1, -1) for size in mesh.values()):
        name = next(name for name, size in mesh.items() if size not in (1, -1))
        return f"mesh.{name}={mesh[name]}: a family trains on one device"
    if config.microbatch_size:
        return f"microbatch_size={config.microbatch_size}: is for large batches; a family is for small runs"
    for name in ("on_nan", "on_spike"):
        if getattr(config.anomalies, name) == "rollback":
            return (
                f"anomalies.{name}='rollback': one run of a family cannot roll back while the others continue; "
                f"use 'stop'"
            )
    return None


def check_compatible(configs: Sequence[RunConfig]) -> None:
    """Check that these runs can share a program.

    Raises:
      UserError: they cannot; it names the field.
    """
    if not configs:
        raise UserError("a family needs at least one run")
    if len({run_id(config) for config in configs}) < len(configs):
        raise UserError("a family: the same run is given twice")
    if (reason := incompatibility_reason(configs[0])) is not None:
        raise UserError(reason)
    first = shared_fields(configs[0])
    for config in configs[1:]:
        for name, value in shared_fields(config).items():
            if value != first.get(name):
                raise UserError(
                    f"a family: {name} is {first.get(name)!r} and {value!r}; "
                    f"only {', '.join(VMAPPABLE_FIELDS)} may differ"
                )


def family_id(configs: Sequence[RunConfig]) -> str:
    """Return 12 hex digits: a hash of the runs' ids that does not depend on their order."""
    return hashlib.sha256(" ".join(sorted(map(run_id, configs))).encode()).hexdigest()[:12]
