"""A sweep from plan to report. Every stage can be repeated: it does what is missing and nothing twice."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from clip_jax._moved import names_of
from clip_jax.config import RunConfig
from clip_jax.config.io import run_id, to_dict
from clip_jax.config.sweep import SweepConfig
from clip_jax.config.trunk import trunk_config
from clip_jax.durations import duration_text
from clip_jax.errors import UserError
from clip_jax.scaling.data.records import LawRecord
from clip_jax.scaling.data.runs_table import LR_CHECK, is_check
from clip_jax.storage.json_files import write_json
from clip_jax.storage.paths import absolute, as_path, list_names, mkdir, remove_tree
from clip_jax.sweep.analysis.report import Echo, check_finished, report
from clip_jax.sweep.batching import check_batching, group_cells, keep_faster_groups, vmapped_arguments
from clip_jax.sweep.cell import Cell, make_cell, setting_checks
from clip_jax.sweep.collect import collect
from clip_jax.sweep.directory import lock_sweep
from clip_jax.sweep.launch.base import Engine, Job, train_job
from clip_jax.sweep.launch.reconcile import Outcome, reconcile
from clip_jax.sweep.launch.registry import open_engine
from clip_jax.sweep.launch.submission import JobState, requeue, set_aside_corrupt
from clip_jax.sweep.plan import SweepPlan, plan_of, training_pairs
from clip_jax.sweep.run_state import CANCELLED, RunState
from clip_jax.sweep.run_times import fit_times, time_left, times_in
from clip_jax.sweep.trunks import Trunk, with_branches
from clip_jax.train.run_directory import CHECKPOINTS, checkpoints_in

logger = logging.getLogger(__name__)

__getattr__ = names_of(__name__, "sweep.analysis.report")


def run_sweep(
    config: SweepConfig, sweep_dir: str | Path, echo: Echo = logger.info, engine: Engine | None = None
) -> LawRecord:
    """Train the cells of a sweep and report: first the plan, then extra seeds and checks at each budget's best size.

    A run that failed before is tried again, one that was cancelled is not (`submission.requeue`).

    Args:
      config: the sweep.
      sweep_dir: created if missing, or ``gs://BUCKET/…``; the same call on it completes what is missing.
      echo: receives progress lines; by default the log.
      engine: where to train; by default the one that the config names.

    Returns:
      The law, as in ``report/law.json``.

    Raises:
      UserError: the directory belongs to another sweep, another driver is at work in it, the engine refused, or no run
        finished.
    """
    root = absolute(as_path(sweep_dir))
    check_batching(config)
    plan = plan_of(config)
    engine = engine or open_engine(config, root)
    with contextlib.closing(lock_sweep(config, root)):
        _log_start(config, root, pairs := training_pairs(config))
        echo(plan.table(times_in(root), pairs))
        return _stages(_Sweep(config, root, list(plan.cells), echo, engine), plan)


def _log_start(config: SweepConfig, root: Path, pairs: int | None) -> None:
    logger.info("sweep directory: %s", root)
    data = config.base.data
    counted = "" if pairs is None else f", {pairs:,} training pairs"
    logger.info("data: %s%s", " ".join([data.source, *data.paths]), counted)
    # the driver never opens the devices: they belong to the runs
    logger.info(
        "engine: %s, max_concurrent_runs=%d; `clip-jax sweep logs RUN` shows a run's devices",
        config.engine,
        config.max_concurrent_runs,
    )


def render(config: SweepConfig, sweep_dir: str | Path) -> str:
    """Return the plan and what would be submitted for its unfinished runs, as text; write nothing.

    Each run is shown as its own job: which runs are trained together is measured only when the sweep runs.
    """
    root = absolute(as_path(sweep_dir))
    plan = plan_of(config)
    engine = open_engine(config, root)
    check_batching(config)
    stages = [[trunk_job(t, root) for t in plan.trunks], [job for job, _ in jobs_of([(c,) for c in plan.kept], root)]]
    each = engine.max_jobs_per_submit
    parts: list[str] = []
    for stage in stages:
        jobs = [job for job in stage if not JobState.read(job).finished]
        parts += [
            engine.render(f"clip-dry-run-{len(parts) + i // each}", jobs[i : i + each])
            for i in range(0, len(jobs), each)
        ]
    return plan.table(times_in(root), training_pairs(config)) + "\n\n" + "\n".join(parts)


def jobs_of(groups: Sequence[tuple[Cell, ...]], root: Path) -> list[tuple[Job, tuple[Cell, ...]]]:
    """Return a job for each group of cells; a group of several is trained in one program."""
    jobs = []
    for cells in groups:
        run_dirs = tuple(root / "runs" / cell.run_id for cell in cells)
        if len(cells) > 1:
            job = Job(run_dirs, vmapped_arguments(run_dirs))
        elif step := cells[0].branch_at:
            trunk = root / "runs" / run_id(trunk_config(cells[0].config))
            job = train_job(run_dirs[0], trunk=trunk, branch_at=step)
        else:
            job = train_job(run_dirs[0])
        jobs.append((job, cells))
    return jobs


def trunk_job(trunk: Trunk, root: Path) -> Job:
    """Return the job that trains a trunk up to its last branch."""
    return train_job(root / "runs" / trunk.run_id, trunk.until, keep=trunk.keep)


def _stages(sweep: _Sweep, plan: SweepPlan) -> LawRecord:
    config = sweep.config
    sweep.save()
    sweep.train(plan.kept)
    # a second seed may show that another size is best, so repeat until the best has all its seeds
    for _ in config.sizes:
        extra = [
            make_cell(config, size, budget, seed, kind="second_seed")
            for size, budget in sweep.best()
            for seed in config.extra_seeds_at_optimum
        ]
        if not sweep.train(extra):
            break
    checked = best = sweep.best()
    if config.lr_multipliers_at == "rungs":
        checked = [(size, min(c.budget for c in plan.kept if c.size == size)) for size in {c.size for c in plan.kept}]
    checks = [
        make_cell(config, size, budget, config.seeds[0], kind=LR_CHECK, lr_factor=factor)
        for size, budget in sorted(checked)
        for factor in config.lr_multipliers
    ]
    checks += [cell for size, budget in sorted(best) for cell in setting_checks(config, size, budget)]
    for cell in checks:
        if cell.reason:
            sweep.echo(f"{cell.kind}, {cell.config.batch_size} pairs, {cell.budget:.2e} FLOPs: dropped, {cell.reason}")
    sweep.train([cell for cell in checks if cell.reason is None])
    sweep.engine.detach()  # nothing runs; the local engine's processes would keep their memory
    return report(sweep.root, sweep.echo)


class _Sweep:
    """The cells planned so far, and what is needed to run them."""

    def __init__(self, config: SweepConfig, root: Path, cells: list[Cell], echo: Echo, engine: Engine) -> None:
        self.config, self.root, self.cells, self.echo, self.engine = config, root, cells, echo, engine
        self.known = {c.run_id for c in cells if c.reason is None}
        self.trunks: list[Trunk] = []
        self._place_branches()

    def _place_branches(self) -> None:
        if self.config.trunks:
            self.cells, self.trunks = with_branches(self.cells, list_names(self.root / "runs"))

    def save(self) -> None:
        plan = SweepPlan(self.config, tuple(self.cells), tuple(self.trunks))
        write_json(self.root / "plan.json", {"cells": plan.rows()})

    def train(self, cells: list[Cell]) -> int:
        """Run the unfinished ones of these cells, cheapest first; return how many cells were new to the sweep."""
        new = [c for c in cells if c.run_id not in self.known]
        self.cells += new
        self.known |= {c.run_id for c in new}
        if new:
            self._place_branches()
            self.save()
        branch_at = {c.run_id: c.branch_at for c in self.cells if c.reason is None}
        cells = [dataclasses.replace(c, branch_at=branch_at[c.run_id]) for c in cells]
        # small budgets first, so that failures come early; cells of one shape back to back
        cells = sorted(cells, key=lambda c: (c.budget, c.size, c.config.seed))
        missing = [cell for cell in cells if not self._done(cell)]
        for cell in missing:
            self._request(cell.run_id, cell.config)
        missing = self._train_trunks(missing)
        while missing:
            jobs = jobs_of(self._groups(missing), self.root)
            progress = _Progress(jobs, self.echo, self.config.max_concurrent_runs)
            reconcile(self.engine, [job for job, _ in jobs], self.config.resources.max_attempts, progress, self.echo)
            # a cancelled member ends its job; the others continue without it in a new one
            missing = [c for c in missing if not self._done(c) and not self._state(c).given_up]
        self._forget_branches()
        return len(new)

    def _request(self, run_id: str, config: RunConfig) -> None:
        """Write what a run is to train, and let one that failed before be tried again."""
        state = RunState.read(self.root / "runs" / run_id)
        mkdir(state.run_dir)
        write_json(state.run_dir / "request.json", to_dict(config))
        if state.given_up and state.given_up["reason"] != CANCELLED:
            requeue(state.run_dir)

    def _train_trunks(self, cells: list[Cell]) -> list[Cell]:
        """Train the trunks of the cells that have not begun; return the cells, branching where there is a checkpoint.

        A branch is taken at the trunk's last checkpoint up to ``branch_at``. Without one, as after a trunk that failed
        early, the run trains all of its steps itself.
        """
        waiting = {c.run_id for c in cells if c.branch_at and not self._state(c).checkpoint}
        needed = [
            dataclasses.replace(trunk, cells=open_)
            for trunk in self.trunks
            if (open_ := tuple(c for c in trunk.cells if c.run_id in waiting))
        ]
        jobs = [trunk_job(trunk, self.root) for trunk in needed]
        for trunk, job in zip(needed, jobs, strict=True):
            self._request(trunk.run_id, trunk.config)
            if not JobState.read(job).finished:
                size, seed = trunk.cells[0].size, trunk.config.seed
                self.echo(f"trunk at rung {size:4g}, seed {seed}: up to step {trunk.until:,}")
        reconcile(self.engine, jobs, self.config.resources.max_attempts, self._report_trunk, self.echo)
        saved = {trunk.run_id: checkpoints_in(self.root / "runs" / trunk.run_id) for trunk in needed}
        of_cell = {cell.run_id: saved[trunk.run_id] for trunk in needed for cell in trunk.cells}
        return [
            dataclasses.replace(c, branch_at=max((s for s in of_cell.get(c.run_id, ()) if s <= c.branch_at), default=0))
            for c in cells
        ]

    def _report_trunk(self, outcome: Outcome) -> None:
        if outcome.reason:
            self.echo(f"trunk {outcome.job.key}: FAILED, {outcome.reason}; its runs branch off earlier, or not at all")

    def _forget_branches(self) -> None:
        """Delete the checkpoints of trunks that no unfinished cell needs, but for the last, off which it can grow."""
        for trunk in self.trunks:
            path = self.root / "runs" / trunk.run_id
            needed = {cell.branch_at for cell in trunk.cells if not self._done(cell)}
            for step in checkpoints_in(path)[:-1]:
                if step not in needed:
                    remove_tree(path / CHECKPOINTS / str(step))

    def _groups(self, cells: list[Cell]) -> list[tuple[Cell, ...]]:
        """Return the groups to train together; an excluded cell is a group of its own."""
        if self.config.vmap_runs == "off":
            return [(cell,) for cell in cells]
        excluded = [cell for cell in cells if self._state(cell).given_up]
        rest = [cell for cell in cells if cell not in excluded]
        # small enough that no slot stays empty
        size = min(self.config.max_vmapped_runs, -(-len(rest) // self.config.max_concurrent_runs))
        groups = group_cells(rest, max(size, 1))
        return [*keep_faster_groups(groups, self.config, self.root, self.echo), *((cell,) for cell in excluded)]

    def _state(self, cell: Cell) -> RunState:
        return RunState.read(self.root / "runs" / cell.run_id)

    def _done(self, cell: Cell) -> bool:
        return set_aside_corrupt(self._state(cell), self.echo).finished

    def best(self) -> list[tuple[float, float]]:
        """Return (size, budget) of each budget's best size so far, by the mean over seeds."""
        df = collect(self.root)
        check_finished(df, self.root)
        if self.config.metric not in df:
            reason = f"must be one of the columns {', '.join(df.columns)}"
            raise UserError(field="metric", value=self.config.metric, reason=reason)
        df = df[df["final"].astype(bool) & ~is_check(df["kind"]) & df[self.config.metric].notna()]
        means = df.groupby(["budget", "rung"])[self.config.metric].mean().reset_index()
        rows = means.loc[means.groupby("budget")[self.config.metric].idxmin()]
        return [(float(r), float(b)) for r, b in zip(rows["rung"], rows["budget"], strict=True)]


