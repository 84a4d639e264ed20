"""Paths of runs and sweeps: a local directory or ``gs://BUCKET/...``, behind one set of functions.

A bucket has no directories, no append, and no atomic move of several objects. This package relies on three guarantees
only: atomic overwrite, read-after-write consistency, and create-if-absent.
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
    """Return whether ``path`` is a URL of a remote store (``file://`` is local)."""
    return "://" in str(path) and not str(path).startswith("file://")


def is_remote(path: Path) -> bool:
    """Return whether a path from `as_path` lies in a bucket."""
    return str(path).startswith(SCHEME)


def as_path(path: str | Path) -> Path:
    """Return the path as a pathlib object, or for ``gs://`` as an etils.epath one, which has the same interface.

    Raises UserError for other URLs, for a URL without a bucket or with a password, and if gcsfs is not installed.
    """
    if not is_url(path):
        return path if isinstance(path, Path) else Path(str(path).removeprefix("file://"))
    if not str(path).startswith(SCHEME) or not str(path).removeprefix(SCHEME).strip("/"):
        raise UserError(field=path, reason="must be a directory or an address of the form gs://BUCKET/NAME")
    no_secret("path", str(path))
    _store(str(path))
    from etils import epath

    return epath.Path(str(path))  # type: ignore[return-value]


def absolute(path: Path) -> Path:
    """Return the absolute path; a URL is returned unchanged."""
    return path if is_remote(path) else path.absolute()


def cache_folder(name: str) -> Path:
    """Return the folder of one cache: ``$CLIP_JAX_CACHE/NAME``, or ``clip_jax/NAME`` in the user's cache folder.

    The user's cache folder is ``$XDG_CACHE_HOME`` or ``~/.cache``. The caches are xla (compiled programs), shards
    (their indexes), decoded (images) and gs (`local_scratch`).
    """
    if base := os.environ.get("CLIP_JAX_CACHE"):
        return Path(base) / name
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clip_jax" / name


def local_scratch(path: Path) -> Path:
    """Return the local directory for files that a bucket cannot hold: growing logs, locks, profiler traces.

    For ``gs://B/X`` it is ``B/X`` in the `cache_folder` ``gs``; for a local path, the path itself.
    """
    if not is_remote(path):
        return path
    return cache_folder("gs") / str(path).removeprefix(SCHEME)


class BucketUnavailable(OSError):
    """Error for a bucket that does not respond at the moment; running the same command later resumes."""


@functools.cache
def _opened() -> Any:
    import fsspec

    # Other processes write too, so listings must not be cached; epath and Orbax pick up this setting as well.
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
    store = fsspec.filesystem("gcs")
    silence_gcsfs()
    return store


def silence_gcsfs() -> None:
    """Stop gcsfs from logging a traceback for each exception it raises, unless ``GCSFS_DEBUG`` set its log level."""
    logger = logging.getLogger("gcsfs")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)


def _store(path: str) -> Any:
    try:
        return _opened()
    except ImportError:
        raise UserError(field=path, reason="needs gcsfs", hint="pip install 'clip-jax-scaling[gcs]'") from None


