"""WebDataset tar shards, indexed once and read at random places; nothing is extracted."""

from __future__ import annotations

import os
import tarfile
import threading
from pathlib import Path
from typing import NamedTuple

from clip_jax.config import UserError
from clip_jax.data.sources import BrokenRecord, Record

IMAGES = ("jpg", "jpeg", "png", "webp")


class Place(NamedTuple):
    """Bytes of one member: shard number, offset, length."""

    shard: int
    offset: int
    size: int


def shards_of(path: Path, split: str) -> list[Path]:
    """The tar files of PATH/SPLIT/, or PATH itself when it is a file. Raises UserError when there are none."""
    if path.is_file():
        return [path]
    shards = sorted((path / split).glob("*.tar"), key=lambda p: (len(p.name), p.name))
    if not shards:
        there = sorted({p.parent.name for p in path.glob("*/*.tar")}) or ["none"]
        raise UserError(f"{path / split}: no .tar shards there; splits found: {', '.join(there)}")
    return shards


def index_shard(path: Path, number: int) -> dict[str, dict[str, Place]]:
    """Key -> extension -> place, in file order. Raises UserError when it is not a whole tar."""
    samples: dict[str, dict[str, Place]] = {}
    end = 0
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                if member.offset_data + member.size > path.stat().st_size:
                    raise tarfile.ReadError("unexpected end of data")
                folder, _, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                samples.setdefault(key, {})[extension.lower()] = Place(number, member.offset_data, member.size)
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        # a whole archive ends with blocks of zeros; a truncated one just stops, which tarfile takes for an end
        with path.open("rb") as file:
            file.seek(end)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it ends early")
    except tarfile.ReadError as error:
        raise UserError(f"{path}: not a readable tar shard ({error})") from None
    return samples


class Shards:
    """Samples of a list of shards: ordered keys, and their members' bytes."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.samples: list[tuple[str, dict[str, Place]]] = []
        for number, path in enumerate(paths):
            self.samples += index_shard(path, number).items()
        self._files: dict[int, int] = {}
        self._lock = threading.Lock()

    def name(self, i: int) -> str:
        """The sample's name for messages: shard and key."""
        key, members = self.samples[i]
        return f"{self.paths[next(iter(members.values())).shard]}:{key}"

    def read(self, place: Place) -> bytes:
        """The bytes of one member."""
        with self._lock:
            file = self._files.get(place.shard)
            if file is None:
                file = self._files[place.shard] = os.open(self.paths[place.shard], os.O_RDONLY)
        return os.pread(file, place.size, place.offset)

    def image(self, i: int) -> bytes:
        """The encoded image of sample ``i``. Raises BrokenRecord when it has none."""
        members = self.samples[i][1]
        for extension in IMAGES:
            if extension in members:
                return self.read(members[extension])
        raise BrokenRecord(f"{self.name(i)}: has no image ({', '.join(IMAGES)})")

    def member(self, i: int, extension: str) -> str:
        """A text member of sample ``i``. Raises BrokenRecord when it is missing or no UTF-8."""
        place = self.samples[i][1].get(extension)
        if place is None:
            raise BrokenRecord(f"{self.name(i)}: has no .{extension}")
        try:
            return self.read(place).decode()
        except UnicodeDecodeError:
            raise BrokenRecord(f"{self.name(i)}: .{extension} is not UTF-8 text") from None


class WebDataset:
    """Pairs KEY.jpg (or png, webp) + KEY.txt, one caption a line."""

    def __init__(self, path: Path, split: str) -> None:
        self.shards = Shards(shards_of(path, split))

    def __len__(self) -> int:
        return len(self.shards.samples)

    def captions(self, i: int) -> tuple[str, ...]:
        """The captions of record ``i``. Raises BrokenRecord when there are none."""
        lines = tuple(line.strip() for line in self.shards.member(i, "txt").splitlines() if line.strip())
        if not lines:
            raise BrokenRecord(f"{self.shards.name(i)}: its .txt is empty")
        return lines

    def __getitem__(self, i: int) -> Record:
        return Record(self.shards.name(i), self.shards.image(i), self.captions(i))
