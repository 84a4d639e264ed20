"""Choose samples of an index by keys or by numbers of their sidecars: the index of them reads the same shards."""

from __future__ import annotations

import hashlib
import operator
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from clip_jax.data.sources.index_build import uids
from clip_jax.data.sources.shard_index import Manifest, ShardIndex, open_index
from clip_jax.errors import UserError
from clip_jax.storage import paths

Condition = tuple[str, str, float | bytes]

COMPARISONS = {
    "<=": operator.le, ">=": operator.ge, "==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_CONDITION = re.compile(rf"\s*(\w+)\s*({'|'.join(COMPARISONS)})\s*(\S+)\s*")


def read_conditions(text: str) -> list[Condition]:
    """Read conditions on columns such as ``similarity > 0.3 and language == en``; raise UserError for another form."""
    out = []
    for part in re.split(r"\band\b", text):
        match = _CONDITION.fullmatch(part)
        try:
            if match is None:
                raise ValueError
            is_text = match[2] in ("==", "!=") and not re.match(r"[-+.\d]", match[3])
            out.append((match[1], match[2], match[3].encode() if is_text else float(match[3])))
        except ValueError:
            forms = f"one of {' '.join(COMPARISONS)} and a number, or == or != and a text"
            hint = f"COLUMN, {forms}; several are joined by 'and'"
            raise UserError(field="--where", value=part.strip(), reason="is not a condition", hint=hint) from None
    return out


class KeyList:
    """Keys or uids of the samples to choose.

    Args:
      path: ``.npy`` with DataComp's uids (pairs of uint64, as a structured array or [N, 2]), or text with one key, or
        uid of 32 hexadecimal digits, per line.

    Raises:
      UserError: the file is missing, empty or of another kind.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.by_uid, self._sorted = self._read()
        except (OSError, ValueError) as error:
            reason = f"cannot be read ({str(error).splitlines()[0]})"
            raise UserError(field="--keys", value=path, reason=reason) from None
        if not len(self._sorted):
            raise UserError(field="--keys", value=path, reason="holds no keys")
        self.matched = np.zeros(len(self._sorted), bool)

    def _read(self) -> tuple[bool, np.ndarray]:
        if self.path.suffix == ".npy":
            values = np.load(self.path, allow_pickle=False)
            if values.dtype.names:
                values = np.stack([values[name] for name in values.dtype.names], -1)
            if values.ndim != 2 or values.shape[1] != 2 or values.dtype != np.uint64:
                raise ValueError(f"{values.dtype} {values.shape}, not pairs of uint64")
            return True, np.unique(_pairs(values))
        lines = [line.strip() for line in self.path.read_text().splitlines() if line.strip()]
        if lines and all(re.fullmatch(r"[0-9a-fA-F]{32}", line) for line in lines):
            return True, np.unique(_pairs(uids(lines, str(self.path))))
        return False, np.unique(np.array([line.encode() for line in lines], "S"))

    def __call__(self, index: ShardIndex, shard: str) -> np.ndarray:
        """Return which samples of a shard the list names, bool [N]."""
        if self.by_uid and "uid" not in index.columns:
            hint = "a .parquet with a column uid must lie beside the shard when it is indexed"
            raise UserError(field="--keys", value=shard, reason="has no uids in its index", hint=hint)
        values = _pairs(index.columns["uid"]) if self.by_uid else index.keys
        if not self.by_uid and not np.isin(values, self._sorted).any():  # keys of a shard's folder, without it
            values = np.array([key.rpartition(b"/")[2] for key in values.tolist()], "S")
        at = np.minimum(np.searchsorted(self._sorted, values), len(self._sorted) - 1)
        chosen = self._sorted[at] == values
        self.matched[at[chosen]] = True
        return chosen


def _pairs(values: np.ndarray) -> np.ndarray:
    """Return uint64 [N, 2] as one sortable value each: 16 bytes, the most significant first."""
    return np.ascontiguousarray(values.astype(">u8")).view("S16").reshape(-1)


def _choose(index: ShardIndex, shard: str, conditions: list[Condition]) -> np.ndarray:
    chosen = np.ones(len(index), bool)
    for name, comparison, value in conditions:
        if name not in index.columns or index.columns[name].ndim > 1:
            has = ", ".join(sorted(n for n, v in index.columns.items() if v.ndim == 1)) or "none"
            raise UserError(field="--where", value=name, reason=f"no such column; those of {shard} are {has}")
        if (index.columns[name].dtype.kind == "S") != isinstance(value, bytes):
            holds = "numbers" if isinstance(value, bytes) else "texts"
            raise UserError(field="--where", value=name, reason=f"holds {holds} in the index of {shard}")
        chosen &= COMPARISONS[comparison](index.columns[name], value)  # NaN, an unknown number, fulfills none but !=
    return chosen


def select_samples(
    index: str | Path,
    out: str | Path,
    *,
    keys: str | Path | None = None,
    where: str = "",
    echo: Callable[[str], None] = print,
) -> Manifest:
    """Write an index of some samples of another; it reads the same shards.

    Args:
      index: folder or gs:// address of the other index.
      out: of the new one.
      keys: see `KeyList`; None chooses all.
      where: see `read_conditions`; empty chooses all.
      echo: receives lines about what was chosen.

    Raises:
      UserError: nothing is chosen; an unknown column; ``out`` is ``index``.
    """
    base, folder = open_index(index), paths.as_path(out)
    if paths.absolute(folder) == paths.absolute(base.folder):
        raise UserError(field="--out", value=out, reason="is the index that samples are chosen from")
    named = KeyList(keys) if keys else None
    conditions = read_conditions(where) if where else []
    counts, checksums = np.zeros(len(base), np.int64), base.table["checksum"].tolist()
    for i in range(len(base)):
        one, shard = base.read(i), base.shard(i)
        chosen = _choose(one, shard, conditions)
        if named is not None:
            chosen &= named(one, shard)
        counts[i] = chosen.sum()
        if counts[i]:
            one.select(chosen).write(folder / str(base.table["index"].iat[i]))
        if not chosen.all():  # as many other samples would otherwise make the same digest
            checksums[i] = hashlib.sha256(str(checksums[i]).encode() + np.packbits(chosen).tobytes()).hexdigest()
    total = int(base.samples.sum())
    if named is not None:
        echo(f"{int(named.matched.sum()):,} of {len(named.matched):,} listed keys are in the index")
    if not counts.any():
        raise UserError(field="--keys, --where", reason=f"choose none of {total:,} samples")
    kept = base.table.assign(samples=counts, checksum=checksums)[counts > 0]
    manifest = Manifest(folder, kept)
    manifest.write()
    echo(f"{counts.sum():,} of {total:,} samples, in {len(manifest):,} of {len(base):,} shards: {folder}")
    return manifest