@contextlib.contextmanager
def _open_bucket(path: Path) -> Iterator[Any]:
    """Yield the bucket's file system and translate its errors.

    Raises FileNotFoundError, UserError if access is denied, or `BucketUnavailable`.
    """
    store = _store(str(path))
    try:
        yield store
    except (FileNotFoundError, FileExistsError, UserError):
        raise
    except Exception as error:
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        denied = getattr(error, "code", None) in (401, 403) or isinstance(error, PermissionError)
        if denied or message.startswith("Forbidden"):
            raise UserError(field=path, reason=f"the bucket refuses access ({message})") from None
        raise BucketUnavailable(errno.EIO, f"the bucket does not answer ({message})", str(path)) from error


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
    """Return the UserError for a disk that is full, read-only or not writable by this user; None for other errors.

    Args:
      error: the exception, raised by Python or by a library that keeps only the system's error text.
      path: the file being written, for errors that name none.
    """
    if isinstance(error, UserError) or not isinstance(error, Exception):
        return None
    number = error.errno if isinstance(error, OSError) else None
    if number is None:
        message = str(error)
        number = next((n for n in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) if os.strerror(n) in message), None)
    if number not in _DISK:
        return None
    reason, hint = _DISK[number]
    named = path or getattr(error, "filename", None)
    return UserError(field=named or None, reason=reason, hint=hint)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Convert the errors that `disk_error` recognizes into its one-line UserError."""
    try:
        yield
    except Exception as error:
        if (user_error := disk_error(error, path)) is not None:
            raise user_error from error
        raise


def mkdir(path: Path) -> None:
    """Create a directory and its parents; do nothing in a bucket, which needs none."""
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)


def exists(path: Path) -> bool:
    """Return whether the file exists. A bucket that does not respond raises; it does not count as absent."""
    if not is_remote(path):
        return path.exists()
    try:
        with _open_bucket(path) as store:
            store.info(str(path))
    except FileNotFoundError:
        return False
    return True


def remove(path: Path) -> None:
    """Delete the file if it exists."""
    if not is_remote(path):
        path.unlink(missing_ok=True)
        return
    with contextlib.suppress(FileNotFoundError), _open_bucket(path) as store:
        store.rm_file(str(path))


def read_text(path: Path) -> str:
    """Read one consistent version of the file; raise FileNotFoundError, or UserError if it is not UTF-8 text."""
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError:
        raise UserError(field=path, reason="is not UTF-8 text", hint="save it as UTF-8") from None


def read_bytes(path: Path) -> bytes:
    """Read one consistent version of the file; raise FileNotFoundError, or UserError if it cannot be read."""
    if is_remote(path):
        with _open_bucket(path) as store:
            return bytes(store.cat_file(str(path)))  # one request: two could read two versions
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(field=path, reason=f"cannot be read ({error.strerror})") from None


def write_bytes(path: Path, data: bytes) -> None:
    """Write the file atomically: a reader sees the old one or the new one. Raises UserError on a full disk."""
    if is_remote(path):
        try:
            with _open_bucket(path) as store:
                store.pipe_file(str(path), data)
        except FileNotFoundError:
            raise UserError(field=path, reason=f"there is no bucket {path.parts[2]!r}") from None
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
    """Write ``text`` as UTF-8, atomically (`write_bytes`)."""
    write_bytes(path, text.encode())


def create_if_absent(path: Path, text: str) -> bool:
    """Create an object in a bucket; return False if it exists already. Of several concurrent calls, one succeeds."""
    try:
        with _open_bucket(path) as store:
            store.pipe_file(str(path), text.encode(), mode="create")
        return True
    except FileExistsError:
        return False
    except FileNotFoundError:
        raise UserError(field=path, reason=f"there is no bucket {path.parts[2]!r}") from None
    except OSError as error:
        # gcsfs reports a failed precondition as 412. Our own request may have succeeded and its response been lost.
        if getattr(error.__cause__, "code", None) == 412:
            return read_text(path) == text
        raise


def list_names(path: Path) -> list[str]:
    """Return the sorted names of the directory's entries; empty if it does not exist."""
    if not is_remote(path):
        return sorted(os.listdir(path)) if path.is_dir() else []
    try:
        with _open_bucket(path) as store:
            return sorted(entry.rstrip("/").rpartition("/")[2] for entry in store.ls(str(path), detail=False))
    except FileNotFoundError:
        return []


def remove_tree(path: Path) -> None:
    """Delete a directory with all that is in it, if it exists."""
    if not is_remote(path):
        import shutil

        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(FileNotFoundError), _open_bucket(path) as store:
        store.rm(str(path), recursive=True)


def move_tree(path: Path, target: Path) -> None:
    """Move a directory, replacing ``target``.

    A bucket moves object by object, so an interrupted move leaves some objects at either path.
    """
    if not is_remote(path):
        target.parent.mkdir(exist_ok=True)
        remove_tree(target)
        path.rename(target)
        return
    remove_tree(target)
    with _open_bucket(path) as store:
        store.mv(str(path), str(target), recursive=True)


@contextlib.contextmanager
def staging_dir(path: Path) -> Iterator[Path]:
    """Yield a local folder to write files in; on exit its files become the content of ``path``.

    For a local path it is the directory itself, and other files in it stay. For a bucket it is a temporary folder: on
    exit its files are uploaded and other objects below ``path`` are removed.
    """
    if not is_remote(path):
        mkdir(path)
        yield path
        return
    with tempfile.TemporaryDirectory() as staging:
        yield Path(staging)
        written = [p for p in sorted(Path(staging).iterdir()) if p.is_file()]
        for file in written:
            write_bytes(path / file.name, file.read_bytes())
        with _open_bucket(path) as store:
            for old in set(list_names(path)) - {file.name for file in written}:
                store.rm(str(path / old), recursive=True)
