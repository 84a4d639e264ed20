"""Start of a run from the state that its trunk had at one step (`config.trunk`)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import jax

from clip_jax.config import RunConfig
from clip_jax.config.io import as_begun, run_id
from clip_jax.config.trunk import branch_step, trunk_config
from clip_jax.errors import UserError
from clip_jax.optim.optimizer import schedule_numbers, with_schedule
from clip_jax.storage.json_files import read_lines
from clip_jax.storage.paths import as_path
from clip_jax.storage.records import BranchRecord
from clip_jax.train.checkpoint import load_state
from clip_jax.train.inputs import MISSING
from clip_jax.train.metrics import TIMES
from clip_jax.train.run_directory import RunDirectory, read_config, read_records
from clip_jax.train.state import TrainState

BRANCH = "branched_from"  # field of status.json and result.json


@dataclass(frozen=True)
class Branch:
    """Branch point of a run: the directory of its trunk, and the step of one of the trunk's checkpoints."""

    trunk: str | Path
    step: int

    def check(self, config: RunConfig) -> None:
        """Check that the directory holds the run's trunk and that the step lies before the decay.

        Raises:
          UserError: it does not.
        """
        begun, trunk = read_config(as_path(self.trunk)), trunk_config(config)
        if begun is None or run_id(dataclasses.replace(begun, mesh=trunk.mesh)) != run_id(as_begun(trunk, begun)):
            reason = "is not the trunk of this run: it must differ in steps and evals.at_fractions alone"
            raise UserError(field="trunk", value=self.trunk, reason=reason, hint="leave it out to train from step 0")
        if not 0 < self.step <= (last := branch_step(config)):
            reason = f"must be above 0 and at most {last}, where the run and its trunk part"
            raise UserError(field="branch_at", value=self.step, reason=reason)

    def inputs(self) -> dict[str, object]:
        """Return what the run begins with as its trunk did: the shards that were missing then."""
        missing = read_records(as_path(self.trunk)).get(MISSING)
        return {MISSING: missing} if missing else {}

    def write_rows(self, directory: RunDirectory) -> None:
        """Write what the trunk logged up to the step into the run's directory, without the times it took.

        Rollbacks are taken over with their events, since they say which batches were skipped.

        Args:
          directory: of the run; it has no checkpoint.
        """
        trunk = as_path(self.trunk)
        rows = [row for row in read_lines(trunk / "metrics.jsonl") if row["step"] <= self.step]
        rows = [{name: value for name, value in row.items() if name not in TIMES} for row in rows]
        rollbacks = [
            row
            for row in read_lines(trunk / "events.jsonl")
            if row["event"] == "rollback" and int(row["to"]) < self.step
        ]
        directory.replace_rows("metrics.jsonl", rows)
        others = [event for event in directory.events() if event not in rollbacks]
        directory.replace_rows("events.jsonl", [*rollbacks, *others])
        directory.note_input(BRANCH, BranchRecord(trunk=trunk.name, step=self.step))

    def state(self, config: RunConfig, abstract: TrainState) -> TrainState:
        """Return the trunk's state with the schedule of the run.

        Args:
          config: the run.
          abstract: shapes, dtypes and shardings (`state.abstract_state`).

        Raises:
          UserError: the trunk has no such checkpoint, or it cannot be read.
        """
        state = load_state(as_path(self.trunk), self.step, abstract)
        shardings = jax.tree.map(lambda a: a.sharding, abstract.opt_state)
        of_run = jax.jit(with_schedule, donate_argnums=0, out_shardings=shardings)
        numbers = schedule_numbers(config.optim, config.steps)
        return TrainState(state.step, state.params, of_run(state.opt_state, numbers))
