"""The interface of data sources, and sources composed of others."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from clip_jax.errors import UserError

T = TypeVar("T")


class BrokenRecord(UserError):
    """A record that cannot be read.

    The loader counts and skips it, up to ``data.max_corrupt_records``; elsewhere it ends the command in one line like
    any UserError.
    """


@dataclass(frozen=True)
class Record:
    """An image and its captions, at least one.

    ``image``: encoded bytes, which may be a view of a block that is held as long as it is; or uint8 [H, W, 3].
    ``weights``: the probability of each caption to be drawn; empty: all alike.
    """

    image: bytes | memoryview | np.ndarray
    captions: tuple[str, ...]
    weights: tuple[float, ...] = ()


def weighted_captions(
    values: Mapping[str, object], weights: Mapping[str, float]
) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Return the captions in some fields of a record, and the probability of each.

    Args:
      values: by field; a text or a list of texts.
      weights: by field; a field that is missing, null or empty takes no part, and the texts of a list share its weight.

    Raises:
      ValueError: there is a caption in none of the fields.
    """
    captions: list[str] = []
    shares: list[float] = []
    for key, weight in weights.items():
        value = values.get(key)
        several = value if isinstance(value, list) else [value]
        texts = [t.strip() for t in several if isinstance(t, str) and t.strip()]
        captions += texts
        shares += [weight / max(len(texts), 1)] * len(texts)
    if not captions:
        raise ValueError(f"has no caption in {', '.join(weights)}")
    return tuple(captions), tuple(share / sum(shares) for share in shares)


@dataclass(frozen=True)
class Layout:
    """Number of samples of each shard of a source, and of its blocks: consecutive samples that are read at once.

    counts: samples per shard, int64 [S], above 0.
    blocks: samples per block in each shard, int64 [S], above 0; a shard's blocks begin at multiples of it.
    """

    counts: np.ndarray
    blocks: np.ndarray

    def __len__(self) -> int:
        return int(self.counts.sum())


class Source:
    """Records by index, in any order, from any thread.

    A subclass defines `__len__`, `name`, and either `__getitem__` and `captions` or `get_many` and `get_many_captions`.
    ``infinite``: indices beyond the length are valid and give new records.
    """

    infinite = False

    @property
    def identity(self) -> str | None:
        """A text that changes with any of the records; None if that cannot be determined."""
        return None

    @property
    def digest(self) -> str | None:
        """Hash of the records' names and sizes, independent of where the files are; None if it cannot be determined."""
        return None

    @property
    def files(self) -> frozenset[str]:
        """Absolute paths of the files that records are read from; two sources with a common file share records."""
        return frozenset()

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the user about how the data was read."""
        return ()

    @property
    def layout(self) -> Layout | None:
        """The source's shards and blocks; None for a source that is read record by record."""
        return None

    def hold(self, streams: int, /) -> None:
        """Set for how many streams of blocks memory is taken, if the source has a `layout`."""

    def read_ahead(self, rows: list[int], /) -> None:
        """Begin to read the blocks that hold these records, if the source has a `layout`."""

    def missing_shards(self) -> dict[str, str]:
        """Return the shards that are gone or have changed, and how; a request for each shard of a `layout`."""
        return {}

    def replace_shards(self, shards: Collection[str], /) -> None:
        """Read the samples of these shards from others from now on, if the source has a `layout`."""

    def first(self, count: int) -> Source:
        """Return the source of the first ``count`` records."""
        return SubsetSource(self, np.arange(count))

    def spread(self, count: int) -> np.ndarray:
        """Return the indices of at most ``count`` records, spread over the source, int64 [N]; 0 takes all."""
        return evenly_spaced(len(self), count)

    def hashes(self) -> np.ndarray:
        """Return a uniformly distributed hash per record, uint64 [N]; `hash_split` holds out records by it."""
        return hash_indices(len(self), "")

    def __len__(self) -> int:
        raise NotImplementedError

    def name(self, i: int, /) -> str:
        """Return the name of record ``i`` in messages."""
        raise NotImplementedError

    def __getitem__(self, i: int, /) -> Record:
        """Return record ``i``. Raises BrokenRecord when it cannot be read."""
        return _single(self.get_many([i]))

    def captions(self, i: int, /) -> tuple[str, ...]:
        """Return the captions of record ``i`` without reading its image. Raises BrokenRecord when that fails."""
        return _single(self.get_many_captions([i]))

    def get_many(self, rows: list[int], /) -> list[Record | BrokenRecord]:
        """Return the records of ``rows``, or the error of each broken one; remote sources read them in one request."""
        return [_try_read(self.__getitem__, i) for i in rows]

    def get_many_captions(self, rows: list[int], /) -> list[tuple[str, ...] | BrokenRecord]:
        """Return the captions of ``rows`` without their images, or the error of each record that is broken."""
        return [_try_read(self.captions, i) for i in rows]


def _single(results: list[T | BrokenRecord]) -> T:
    if isinstance(results[0], BrokenRecord):
        raise results[0]
    return results[0]


