"""Where records come from: one protocol, one function that opens what a config names."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from clip_jax.config import ConfigError, DataConfig, UserError


class BrokenRecord(ValueError):
    """One record that cannot be read; the loader counts it and passes over it, up to a limit."""


@dataclass(frozen=True)
class Record:
    """An image (encoded bytes, or uint8 [H, W, 3]) and its captions, at least one."""

    key: str
    image: bytes | np.ndarray
    captions: tuple[str, ...]


class Source(Protocol):
    """Records by index, in any order, from any thread."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Record:
        """Raises BrokenRecord."""
        ...

    def captions(self, i: int, /) -> tuple[str, ...]:
        """The captions of record ``i``, without its image. Raises BrokenRecord."""
        ...


class Joined:
    """Several sources one after the other."""

    def __init__(self, parts: list[Source]) -> None:
        self.parts = parts
        self.ends = np.cumsum([len(p) for p in parts]).tolist()

    def __len__(self) -> int:
        return self.ends[-1]

    def _find(self, i: int) -> tuple[Source, int]:
        part = bisect.bisect_right(self.ends, i)
        return self.parts[part], i - (self.ends[part - 1] if part else 0)

    def __getitem__(self, i: int) -> Record:
        part, j = self._find(i)
        return part[j]

    def captions(self, i: int) -> tuple[str, ...]:
        part, j = self._find(i)
        return part.captions(j)


class First:
    """The first ``count`` records of a source."""

    def __init__(self, source: Source, count: int) -> None:
        self.source, self.count = source, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Record:
        return self.source[i]

    def captions(self, i: int) -> tuple[str, ...]:
        return self.source.captions(i)


def open_source(config: DataConfig, split: str, image_size: int) -> Source:
    """The records of ``split`` (train | val), all ``data.paths`` joined.

    Raises UserError naming the file or field when something is missing or malformed.
    """
    if config.source == "scenes":
        from clip_jax.data.scenes import ScenesSource

        return ScenesSource(config.scenes, split, image_size)
    name = config.train_split if split == "train" else config.val_split
    parts = [_open_path(config, Path(p), name) for p in config.paths]
    source: Source = parts[0] if len(parts) == 1 else Joined(parts)
    if len(source) == 0:
        raise UserError(f"{', '.join(config.paths)}: split {name!r} has no records")
    if split == "train" and config.unique_samples:
        if config.unique_samples > len(source):
            raise ConfigError(
                f"data.unique_samples={config.unique_samples}: the training split has only {len(source)} records"
            )
        source = First(source, config.unique_samples)
    return source


def _open_path(config: DataConfig, path: Path, split: str) -> Source:
    if not path.exists():
        raise UserError(f"{path}: no such file or folder (data.paths)")
    if config.source == "webdataset":
        from clip_jax.data.webdataset import WebDataset

        return WebDataset(path, split)
    if config.source == "folder":
        from clip_jax.data.folder import CaptionedFolder

        return CaptionedFolder(path, split)
    from clip_jax.data.tfds import TfdsSource

    return TfdsSource(path, split, config.image_key, config.caption_key)
