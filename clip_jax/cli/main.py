"""`clip-jax VERB …`: each verb parses, calls one function, prints. A user's mistake gives one line and exit code 2."""

from __future__ import annotations

import sys
from typing import get_args

from clip_jax.interrupts import LINE, listen

if sys.argv[0].endswith("clip-jax"):  # the console script; before the slow imports
    listen()

import argparse
import dataclasses
import logging
import os
import select
import traceback
from collections.abc import Sequence
from pathlib import Path

from clip_jax import __version__, exit_codes
from clip_jax.cli import data
from clip_jax.cli.completion import SHELLS, completion
from clip_jax.cli.config import config_text, read_config
from clip_jax.cli.host_memory import keep_freed_memory
from clip_jax.cli.init import EXAMPLES, write_example
from clip_jax.cli.log import LOGGER, terminal_columns, terminal_log
from clip_jax.cli.parser import MODEL, CommandParser
from clip_jax.cli.scaling import add_verbs, run_verb
from clip_jax.cli.sweep import add_actions, run_action
from clip_jax.config import DistributedConfig, RunConfig
from clip_jax.config.io import from_fields, load, run_id
from clip_jax.distributed.cluster import use_gpu_memory
from clip_jax.distributed.mesh import enable_compile_cache
from clip_jax.distributed.processes import LostProcess, initialized
from clip_jax.errors import UserError, between
from clip_jax.storage.lock import Busy
from clip_jax.storage.paths import BucketUnavailable, as_path, disk_error, exists
from clip_jax.storage.records import Measurement
from clip_jax.train.vmapped.compatibility import Form


def _overrides(extra: list[str]) -> dict[str, str]:
    """Parse ``--field.name=value`` or ``--field.name value`` for each field of the config."""
    overrides, rest = {}, list(extra)
    while rest:
        item = rest.pop(0)
        name, equals, value = item.partition("=")
        if not name.startswith("--") or name == "--":
            raise UserError(field=item, reason="unknown argument", hint="fields are set as --name=value")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(field=item, reason="needs a value", hint=f"as {item}=VALUE")
            value = rest.pop(0)
        overrides[name[2:]] = value
    return overrides