def _try_read(get: Callable[[int], T], i: int) -> T | BrokenRecord:
    try:
        return get(i)
    except BrokenRecord as error:
        return error


def hash_indices(count: int, name: str) -> np.ndarray:
    """Return the hashes of 0 to ``count`` - 1, seeded by ``name``: uint64 [count] (splitmix64; Steele et al., 2014)."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    with np.errstate(over="ignore"):
        z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class ConcatSource(Source):
    """The concatenation of several sources."""

    def __init__(self, parts: list[Source]) -> None:
        self.parts = parts
        self.ends = np.cumsum([len(p) for p in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    @property
    def identity(self) -> str | None:
        identities = [part.identity for part in self.parts]
        return None if None in identities else " | ".join(map(str, identities))

    @property
    def digest(self) -> str | None:
        digests = [part.digest for part in self.parts]
        return None if None in digests else hashlib.sha256(" ".join(map(str, digests)).encode()).hexdigest()[:32]

    @property
    def files(self) -> frozenset[str]:
        return frozenset[str]().union(*(part.files for part in self.parts))

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(note for part in self.parts for note in part.notes)

    @property
    def layout(self) -> Layout | None:
        layouts = [layout for part in self.parts if (layout := part.layout) is not None]
        if len(layouts) < len(self.parts):
            return None
        return Layout(np.concatenate([p.counts for p in layouts]), np.concatenate([p.blocks for p in layouts]))

    def first(self, count: int) -> Source:
        if self.layout is None:
            return super().first(count)
        parts = [
            p.first(min(len(p), count - self._begin(n))) for n, p in enumerate(self.parts) if self._begin(n) < count
        ]
        return ConcatSource(parts)

    def hold(self, streams: int) -> None:
        for part in self.parts:
            part.hold(streams)

    def read_ahead(self, rows: list[int]) -> None:
        for part, source in enumerate(self.parts):
            begin, end = self._begin(part), int(self.ends[part])
            source.read_ahead([row - begin for row in rows if begin <= row < end])

    def missing_shards(self) -> dict[str, str]:
        return {shard: reason for part in self.parts for shard, reason in part.missing_shards().items()}

    def replace_shards(self, shards: Collection[str]) -> None:
        for part in self.parts:
            part.replace_shards(shards)

    def _begin(self, part: int) -> int:
        return int(self.ends[part - 1]) if part else 0

    def name(self, i: int) -> str:
        part = int(np.searchsorted(self.ends, i, side="right"))
        return self.parts[part].name(i - self._begin(part))

    def get_many(self, rows: list[int]) -> list[Record | BrokenRecord]:
        return self._each(rows, lambda part, part_rows: part.get_many(part_rows))

    def get_many_captions(self, rows: list[int]) -> list[tuple[str, ...] | BrokenRecord]:
        return self._each(rows, lambda part, part_rows: part.get_many_captions(part_rows))

    def _each(self, rows: list[int], read: Callable[[Source, list[int]], list[T]]) -> list[T]:
        """Call ``read`` on each part with its rows; return the results in the order of ``rows``."""
        index = np.array(rows, np.int64)
        part_of = np.searchsorted(self.ends, index, side="right")
        results: dict[int, T] = {}
        for part in np.unique(part_of).tolist():
            positions = np.flatnonzero(part_of == part)
            answers = read(self.parts[part], (index[positions] - self._begin(part)).tolist())
            results.update(zip(positions.tolist(), answers, strict=True))
        return [results[n] for n in range(len(rows))]


class SubsetSource(Source):
    """A subset of a source: ``rows``, int64 [N]."""

    def __init__(self, source: Source, rows: np.ndarray) -> None:
        self.source, self.rows = source, rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def identity(self) -> str | None:
        whole = self.source.identity
        return None if whole is None else f"{whole} {hashlib.sha256(self.rows.tobytes()).hexdigest()}"

    @property
    def digest(self) -> str | None:
        return self.source.digest

    @property
    def files(self) -> frozenset[str]:
        return self.source.files

    @property
    def notes(self) -> tuple[str, ...]:
        return self.source.notes

    def name(self, i: int) -> str:
        return self.source.name(int(self.rows[i]))

    def get_many(self, rows: list[int]) -> list[Record | BrokenRecord]:
        return self.source.get_many(self.rows[rows].tolist())

    def get_many_captions(self, rows: list[int]) -> list[tuple[str, ...] | BrokenRecord]:
        return self.source.get_many_captions(self.rows[rows].tolist())


def evenly_spaced(total: int, limit: int) -> np.ndarray:
    """Return the indices of at most ``limit`` of ``total`` records, evenly spaced; int64 [N]. 0 takes all."""
    if not limit or limit >= total:
        return np.arange(total)
    return np.linspace(0, total - 1, limit).round().astype(np.int64)


def hash_split(source: Source, fraction: float, *, held_out: bool) -> SubsetSource:
    """Return the records whose hash is in the first ``fraction`` of the range; the others if not ``held_out``."""
    selected = source.hashes() < np.uint64(int(fraction * 2**64))
    return SubsetSource(source, np.flatnonzero(selected if held_out else ~selected))
