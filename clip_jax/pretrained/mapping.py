"""Mapping between another library's tensors and our parameters, by one list of entries per layout.

Reading and writing use the same entries, so a round trip is exact for every key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from clip_jax.errors import UserError
from clip_jax.finite import finite_tensors
from clip_jax.types import Params

if TYPE_CHECKING:
    pass

# linear: [out, in]; conv: OIHW; row: [1, …], an axis more; one: [1]
Form = Literal["same", "linear", "conv", "row", "scalar", "one"]
MAX_LISTED = 8  # names in one error


@dataclass(frozen=True)
class WeightEntry:
    """The mapping of one or more source tensors (``keys``) to a parameter ``path`` ("image/blocks/blocks/qkv/kernel").

    Several keys are concatenated along their first axis. Conversely, several paths can share one key, split along its
    first axis (``part``). ``form`` is the transformation of the array; ``layer`` is the index into a stacked parameter.
    """

    path: str
    keys: tuple[str, ...]
    form: Form = "same"
    layer: int | None = None
    part: tuple[int, int] = (0, 1)  # the parameter's part of the key: index, number of parts


def _to_parameter(value: np.ndarray, form: Form, want: tuple[int, ...]) -> np.ndarray:
    if form == "linear":
        return value.T if value.ndim == 2 else value
    if form == "conv":
        return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
    if form == "row" and value.shape == (1, *want):
        return value[0]
    if form in ("scalar", "one") and value.size == 1:
        return value.reshape(())
    return value


def _to_tensor(value: np.ndarray, form: Form) -> np.ndarray:
    if form == "linear":
        return value.T
    if form == "conv":
        return value.transpose(3, 2, 0, 1)
    return value[None] if form in ("row", "one") else value


def _leaves(tree: object, prefix: str = "") -> Params:
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    return {k: v for name, sub in tree.items() for k, v in _leaves(sub, f"{prefix}/{name}" if prefix else name).items()}


def nest(flat: Params) -> Params:
    """Nest a flat dictionary: {"a/b": x} -> {"a": {"b": x}}."""
    tree: Params = {}
    for path, value in flat.items():
        *groups, last = path.split("/")
        at = tree
        for group in groups:
            at = at.setdefault(group, {})
        at[last] = value
    return tree


def flatten(tree: Params) -> Params:
    """Flatten a nested dictionary: {"a": {"b": x}} -> {"a/b": x}."""
    return _leaves(tree)


def _list(names: list[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more


def read(
    tensors: Mapping[str, np.ndarray],
    entries: list[WeightEntry],
    abstract: Params,
    source: str,
    ignored: tuple[str, ...] = (),
) -> Params:
    """Convert source tensors to our parameters.

    Args:
      tensors: the source's state dictionary.
      entries: the layout.
      abstract: shapes and dtypes of our parameters (`models.clip.AbstractModel.abstract_params`).
      source: the file, for error messages.
      ignored: suffixes of keys that hold no parameter.

    Returns:
      A nested dictionary of NumPy arrays in the dtypes of ``abstract``.

    Raises:
      UserError: tensors are missing, unexpected, of another shape or dtype, or not finite; the message lists them. No
        value is filled in.
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
        value = _to_parameter(value, entry.form, want)
        if value.shape != want:
            shape = " + ".join(str(list(a.shape)) for a in arrays)
            wrong.append(f"{' + '.join(entry.keys)} is {shape} where the model has {list(want)}")
            continue
        if value.dtype.kind in "iub":
            wrong.append(f"{' + '.join(entry.keys)} holds {value.dtype} where the model has numbers with a point")
            continue
        if entry.path not in out:
            out[entry.path] = np.empty(whole, shapes[entry.path].dtype)
        with np.errstate(over="ignore"):  # values that overflow become infinite and are reported below
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
        raise UserError(field=source, reason=f"the weights do not fit the model: {', '.join(problems)}")
    finite_tensors(source, named)
    left = sorted(p for p in shapes if p not in out)
    if left:  # a layout that lacks one of our parameters is a bug, not a user's mistake
        raise AssertionError(f"no entry fills {_list(left)}")
    return nest(out)


def write(params: Params, entries: list[WeightEntry]) -> dict[str, np.ndarray]:
    """Convert our parameters to the layout's tensors; the inverse of `read`."""
    flat = {k: np.asarray(v) for k, v in flatten(params).items()}
    out: dict[str, np.ndarray] = {}
    shares: dict[str, dict[int, np.ndarray]] = {}
    for entry in entries:
        value = flat[entry.path] if entry.layer is None else flat[entry.path][entry.layer]
        value = _to_tensor(value, entry.form)
        value = np.ascontiguousarray(value).reshape(value.shape)  # ascontiguousarray turns a scalar into a row
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
