"""Batches as a pure function of (seed, step), on a Grain pipeline."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from clip_jax.config import ConfigError, RunConfig, UserError
from clip_jax.data.sources import BrokenRecord, Source
from clip_jax.data.tokenizers import BytePairTokenizer, Tokenizer, train_tokenizer
from clip_jax.data.transforms import crop, decode, prepare

Arrays = dict[str, np.ndarray]


class BrokenRecords:
    """Counts records that cannot be read, each once, from any thread."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.reasons: dict[int, str] = {}
        self._lock = threading.Lock()

    def add(self, index: int, reason: str) -> None:
        """Raises UserError when there are more than ``data.max_broken``."""
        with self._lock:
            self.reasons[index] = reason
            count = len(self.reasons)
        if count > self.limit:
            raise UserError(f"{reason}; {count} records are broken, more than data.max_broken={self.limit} allows")


class BatchOfStep:
    """step -> this process's part of that step's batch, the same whatever the number of threads."""

    def __init__(
        self, config: RunConfig, source: Source, tokenizer: Tokenizer, process: int = 0, processes: int = 1
    ) -> None:
        import grain

        self.config, self.source, self.tokenizer = config, source, tokenizer
        self.broken = BrokenRecords(config.data.max_broken)
        self.kept: dict[int, tuple[np.ndarray, tuple[str, ...]]] = {}
        share = config.batch_size // processes
        self.columns = np.arange(process * share, (process + 1) * share)
        self.endless = getattr(source, "infinite", False) and not config.data.unique_samples
        count = config.data.unique_samples or len(source)
        if not self.endless:
            if count < config.batch_size:
                raise ConfigError(
                    f"batch_size={config.batch_size}: the training set has only {count} records, fewer than a batch"
                )
            # a new order every epoch
            self.order: Any = grain.MapDataset.range(count).seed(config.seed).shuffle().repeat(None)

    def __call__(self, step: int) -> Arrays:
        positions = step * self.config.batch_size + self.columns
        if self.endless:
            index = positions + (self.config.seed << 32)
        else:
            index = np.array([self.order[int(p)] for p in positions])
        batch = getattr(self.source, "batch", None)
        if batch is not None and self.config.data.augment == "none":
            images, captions = batch(index)
            return {"images": images, "tokens": self.tokenizer.encode(captions)}
        pairs = [self._pair(int(i), int(p)) for i, p in zip(index, positions, strict=True)]
        return {
            "images": np.stack([image for image, _ in pairs]),
            "tokens": self.tokenizer.encode([caption for _, caption in pairs]),
        }

    def _pair(self, index: int, position: int) -> tuple[np.ndarray, str]:
        """One view and one of its captions, drawn by (seed, position)."""
        picture, captions = self._read(index)
        rng = np.random.default_rng([self.config.seed, position])
        caption = captions[int(rng.integers(len(captions)))]
        return crop(picture, self.config.model.image.image_size, self.config.data.augment, rng), caption

    def _read(self, index: int) -> tuple[np.ndarray, tuple[str, ...]]:
        """The prepared picture and captions of a record, or of the next one that can be read."""
        data, count = self.config.data, len(self.source)
        for step in range(data.max_broken + 2):
            place = (index + step) % count
            if place in self.kept:
                return self.kept[place]
            if place in self.broken.reasons:
                continue
            record = None
            try:
                record = self.source[place]
                found = (
                    prepare(record.image, self.config.model.image.image_size, data.augment),
                    record.captions,
                )
            except BrokenRecord as error:
                self.broken.add(place, f"{record.key}: {error}" if record else str(error))
                continue
            if data.keep_decoded:
                self.kept[place] = found
            return found
        raise UserError(
            f"{data.max_broken + 2} records in a row are broken; the last: {list(self.broken.reasons.values())[-1]}"
        )


class Batches:
    """An iterator over {"images": uint8 [B, H, W, 3], "tokens": int32 [B, T]} from ``start_step`` on."""

    def __init__(self, make: BatchOfStep, start_step: int, steps: int, threads: int) -> None:
        import grain

        data = grain.MapDataset.range(steps).map(make)
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
        self._iterator: Any = iter(data.to_iter_dataset(options))
        self._iterator.set_state({"next_index": start_step})
        self._make = make

    def __iter__(self) -> Iterator[Arrays]:
        return self

    def __next__(self) -> Arrays:
        return next(self._iterator)

    @property
    def broken_records(self) -> int:
        """Records passed over so far, each counted once."""
        return len(self._make.broken.reasons)


