"""Labeled image sets with splits, in four layouts on disk; images are read lazily."""

from __future__ import annotations

import gzip
import io
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from clip_jax.data.images.open import Picture
from clip_jax.data.labeled.class_names import Pairing, pair_names, read_lines, read_names, read_templates
from clip_jax.data.sources.base import BrokenRecord
from clip_jax.data.sources.shard_list import shards_of
from clip_jax.data.sources.webdataset import Shards
from clip_jax.errors import UserError, foreign, one_of
from clip_jax.storage import range_reads as remote
from clip_jax.storage.range_reads import is_hidden

CLASS_NAMES, TEMPLATES = "classnames.txt", "zeroshot_classification_templates.txt"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")
LARGEST_IDX = 1 << 33  # bytes
IDX_STEMS = {"train": ("train",), "test": ("t10k", "test")}


@dataclass(frozen=True)
class LabeledSplit:
    """One split of a labeled set.

    ``picture(i)`` returns encoded bytes, a path or a uint8 array; ``name(i)`` its name in errors. ``labels`` is int32
    [N], or bool [N, C] for multi-label sets.
    """

    labels: np.ndarray
    picture: Callable[[int], Picture]
    name: Callable[[int], str]

    def pixels(self, preprocess: Callable[[Picture], np.ndarray], rows: np.ndarray) -> np.ndarray:
        """Read and preprocess the images of ``rows``: uint8 [len(rows), size, size, 3].

        Raises UserError naming the first image that cannot be read.
        """
        out = np.empty(0, np.uint8)
        for row, i in enumerate(rows.tolist()):
            try:
                image = preprocess(self.picture(i))
            except BrokenRecord as error:
                raise (error if error.field else error.at(self.name(i))) from None
            if not row:
                out = np.empty((len(rows), *image.shape), image.dtype)
            out[row] = image
        return out


@dataclass(frozen=True)
class LabeledSet:
    """A labeled set on disk: its path, splits, class names and prompt templates (from its files; may be empty)."""

    path: Path
    splits: tuple[str, ...]
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    _open: Callable[[str], LabeledSplit] = field(repr=False)

    def split(self, name: str) -> LabeledSplit:
        """Open one split. Raises UserError when it does not exist or a label is outside the classes."""
        one_of("split", name, self.splits, self.path)
        return self._open(name)


