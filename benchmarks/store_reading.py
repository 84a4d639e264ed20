"""How many pairs a second does one process read from a slow store, in which order, and how many bytes does it hold?

    python benchmarks/store_reading.py [--pairs=30000] [--latency-ms=20] [--megabytes-per-s=400] [--batch-size=256]

Shards of 1,000 pairs of 23 kB are served by HTTP on this machine: every request waits ``--latency-ms``, and all
together send ``--megabytes-per-s`` at the most. Encoded pairs are read, nothing is decoded: the order of single pairs
(``global``), the block order, and, where it is installed, the package webdataset with its own shuffle buffer. The same
is then read from the disk, and there also by Grain, shuffled globally, from ArrayRecord files of the same pairs. Each
row is a process of its own; ratio: to webdataset, or to ``global`` without it. Read: bytes that ``blocks`` read for
each byte that it gave, below 1 where a block was in memory since the epoch before. Held: of ``blocks`` the bytes of
blocks in memory, of ``global`` its index.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from clip_jax.data.sources.indexed_shards import IndexedShards

PER_SHARD, PAIR_BYTES = 1_000, 23_000
STREAMS = 2  # of the block order; the blocks that they hold are a fifth of the default number of pairs
SCANNED = 2  # shards of the store that ``global`` reads: it looks up every member when it starts
WAYS = ("webdataset", "global", "grain", "blocks")  # the first is compared with
PACKAGES = {"webdataset": "webdataset", "grain": "array_record"}  # without which a way is left out


def write_shards(folder: Path, pairs: int) -> list[str]:
    """Write shards of random bytes; return their names."""
    content = np.random.default_rng(0).bytes(PAIR_BYTES)
    names = []
    for number in range(pairs // PER_SHARD):
        names.append(f"{number:05d}.tar")
        with tarfile.open(folder / names[-1], "w", format=tarfile.USTAR_FORMAT) as tar:
            for i in range(PER_SHARD):
                for extension, data in (("jpg", content), ("txt", b"a picture")):
                    info = tarfile.TarInfo(f"{number:05d}{i:04d}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return names


def write_array_records(shards: list[str]) -> None:
    """Write each tar shard's pairs to NAME.array_record beside it: the image's size in 4 bytes, image and caption."""
    from array_record.python.array_record_module import ArrayRecordWriter

    for shard in shards:
        writer = ArrayRecordWriter(str(Path(shard).with_suffix(".array_record")), "group_size:1")  # read one by one
        with tarfile.open(shard) as tar:
            contents = [tar.extractfile(member).read() for member in tar]  # type: ignore[union-attr]
        for image, text in zip(contents[::2], contents[1::2], strict=True):
            writer.write(len(image).to_bytes(4, "little") + image + text)
        writer.close()


def split_pair(record: bytes) -> tuple[bytes, str]:
    """Return the image and caption of a record that `write_array_records` wrote."""
    end = 4 + int.from_bytes(record[:4], "little")
    return record[4:end], record[end:].decode()


def serve(folder: Path, latency_s: float, bytes_per_s: float) -> ThreadingHTTPServer:
    """Serve a folder with ranges, a delay per request and a limit on all bytes per second; return the server."""
    lock, free_at = threading.Lock(), [0.0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = (
            True  # else the second part of each answer waits 40 ms for the first to be acknowledged
        )

        def _file(self) -> tuple[Path, int, int]:
            path = folder / self.path.strip("/")
            size = path.stat().st_size
            begin, _, end = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            return path, int(begin), min(int(end) + 1 if end else size, size)

        def _headers(self) -> tuple[Path, int, int] | None:
            time.sleep(latency_s)
            if not (folder / self.path.strip("/")).is_file():
                self.send_error(404)
                return None
            path, begin, end = self._file()
            partial = "Range" in self.headers
            self.send_response(206 if partial else 200)
            if partial:
                self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{path.stat().st_size}")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(end - begin))
            self.end_headers()
            return path, begin, end

        def do_HEAD(self) -> None:
            self._headers()

        def do_GET(self) -> None:
            if (asked := self._headers()) is None:
                return
            path, begin, end = asked
            with path.open("rb") as file:
                file.seek(begin)
                for at in range(begin, end, 1 << 20):
                    data = file.read(min(1 << 20, end - at))
                    with lock:  # the line is free again when what was sent before has gone
                        free_at[0] = max(free_at[0], time.monotonic()) + len(data) / bytes_per_s
                        wait = free_at[0] - time.monotonic()
                    time.sleep(max(wait, 0.0))
                    self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a reader that has read enough hangs up

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def peak_mib() -> float:
    """Return the most resident memory that this process has had (Linux)."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def read_with(way: str, shards: list[str], index: str, batch_size: int, seconds: float) -> dict[str, float]:
    """Read pairs for some seconds, after a tenth of that; in a process of its own."""
    from clip_jax.data.pipeline.block_order import BlockSampler
    from clip_jax.data.pipeline.sampling import ShuffledSampler
    from clip_jax.data.sources.indexed_shards import IndexedShards
    from clip_jax.data.sources.shard_index import open_index
    from clip_jax.data.sources.webdataset import Shards, WebDataset

    before, began, read, source = peak_mib(), time.perf_counter(), 0, None
    if way == "webdataset":
        import webdataset

        urls = [f"pipe:curl -s -f {s}" if s.startswith("http") else s for s in shards]
        data = webdataset.WebDataset(urls, shardshuffle=len(urls), seed=0).shuffle(1000).to_tuple("jpg", "txt").repeat()
        batches = iter(data.batched(batch_size))
    elif way == "grain":
        import grain

        records = grain.sources.ArrayRecordDataSource([str(Path(s).with_suffix(".array_record")) for s in shards])
        data = grain.MapDataset.source(records).seed(0).shuffle().repeat().map(split_pair)
        batches = iter(data.batch(batch_size, batch_fn=list).to_iter_dataset())
    else:
        if way == "blocks":
            source = IndexedShards(open_index(index), 8, 16)
            source.hold(STREAMS)
            order = BlockSampler(source.layout, STREAMS, 8, 0)
        else:
            source = object.__new__(WebDataset)
            source.shards = Shards(shards)
            order = ShuffledSampler(len(source), 0)

        def drawn():  # type: ignore[no-untyped-def]
            for first in range(0, sys.maxsize, batch_size):
                positions = np.arange(first, first + batch_size)
                rows = order(positions)
                if way == "blocks":
                    source.read_ahead(order.next_blocks(positions))
                yield source.get_many(rows.tolist())

        batches = drawn()
    next(batches)
    start = time.perf_counter() - began
    until = time.perf_counter() + seconds / 10
    while time.perf_counter() < until:
        next(batches)
    began, spent = time.perf_counter(), time.process_time()
    asked = source.bytes_read if way == "blocks" else 0
    while time.perf_counter() < began + seconds:
        read += len(next(batches)) if way != "webdataset" else len(next(batches)[0])
    wall, spent = time.perf_counter() - began, time.process_time() - spent
    asked = (source.bytes_read - asked) / (read * PAIR_BYTES) if way == "blocks" else float("nan")
    mib = peak_mib() - before
    held = {"blocks": lambda: most_held(source, batches), "global": lambda: source.shards.index_bytes}
    return {
        "start_s": start,
        "pairs_per_s": read / wall,
        "per_cpu_s": read / spent,
        "held_mib": held[way]() / 2**20 if way in held else float("nan"),
        "mib": mib,
        "asked": asked,
    }


