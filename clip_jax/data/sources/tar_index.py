"""Index of the members of a tar shard: scanned once from its headers, then cached in the user's cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from clip_jax.errors import UserError, one_line
from clip_jax.storage import range_reads as remote
from clip_jax.storage.paths import cache_folder

IMAGES = ("jpg", "jpeg", "png", "webp")  # in order of preference
MEMBERS = ("image", "txt", "cls", "npy")  # indexed members; others are skipped
BLOCK = tarfile.BLOCKSIZE
MIN_READ = 16 * BLOCK  # bytes per read of a header; includes small members
TAIL_CHUNK = 1 << 20  # bytes per read after the last member
FORMAT = 3
KNOWN = (*IMAGES, *MEMBERS[1:])  # extensions of indexed members
SKIPPED = {  # kinds of skipped members, and the note about each
    "pictures": "samples hold several pictures: the first of " + ", ".join(IMAGES) + " is taken",
    "dotted": "members are passed over: a key ends at the first dot where a sample of that key is",
}


class Index(NamedTuple):
    """Index of one shard.

    ``offsets``: uint32 [2 · len(MEMBERS), N], in file order: for each of `MEMBERS` the offset in blocks of 512 bytes
    (0: the sample has none) and the size in bytes. ``digest``: hash of all members' names and sizes, 32 hex digits.
    ``passed``: for keys of `SKIPPED`, how many members were skipped, and the name of one. Not in the cache: ``keys`` of
    the samples, [N], and ``json``, the offset and size of each one's ``.json``, uint32 [2, N].
    """

    offsets: np.ndarray
    digest: str
    passed: dict[str, tuple[int, str]]
    keys: tuple[str, ...] = ()
    json: np.ndarray | None = None


def load_index(shard: str) -> Index:
    """Return the index of a shard, from the cache if it is valid, else by scanning the shard.

    Raises UserError when the shard is missing or is not a complete tar, or holds a member twice.
    """
    size, version = remote.stat(shard)
    identity = f"{FORMAT} {shard} {size} {version}"
    path = cache_folder("shards") / f"{hashlib.sha256(shard.encode()).hexdigest()[:32]}.npz"
    index = _cached(path, identity)
    if index is None:
        index = scan(shard, size)._replace(keys=(), json=None)
        header = np.array([identity, index.digest, json.dumps(index.passed)])
        arrays = {"told": header, "places": index.offsets}  # keys of the cache's format
        write_atomically(path, lambda file: np.savez(file, allow_pickle=False, **arrays))
    return index


def _cached(path: Path, identity: str) -> Index | None:
    """Return the cached index; None if it is missing, for other contents, or damaged."""
    try:
        arrays = read_arrays(path) or {}
        known, digest, passed = map(str, arrays["told"])
        offsets = arrays["places"]
        counts = {kind: (int(count), str(name)) for kind, (count, name) in json.loads(passed).items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    fits = offsets.dtype == np.uint32 and offsets.ndim == 2 and len(offsets) == 2 * len(MEMBERS)
    return Index(offsets, digest, counts) if fits and known == identity else None


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """Read the arrays of an .npz file; None when it is missing or damaged (the format has checksums)."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except Exception:  # noqa: BLE001  (a damaged archive makes the reader raise anything)
        return None


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> bool:
    """Write a file atomically. Returns False when the folder cannot be written; a cache is optional."""
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


def scan(shard: str, size: int, open_shard: Callable[[str, int], io.RawIOBase] | None = None) -> Index:
    """Index a tar by its headers.

    Args:
      shard: path or URL.
      size: its size in bytes.
      open_shard: opens the shard, given these two, to be read forwards; by default only the headers are read.

    Raises:
      UserError: the tar is incomplete or holds a member twice.
    """
    open_shard = open_shard or HeaderReader
    try:
        every = plain_members(open_shard(shard, size), size)
        if every is None:
            every = tarfile_members(open_shard(shard, size), shard, size)
    except tarfile.ReadError as error:
        reason = f"not a readable tar shard ({error})"
        raise UserError(field=shard, reason=reason) from None
    text = "".join(f"{m.name}\0{m.size}\n" for m in every)
    sha = hashlib.sha256(text.encode("utf-8", "surrogateescape"))
    members = [m for m in every if not remote.is_hidden(m.name)]
    samples, passed = _samples(shard, members)
    rows = [_row(sample) for sample in samples.values()]
    offsets = np.ascontiguousarray(np.array(rows, np.uint32).reshape(len(rows), 2 * len(MEMBERS)).T)
    json_members = [(m.block, m.size) if (m := sample.get("json")) else (0, 0) for sample in samples.values()]
    json_offsets = np.array(json_members, np.uint32).reshape(-1, 2).T
    return Index(offsets, sha.hexdigest()[:32], passed, tuple(samples), json_offsets)


