"""Byte ranges of files, here or behind any URL that fsspec knows; whole files are never fetched."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from clip_jax.errors import UserError
from clip_jax.storage.paths import is_url, silence_gcsfs

T = TypeVar("T")

PAUSES = (0.5, 2.0, 8.0)  # seconds between attempts at a remote store
_VERSION = ("mtime", "created", "updated", "LastModified", "ETag", "etag", "generation", "md5Hash")
_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "s3a": "s3fs", "abfs": "adlfs", "az": "adlfs"}


class Range(NamedTuple):
    """Bytes ``start`` up to ``end`` of a file, by path or URL."""

    file: str
    start: int
    end: int


class Stat(NamedTuple):
    """Bytes of a file, and a text that changes when its content does."""

    size: int
    version: str


def local_path(path: str) -> Path:
    """A path on this machine, with or without ``file://``."""
    return Path(path.removeprefix("file://"))


def read(ranges: list[Range]) -> list[bytes]:
    """The bytes of each range; a remote store is asked for all of them at once, where it can.

    Raises UserError naming the file: when it is missing or shorter, or a store still fails after some attempts.
    """
    out = {r: _read_local(r) for r in ranges if not is_url(r.file)}
    out |= {r: b"" for r in ranges if r.start == r.end}  # a store may take an empty range for a wrong one
    waiting = [r for r in dict.fromkeys(ranges) if r not in out]
    for pause in (*PAUSES, None):
        if not waiting:
            break
        failed = None
        for wanted, got in zip(waiting, _ask(waiting), strict=True):
            if isinstance(got, bytes) and len(got) == wanted.end - wanted.start:
                out[wanted] = got
                continue
            failed = (wanted, got if isinstance(got, Exception) else EOFError(f"got {len(got)} bytes of {wanted}"))
            _check_lasting(wanted.file, failed[1])
        waiting = [r for r in waiting if r not in out]
        _wait(failed, pause)
    return [out[r] for r in ranges]


def stat(file: str) -> Stat:
    """Size and version. Raises UserError when there is no such file."""
    if is_url(file):
        store, path = _store(file)
        info = _retried(file, lambda: store.info(path))
        if info.get("size") is None:
            raise UserError(f"{file}: its store tells no size, so it cannot be read in parts")
        return Stat(int(info["size"]), " ".join(str(info[k]) for k in _VERSION if info.get(k)))
    try:
        found = local_path(file).stat()
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None
    return Stat(found.st_size, f"{found.st_mtime_ns} {found.st_ino}")


def is_hidden(name: str) -> bool:
    """Whether a path is none of a data set's own: ``.ipynb_checkpoints/0.jpg``, ``._0.jpg``, ``__MACOSX/0.jpg``.

    Args:
      name: relative to the set's folder or archive; ``./0.jpg`` is its own.
    """
    return any(part == "__MACOSX" or (part.startswith(".") and part not in (".", "..")) for part in name.split("/"))


def glob(folder: str, pattern: str) -> list[str]:
    """Files that match under a folder, as whole paths or URLs, in no order and without hidden ones (`is_hidden`); none
    when there is no such folder."""
    if is_url(folder):
        store, path = _store(folder)
        found = _retried(folder, lambda: store.glob(f"{path.rstrip('/')}/{pattern}"))
        paths = [store.unstrip_protocol(p) for p in found]
    else:
        paths = [str(p) for p in local_path(folder).glob(pattern)]
    below = pattern.count("/") + 1  # parts of a path that lie in the folder
    return [p for p in paths if not is_hidden("/".join(p.split("/")[-below:]))]


def _read_local(wanted: Range) -> bytes:
    # opened for each read: ten thousand shards would be too many to hold open
    try:
        file = os.open(local_path(wanted.file), os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{wanted.file}: {error.strerror}") from None
    try:
        data = os.pread(file, wanted.end - wanted.start, wanted.start)
    finally:
        os.close(file)
    if len(data) != wanted.end - wanted.start:
        raise UserError(f"{wanted.file}: ends before byte {wanted.end}; was it changed while it was in use?")
    return data


def _store(url: str) -> tuple[Any, str]:
    """fsspec's file system and its own form of the path. Raises UserError when the protocol cannot be had."""
    protocol = url.partition("://")[0]
    try:
        import fsspec

        found = fsspec.core.url_to_fs(url)
        silence_gcsfs()
        return found
    except ImportError as error:
        name = "fsspec" if error.name == "fsspec" else _PACKAGES.get(protocol, str(error))
        raise UserError(f"{url}: reading {protocol}:// needs the package {name}") from None
    except ValueError:
        raise UserError(f"{url}: unknown protocol {protocol!r}") from None


def _ask(ranges: list[Range]) -> list[Any]:
    """What the stores give for each: bytes or the error."""
    out: list[Any] = [None] * len(ranges)
    by_store: dict[int, list[int]] = {}
    found = [_store(r.file) for r in ranges]
    for n, (store, _) in enumerate(found):
        by_store.setdefault(id(store), []).append(n)
    for rows in by_store.values():
        store = found[rows[0]][0]
        paths, starts, ends = zip(*((found[n][1], ranges[n].start, ranges[n].end) for n in rows), strict=True)
        try:
            answers = store.cat_ranges(list(paths), list(starts), list(ends), on_error="return")
        except Exception as error:  # noqa: BLE001  (every store has errors of its own)
            answers = [error] * len(rows)
        for n, answer in zip(rows, answers, strict=True):
            out[n] = answer
    return out


def _retried(url: str, call: Callable[[], T]) -> T:
    for pause in (*PAUSES, None):
        try:
            return call()
        except Exception as error:  # noqa: BLE001  (every store has errors of its own)
            _check_lasting(url, error)
            _wait((Range(url, 0, 0), error), pause)
    raise AssertionError


def _check_lasting(url: str, error: Exception) -> None:
    """Raises UserError for what no second attempt would mend."""
    if isinstance(error, FileNotFoundError):
        raise UserError(f"{url}: no such file") from None
    if isinstance(error, PermissionError):
        raise UserError(f"{url}: may not be read ({_line(error)})") from None


def _wait(failed: tuple[Range, Exception] | None, pause: float | None) -> None:
    if failed is None:
        return
    if pause is None:
        url, error = failed[0].file, failed[1]
        raise UserError(
            f"{url}: cannot be read after {len(PAUSES) + 1} attempts ({type(error).__name__}: {_line(error)})"
        )
    time.sleep(pause)


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else "no reason given"
