"""Where a run or a sweep lies: a directory of this machine, or one in a bucket, ``gs://BUCKET/…``.

A bucket has no directories, no appending and no move of more than one object. An object is replaced whole or not at
all, what was written is there for everybody at once, and of several who make the same new object one succeeds: nothing
in this package needs more of it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clip_jax.errors import UserError, no_secret

SCHEME = "gs://"


def is_url(path: str | Path) -> bool:
    """Whether it names a store rather than a place on this machine."""
    return "://" in str(path) and not str(path).startswith("file://")


def is_remote(path: Path) -> bool:
    """Whether an `as_path` lies in a bucket."""
    return str(path).startswith(SCHEME)


def as_path(path: str | Path) -> Path:
    """The path as an object: of pathlib, or for ``gs://`` of etils.epath, which answers to the same calls.

    Raises UserError for another kind of URL, one without a bucket or with a password, or when the package that knows
    buckets is missing.
    """
    if not is_url(path):
        return path if isinstance(path, Path) else Path(str(path).removeprefix("file://"))
    if not str(path).startswith(SCHEME) or not str(path).removeprefix(SCHEME).strip("/"):
        raise UserError(f"{path}: a run or a sweep lies in a directory or under gs://BUCKET/")
    no_secret("path", str(path))
    _store(str(path))
    from etils import epath

    return epath.Path(str(path))  # type: ignore[return-value]


def absolute(path: Path) -> Path:
    """From the root on; a URL is so already."""
    return path if is_remote(path) else path.absolute()


def local_scratch(path: Path) -> Path:
    """Where on this machine is what a bucket cannot hold: logs being written, locks, traces. Others: the path itself.

    For ``gs://B/X`` it is ``clip_jax/gs/B/X`` in the user's cache folder (``$XDG_CACHE_HOME`` or ``~/.cache``).
    """
    if not is_remote(path):
        return path
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "clip_jax" / "gs" / str(path).removeprefix(SCHEME)


class BucketUnavailable(OSError):
    """The bucket does not answer now; later the same command goes on."""


@functools.cache
def _opened() -> Any:
    import fsspec

    # others write too, so a listing of a while ago says nothing; epath's and Orbax's own stores go by this as well
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
    store = fsspec.filesystem("gcs")
    silence_gcsfs()
    return store


def silence_gcsfs() -> None:
    """Keep gcsfs from logging the traceback of what it raises, unless ``GCSFS_DEBUG`` asked for its log."""
    logger = logging.getLogger("gcsfs")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)


def _store(path: str) -> Any:
    try:
        return _opened()
    except ImportError:
        raise UserError(f"{path}: needs the package gcsfs (pip install 'clip-jax-scaling[gcs]')") from None


@contextlib.contextmanager
def _open_bucket(path: Path) -> Iterator[Any]:
    """The store. What it raises becomes FileNotFoundError, UserError where it refuses, or `BucketUnavailable`."""
    store = _store(str(path))
    try:
        yield store
    except (FileNotFoundError, FileExistsError, UserError):
        raise
    except Exception as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        denied = getattr(error, "code", None) in (401, 403) or isinstance(error, PermissionError)
        if denied or said.startswith("Forbidden"):
            raise UserError(f"{path}: the bucket refuses ({said})") from None
        raise BucketUnavailable(errno.EIO, f"the bucket does not answer ({said})", str(path)) from error


_DISK = {
    errno.ENOSPC: ("the disk is full", "free some space and run the same command again"),
    errno.EDQUOT: ("the quota of this disk is used up", "free some space and run the same command again"),
    errno.EROFS: ("lies on a read-only file system", "give a folder that can be written"),
    errno.EACCES: ("permission denied", "give a folder that can be written"),
    errno.EPERM: ("operation not permitted", "give a folder that can be written"),
    errno.ENOTDIR: ("is a file, or lies below one", "give a folder"),
    errno.EISDIR: ("is a folder", "give a file"),
    errno.EEXIST: ("is there already and is no folder", "give another one"),
    errno.ENAMETOOLONG: ("the name is too long", "give a shorter one"),
}


def disk_error(error: BaseException, path: Path | None = None) -> UserError | None:
    """The one line for a disk that is full, read-only or closed to this user, whoever met it; None for anything else.

    Args:
      error: what was raised, by Python or by a library that only keeps the system's words.
      path: what was being written, for errors that name no file.
    """
    if isinstance(error, UserError) or not isinstance(error, Exception):
        return None
    number = error.errno if isinstance(error, OSError) else None
    if number is None:
        said = str(error)
        number = next((n for n in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) if os.strerror(n) in said), None)
    if number not in _DISK:
        return None
    reason, hint = _DISK[number]
    named = path or getattr(error, "filename", None)
    return UserError(field=str(named) if named else None, reason=reason, hint=hint)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what `disk_error` knows into its one line. Raises UserError."""
    try:
        yield
    except Exception as error:
        if (told := disk_error(error, path)) is not None:
            raise told from error
        raise


