"""How many pairs a second does a core decode and load, from where, and how much memory does it take?

    python benchmarks/data_loading.py [--images 1024] [--batches 8] [--batch-size 256] [--indexed 50000]
        [--sizes 64 224] [--only remote] [--hand-size 1024]

JPEGs of 256 pixels (smooth noise and grain, quality 90) are written to shards in a temporary folder. Each row of the
table of loading is a process of its own, so that its peak memory is its own. Per core: pairs by second of processor
time, of workers too; other programs on the machine change it less than pairs a second.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SHARD = 256  # samples
SIZES = (64, 224)


def photographs(count: int) -> list[bytes]:
    """JPEGs of 256 × 256, about as many bytes as photographs have."""
    from PIL import Image

    rng = np.random.default_rng(0)
    out = []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8))
        smooth = np.asarray(coarse.resize((256, 256), Image.Resampling.BICUBIC), np.float32)
        grain = np.clip(smooth + rng.normal(0, 4, (256, 256, 1)), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(grain).save(buffer, "JPEG", quality=90)
        out.append(buffer.getvalue())
    return out


def write_shards(folder: Path, pictures: list[bytes]) -> None:
    folder.mkdir(parents=True)
    for shard in range(0, len(pictures), SHARD):
        with tarfile.open(folder / f"{shard // SHARD:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for i, picture in enumerate(pictures[shard : shard + SHARD], shard):
                for extension, data in (("jpg", picture), ("txt", f"picture number {i}".encode())):
                    info = tarfile.TarInfo(f"{i:08d}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def installed(decoder: str) -> bool:
    from clip_jax.data.images.fast_jpeg import libraries
    from clip_jax.errors import ConfigError

    if decoder == "simplejpeg":
        try:
            libraries()
        except ConfigError:
            return False
    return True


def decoding(pictures: list[bytes], sizes: Sequence[int]) -> dict[int, dict[str, float]]:
    """Time the decoders alone, in one thread; return pictures per second of a core by size and decoder."""
    from clip_jax.data.images.train_transforms import decode

    print(f"decoding {sum(map(len, pictures)) / len(pictures) / 1024:.0f} KB JPEGs of 256 pixels, one thread")
    print("| to | decoder | pictures/s per core | ratio | mean difference (levels) | largest |")
    print("|---|---|---|---|---|---|")
    found_speeds: dict[int, dict[str, float]] = {}
    for size in sizes:
        reference, usual = None, 0.0
        for decoder in filter(installed, ("pillow", "simplejpeg")):
            decode(pictures[0], size, decoder)
            speeds = []
            for _ in range(3):
                began = time.process_time()
                decoded = np.stack([decode(p, size, decoder) for p in pictures])
                speeds.append(len(pictures) / (time.process_time() - began))
            reference = decoded if reference is None else reference
            usual = usual or max(speeds)
            found_speeds.setdefault(size, {})[decoder] = max(speeds)
            off = np.abs(decoded.astype(int) - reference)
            speed = f"{max(speeds):,.0f} | {max(speeds) / usual:.2f}"
            print(f"| {size} | {decoder} | {speed} | {off.mean():.2f} | {off.max()} |")
    return found_speeds


def run_config(paths: list[str], size: int, batch_size: int, **data: Any) -> Any:
    from clip_jax.config import DataConfig, ImageTowerConfig, ModelConfig, RunConfig

    image = ImageTowerConfig(image_size=size, patch_size=32)
    return RunConfig(
        model=ModelConfig(image=image),
        data=DataConfig(source="webdataset", paths=tuple(paths), max_corrupt_records=0, **data),
        batch_size=batch_size,
        steps=1_000_000,
    )


def processor_seconds() -> float:
    """Of this process and its children."""
    import psutil

    me = psutil.Process()
    times = [p.cpu_times() for p in (me, *me.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def peak_mib() -> float:
    """Most memory this process has had (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def loading(folder: str, size: int, batches: int, batch_size: int, data: dict[str, Any]) -> dict[str, float]:
    """One row: in a process of its own."""
    import grain  # noqa: F401  (so that its memory does not count as the loader's)
    import jax  # noqa: F401
    import psutil

    from clip_jax.data.open import open_source
    from clip_jax.data.pipeline.loader import learn_tokenizer, train_batches

    if data.pop("remote", False):
        import fsspec

        memory = fsspec.filesystem("memory")
        for path in Path(folder, "train").iterdir():
            memory.pipe(f"/shards/train/{path.name}", path.read_bytes())
        folder = "memory://shards"
    config = run_config([folder], size, batch_size, **data)
    source = open_source(config.data, "train", size)
    tokenizer = learn_tokenizer(config, source)
    before = peak_mib()
    with contextlib.closing(train_batches(config, source, tokenizer)) as drawn:
        for _ in range(max(2, batches // 4)):  # workers start, buffers fill
            next(drawn)
        began, spent = time.perf_counter(), processor_seconds()
        for _ in range(batches):
            next(drawn)
        pairs = batches * batch_size
        wall, spent = time.perf_counter() - began, processor_seconds() - spent
        workers = [p.memory_info().rss / 2**20 for p in psutil.Process().children(recursive=True)]
        held = drawn.held_bytes / 2**20
    return {
        "pairs_per_s": pairs / wall,
        "per_core": pairs / spent,
        "before": before,
        "peak": peak_mib(),
        "worker": max(workers, default=0.0),
        "held": held,
    }


def loading_table(folder: Path, args: argparse.Namespace) -> None:
    print(f"\nloading batches of {args.batch_size}, {os.cpu_count()} cores; memory in MiB")
    print(
        "| to | from | decoder | threads | workers | pairs/s | per core | before | peak | a worker | bound of pieces |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    rows: list[dict[str, Any]] = [
        {"num_threads": 1},
        {"num_threads": 2},
        {"num_threads": 1, "num_workers": 1},
        {"num_threads": 1, "num_workers": 2},
        {"num_threads": 2, "remote": True},
        {"num_threads": 2, "jpeg_decoder": "simplejpeg"},
    ]
    for size, data in itertools.product(args.sizes, rows):
        if args.only not in json.dumps(data) or not installed(data.get("jpeg_decoder", "pillow")):
            continue
        job = json.dumps([str(folder), size, args.batches, args.batch_size, data])
        done = subprocess.run([sys.executable, __file__, "--one", job], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        r = json.loads(done.stdout.splitlines()[-1])
        print(
            f"| {size} | {'memory://' if data.get('remote') else 'disk'} | {data.get('jpeg_decoder', 'pillow')} "
            f"| {data['num_threads']} | {data.get('num_workers', 0)} | {r['pairs_per_s']:,.0f} | {r['per_core']:,.0f} "
            f"| {r['before']:.0f} | {r['peak']:.0f} | {r['worker'] or '':.4} | {r['held']:.0f} |",
            flush=True,
        )


class MadePieces:
    """A stream whose pieces are made already, so that only handing them to the devices is timed."""

    def __init__(self, size: int, batch_size: int) -> None:
        rng, rows = np.random.default_rng(0), min(256, batch_size)
        self.made = [
            {
                "images": rng.integers(0, 255, (rows, size, size, 3), np.uint8),
                "tokens": np.zeros((rows, 77), np.int32),
            }
            for _ in range(max(1, batch_size // rows))
        ]

    def pieces(self, step: int) -> Iterator[dict[str, np.ndarray]]:
        return iter(self.made)


def handing(size: int, batch_size: int, batches: int) -> dict[str, float]:
    """Return pictures by second of processor time that a process hands to its devices, joined first and by pieces."""
    import jax

    from clip_jax.config import MeshConfig
    from clip_jax.distributed.mesh import make_mesh
    from clip_jax.train.device_batches import DeviceBatches
    from clip_jax.train.step import put_batch

    mesh, stream = make_mesh(MeshConfig()), MadePieces(size, batch_size)
    batch_size = sum(len(piece["images"]) for piece in stream.made)

    def joined(step: int) -> Any:
        pieces = list(stream.pieces(step))
        whole = {k: np.concatenate([p[k] for p in pieces]) for k in pieces[0]}
        return jax.block_until_ready(put_batch(whole, mesh))

    speeds = {}
    with contextlib.closing(DeviceBatches(stream, mesh, batch_size, 10**9)) as ahead:
        for name, batch in (("joined", joined), ("pieces", ahead.batch)):
            batch(0)
            began = time.process_time()
            for step in range(1, 1 + batches):
                batch(step)
            speeds[name] = batches * batch_size / (time.process_time() - began)
    return speeds


def handing_table(args: argparse.Namespace, decoded: dict[int, dict[str, float]]) -> None:
    print(f"\nhanded to the devices of one process, batches of {args.hand_size}, pictures/s of a core")
    print("| to | joined, then transferred | by pieces, in a thread |\n|---|---|---|")
    handed = {size: handing(size, args.hand_size, args.batches) for size in args.sizes}
    for size, speeds in handed.items():
        print(f"| {size} | {speeds['joined']:,.0f} | {speeds['pieces']:,.0f} |")
    print(
        "\nreckoned for a host, from the speeds of a core above: decoding on all cores, handing on one of each process"
    )
    print("| to | decoder | cores | pairs/s, one process | pairs/s, eight processes |\n|---|---|---|---|---|")
    for size, (decoder, cores) in itertools.product(
        args.sizes, itertools.product(decoded[args.sizes[0]], (16, 32, 96))
    ):
        hand, decode = handed[size]["pieces"], decoded[size][decoder]
        all_cores = cores / (1 / decode + 1 / hand)
        print(f"| {size} | {decoder} | {cores} | {min(all_cores, hand):,.0f} | {min(all_cores, 8 * hand):,.0f} |")


def indexing(folder: Path, count: int) -> None:
    """What the index of many pairs takes: made of small members, as its size does not depend on theirs."""
    from clip_jax.data.sources.tar_index import load_index
    from clip_jax.data.sources.webdataset import WebDataset

    write_shards(folder / "train", [b"x"] * count)
    times = []
    for _ in range(2):
        began = time.process_time()
        source = WebDataset(folder, "train")
        times.append(time.process_time() - began)
    each = source.shards.index_bytes / count
    print(f"\nindex of {count:,} pairs in {len(source.shards.shards)} shards, per core:")
    print("| bytes a pair | GB for 100 million | scanned, pairs/s | from the cache, pairs/s |\n|---|---|---|---|")
    print(f"| {each:.1f} | {each / 10:.2f} | {count / times[0]:,.0f} | {count / times[1]:,.0f} |")

    from clip_jax.data.sources.index_build import index_shards

    shards, out = source.shards.shards, folder / "index"
    times = []
    for _ in range(2):
        began = time.process_time()
        manifest = index_shards(shards, out, echo=lambda line: None)
        times.append(time.process_time() - began)
    stored = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / count
    same = all(
        np.array_equal(manifest.read(i).offsets[:-2], load_index(shard).offsets) for i, shard in enumerate(shards)
    )
    print(f"\nclip-jax data index of them, one process; members where the plain scan finds them: {same}")
    print("| bytes a pair | made, pairs/s | again, nothing changed, pairs/s |\n|---|---|---|")
    print(f"| {stored:.1f} | {count / times[0]:,.0f} | {count / times[1]:,.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1024, help="0: the index only")
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--hand-size", type=int, default=1024, help="batch of what is handed to the devices")
    parser.add_argument("--indexed", type=int, default=50_000)
    parser.add_argument("--only", default="", help="rows of the second table whose settings have this, such as remote")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="pixels per side")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(loading(*json.loads(args.one))))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CLIP_JAX_CACHE"] = f"{folder}/cache"
        if args.images:
            pictures = photographs(args.images)
            handing_table(args, decoding(pictures, args.sizes))
            write_shards(Path(folder, "pairs", "train"), pictures)
            loading_table(Path(folder, "pairs"), args)
        indexing(Path(folder, "index"), args.indexed)


if __name__ == "__main__":
    main()
