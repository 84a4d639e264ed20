"""What does a run over billions of pairs read in the block order, on how many hosts, and how much memory does it take?

    python benchmarks/block_order.py [--pairs=4e8,5e9,12.8e9] [--hosts=1,64,1024] [--batch-size=65536]

The index is made up: 10,000 pairs per shard, give or take 500, and 23 kB per pair. No shard is read: the manifest is
opened as a run opens it, the order is asked which records one host draws, and the blocks that hold them are counted.

start, step 10^6: seconds until that host's positions of step 0, and of step 10^6, are known, in a process of its own
    that begins there; the manifest is read from the local disk.
memory: growth of that process's resident memory, without blocks; held: MB of blocks that a host may hold.
requests: of blocks, and two per shard for its index and size; useful: bytes of the pairs drawn over the bytes of blocks
    and indexes read for them. Both over one epoch of one host.
balance: the most pairs that a stream has in an epoch, over the mean. lost, doubled: pairs of that epoch, counted shard
    by shard from every stream's part of it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

PER_SHARD, PAIR_BYTES, INDEX_BYTES = 10_000, 23_000, 48  # of the index: offsets, uid and key of a pair
CASE_STEPS = (0, 10**6)


def write_manifest(folder: Path, pairs: int) -> None:
    """Write the manifest of about ``pairs`` pairs."""
    from clip_jax.data.sources.shard_index import Manifest

    rng = np.random.default_rng(0)
    count = max(pairs // PER_SHARD, 1)
    samples = rng.integers(PER_SHARD - 500, PER_SHARD + 501, count)
    names = [f"{i:08d}" for i in range(count)]
    digests = [rng.bytes(32).hex() for _ in range(count)]
    table = pd.DataFrame({
        "shard": [f"gs://a-bucket/datasets/a-corpus/shards/{n}.tar" for n in names],
        "index": [f"shards/{d[:2]}/{d[:24]}.npz" for d in digests], "samples": samples, "bytes": samples * PAIR_BYTES,
        "version": [f"2026-11-28T00:00:00.000Z {n}" for n in names], "checksum": digests,
    })  # fmt: skip
    Manifest(folder, table).write()


def columns_of_host(host: int, hosts: int, batch_size: int, streams: int) -> np.ndarray:
    """Return the offsets into a batch's positions that a host draws, as `BatchOfStep` orders them."""
    share, each = batch_size // hosts, batch_size // streams
    columns = np.arange(host * share, (host + 1) * share)
    return (columns % each) * streams + columns // each


def pieces_of(order, epoch: int, streams) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Return (shard, first sample, end) of every shard that some streams read in an epoch, int64 [P, 3]."""
    parts = [order.pieces(epoch, int(stream)) for stream in streams]
    return np.concatenate([np.stack([p.shard, p.low, p.high], 1) for p in parts])


def lost_and_doubled(counts: np.ndarray, pieces: np.ndarray) -> tuple[int, int]:
    """Return how many samples no piece holds, and how many more than one: a shard's pieces must join."""
    shard, low, high = pieces[np.lexsort((pieces[:, 1], pieces[:, 0]))].T
    first = np.r_[True, shard[1:] != shard[:-1]]
    last = np.r_[first[1:], True]
    before = np.where(first, 0, np.r_[0, high[:-1]])
    whole = np.zeros(len(counts), np.int64)
    whole[shard[last]] = high[last]
    lost = np.maximum(low - before, 0).sum() + (counts - whole).sum()
    return int(lost), int(np.maximum(before - low, 0).sum())


def one_case(args: argparse.Namespace) -> dict[str, float]:
    """Measure one host that begins at ``args.step``, in this process."""
    from clip_jax.data.pipeline.block_order import BlockSampler
    from clip_jax.data.sources.block_source import WINDOWS_HELD
    from clip_jax.data.sources.indexed_shards import IndexedShards
    from clip_jax.data.sources.shard_index import open_index

    resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")  # noqa: E731
    hosts, streams, host = args.host_count, max(args.streams, args.host_count), args.host_count // 2
    columns = columns_of_host(host, hosts, args.batch_size, streams)
    before, began = resident(), time.perf_counter()
    source = IndexedShards(open_index(args.index), args.window_shards, args.window_mb)
    order = BlockSampler(source.layout, streams, args.window_shards, 0)
    order(args.step * args.batch_size + columns)
    seconds, memory = time.perf_counter() - began, resident() - before
    epoch = args.step * args.batch_size // len(source)
    pieces_here = pieces_of(order, epoch, np.unique(columns % streams))
    shard, low, high = pieces_here.T
    block, count = source.layout.blocks[shard], source.layout.counts[shard]
    read = np.minimum(-(-high // block) * block, count) - low // block * block
    drawn = int((high - low).sum())
    requests = int((-(-high // block) - low // block).sum()) + 2 * len(shard)
    every = pieces_of(order, epoch, range(streams))
    sizes = [int((pieces_of(order, epoch, [k])[:, 1:] @ [-1, 1]).sum()) for k in range(streams)]
    lost, doubled = lost_and_doubled(source.layout.counts, every)
    return {
        "pairs": len(source), "shards": len(source.ends), "hosts": hosts, "streams": streams, "step": args.step,
        "seconds": seconds, "memory_mb": memory / 2**20, "held_mb": WINDOWS_HELD * streams / hosts * args.window_mb,
        "requests_per_million": requests / drawn * 1e6,
        "useful": drawn * PAIR_BYTES / float(read.sum() * PAIR_BYTES + INDEX_BYTES * count.sum()),
        "balance": max(sizes) / float(np.mean(sizes)), "lost": lost, "doubled": doubled,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", default="4e8,5e9,12.8e9")
    parser.add_argument("--hosts", default="1,64,1024")
    parser.add_argument("--batch-size", type=int, default=65_536)
    parser.add_argument("--streams", type=int, default=16, help="at least; never fewer than hosts")
    parser.add_argument("--window-shards", type=int, default=8)
    parser.add_argument("--window-mb", type=int, default=64)
    parser.add_argument("--index", help=argparse.SUPPRESS)
    parser.add_argument("--host-count", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--step", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.index:
        print(json.dumps(one_case(args)))
        return
    print("| pairs | hosts | streams | start s | step 10^6 s | memory MB | held MB | requests / 10^6 pairs | useful"
          " | balance | lost | doubled |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for pairs in map(float, args.pairs.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            write_manifest(Path(folder), int(pairs))
            for hosts in map(int, args.hosts.split(",")):
                command = [sys.executable, __file__, f"--index={folder}", f"--host-count={hosts}"]
                options = ("batch_size", "streams", "window_shards", "window_mb")
                command += [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in options]
                first, later = (
                    json.loads(subprocess.run([*command, f"--step={step}"], check=True, capture_output=True).stdout)
                    for step in CASE_STEPS
                )
                print(
                    f"| {pairs:.3g} | {hosts:,} | {later['streams']:,} | {first['seconds']:.2f}"
                    f" | {later['seconds']:.2f} | {later['memory_mb']:.0f} | {later['held_mb']:,.0f}"
                    f" | {later['requests_per_million']:,.0f} | {min(first['useful'], later['useful']):.3f}"
                    f" | {later['balance']:.4f} | {first['lost'] + later['lost']}"
                    f" | {first['doubled'] + later['doubled']} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
