"""Reads of byte ranges from local files or any URL that fsspec supports; whole files are never fetched."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

from clip_jax.errors import UserError
from clip_jax.storage import paths
from clip_jax.storage.paths import is_url, silence_gcsfs

T = TypeVar("T")


class MissingFile(UserError):
    """A file that its folder or store does not have."""


PAUSES = (0.5, 2.0, 8.0)  # seconds between attempts at a remote store, give or take half of it
REQUEST_S, LISTING_S = 60.0, 1800.0  # after which a request, or the many of a listing, counts as failed
KEPT_TIMES, MIN_TIMES = 1000, 100  # durations of requests that are kept, and needed to know which are slow
HEDGE_S = 10.0  # after which one is slow before that
SLOWEST = 1_000_000  # bytes per second; a request has as much more time as its bytes take at this speed
_VERSION = ("mtime", "created", "updated", "LastModified", "ETag", "etag", "generation", "md5Hash")
_CONTENT = ("md5Hash", "generation", "ETag", "etag")  # that stay while a file's bytes do
_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "s3a": "s3fs", "abfs": "adlfs", "az": "adlfs"}


# what is counted of stores: ranges and files asked for, bytes received, failed ones asked again, those of them that the
# store had refused for their rate, calls without an answer in time, and second requests beside slow ones
COUNTED = ("requests", "bytes", "retries", "throttled", "timeouts", "hedged")
_counts: Counter[str] = Counter()
_counting = threading.Lock()


def _count(**counts: int) -> None:
    with _counting:
        _counts.update(counts)


def take_counts() -> dict[str, int]:
    """Return by `COUNTED` what this process asked of stores since the last call; its clients may repeat more."""
    with _counting:
        counts = {name: _counts[name] for name in COUNTED}
        _counts.clear()
    return counts


_idle: list[SimpleQueue[tuple[Future[Any], Callable[[], Any]]]] = []  # of threads that wait for a call
os.register_at_fork(after_in_child=_idle.clear)  # threads do not survive a fork


def _begin(call: Callable[[], T]) -> Future[T]:
    """Begin a call in a daemon thread: an executor's threads would keep a program with a hung call from ending.

    Threads are used again, as fsspec keeps a client for each.
    """
    future: Future[T] = Future()
    try:
        calls = _idle.pop()
    except IndexError:
        calls = SimpleQueue()
        threading.Thread(target=_serve, args=(calls,), name="requests", daemon=True).start()
    calls.put((future, call))
    return future


def _serve(calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]]]) -> None:
    while True:
        future, call = calls.get()
        try:
            answer = partial(future.set_result, call())
        except BaseException as error:  # noqa: BLE001  (raised where the answer is awaited)
            answer = partial(future.set_exception, error)
        _idle.append(calls)
        answer()
        del future, call, answer  # not kept until the next call


def _within(seconds: float, call: Callable[[], T]) -> T:
    """Return what a call returns; raise TimeoutError if it does not in so many seconds, and leave it to itself."""
    future = _begin(call)
    if not wait([future], timeout=seconds).done:
        _count(timeouts=1)
        raise TimeoutError(f"no answer within {seconds:g} s")
    return future.result()


class Range(NamedTuple):
    """Bytes ``start`` up to (not including) ``end`` of a file, given by path or URL."""

    file: str
    start: int
    end: int


class Stat(NamedTuple):
    """Size of a file in bytes, and a text that changes when its content does."""

    size: int
    version: str


def local_path(path: str) -> Path:
    """Return a local path, given with or without ``file://``."""
    return Path(path.removeprefix("file://"))


def read(ranges: list[Range]) -> list[bytes]:
    """Read the bytes of each range, with one request per remote store where it supports that.

    Raises UserError naming the file if it is missing or shorter than the range, or if the store still fails after
    ``len(PAUSES) + 1`` attempts. An attempt that takes longer than `REQUEST_S` has failed.
    """
    out = {r: _read_local(r) for r in ranges if not is_url(r.file)}
    out |= {r: b"" for r in ranges if r.start == r.end}  # some stores reject an empty range
    waiting = [r for r in dict.fromkeys(ranges) if r not in out]
    for pause in (*PAUSES, None):
        if not waiting:
            break
        failed = None
        _count(requests=len(waiting))
        for wanted, got in zip(waiting, _read_remote(waiting), strict=True):
            if isinstance(got, bytes) and len(got) == wanted.end - wanted.start:
                out[wanted] = got
                _count(bytes=len(got))
                continue
            failed = (wanted, got if isinstance(got, Exception) else EOFError(f"got {len(got)} bytes of {wanted}"))
            _check_lasting(wanted.file, failed[1])
        waiting = [r for r in waiting if r not in out]
        _wait(failed, pause)
        _count(retries=len(waiting))
    return [out[r] for r in ranges]


