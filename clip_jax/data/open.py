"""Open the training and held-out sources that a config describes."""

from __future__ import annotations

from pathlib import Path

from clip_jax.config import DataConfig, RunConfig
from clip_jax.config.data import SOURCES
from clip_jax.config.passes import passes_text
from clip_jax.data.sources.base import ConcatSource, Source, hash_split
from clip_jax.errors import ConfigError, UserError
from clip_jax.plugins import load


def open_source(config: DataConfig, split: str, image_size: int) -> Source:
    """Open one split of ``data.paths``, concatenated.

    The held-out split is read from ``data.val_paths`` if set, or is the fraction ``data.val_fraction`` of the training
    split.

    Args:
      config: the ``data`` section of a run.
      split: ``train`` or ``val``.
      image_size: pixels per side that the scenes source renders.

    Raises:
      UserError: a file or field is missing or malformed; the message names it.
    """
    if config.source == "scenes":
        from clip_jax.data.scenes.scenes import ScenesSource

        return ScenesSource(config.scenes, split, image_size)
    held_out, fraction = split == "val", config.val_fraction
    name = config.val_split if held_out and not fraction else config.train_split
    paths = config.val_paths if held_out and config.val_paths else config.paths
    parts = [_open_path(config, p, name) for p in paths]
    if fraction:
        parts = [hash_split(part, fraction, held_out=held_out) for part in parts]
    for path, part in zip(paths, parts, strict=True):
        if config.weights and len(part) == 0:
            reason = f"the split {name!r} has no records, so it takes no weight"
            raise UserError(source=path, field="data.weights", reason=reason)
    source: Source = parts[0] if len(parts) == 1 else ConcatSource(parts)
    if len(source) == 0:
        left = f" (data.val_fraction={fraction})" if fraction else ""
        raise UserError(field="data.paths", reason=f"{', '.join(paths)}: the split {name!r} has no records{left}")
    if not held_out and config.unique_samples:
        if config.unique_samples > len(source):
            reason = f"the training split has {len(source)} records"
            raise ConfigError(field="data.unique_samples", value=config.unique_samples, reason=reason)
        source = source.first(config.unique_samples)
    return source


def open_splits(config: DataConfig, image_size: int, *, may_share: bool = False) -> tuple[Source, Source]:
    """Open the training and the held-out source.

    Args:
      config: the ``data`` section of a run.
      image_size: pixels per side that the scenes source renders.
      may_share: allow both to read the same file, for runs that began before this was refused.

    Raises:
      UserError: as `open_source`; or held-out records are also training records.
    """
    train, held_out = (open_source(config, split, image_size) for split in ("train", "val"))
    shared = train.files & held_out.files
    if shared and not may_share and not config.val_fraction:
        raise UserError(
            field="data.val_paths", value=min(shared), reason="is also read for training, so it is not held out",
            hint="name other files, or hold out a part with data.val_fraction=0.05",
        )  # fmt: skip
    return train, held_out


def data_notes(config: DataConfig, train: Source, held_out: Source) -> list[str]:
    """Return the lines about the data that a run prints at its start."""
    lines = list(dict.fromkeys((*train.notes, *held_out.notes)))
    if config.val_fraction:
        both = len(train) + len(held_out) if not config.unique_samples else None
        of = f" of {both:,}" if both else ""
        lines.append(
            f"{len(held_out):,}{of} records are held out by their hash (data.val_fraction={config.val_fraction})"
        )
    elif train.files & held_out.files:
        lines.append("held-out records are training records too, as when this run began; data.val_fraction is newer")
    return lines


def data_line(config: RunConfig, train: Source, held_out: Source) -> str:
    """Return what a run reads: training pairs, held-out pairs, and passes over the data."""
    if train.infinite and not config.data.unique_samples:
        return f"data: pairs without end, {config.samples_seen:,} will be seen"
    pairs = config.data.unique_samples or len(train)
    return f"data: {pairs:,} pairs, {len(held_out):,} held out; {passes_text(config.samples_seen / pairs)}"


def _open_path(config: DataConfig, path: str, split: str) -> Source:
    if config.source not in SOURCES:
        source = load("data.source", config.source, "sources")(config, path, split)
        if not isinstance(source, Source):
            reason = f"opened a {type(source).__name__}, not a clip_jax.data.sources.base.Source"
            raise UserError(field="data.source", value=config.source, reason=reason)
        return source
    if config.source == "webdataset":
        return _open_shards(config, path, split)
    if config.source == "parquet":
        from clip_jax.data.sources.parquet import ParquetPairs

        keys, weights = config.caption_keys or (config.caption_key,), config.caption_weights
        return ParquetPairs(path, split, config.image_key, keys, weights, config.window_shards, config.window_mb)
    if not Path(path).exists():
        raise UserError(field="data.paths", value=path, reason="no such file or folder")
    if config.source == "folder":
        from clip_jax.data.sources.folder import CaptionedFolder

        return CaptionedFolder(Path(path), split, (config.filename_column, config.caption_column))
    from clip_jax.data.sources.tfds import TfdsSource

    return TfdsSource(Path(path), split, config.image_key, config.caption_key)


def _open_shards(config: DataConfig, path: str, split: str) -> Source:
    """Open shards, or the index of shards that a path may be; training pairs in the block order need an index."""
    from clip_jax.data.sources.shard_list import is_index

    training = split == config.train_split
    if is_index(path):
        if training and config.order == "global":
            reason = "is the index of shards, which the order of single pairs would read at random"
            hint = "use data.order='blocks', or give the shards themselves"
            raise UserError(field="data.paths", value=path, reason=reason, hint=hint)
        from clip_jax.data.sources.indexed_shards import IndexedShards
        from clip_jax.data.sources.shard_index import open_index

        keys, weights = config.caption_keys, config.caption_weights
        return IndexedShards(open_index(path), config.window_shards, config.window_mb, keys, weights)
    if training and config.order == "blocks":
        hint = f"clip-jax data index {path} --out=DIR makes one; then give DIR here"
        raise UserError(field="data.paths", value=path, reason="data.order='blocks' needs an index", hint=hint)
    from clip_jax.data.sources.webdataset import WebDataset

    return WebDataset(path, split)