def train_batches(config: RunConfig, source: Source, tokenizer: Tokenizer, start_step: int = 0) -> Batches:
    """The batches of steps ``start_step`` to ``config.steps`` - 1: this process's share of each.

    Shuffled anew every epoch; a picture's caption and augmentation are drawn by (seed, position). A record that
    cannot be read gives way to the next one and is counted.

    Raises:
      ConfigError: fewer records than a batch. UserError (while iterating): more than ``data.max_broken`` broken.
    """
    import jax

    make = BatchOfStep(config, source, tokenizer, jax.process_index(), jax.process_count())
    return Batches(make, start_step, config.steps, config.data.threads)


def _spread(source: Source, count: int) -> list[int]:
    """At most ``count`` indices, evenly spread (0: all); of an endless source the first ones."""
    total = len(source)
    if getattr(source, "infinite", False):
        return list(range(count or 4096))
    if not count or count >= total:
        return list(range(total))
    return [int(i) for i in np.linspace(0, total - 1, count).round()]


def learn_tokenizer(config: RunConfig, source: Source) -> BytePairTokenizer:
    """A vocabulary from up to ``data.tokenizer_captions`` captions spread over the training source."""
    wanted = config.data.tokenizer_captions
    batch_captions = getattr(source, "batch_captions", None)
    if batch_captions is not None:
        captions = batch_captions(np.arange(wanted))
    else:
        captions = []
        broken = BrokenRecords(config.data.max_broken)
        for i in _spread(source, wanted):
            try:
                captions += source.captions(i)
            except BrokenRecord as error:
                broken.add(i, str(error))
        captions = captions[:wanted] if len(captions) < 2 * wanted else captions[:: len(captions) // wanted]
    text = config.model.text
    return train_tokenizer(captions, text.vocab_size, text.context_length)


def _held_out(config: RunConfig, source: Source, count: int) -> list[tuple[np.ndarray, tuple[str, ...]]]:
    size = config.model.image.image_size
    broken = BrokenRecords(config.data.max_broken)
    found = []
    for i in _spread(source, count):
        try:
            record = source[i]
            found.append((decode(record.image, size), record.captions))
        except BrokenRecord as error:
            broken.add(i, str(error))
    return found


def validation_pairs(config: RunConfig, source: Source, tokenizer: Tokenizer) -> Arrays:
    """Held-out pairs, the first caption of each: ``images`` uint8 [N, H, W, 3], ``tokens`` int32 [N, T], with
    N = ``evals.val_pairs`` × ``evals.val_partitions``.

    Raises ConfigError when the held-out split is smaller.
    """
    wanted = config.evals.val_pairs * config.evals.val_partitions
    if hasattr(source, "batch"):
        images, captions = source.batch(np.arange(wanted) + 500_000)  # others than retrieval's
        return {"images": images, "tokens": tokenizer.encode(captions)}
    if len(source) < wanted:
        raise ConfigError(
            f"evals.val_pairs={config.evals.val_pairs} × evals.val_partitions={config.evals.val_partitions}: "
            f"the held-out split has only {len(source)} records"
        )
    # strided, so a few broken records may leave fewer: ask for the spares too
    pairs = _held_out(config, source, min(len(source), wanted + config.data.max_broken))[:wanted]
    if len(pairs) < wanted:
        raise UserError(f"evals.val_pairs: only {len(pairs)} held-out records can be read, {wanted} are needed")
    return {
        "images": np.stack([image for image, _ in pairs]),
        "tokens": tokenizer.encode([captions[0] for _, captions in pairs]),
    }


def retrieval_set(config: RunConfig, source: Source, tokenizer: Tokenizer) -> Arrays:
    """Held-out pictures with all their captions: ``images`` uint8 [N, H, W, 3], ``tokens`` int32 [M, T], and
    ``image_of_text`` int32 [M]. N is ``evals.retrieval_images`` (0, or too many: the whole split)."""
    pairs = _held_out(config, source, config.evals.retrieval_images)
    texts = [(caption, n) for n, (_, captions) in enumerate(pairs) for caption in captions]
    return {
        "images": np.stack([image for image, _ in pairs]),
        "tokens": tokenizer.encode([caption for caption, _ in texts]),
        "image_of_text": np.array([n for _, n in texts], np.int32),
    }