class HedgedReads:
    """Reads of single ranges from a store, a second request beside each that is slower than 99 of 100 before it.

    The first answer is taken (Dean and Barroso, 2013, "The tail at scale"). Before `MIN_TIMES` answers a request is
    slow after `HEDGE_S`. Local files are read once.
    """

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=KEPT_TIMES)

    def _usual(self, wanted: Range) -> float:
        """Return the seconds after which a request is slow."""
        if len(self._seconds) < MIN_TIMES:
            return _longer(HEDGE_S, [wanted])
        return sorted(self._seconds)[int(0.99 * len(self._seconds))]

    def _timed(self, wanted: Range) -> bytes:
        began = time.monotonic()
        data = read([wanted])[0]
        self._seconds.append(time.monotonic() - began)
        return data

    def read(self, wanted: Range) -> bytes:
        """Return the bytes of a range; raise UserError as `read` does when both requests fail."""
        if not is_url(wanted.file):
            return read([wanted])[0]
        asked = {_begin(lambda: self._timed(wanted))}
        if not wait(asked, timeout=self._usual(wanted)).done:
            _count(hedged=1)
            asked.add(_begin(lambda: self._timed(wanted)))
        while True:
            done, asked = wait(asked, return_when=FIRST_COMPLETED)
            good = [future for future in done if future.exception() is None]
            if good or not asked:
                return (good or list(done))[0].result()


def read_file(path: Path) -> bytes:
    """Read a whole small file of a folder or bucket; from a bucket as `read` does.

    Raises FileNotFoundError, or UserError if it cannot be read.
    """
    if not paths.is_remote(path):
        return paths.read_bytes(path)
    try:
        data = _retried(str(path), lambda: paths.read_bytes(path))
    except MissingFile:
        raise FileNotFoundError(path) from None
    _count(bytes=len(data))
    return data


def stat(file: str) -> Stat:
    """Return the size and version of a file; raise UserError if there is no such file."""
    return _stat(file)[0]