def open_labeled(path: str | Path, pair: Pairing = "name") -> LabeledSet:
    """Open a labeled set on disk.

    Layouts: a CLIP_benchmark WebDataset folder, a folder of class folders, idx files, or a prepared TFDS set. The first
    two may have their splits as folders (``train``, ``test``, ``val``); without them they are a single split, ``test``.
    ``classnames.txt`` and ``zeroshot_classification_templates.txt`` are read if present.
    Multi-label sets: shards with ``multilabel`` in ``dataset_type.txt`` and KEY.npy (zeros and ones) in place of
    KEY.cls; TFDS sets with the feature ``labels`` in place of ``label`` (VOC).

    For shards and idx files, line n of ``classnames.txt`` is class n. Class folders and TFDS labels have names, which
    are matched with ``classnames.txt`` as ``pair`` says (`class_names.pair_names`).

    Args:
      path: the folder.
      pair: ``name`` or ``place``.

    Raises:
      UserError: one line; the folder has none of these layouts, or names do not match.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(field=path, reason="no such folder")
    names = read_names(path / CLASS_NAMES)
    templates = read_templates(path / TEMPLATES)
    tars = sorted({p.split("/")[-2] for p in remote.glob(str(path), "*/*.tar")})
    if not tars and remote.glob(str(path), "*.tar"):
        tars = ["test"]
    if tars:
        return LabeledSet(path, tuple(tars), names, templates, lambda s: _webdataset(path, s, names))
    idx = {s: files for s in IDX_STEMS if (files := _idx_files(path, s))}
    if idx:
        digits = names or tuple(map(str, range(int(_idx(next(iter(idx.values()))[1]).max()) + 1)))
        return LabeledSet(path, tuple(idx), digits, templates, lambda s: _idx_split(path, s))
    if (path / "dataset_info.json").is_file():
        return _tfds(path, names, templates, pair)
    folders = {s: path / s for s in ("train", "val", "test") if (path / s).is_dir()} or {"test": path}
    classes = sorted({c.name for f in folders.values() for c in f.iterdir() if _is_class(c)})
    if len(classes) < 2:
        reason = "holds neither .tar shards, idx files, a prepared TFDS set nor folders of classes"
        raise UserError(field=path, reason=reason)
    shown = _names_in_order(path, names, classes, pair)
    return LabeledSet(path, tuple(folders), shown, templates, lambda s: _class_folders(folders[s], classes))


def _names_in_order(path: Path, names: tuple[str, ...], classes: list[str], pair: Pairing) -> tuple[str, ...]:
    """Return the names of ``classnames.txt`` in the order of the set's classes; without the file, the set's names."""
    if names:
        return tuple(names[i] for i in pair_names(classes, names, f"{path}/{CLASS_NAMES}", by=pair))
    return tuple(name.replace("_", " ") for name in classes)


def _checked_labels(labels: list[int], classes: int, name: Callable[[int], str]) -> np.ndarray:
    for i, label in enumerate(labels):
        if classes and not 0 <= label < classes:
            raise UserError(source=name(i), field="label", value=label, reason=f"must be 0 to {classes - 1}")
    return np.array(labels, np.int32)


def _webdataset(path: Path, split: str, names: tuple[str, ...]) -> LabeledSplit:
    shards = Shards(shards_of(path, split))
    several = "multilabel" in read_lines(path / "dataset_type.txt")
    rows = range(len(shards))
    if several:
        labels = np.stack([_vector(shards, i, len(names)) for i in rows])
    else:
        labels = _checked_labels([_number(shards, i) for i in rows], len(names), shards.name)
    return LabeledSplit(labels, shards.image, shards.name)


def _number(shards: Shards, i: int) -> int:
    try:
        text = shards.member(i, "cls").strip()
    except BrokenRecord as error:
        raise error from None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UserError(source=shards.name(i), field="label", value=text, reason="must be a whole number")
    return int(text)


def _vector(shards: Shards, i: int, classes: int) -> np.ndarray:
    """Read KEY.npy of a multi-label sample: bool [C]. Raises UserError unless it holds a zero or a one per class."""
    name, members = shards.name(i), shards.read([i], ("npy",))[0]
    if "npy" not in members:
        raise UserError(source=name, field=".npy", reason="missing, and a multi-label sample needs it")
    with foreign(f"{name}: .npy", "an array"):
        values = np.load(io.BytesIO(members["npy"]), allow_pickle=False)
    if values.ndim != 1 or (classes and len(values) != classes) or not np.isin(values, (0, 1)).all():
        reason = f"must hold {f'{classes} ' if classes else ''}zeros and ones, one per class"
        raise UserError(source=name, field=".npy", reason=reason)
    return values.astype(bool)


def _is_class(folder: Path) -> bool:
    return folder.is_dir() and not is_hidden(folder.name) and bool(_pictures(folder))


def _pictures(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(p.name))


def _class_folders(folder: Path, classes: list[str]) -> LabeledSplit:
    files = [(p, c) for c, name in enumerate(classes) if (folder / name).is_dir() for p in _pictures(folder / name)]
    labels = np.array([c for _, c in files], np.int32)
    return LabeledSplit(labels, lambda i: files[i][0], lambda i: str(files[i][0]))


def _idx_files(path: Path, split: str) -> tuple[Path, Path] | None:
    for stem in IDX_STEMS[split]:
        candidates = [sorted(path.glob(f"{stem}*-{kind}-idx{n}-ubyte*")) for kind, n in (("images", 3), ("labels", 1))]
        if candidates[0] and candidates[1]:
            return candidates[0][0], candidates[1][0]
    return None


def _idx(path: Path) -> np.ndarray:
    """Read an idx file of bytes (LeCun's format), gzip-compressed or not. Raises UserError when it is malformed."""
    with foreign(path, "an idx file"), (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        zero, kind, axes = struct.unpack(">HBB", file.read(4))
        shape = struct.unpack(f">{axes}I", file.read(4 * axes))
        # one byte more than declared at most: a small file may decompress to a huge one
        values = np.frombuffer(file.read(min(math.prod(shape), LARGEST_IDX) + 1), np.uint8)
    if zero or kind != 8:
        raise UserError(field=path, reason="not an idx file of unsigned bytes")
    if values.size != math.prod(shape):
        raise UserError(field=path, reason=f"declares {' × '.join(map(str, shape))} bytes and holds {values.size}")
    return values.reshape(shape)


def _idx_split(path: Path, split: str) -> LabeledSplit:
    files = _idx_files(path, split)
    assert files is not None
    images, labels = _idx(files[0]), _idx(files[1])
    if len(images) != len(labels):
        raise UserError(field=files[1], reason=f"holds {len(labels)} labels for {len(images)} images")
    return LabeledSplit(labels.astype(np.int32), lambda i: images[i], lambda i: f"{files[0]}[{i}]")


def _tfds(path: Path, names: tuple[str, ...], templates: tuple[str, ...], pair: Pairing) -> LabeledSet:
    import tensorflow_datasets as tfds

    from clip_jax.data.sources.tfds import TfdsSource

    try:
        info = tfds.builder_from_directory(path).info
    except Exception as error:  # noqa: BLE001  (tfds raises many kinds; all mean the same to a user)
        raise UserError(field=path, reason=f"not a prepared TFDS data set ({str(error).splitlines()[0]})") from None
    key = next((k for k in ("label", "labels") if k in info.features), None)
    if "image" not in info.features or key is None:
        raise UserError(field=path, reason=f"needs the features image and label, and has {', '.join(info.features)}")
    kind = info.features[key] if key == "label" else getattr(info.features[key], "feature", None)
    classes = list(getattr(kind, "names", None) or [])
    shown = _names_in_order(path, names, classes, pair) if classes else names
    if key == "labels" and not shown:
        reason = "its labels have no names"
        raise UserError(field=path, reason=reason, hint=f"write them to {CLASS_NAMES}, one per line")

    def read(split: str) -> LabeledSplit:
        source = TfdsSource(path, split, "image", key)
        rows = [source.data[i][key] for i in range(len(source))]

        def name(i: int) -> str:
            return f"{path}:{split}[{i}]"

        if key == "label":
            labels = _checked_labels(list(map(int, rows)), len(shown), name)
        else:
            labels = np.array([np.isin(np.arange(len(shown)), row) for row in rows])
        return LabeledSplit(labels, lambda i: source.data[i]["image"], name)

    return LabeledSet(path, tuple(info.splits), shown, templates, read)
