"""Define `clip-jax fit`, `compare`, `design` and `replicate`: each parses, calls one function, prints."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from clip_jax.errors import UserError

OPTIONS: dict[str, dict[str, Any]] = {  # of `any_table.options.TableFit`
    "x": {"action": "append", "help": "COLUMN, or LAW_COLUMN=COLUMN*UNIT, as flops=gflops*G (default: the law's own)"},
    "y": {"help": "the column to explain (default: error, error_mean or loss, whichever the table has)"},
    "y_is": {"help": "error (default; also a loss), error%%, accuracy or accuracy%%"},
    "where": {"action": "append", "help": "COLUMN=VALUE, these rows only; numbers match as numbers"},
    "frontier": {"help": "all (default), pareto, binned or hull"},
    "loss": {"help": "huber (default), squares or absolute"},
    "space": {"help": "log (default), linear or log1p residuals"},
    "delta": {"type": float, "help": "Huber's delta (default: 0.02; of whole curves 0.001)"},
    "chance": {
        "type": float,
        "help": "error of guessing (default: from evals.csv beside the table); laws with a ceiling stop at it, for "
        "others the rows above it are left out",
    },
    "examples": {
        "type": int,
        "help": "size of the evaluation set; its binomial scatter is the least that intervals assume",
    },
    "fix": {"action": "append", "help": "hold a parameter, NAME=VALUE (none: hold nothing, the default)"},
    "at": {
        "action": "append",
        "help": "a point to forecast: VALUE, or params=1e9,samples_seen=1e10; in `fit` also flops=VALUE: the optimum "
        "of a law of sizes and samples",
    },
    "weights": {"help": "column of weights of the rows, above 0; only their ratios count"},
}
FIT_OPTIONS: dict[str, dict[str, Any]] = {
    "below": {
        "type": float,
        "help": "fit only rows below this many FLOPs (or this value of a law's only column), evaluate on the others",
    },
    "group": {
        "help": "column of groups of rows that scatter together, at least 5; intervals come from a bootstrap of them"
    },
    "under": {"type": float, "help": "weight of rows above the curve, as 0.1 where runs are under-tuned (default: 1)"},
    "flops_per_param_sample": {
        "help": "k of FLOPs = k·params·samples_seen, or params_image=…,params_text=… (default: fitted to the table's "
        "FLOPs, else 6)"
    },
    "then": {"help": "link from loss to error (link-exponential, link-sigmoid): the law is that of the loss"},
    "through": {"help": "with --then: column of the loss"},
    "constant": {
        "action": "append",
        "help": "with --then: column that must hold one value (default: batch_size where the table has it), or none",
    },
    "curves": {
        "help": "laws of whole curves: NAME,NAME,… fits these curves, of column --group, and predicts the others "
        "(default: fits all that have a loss)"
    },
    "warmup_steps": {
        "type": int,
        "help": "laws of whole curves: steps of the linear warm-up where it is not in the table; 0: there was none",
    },
    "peak": {"type": float, "help": "laws of whole curves: learning rate at the end of the warm-up"},
    "reading": {
        "help": "laws of whole curves: the changes of the rate count from first-step (default; the rise of the warm-up "
        "too, as for the published parameters) or after-warmup"
    },
}
ALONE_OPTIONS: dict[str, dict[str, Any]] = {  # in place of --law
    "approach": {
        "type": int,
        "help": "without --law: optimal size and samples from the envelope of training curves (1, one row per "
        "evaluation, run_id or --group) or from IsoFLOP valleys (2, a row per run, flops or budget); "
        "columns as --x=params=COLUMN",
    },
    "tasks": {
        "help": "without --law: column that names the task; all tasks' saturating laws are fitted together "
        "(or --y=COLUMN,COLUMN,… for a column per task)"
    },
}
SHARED = ("x", "y", "y_is", "where", "at", "group")  # of a law, of approaches and of tasks
WITHOUT = (*ALONE_OPTIONS, "chance")  # a law
WITH_ANY = "with --law, --approach or --tasks: "
ROWS = "Messages number rows from 0, the first row below the header; rows left out keep their number."


def add_verbs(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands to the parser."""
    fit = verb("fit", f"Fit laws to a table of runs, from this project or any other. {ROWS}")
    fit.add_argument(
        "table",
        metavar="TABLE.csv",
        help="(.csv, .tsv, .json, .jsonl or .parquet) columns run_id flops params samples_seen and the metric",
    )
    fit.add_argument("--metric", default="error_mean", help="the column to explain (default: error_mean)")
    fit.add_argument(
        "--law",
        help="any table, one law or several to compare: power,saturating,chinchilla … (see --y); "
        "annealing,multi-power: of whole learning curves, columns step and rate",
    )
    fit.add_argument("--out", help="with --law: folder for fit.json and the checklist")
    compare = verb("compare", "Compare two series of runs: ratio of their curves, crossing, compute that one saves.")
    compare.add_argument("first", metavar="FIRST.csv")
    compare.add_argument("second", metavar="SECOND.csv")
    compare.add_argument("--group", default="", help="column of cells or budgets that rows are drawn by first")
    design = verb("design", "Choose the runs to do next for a sharper forecast.")
    design.add_argument("table", metavar="TABLE.csv", help="table of the runs so far")
    design.add_argument(
        "--candidate", action="append", default=[], help="a point that may be run, VALUE[:COST]; repeat"
    )
    design.add_argument("--budget", type=float, default=0.0, help="FLOPs that may be spent (this or --precision)")
    design.add_argument(
        "--precision", type=float, default=0.0, help="half width wanted, e.g. 0.02 for ±2 %% (this or --budget)"
    )
    for parser in (fit, compare, design):
        if parser is not fit:
            parser.add_argument("--law", default="power", help="a law of one column (default: power)")
        for name, options in (OPTIONS | (FIT_OPTIONS | ALONE_OPTIONS if parser is fit else {})).items():
            needs = "with --law: "
            if parser is not fit or name in WITHOUT:
                needs = ""
            elif name in SHARED:
                needs = WITH_ANY
            help_text = needs + options["help"]
            parser.add_argument(f"--{name.replace('_', '-')}", **options | {"help": help_text})
    again = verb(
        "replicate",
        "Repeat a published fit on your copy of its table: expected value, value of this fitter, difference.",
    )
    again.add_argument("name", help="chinchilla, cherti, datacomp, datacomp-runs, gadre, porian, marin, bnsl or all")
    again.add_argument("table", metavar="TABLE.csv", help="its table; for all, a folder of tables")


