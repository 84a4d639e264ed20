"""Where records come from: one base class, one function that opens what a config names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from clip_jax.config import ConfigError, DataConfig, UserError

T = TypeVar("T")


class BrokenRecord(ValueError):
    """One record that cannot be read; the loader counts it and passes over it, up to a limit."""


@dataclass(frozen=True)
class Record:
    """An image (encoded bytes, or uint8 [H, W, 3]) and its captions, at least one."""

    image: bytes | np.ndarray
    captions: tuple[str, ...]


class Source:
    """Records by index, in any order, from any thread. A kind overrides `many` or `__getitem__`; likewise for captions.

    ``infinite``: indices beyond the length give new records too.
    """

    infinite = False

    @property
    def identity(self) -> str | None:
        """A text that changes with any of the records; None where that is not known."""
        return None

    def __len__(self) -> int:
        raise NotImplementedError

    def name(self, i: int, /) -> str:
        """What record ``i`` is called in messages."""
        raise NotImplementedError

    def __getitem__(self, i: int, /) -> Record:
        """Raises BrokenRecord."""
        return _only(self.many([i]))

    def captions(self, i: int, /) -> tuple[str, ...]:
        """The captions of record ``i``, without its image. Raises BrokenRecord."""
        return _only(self.many_captions([i]))

    def many(self, rows: list[int], /) -> list[Record | BrokenRecord]:
        """The records, or why one is none; asked for at once, which a remote source answers faster."""
        return [_tried(self.__getitem__, i) for i in rows]

    def many_captions(self, rows: list[int], /) -> list[tuple[str, ...] | BrokenRecord]:
        """Likewise, the captions alone."""
        return [_tried(self.captions, i) for i in rows]


def _only(found: list[T | BrokenRecord]) -> T:
    if isinstance(found[0], BrokenRecord):
        raise found[0]
    return found[0]


def _tried(get: Callable[[int], T], i: int) -> T | BrokenRecord:
    try:
        return get(i)
    except BrokenRecord as error:
        return error


class Joined(Source):
    """Several sources one after the other."""

    def __init__(self, parts: list[Source]) -> None:
        self.parts = parts
        self.ends = np.cumsum([len(p) for p in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    @property
    def identity(self) -> str | None:
        found = [part.identity for part in self.parts]
        return None if None in found else " | ".join(map(str, found))

    def _begin(self, part: int) -> int:
        return int(self.ends[part - 1]) if part else 0

    def name(self, i: int) -> str:
        part = int(np.searchsorted(self.ends, i, side="right"))
        return self.parts[part].name(i - self._begin(part))

    def many(self, rows: list[int]) -> list[Record | BrokenRecord]:
        return self._each(rows, lambda part, own: part.many(own))

    def many_captions(self, rows: list[int]) -> list[tuple[str, ...] | BrokenRecord]:
        return self._each(rows, lambda part, own: part.many_captions(own))

    def _each(self, rows: list[int], read: Callable[[Source, list[int]], list[T]]) -> list[T]:
        """What each part gives of its own rows, in the order of ``rows``."""
        index = np.array(rows, np.int64)
        part_of = np.searchsorted(self.ends, index, side="right")
        found: dict[int, T] = {}
        for part in np.unique(part_of).tolist():
            mine = np.flatnonzero(part_of == part)
            answers = read(self.parts[part], (index[mine] - self._begin(part)).tolist())
            found.update(zip(mine.tolist(), answers, strict=True))
        return [found[n] for n in range(len(rows))]


class First(Source):
    """The first ``count`` records of a source."""

    def __init__(self, source: Source, count: int) -> None:
        self.source, self.count = source, count

    def __len__(self) -> int:
        return self.count

    def name(self, i: int) -> str:
        return self.source.name(i)

    def many(self, rows: list[int]) -> list[Record | BrokenRecord]:
        return self.source.many(rows)

    def many_captions(self, rows: list[int]) -> list[tuple[str, ...] | BrokenRecord]:
        return self.source.many_captions(rows)


def open_source(config: DataConfig, split: str, image_size: int) -> Source:
    """The records of ``split`` (train | val), all ``data.paths`` joined; held-out ones of ``data.val_paths``, if given.

    Raises UserError naming the file or field when something is missing or malformed.
    """
    if config.source == "scenes":
        from clip_jax.data.scenes import ScenesSource

        return ScenesSource(config.scenes, split, image_size)
    name = config.train_split if split == "train" else config.val_split
    paths = config.val_paths if split == "val" and config.val_paths else config.paths
    if split == "val" and not config.val_paths and config.source == "webdataset":
        _refuse_training_shards(config.paths)
    parts = [_open_path(config, p, name) for p in paths]
    for path, part in zip(paths, parts, strict=True):
        if config.weights and len(part) == 0:
            raise UserError(f"{path}: split {name!r} has no records, so it can have no share (data.weights)")
    source: Source = parts[0] if len(parts) == 1 else Joined(parts)
    if len(source) == 0:
        raise UserError(f"{', '.join(paths)}: split {name!r} has no records")
    if split == "train" and config.unique_samples:
        if config.unique_samples > len(source):
            raise ConfigError(
                f"data.unique_samples={config.unique_samples}: the training split has only {len(source)} records"
            )
        source = First(source, config.unique_samples)
    return source


def _refuse_training_shards(paths: tuple[str, ...]) -> None:
    from clip_jax.data.shards import names_files

    for path in paths:
        if names_files(path):
            raise UserError(f"{path}: names shards, which have no held-out split; name others in data.val_paths")


def _open_path(config: DataConfig, path: str, split: str) -> Source:
    if config.source == "webdataset":
        from clip_jax.data.webdataset import WebDataset

        return WebDataset(path, split)
    if not Path(path).exists():
        raise UserError(f"{path}: no such file or folder (data.paths)")
    if config.source == "folder":
        from clip_jax.data.folder import CaptionedFolder

        return CaptionedFolder(Path(path), split)
    from clip_jax.data.tfds import TfdsSource

    return TfdsSource(Path(path), split, config.image_key, config.caption_key)
