"""Index tar shards: each is read once from beginning to end, in processes and in parts, and not again."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd

from clip_jax.data.sources import tar_index
from clip_jax.data.sources.shard_index import (
    COLUMNS,
    Manifest,
    ShardIndex,
    notes_of,
    open_index,
    read_shard_index,
    read_table,
    write_table,
)
from clip_jax.data.sources.shard_list import MANIFEST
from clip_jax.errors import UserError, parse_json
from clip_jax.storage import paths
from clip_jax.storage import range_reads as remote

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")

PIECE = 8 << 20  # bytes per read of a shard
TEXTS = ("nsfw", "language", "lang", "license")  # columns of sidecars that are kept as text, in any case of letters
MAX_KEYS_COMPARED = 50_000_000  # keys compared between shards; they take 8 bytes each


class _Sequential(tar_index.ShardFile):
    """A shard read forwards in pieces of `PIECE` bytes, and the hash of all its bytes."""

    def __init__(self, shard: str, size: int) -> None:
        super().__init__(shard, size)
        self._before, self._piece = b"", b""  # two pieces that follow each other; the second begins at ``_begin``
        self._sha = hashlib.sha256()

    def _advance(self) -> None:
        self._begin += len(self._piece)
        end = min(self._begin + PIECE, self._size)
        self._before, self._piece = self._piece, remote.read([remote.Range(self._shard, self._begin, end)])[0]
        self._sha.update(self._piece)

    def read(self, count: int = -1) -> bytes:
        end = min(self._at + count, self._size) if count >= 0 else self._size
        out = b""
        while self._at < end:
            while self._at >= self._begin + len(self._piece):
                self._advance()
            begin, piece = self._begin, self._piece
            if self._at < begin:
                begin, piece = begin - len(self._before), self._before
                assert self._at >= begin, "tarfile reads forwards"
            part = piece[self._at - begin : end - begin]
            out, self._at = out + part, self._at + len(part)
        return out

    def checksum(self) -> str:
        """Read what is left, and return the SHA-256 of all bytes."""
        while self._begin + len(self._piece) < self._size:
            self._advance()
        return self._sha.hexdigest()


def scan_shard(shard: str) -> ShardIndex:
    """Index one shard, with the sidecars that img2dataset leaves beside it: ``NAME.parquet`` and ``NAME_stats.json``.

    Raises:
      UserError: the shard is missing or damaged, or a sidecar cannot be read.
    """
    stat = remote.stat(shard)
    identity, size = _identity(shard, stat), stat.size
    opened: list[_Sequential] = []

    def read_forwards(shard: str, size: int) -> _Sequential:
        opened.append(_Sequential(shard, size))
        return opened[-1]

    index = tar_index.scan(shard, size, read_forwards)
    counts, stem = dict(index.passed), shard.removesuffix(".tar")
    keys = np.array([key.encode("utf-8", "surrogateescape") for key in index.keys], "S")
    columns: dict[str, np.ndarray] = {}
    if (data := _read_optional(f"{stem}.parquet")) is not None:
        columns = _columns(data, f"{stem}.parquet", index.keys, counts)
    if (data := _read_optional(stats := f"{stem}_stats.json")) is not None:
        written = parse_json(data, stats)
        successes = written.get("successes") if isinstance(written, dict) else None
        if successes is not None and successes != len(keys):
            counts["stats"] = (1, f"{shard}: {len(keys)}, not {successes}")
    offsets = np.concatenate([index.offsets, index.json if index.json is not None else []])
    return ShardIndex(offsets, keys, columns, counts, identity, opened[-1].checksum())


def _identity(shard: str, stat: remote.Stat) -> str:
    """Return the sizes and versions of a shard and of its sidecars, which change when one of them does."""
    stem, parts = shard.removesuffix(".tar"), ["{} {}".format(*stat)]
    for sidecar in (f"{stem}.parquet", f"{stem}_stats.json"):
        with contextlib.suppress(UserError):  # there is none
            parts.append("{} {} {}".format(sidecar.removeprefix(stem), *remote.stat(sidecar)))
    return ", ".join(parts)


def _read_optional(file: str) -> bytes | None:
    """Return the content of a small file; None if there is no such file."""
    try:
        size = remote.stat(file).size
    except UserError:
        return None
    return remote.read([remote.Range(file, 0, size)])[0]


def _columns(data: bytes, file: str, keys: Sequence[str], counts: dict[str, tuple[int, str]]) -> dict[str, np.ndarray]:
    """Return the numbers and `TEXTS` of a sidecar for each key; rows and samples without partner are counted."""
    from pyarrow import ArrowException

    try:
        table = pd.read_parquet(io.BytesIO(data))
    except (ArrowException, OSError, ValueError) as error:
        reason = f"is not a readable Parquet file ({str(error).splitlines()[0]})"
        raise UserError(field=file, reason=reason) from None
    if "key" not in table:
        raise UserError(field=file, reason="has no column key", hint="remove it, or name its column of keys so")
    if "status" in table:
        table = table[table["status"] == "success"]
    table = table.set_index(table["key"].astype(str))
    if repeated := int(table.index.duplicated().sum()):
        counts["twice"] = (repeated, f"{file}: {table.index[table.index.duplicated()][0]}")
        table = table[~table.index.duplicated()]
    names = [key.rpartition("/")[2] for key in keys]
    rows = table.index.get_indexer(pd.Index(names))
    if missing := int((rows < 0).sum()):
        counts["no_row"] = (missing, f"{file}: {names[int(np.argmin(rows))]}")
    if unused := len(table) - len(set(rows[rows >= 0].tolist())):
        counts["no_sample"] = (unused, f"{file}: {table.index.difference(names)[0]}")
    table = table.reindex(names)
    columns = {
        str(name): table[name].to_numpy(np.float64, na_value=np.nan)
        for name in table
        if pd.api.types.is_numeric_dtype(table[name]) and name != "key"
    }
    if "uid" in table:
        columns["uid"] = uids([str(uid) for uid in table["uid"].fillna("0" * 32)], file)
    texts = [name for name in table if str(name).lower() in TEXTS and name not in columns]
    return columns | {str(name): np.array([str(t).encode() for t in table[name].fillna("")], "S") for name in texts}


def uids(texts: Sequence[str], source: str) -> np.ndarray:
    """Return identifiers of 32 hexadecimal digits as uint64 [N, 2]. Raises UserError for another text."""
    try:
        if any(len(text) != 32 for text in texts):
            raise ValueError
        return np.array([(int(text[:16], 16), int(text[16:], 16)) for text in texts], np.uint64).reshape(-1, 2)
    except ValueError:
        bad = next(text for text in texts if len(text) != 32 or set(text) - set("0123456789abcdefABCDEF"))
        raise UserError(source=source, field="uid", value=bad, reason="must be 32 hexadecimal digits") from None


class _Row(NamedTuple):
    """Result of indexing one shard: a row of the manifest and the notes about it, or why there is none."""

    shard: str
    row: tuple[object, ...] | None
    counts: dict[str, tuple[int, str]]
    scanned: bool
    error: str


def _index_one(folder: Path, shard: str) -> _Row:
    name = hashlib.sha256(shard.encode()).hexdigest()[:24]
    file = f"shards/{name[:2]}/{name}.npz"
    try:
        stat = remote.stat(shard)
        try:
            index, scanned = read_shard_index(folder / file), False
            known = index.identity == _identity(shard, stat)
        except (FileNotFoundError, UserError):
            known = False
        if not known:
            index, scanned = scan_shard(shard), True
            index.write(folder / file)
    except UserError as error:
        return _Row(shard, None, {}, True, str(error))
    counts = index.counts
    if not len(index):
        return _Row(shard, None, counts | {"empty": (1, shard)}, scanned, "")
    return _Row(shard, (shard, file, len(index), *stat, index.checksum), counts, scanned, "")


def index_shards(
    shards: Sequence[str],
    out: str | Path,
    *,
    part: tuple[int, int] = (0, 1),
    workers: int = 1,
    max_damaged: int = 0,
    echo: Callable[[str], None] = print,
) -> Manifest | None:
    """Index shards, or one part of them; what is indexed already and has not changed is not read again.

    Args:
      shards: paths or URLs, in the order that the manifest keeps; the same for all parts.
      out: folder or gs:// address of the index.
      part: (number, parts): index shards number, number + parts, …. The last part to end writes the manifest.
      workers: processes.
      max_damaged: shards that may be left out because they cannot be read.
      echo: receives lines about the progress and about what was found.

    Returns:
      The manifest; None while other parts are missing.

    Raises:
      UserError: more than ``max_damaged`` shards cannot be read; each was named by ``echo``.
    """
    folder, (number, parts) = paths.as_path(out), part
    shards = _absolute(shards)
    chosen = shards[number::parts]
    rows: list[tuple[object, ...]] = []
    counts: dict[str, tuple[int, str]] = {}
    damaged: list[str] = []
    resumed = samples = 0
    for done, result in enumerate(in_processes(workers, _index_one, folder, chosen), 1):
        if result.error:
            damaged.append(result.error)
            echo(result.error)
        for kind, (count, example) in result.counts.items():
            counts[kind] = (counts.get(kind, (0, ""))[0] + count, counts.get(kind, (0, example))[1])
        if result.row is not None:
            rows.append(result.row)
            samples += int(str(result.row[2]))
        resumed += not result.scanned
        echo_progress(done, len(chosen), samples, echo)
    if len(damaged) > max_damaged:
        reason = f"{len(damaged)} of {len(chosen)} shards cannot be read, the first: {damaged[0]}"
        raise UserError(field="--max-damaged", value=max_damaged, reason=reason)
    if resumed:
        echo(f"{resumed:,} shards were indexed before and have not changed")
    for note in notes_of(counts):
        echo(note)
    if damaged:
        echo(f"{len(damaged)} damaged shards are left out")
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    if parts == 1:
        return _finish(Manifest(folder, table), echo)
    write_table(part_file(folder, number, parts, shards), table)
    return join_parts(folder, shards, parts, echo)


def part_file(folder: Path, number: int, parts: int, shards: Sequence[str]) -> Path:
    """Return the file with the rows of a part; another list of all shards has other files."""
    of_list = hashlib.sha256("\n".join(_absolute(shards)).encode()).hexdigest()[:8]
    return folder / "parts" / f"{number}-of-{parts}-{of_list}.parquet"


def join_parts(folder: Path, shards: Sequence[str], parts: int, echo: Callable[[str], None]) -> Manifest | None:
    """Write the manifest of an index whose parts are made; None while some are missing.

    Args:
      folder: of the index.
      shards: all paths or URLs, in the order that the manifest keeps.
      parts: their number.
      echo: receives lines.
    """
    files = [part_file(folder, i, parts, shards) for i in range(parts)]
    if missing := {file.name for file in files} - set(paths.list_names(folder / "parts")):
        echo(f"{parts - len(missing)} of {parts} parts are made; {len(missing)} parts are missing")
        return None
    order = {shard: i for i, shard in enumerate(_absolute(shards))}
    table = pd.concat([read_table(file) for file in files])
    manifest = Manifest(folder, table.sort_values("shard", key=lambda column: column.map(order)))
    if paths.exists(folder / MANIFEST) and open_index(folder).table.equals(manifest.table):
        return manifest  # another part has joined them
    return _finish(manifest, echo)


def _absolute(shards: Sequence[str]) -> list[str]:
    return [shard if remote.is_url(shard) else os.path.realpath(remote.local_path(shard)) for shard in shards]


def in_processes(workers: int, call: Callable[[A, B], T], first: A, items: Iterable[B]) -> Iterator[T]:
    """Yield ``call(first, item)`` for each item, in their order; with one worker without processes."""
    if workers == 1:
        yield from map(call, repeat(first), items)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:  # jax's threads do not survive a fork
        yield from pool.map(call, repeat(first), items)


def echo_progress(done: int, total: int, samples: int, echo: Callable[[str], None]) -> None:
    """Say every tenth of the way how many shards are done."""
    if done % max(1, total // 10) == 0:
        echo(f"{done:,} of {total:,} shards, {samples:,} samples")


def _finish(manifest: Manifest, echo: Callable[[str], None]) -> Manifest:
    """Write the manifest; count keys that several shards have."""
    total = int(manifest.samples.sum())
    if total <= MAX_KEYS_COMPARED:
        hashes = np.concatenate([pd.util.hash_array(manifest.read(i).keys) for i in range(len(manifest))])
        if repeated := total - len(np.unique(hashes)):
            echo(f"{repeated:,} keys occur in more than one shard")
    manifest.write()
    echo(f"{len(manifest):,} shards, {total:,} samples, {manifest.bytes.sum() / 1e9:,.1f} GB: {manifest.folder}")
    return manifest
