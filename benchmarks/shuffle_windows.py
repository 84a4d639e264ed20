"""What does the block order cost in loss where shards are sorted by class, and how many shards must a window mix?

    python benchmarks/shuffle_windows.py [--sorted-by=color,background] [--pairs=16384] [--shards=64] [--steps=384]
        [--seeds=3] [--only=global,1x8]

Rendered pairs, sorted by attributes of their scenes, are written to shards, so that a shard shows few of their values.
A small model is trained on them with the same seeds in each order: all pairs shuffled, and blocks with STREAMSxWINDOW
streams and shards per window. Held-out loss at the end, mean and standard deviation over the seeds; difference to all
pairs shuffled, in standard deviations of those runs, and seed by seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from clip_jax.config import ScenesConfig

ARMS = ("global", "16x8", "1x8", "1x1")
SIZE = 32


def write_shards(folder: Path, split: str, pairs: int, shards: int, config: ScenesConfig, keys: str) -> None:
    """Write rendered pairs of a split to shards, sorted by attributes of their scenes; in no order without any."""
    from PIL import Image

    from clip_jax.data.scenes.scenes import ScenesSource, sample

    source, rows = ScenesSource(config, split, SIZE), np.arange(pairs)
    if keys:
        scenes = sample(config, 0, rows)
        rows = np.lexsort([getattr(scenes, key) for key in reversed(keys.split(","))])
    (folder / split).mkdir(parents=True)
    for number, part in enumerate(np.array_split(rows, shards)):
        images, captions = source.batch(part)
        with tarfile.open(folder / split / f"{number:03d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for row, image, caption in zip(part.tolist(), images, captions, strict=True):
                picture = io.BytesIO()
                Image.fromarray(image).save(picture, "PNG")
                for extension, data in (("png", picture.getvalue()), ("txt", caption.encode())):
                    info = tarfile.TarInfo(f"{row:07d}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=16_384)
    parser.add_argument("--shards", type=int, default=64)
    parser.add_argument("--steps", type=int, default=384)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sorted-by", default="color,background", help="attributes of the scenes, the first one first")
    parser.add_argument("--objects", type=int, default=256)
    parser.add_argument("--zipf", type=float, default=1.2, help="0: all objects alike often")
    parser.add_argument("--only", default=",".join(ARMS))
    args = parser.parse_args()

    from clip_jax import train_run
    from clip_jax.config import (
        DataConfig,
        EvalConfig,
        ImageTowerConfig,
        ModelConfig,
        OptimConfig,
        RunConfig,
        ScenesConfig,
        TextTowerConfig,
    )
    from clip_jax.config.presets import ladder
    from clip_jax.data.sources.index_build import index_shards
    from clip_jax.data.sources.shard_list import shards_of

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        scenes = ScenesConfig(objects=args.objects, zipf=args.zipf)
        write_shards(folder, "train", args.pairs, args.shards, scenes, args.sorted_by)
        write_shards(folder, "val", 1024, 1, scenes, "")
        index_shards(shards_of(folder, "train"), folder / "index", echo=lambda line: None)
        text = TextTowerConfig(vocab_size=512, context_length=24)
        base = ModelConfig(image=ImageTowerConfig(image_size=SIZE, patch_size=8), text=text)
        run = RunConfig(
            model=ladder(1, base),
            data=DataConfig(source="webdataset", paths=(str(folder),)),
            optim=OptimConfig(peak_lr=2e-3, warmup_steps=min(20, args.steps - 1)),
            evals=EvalConfig(zero_shot=(), val_pairs=256, val_partitions=4),
            batch_size=args.batch_size, steps=args.steps, wandb="disabled",
        )  # fmt: skip
        print(f"{args.pairs:,} pairs in {args.shards} shards sorted by {args.sorted_by}")
        print(f"{args.steps} steps of {args.batch_size}, {args.seeds} seeds\n")
        print("| order | held-out loss | sd | difference / sd | of equal seeds, each |")
        print("|---|---|---|---|---|")
        reference: np.ndarray | None = None
        for arm in args.only.split(","):
            data = run.data
            if arm != "global":
                streams, window = map(int, arm.split("x"))
                # a shard's pairs are small: the smallest window still leaves several blocks per shard
                data = dataclasses.replace(
                    data, paths=(str(folder / "index"),), val_paths=(str(folder),), order="blocks", streams=streams,
                    window_shards=window, window_mb=1,
                )  # fmt: skip
            losses = []
            for seed in range(args.seeds):
                config = dataclasses.replace(run, data=data, seed=seed)
                losses.append(train_run(config, folder / f"run-{arm}-{seed}", progress=False).val_loss)
            values = np.array(losses)
            reference = values if reference is None else reference
            sd = values.std(ddof=1), reference.std(ddof=1)
            shift = (values.mean() - reference.mean()) / sd[1]
            each = " ".join(f"{d:+.2f}" for d in values - reference)
            print(f"| {arm} | {values.mean():.4f} | {sd[0]:.4f} | {shift:+.1f} | {each} |", flush=True)


if __name__ == "__main__":
    main()