def change(file: str, was: Stat) -> str:
    """Return how a file differs from what it was; empty if it does not. Raises UserError if there is no such file.

    A version is compared by what copies share: the store's hash or number of the content where it gives one, of a local
    file the second in which it was modified. An empty version is not compared.
    """
    (size, version), content = _stat(file)
    if size != was.size:
        return f"has {size:,} bytes, and had {was.size:,}"
    if not was.version or version == was.version or any(f" {part} " in f" {was.version} " for part in content):
        return ""
    if is_url(file):
        return "has another version than it had"
    seconds = [int(text.split()[0]) // 10**9 for text in (version, was.version)]
    return "" if seconds[0] == seconds[1] else "has another time of modification than it had"


def _stat(file: str) -> tuple[Stat, list[str]]:
    """Return what `stat` does, and the parts of the version that stay while the file's bytes do."""
    if is_url(file):
        store, path = _store(file)
        info = _retried(file, lambda: store.info(path))
        if info.get("size") is None:
            raise UserError(field=file, reason="the store reports no size, so parts of it cannot be read")
        version = " ".join(str(info[k]) for k in _VERSION if info.get(k))
        return Stat(int(info["size"]), version), [str(info[k]) for k in _CONTENT if info.get(k)]
    try:
        status = local_path(file).stat()
    except OSError as error:
        kind = MissingFile if isinstance(error, FileNotFoundError) else UserError
        raise kind(field=file, reason=error.strerror) from None
    return Stat(status.st_size, f"{status.st_mtime_ns} {status.st_ino}"), []


def is_hidden(name: str) -> bool:
    """Return whether a file is hidden and so no part of a data set, such as ``._0.jpg`` or ``__MACOSX/0.jpg``.

    Args:
      name: path relative to the data set's folder or archive; ``./0.jpg`` is not hidden.
    """
    return any(part == "__MACOSX" or (part.startswith(".") and part not in (".", "..")) for part in name.split("/"))


def glob(folder: str, pattern: str) -> list[str]:
    """Return the files under a folder that match, as whole paths or URLs, unsorted and without hidden ones.

    `is_hidden` says which are hidden. A folder that does not exist has no files.
    """
    if is_url(folder):
        store, path = _store(folder)
        matches = _retried(folder, lambda: store.glob(f"{path.rstrip('/')}/{pattern}"), LISTING_S)
        files = [store.unstrip_protocol(p) for p in matches]
    else:
        files = [str(p) for p in local_path(folder).glob(pattern)]
    below = pattern.count("/") + 1  # parts of a path that lie in the folder
    return [p for p in files if not is_hidden("/".join(p.split("/")[-below:]))]


def _read_local(wanted: Range) -> bytes:
    return _at_local(wanted, lambda file: os.pread(file, wanted.end - wanted.start, wanted.start), len)


def read_into(wanted: Range, memory: memoryview) -> None:
    """Read a range of a local file into as many bytes of memory; raise UserError as `read` does."""
    _at_local(wanted, lambda file: os.preadv(file, [memory], wanted.start), int)


def _at_local(wanted: Range, read_from: Callable[[int], T], size: Callable[[T], int]) -> T:
    """Return what a function reads of an open file; raise UserError if its ``size`` is not that of the range."""
    # Opened for each read: ten thousand shards would exceed the limit of open files.
    try:
        file = os.open(wanted.file.removeprefix("file://"), os.O_RDONLY)
    except OSError as error:
        raise UserError(field=wanted.file, reason=error.strerror) from None
    try:
        data = read_from(file)
    finally:
        os.close(file)
    if size(data) != wanted.end - wanted.start:
        reason = f"ends before byte {wanted.end}"
        raise UserError(field=wanted.file, reason=reason, hint="it may have changed while it was in use")
    return data


def _store(url: str) -> tuple[Any, str]:
    """Return fsspec's file system and its form of the path; raise UserError if the protocol is not supported."""
    protocol = url.partition("://")[0]
    try:
        import fsspec

        store_and_path = fsspec.core.url_to_fs(url)
        silence_gcsfs()
        return store_and_path
    except ImportError as error:
        name = "fsspec" if error.name == "fsspec" else _PACKAGES.get(protocol, str(error))
        reason = f"reading {protocol}:// needs the package {name}"
        raise UserError(field=url, reason=reason, hint=f"pip install {name}") from None
    except ValueError:
        reason = f"unknown protocol {protocol!r}"
        raise UserError(field=url, reason=reason, hint="fsspec.available_protocols() lists the known ones") from None


def _read_remote(ranges: list[Range]) -> list[bytes | Exception]:
    """Request the ranges from their stores; return bytes or an exception for each."""
    out: list[bytes | Exception] = [b""] * len(ranges)
    by_store: dict[int, list[int]] = {}
    stores = [_store(r.file) for r in ranges]
    for n, (store, _) in enumerate(stores):
        by_store.setdefault(id(store), []).append(n)
    for rows in by_store.values():
        read_ranges = partial(stores[rows[0]][0].cat_ranges, on_error="return")
        args = ([stores[n][1] for n in rows], [ranges[n].start for n in rows], [ranges[n].end for n in rows])
        try:
            answers = _within(_longer(REQUEST_S, [ranges[n] for n in rows]), partial(read_ranges, *args))
        except Exception as error:  # noqa: BLE001  (every store has errors of its own)
            answers = [error] * len(rows)
        for n, answer in zip(rows, answers, strict=True):
            out[n] = answer
    return out


def _longer(seconds: float, ranges: list[Range]) -> float:
    """Return so many seconds, and those that the bytes of some ranges take at `SLOWEST`."""
    return seconds + sum(r.end - r.start for r in ranges) / SLOWEST


def _retried(url: str, call: Callable[[], T], seconds: float | None = None) -> T:
    for pause in (*PAUSES, None):
        _count(requests=1)
        try:
            return _within(seconds or REQUEST_S, call)
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001  (every store has errors of its own)
            _check_lasting(url, error)
            _wait((Range(url, 0, 0), error), pause)
            _count(retries=1)
    raise AssertionError


def _check_lasting(url: str, error: Exception) -> None:
    """Count a failure; raise UserError for a missing file or denied access, where a retry cannot help."""
    _count(throttled=int(_is_throttled(error)))
    if isinstance(error, FileNotFoundError):
        raise MissingFile(field=url, reason="no such file") from None
    if isinstance(error, PermissionError):
        raise UserError(field=url, reason=f"permission denied ({_line(error)})") from None


def _is_throttled(error: Exception) -> bool:
    """Return whether a store refused a request for its rate; gcsfs, s3fs, adlfs and aiohttp each say it in a way."""
    codes = {str(getattr(error, name, "")) for name in ("status", "code", "status_code")}
    return bool(codes & {"429", "503"}) or any(word in str(error) for word in ("SlowDown", "Too Many Requests"))


def _wait(failed: tuple[Range, Exception] | None, pause: float | None) -> None:
    if failed is None:
        return
    if pause is None:
        url, error = failed[0].file, failed[1]
        if isinstance(error, paths.BucketUnavailable):
            raise error
        reason = f"cannot be read after {len(PAUSES) + 1} attempts ({type(error).__name__}: {_line(error)})"
        raise UserError(field=url, reason=reason)
    time.sleep(pause * random.uniform(0.5, 1.5))  # so that processes that failed together do not ask together


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else "no reason given"
