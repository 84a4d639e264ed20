"""The inputs of a run besides its config (`run_directory.read_config`): tokenizer and data.

Their checksums are recorded in ``status.json`` when the run begins and in ``result.json`` when it ends. Whoever reads
or resumes the run compares them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from clip_jax.config import ModelConfig
from clip_jax.data.sources.base import Source
from clip_jax.data.tokenizers.learned_bpe import Tokenizer, check_fits, load_tokenizer
from clip_jax.errors import UserError
from clip_jax.storage.paths import exists, read_text
from clip_jax.storage.records import Split
from clip_jax.train.run_directory import RunDirectory, read_records

DATA, TOKENIZER = "data", "tokenizer_sha256"  # fields of status.json and result.json
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
    if recorded is not None and exists(path) and recorded != file_sha256(path):
        reason = "was changed since the run began"
        raise UserError(field=path, reason=reason, hint="restore the original file")
    return check_fits(load_tokenizer(path), model.text, str(path))


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
