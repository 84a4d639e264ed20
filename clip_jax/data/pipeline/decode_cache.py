"""Decode cache: images decoded once for all runs on a data set, in memory-mapped files of the cache folder.

A sweep of small models would otherwise spend more time decoding the same images in each run than training. Caches the
output of `train_transforms.prepare` (augmentations of a fixed size only) and the captions; images are filled in lazily.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import zlib
from pathlib import Path

import numpy as np

from clip_jax.config import PixelConfig
from clip_jax.data.images.train_transforms import DEFAULT_PIXELS
from clip_jax.data.sources import tar_index
from clip_jax.data.sources.base import BrokenRecord, Record, Source
from clip_jax.errors import UserError
from clip_jax.storage.paths import cache_folder

FORMAT = 2
CAPTIONS = ("captions.txt", "ends.npy", "captions.sha256")  # captions, end offsets per record, checksum
RECORDS_PER_READ = 4096  # records per read of captions
FIXED_SIZE_AUGMENTS = ("none", "flip")  # values of ``data.augment`` that prepare all images at one size


class DecodeCache:
    """Cache of a source's prepared images, uint8 [N, S, S, 3], and its captions.

    Each image is written when first needed and its checksum after it, so a torn or lost write is detected and the image
    decoded again. Two processes that write the same image write the same bytes.
    """

    def __init__(self, source: Source, size: int, decoder: str, pixels: PixelConfig = DEFAULT_PIXELS) -> None:
        """Open, or create, the files for this source, size, decoder and resizing. Raises OSError when that fails."""
        assert source.identity is not None
        key = f"{FORMAT} {source.identity} {len(source)} {size} {decoder}"
        resized = (pixels.resize_mode, pixels.interpolation, pixels.fill_color)
        if resized != (DEFAULT_PIXELS.resize_mode, DEFAULT_PIXELS.interpolation, DEFAULT_PIXELS.fill_color):
            key += " {} {} {}".format(*resized)
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        self.folder = cache_folder("decoded") / name
        self.shape = (len(source), size, size, 3)
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._read_captions() is None:
            self._write_captions(source)
        for path, count in ((self._pictures, int(np.prod(self.shape))), (self._sums, 4 * len(source))):
            self._make(path, count)
        self._open()

    @property
    def _pictures(self) -> Path:
        return self.folder / "pictures.u1"

    @property
    def _sums(self) -> Path:
        return self.folder / "sums.u4"

    def _make(self, path: Path, size: int) -> None:
        """Create a file of ``size`` zero bytes if it does not exist, with all blocks allocated. Raises OSError.

        Writing into a hole of a memory-mapped file on a full disk would kill the process (SIGBUS).
        """
        if not path.exists():
            part = path.with_name(f"{path.name}.{os.getpid()}")
            try:
                with part.open("wb") as file:
                    _take_room(file.fileno(), size)
                with contextlib.suppress(FileExistsError):
                    os.link(part, path)
            finally:
                part.unlink(missing_ok=True)
        elif path.stat().st_blocks * 512 < size:  # made by an older version, or copied as a sparse file
            with path.open("r+b") as file:
                _take_room(file.fileno(), size)

    def _write_captions(self, source: Source) -> None:
        texts: list[bytes] = []
        for begin in range(0, len(source), RECORDS_PER_READ):
            rows = list(range(begin, min(begin + RECORDS_PER_READ, len(source))))
            for captions in source.get_many_captions(rows):
                texts.append(b"" if isinstance(captions, BrokenRecord) else "\n".join(captions).encode())
        ends = io.BytesIO()
        np.save(ends, np.cumsum([len(t) for t in texts], dtype=np.int64))
        parts = (b"".join(texts), ends.getvalue())
        sha = hashlib.sha256(b"".join(parts)).hexdigest().encode()
        for name, data in zip(CAPTIONS, (*parts, sha), strict=True):  # the checksum last: it marks them complete
            if not tar_index.write_atomically(self.folder / name, lambda file, data=data: file.write(data)):  # type: ignore[misc]
                raise OSError(f"{self.folder / name}: cannot be written")

    def _read_captions(self) -> tuple[bytes, np.ndarray] | None:
        """Return all captions, joined, and the end offset of each record's; None when a file is missing or damaged."""
        try:
            texts, ends, sha = ((self.folder / name).read_bytes() for name in CAPTIONS)
        except OSError:
            return None
        if hashlib.sha256(texts + ends).hexdigest().encode() != sha:
            return None
        return texts, np.load(io.BytesIO(ends), allow_pickle=False)

    def _open(self) -> None:
        self.pictures = np.memmap(self._pictures, np.uint8, "r+", shape=self.shape)
        self.sums = np.memmap(self._sums, np.uint32, "r+", shape=self.shape[:1])
        captions = self._read_captions()
        if captions is None:
            reason = "its captions were damaged while in use"
            raise UserError(field=self.folder, reason=reason, hint="run the same command again")
        self.texts, self.ends = captions

    def __getstate__(self) -> dict[str, object]:
        return {"folder": self.folder, "shape": self.shape}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__ = state
        self._open()

    def get(self, i: int) -> Record | None:
        """Return record ``i`` with its prepared image, or None when it is not cached yet."""
        kept = int(self.sums[i])
        if not kept:
            return None
        picture = np.array(self.pictures[i])
        text = self.texts[int(self.ends[i - 1]) if i else 0 : int(self.ends[i])]
        if _sum(picture) != kept or not text:
            return None
        return Record(picture, tuple(text.decode().split("\n")))

    def put(self, i: int, picture: np.ndarray) -> None:
        """Cache the prepared image of record ``i``, uint8 [S, S, 3]."""
        self.pictures[i] = picture
        self.sums[i] = _sum(picture)


def _take_room(file: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.truncate(file, size)


def _sum(picture: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(picture).data) or 1  # 0 means not cached