def tarfile_members(file: io.RawIOBase, shard: str, size: int) -> list[Member]:
    """Return the files in a tar of any format, as tarfile finds them.

    Args:
      file: the shard.
      shard: its path or URL.
      size: its length in bytes.

    Raises:
      ReadError: it is incomplete, or holds a sparse file or one of 4 GiB.
    """
    members = []
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]  # TarFile keeps every member otherwise
            if not member.isfile():
                continue
            if member.offset_data + member.size > size:
                raise tarfile.ReadError("unexpected end of data")
            if member.size >= 1 << 32:
                raise tarfile.ReadError(f"{one_line(member.name)} is larger than 4 GiB")
            if member.issparse():
                raise tarfile.ReadError(f"{one_line(member.name)} is a sparse file")
            members.append(Member(member.name, member.offset_data // BLOCK, member.size))
        _check_end(shard, tar.offset, size)
    return members


def plain_members(file: io.RawIOBase, size: int) -> list[Member] | None:
    """Return the files of a tar that holds nothing but regular files with short names and ends as it should.

    Five times as fast as tarfile, which is asked wherever this returns None.

    Args:
      file: the shard.
      size: its length in bytes.
    """
    members: list[Member] = []
    at = 0
    while at + BLOCK <= size:
        file.seek(at)
        header = file.read(BLOCK)
        if not any(header):
            break
        name, digits, kind = header[:100].partition(b"\0")[0], header[124:136].strip(b" \0"), header[156:157]
        check = header[148:156].strip(b" \0")
        posix = header[257:265] == b"ustar\x0000"
        if kind not in b"0\0" or not name or name.endswith(b"/") or not digits.isdigit() or not check.isdigit():
            return None
        if not (posix or header[257:265] == b"ustar  \0") or int(check, 8) != sum(header) - sum(header[148:156]) + 256:
            return None
        if posix and header[345]:
            name = header[345:500].partition(b"\0")[0] + b"/" + name
        length, data = int(digits, 8), at + BLOCK
        if length >= 1 << 32 or data + length > size:
            return None
        members.append(Member(name.decode("utf-8", "surrogateescape"), data // BLOCK, length))
        at = data + -(-length // BLOCK) * BLOCK
    if not members or size - at < 2 * BLOCK:
        return None
    while at < size:
        file.seek(at)
        rest = file.read(min(TAIL_CHUNK, size - at))
        if any(rest):
            return None
        at += len(rest)
    return members


def _check_end(shard: str, end: int, size: int) -> None:
    """Check that nothing but zero blocks follows the last member; raise ReadError otherwise.

    tarfile accepts a truncated archive, and one with another archive appended, as complete.
    """
    if size - end < BLOCK:
        raise tarfile.ReadError("it is truncated")
    for begin in range(end, size, TAIL_CHUNK):
        tail = remote.read([remote.Range(shard, begin, min(begin + TAIL_CHUNK, size))])[0]
        if not tail.strip(b"\0"):
            continue
        first = begin + len(tail) - len(tail.lstrip(b"\0"))
        if first < end + BLOCK:
            raise tarfile.ReadError(f"no header of a member at byte {end}, and no end mark")
        raise tarfile.ReadError(f"bytes follow its end mark: is byte {first} the start of another tar?")


class Member(NamedTuple):
    """A file in a tar: its name, the number of the 512-byte block where its data begin, and its size in bytes."""

    name: str
    block: int
    size: int


def split_name(name: str) -> tuple[str, str]:
    """Split a member's name into its key, with the folder, and its extension in lower case.

    The key ends at the first dot of the file's name, as in WebDataset; if that gives an unknown extension which ends in
    a known one, the key ends at the last dot: ``frame_0.15.jpg`` -> ``frame_0.15``, ``jpg``.
    """
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    if extension.lower() not in KNOWN and extension.lower().rpartition(".")[2] in KNOWN:
        stem, _, extension = file.rpartition(".")
    return f"{folder}{slash}{stem}", extension.lower()


def _samples(shard: str, members: list[Member]) -> tuple[dict[str, dict[str, Member]], dict[str, tuple[int, str]]]:
    """Group members by key, in file order; also return what was skipped. Raises UserError for a duplicate name."""
    split = [split_name(m.name) for m in members]
    extensions: dict[str, set[str]] = {}
    for key, extension in split:
        extensions.setdefault(key, set()).add(extension)
    samples: dict[str, dict[str, Member]] = {}
    passed: dict[str, tuple[int, str]] = {}
    for member, (key, extension) in zip(members, split, strict=True):
        folder, slash, file = key.rpartition("/")
        short = f"{folder}{slash}{file.partition('.')[0]}"
        alone = extensions[key].isdisjoint(IMAGES) or extensions[key].isdisjoint(MEMBERS[1:])
        if short != key and alone and not extensions.get(short, set()).isdisjoint(KNOWN):
            # a.seg.png next to a.jpg and a.txt is a member of sample a
            passed["dotted"] = (passed.get("dotted", (0, ""))[0] + 1, one_line(member.name))
            continue
        sample = samples.setdefault(key, {})
        if extension in sample and extension in KNOWN:
            name, other = one_line(member.name), one_line(sample[extension].name)
            reason = "occurs twice" if name == other else f"{other} is the same member of the same sample"
            raise UserError(source=shard, field=name, reason=reason)
        sample[extension] = member
        if extension in IMAGES and sum(e in sample for e in IMAGES) == 2:
            passed["pictures"] = (passed.get("pictures", (0, ""))[0] + 1, one_line(member.name))
    return samples, passed


def _row(members: dict[str, Member]) -> list[int]:
    picture = next((members[e] for e in IMAGES if e in members), None)
    chosen = (picture, *(members.get(name) for name in MEMBERS[1:]))
    return [number for m in chosen for number in ((m.block, m.size) if m else (0, 0))]


class ShardFile(io.RawIOBase):
    """A shard as a seekable file; a subclass defines `read`."""

    def __init__(self, shard: str, size: int) -> None:
        self._shard, self._size = shard, size
        self._at = self._begin = 0

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


class HeaderReader(ShardFile):
    """A shard of which only the parts requested are read, at least `MIN_READ` bytes at a time."""

    _part = b""

    def read(self, count: int = -1) -> bytes:
        end = min(self._at + count, self._size) if count >= 0 else self._size
        if end <= self._at:
            return b""
        if not self._begin <= self._at <= end <= self._begin + len(self._part):
            last = min(max(end, self._at + MIN_READ), self._size)
            self._begin, self._part = self._at, remote.read([remote.Range(self._shard, self._at, last)])[0]
        data = self._part[self._at - self._begin : end - self._begin]
        self._at = end
        return data
