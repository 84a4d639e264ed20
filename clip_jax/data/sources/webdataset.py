"""WebDataset tar shards with random access by an index; shards are neither extracted nor read whole."""

from __future__ import annotations

import hashlib
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from clip_jax.data.sources import tar_index
from clip_jax.data.sources.base import BrokenRecord, Record, Source, hash_indices
from clip_jax.data.sources.shard_list import shards_of
from clip_jax.data.sources.tar_index import BLOCK, IMAGES, MEMBERS
from clip_jax.errors import one_line
from clip_jax.storage import range_reads as remote
from clip_jax.storage.paths import cache_folder, is_url

MAX_GAP = 16 * 1024  # bytes between two members up to which one request is cheaper than two
SCAN_THREADS = 16  # shards scanned in parallel
SLOW_S = 10.0  # from which on the time that the index took is told


class Shards:
    """Samples of a list of shards, in file order, and the bytes of their members.

    The index takes 8 bytes per member (image and text: 16 bytes per sample), 8 per shard, and the shards' names. Worker
    processes map it from a file of the cache folder, so it is in memory at most twice.
    """

    def __init__(self, shards: list[str]) -> None:
        self.shards = shards
        began = time.monotonic()
        with ThreadPoolExecutor(SCAN_THREADS) as pool:
            indices = list(pool.map(tar_index.load_index, shards))
        parts = [index.offsets for index in indices]
        self.ends = np.cumsum([p.shape[1] for p in parts], dtype=np.int64)
        names = "".join(f"{s.rpartition('/')[2]} {index.digest}\n" for s, index in zip(shards, indices, strict=True))
        self.digest = hashlib.sha256(names.encode()).hexdigest()[:32]
        self.notes = tuple(_notes(shards, [index.passed for index in indices]))
        if (seconds := time.monotonic() - began) >= SLOW_S:
            took = f"the members of {len(shards):,} shards were looked up in {seconds:,.0f} s"
            self.notes += (f"{took}; a run from an index (clip-jax data index) does not",)
        used = [any(p[2 * m].any() for p in parts) for m in range(len(MEMBERS))]
        self.members = tuple(m for m, occurs in zip(MEMBERS, used, strict=True) if occurs)
        # offset and size of each member that occurs: uint32 [2 · members, N]
        self.offsets = np.ascontiguousarray(np.concatenate([p[np.repeat(used, 2)] for p in parts], axis=1))

    def __len__(self) -> int:
        return self.offsets.shape[1]

    @property
    def index_bytes(self) -> int:
        """Size of the index in bytes."""
        return self.offsets.nbytes + self.ends.nbytes + sum(map(len, self.shards))

    def __getstate__(self) -> dict[str, object]:
        """Return the state for worker processes: the index as the path of a file to map, if one can be written."""
        digest = hashlib.sha256(self.offsets.data).hexdigest()[:32]
        path = cache_folder("shards") / f"joined-{digest}.npy"
        if not path.exists() and not tar_index.write_atomically(path, lambda file: np.save(file, self.offsets)):
            return self.__dict__
        return {**self.__dict__, "offsets": path}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__ = state
        if isinstance(self.offsets, Path):
            self.offsets = np.load(self.offsets, mmap_mode="r", allow_pickle=False)

    def _shard(self, i: int) -> str:
        return self.shards[int(np.searchsorted(self.ends, i, side="right"))]

    def _span(self, i: int, member: str) -> tuple[int, int] | None:
        """Return the first byte of a member and the byte after its last; None when the sample has no such member."""
        if member not in self.members:
            return None
        row = 2 * self.members.index(member)
        start = int(self.offsets[row, i]) * BLOCK
        return (start, start + int(self.offsets[row + 1, i])) if start else None

    def name(self, i: int) -> str:
        """Return the sample's name for messages, shard and key, read from the shard (a very long name is truncated)."""
        shard = self._shard(i)
        spans = [p for m in self.members if (p := self._span(i, m))]
        if not spans:
            return f"{shard}[{i}]"
        start = min(spans)[0]
        header = remote.read([remote.Range(shard, start - BLOCK, start)])[0]
        name = tarfile.TarInfo.frombuf(header, "utf-8", "replace").name
        return f"{shard}:{one_line(tar_index.split_name(name)[0])}"

    def read(self, rows: list[int], members: tuple[str, ...]) -> list[dict[str, memoryview]]:
        """Read those of ``members`` that each sample has, adjacent ones in one request.

        Raises UserError when a shard cannot be read.
        """
        index = np.array(rows, np.int64)
        byte_spans = []  # of each member: its name, and the first byte of each sample's (0: it has none), and the end
        for member in set(members) & set(self.members):
            row = 2 * self.members.index(member)
            begins = self.offsets[row, index].astype(np.int64) * BLOCK
            byte_spans.append((member, begins.tolist(), (begins + self.offsets[row + 1, index]).tolist()))
        ranges: list[tuple[str, int, int]] = []
        spans = []  # (row of the result, member, index of the range, first byte in it, end)
        for answer, shard in enumerate(np.searchsorted(self.ends, index, side="right").tolist()):
            last = -1
            for start, end, member in sorted((b[answer], e[answer], m) for m, b, e in byte_spans if b[answer]):
                first = ranges[-1][1] if last >= 0 and start - last <= MAX_GAP else start
                if first != start:
                    ranges.pop()
                ranges.append((self.shards[shard], first, end))
                spans.append((answer, member, len(ranges) - 1, start - first, end - first))
                last = end
        data = [memoryview(part) for part in remote.read([remote.Range(*r) for r in ranges])]
        out: list[dict[str, memoryview]] = [{} for _ in rows]
        for answer, member, number, begin, end in spans:
            out[answer][member] = data[number][begin:end]
        return out

    def image(self, i: int) -> memoryview:
        """Return the encoded image of sample ``i``. Raises BrokenRecord when it has none."""
        return self.image_of(i, self.read([i], ("image",))[0])

    def member(self, i: int, extension: str) -> str:
        """Return a text member of sample ``i``, txt or cls. Raises BrokenRecord when it is missing or not UTF-8."""
        return self.text_of(i, extension, self.read([i], (extension,))[0])

    def image_of(self, i: int, members: dict[str, memoryview]) -> memoryview:
        """Return the image from the members of sample ``i`` as `read` returns them. Raises BrokenRecord without one."""
        if "image" not in members:
            raise BrokenRecord(field=self.name(i), reason=f"has no image ({', '.join(IMAGES)})")
        return members["image"]

    def text_of(self, i: int, extension: str, members: dict[str, memoryview]) -> str:
        """Return a text from the members of sample ``i`` as `read` returns them. Raises BrokenRecord like `member`."""
        return decode_text(members.get(extension), extension, lambda: self.name(i))


