"""What a run is made of besides its config (`record.read_config`): its vocabulary and its data. Both are noted in
``status.json`` when the run begins and in ``result.json`` when it ends; who reads it, or goes on with it, compares."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from clip_jax.config import ModelConfig
from clip_jax.data.sources.base import Source
from clip_jax.data.tokenizers.learned_bpe import Tokenizer, check_fits, load_tokenizer
from clip_jax.errors import UserError
from clip_jax.storage.paths import exists, read_text
from clip_jax.train.run_directory import Record, noted

DATA, TOKENIZER = "data", "tokenizer_sha256"  # fields of status.json and result.json
SPLITS = {"train": "training", "val": "held-out"}


def file_sha256(path: Path) -> str:
    """Of a text file's bytes, 64 hex digits. Raises UserError when it is no text."""
    return hashlib.sha256(read_text(path).encode()).hexdigest()


def read_tokenizer(run_dir: Path, model: ModelConfig) -> Tokenizer:
    """The vocabulary of a run.

    Raises UserError when ``tokenizer.json`` is missing or none of ours, was changed since the run began, or does not
    fit the model.
    """
    path = run_dir / "tokenizer.json"
    told = noted(run_dir).get(TOKENIZER)
    if told is not None and exists(path) and told != file_sha256(path):
        reason = "it was changed since the run began"
        raise UserError(f"{path}: {reason}", field=str(path), reason=reason, hint="put it back as it was")
    return check_fits(load_tokenizer(path), model.text, str(path))


def described(source: Source) -> dict[str, Any]:
    """Count and digest of a split, as the run's records have them."""
    return {"records": len(source), "digest": source.digest}


def what_changed(told: Any, now: dict[str, Any], split: str) -> str | None:
    """How a split differs from what the run's records say of it; None where it does not, or they say nothing.

    Args:
      told: their field `DATA`.
      now: split -> what `described` gives of it.
      split: train or val.
    """
    before = told.get(split) if isinstance(told, dict) else None
    if not isinstance(before, dict) or before == now[split]:
        return None
    count, was = now[split]["records"], before.get("records")
    how = f"{count} records, {was} when the run began" if count != was else f"{count} records, other names or sizes"
    return f"the {SPLITS[split]} split changed: {how}"


def hold_data(record: Record, now: dict[str, Any]) -> None:
    """Note the data that a run begins with, split -> `described`. Raises UserError when it began with other data."""
    told = record.inputs.get(DATA)
    for split, field in (("train", "data.paths"), ("val", "data.val_paths")):
        if (reason := what_changed(told, now, split)) is not None:
            hint = "put the data back as it was, or begin a run in another directory"
            raise UserError(
                f"{record.dir}: {reason}; {hint}", field=field, value=now[split]["records"], reason=reason, hint=hint
            )
    record.note_input(DATA, now)