def most_held(source: IndexedShards, batches: Iterator[object]) -> int:
    """Return the most bytes of blocks that were in memory after one of 50 batches."""
    return max(source.held_bytes for _ in zip(range(50), batches, strict=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=30_000)
    parser.add_argument("--latency-ms", type=float, default=20.0)
    parser.add_argument("--megabytes-per-s", type=float, default=400.0)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(read_with(*json.loads(args.one))))
        return
    from importlib.util import find_spec

    from clip_jax.data.sources.index_build import index_shards

    ways = [way for way in WAYS if way not in PACKAGES or find_spec(PACKAGES[way])]
    for way in set(WAYS) - set(ways):
        print(f"{way} is left out: {PACKAGES[way]} is not installed")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["CLIP_JAX_CACHE"] = f"{folder}/cache"
        (folder / "shards").mkdir()
        names = write_shards(folder / "shards", args.pairs)
        server = serve(folder / "shards", args.latency_ms / 1e3, args.megabytes_per_s * 1e6)
        stores = {
            "store": [f"http://127.0.0.1:{server.server_port}/{name}" for name in names],
            "disk": [str(folder / "shards" / name) for name in names],
        }
        print(
            f"{args.pairs:,} pairs of {PAIR_BYTES / 1000:.0f} kB; store: {args.latency_ms:g} ms per request, "
            f"{args.megabytes_per_s:g} MB/s; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
        )
        print(
            "| from | order | start s | pairs/s | per CPU second | ratio | CPU ratio | read | held MiB | memory MiB |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|")
        for store, shards in stores.items():
            index = str(folder / f"index-{store}")
            index_shards(shards, index, echo=lambda line: None)
            if store == "disk" and "grain" in ways:
                write_array_records(shards)
            reference: dict[str, float] = {}
            for way in ways:
                if way == "grain" and store == "store":
                    continue  # ArrayRecord files are read from a disk alone
                read = shards[:SCANNED] if (way, store) == ("global", "store") else shards
                job = json.dumps([way, read, index, args.batch_size, args.seconds])
                command = [sys.executable, __file__, "--one", job]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(done.stderr)
                row = json.loads(done.stdout.splitlines()[-1])
                reference = reference or row
                ratio, of_cpu = (row[name] / reference[name] for name in ("pairs_per_s", "per_cpu_s"))
                asked, held = ("" if math.isnan(v) else f"{v:,.2f}" for v in (row["asked"], row["held_mib"]))
                print(
                    f"| {store} | {way} | {row['start_s']:.2f} | {row['pairs_per_s']:,.0f} | {row['per_cpu_s']:,.0f}"
                    f" | {ratio:.2f} | {of_cpu:.2f} | {asked} | {held} | {row['mib']:,.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