def decode_text(data: bytes | memoryview | None, extension: str, name: Callable[[], str]) -> str:
    """Return a text member of a sample. Raises BrokenRecord with its name when it is missing or not UTF-8."""
    if data is None:
        raise BrokenRecord(field=name(), reason=f"has no .{extension}")
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        raise BrokenRecord(field=name(), reason=f".{extension} is not UTF-8 text") from None


def decode_captions(data: bytes | memoryview | None, name: Callable[[], str]) -> tuple[str, ...]:
    """Return the lines of a sample's .txt that are not empty. Raises BrokenRecord like `decode_text`, or if all are."""
    lines = tuple(line.strip() for line in decode_text(data, "txt", name).split("\n") if line.strip())
    if not lines:
        raise BrokenRecord(field=name(), reason="its .txt is empty")
    return lines


def _notes(shards: list[str], passed: list[dict[str, tuple[int, str]]]) -> Iterator[str]:
    for kind, text in tar_index.SKIPPED.items():
        samples = [(shard, counts[kind]) for shard, counts in zip(shards, passed, strict=True) if kind in counts]
        if samples:
            shard, (_, name) = samples[0]
            yield f"{sum(count for _, (count, _) in samples):,} {text} ({shard}: {name})"


class WebDataset(Source):
    """Pairs of KEY.jpg (or png, webp) and KEY.txt with one caption per line; lines end at ``\\n`` alone."""

    def __init__(self, path: str | Path, split: str) -> None:
        self.shards = Shards(shards_of(path, split))

    def __len__(self) -> int:
        return len(self.shards)

    @property
    def identity(self) -> str:
        return " ".join(f"{shard} {remote.stat(shard)}" for shard in self.shards.shards)

    @property
    def digest(self) -> str:
        return self.shards.digest

    @property
    def files(self) -> frozenset[str]:
        return frozenset(s if is_url(s) else os.path.realpath(remote.local_path(s)) for s in self.shards.shards)

    @property
    def notes(self) -> tuple[str, ...]:
        return self.shards.notes

    def hashes(self) -> np.ndarray:
        """Return hashes of shard name and position in the shard; shards added later do not change a record's hash."""
        ends = self.shards.ends.tolist()
        return np.concatenate([
            hash_indices(end - begin, shard.rpartition("/")[2])
            for shard, begin, end in zip(self.shards.shards, [0, *ends], ends, strict=False)
        ])  # fmt: skip

    def name(self, i: int) -> str:
        return self.shards.name(i)

    def _captions(self, i: int, members: dict[str, memoryview]) -> tuple[str, ...]:
        return decode_captions(members.get("txt"), lambda: self.name(i))

    def get_many(self, rows: list[int]) -> list[Record | BrokenRecord]:
        out: list[Record | BrokenRecord] = []
        for i, members in zip(rows, self.shards.read(rows, ("image", "txt")), strict=True):
            try:
                out.append(Record(self.shards.image_of(i, members), self._captions(i, members)))
            except BrokenRecord as error:
                out.append(error)
        return out

    def get_many_captions(self, rows: list[int]) -> list[tuple[str, ...] | BrokenRecord]:
        out: list[tuple[str, ...] | BrokenRecord] = []
        for i, members in zip(rows, self.shards.read(rows, ("txt",)), strict=True):
            try:
                out.append(self._captions(i, members))
            except BrokenRecord as error:
                out.append(error)
        return out