class _Progress:
    """Printer of one line for every run that ends."""

    def __init__(self, jobs: list[tuple[Job, tuple[Cell, ...]]], echo: Echo, slots: int) -> None:
        self.cells = {job.key: cells for job, cells in jobs}
        self.echo, self.slots, self.ended = echo, slots, 0
        self.left = {c.run_id: c.trained_flops for _, cells in jobs for c in cells}
        self.total = len(self.left)
        self.measured: list[tuple[float, float, float | None]] = []  # FLOPs, seconds and goodput of finished runs

    def __call__(self, outcome: Outcome) -> None:
        for run_dir, cell in zip(outcome.job.run_dirs, self.cells[outcome.job.key], strict=True):
            state = RunState.read(run_dir)
            if outcome.reason and not state.given_up and not state.finished:
                continue  # another run of its job was cancelled; this one continues in a new job
            self.ended += 1
            self.left.pop(cell.run_id, None)
            result, summary = state.result, ""
            if result is not None:
                self.measured.append((cell.trained_flops, result.wall_s, result.goodput))
                summary = "" if result.error_mean is None else f"error_mean {result.error_mean:.4f}"
            if state.given_up:
                summary = f"FAILED, {state.given_up['reason']}"
            self.echo(
                f"[{self.ended:3d}/{self.total}] {cell.kind:12s} {cell.budget:8.2e} FLOPs  rung {cell.size:4g}  seed "
                f"{cell.config.seed}  lr {cell.config.optim.peak_lr:.2e}  {summary}  "
                + (f"{result.wall_s:.0f} s  " if result else "")
                + f"({self._time_left()})"
            )

    def _time_left(self) -> str:
        if (times := fit_times(self.measured)) is None:
            return "time left not known yet"
        left = time_left(map(times.seconds, self.left.values()), self.slots)
        return f"{duration_text(left)} left of this stage"
