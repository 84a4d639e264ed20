"""Where the members of a tar shard lie: scanned once from its headers, then kept in the user's cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from clip_jax.config import UserError
from clip_jax.data import remote

IMAGES = ("jpg", "jpeg", "png", "webp")  # in order of preference
MEMBERS = ("image", "txt", "cls", "npy")  # what is indexed; other members are passed over
BLOCK = tarfile.BLOCKSIZE
AHEAD = 16 * BLOCK  # bytes read at a header: those of small members come along
FORMAT = 2


def load_index(shard: str) -> np.ndarray:
    """Places of a shard's samples, uint32 [2 · len(MEMBERS), N], in file order: for each of `MEMBERS` the offset in
    blocks of 512 bytes (0: the sample has none) and the bytes. From the cache where that is good, else scanned.

    Raises UserError when the shard is missing or no whole tar.
    """
    size, version = remote.stat(shard)
    identity = f"{FORMAT} {shard} {size} {version}"
    path = cache_folder() / f"{hashlib.sha256(shard.encode()).hexdigest()[:32]}.npz"
    places = _cached(path, identity)
    if places is None:
        places = scan(shard, size)
        keep(path, lambda file: np.savez(file, identity=np.array(identity), places=places, allow_pickle=False))
    return places


def cache_folder() -> Path:
    """``$CLIP_JAX_CACHE/shards``, or ``clip_jax/shards`` in the user's cache folder."""
    base = os.environ.get("CLIP_JAX_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return (Path(base) if base else Path(home) / "clip_jax") / "shards"


def _cached(path: Path, identity: str) -> np.ndarray | None:
    """The entry, unless it is missing, of another content, or damaged (an archive has check sums)."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            if str(found["identity"]) != identity:
                return None
            places = found["places"]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    fits = places.dtype == np.uint32 and places.ndim == 2 and len(places) == 2 * len(MEMBERS)
    return places if fits else None


def keep(path: Path, write: Callable[[Any], None]) -> bool:
    """Write a file whole or not at all. False when the folder cannot be written: a cache is no duty."""
    part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            write(file)
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        return False
    return True


def scan(shard: str, size: int) -> np.ndarray:
    """Read the headers of a tar of ``size`` bytes; see `load_index`. Raises UserError when it is not a whole tar."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    end = 0
    try:
        with tarfile.open(fileobj=_Headers(shard, size), mode="r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # it would remember them all
                if not member.isfile():
                    continue
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError("unexpected end of data")
                if member.size >= 1 << 32:
                    raise tarfile.ReadError(f"{member.name} is larger than 4 GiB")
                folder, _, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                samples.setdefault(key, {})[extension.lower()] = (member.offset_data // BLOCK, member.size)
                end = member.offset_data + -(-member.size // BLOCK) * BLOCK
        # a whole archive ends with blocks of zeros; a truncated one just stops, which tarfile takes for an end
        if remote.read([remote.Range(shard, end, min(end + BLOCK, size))])[0] != bytes(BLOCK):
            raise tarfile.ReadError("it ends early")
    except tarfile.ReadError as error:
        raise UserError(f"{shard}: not a readable tar shard ({error})") from None
    rows = [_row(members) for members in samples.values()]
    return np.ascontiguousarray(np.array(rows, np.uint32).reshape(len(rows), 2 * len(MEMBERS)).T)


def _row(members: dict[str, tuple[int, int]]) -> list[int]:
    picture = next((members[e] for e in IMAGES if e in members), (0, 0))
    return [*picture, *(number for name in MEMBERS[1:] for number in members.get(name, (0, 0)))]


class _Headers(io.RawIOBase):
    """A file of which only the parts that are looked at are read, `AHEAD` bytes at a time."""

    def __init__(self, shard: str, size: int) -> None:
        self._shard, self._size = shard, size
        self._at = self._begin = 0
        self._part = b""

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        assert whence == 0
        self._at = offset
        return offset

    def read(self, count: int = -1) -> bytes:
        end = min(self._at + count, self._size) if count >= 0 else self._size
        if end <= self._at:
            return b""
        if not self._begin <= self._at <= end <= self._begin + len(self._part):
            last = min(max(end, self._at + AHEAD), self._size)
            self._begin, self._part = self._at, remote.read([remote.Range(self._shard, self._at, last)])[0]
        data = self._part[self._at - self._begin : end - self._begin]
        self._at = end
        return data
