"""The training decoder against the reference preprocessing: time an image, and by how many levels they differ.

    python benchmarks/preprocessing.py [SET …] [--size 224] [--images 400]

SET is a folder of shards (its train split); without one, JPEGs are made of smooth noise, of two sizes.
"""

from __future__ import annotations

import argparse
import io
import time
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
    from clip_jax.data.shards import shards_of
    from clip_jax.data.webdataset import Shards

    shards = Shards(shards_of(Path(path), "train"))
    return [shards.image(i) for i in range(min(count, len(shards)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", metavar="SET")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=400)
    args = parser.parse_args()
    from clip_jax.data.preprocess import Preprocess
    from clip_jax.data.transforms import decode

    reference = Preprocess(args.size)
    print(
        f"to {args.size} pixels, one thread        reference ms   fast ms   ratio   mean difference   largest (levels)"
    )
    for name in args.sets or ["500x375", "1600x1200"]:
        images = stored(name, args.images) if args.sets else made(args.images, *map(int, name.split("x")))
        times, results = [], []
        for read in (reference, lambda image: decode(image, args.size)):
            read(images[0])
            began = time.perf_counter()
            results.append(np.stack([read(i) for i in images]).astype(int))
            times.append(1e3 * (time.perf_counter() - began) / len(images))
        off = np.abs(results[0] - results[1])
        line = f"{Path(name).name:16s} {len(images):5d} images        {times[0]:12.2f} {times[1]:9.2f}"
        print(f"{line}   {times[0] / times[1]:5.2f}   {off.mean():15.3f}   {off.max():7d}")


if __name__ == "__main__":
    main()
