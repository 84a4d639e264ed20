"""One mechanism for every layout: a list of entries says which of their tensors is which of our parameters.

Reading and writing go through the same entries, so that a round trip is exact, key by key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from clip_jax.errors import UserError
from clip_jax.finite import finite_tensors

LISTED = 8  # names in one error


@dataclass(frozen=True)
class WeightEntry:
    """Their tensor(s) ``keys`` and our parameter ``path`` ("image/blocks/blocks/qkv/kernel").

    Several keys are joined along their first axis. ``parts`` paths of ours may also share one key, cut along its first
    axis. ``form`` says how the array is turned; ``layer`` picks a place of a stacked parameter.
    """

    path: str
    keys: tuple[str, ...]
    form: str = "same"  # same | linear ([out, in]) | conv (OIHW) | row ([1, …]: an axis more) | scalar | one ([1])
    layer: int | None = None
    part: tuple[int, int] = (0, 1)  # our share of the key: which, of how many


def _turn(value: np.ndarray, form: str, want: tuple[int, ...]) -> np.ndarray:
    if form == "linear":
        return value.T if value.ndim == 2 else value
    if form == "conv":
        return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
    if form == "row" and value.shape == (1, *want):
        return value[0]
    if form in ("scalar", "one") and value.size == 1:
        return value.reshape(())
    return value


def _turn_back(value: np.ndarray, form: str) -> np.ndarray:
    if form == "linear":
        return value.T
    if form == "conv":
        return value.transpose(3, 2, 0, 1)
    return value[None] if form in ("row", "one") else value


def _leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    return {k: v for name, sub in tree.items() for k, v in _leaves(sub, f"{prefix}/{name}" if prefix else name).items()}


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"a/b": x} -> {"a": {"b": x}}."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *groups, last = path.split("/")
        at = tree
        for group in groups:
            at = at.setdefault(group, {})
        at[last] = value
    return tree


def flatten(tree: Any) -> dict[str, Any]:
    """{"a": {"b": x}} -> {"a/b": x}."""
    return _leaves(tree)


def path_name(path: tuple[Any, ...]) -> str:
    """A key path of jax as "a/b"."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", k))) for k in path)


def _list(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def read(
    tensors: Mapping[str, np.ndarray],
    entries: list[WeightEntry],
    abstract: Any,
    source: str,
    ignored: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Their tensors -> our parameters, a nested dictionary of NumPy arrays in the dtypes of ``abstract``.

    Args:
      tensors: their state dictionary.
      entries: the layout.
      abstract: shapes and dtypes of our parameters (`models.clip.AbstractModel.abstract_params`).
      source: the file, for errors.
      ignored: endings of keys that carry no parameter.

    Raises:
      UserError: one line that lists what is missing, unexpected or of another shape, or what is not finite; nothing is
        made up.
    """
    shapes = flatten(abstract)
    out: dict[str, np.ndarray] = {}
    missing: list[str] = []
    wrong: list[str] = []
    named: list[tuple[str, np.ndarray]] = []
    used = {key for entry in entries for key in entry.keys}
    for entry in entries:
        lacking = [k for k in entry.keys if k not in tensors]
        if lacking:
            missing += [k for k in lacking if k not in missing]
            continue
        whole = shapes[entry.path].shape
        want = whole if entry.layer is None else whole[1:]
        arrays = [np.asarray(tensors[k]) for k in entry.keys]
        if len(arrays) > 1 and len({a.shape[1:] for a in arrays}) == 1 and arrays[0].ndim:
            value = np.concatenate(arrays)
        else:
            value = arrays[0]
        which, of = entry.part
        if of > 1 and value.ndim and value.shape[0] % of == 0:
            value = np.split(value, of)[which]
        value = _turn(value, entry.form, want)
        if value.shape != want:
            theirs = " + ".join(str(list(a.shape)) for a in arrays)
            wrong.append(f"{' + '.join(entry.keys)} is {theirs} where the model has {list(want)}")
            continue
        if value.dtype.kind in "iub":
            wrong.append(f"{' + '.join(entry.keys)} holds {value.dtype} where the model has numbers with a point")
            continue
        if entry.path not in out:
            out[entry.path] = np.empty(whole, shapes[entry.path].dtype)
        with np.errstate(over="ignore"):  # what no longer fits becomes infinite, and is told below
            if entry.layer is None:
                out[entry.path][...] = value
            else:
                out[entry.path][entry.layer] = value
        named.append((" + ".join(entry.keys), out[entry.path] if entry.layer is None else out[entry.path][entry.layer]))
    unexpected = sorted(k for k in tensors if k not in used and not k.endswith(ignored or ("\0",)))
    problems = []
    for title, names in (("missing", missing), ("unexpected", unexpected), ("of another shape or kind", wrong)):
        if names:
            problems.append(f"{len(names)} {title}: {_list(names)}")
    if problems:
        raise UserError(f"{source}: the weights do not fit the model: {'; '.join(problems)}")
    finite_tensors(source, named)
    left = sorted(p for p in shapes if p not in out)
    if left:  # a layout that forgets a parameter of ours is our mistake, not the user's
        raise AssertionError(f"no entry fills {_list(left)}")
    return nest(out)


def write(params: Any, entries: list[WeightEntry]) -> dict[str, np.ndarray]:
    """Our parameters -> their tensors: the inverse of `read`."""
    flat = {k: np.asarray(v) for k, v in flatten(params).items()}
    out: dict[str, np.ndarray] = {}
    shares: dict[str, dict[int, np.ndarray]] = {}
    for entry in entries:
        value = flat[entry.path] if entry.layer is None else flat[entry.path][entry.layer]
        value = _turn_back(value, entry.form)
        value = np.ascontiguousarray(value).reshape(value.shape)  # the first would make a scalar a row
        which, of = entry.part
        if of > 1:
            shares.setdefault(entry.keys[0], {})[which] = value
            continue
        pieces = np.split(value, len(entry.keys)) if len(entry.keys) > 1 else [value]
        for key, piece in zip(entry.keys, pieces, strict=True):
            out[key] = np.ascontiguousarray(piece) if piece.ndim else piece
    for key, parts in shares.items():
        out[key] = np.concatenate([parts[i] for i in range(len(parts))])
    return out
