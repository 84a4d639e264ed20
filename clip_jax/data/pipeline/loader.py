"""Training batches as a pure function of (seed, step), on a Grain pipeline of threads or worker processes."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from clip_jax.config import RunConfig
from clip_jax.config.run import VAL_PAIRS
from clip_jax.data.images.fast_jpeg import libraries
from clip_jax.data.images.train_transforms import crop, decode, prepare
from clip_jax.data.pipeline.block_order import BlockSampler, WeightedBlockSampler
from clip_jax.data.pipeline.decode_cache import FIXED_SIZE_AUGMENTS, DecodeCache
from clip_jax.data.pipeline.prefetch import Prefetcher
from clip_jax.data.pipeline.sampling import InfiniteSampler, Sampler, ShuffledSampler, WeightedSampler
from clip_jax.data.sources.base import BrokenRecord, ConcatSource, Record, Source
from clip_jax.data.tokenizers.clip_bpe import ClipTokenizer
from clip_jax.data.tokenizers.learned_bpe import BytePairTokenizer, Tokenizer, train_tokenizer
from clip_jax.errors import ConfigError, UserError
from clip_jax.storage.range_reads import COUNTED, take_counts

logger = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray]
Reasons = dict[int, str]  # index of a broken record -> reason

STREAMS = 16  # of the block order, by default
PIECE = 256  # pairs per unit of work of a thread; larger batches are assembled from pieces


class Piece(NamedTuple):
    """Rows of a batch, none if a broken record had no substitute; and what its process met since the piece before."""

    arrays: Arrays
    broken: Reasons
    store: dict[str, int]  # see `range_reads.take_counts`


class BrokenRecords:
    """Records that could not be read, each counted once."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.reasons: Reasons = {}

    def add(self, reasons: Reasons) -> None:
        """Count broken records, index -> reason. Raises UserError beyond ``data.max_corrupt_records``."""
        self.reasons |= reasons
        if len(self.reasons) > self.limit:
            last = list(self.reasons.values())[-1]
            reason = f"{len(self.reasons)} records cannot be read, the last: {last}"
            raise UserError(field="data.max_corrupt_records", value=self.limit, reason=reason)


