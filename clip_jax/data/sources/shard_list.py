"""Resolve a path or pattern to a list of tar shards."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from clip_jax.errors import ConfigError, UserError
from clip_jax.storage import range_reads as remote

MAX_NAMES = 1_000_000  # per pattern; more is surely a typing error
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expand_braces(text: str) -> list[str]:
    """Expand ``a-{00..02}.tar`` to three names, ``{a,b}/{0..1}`` to four, in the order written; braces may be nested.

    Leading zeros of a range's first number set its width, as in a shell. Raises ConfigError on unbalanced braces, a
    descending range, or more than `MAX_NAMES` names.
    """
    names = []
    for name in _expand(text, text):
        names.append(name)
        if len(names) > MAX_NAMES:
            raise ConfigError(field="data.paths", value=text, reason=f"names more than {MAX_NAMES:,} files")
    return names


def _expand(text: str, whole: str) -> Iterator[str]:
    begin = text.find("{")
    if begin < 0:
        if "}" in text:
            raise ConfigError(field="data.paths", value=whole, reason="has unbalanced braces")
        yield text
        return
    depth, cuts = 0, [begin]
    for position, letter in enumerate(text):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if depth < 0:
            break
        if (letter == "," and depth == 1) or (letter == "}" and depth == 0):
            cuts.append(position)
        if letter == "}" and depth == 0:
            break
    if depth != 0:
        raise ConfigError(field="data.paths", value=whole, reason="has unbalanced braces")
    head, tail = text[:begin], text[cuts[-1] + 1 :]
    choices = [text[a + 1 : b] for a, b in itertools.pairwise(cuts)]
    for choice in choices:
        for middle in _range(choice, whole) if len(choices) == 1 else _expand(choice, whole):
            for rest in _expand(tail, whole):
                yield head + middle + rest


def _range(text: str, whole: str) -> Iterator[str]:
    match = _RANGE.fullmatch(text)
    if match is None:
        raise ConfigError(
            field="data.paths",
            value=whole,
            reason=f"{{{text}}} must be a range like {{000..127}} or a list like {{a,b}}",
        )
    first, last = int(match[1]), int(match[2])
    if last < first:
        raise ConfigError(field="data.paths", value=whole, reason=f"the range {{{text}}} is descending")
    return (str(n).zfill(len(match[1])) for n in range(first, last + 1))


def shards_of(path: str | Path, split: str) -> list[str]:
    """List the tar files of a path or URL, shorter names first.

    The path itself if it ends in ``.tar`` or is a file; else the shards in PATH/SPLIT/, or in PATH if it has no splits.
    Braces and ``*`` are expanded.

    Raises UserError when there are none; ConfigError on malformed braces.
    """
    return [shard for pattern in _expand_pattern(str(path)) for shard in _shards(pattern, split)]


def holds_shards(path: str | Path) -> bool:
    """Return whether a local path is a shard, or a folder with shards in it or in its splits."""
    local = remote.local_path(str(path))
    return local.is_file() or any(remote.glob(str(path), pattern) for pattern in ("*/*.tar", "*.tar"))


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


def _shards(path: str, split: str) -> list[str]:
    if path.endswith(".tar") or (_exists(path) and remote.local_path(path).is_file()):
        return [path]
    if not remote.is_url(path) and not _exists(path):
        _none(path, "no such file or folder")
    whole = path.rstrip("/")
    if shards := _sorted(remote.glob(f"{whole}/{split}", "*.tar")):
        return shards
    splits = sorted({p.split("/")[-2] for p in remote.glob(path, "*/*.tar")})
    flat = _sorted(remote.glob(whole, "*.tar"))
    if flat and not splits:
        return flat
    hint = f"{len(flat)} shards lie in the folder itself: {whole}/*.tar names them" if flat else ""
    return _none(f"{whole}/{split}", f"holds no .tar shards; the splits are {', '.join(splits) or 'none'}", hint)


def _sorted(paths: list[str]) -> list[str]:
    return sorted(paths, key=lambda p: (len(p), p))


def _none(path: str, reason: str, hint: str = "") -> NoReturn:
    raise UserError(field="data.paths", value=path, reason=reason, hint=hint or None)
