"""Settings of the training data: sources, splits, augmentation, and the rendered scenes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from clip_jax.config.fields import check_choices
from clip_jax.errors import ConfigError, at_least, between, no_secret

SOURCES = ("scenes", "webdataset", "parquet", "folder", "tfds")
IN_SHARDS = ("webdataset", "parquet")  # read from URLs and in blocks


@dataclass(frozen=True)
class ScenesConfig:
    """Procedurally rendered scenes. Two runs with equal fields see the same images and captions."""

    world_seed: int = 0  # of the made-up names and of each scene's content
    objects: int = 256  # classes with made-up names
    zipf: float = 1.2  # frequency of object r is proportional to r**-zipf

    def __post_init__(self) -> None:
        between("data.scenes.world_seed", self.world_seed, 0, 2**32 - 1)
        between("data.scenes.objects", self.objects, 8, 4096)
        between("data.scenes.zipf", self.zipf, 0.0, 4.0)


@dataclass(frozen=True)
class DataConfig:
    """Image-text pairs: source, splits, augmentation and host-side processing."""

    # scenes: rendered, reads no files; or the name that an installed package adds
    source: Literal["scenes", "webdataset", "parquet", "folder", "tfds"] | str = "scenes"
    # shards, folders (webdataset, parquet: also URLs, brace ranges, *), prepared TFDS directories
    paths: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()  # share of each path, kept throughout the run; empty: in proportion to size
    val_paths: tuple[str, ...] = ()  # held-out pairs, if they are not in a split of ``paths``
    train_split: str = "train"  # split of ``paths`` to train on
    val_split: str = "val"  # split of ``paths`` that is held out
    val_fraction: float = 0.0  # fraction of the training split to hold out, by hash of the record, instead of a split
    filename_column: str = "filename"  # folder: the column of captions.csv with the image file
    caption_column: str = "caption"  # folder: the column with the text
    image_key: str = "image"  # tfds, parquet: the feature or column with the image; parquet: encoded
    caption_key: str = "caption"  # tfds, parquet: the feature or column with the text
    unique_samples: int = 0  # train on the first N pairs only; 0: all
    # global: all pairs are shuffled; blocks: shards, and pairs within windows of shards, for large sets with an index
    order: Literal["global", "blocks"] = "global"
    window_shards: int = 8  # blocks: shards whose pairs are shuffled together
    window_mb: int = 64  # blocks: MB that a stream reads at a time; a process holds four times that for each stream
    # blocks: fields of each KEY.json, or columns, with a text or a list of texts; empty: the captions are the lines of
    # KEY.txt, or in caption_key
    caption_keys: tuple[str, ...] = ()
    caption_weights: tuple[float, ...] = ()  # blocks: probability of each of them, where a pair has it; empty: alike
    # blocks: shards that may be missing or changed when a run starts; the next shard is read in place of each; 0: stop
    max_missing_shards: int = 0
    streams: int = 0  # blocks: parts of an epoch read side by side; 0: the greatest common divisor of 16 and batch_size
    augment: Literal["none", "square_crop", "flip", "random_resized_crop"] = "none"  # of training images, at random
    max_corrupt_records: int = 10  # unreadable records skipped before the run stops
    # clip: CLIP's published vocabulary, which needs model.text.vocab_size=49408; learned: from the training captions
    tokenizer: Literal["learned", "clip"] = "learned"
    tokenizer_train_captions: int = 20_000  # captions used to train the tokenizer, sampled evenly from the training set
    num_threads: int = 2  # reading and decoding threads per worker
    num_workers: int = 0  # reading and decoding processes; 0: use threads of the training process
    # of training images; simplejpeg: faster, off by about one level; needs the extra ``fast``
    jpeg_decoder: Literal["pillow", "simplejpeg"] = "pillow"
    cache_decoded: bool = False  # cache the resized images: in the cache folder for all runs, otherwise in memory
    scenes: ScenesConfig = field(default_factory=ScenesConfig)

    def __post_init__(self) -> None:
        check_choices(self, "data.")
        for name in ("unique_samples", "max_corrupt_records", "num_workers"):
            at_least(f"data.{name}", getattr(self, name), 0)
        for name in ("tokenizer_train_captions", "num_threads"):
            at_least(f"data.{name}", getattr(self, name), 1)
        if self.tokenizer != "learned" and self.tokenizer_train_captions != DataConfig.tokenizer_train_captions:
            raise ConfigError(
                field="data.tokenizer_train_captions", reason=f"ignored with data.tokenizer={self.tokenizer!r}"
            )
        if self.source == "scenes" and self.cache_decoded:
            raise ConfigError(field="data.cache_decoded", reason="ignored, the scenes source renders its images")
        for name in ("paths", "val_paths"):
            for path in getattr(self, name):
                no_secret(f"data.{name}", path)
            if self.source == "scenes" and getattr(self, name):
                reason = "the scenes source reads no files"
                raise ConfigError(field=f"data.{name}", reason=reason, hint="drop it or set data.source")
            files_only = self.source in SOURCES and self.source not in IN_SHARDS
            if files_only and any("://" in p for p in getattr(self, name)):
                reason = "only data.source='webdataset' and 'parquet' read from URLs"
                raise ConfigError(field=f"data.{name}", reason=reason)
        if self.source == "scenes" and self.jpeg_decoder != "pillow":
            raise ConfigError(field="data.jpeg_decoder", reason="ignored, the scenes source renders its images")
        if self.cache_decoded and self.num_workers:
            reason = "each of data.num_workers would hold all images"
            raise ConfigError(field="data.cache_decoded", reason=reason, hint="use data.num_threads only")
        self._check_order()
        self._check_weights()
        self._check_held_out()
        if self.source != "folder" and (self.filename_column, self.caption_column) != ("filename", "caption"):
            reason = f"ignored with data.source={self.source!r}"
            raise ConfigError(field="data.filename_column, data.caption_column", reason=reason)
        if self.source != "scenes" and not self.paths:
            raise ConfigError(field="data.paths", reason=f"at least one is needed with data.source={self.source!r}")
        if self.source != "scenes" and self.scenes != ScenesConfig():
            raise ConfigError(field="data.scenes", reason=f"would be ignored with data.source={self.source!r}")
        if self.source not in ("tfds", "parquet") and (self.image_key, self.caption_key) != ("image", "caption"):
            reason = f"ignored with data.source={self.source!r}"
            raise ConfigError(field="data.image_key, data.caption_key", reason=reason)

    def _check_order(self) -> None:
        for name, least in (("window_shards", 1), ("window_mb", 1), ("streams", 0), ("max_missing_shards", 0)):
            at_least(f"data.{name}", getattr(self, name), least)
        if self.order == "global" and self.source == "parquet":
            reason = "reads single pairs, and Parquet files are read by row groups"
            raise ConfigError(field="data.order", value=self.order, reason=reason, hint="use data.order='blocks'")
        if self.order == "global":
            for name in (
                "window_shards", "window_mb", "streams", "max_missing_shards", "caption_keys", "caption_weights",
            ):  # fmt: skip
                if getattr(self, name) != getattr(DataConfig, name):
                    raise ConfigError(field=f"data.{name}", reason="ignored with data.order='global'")
            return
        if self.source not in IN_SHARDS:
            reason = "only data.source='webdataset' and 'parquet' have shards"
            raise ConfigError(field="data.order", value=self.order, reason=reason)
        if self.max_missing_shards and self.source == "parquet":
            reason = "needs an index, which knows the pairs of a file that is gone, and Parquet files have none"
            raise ConfigError(field="data.max_missing_shards", value=self.max_missing_shards, reason=reason)
        if self.caption_weights and len(self.caption_weights) != len(self.caption_keys):
            reason = f"one for each of data.caption_keys={', '.join(self.caption_keys)} is needed"
            raise ConfigError(field="data.caption_weights", value=self.caption_weights, reason=reason)
        if self.caption_keys and self.caption_key != DataConfig.caption_key:
            raise ConfigError(field="data.caption_key", reason="ignored with data.caption_keys")
        if any(not 0 < weight < math.inf for weight in self.caption_weights):
            raise ConfigError(field="data.caption_weights", value=self.caption_weights, reason="must be above 0")
        if self.cache_decoded:
            reason = "keeps every pair, which data.order='blocks' is to avoid"
            raise ConfigError(field="data.cache_decoded", reason=reason)
        if self.val_fraction:
            reason = "holds out single pairs, which data.order='blocks' does not read apart"
            hint = "hold out whole shards: give them in data.val_paths"
            raise ConfigError(field="data.val_fraction", reason=reason, hint=hint)

    def _check_held_out(self) -> None:
        between("data.val_fraction", self.val_fraction, 0.0, 0.9)
        if not self.val_fraction:
            return
        if self.source == "scenes":
            reason = "ignored, the scenes source renders its own held-out pairs"
            raise ConfigError(field="data.val_fraction", reason=reason)
        if self.val_paths or self.val_split != "val":
            raise ConfigError(field="data.val_paths, data.val_split", reason="ignored with data.val_fraction")

    def _check_weights(self) -> None:
        if not self.weights:
            return
        if len(self.weights) != len(self.paths) or len(self.paths) < 2:
            reason = f"must hold one for each of data.paths ({len(self.paths)}), which must be two or more"
            raise ConfigError(field="data.weights", value=self.weights, reason=reason)
        if self.unique_samples:
            reason = "cannot be combined with data.weights: it does not say how many pairs each path gives"
            raise ConfigError(field="data.unique_samples", reason=reason)
        total = sum(self.weights)
        if not all(total * 1e-5 <= weight < math.inf for weight in self.weights) or total <= 0:
            reason = "must be positive and finite, each at least 1e-5 of their sum"
            raise ConfigError(field="data.weights", value=self.weights, reason=reason)
