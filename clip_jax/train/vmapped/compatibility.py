"""Which runs can train together in one program, and what they are called then. Loads no jax."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence

from clip_jax.config import RunConfig
from clip_jax.config.io import run_id, to_dict
from clip_jax.errors import UserError
from clip_jax.storage.json_files import flatten

# Numbers that a program of several runs holds as arrays, one entry a run. All else is the same for the whole family.
MAY_DIFFER = (
    "seed",
    *(f"optim.{name}" for name in ("peak_lr", "warmup_steps", "decay_fraction", "loss_scale")),  # in the state
    *(f"optim.{name}" for name in ("clip_norm", "b1", "b2", "eps", "weight_decay")),
)
NO_NUMBER = ("wandb", "data.workers", "data.threads")  # change none of a run's numbers


def shared_fields(config: RunConfig) -> dict[str, object]:
    """Every field that must be equal in a family, by dotted name."""
    return {name: value for name, value in flatten(to_dict(config)).items() if name not in MAY_DIFFER + NO_NUMBER}


def shape_key(config: RunConfig) -> str:
    """Equal for runs that can share a program."""
    return json.dumps(shared_fields(config), sort_keys=True)


def obstacle(config: RunConfig) -> str | None:
    """Why this run cannot train in a family at all; None when it can."""
    mesh = dataclasses.asdict(config.mesh)
    if any(size not in (1, -1) for size in mesh.values()):
        name = next(name for name, size in mesh.items() if size not in (1, -1))
        return f"mesh.{name}={mesh[name]}: a family trains on one device"
    if config.microbatch_size:
        return f"microbatch_size={config.microbatch_size}: is for large batches; a family is for small runs"
    for name in ("on_nan", "on_spike"):
        if getattr(config.faults, name) == "rollback":
            return f"faults.{name}='rollback': one run cannot go back while the others go on; use 'stop'"
    return None


def check_family(configs: Sequence[RunConfig]) -> None:
    """Raises UserError, naming the field, when these runs cannot share a program."""
    if not configs:
        raise UserError("a family needs at least one run")
    if len({run_id(config) for config in configs}) < len(configs):
        raise UserError("a family: the same run stands twice")
    if (why := obstacle(configs[0])) is not None:
        raise UserError(why)
    first = shared_fields(configs[0])
    for config in configs[1:]:
        for name, value in shared_fields(config).items():
            if value != first.get(name):
                raise UserError(
                    f"a family: {name} is {first.get(name)!r} and {value!r}; only {', '.join(MAY_DIFFER)} may differ"
                )


def family_id(configs: Sequence[RunConfig]) -> str:
    """12 hex digits: a hash of the runs' ids, in any order."""
    return hashlib.sha256(" ".join(sorted(map(run_id, configs))).encode()).hexdigest()[:12]
