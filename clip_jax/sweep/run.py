"""A sweep from plan to report. Every stage can be run again: it does what is missing and repeats nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_jax.config import SweepConfig, UserError
from clip_jax.config_io import to_dict
from clip_jax.sweep.collect import collect, curves, lr_evidence
from clip_jax.sweep.launch.local import Job, LocalLauncher, Outcome, train_command
from clip_jax.sweep.plan import Cell, Plan, make_cell, make_plan
from clip_jax.train.record import flat, read_json, write_json

if TYPE_CHECKING:
    import pandas as pd

Echo = Callable[[str], None]
IGNORED = ("slots", "gflops_per_second", "base.wandb")  # change no number of any run


def plan_of(config: SweepConfig) -> Plan:
    """The plan, with the number of training pairs looked up where it limits the epochs."""
    records = None
    if config.base.data.source != "scenes":
        from clip_jax.data.sources import open_source

        records = len(open_source(config.base.data, "train", config.base.model.image.image_size))
    elif config.base.data.unique_samples:
        records = config.base.data.unique_samples
    return make_plan(config, records)


def run_sweep(config: SweepConfig, sweep_dir: str | Path, echo: Echo = print, launcher: Any = None) -> dict[str, Any]:
    """Train the family and report: cells, then second seeds and learning-rate checks at each budget's best.

    Args:
      config: the family.
      sweep_dir: made if missing; the same call on it completes what is missing.
      echo: where progress lines go.
      launcher: anything with ``run(jobs, report)``; `LocalLauncher` by default.

    Returns:
      The law, as in ``report/law.json``.

    Raises:
      UserError: the directory belongs to another sweep; or nothing finished.
    """
    root = Path(sweep_dir)
    plan = plan_of(config)
    _claim(config, root)
    echo(plan.table())
    sweep = _Sweep(config, root, list(plan.cells), echo, launcher or LocalLauncher(config.slots))
    sweep.save()
    sweep.train(plan.kept)
    # a second seed may show that another size is best, so look again until the best has all its seeds
    for _ in range(len(config.rungs)):
        extra = [
            make_cell(config, rung, budget, seed, kind="second_seed")
            for rung, budget in sweep.best()
            for seed in config.seeds_at_best
        ]
        if not sweep.train(extra):
            break
    checks = [
        make_cell(config, rung, budget, config.seeds[0], kind="lr_check", lr_factor=factor)
        for rung, budget in sweep.best()
        for factor in config.lr_checks
    ]
    sweep.train(checks)
    return report(root, echo)


def report(sweep_dir: str | Path, echo: Echo = print) -> dict[str, Any]:
    """Collect what is there, fit, write ``report/`` and print the summary. Raises UserError without a sweep."""
    from clip_jax.config_io import from_dict
    from clip_jax.scaling.report import text_summary, write_report

    root = Path(sweep_dir)
    df = collect(root)
    config = from_dict(SweepConfig, read_json(root / "sweep.json") or {})
    _needs_finished(df, root)
    law = write_report(
        df,
        root / "report",
        metric=config.metric,
        curves=curves(root, config.metric),
        lr_evidence=lr_evidence(df, config.metric),
        title=config.name.replace("_", " "),
    )
    echo("\n" + text_summary(law) + f"\n\n  {root / 'report' / 'report.html'}")
    failed = df[df["state"] == "failed"]
    for row in failed.to_dict("records"):
        echo(f"  left out, failed: {row['run_id']}: {row['reason']}")
    return law


def _needs_finished(df: pd.DataFrame, root: Path) -> None:
    if not df["final"].any():
        first = df["reason"].iloc[0]
        raise UserError(f"{root}: no run has finished; the first: {first}")


def _claim(config: SweepConfig, root: Path) -> None:
    """Write sweep.json once; refuse a directory of another sweep."""
    there = read_json(root / "sweep.json")
    mine = to_dict(config)
    if there is not None:
        old, new = flat(there), flat(mine)
        for name in sorted(old.keys() | new.keys()):
            if name not in IGNORED and old.get(name) != new.get(name):
                raise UserError(
                    f"{root}: belongs to another sweep ({name} is {old.get(name)!r} there and {new.get(name)!r} here); "
                    f"use another directory"
                )
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{root}: cannot make this directory ({error.strerror})") from None
    write_json(root / "sweep.json", mine)


class _Sweep:
    """The cells known so far, and what it takes to run them."""

    def __init__(self, config: SweepConfig, root: Path, cells: list[Cell], echo: Echo, launcher: Any) -> None:
        self.config, self.root, self.cells, self.echo, self.launcher = config, root, cells, echo, launcher
        self.done = 0
        self.known = {c.run_id for c in cells if c.reason is None}

    def run_dir(self, cell: Cell) -> Path:
        return self.root / "runs" / cell.run_id

    def save(self) -> None:
        write_json(self.root / "plan.json", {"cells": Plan(self.config, tuple(self.cells)).rows()})

    def train(self, cells: list[Cell]) -> int:
        """Run those that are missing, cheapest first; returns how many were new to the sweep."""
        new = [c for c in cells if c.run_id not in self.known]
        self.cells += new
        self.known |= {c.run_id for c in new}
        if new:
            self.save()
        missing = [c for c in cells if not (self.run_dir(c) / "result.json").exists()]
        if not missing:
            return len(new)
        # what fails, fails early: small budgets before large ones, cells of one shape back to back
        missing.sort(key=lambda c: (c.budget, c.rung, c.config.seed))
        jobs, by_dir = [], {}
        for cell in missing:
            run_dir = self.run_dir(cell)
            run_dir.mkdir(parents=True, exist_ok=True)
            write_json(run_dir / "request.json", to_dict(cell.config))
            jobs.append(Job(run_dir, train_command(run_dir / "request.json", run_dir)))
            by_dir[run_dir] = cell
        began, total, left = time.monotonic(), len(jobs), {c.run_id: c.flops for c in missing}
        all_flops = sum(left.values())
        ended = 0

        def report(outcome: Outcome) -> None:
            nonlocal ended
            ended += 1
            cell = by_dir[outcome.job.run_dir]
            left.pop(cell.run_id, None)
            share = 1 - sum(left.values()) / all_flops
            eta = (time.monotonic() - began) * (1 - share) / max(share, 1e-9)
            result = read_json(outcome.job.run_dir / "result.json") or {}
            found = result.get("error_mean")
            said = "" if found is None else f"error_mean {found:.4f}"
            if outcome.code:
                said = f"FAILED, {outcome.reason}"
            self.echo(
                f"[{ended:3d}/{total}] {cell.kind:11s} {cell.budget:8.2e} FLOPs  rung {cell.rung:4g}  seed "
                f"{cell.config.seed}  lr {cell.config.optim.peak_lr:.2e}  {said}  {outcome.seconds:.0f} s  "
                f"({eta / 60:.0f} min left of this stage)"
            )

        self.launcher.run(jobs, report)
        return len(new)

    def best(self) -> list[tuple[float, float]]:
        """(rung, budget) of each budget's best size so far, by the mean over seeds."""
        df = collect(self.root)
        _needs_finished(df, self.root)
        if self.config.metric not in df:
            raise UserError(f"metric={self.config.metric!r}: no such column; there are {', '.join(df.columns)}")
        df = df[df["final"].astype(bool) & (df["kind"] != "lr_check") & df[self.config.metric].notna()]
        means = df.groupby(["budget", "rung"])[self.config.metric].mean().reset_index()
        rows = means.loc[means.groupby("budget")[self.config.metric].idxmin()]
        return [(float(r), float(b)) for r, b in zip(rows["rung"], rows["budget"], strict=True)]