def run_verb(args: argparse.Namespace) -> None:
    """Run the parsed command and print its result. Raises UserError."""
    from clip_jax.scaling.any_table.fit import TableFit, fit_any

    if args.verb == "replicate":
        from clip_jax.scaling.literature.replicate import replicate, table

        print(table(replicate(args.name, args.table)))
        return
    every = OPTIONS | FIT_OPTIONS | ALONE_OPTIONS
    settings = {n: getattr(args, n) for n in every if getattr(args, n, None) not in (None, "")}
    if settings.get("approach") == 0:
        raise UserError(field="--approach", value=0, reason="must be 1 or 2")
    alone = "approach" in settings or "tasks" in settings or "," in settings.get("y", "")
    if args.verb == "fit" and not args.law and not alone:
        from clip_jax.scaling.report.write import fit_table, text_summary

        if ignored := next((n for n in settings if n != "chance"), "out" if args.out else ""):
            raise UserError(field=f"--{ignored.replace('_', '-')}", reason="ignored without --law")
        print(text_summary(fit_table(args.table, args.metric, args.chance)))
        return
    settings = {{"fix": "fixed"}.get(k, k): tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    if args.law:
        settings["laws"] = tuple(args.law.split(","))
    if "curves" in settings:
        settings["curves"] = tuple(settings["curves"].split(","))
    what = TableFit(**settings)
    if args.verb == "fit":
        print(fit_any(args.table, what, args.out))
        return
    from clip_jax.scaling.any_table.compare import compare_tables, design_from_table

    if len(what.laws) > 1:
        raise UserError(field="--law", value=args.law, reason=f"`clip-jax {args.verb}` takes one law")
    if args.verb == "compare":
        print(compare_tables(args.first, args.second, what))
    else:
        print(design_from_table(args.table, what, args.candidate, budget=args.budget, precision=args.precision))
