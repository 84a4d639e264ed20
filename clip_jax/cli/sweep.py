"""`clip-jax sweep ACTION`: each action parses, calls one function, prints."""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clip_jax.cli.config import read_config
from clip_jax.cli.log import terminal_columns
from clip_jax.cli.parser import CommandParser
from clip_jax.config.sweep import SweepConfig
from clip_jax.errors import UserError
from clip_jax.storage.paths import as_path
from clip_jax.sweep.search.config import SearchConfig

ACTIONS = {
    "plan": "Print every cell and its cost; nothing runs.",
    "run": "Train what is missing, fit, report. Fields: --base.seed=1 --engine=slurm --max_concurrent_runs=8 …",
    "preflight": "Ahead-of-time compile every training step for a target topology (no hardware needed); "
    "report memory and estimated time.",
    "search": "Search hyperparameters of one model and keep the best setting. Fields as for run.",
    "next": "Propose the next runs that narrow the forecast at a compute budget.",
    "forecast": "Preregister forecasts of untrained FLOPs budgets; run again without --at to grade them.",
    "rules": "Fit power laws in width and budget to the best learning rate, weight decay, warm-up and batch size.",
    "status": "Show the state of each run.",
    "logs": "Print the log of a run's newest attempt.",
    "cancel": "Stop runs and exclude them; without RUN, all that are not finished.",
    "retry": "Requeue failed and cancelled runs.",
    "collect": "Write runs.csv, runs.parquet and evals.csv.",
}
CONFIGURED = ("plan", "run", "preflight", "search")  # take --config and its fields


def add_actions(parent: argparse._SubParsersAction[CommandParser], verb: Callable[..., CommandParser]) -> None:
    """Add the actions to the command line's ``sweep``."""
    for name, text in ACTIONS.items():
        action = verb(name, text, parent)
        action.add_argument("--config", required=name in CONFIGURED, help="a .py, .yaml or .json file")
        if name in CONFIGURED:
            action.configs = ("search",) if name == "search" else ("sweep",)
        action.add_argument("--dir", help="sweep directory, or gs://BUCKET/…; default runs/NAME")
        if name not in (*CONFIGURED, "logs", "cancel", "retry"):
            action.add_argument("sweep_dir", metavar="SWEEP_DIR", nargs="?", help="the same as --dir")
        if name == "run":
            action.add_argument("--dry-run", action="store_true", help="print what would be submitted to the engine")
        elif name == "preflight":
            action.add_argument(
                "--target", default="here", help="here (default), a TPU slice: v5p:8x8x16, or GPUs: h100:8, h100:4x8"
            )
            action.add_argument("--explain", action="store_true", help="say what takes the time of each step")
        elif name == "next":
            action.add_argument("--at", type=float, required=True, metavar="FLOPS", help="where to forecast")
            action.add_argument("--budget", type=float, default=0.0, metavar="FLOPS", help="FLOPs to spend; or")
            action.add_argument("--precision", type=float, default=0.0, help="half width to reach, 0.02 for ±2 %%")
            action.add_argument("--law", default="power", help="law of compute (default: power)")
        elif name == "forecast":
            action.add_argument(
                "--at",
                type=_flops,
                metavar="FLOPS",
                help="budgets, as 2e12,1e13; without it, grade what is registered",
            )
            action.add_argument(
                "--metrics",
                type=_names,
                metavar="COLUMNS",
                default=(),
                help="as error_mean,val_loss (default: the sweep's)",
            )
            action.add_argument(
                "--through", metavar="LOSS", default="", help="forecast each error through this loss too: val_loss"
            )
        elif name == "status":
            action.add_argument(
                "--watch", type=float, nargs="?", const=5.0, metavar="SECONDS", help="repeat until the driver has ended"
            )
            action.add_argument("--all", action="store_true", help="a line for each finished and waiting run too")
        elif name == "logs":
            action.add_argument("run", metavar="RUN", help="its id, or a prefix of it")
        elif name in ("cancel", "retry"):
            action.add_argument("runs", metavar="RUN", nargs="*", help="ids, or prefixes of them")


def _flops(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.strip("[]()").split(","))
    except ValueError:
        values = ()
    if not values or not all(0 < value < math.inf for value in values):
        raise argparse.ArgumentTypeError(f"{text!r} must be FLOPs above 0, as 2e12,1e13")
    return values


def _names(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} must be columns, as error_mean,val_loss")
    return names


def _sweep_dir(args: argparse.Namespace, config: SweepConfig | SearchConfig | None) -> Path:
    folders = [path for path in (args.dir, getattr(args, "sweep_dir", None)) if path]
    if len(folders) > 1:
        raise UserError(field="--dir", value=args.dir, reason=f"the directory is given twice, also as {folders[1]}")
    if folders:
        return as_path(folders[0])
    if config is None:
        reason = "one of them must be given"
        raise UserError(field="--dir, --config", reason=reason, hint="--dir=SWEEP_DIR, or --config=sweeps/….py")
    return Path("runs") / config.name