def make_parser() -> CommandParser:
    """Return the parser of every command."""
    parser = CommandParser(prog="clip-jax", description="Scaling-law experiments with CLIP.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"clip-jax {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=CommandParser)

    def verb(name: str, text: str, parent: argparse._SubParsersAction[CommandParser] = verbs) -> CommandParser:
        return parent.add_parser(name, help=text, description=text, allow_abbrev=False)

    init = verb("init", "Write example configs to begin with, commented.")
    init.add_argument(
        "name", metavar="EXAMPLE", choices=EXAMPLES, help=", ".join(f"{k}: {v}" for k, (_, v) in EXAMPLES.items())
    )
    init.add_argument("dir", metavar="DIR", help="folder to write to; created if missing")
    train = verb("train", "Train one model, or resume it. Fields: --optim.peak_lr=1e-3 …")
    train.configs = ("run", "distributed")
    train.add_argument("--config", required=True, help="a .py, .yaml or .json file, such as a run's config.json")
    train.add_argument("--dir", help="run directory; default runs/RUN_ID")
    train.add_argument("--quiet", action="store_true", help="no lines at the start, no progress line")
    train.add_argument("--until", type=int, metavar="STEP", help="pause at this step with a checkpoint, to be resumed")
    train.add_argument("--trunk", metavar="DIR", help="take the first steps from this run at a constant learning rate")
    train.add_argument("--branch-at", type=int, metavar="STEP", help="with --trunk: its checkpoint to begin with")
    train.add_argument("--keep", type=_steps, metavar="STEPS", default=(), help="checkpoints to keep, such as 100,300")
    train.add_argument("--profile", metavar="STEPS", help="trace FIRST:LAST, or this many steps after a warm-up")
    runs = verb("runs", "Find the runs in a folder.")
    listed = verb(
        "list",
        "Show the state of each run below a folder.",
        runs.add_subparsers(dest="action", required=True, parser_class=CommandParser),
    )
    listed.add_argument("dir", metavar="DIR", nargs="?", default="runs", help="folder (default: runs)")
    several = verb("family", "Train runs that differ in learning rate, weight decay or seed in one vmapped program.")
    several.add_argument("dirs", metavar="RUN_DIR", nargs="+", help="directories that hold request.json or config.json")
    several.add_argument("--form", default="vmap", choices=get_args(Form), help="batched kernels, or one by one")
    several.add_argument("--quiet", action="store_true", help="no lines at the start, no progress line")
    several.add_argument("--measure", metavar="FILE.json", help="train nothing; time it against separate runs")
    sweep = verb("sweep", "Plan, run and monitor a sweep.")
    add_actions(sweep.add_subparsers(dest="action", required=True, parser_class=CommandParser), verb)
    add_verbs(verb)
    report = verb("report", "Collect a sweep and write its report again, or write the report of a table of runs.")
    report.add_argument("dir", metavar="SWEEP_DIR|TABLE.csv")
    report.add_argument("--out", help="with a table: folder of the report (default: report/ beside it)")
    report.add_argument("--metric", help="with a table: the column to explain (default: error_mean)")
    report.add_argument("--chance", type=float, help="with a table: chance error (default: from evals.csv beside it)")
    fields = verb("config", "Print the config fields with their types, choices, defaults and meanings.")
    fields.add_argument(
        "group", metavar="GROUP", nargs="?", help="run, sweep, search, distributed, optim, …; default all"
    )
    fields.add_argument("--markdown", action="store_true", help="as a page of tables")
    count = verb("flops", "Count parameters and forward GFLOPs per pair (2 per multiply-add) of named models.")
    count.add_argument("names", metavar="NAME", nargs="+", help="a preset, or rung:NUMBER of the ladder")
    count.add_argument("--no-xla", action="store_true", help="skip XLA's own count, the slow part")
    measure = verb("eval", "Evaluate a model on a suite; without --suite, a run on its own tasks.")
    measure.add_argument("model", metavar="MODEL", help=MODEL)
    measure.add_argument("--suite", help="paper27, poster, or a JSON file that lists sets")
    measure.add_argument("--data", help="folder of the sets")
    measure.add_argument("--out", help="results and cached features; default runs/eval/MODEL")
    measure.add_argument("--tasks", help=f"comma-separated, of {TASKS}; default all that a set supports")
    measure.add_argument("--dtype", default="float32", help="dtype of the computation: float32, float16 or bfloat16")
    measure.add_argument("--limit", type=int, default=0, help="maximum examples per split, spread evenly; 0 is all")
    label = verb("classify", "Classify images zero-shot.")
    label.add_argument("images", metavar="IMAGE", nargs="+")
    label.add_argument("--labels", nargs="+", required=True, metavar="LABEL", help='"a dog" "a cat" …')
    label.add_argument("--model", required=True, help=MODEL)
    label.add_argument("--template", action="append", help='default "a photo of {c}."; repeat to average several')
    records = verb("data", "Inspect and build data sets.")
    data.add_actions(records.add_subparsers(dest="action", required=True, parser_class=CommandParser), verb)
    out = verb("export", "Write a model's weights for open_clip or transformers.")
    out.add_argument("model", metavar="MODEL", help=MODEL)
    out.add_argument("dir", metavar="OUT_DIR")
    out.add_argument("--layout", default="open_clip", choices=("open_clip", "transformers"))
    out.add_argument("--license", default="", metavar="NAME", help="license of the weights, for the model card, as mit")
    up = verb("push", "Upload exported weights to the Hugging Face hub, as you are logged in there or by HF_TOKEN.")
    up.add_argument("dir", metavar="DIR", help="what clip-jax export wrote")
    up.add_argument("repo", metavar="OWNER/NAME", help="repository; created if missing")
    up.add_argument("--private", action="store_true", help="create it as a private one")
    verb("doctor", "Show versions, devices, caches, disk and tools of clusters, as a bug report needs them.")
    shell = verb(
        "completion", 'Print a script by which a shell completes commands: eval "$(clip-jax completion bash)".'
    )
    shell.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))
    return parser


