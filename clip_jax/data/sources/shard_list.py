"""Resolve a path or pattern to a list of tar shards."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NoReturn

import bracex

from clip_jax.errors import ConfigError, UserError
from clip_jax.storage import paths
from clip_jax.storage import range_reads as remote

MANIFEST = "manifest.parquet"  # of an index of shards
MAX_NAMES = 2_000_000  # per pattern; more is surely a typing error
_RANGE = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}")


def expand_braces(text: str) -> list[str]:
    """Expand ``a-{00..02}.tar`` to three names, ``{a,b}/{0..1}`` to four, as Bash does; braces may be nested.

    Raises ConfigError on a brace that is not expanded, a descending range, or more than `MAX_NAMES` names.
    """

    def refused(reason: str) -> ConfigError:
        return ConfigError(field="data.paths", value=text, reason=reason)

    for first, last in _RANGE.findall(text):
        if int(last) < int(first):
            raise refused(f"has the descending range {{{first}..{last}}}")
    try:
        names = bracex.expand(text, keep_escapes=True, limit=MAX_NAMES)
    except bracex.ExpansionLimitException:
        raise refused(f"names more than {MAX_NAMES:,} files") from None
    except RecursionError:
        raise refused("has braces nested too deep") from None
    if any(letter in name for name in names for letter in "{}"):
        raise refused("has a brace that is neither a range like {000..127} nor a list like {a,b}")
    return names


def shards_of(path: str | Path, split: str, extension: str = ".tar") -> list[str]:
    """List the shards of a path or URL, files with this extension, shorter names first.

    The path itself if it has the extension or is a file; else those in PATH/SPLIT/, or in PATH if it has no splits.
    Braces and ``*`` are expanded.

    Raises UserError when there are none; ConfigError on malformed braces.
    """
    return [shard for pattern in _expand_pattern(str(path)) for shard in _shards(pattern, split, extension)]


def holds_shards(path: str | Path) -> bool:
    """Return whether a local path is a shard, or a folder with shards in it or in its splits."""
    local = remote.local_path(str(path))
    return local.is_file() or any(remote.glob(str(path), pattern) for pattern in ("*/*.tar", "*.tar"))


def is_index(path: str | Path) -> bool:
    """Return whether a path or gs:// address is the folder of an index (`shard_index`)."""
    if str(path).endswith(".tar") or (paths.is_url(path) and not str(path).startswith(paths.SCHEME)):
        return False
    return paths.exists(paths.as_path(path) / MANIFEST)


def _expand_pattern(path: str) -> list[str]:
    if _exists(path):
        return [path]
    return [name for pattern in expand_braces(path) for name in (_matching(pattern) if "*" in pattern else [pattern])]


def _matching(pattern: str) -> list[str]:
    folder, slash, _ = pattern[: pattern.index("*")].rpartition("/")
    matches = _sorted(remote.glob(folder or slash or ".", pattern[len(folder + slash) :]))
    return matches or _none(pattern, "no file matches")


def _exists(path: str) -> bool:
    return not remote.is_url(path) and remote.local_path(path).exists()


def _shards(path: str, split: str, extension: str) -> list[str]:
    if path.endswith(extension) or (_exists(path) and remote.local_path(path).is_file()):
        return [path]
    if not remote.is_url(path) and not _exists(path):
        _none(path, "no such file or folder")
    whole = path.rstrip("/")
    if shards := _sorted(remote.glob(f"{whole}/{split}", f"*{extension}")):
        return shards
    splits = sorted({p.split("/")[-2] for p in remote.glob(path, f"*/*{extension}")})
    flat = _sorted(remote.glob(whole, f"*{extension}"))
    if flat and not splits:
        return flat
    hint = f"{len(flat)} shards lie in the folder itself: {whole}/*{extension} names them" if flat else ""
    return _none(f"{whole}/{split}", f"holds no {extension} shards; the splits are {', '.join(splits) or 'none'}", hint)


def _sorted(paths: list[str]) -> list[str]:
    return sorted(paths, key=lambda p: (len(p), p))


def _none(path: str, reason: str, hint: str = "") -> NoReturn:
    raise UserError(field="data.paths", value=path, reason=reason, hint=hint or None)