def run_action(args: argparse.Namespace, overrides: dict[str, str]) -> None:
    """Run the parsed action.

    Raises:
      UserError: as the action's function.
    """
    cls: Any = SearchConfig if args.action == "search" else SweepConfig
    config: Any = read_config(cls, args.config, overrides) if args.config else None
    root = _sweep_dir(args, config)
    if isinstance(config, SearchConfig):
        from clip_jax.sweep.search_driver import run_search

        run_search(config, root, echo=lambda line: print(line, flush=True))
    elif args.action in ("plan", "run", "preflight"):
        assert config is not None
        _plan_or_run(args, config, root)
    elif args.action == "next":
        from clip_jax.sweep.analysis.next_runs import next_runs

        print(next_runs(root, args.at, budget=args.budget, half_width=args.precision, law=args.law)[1])
    elif args.action == "forecast":
        from clip_jax.sweep.analysis.forecast import grade_forecast, register_forecast

        if args.at is None and (args.metrics or args.through):
            reason = "belongs to a new forecast"
            raise UserError(field="--metrics, --through", reason=reason, hint="--at=FLOPS registers one")
        print(grade_forecast(root) if args.at is None else register_forecast(root, args.at, args.metrics, args.through))
    elif args.action == "rules":
        from clip_jax.sweep.analysis.hyperparameter_scaling import rules_text

        print(rules_text(root))
    elif args.action == "status":
        _status(args, root)
    elif args.action == "collect":
        from clip_jax.sweep.collect import collect, several_data

        df = collect(root)
        print(f"{len(df)} runs, {int(df['final'].sum())} finished: {root / 'runs.csv'}, {root / 'runs.parquet'}")
        if (note := several_data(df)) is not None:
            print(note)
    else:
        from clip_jax.sweep import control

        if args.action == "logs":
            print(control.log_of(root, args.run))
        else:
            print((control.cancel if args.action == "cancel" else control.retry)(root, args.runs))


def _plan_or_run(args: argparse.Namespace, config: SweepConfig, root: Path) -> None:
    from clip_jax.sweep.driver import render, run_sweep
    from clip_jax.sweep.plan import plan_of, training_pairs
    from clip_jax.sweep.run_times import times_in

    if args.action == "plan":
        print(plan_of(config).table(times_in(root), training_pairs(config)))
    elif args.action == "preflight":
        from clip_jax.sweep.plan import setting_checks
        from clip_jax.sweep.preflight.preflight import preflight

        name = (lambda rung: config.models[int(rung)]) if config.models else (lambda rung: f"rung {rung:g}")
        kept = plan_of(config).kept
        kept += [c for cell in kept for c in setting_checks(config, cell.size, cell.budget) if c.kind == "batch_check"]
        runs = [(name(c.size), c.config, c.flops) for c in kept if c.reason is None]
        speed, price = config.gflops_per_second * 1e9, config.resources.price_per_device_hour or None
        verdicts = preflight(runs, args.target, flop_per_second=speed, price=price, explain=args.explain, echo=print)
        if not all(v.fits for v in verdicts):
            reason = f"{sum(not v.fits for v in verdicts)} of {len(verdicts)} shapes cannot run on it"
            raise UserError(field="--target", value=args.target, reason=reason)
    elif args.dry_run:
        print(render(config, root))
    else:
        run_sweep(config, root, echo=lambda line: print(line, flush=True))


def _status(args: argparse.Namespace, root: Path) -> None:
    from clip_jax.sweep.control import config_of, engine_of
    from clip_jax.sweep.status import status_table, watch

    config = config_of(root)
    price, slots = config.resources.price_per_device_hour, config.max_concurrent_runs
    engine, note = None, ""
    try:
        engine = engine_of(root)
    except UserError as error:  # for example an engine of another machine
        note = f"\n  not known which jobs are queued: {error}"

    law = _law_so_far(root, config)
    if args.watch is None:
        print(
            status_table(root, engine, price, slots=slots, columns=terminal_columns(), every_run=args.all, law=law)
            + note
        )
    else:

        def echo(text: str) -> None:
            print(text + note, flush=True)

        watch(root, engine, price, args.watch, echo, slots=slots, columns=terminal_columns, every_run=args.all, law=law)


def _law_so_far(root: Path, config: SweepConfig | SearchConfig) -> Callable[[int], str] | None:
    """Return the function that fits the law again when the number of finished runs has changed; None for a search."""
    if not isinstance(config, SweepConfig):
        return None

    @functools.cache
    def law(finished: int) -> str:
        import jax

        from clip_jax.sweep.analysis.law_so_far import law_so_far

        jax.config.update("jax_platforms", "cpu")  # the accelerators of this machine belong to the runs
        return law_so_far(root, config.metric)

    return law
