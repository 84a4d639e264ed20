"""An index of shards made by jobs, each a part of it, on the engines that train the runs of a sweep."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from clip_jax.config.sweep import IndexConfig
from clip_jax.data.sources.index_build import join_parts, part_file
from clip_jax.data.sources.shard_list import shards_of
from clip_jax.errors import UserError
from clip_jax.storage.lease import open_lock
from clip_jax.storage.paths import absolute, as_path, mkdir, remove
from clip_jax.storage.range_reads import is_url
from clip_jax.sweep.launch.base import Engine, Job
from clip_jax.sweep.launch.reconcile import Outcome, reconcile
from clip_jax.sweep.launch.registry import open_engine
from clip_jax.sweep.launch.submission import JobState, requeue

logger = logging.getLogger(__name__)


def jobs_of(
    config: IndexConfig, paths: Sequence[str], shards: Sequence[str], split: str, out: Path, options: Sequence[str]
) -> list[Job]:
    """Return a job for each part, in ``OUT/jobs/part-I-of-N``.

    Args:
      config: the parts.
      paths: paths, URLs or patterns, as `clip-jax data index` takes them.
      shards: what they name.
      split: of folders with splits.
      out: of the index.
      options: further ones of the command, for every part.
    """
    parts = min(config.parts, len(shards))
    paths = [path if is_url(path) else os.path.abspath(path) for path in paths]  # a job may begin elsewhere
    command = ("data", "index", *paths, f"--out={out}", f"--split={split}", *options)
    return [
        Job(
            (out / "jobs" / f"part-{i}-of-{parts}",),
            (*command, f"--part={i}/{parts}"),
            made=part_file(out, i, parts, shards),
        )
        for i in range(parts)
    ]


def render(engine: Engine, jobs: Sequence[Job]) -> str:
    """Return what would be submitted, as text."""
    each = engine.max_jobs_per_submit
    return "\n".join(engine.render(f"clip-dry-run-{i}", jobs[i : i + each]) for i in range(0, len(jobs), each))


def index_in_parts(
    config: IndexConfig,
    shards: Sequence[str],
    split: str,
    out: str | Path,
    options: Sequence[str] = (),
    *,
    dry_run: bool = False,
    echo: Callable[[str], None] = logger.info,
) -> None:
    """Make an index by jobs; the same call completes what is missing, and takes up what has changed.

    Args:
      config: the parts, and where they are made.
      shards, split, options: see `jobs_of`.
      out: folder or gs:// address of the index.
      dry_run: print what would be submitted, and write nothing.
      echo: receives lines.

    Raises:
      UserError: there are no shards, a part failed, the engine refused, or another process makes the index.
    """
    folder = absolute(as_path(out))
    every = [shard for path in shards for shard in shards_of(path, split)]
    jobs, engine = jobs_of(config, shards, every, split, folder, options), open_engine(config, folder)
    if dry_run:
        echo(render(engine, jobs))
        return
    failed: list[Outcome] = []

    def report(outcome: Outcome) -> None:
        echo(f"{outcome.job.key}: {outcome.reason or 'made'}")
        failed.extend([outcome] if outcome.reason else [])

    mkdir(folder / "jobs")
    with contextlib.closing(open_lock(folder / "jobs")) as lock:
        lock.acquire()
        for job in jobs:
            mkdir(job.run_dirs[0])
            if JobState.read(job).given_up:
                requeue(job.run_dirs[0])
        reconcile(engine, jobs, config.resources.max_attempts, report, echo)
        engine.detach()
        if failed:
            reason = f"{len(failed)} of {len(jobs)} parts are not made, {failed[0].job.key}: {failed[0].reason}"
            raise UserError(field=failed[0].job.log, reason=reason)
        join_parts(folder, every, len(jobs), echo)
        for job in jobs:
            assert job.made is not None
            remove(job.made)  # or the next call would take it for made
