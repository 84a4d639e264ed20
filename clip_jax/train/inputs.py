"""The inputs of a run besides its config (`run_directory.read_config`): tokenizer and data.

Their checksums are recorded in ``status.json`` when the run begins and in ``result.json`` when it ends. Whoever reads
or resumes the run compares them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

import jax

from clip_jax.config import ModelConfig, RunConfig
from clip_jax.data.open import open_source
from clip_jax.data.sources.base import Source
from clip_jax.data.tokenizers.learned_bpe import Tokenizer, check_fits, load_tokenizer
from clip_jax.errors import UserError
from clip_jax.reuse import reuse
from clip_jax.storage.paths import exists, read_text
from clip_jax.storage.records import Split
from clip_jax.train.run_directory import RunDirectory, read_records

logger = logging.getLogger(__name__)

DATA, TOKENIZER, MISSING = "data", "tokenizer_sha256", "missing_shards"  # fields of status.json and result.json
SPLITS = {"train": "training", "val": "held-out"}


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a text file's bytes as 64 hex digits.

    Raises:
      UserError: the file is no text.
    """
    return hashlib.sha256(read_text(path).encode()).hexdigest()


def read_tokenizer(run_dir: Path, model: ModelConfig) -> Tokenizer:
    """Return the tokenizer of a run.

    Raises:
      UserError: ``tokenizer.json`` is missing or unreadable, was changed since the run began, or does not fit the
        model.
    """
    path = run_dir / "tokenizer.json"
    recorded = read_records(run_dir).get(TOKENIZER)
    digest = file_sha256(path) if exists(path) else ""
    if recorded is not None and digest and recorded != digest:
        reason = "was changed since the run began"
        raise UserError(field=path, reason=reason, hint="restore the original file")
    return check_fits(reuse(("tokenizer", digest), lambda: load_tokenizer(path)), model.text, str(path))


def resolve_epochs(config: RunConfig, run_dir: Path | None = None) -> RunConfig:
    """Return the config with the number of steps that ``epochs`` gives, to the nearest whole step; others as they are.

    Args:
      config: the run.
      run_dir: its directory; a run that began in it keeps the number of pairs that it began with.

    Raises:
      UserError: the training pairs have no end, or cannot be opened.
    """
    if not config.epochs:
        return config
    pairs = config.data.unique_samples or (_recorded_pairs(run_dir) if run_dir else None)
    if not pairs:
        source = open_source(config.data, "train", config.model.image.image_size)
        if source.infinite:
            reason = "the training pairs have no end"
            raise UserError(field="epochs", value=config.epochs, reason=reason, hint="set steps")
        pairs = len(source)
    steps = max(1, round(config.epochs * pairs / config.batch_size))
    if jax.process_index() == 0:
        logger.info("steps: %s, as epochs=%g of %s pairs", f"{steps:,}", config.epochs, f"{pairs:,}")
    return dataclasses.replace(config, steps=steps, epochs=0.0)


def _recorded_pairs(run_dir: Path) -> int | None:
    recorded = read_records(run_dir).get(DATA)
    train = recorded.get("train") if isinstance(recorded, dict) else None
    return train.get("records") if isinstance(train, dict) else None


def describe(source: Source) -> Split:
    """Return the number of records and the digest of a split, as the run's records hold them."""
    return {"records": len(source), "digest": source.digest}


def describe_change(recorded: object, now: Mapping[str, Split], split: str) -> str | None:
    """Return how a split differs from the one in the run's records; None if it does not differ or nothing is recorded.

    Args:
      recorded: the field `DATA` of the records.
      now: split -> what `describe` returns for it.
      split: train or val.
    """
    previous = recorded.get(split) if isinstance(recorded, dict) else None
    if not isinstance(previous, dict) or previous == now[split]:
        return None
    count, was = now[split]["records"], previous.get("records")
    how = f"{count} records, {was} when the run began" if count != was else f"{count} records, other names or sizes"
    return f"the {SPLITS[split]} split changed: {how}"


def check_data(directory: RunDirectory, now: dict[str, Split]) -> None:
    """Record the data that a run begins with, or compare it with the recorded data.

    Args:
      directory: the run's.
      now: split -> what `describe` returns for it.

    Raises:
      UserError: the run began with other data.
    """
    recorded = directory.inputs.get(DATA)
    for split, field in (("train", "data.paths"), ("val", "data.val_paths")):
        if (reason := describe_change(recorded, now, split)) is not None:
            hint = "restore the original data, or begin a run in another directory"
            raise UserError(source=directory.path, field=field, reason=reason, hint=hint)
    directory.note_input(DATA, now)


def check_shards(directory: RunDirectory, source: Source, limit: int) -> None:
    """Record which shards of the training pairs are missing or changed, besides those that were when the run began.

    Args:
      directory: the run's.
      source: the training pairs.
      limit: shards that may be (``data.max_missing_shards``).

    Raises:
      UserError: there are more.
    """
    recorded: list[str] = directory.inputs.get(MISSING, [])
    new = {shard: reason for shard, reason in source.missing_shards().items() if shard not in recorded}
    every = dict.fromkeys(recorded, "as recorded when the run began") | new
    if len(every) > limit:
        shard, reason = list(every.items())[-1]
        reason = f"{len(every)} shards are missing or changed, such as {shard}: {reason}"
        raise UserError(field="data.max_missing_shards", value=limit, reason=reason)
    for shard, reason in new.items():
        directory.event(MISSING, shard=shard, reason=f"{shard}: {reason}; the next shard is read in its place")
    if new:
        logger.warning("%d shards are missing or changed, and others are read in their place", len(every))
        directory.inputs[MISSING] = list(every)
        directory.heartbeat(force=True, **{MISSING: list(every)})
