"""Grouping of a sweep's cells into vmapped runs, where that is faster on this machine. Imports no jax."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from clip_jax.config import RunConfig
from clip_jax.config.io import to_dict
from clip_jax.config.run import untracked
from clip_jax.config.sweep import SweepConfig
from clip_jax.distributed.cluster import visible_gpus
from clip_jax.errors import UserError
from clip_jax.storage.json_files import read_json, write_json
from clip_jax.storage.paths import mkdir
from clip_jax.sweep.launch.local import on_cores, slot_cores, slot_environment
from clip_jax.sweep.plan import Cell
from clip_jax.train.vmapped.benchmark import Gain
from clip_jax.train.vmapped.compatibility import Form, incompatibility, shape_key, shared_fields

# fields on which the time of a step depends
_TIMED_FIELDS = (
    "model.",
    "loss.",
    "init_from.",
    "optim.optimizer",
    "optim.ema_decay",
    "optim.state_dtype",
    "optim.half_rounding",
    "optim.layer_decay",
    "batch_size",
)


def check_batching(config: SweepConfig) -> None:
    """Check that vmapped training, if ``vmap_runs`` asks for it, is possible for these runs and on this machine.

    Raises:
      UserError: it is not.
    """
    if config.vmap_runs == "off":
        return
    if (obstacle := incompatibility(config.base)) is not None:
        raise UserError(field="vmap_runs", reason=f"would be ignored, for {obstacle}")
    count = len(visible_gpus(os.environ))
    if config.max_concurrent_runs == 1 and not config.resources.devices_per_process and count > 1:
        reason = f"must be 1 with vmap_runs, as this machine has {count} GPUs"
        raise UserError(field="resources.devices_per_process", reason=reason)


def group_cells(cells: Sequence[Cell], size: int) -> list[tuple[Cell, ...]]:
    """Split the cells into groups of at most ``size`` that can share a program, of about equal size.

    Every cell is in one group; a cell that can be trained with no other is a group of its own. The groups are in the
    order of their first cells.
    """
    alike: dict[str, list[Cell]] = {}
    for cell in cells:
        key = shape_key(cell.config) if incompatibility(cell.config) is None else cell.run_id
        alike.setdefault(key, []).append(cell)
    groups = []
    for same in alike.values():
        count = -(-len(same) // size)
        groups += [tuple(same[i * len(same) // count : (i + 1) * len(same) // count]) for i in range(count)]
    return groups


def vmapped_arguments(run_dirs: Sequence[Path], form: Form = "vmap") -> tuple[str, ...]:
    """Return the arguments of ``clip-jax`` that train the runs of these directories together.

    Each directory holds a ``request.json``.
    """
    return ("family", *map(str, run_dirs), f"--form={form}", "--quiet")


def keep_faster_groups(
    groups: Sequence[tuple[Cell, ...]],
    config: SweepConfig,
    sweep_dir: Path,
    echo: Callable[[str], None],
    measure: Callable[[Sequence[RunConfig], Path, SweepConfig], Gain] | None = None,
) -> list[tuple[Cell, ...]]:
    """Return the groups whose measured speed-up over the whole run is above 1, and the cells of the others one by one.

    Each shape and number of members is timed once and its timing kept in ``SWEEP_DIR/families/*.json``. A group that
    could not be timed is not used.

    Args:
      groups: the result of `group_cells`.
      config: the sweep.
      sweep_dir: its directory.
      echo: receives one line per decision.
      measure: times a group; by default `measure_gain`.
    """
    kept: list[tuple[Cell, ...]] = []
    for group in groups:
        if len(group) == 1:
            kept.append(group)
            continue
        configs = [cell.config for cell in group]
        about = f"{len(group)} runs in one program (rung {group[0].size:g}, {group[0].budget:.2e} FLOPs)"
        folder = sweep_dir / "families" / _measurement_id(configs, config)
        row = read_json(folder.with_suffix(".json"))
        try:
            gain = Gain(**row) if row else (measure or measure_gain)(configs, folder, config)
        except UserError as error:
            echo(f"{about}: not used; {error}")
            kept += [(cell,) for cell in group]
            continue
        whole = gain.whole(configs[0].steps)
        parts = f"start {gain.start:.2f}, compilation {gain.compilation:.2f}, steps {gain.steady:.2f}"
        echo(f"{about}: gain {whole:.2f} ({parts}): " + ("used" if whole > 1 else "not used"))
        kept += [group] if whole > 1 else [(cell,) for cell in group]
    return kept


def _measurement_id(configs: Sequence[RunConfig], config: SweepConfig) -> str:
    """Return the name of a measurement: a hash of shape, number of members and seeds, machine and slots."""
    shape = {k: v for k, v in shared_fields(configs[0]).items() if k.startswith(_TIMED_FIELDS)}
    about = [shape, len(configs), len({c.seed for c in configs}), platform.node(), config.max_concurrent_runs]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]


def measure_gain(configs: Sequence[RunConfig], folder: Path, config: SweepConfig) -> Gain:
    """Time the group in its own process, with the devices and cores of one slot of the sweep ``config``.

    The result is written to ``FOLDER.json``, the runs' configs to ``folder``.

    Raises:
      UserError: the timing failed.
    """
    dirs = [folder / str(i) for i in range(len(configs))]
    for run_dir, run in zip(dirs, configs, strict=True):
        mkdir(run_dir)
        write_json(run_dir / "request.json", to_dict(untracked(run)))
    out = folder.with_suffix(".json")
    command = [sys.executable, "-m", "clip_jax.cli", "family", *map(str, dirs), f"--measure={out}"]
    environment = os.environ | slot_environment(0, config.max_concurrent_runs, config.resources)
    with on_cores(slot_cores(0, config.max_concurrent_runs)):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    row = read_json(out)
    if done.returncode or row is None:
        errors = done.stderr.strip().splitlines()
        reason = f"timing {len(configs)} runs failed ({errors[-1] if errors else 'without a message'})"
        raise UserError(field="vmap_runs", reason=reason)
    return Gain(**row)
