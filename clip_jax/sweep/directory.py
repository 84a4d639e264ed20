"""One driver a directory, and one sweep or search."""

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

# change no number of any run
IGNORED = ("slots", "engine", "resources.", "gflops_per_second", "base.wandb", "families", "family_size")
# a sweep may get more of these later
GROW = ("budgets", "rungs", "models", "seeds_at_best", *(f"{name}_checks" for name in RULED))
FILES: dict[str, type[SweepConfig] | type[SearchConfig]] = {"sweep.json": SweepConfig, "search.json": SearchConfig}


def config_in(root: Path) -> SweepConfig | SearchConfig | None:
    """What the directory was started with. Raises UserError when it cannot be read."""
    for name, cls in FILES.items():
        if (there := read_json(root / name)) is not None:
            return from_dict(cls, there)
    return None


def claim(config: SweepConfig | SearchConfig, root: Path) -> RunLock | Lease:
    """Write its file and return the lock, to be closed in the end.

    Raises UserError when the directory is another sweep's, has a driver, or cannot be written.
    """
    if not is_remote(root) and root.exists() and not root.is_dir():
        raise UserError(f"{root}: cannot be written (it is a file)")
    there = config_in(root) if is_remote(root) or root.is_dir() else None
    kinds = {SweepConfig: "sweep", SearchConfig: "search"}
    if there is not None and type(there) is not type(config):
        raise UserError(f"{root}: belongs to a {kinds[type(there)]}; use another directory")
    if there is not None:
        begun = dataclasses.replace(config, base=as_begun(config.base, there.base))
        old, new = flatten(to_dict(there)), flatten(to_dict(begun))
        for name in sorted(old.keys() | new.keys()):
            grown = name in GROW and set(old.get(name, ())) <= set(new.get(name, ()))
            if not name.startswith(IGNORED) and old.get(name) != new.get(name) and not grown:
                raise UserError(
                    f"{root}: belongs to another {kinds[type(config)]} ({name} is {old.get(name)!r} there and "
                    f"{new.get(name)!r} here); use another directory"
                )
    lock = open_lock(root)
    try:
        mkdir(root)
        lock.acquire()
        write_json(root / next(name for name, cls in FILES.items() if cls is type(config)), to_dict(config))
    except Busy:
        owner = lock.owner()
        who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')}"
        raise UserError(f"{root}: {who} drives this {kinds[type(config)]} already; wait for it or stop it") from None
    except OSError as error:
        raise UserError(f"{root}: cannot be written ({error.strerror})") from None
    return lock