class BatchOfStep:
    """This process's part of the batch of each step, the same for any number of threads and workers.

    A batch is made in pieces of `PIECE` pairs, so that threads share the work of one batch.
    """

    def __init__(
        self, config: RunConfig, source: Source, tokenizer: Tokenizer, process: int = 0, processes: int = 1
    ) -> None:
        if config.data.jpeg_decoder == "simplejpeg":
            libraries()
            if config.pixels.resize_mode != "shortest" and config.data.augment != "random_resized_crop":
                raise ConfigError(
                    field="data.jpeg_decoder",
                    value="simplejpeg",
                    reason="resizes by the short side, which is not pixels.resize_mode (or that of init_from.source): "
                    f"{config.pixels.resize_mode!r}",
                    hint="use data.jpeg_decoder='pillow'",
                )
        self.config, self.source, self.tokenizer = config, source, tokenizer
        self.broken: Reasons = {}  # broken records that this process has encountered
        self.prepared: dict[int, Record] = {}
        self.cache = _open_cache(config, source)
        share = config.batch_size // processes
        columns = np.arange(process * share, (process + 1) * share)
        self.order = _sampler(config, source)
        pieces = -(-share // PIECE)
        self.blocks = self.order if isinstance(self.order, BlockSampler | WeightedBlockSampler) else None
        if self.blocks is not None:
            # Stream by stream along the batch, so that a process, and each of its workers, reads few streams.
            streams, each = self.blocks.streams, config.batch_size // self.blocks.streams
            columns = (columns % each) * streams + columns // each
            workers = max(config.data.num_workers, 1)
            pieces = min(share, -(-pieces // workers) * workers)
            source.hold(-(-len(np.unique(columns % streams)) // workers))
        self.columns = np.array_split(columns, pieces)  # offsets into the batch's positions of each piece

    @property
    def pieces(self) -> int:
        """Number of pieces per batch."""
        return len(self.columns)

    def __call__(self, step: int) -> Arrays:
        """Return the batch of one step: the plain twin of `Batches`.

        Raises UserError when more than ``data.max_corrupt_records`` records are broken.
        """
        made = [self.piece(step * self.pieces + k) for k in range(self.pieces)]
        broken = BrokenRecords(self.config.data.max_corrupt_records)
        for piece in made:
            broken.add(piece.broken)
        return _concatenate([piece.arrays for piece in made])

    def piece(self, number: int) -> Piece:
        """Return piece ``number``, counted over all steps."""
        arrays, broken = self._piece(number)
        return Piece(arrays, broken, take_counts())

    def _piece(self, number: int) -> tuple[Arrays, Reasons]:
        step, k = divmod(number, self.pieces)
        positions = step * self.config.batch_size + self.columns[k]
        index = self.order(positions)
        if self.blocks is not None:
            self.source.read_ahead(self.blocks.next_blocks(positions))
        batch = getattr(self.source, "batch", None)
        if batch is not None and self.config.data.augment == "none":
            rendered, texts = batch(index)
            return {"images": rendered, "tokens": self.tokenizer.encode(texts)}, {}
        broken: Reasons = {}
        captions: list[str] = []
        size = self.config.model.image.image_size
        images = np.empty((len(index), size, size, 3), np.uint8)
        rows = [i for i in dict.fromkeys(index.tolist()) if i not in self.prepared and i not in self.broken]
        cached: dict[int, Record] = {}
        if self.cache is not None:
            cached = {i: record for i in rows if (record := self.cache.get(i)) is not None}
            rows = [i for i in rows if i not in cached]
        ahead = dict(zip(rows, self.source.get_many(rows), strict=True))  # in one request, if the source is remote
        for row, (i, position) in enumerate(zip(index.tolist(), positions.tolist(), strict=True)):
            record = cached[i] if i in cached else self._prepared(i, ahead, broken)
            if record is None:
                return {}, broken
            images[row], caption = self._view(record, position)
            captions.append(caption)
        return {"images": images, "tokens": self.tokenizer.encode(captions)}, broken

    def _view(self, record: Record, position: int) -> tuple[np.ndarray, str]:
        """Draw one view of a prepared record and one of its captions by (seed, position)."""
        rng = np.random.default_rng([self.config.seed, position])
        if record.weights:
            caption = record.captions[int(rng.choice(len(record.captions), p=record.weights))]
        else:
            caption = record.captions[int(rng.integers(len(record.captions)))]
        assert isinstance(record.image, np.ndarray)
        size, augment = self.config.model.image.image_size, self.config.data.augment
        return crop(record.image, size, augment, rng, self.config.pixels), caption

    def _prepared(self, index: int, ahead: dict[int, Record | BrokenRecord], broken: Reasons) -> Record | None:
        """Return the record at ``index``, or the next one that can be read; broken ones are added to ``broken``.

        Returns None when more than ``data.max_corrupt_records`` consecutive records are broken.
        """
        for step in range(self.config.data.max_corrupt_records + 2):
            i = (index + step) % len(self.source)
            if i in self.prepared:
                return self.prepared[i]
            if i not in self.broken:
                record = ahead[i] if i in ahead else self.source.get_many([i])[0]
                prepared = self._prepare(i, record)
                if isinstance(prepared, Record):
                    return prepared
                self.broken[i] = prepared
            broken[i] = self.broken[i]
        return None

    def _prepare(self, i: int, record: Record | BrokenRecord) -> Record | str:
        """Decode a record into what `crop` draws its views from, or return the reason why it is broken."""
        if isinstance(record, BrokenRecord):
            return str(record)
        data, size = self.config.data, self.config.model.image.image_size
        try:
            image = prepare(record.image, size, data.augment, data.jpeg_decoder, self.config.pixels)
            prepared = Record(image, record.captions, record.weights)
        except BrokenRecord as error:
            return f"{self.source.name(i)}: {error}"
        if self.cache is not None:
            assert isinstance(prepared.image, np.ndarray)
            self.cache.put(i, prepared.image)
        elif data.cache_decoded:
            self.prepared[i] = prepared
        return prepared


def _open_cache(config: RunConfig, source: Source) -> DecodeCache | None:
    """Open the decode cache; None if only memory can hold the images.

    That is so when prepared images vary in size, records may change without notice, or there is no disk space.
    """
    data = config.data
    if not data.cache_decoded or data.augment not in FIXED_SIZE_AUGMENTS or source.identity is None:
        return None
    try:
        return DecodeCache(source, config.model.image.image_size, data.jpeg_decoder, config.pixels)
    except OSError:
        return None


def _sampler(config: RunConfig, source: Source) -> Sampler:
    """Return the sampler of a run. Raises ConfigError when a batch would contain a record twice."""
    data, batch = config.data, config.batch_size
    if source.infinite and not data.unique_samples:
        return InfiniteSampler(config.seed)
    if data.weights:
        assert isinstance(source, ConcatSource)
        order: WeightedSampler | WeightedBlockSampler
        if data.order == "blocks":
            layouts = [p.layout for p in source.parts if p.layout is not None]
            order = WeightedBlockSampler(layouts, data.weights, _streams(config), data.window_shards, config.seed)
        else:
            order = WeightedSampler([len(p) for p in source.parts], data.weights, config.seed)
        for path, part, drawn in zip(data.paths, source.parts, order.drawn(batch), strict=True):
            if len(part) < drawn:
                reason = f"{path} has {len(part)} records, fewer than its share of a batch, {drawn}"
                raise ConfigError(field="data.weights", reason=reason)
        return order
    count = data.unique_samples or len(source)
    if data.order == "blocks" and source.layout is not None and len(source) >= batch:
        return BlockSampler(source.layout, _streams(config), data.window_shards, config.seed)
    if count < batch:
        reason = f"the training set has {count} records, fewer than a batch"
        raise ConfigError(field="batch_size", value=batch, reason=reason)
    return ShuffledSampler(count, config.seed)


def _streams(config: RunConfig) -> int:
    """Return the number of streams of the block order. Raises ConfigError unless it divides the batch size."""
    streams, batch = config.data.streams or math.gcd(STREAMS, config.batch_size), config.batch_size
    if batch % streams:
        reason = f"must divide batch_size={batch}, so that every batch has the same share of each stream"
        raise ConfigError(field="data.streams", value=streams, reason=reason)
    return streams


def _concatenate(parts: list[Arrays]) -> Arrays:
    return parts[0] if len(parts) == 1 else {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


class Batches:
    """An iterator over {"images": uint8 [B, H, W, 3], "tokens": int32 [B, T]} from ``start_step`` on.

    Memory: the index of the source, the current batch, and at most `held_bytes` for prefetched pieces, which does not
    grow with the batch size.
    """

    def __init__(self, make: BatchOfStep, start_step: int, steps: int, threads: int, workers: int = 0) -> None:
        self.order = make.order
        self._make = make
        self._broken = BrokenRecords(make.config.data.max_corrupt_records)
        self._store = Counter(dict.fromkeys(COUNTED, 0))
        self._workers = Prefetcher(make.piece, range(start_step * make.pieces, steps * make.pieces), threads, workers)

    def __iter__(self) -> Iterator[Arrays]:
        return self

    def __next__(self) -> Arrays:
        return _concatenate([self._take(next(self._workers)) for _ in range(self._make.pieces)])

    def pieces(self) -> Iterator[Arrays]:
        """Yield the pieces of the next batch as they come: what ``next`` would join, in the order of its rows."""
        for _, piece in zip(range(self._make.pieces), self._workers, strict=False):
            yield self._take(piece)

    def _take(self, piece: Piece) -> Arrays:
        self._store.update(piece.store)
        self._broken.add(piece.broken)
        return piece.arrays

    @property
    def store(self) -> Counter[str]:
        """Counts of what this process and its workers asked of stores so far (`range_reads.COUNTED`)."""
        self._store.update(take_counts())  # of this process, which looks for shards, and with workers reads no batches
        return self._store.copy()

    def close(self) -> None:
        """Stop the worker processes; no further batch can be drawn."""
        self._workers.close()

    def drawn(self, samples: int) -> list[int]:
        """Return how many of the first ``samples`` pairs came from each of ``data.paths``; [] without weights."""
        return self.order.drawn(samples) if isinstance(self.order, WeightedSampler | WeightedBlockSampler) else []

    @property
    def held_bytes(self) -> int:
        """Maximum bytes of prefetched pieces in this process and its workers, without their encoded records."""
        model = self._make.config.model
        pair = 3 * model.image.image_size**2 + 4 * model.text.context_length
        return self._workers.held * max(map(len, self._make.columns)) * pair

    @property
    def broken_records(self) -> int:
        """Number of broken records in the batches drawn so far, each counted once."""
        return len(self._broken.reasons)


def train_batches(config: RunConfig, source: Source, tokenizer: Tokenizer, start_step: int = 0) -> Batches:
    """Return an iterator over this process's share of the batches of steps ``start_step`` to ``config.steps`` - 1.

    Close it when done. Records are reshuffled every epoch; caption and augmentation are drawn by (seed, position). A
    broken record is replaced by the next one and counted.

    Raises:
      ConfigError: fewer records than a batch; a decoder that is not installed.
      UserError: while iterating: more than ``data.max_corrupt_records`` broken records; a shard that cannot be read.
    """
    import jax

    make = BatchOfStep(config, source, tokenizer, jax.process_index(), jax.process_count())
    return Batches(make, start_step, config.steps, config.data.num_threads, config.data.num_workers)


def _evenly_spaced(source: Source, count: int) -> list[int]:
    """Return at most ``count`` evenly spaced indices (0: all); for an infinite source, the first ones."""
    if source.infinite:
        return list(range(count or 4096))
    return source.spread(count).tolist()


def sample_captions(config: RunConfig, source: Source) -> list[str]:
    """Return up to ``data.tokenizer_train_captions`` captions, sampled evenly from the training set."""
    wanted = config.data.tokenizer_train_captions
    batch_captions = getattr(source, "batch_captions", None)
    if batch_captions is not None:
        return batch_captions(np.arange(wanted))
    captions: list[str] = []
    broken = BrokenRecords(config.data.max_corrupt_records)
    rows = _evenly_spaced(source, wanted)
    for begin in range(0, len(rows), PIECE):
        for i, texts in zip(rows[begin:], source.get_many_captions(rows[begin : begin + PIECE]), strict=False):
            if isinstance(texts, BrokenRecord):
                broken.add({i: str(texts)})
            else:
                captions += texts
    return captions[:wanted] if len(captions) < 2 * wanted else captions[:: len(captions) // wanted]


def learn_tokenizer(config: RunConfig, source: Source) -> BytePairTokenizer:
    """Train a BPE tokenizer of ``model.text`` on `sample_captions`."""
    text = config.model.text
    return train_tokenizer(sample_captions(config, source), text.vocab_size, text.context_length)


def new_tokenizer(config: RunConfig, source: Source) -> Tokenizer:
    """Return the tokenizer of a run whose text tower begins at random, as ``data.tokenizer`` says."""
    text = config.model.text
    if config.data.tokenizer == "clip":
        return ClipTokenizer(text.context_length, text.pad_id)
    return learn_tokenizer(config, source)


def sample_images(config: RunConfig, source: Source, count: int) -> np.ndarray:
    """Return at most ``count`` images, sampled evenly from a source: uint8 [N, H, W, 3]."""
    if hasattr(source, "batch"):
        return source.batch(np.arange(count))[0]
    return np.stack([image for image, _ in _read_held_out(config, source, count)])


def _read_held_out(config: RunConfig, source: Source, count: int) -> list[tuple[np.ndarray, tuple[str, ...]]]:
    size = config.model.image.image_size
    broken = BrokenRecords(config.data.max_corrupt_records)
    pairs = []
    rows = _evenly_spaced(source, count)
    for begin in range(0, len(rows), PIECE):
        for i, record in zip(rows[begin:], source.get_many(rows[begin : begin + PIECE]), strict=False):
            try:
                if isinstance(record, BrokenRecord):
                    raise record
                pairs.append((decode(record.image, size, pixels=config.pixels), record.captions))
            except BrokenRecord as error:
                broken.add({i: str(error)})
    if broken.reasons:
        first = next(iter(broken.reasons.values()))
        count = len(broken.reasons)
        logger.warning("%d broken records are skipped in the evaluation data; the first: %s", count, first)
    return pairs


def validation_pairs(config: RunConfig, source: Source, tokenizer: Tokenizer) -> Arrays:
    """Return held-out pairs, each with its first caption.

    Returns ``images`` uint8 [N, H, W, 3] and ``tokens`` int32 [N, T], with N = ``evals.val_pairs`` ×
    ``evals.val_partitions``. With ``evals.val_pairs=0`` a partition has `VAL_PAIRS`, or as many as the held-out split
    allows. Raises ConfigError when the split is too small.
    """
    partitions, chosen = config.evals.val_partitions, config.evals.val_pairs
    wanted = (chosen or VAL_PAIRS) * partitions
    if hasattr(source, "batch"):
        images, captions = source.batch(np.arange(wanted) + 500_000)  # disjoint from the retrieval set
        return {"images": images, "tokens": tokenizer.encode(captions)}
    pairs, records = [], len(source)
    if records >= wanted or not chosen:
        # broken records reduce the number, so read max_corrupt_records more
        pairs = _read_held_out(config, source, min(records, wanted + config.data.max_corrupt_records))[:wanted]
        records = len(pairs)
    each = min(chosen or VAL_PAIRS, records // partitions)
    if each < (chosen or 2):
        reason = f"with evals.val_partitions={partitions}: the held-out split has only {records} readable records"
        hint = f"evals.val_pairs={each} works" if each >= 2 else "hold out more pairs"
        raise ConfigError(field="evals.val_pairs", value=chosen, reason=reason, hint=hint)
    if each < (chosen or VAL_PAIRS):
        logger.info("evals.val_pairs: %d in each of %d partitions, as %d are held out", each, partitions, records)
    return {
        "images": np.stack([image for image, _ in pairs[: each * partitions]]),
        "tokens": tokenizer.encode([captions[0] for _, captions in pairs[: each * partitions]]),
    }


def retrieval_set(config: RunConfig, source: Source, tokenizer: Tokenizer) -> Arrays:
    """Return held-out images with all their captions.

    Returns ``images`` uint8 [N, H, W, 3], ``tokens`` int32 [M, T] and ``image_of_text`` int32 [M]. N is
    ``evals.retrieval_images`` (0, or more than there are: the whole split).
    """
    pairs = _read_held_out(config, source, config.evals.retrieval_images)
    texts = [(caption, n) for n, (_, captions) in enumerate(pairs) for caption in captions]
    return {
        "images": np.stack([image for image, _ in pairs]),
        "tokens": tokenizer.encode([caption for caption, _ in texts]),
        "image_of_text": np.array([n for _, n in texts], np.int32),
    }
