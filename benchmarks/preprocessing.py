"""The training decoders against the reference preprocessing: time an image, and by how many levels they differ.

    python benchmarks/preprocessing.py [SET …] [--size 224] [--images 400]

SET is a folder of shards (its train split); without one, JPEGs are made of smooth noise, of two sizes.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np


def made(count: int, width: int, height: int) -> list[bytes]:
    from PIL import Image

    rng = np.random.default_rng(0)
    out = []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8))
        buffer = io.BytesIO()
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        out.append(buffer.getvalue())
    return out


def stored(path: str, count: int) -> list[bytes]:
    from clip_jax.data.sources.shard_list import shards_of
    from clip_jax.data.sources.webdataset import Shards

    shards = Shards(shards_of(Path(path), "train"))
    return [shards.image(i) for i in range(min(count, len(shards)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", metavar="SET")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=400)
    args = parser.parse_args()
    from clip_jax.data.images.eval_preprocess import Preprocess
    from clip_jax.data.images.train_transforms import decode

    reference = Preprocess(args.size)
    print(
        f"to {args.size} pixels, one thread  decoder       reference ms   fast ms   ratio   mean off   largest (levels)"
    )
    for name in args.sets or ["500x375", "1600x1200"]:
        images = stored(name, args.images) if args.sets else made(args.images, *map(int, name.split("x")))
        expected, usual = timed(reference, images)
        for decoder in ("pillow", "simplejpeg"):  # as in data.jpeg_decoder
            picture, spent = timed(lambda image, decoder=decoder: decode(image, args.size, decoder), images)
            off = np.abs(expected - picture)
            line = f"{Path(name).name:16s} {len(images):5d} images {decoder:10s}   {usual:12.2f} {spent:9.2f}"
            print(f"{line}   {usual / spent:5.2f}   {off.mean():8.3f}   {off.max():7d}")


def timed(read: Callable[[bytes], np.ndarray], images: list[bytes]) -> tuple[np.ndarray, float]:
    """What is read, int [N, H, W, 3], and milliseconds of processor time an image, the best of three."""
    times = []
    for _ in range(3):
        began = time.process_time()
        pictures = np.stack([read(i) for i in images])
        times.append(time.process_time() - began)
    return pictures.astype(int), 1e3 * min(times) / len(images)


if __name__ == "__main__":
    main()