def mkdir(path: Path) -> None:
    """A directory, with its parents; a bucket needs none."""
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)


def exists(path: Path) -> bool:
    """Whether the file is there. A bucket that does not answer is an error, not an absence."""
    if not is_remote(path):
        return path.exists()
    try:
        with _open_bucket(path) as store:
            store.info(str(path))
    except FileNotFoundError:
        return False
    return True


def remove(path: Path) -> None:
    """The file, if it is there."""
    if not is_remote(path):
        path.unlink(missing_ok=True)
        return
    with contextlib.suppress(FileNotFoundError), _open_bucket(path) as store:
        store.rm_file(str(path))


def read_text(path: Path) -> str:
    """The file, as it was at one moment. Raises FileNotFoundError, and UserError when it is no UTF-8 text."""
    if not is_remote(path):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})", field=str(path)) from None
    else:
        with _open_bucket(path) as store:
            data = store.cat_file(str(path))  # one request: two could meet two versions
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text", field=str(path), reason="is not UTF-8 text") from None


def write_bytes(path: Path, data: bytes) -> None:
    """Replace the file in one move: a reader sees the old one or the new one. Raises UserError on a full disk."""
    if is_remote(path):
        try:
            with _open_bucket(path) as store:
                store.pipe_file(str(path), data)
        except FileNotFoundError:
            raise UserError(f"{path}: there is no bucket {path.parts[2]!r}") from None
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with disk_errors(path):
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of a text."""
    write_bytes(path, text.encode())


def create_if_absent(path: Path, text: str) -> bool:
    """Make an object of a bucket; False when it is there already. Of several who try, one succeeds."""
    try:
        with _open_bucket(path) as store:
            store.pipe_file(str(path), text.encode(), mode="create")
        return True
    except FileExistsError:
        return False
    except FileNotFoundError:
        raise UserError(f"{path}: there is no bucket {path.parts[2]!r}") from None
    except OSError as error:
        # what gcsfs says of a condition that does not hold; or ours was made, and the answer was lost
        if getattr(error.__cause__, "code", None) == 412:
            return read_text(path) == text
        raise


def list_names(path: Path) -> list[str]:
    """Of what lies in a directory, sorted; none where there is none."""
    if not is_remote(path):
        return sorted(os.listdir(path)) if path.is_dir() else []
    try:
        with _open_bucket(path) as store:
            return sorted(found.rstrip("/").rpartition("/")[2] for found in store.ls(str(path), detail=False))
    except FileNotFoundError:
        return []


def move_tree(path: Path, target: Path) -> None:
    """A directory, in place of another. In a bucket object by object: cut short, some are here and some are there."""
    if not is_remote(path):
        import shutil

        target.parent.mkdir(exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        path.rename(target)
        return
    with _open_bucket(path) as store:
        if list_names(target):
            store.rm(str(target), recursive=True)
        store.mv(str(path), str(target), recursive=True)


@contextlib.contextmanager
def staging_dir(path: Path) -> Iterator[Path]:
    """A folder of this machine to write files in; in the end they are what lies in ``path``."""
    if not is_remote(path):
        mkdir(path)
        yield path
        return
    with tempfile.TemporaryDirectory() as here:
        yield Path(here)
        made = [p for p in sorted(Path(here).iterdir()) if p.is_file()]
        for file in made:
            write_bytes(path / file.name, file.read_bytes())
        with _open_bucket(path) as store:
            for old in set(list_names(path)) - {file.name for file in made}:
                store.rm(str(path / old), recursive=True)
