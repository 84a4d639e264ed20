"""The sweep directory: it holds one sweep or search and admits one driver at a time."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from clip_jax.config.hyperparameter_rules import RULED
from clip_jax.config.io import as_begun, from_dict, to_dict
from clip_jax.config.sweep import SweepConfig
from clip_jax.errors import UserError
from clip_jax.storage.json_files import flatten, read_json, write_json
from clip_jax.storage.lease import Lease, open_lock
from clip_jax.storage.lock import Busy, RunLock
from clip_jax.storage.paths import is_remote, mkdir
from clip_jax.sweep.search.config import SearchConfig

# fields that change no number of any run
PLACEMENT = (
    "max_concurrent_runs",
    "engine",
    "resources.",
    "gflops_per_second",
    "base.wandb",
    "base.tracking.",
    "vmap_runs",
    "max_vmapped_runs",
)
# fields to which a sweep may get more values later
EXTENSIBLE = ("budgets", "rungs", "models", "extra_seeds_at_optimum", *(f"{name}_multipliers" for name in RULED))
FILES: dict[str, type[SweepConfig] | type[SearchConfig]] = {"sweep.json": SweepConfig, "search.json": SearchConfig}


def read_sweep_config(root: Path) -> SweepConfig | SearchConfig | None:
    """Return the config that the directory was started with, or None.

    Raises:
      UserError: the file cannot be read.
    """
    for name, cls in FILES.items():
        if (begun_config := read_json(root / name)) is not None:
            return from_dict(cls, begun_config)
    return None


def lock_sweep(config: SweepConfig | SearchConfig, root: Path) -> RunLock | Lease:
    """Lock the directory and write the config; return the lock, which the caller closes.

    Raises:
      UserError: the directory belongs to another sweep, has a driver, or cannot be written.
    """
    if not is_remote(root) and root.exists() and not root.is_dir():
        raise UserError(field=root, reason="cannot be written (it is a file)")
    begun_config = read_sweep_config(root) if is_remote(root) or root.is_dir() else None
    kinds = {SweepConfig: "sweep", SearchConfig: "search"}
    if begun_config is not None and type(begun_config) is not type(config):
        raise UserError(field=root, reason=f"belongs to a {kinds[type(begun_config)]}", hint="use another directory")
    if begun_config is not None:
        begun = dataclasses.replace(config, base=as_begun(config.base, begun_config.base))
        old, new = flatten(to_dict(begun_config)), flatten(to_dict(begun))
        for name in sorted(old.keys() | new.keys()):
            grown = name in EXTENSIBLE and set(old.get(name, ())) <= set(new.get(name, ()))
            if not name.startswith(PLACEMENT) and old.get(name) != new.get(name) and not grown:
                raise UserError(
                    field=root,
                    reason=f"belongs to another {kinds[type(config)]} ({name} is {old.get(name)!r} there and "
                    f"{new.get(name)!r} here)",
                    hint="use another directory",
                )
    lock = open_lock(root)
    try:
        mkdir(root)
        lock.acquire()
        write_json(root / next(name for name, cls in FILES.items() if cls is type(config)), to_dict(config))
    except Busy:
        owner = lock.owner()
        who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')}"
        reason = f"{who} drives this {kinds[type(config)]} already"
        raise UserError(field=root, reason=reason, hint="wait for it or stop it") from None
    except OSError as error:
        raise UserError(field=root, reason=f"cannot be written ({error.strerror})") from None
    return lock
