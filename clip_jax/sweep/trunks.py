"""Which runs of a sweep take their first steps from a trunk, and from which step. Imports no jax."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from clip_jax.config import RunConfig
from clip_jax.config.io import run_id
from clip_jax.config.trunk import branch_step, trunk_config
from clip_jax.storage.records import PlannedRun
from clip_jax.sweep.cell import Cell, flops_after

TRUNK = "trunk"  # kind of a trunk's row in plan.json


@dataclass(frozen=True)
class Trunk:
    """A run at a constant learning rate, and the cells that branch off it, each with its step ``branch_at``."""

    config: RunConfig
    cells: tuple[Cell, ...]

    @property
    def run_id(self) -> str:
        """Name of the trunk's directory."""
        return run_id(self.config)

    @property
    def keep(self) -> set[int]:
        """Steps whose checkpoints its cells begin with."""
        return {cell.branch_at for cell in self.cells}

    @property
    def until(self) -> int:
        """Step up to which the trunk is trained."""
        return max(self.keep)

    @property
    def flops(self) -> float:
        """FLOPs of training up to `until`."""
        cell = self.cells[0]
        return cell.flops / cell.config.steps * self.until

    @property
    def seconds(self) -> float:
        """Estimated time, as that of its cells."""
        cell = self.cells[0]
        return cell.seconds / cell.flops * self.flops

    @property
    def bytes_kept(self) -> int:
        """Size of the checkpoints that are kept until the last cell has ended."""
        return len(self.keep) * self.cells[0].params * self.config.state_bytes

    def row(self) -> PlannedRun:
        """Return the trunk's row of ``plan.json``; its budget is what it is trained for."""
        cell, config = self.cells[0], self.config
        return PlannedRun(
            run_id=self.run_id,
            kind=TRUNK,
            rung=cell.size,
            budget=self.flops,
            seed=config.seed,
            width=config.model.image.width,
            depth=config.model.image.depth,
            params=cell.params,
            batch_size=config.batch_size,
            samples_seen=self.until * config.batch_size,
            flops=self.flops,
            peak_lr=config.optim.peak_lr,
            steps=self.until,
            dropped=None,
        )


def with_branches(cells: Sequence[Cell], begun: Collection[str] = ()) -> tuple[list[Cell], list[Trunk]]:
    """Return the cells, those that share a trunk with another one with their step ``branch_at``, and the trunks.

    Args:
      cells: all cells of the sweep.
      begun: ids of trunks that exist, off which a single cell branches too.
    """
    groups: dict[str, list[int]] = {}
    for i, cell in enumerate(cells):
        if cell.reason is None and branch_step(cell.config):
            groups.setdefault(run_id(trunk_config(cell.config)), []).append(i)
    result, trunks = list(cells), []
    for trunk_id, members in groups.items():
        if len(members) > 1 or trunk_id in begun:
            for i in members:
                result[i] = dataclasses.replace(cells[i], branch_at=branch_step(cells[i].config))
            trunks.append(Trunk(trunk_config(cells[members[0]].config), tuple(result[i] for i in members)))
    return result, trunks


def trained_flops(row: PlannedRun) -> float:
    """Return the FLOPs of the steps that a planned run trains itself, without those of a trunk."""
    return flops_after(row.get("branch_at", 0), row["steps"], row["flops"])
