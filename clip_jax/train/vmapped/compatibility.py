"""Which runs can be trained in one program, and the id of such a group. Imports no jax."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Literal

from clip_jax.config import RunConfig
from clip_jax.config.io import run_id, to_dict
from clip_jax.errors import UserError
from clip_jax.storage.json_files import flatten

Form = Literal["vmap", "map"]  # the runs' kernels batched into one, or executed one after the other
# Numbers that a program of several runs holds as arrays, one entry per run. All else is equal for all of its runs.
VMAPPABLE_FIELDS = (
    "seed",
    *(f"optim.{name}" for name in ("peak_lr", "warmup_steps", "lr_decay_fraction", "loss_scale")),  # in the state
    *(f"optim.{name}" for name in ("clip_norm", "b1", "b2", "eps", "weight_decay")),
)
WITHOUT_EFFECT = ("wandb", "tracking.", "data.num_workers", "data.num_threads")  # change no number of a run


def shared_fields(config: RunConfig) -> dict[str, object]:
    """Return every field that must be equal in all runs of a group, by dotted name."""
    return {
        name: value
        for name, value in flatten(to_dict(config)).items()
        if name not in VMAPPABLE_FIELDS and not name.startswith(WITHOUT_EFFECT)
    }


def shape_key(config: RunConfig) -> str:
    """Return a text that is equal for runs that can share a program."""
    return json.dumps(shared_fields(config), sort_keys=True)


def incompatibility(config: RunConfig) -> UserError | None:
    """Return the error that names why this run cannot be trained together with any other, or None if it can."""
    mesh = dataclasses.asdict(config.mesh)
    if any(size not in (1, -1) for size in mesh.values()):
        name = next(name for name, size in mesh.items() if size not in (1, -1))
        return UserError(
            field=f"mesh.{name}", value=mesh[name], reason="must be 1 or -1: vmapped runs train on one device"
        )
    if config.microbatch_size:
        return UserError(
            field="microbatch_size", value=config.microbatch_size, reason="must be 0: vmapped runs have small batches"
        )
    if limit := config.data.max_missing_shards:
        reason = "must be 0: vmapped runs share a source, and each may have begun without other shards"
        return UserError(field="data.max_missing_shards", value=limit, reason=reason)
    for name in ("on_nan", "on_spike"):
        if getattr(config.anomalies, name) == "rollback":
            reason = "a vmapped run cannot roll back while the others continue"
            return UserError(field=f"anomalies.{name}", value="rollback", reason=reason, hint="use 'stop'")
    return None


def check_compatible(configs: Sequence[RunConfig]) -> None:
    """Check that these runs can share a program.

    Raises:
      UserError: they cannot; it names the field.
    """
    if not configs:
        raise UserError(field="configs", value=[], reason="at least one run is needed")
    if len({run_id(config) for config in configs}) < len(configs):
        raise UserError(field="configs", reason="must not hold a run twice")
    if (error := incompatibility(configs[0])) is not None:
        raise error
    first = shared_fields(configs[0])
    for config in configs[1:]:
        for name, value in shared_fields(config).items():
            if value != first.get(name):
                reason = f"differs from {first.get(name)!r}, and only {', '.join(VMAPPABLE_FIELDS)} may differ"
                raise UserError(field=name, value=value, reason=reason)


def group_id(configs: Sequence[RunConfig]) -> str:
    """Return 12 hex digits: a hash of the runs' ids that does not depend on their order."""
    return hashlib.sha256(" ".join(sorted(map(run_id, configs))).encode()).hexdigest()[:12]
