"""TensorFlow Datasets prepared as array_record, read without TensorFlow."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from clip_jax.data.sources.base import BrokenRecord, Record, Source
from clip_jax.errors import UserError, one_of


class TfdsSource(Source):
    """One split of a prepared data set; images stay encoded until they are needed.

    Raises UserError when the folder holds no prepared set, lacks the split or a feature, or was prepared in a format
    without random access.
    """

    def __init__(self, path: Path, split: str, image_key: str, caption_key: str) -> None:
        import tensorflow_datasets as tfds

        try:
            builder = tfds.builder_from_directory(path)
        except Exception as error:  # noqa: BLE001  (tfds raises many kinds; all mean the same to a user)
            raise UserError(field=path, reason=f"not a prepared TFDS data set ({str(error).splitlines()[0]})") from None
        form = builder.info.file_format.value
        if form != "array_record":
            raise UserError(
                field=path,
                reason=f"prepared as {form}, which does not support random access",
                hint=f"convert it: python -m tensorflow_datasets.scripts.convert_format --dataset_dir={path} "
                f"--out_file_format=array_record --out_path={path}-array_record",
            )
        one_of("split", split, builder.info.splits, path)
        for field, key in (("data.image_key", image_key), ("data.caption_key", caption_key)):
            one_of(field, key, builder.info.features, path)
        decoders = {image_key: tfds.decode.SkipDecoding()}
        self.data = builder.as_data_source(split=split, decoders=decoders)
        self.path, self.split = path, split
        self.image_key, self.caption_key = image_key, caption_key
        self._description = f"{builder.info.full_name} {split} {builder.info.splits[split].shard_lengths}"

    @property
    def digest(self) -> str:
        return hashlib.sha256(self._description.encode()).hexdigest()[:32]

    @property
    def files(self) -> frozenset[str]:
        return frozenset({f"{self.path.resolve()}:{self.split}"})

    def __len__(self) -> int:
        return len(self.data)

    def name(self, i: int) -> str:
        return f"{self.path}:{self.split}[{i}]"

    def captions(self, i: int) -> tuple[str, ...]:
        """Return the captions of record ``i``."""
        return self[i].captions

    def __getitem__(self, i: int) -> Record:
        row = self.data[i]
        value = row[self.caption_key]
        values = value if isinstance(value, (list, tuple, np.ndarray)) else [value]
        try:
            texts = tuple(v.decode() if isinstance(v, bytes) else str(v) for v in values)
        except UnicodeDecodeError:
            raise BrokenRecord(field=self.name(i), reason="its caption is not UTF-8 text") from None
        texts = tuple(t.strip() for t in texts if t.strip())
        if not texts:
            raise BrokenRecord(field=self.name(i), reason="has no caption")
        return Record(row[self.image_key], texts)
