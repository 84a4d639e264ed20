"""Which shards a path names: a file, a folder of splits, or a brace range of either."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from clip_jax.config import ConfigError, UserError
from clip_jax.data import remote

MAX_NAMES = 1_000_000  # of one brace range; more is surely a slip
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expand_braces(text: str) -> list[str]:
    """``a-{00..02}.tar`` -> three names, ``{a,b}/{0..1}`` -> four, in the order of writing; braces may be nested.

    Zeros in front of a range's first number set its width, as in a shell. Raises ConfigError on unbalanced braces,
    a range that runs down, or more than `MAX_NAMES` names.
    """
    names = []
    for name in _expand(text, text):
        names.append(name)
        if len(names) > MAX_NAMES:
            raise ConfigError(f"data.paths: {text!r} names more than {MAX_NAMES:,} files")
    return names


def _expand(text: str, whole: str) -> Iterator[str]:
    begin = text.find("{")
    if begin < 0:
        if "}" in text:
            raise ConfigError(f"data.paths: {whole!r} has a brace without its partner")
        yield text
        return
    depth, cuts = 0, [begin]
    for place, letter in enumerate(text):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if depth < 0:
            break
        if (letter == "," and depth == 1) or (letter == "}" and depth == 0):
            cuts.append(place)
        if letter == "}" and depth == 0:
            break
    if depth != 0:
        raise ConfigError(f"data.paths: {whole!r} has a brace without its partner")
    head, tail = text[:begin], text[cuts[-1] + 1 :]
    choices = [text[a + 1 : b] for a, b in itertools.pairwise(cuts)]
    for choice in choices:
        for middle in _range(choice, whole) if len(choices) == 1 else _expand(choice, whole):
            for rest in _expand(tail, whole):
                yield head + middle + rest


def _range(text: str, whole: str) -> Iterator[str]:
    found = _RANGE.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"data.paths: {{{text}}} in {whole!r} must be a range like {{000..127}} or a list like {{a,b}}"
        )
    first, last = int(found[1]), int(found[2])
    if last < first:
        raise ConfigError(f"data.paths: {{{text}}} in {whole!r} runs down")
    return (str(n).zfill(len(found[1])) for n in range(first, last + 1))


def shards_of(path: str | Path, split: str) -> list[str]:
    """The tar files that a path or URL names: itself, when its name ends in ``.tar`` or it is a file; else those of
    PATH/SPLIT/, shorter names first. Braces multiply the path.

    Raises UserError when a path names none; ConfigError on a wrong brace.
    """
    return [shard for one in _places(str(path)) for shard in _shards(one, split)]


def names_files(path: str) -> bool:
    """Whether a path of ``data.paths`` names shards themselves, which belong to no split."""
    return any(_is_file(one) for one in _places(path))


def _places(path: str) -> list[str]:
    here = not remote.is_url(path) and remote.local_path(path).exists()
    return [path] if here else expand_braces(path)


def _is_file(path: str) -> bool:
    return path.endswith(".tar") or (not remote.is_url(path) and remote.local_path(path).is_file())


def _shards(path: str, split: str) -> list[str]:
    if _is_file(path):
        return [path]
    if not remote.is_url(path) and not remote.local_path(path).exists():
        raise UserError(f"{path}: no such file or folder (data.paths)")
    folder = f"{path.rstrip('/')}/{split}"
    shards = sorted(remote.glob(folder, "*.tar"), key=lambda p: (len(p), p))
    if not shards:
        there = sorted({p.split("/")[-2] for p in remote.glob(path, "*/*.tar")}) or ["none"]
        raise UserError(f"{folder}: no .tar shards there; splits found: {', '.join(there)}")
    return shards