def _steps(text: str) -> list[int]:
    return [int(step) for step in text.split(",")]


TASKS = "zeroshot_classification, linear_probe, few_shot, knn, zeroshot_retrieval"


def _train(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    launch = {name: overrides.pop(name) for name in list(overrides) if name.startswith("distributed.")}
    distributed = from_fields(DistributedConfig, launch, "distributed.")
    config = read_config(RunConfig, args.config, overrides)
    if (args.trunk is None) != (args.branch_at is None):
        missing = "--trunk" if args.trunk is None else "--branch-at"
        raise UserError(field=missing, reason="missing: --trunk and --branch-at belong together")
    if args.until is not None and not config.epochs:
        between("--until", args.until, 1, config.steps)
    with initialized(distributed, on_error=_tell):  # before anything initializes the devices
        from clip_jax.train.branch import Branch
        from clip_jax.train.determinism import set_deterministic
        from clip_jax.train.inputs import resolve_epochs
        from clip_jax.train.profiler import parse_window
        from clip_jax.train.run_result import UnfinishedRun
        from clip_jax.training import train_run

        set_deterministic(config)
        config = resolve_epochs(config, as_path(args.dir) if args.dir else None)
        run_dir = as_path(args.dir) if args.dir else Path("runs") / run_id(config)
        window = parse_window(args.profile, config.steps) if args.profile else None
        branch = Branch(args.trunk, args.branch_at) if args.trunk else None
        result = train_run(
            config,
            run_dir,
            stop_after=args.until,
            progress=not args.quiet,
            profile=window,
            branch=branch,
            keep=args.keep,
        )
    if isinstance(result, UnfinishedRun):
        reason = result.exit_reason
        if result.step == args.until:
            print(f"paused at step {args.until}: {run_dir}")
            return exit_codes.FINISHED
        print(
            f"clip-jax: stopped at step {result.step} ({reason}); the same command resumes from here", file=sys.stderr
        )
        return exit_codes.INTERRUPTED if "SIGINT" in reason else exit_codes.STOPPED
    print(f"{result.state}: {run_dir}")
    if result.broken_records:
        print(f"  {result.broken_records} corrupt records were skipped")
    _print_evals(result.evals)
    return exit_codes.FINISHED


def _family(args: argparse.Namespace) -> int:
    dirs = [as_path(d) for d in args.dirs]
    files = [next((f for f in (d / "request.json", d / "config.json") if exists(f)), d / "request.json") for d in dirs]
    from clip_jax.train.determinism import set_deterministic
    from clip_jax.train.inputs import resolve_epochs

    configs = [load(RunConfig, file) for file in files]
    for config in configs:
        set_deterministic(config)
    configs = [resolve_epochs(config, d) for config, d in zip(configs, dirs, strict=True)]
    if args.measure:
        from clip_jax.storage.json_files import write_json
        from clip_jax.train.vmapped.benchmark import measure

        gain = measure(configs, args.form)
        write_json(as_path(args.measure), dataclasses.asdict(gain))
        print(gain.table())
        return exit_codes.FINISHED
    from clip_jax.training import train_runs

    results = train_runs(configs, dirs, progress=not args.quiet, form=args.form)
    for run_dir, result in zip(dirs, results, strict=True):
        detail = f": {result.exit_reason}" if result.state != "finished" else ""
        print(f"{result.state}: {run_dir}{detail}", file=sys.stderr if detail else sys.stdout)
    states, reasons = {r.state for r in results}, [r.exit_reason for r in results]
    if "stopped" in states:
        print("clip-jax: stopped; the same command resumes from here", file=sys.stderr)
        return exit_codes.INTERRUPTED if any("SIGINT" in r for r in reasons) else exit_codes.STOPPED
    return exit_codes.MISTAKE if "failed" in states else exit_codes.FINISHED


def _print_evals(rows: Sequence[Measurement]) -> None:
    if rows:
        print(f"  {'task':22s} {'metric':24s} {'value':>8}  {'95 % interval':>16}  {'chance':>7}  examples")
    for r in rows:
        low, high = r.get("low"), r.get("high")
        interval = "" if low is None or high is None else f"[{low:.3f}, {high:.3f}]"
        value, chance = ("" if x is None else f"{x:.4f}" for x in (r["value"], r["chance"]))
        examples = "" if r["examples"] is None else f"{r['examples']:d}"
        print(f"  {r['task']:22s} {r['metric']:24s} {value:>8}  {interval:>16}  {chance:>7}  {examples:>8}")


def _flops(args: argparse.Namespace) -> None:
    from clip_jax import flops
    from clip_jax.config.presets import ladder, preset

    models = []
    for name in args.names:
        if name.startswith("rung:"):
            try:
                models.append((name, ladder(float(name[5:]))))
            except ValueError as error:
                raise UserError(field=name, reason=str(error)) from None
        else:
            models.append((name, preset(name)))
    if not args.no_xla:
        LOGGER.info("XLA counts the FLOPs of %s, too; --no-xla skips it", ", ".join(args.names))
    head = "model              parameters       image        text   GFLOPs/pair    image     text"
    print(head + ("" if args.no_xla else "  XLA's count"))
    for name, model in models:
        p, f = flops.params(model), flops.flops_per_sample(model)
        line = f"{name:16s} {p.total:12,d} {p.image:11,d} {p.text:11,d}  "
        line += f"{_giga(f.total):>12} {_giga(f.image):>8} {_giga(f.text):>8}"
        if not args.no_xla:
            from clip_jax.models.count import xla_flops

            xla_count = xla_flops(model)
            line += f"  {_giga(xla_count):>9} ({xla_count / f.total:.3f}×)"
        print(line)


def _giga(count: float) -> str:
    return f"{count / 1e9:.2f}" if count >= 1e9 else f"{count / 1e9:.3g}"


def _eval(args: argparse.Namespace) -> None:
    if args.suite:
        from clip_jax.evals import benchmark
        from clip_jax.evals.results import table
        from clip_jax.inference import load_model

        out = args.out or Path("runs") / "eval" / args.model.strip("/").replace("/", "_").replace(":", "_")
        tasks = tuple(args.tasks.split(",")) if args.tasks else benchmark.TASKS
        benchmark.present_sets(args.suite, args.data, tasks)  # mistakes before the slow part
        model = load_model(args.model, compute_dtype=args.dtype)
        rows = benchmark.run_suite(model, args.suite, out, data=args.data, tasks=tasks, limit=args.limit, echo=print)
        print(table(rows))
        print(f"{out}/results.json, {out}/results.csv")
        return
    for name, default in (("data", None), ("out", None), ("tasks", None), ("limit", 0), ("dtype", "float32")):
        if getattr(args, name) != default:
            raise UserError(field=f"--{name}", reason="would be ignored without --suite")
    from clip_jax.evals.in_training import make_evaluator
    from clip_jax.train.evaluate import evaluate_run

    _print_evals(evaluate_run(args.model, make_evaluator))


def _classify(args: argparse.Namespace) -> None:
    from clip_jax.inference import load_model

    model = load_model(args.model)
    shares = model.classify([Path(i) for i in args.images], args.labels, args.template or ("a photo of {c}.",))
    for image, row in zip(args.images, shares, strict=True):
        best = sorted(zip(row.tolist(), args.labels, strict=True), reverse=True)[:5]
        print(f"{image}  " + "  ".join(f"{label} {share:.1%}" for share, label in best))


def _export(args: argparse.Namespace) -> None:
    from clip_jax.inference import export

    export(args.model, args.dir, args.layout, license_id=args.license)
    print(args.dir)


def _push(args: argparse.Namespace) -> None:
    from clip_jax.pretrained.hub import push

    print(push(Path(args.dir), args.repo, private=args.private))


def _runs(args: argparse.Namespace) -> None:
    from clip_jax.sweep.run_list import list_runs

    print(list_runs(args.dir, terminal_columns()))


def _doctor(args: argparse.Namespace) -> None:
    from clip_jax.cli.doctor import doctor

    print(doctor())


def _report(args: argparse.Namespace) -> None:
    from clip_jax.scaling.data.table_files import is_table_name
    from clip_jax.sweep.analysis.report import report, report_of_table

    enable_compile_cache()
    if (is_table_name(args.dir) and not as_path(args.dir).is_dir()) or Path(args.dir).is_file():
        report_of_table(Path(args.dir), args.out, args.metric or "error_mean", print, chance=args.chance)
        return
    for name in ("out", "metric", "chance"):
        if (value := getattr(args, name)) is not None:
            raise UserError(field=f"--{name}", value=value, reason="would be ignored, a sweep has its own")
    report(args.dir, print)


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code (`exit_codes`)."""
    try:
        with terminal_log():
            code = _run(argv)
        sys.stdout.flush()  # so that a closed pipe raises here, not when the interpreter exits
    except BrokenPipeError:
        if not _reader_gone():
            raise
        return exit_codes.UNREAD
    except (Exception, KeyboardInterrupt) as error:
        if _known(error) is None:
            raise
        return _tell(error)
    return code


def _known(error: BaseException) -> BaseException | None:
    """Return the error that ended the command if it is no bug, else None; a full disk or memory gives a UserError."""
    if isinstance(error, (UserError, KeyboardInterrupt, LostProcess, BucketUnavailable)):
        return error
    if (disk_full := disk_error(error)) is not None:
        return disk_full
    jax_memory = type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" in str(error)
    if isinstance(error, MemoryError) or jax_memory:
        detail = (str(error).splitlines() or [""])[0][:200]
        hint = "a smaller batch_size, microbatch_size or model needs less"
        return UserError(reason=f"out of memory ({detail})" if detail else "out of memory", hint=hint)
    return None


def _fit(args: argparse.Namespace) -> None:
    enable_compile_cache()
    run_verb(args)


def _run(argv: list[str] | None) -> int:
    args, extra = make_parser().parse_known_args(argv)
    if getattr(args, "quiet", False):
        LOGGER.setLevel(logging.WARNING)
    overrides = _overrides(extra)
    if args.verb in ("train", "family", "eval"):
        keep_freed_memory()
        use_gpu_memory()
    if args.verb == "train":
        return _train(args, overrides)
    if args.verb == "family":
        return _family(args)
    if args.verb == "sweep":
        run_action(args, overrides)
    else:
        {
            **dict.fromkeys(("fit", "compare", "design", "replicate"), _fit),
            "report": _report,
            "config": lambda args: print(config_text(args.group, markdown=args.markdown)),
            "init": lambda args: print(write_example(args.name, Path(args.dir))),
            "flops": _flops,
            "eval": _eval,
            "classify": _classify,
            "data": lambda args: data.run_action(args, overrides),
            "export": _export,
            "push": _push,
            "runs": _runs,
            "doctor": _doctor,
            "completion": lambda args: print(completion(make_parser(), args.shell)),
        }[args.verb](args)
    return exit_codes.FINISHED


def _reader_gone() -> bool:
    """Return whether the reader of our output has stopped (``| head``); if so, discard what could not be written."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    if not output.poll(0):
        return False  # another pipe broke
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _tell(error: BaseException) -> int:
    """Print what ended the command; return its exit code."""
    error = _known(error) or error
    if isinstance(error, UserError):
        print(f"clip-jax: {error}", file=sys.stderr)
        return exit_codes.STOPPED if isinstance(error, Busy) else exit_codes.MISTAKE
    if isinstance(error, KeyboardInterrupt):
        print(LINE, file=sys.stderr)
        return exit_codes.INTERRUPTED
    if isinstance(error, LostProcess):
        print(f"clip-jax: {error}; the same command resumes from the last checkpoint", file=sys.stderr)
        return exit_codes.STOPPED
    if isinstance(error, BucketUnavailable):
        message = UserError(field=error.filename, reason=error.strerror, hint="run the same command again later")
        print(f"clip-jax: {message}", file=sys.stderr)
        return exit_codes.STOPPED
    traceback.print_exception(error)
    return 1


def command() -> None:
    """Run the console script."""
    sys.exit(main())
