"""Choose samples of an index by keys or by numbers of their sidecars: the index of them reads the same shards."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import operator
import re
import uuid
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clip_jax.data.sources.index_build import echo_progress, in_processes, uids
from clip_jax.data.sources.shard_index import Manifest, ShardIndex, open_index, read_shard_index
from clip_jax.errors import UserError
from clip_jax.storage import paths
from clip_jax.storage import range_reads as remote

Condition = tuple[str, str, float | bytes]

COMPARISONS = {
    "<=": operator.le, ">=": operator.ge, "==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
WITHOUT_SIDECAR = (
    "where others have it, put this shard's .parquet beside it and run clip-jax data index again, "
    "or index without the shard"
)
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

    def __len__(self) -> int:
        return len(self._sorted)

    @property
    def digest(self) -> str:
        """Hash of the keys."""
        return hashlib.sha256(self._sorted.view(np.uint8).data).hexdigest()

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
        """Return which key of the list each sample of a shard has, int64 [N]; -1 for none."""
        if self.by_uid and "uid" not in index.columns:
            raise UserError(field="--keys", value=shard, reason="has no uids in its index", hint=WITHOUT_SIDECAR)
        values = _pairs(index.columns["uid"]) if self.by_uid else index.keys
        if not self.by_uid and not np.isin(values, self._sorted).any():  # keys of a shard's folder, without it
            values = np.array([key.rpartition(b"/")[2] for key in values.tolist()], "S")
        at = np.minimum(np.searchsorted(self._sorted, values), len(self._sorted) - 1)
        return np.where(self._sorted[at] == values, at, -1)


def _pairs(values: np.ndarray) -> np.ndarray:
    """Return uint64 [N, 2] as one sortable value each: 16 bytes, the most significant first."""
    return np.ascontiguousarray(values.astype(">u8")).view("S16").reshape(-1)


def _choose(index: ShardIndex, shard: str, conditions: list[Condition]) -> np.ndarray:
    chosen = np.ones(len(index), bool)
    for name, comparison, value in conditions:
        if name not in index.columns or index.columns[name].ndim > 1:
            has = ", ".join(sorted(n for n, v in index.columns.items() if v.ndim == 1)) or "none"
            reason = f"no such column; those of {shard} are {has}"
            raise UserError(field="--where", value=name, reason=reason, hint=WITHOUT_SIDECAR)
        if (index.columns[name].dtype.kind == "S") != isinstance(value, bytes):
            holds = "numbers" if isinstance(value, bytes) else "texts"
            raise UserError(field="--where", value=name, reason=f"holds {holds} in the index of {shard}")
        chosen &= COMPARISONS[comparison](index.columns[name], value)  # NaN, an unknown number, fulfills none but !=
    return chosen


@dataclasses.dataclass(frozen=True)
class _Selection:
    """Choice of samples of an index, for the processes that make it.

    ``digest`` changes with the keys and conditions, ``call`` with every call of `select_samples`.
    """

    index: Path
    out: Path
    keys: str | None
    conditions: list[Condition]
    digest: str
    call: str

    def __call__(self, one: ShardIndex, shard: str) -> tuple[np.ndarray, np.ndarray]:
        """Return which samples of a shard are chosen, bool [N], and which listed keys they have, int64 [chosen]."""
        chosen = _choose(one, shard, self.conditions)
        if self.keys is None:
            return chosen, np.zeros(0, np.int64)
        rows = _key_list(self.keys, self.call)(one, shard)
        chosen &= rows >= 0
        return chosen, rows[chosen]


@lru_cache(1)
def _key_list(path: str, call: str) -> KeyList:
    """Return a list of keys, which each process reads once for a call of `select_samples`."""
    return KeyList(path)


class _Choice(NamedTuple):
    """Samples chosen of one shard: how many, the checksum in the manifest, their listed keys, whether before."""

    samples: int
    checksum: str
    rows: np.ndarray
    before: bool


def _select_one(selection: _Selection, row: tuple[str, str, str]) -> _Choice:
    """Choose samples of one shard and write the index of them, unless it is there.

    Args:
      selection: which.
      row: of the manifest: the index's file, the shard and its checksum.
    """
    file, shard, checksum = row
    identity = "{} {} {}".format(selection.digest, *remote.stat(str(selection.index / file)))
    with contextlib.suppress(FileNotFoundError, UserError):
        written = read_shard_index(selection.out / file)
        if written.identity == identity:
            return _Choice(len(written), written.checksum, selection(written, shard)[1], True)
    one = read_shard_index(selection.index / file)
    chosen, rows = selection(one, shard)
    if not chosen.all():  # as many other samples would otherwise make the same digest
        checksum = hashlib.sha256(checksum.encode() + np.packbits(chosen).tobytes()).hexdigest()
    part = dataclasses.replace(one.select(chosen), identity=identity, checksum=checksum)
    part.write(selection.out / file)
    return _Choice(len(part), checksum, rows, False)


def select_samples(
    index: str | Path,
    out: str | Path,
    *,
    keys: str | Path | None = None,
    where: str = "",
    workers: int = 1,
    echo: Callable[[str], None] = print,
) -> Manifest:
    """Write an index of some samples of another; it reads the same shards.

    What an earlier call with the same keys and conditions has written is kept, if its shard was not indexed again.

    Args:
      index: folder or gs:// address of the other index.
      out: of the new one.
      keys: see `KeyList`; None chooses all.
      where: see `read_conditions`; empty chooses all.
      workers: processes; each holds the keys.
      echo: receives lines about the progress and about what was chosen.

    Raises:
      UserError: nothing is chosen; an unknown column; ``out`` is ``index``.
    """
    base, folder = open_index(index), paths.as_path(out)
    if paths.absolute(folder) == paths.absolute(base.folder):
        raise UserError(field="--out", value=out, reason="is the index that samples are chosen from")
    call = uuid.uuid4().hex
    named = _key_list(str(keys), call) if keys else None
    conditions = read_conditions(where) if where else []
    digest = hashlib.sha256(f"{named.digest if named else ''} {conditions}".encode()).hexdigest()
    selection = _Selection(base.folder, folder, str(keys) if keys else None, conditions, digest, call)
    counts, checksums = np.zeros(len(base), np.int64), []
    matched, before = np.zeros(len(named) if named else 0, bool), 0
    rows = base.table[["index", "shard", "checksum"]].itertuples(index=False, name=None)
    for i, choice in enumerate(in_processes(workers, _select_one, selection, rows)):
        counts[i] = choice.samples
        checksums.append(choice.checksum)
        matched[choice.rows] = True
        before += choice.before
        echo_progress(i + 1, len(base), int(counts.sum()), echo)
    total = int(base.samples.sum())
    if before:
        echo(f"{before:,} shards were chosen from before")
    if named is not None:
        fulfil = " and fulfil the conditions" if where else ""
        echo(f"{int(matched.sum()):,} of {len(named):,} listed keys are in the index{fulfil}")
    if not counts.any():
        raise UserError(field="--keys, --where", reason=f"choose none of {total:,} samples")
    kept = base.table.assign(samples=counts, checksum=checksums)[counts > 0]
    manifest = Manifest(folder, kept)
    manifest.write()
    echo(f"{counts.sum():,} of {total:,} samples, in {len(manifest):,} of {len(base):,} shards: {folder}")
    return manifest
