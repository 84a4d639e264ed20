"""An index of tar shards, made once and read by every run: a folder or bucket with one file per shard and a manifest.

    DIR/manifest.parquet          a row per shard: shard, index, samples, bytes, version, checksum
    DIR/shards/AB/NAME.npz        per shard: where its members lie, its keys, and columns of its sidecar
    DIR/parts/I-of-N.parquet      rows of the manifest, while other parts are still being made

A run reads the manifest, and a shard's file when it comes to that shard. `clip-jax data index` makes an index
(`index_build.index_shards`), `clip-jax data subset` one of chosen samples of another (`index_subset.select_samples`).
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from clip_jax.data.sources import tar_index
from clip_jax.data.sources.shard_list import MANIFEST
from clip_jax.data.sources.tar_index import MEMBERS
from clip_jax.errors import UserError, one_line, require_columns
from clip_jax.storage import paths, range_reads

FORMAT = 1
INDEXED = (*MEMBERS, "json")
COLUMNS = ("shard", "index", "samples", "bytes", "version", "checksum")


@dataclass(frozen=True)
class ShardIndex:
    """The index of one shard.

    Attributes:
      offsets: uint32 [2 · len(INDEXED), N]: of each of `INDEXED` the offset in blocks of 512 bytes (0: the
        sample has none) and the size in bytes.
      keys: of the samples, UTF-8, bytes [N].
      columns: numbers and texts (UTF-8, bytes) of the shard's sidecar by name, [N] each; ``uid`` is uint64 [N, 2].
      counts: kind of `NOTES` -> how many, and one example.
      identity: what `tar_index.load_index` knows a version of a shard by.
      checksum: SHA-256 of the shard's bytes.
    """

    offsets: np.ndarray
    keys: np.ndarray
    columns: dict[str, np.ndarray]
    counts: dict[str, tuple[int, str]]
    identity: str
    checksum: str

    def __len__(self) -> int:
        return self.offsets.shape[1]

    def select(self, chosen: np.ndarray) -> ShardIndex:
        """Return the index of some of the samples, bool [N]."""
        columns = {name: values[chosen] for name, values in self.columns.items()}
        offsets = np.ascontiguousarray(self.offsets[:, chosen])
        return ShardIndex(offsets, self.keys[chosen], columns, self.counts, self.identity, self.checksum)

    def write(self, path: Path) -> None:
        """Write the index as an .npz file, atomically."""
        header = json.dumps([FORMAT, self.identity, self.checksum, self.counts])
        columns = {f"column/{name}": values for name, values in self.columns.items()}
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, header=np.array(header), offsets=self.offsets, keys=self.keys, **columns)
        paths.mkdir(path.parent)
        paths.write_bytes(path, file.getvalue())


def read_shard_index(path: Path) -> ShardIndex:
    """Read the index of one shard. Raises UserError when it is damaged, FileNotFoundError when it is missing."""
    data = range_reads.read_file(path)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = dict(archive)
        version, identity, checksum, counts = json.loads(str(arrays["header"]))
        offsets, keys = arrays["offsets"], arrays["keys"]
        columns = {name.removeprefix("column/"): v for name, v in arrays.items() if name.startswith("column/")}
        fits = version == FORMAT and offsets.dtype == np.uint32 and offsets.shape == (2 * len(INDEXED), len(keys))
        if not fits or any(len(v) != len(keys) for v in columns.values()):
            raise ValueError("has arrays of other sizes than this version writes")
    except Exception as error:  # noqa: BLE001  (a damaged archive makes the reader raise anything)
        reason = f"is not the index of a shard ({one_line(str(error))})"
        raise UserError(field=path, reason=reason, hint="run clip-jax data index again") from None
    return ShardIndex(offsets, keys, columns, {k: (int(n), str(t)) for k, (n, t) in counts.items()}, identity, checksum)


NOTES = tar_index.SKIPPED | {
    "no_row": "samples have no row in their shard's .parquet",
    "no_sample": "rows of a .parquet with status success have no sample in their shard",
    "stats": "shards hold another number of samples than their _stats.json says",
    "empty": "shards hold no sample and are left out",
    "twice": "keys occur more than once",
}


def notes_of(counts: dict[str, tuple[int, str]]) -> list[str]:
    """Return counts by kind of `NOTES` as lines for the user."""
    return [f"{counts[kind][0]:,} {text} ({counts[kind][1]})" for kind, text in NOTES.items() if kind in counts]


class Manifest:
    """The shards of an index, with the number of samples and bytes of each.

    Args:
      folder: of the index.
      table: a row per shard; ``shard`` is a path or URL, ``index`` its file relative to the folder, ``samples`` above
        0, ``version`` what its store says of it, ``checksum`` the SHA-256 of its content.
    """

    def __init__(self, folder: Path, table: pd.DataFrame) -> None:
        require_columns(table.columns, COLUMNS, source=str(folder / MANIFEST))
        if len(table) == 0 or (table["samples"] <= 0).any() or (table["bytes"] <= 0).any():
            raise UserError(field=folder / MANIFEST, reason="has no shards, or a shard without samples or bytes")
        types = {name: "int64" if name in ("samples", "bytes") else "string[pyarrow]" for name in COLUMNS}  # compact
        self.folder, self.table = folder, table.reset_index(drop=True).astype(types)
        self.samples = table["samples"].to_numpy(np.int64)
        self.bytes = table["bytes"].to_numpy(np.int64)

    def __len__(self) -> int:
        return len(self.samples)

    def shard(self, i: int) -> str:
        """Return the path or URL of a shard."""
        return str(self.table["shard"].iat[i])

    def index_path(self, i: int) -> Path:
        """Return the file with the index of a shard."""
        return self.folder / str(self.table["index"].iat[i])

    def read(self, i: int) -> ShardIndex:
        """Read the index of a shard."""
        path = self.index_path(i)
        try:
            return read_shard_index(path)
        except FileNotFoundError:
            hint = "run clip-jax data index again"
            raise UserError(field=path, reason="no such file, though the manifest names it", hint=hint) from None

    @property
    def digest(self) -> str:
        """Hash of the shards' names, contents and numbers of samples, independent of where the files are."""
        rows = zip(self.table["shard"], self.table["checksum"], self.samples.tolist(), strict=True)
        text = "\n".join(f"{str(shard).rpartition('/')[2]} {checksum} {samples}" for shard, checksum, samples in rows)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def write(self) -> None:
        """Write the manifest, atomically."""
        write_table(self.folder / MANIFEST, self.table)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as Parquet, atomically."""
    paths.mkdir(path.parent)
    paths.write_bytes(path, table.to_parquet(index=False))


def read_table(path: Path) -> pd.DataFrame:
    """Read a Parquet table of an index. Raises UserError when it is damaged, FileNotFoundError when it is missing."""
    from pyarrow import ArrowException

    data = range_reads.read_file(path)
    try:
        return pd.read_parquet(io.BytesIO(data), dtype_backend="pyarrow")
    except (ArrowException, OSError, ValueError) as error:
        reason = f"is not a readable Parquet file ({one_line(str(error))})"
        raise UserError(field=path, reason=reason) from None


def open_index(path: str | Path) -> Manifest:
    """Read the manifest of an index. Raises UserError when there is none."""
    folder = paths.as_path(path)
    try:
        return Manifest(folder, read_table(folder / MANIFEST))
    except FileNotFoundError:
        parts = len(paths.list_names(folder / "parts"))
        reason = f"{parts} parts are made, others are missing" if parts else "is not the folder of an index"
        raise UserError(field=path, reason=reason, hint="clip-jax data index SHARDS --out=DIR makes one") from None
