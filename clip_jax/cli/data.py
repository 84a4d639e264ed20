"""Define `clip-jax data ACTION`: each action parses, calls one function, prints."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from clip_jax.cli.parser import MODEL, CommandParser
from clip_jax.config.io import from_fields
from clip_jax.config.sweep import IndexConfig
from clip_jax.errors import UserError


def add_actions(parent: argparse._SubParsersAction[CommandParser], verb: Callable[..., CommandParser]) -> None:
    """Add the actions to the command line's ``data``."""
    same = verb("overlap", "Find evaluation images with a near-duplicate in the training data.", parent)
    same.add_argument(
        "train", metavar="TRAIN", help="folder of shards, captioned images, class folders or idx files; its train split"
    )
    same.add_argument("evals", metavar="EVAL", help="the same; its test split")
    same.add_argument("--model", help="also report zero-shot accuracy with and without them: " + MODEL)
    same.add_argument("--max-distance", type=int, default=6, help="bits of 64 that may differ (default: 6)")
    same.add_argument("--pair", default="name", help="classnames.txt and class folders pair by name (default) or place")
    drawn = verb("pictures", "Draw pictures with captions from the rendered world, to try what needs pictures.", parent)
    drawn.add_argument("out", metavar="OUT", help="folder of the pictures and captions.csv; created if missing")
    drawn.add_argument("--count", type=int, default=2000, help="number of pictures (default: 2000)")
    listed = verb("index", "Index tar shards once, so that runs of data.order=blocks start at once.", parent)
    listed.add_argument("shards", metavar="SHARDS", nargs="+", help="as data.paths: folders, URLs, brace ranges, *")
    listed.add_argument("--out", required=True, help="folder or gs:// address of the index; then data.paths of a run")
    listed.add_argument("--split", default="train", help="split of a folder with splits (default: train)")
    listed.add_argument("--part", default="0/1", metavar="I/N", help="index every N-th shard from the I-th, I below N")
    listed.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    listed.add_argument("--dry-run", action="store_true", help="print the jobs that --parts or --engine would submit")
    listed.configs = ("index",)
    listed.add_argument("--max-damaged", type=int, default=0, help="unreadable shards to leave out (default: 0)")
    chosen = verb("subset", "Choose samples of an index by key or by column; no shard is copied.", parent)
    chosen.add_argument("index", metavar="INDEX", help="folder or gs:// address of an index")
    chosen.add_argument("--out", required=True, help="folder or gs:// address of the new index")
    chosen.add_argument("--keys", help=".npy of uids, or a text file with one key or uid per line")
    chosen.add_argument("--where", default="", help="conditions on columns, as 'similarity > 0.3 and width >= 256'")
    chosen.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    made = verb(
        "icons", "Build a corpus of named icons with zero-shot tasks from the npm package @iconify/json.", parent
    )
    made.add_argument("out", metavar="OUT", help="folder for train, val, eval, manifest.json")
    made.add_argument("--package", type=Path, metavar="FILE.tgz", help="the package; default: npm pack fetches it")
    made.add_argument("--size", type=int, default=64, help="pixels per side (default: 64)")
    made.add_argument("--sets", help="comma-separated prefixes, as mdi,tabler; default all")
    made.add_argument(
        "--licenses",
        metavar="NAMES",
        help="SPDX names allowed; default permissive ones, no GPL, no non-commercial",
    )
    made.add_argument("--held-out", help="sets whose design groups are held out; default a list of each kind")
    made.add_argument(
        "--color",
        metavar="#RRGGBB",
        default="#000000",
        help="color of icons that do not fix one (default: #000000)",
    )
    for former, name in (("--licences", "licenses"), ("--colour", "color")):
        made.add_argument(former, dest=name, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    made.add_argument(
        "--near-bits", type=int, default=4, help="drop training icons so near a held-out one (default: 4)"
    )
    made.add_argument(
        "--common-sets", type=int, default=20, help="sets that share a name of icons-common (default: 20)"
    )
    made.add_argument("--workers", type=int, default=0, help="rendering processes (default: one per core)")


def run_action(args: argparse.Namespace, overrides: dict[str, str]) -> None:
    """Run the parsed action.

    Raises:
      UserError: as the action's function.
    """
    if args.action == "icons":
        _icons(args)
        return
    if args.action == "pictures":
        from clip_jax.data.scenes.folder import write_pictures

        write_pictures(Path(args.out), args.count)
        print(f"{args.out}/captions.csv")
        return
    if args.action in ("index", "subset"):
        _index(args, overrides)
        return
    from clip_jax.evals.contamination import overlap_report

    model = None
    if args.model:
        from clip_jax.inference import load_model

        model = load_model(args.model)
    print(overlap_report(args.train, args.evals, model, max_distance=args.max_distance, pair=args.pair))


def _index(args: argparse.Namespace, overrides: dict[str, str]) -> None:
    if args.workers < 1:
        raise UserError(field="--workers", value=args.workers, reason="must be at least 1")
    if args.action == "subset":
        from clip_jax.data.sources.index_subset import select_samples

        if not args.keys and not args.where:
            raise UserError(field="--keys, --where", reason="one of them is needed")
        select_samples(args.index, args.out, keys=args.keys, where=args.where, workers=args.workers)
        return
    from clip_jax.data.sources.index_build import index_shards
    from clip_jax.data.sources.shard_list import shards_of

    part, _, parts = args.part.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and int(part) < int(parts)):
        raise UserError(field="--part", value=args.part, reason="must be I/N with I from 0 to N - 1")
    if overrides or args.dry_run:
        from clip_jax.sweep.index_parts import index_in_parts

        if args.part != "0/1":
            raise UserError(field="--part", value=args.part, reason="is chosen for each of the jobs of --parts")
        config = from_fields(IndexConfig, overrides, "")
        options = (f"--workers={args.workers}", f"--max-damaged={args.max_damaged}")
        index_in_parts(config, args.shards, args.split, args.out, options, dry_run=args.dry_run, echo=print)
        return
    shards = [shard for path in args.shards for shard in shards_of(path, args.split)]
    numbers = (int(part), int(parts))
    index_shards(shards, args.out, part=numbers, workers=args.workers, max_damaged=args.max_damaged)


def _icons(args: argparse.Namespace) -> None:
    from clip_jax.datasets.icons.build import IconsConfig, build, summary

    options = {k: v for k, v in vars(args).items() if k not in ("verb", "action") and v is not None}
    for name in ("sets", "licenses", "held_out"):
        if name in options:
            options[name] = tuple(options[name].split(","))
    manifest = build(IconsConfig(**options | {"out": Path(args.out)}), print)
    print(summary(manifest))
    print(f"{args.out}/manifest.json, contact_sheet.png")
