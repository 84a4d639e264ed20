"""Runs in the block order: killed and resumed, on other hosts, without some shards, from a store that misbehaves."""

import contextlib
import dataclasses
import io
import json
import shutil
import signal
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clip_jax.config import DataConfig
from clip_jax.data.sources.index_build import index_shards
from clip_jax.data.sources.indexed_shards import IndexedShards
from clip_jax.data.sources.shard_list import shards_of
from clip_jax.storage import range_reads
from clip_jax.storage.json_files import read_json
from clip_jax.storage.paths import as_path, write_bytes
from clip_jax.storage.range_reads import COUNTED
from clip_jax.train.loop import train
from clip_jax.train.run_directory import checkpoints_in
from clip_jax.train.timer import Clock

from ..user_errors import raises_user_error
from .test_multi_process import two

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:Sharding info:UserWarning"),
]


def picture(seed):
    """Return a JPEG of noise, of some 20 kB."""
    file = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (96, 96, 3), np.uint8)
    Image.fromarray(noise).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture
def run(tiny_run, tmp_path, write_shard):
    """Return a run of 24 steps on 8 shards of 40 pairs: an epoch has 20, and a stream's window two groups of blocks."""
    for shard in range(8):
        members = {}
        for i in range(40):
            members |= {
                f"{shard}{i:02d}.jpg": picture(40 * shard + i),
                f"{shard}{i:02d}.txt": f"{i} of {shard}".encode(),
            }
        write_shard(tmp_path / "shards" / f"{shard}.tar", members)
    write_shard(tmp_path / "val.tar", members)
    index_shards(shards_of(f"{tmp_path}/shards/*.tar", "train"), tmp_path / "index", echo=lambda line: None)
    data = DataConfig(
        source="webdataset", paths=(str(tmp_path / "index"),), val_paths=(str(tmp_path / "val.tar"),), num_threads=1,
        order="blocks", streams=4, window_shards=2, window_mb=1, tokenizer_train_captions=100,
    )  # fmt: skip
    assert IndexedShards(index(tmp_path), 2, 1).layout.blocks.max() < 40, "a shard has several blocks"
    # a large eps: Adam would make whole steps of the rounding noise in a gradient of zero
    optim = dataclasses.replace(tiny_run.optim, eps=1e-3)
    return dataclasses.replace(tiny_run, data=data, optim=optim, steps=24)


def index(tmp_path):
    from clip_jax.data.sources.shard_index import open_index

    return open_index(tmp_path / "index")


def test_run_killed_mid_window_ends_with_the_bits_of_an_uninterrupted_one(run, tmp_path, spawn, same_params):
    train(run, tmp_path / "whole", progress=False)
    child = spawn(run, tmp_path / "killed")
    child.wait_until(lambda: 8 in checkpoints_in(tmp_path / "killed"))  # of 20 steps of the streams' first windows
    child.process.send_signal(signal.SIGKILL)
    child.end()
    assert not (tmp_path / "killed" / "result.json").exists()
    assert train(run, tmp_path / "killed", progress=False).attempts == 2
    same_params(run, tmp_path / "whole", tmp_path / "killed")


def test_run_goes_on_with_other_hosts_and_workers_mid_window(run, tmp_path, same_params):
    train(run, tmp_path / "whole", progress=False)
    train(run, tmp_path / "one then two", stop_after=7, progress=False)
    with_workers = dataclasses.replace(run, data=dataclasses.replace(run.data, num_workers=2))
    jobs = [
        (run, tmp_path / "two", None, False),
        (run, tmp_path / "one then two", None, False),
        (run, tmp_path / "two then one", 13, False),
    ]
    codes, output = two(jobs)
    assert codes == [0, 0], "\n".join(text[-3000:] for text in output)
    result = train(with_workers, tmp_path / "two then one", progress=False)
    assert [e.get("processes") for e in result.events if e["event"] == "attempt"] == [2, 1]
    for name in ("two", "one then two", "two then one"):
        same_params(run, tmp_path / "whole", tmp_path / name, atol=1e-5)


def test_run_on_parquet_files_stopped_mid_window_ends_with_the_bits_of_an_uninterrupted_one(run, tmp_path, same_params):
    for split, files in (("train", 4), ("val", 1)):
        (tmp_path / "rows" / split).mkdir(parents=True)
        for number in range(files):
            images = [picture(80 * number + i) for i in range(80)]
            table = pa.table({"image": images, "caption": [f"{i} of {number}" for i in range(80)]})
            pq.write_table(table, tmp_path / "rows" / split / f"{number}.parquet", row_group_size=16)
    data = DataConfig(
        source="parquet", paths=(str(tmp_path / "rows"),), order="blocks", streams=4, window_shards=2, window_mb=1,
        tokenizer_train_captions=100, num_threads=1,
    )  # fmt: skip
    run = dataclasses.replace(run, data=data)
    train(run, tmp_path / "whole", progress=False)
    workers = dataclasses.replace(run, data=dataclasses.replace(data, num_workers=2))
    train(workers, tmp_path / "stopped", stop_after=7, progress=False)
    train(run, tmp_path / "stopped", progress=False)
    same_params(run, tmp_path / "whole", tmp_path / "stopped")


def test_missing_shard_ends_a_run_or_is_replaced_for_good(run, tmp_path, same_params):
    gone = tmp_path / "shards" / "3.tar"
    shutil.move(gone, tmp_path / "away.tar")
    with raises_user_error(field=str(gone), reason="No such file"):
        train(run, tmp_path / "stops", progress=False)
    allowed = dataclasses.replace(run, data=dataclasses.replace(run.data, max_missing_shards=1))
    done = train(allowed, tmp_path / "without", progress=False)
    assert done.missing_shards == [str(gone)]
    assert [e["shard"] for e in done.events if e["event"] == "missing_shards"] == [str(gone)]

    assert train(allowed, tmp_path / "resumed", stop_after=7, progress=False).state == "stopped"
    shutil.move(tmp_path / "away.tar", gone)
    train(allowed, tmp_path / "resumed", progress=False)  # the shard is there again, and stays replaced
    same_params(run, tmp_path / "without", tmp_path / "resumed")

    with (tmp_path / "shards" / "5.tar").open("ab") as file:
        file.write(b"\0" * 512)
    assert train(allowed, tmp_path / "two", stop_after=1, progress=False).state == "stopped"
    (tmp_path / "shards" / "6.tar").unlink()
    with raises_user_error(field="data.max_missing_shards", value=1, reason="2 shards are missing or changed"):
        train(allowed, tmp_path / "two", progress=False)
    more = dataclasses.replace(run, data=dataclasses.replace(run.data, max_missing_shards=2))
    again = train(more, tmp_path / "two", progress=False)  # the limit may be raised in a run that has begun
    assert again.missing_shards == [str(tmp_path / "shards" / f"{n}.tar") for n in (5, 6)]


def test_what_a_store_was_asked_for_is_recorded_over_all_attempts(run, tmp_path, store):
    for shard in sorted((tmp_path / "shards").iterdir()):
        store.pipe(f"/box/{shard.name}", shard.read_bytes())
    shards = [f"slow://box/{n}.tar" for n in range(8)]
    index_shards(shards, tmp_path / "remote", echo=lambda line: None)
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, paths=(str(tmp_path / "remote"),)))
    range_reads.take_counts()
    store.fail(1)
    train(run, tmp_path / "run", stop_after=4, progress=False)
    first = read_json(tmp_path / "run" / "status.json")["store"]
    assert (first["retries"], first.get("throttled", 0)) == (1, 0)
    store.fail(2, OSError("503 Slow Down (SlowDown)"))
    done = train(run, tmp_path / "run", progress=False)
    assert set(done.store) <= set(COUNTED)
    assert (done.store["retries"], done.store["throttled"]) == (3, 2)
    assert done.store["requests"] > first["requests"]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["store"] == done.store


def test_run_goes_on_when_a_request_hangs(run, tmp_path, store, monkeypatch):
    for shard in sorted((tmp_path / "shards").iterdir()):
        store.pipe(f"/box/{shard.name}", shard.read_bytes())
    index_shards([f"slow://box/{n}.tar" for n in range(8)], tmp_path / "remote", echo=lambda line: None)
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, paths=(str(tmp_path / "remote"),)), steps=4)
    monkeypatch.setattr(range_reads, "REQUEST_S", 1.0)
    store.hang(1)
    done = train(run, tmp_path / "run", progress=False)
    assert done.state == "finished"
    assert done.store["timeouts"] >= 1


def test_store_counts_are_those_of_all_processes(run, tmp_path, bucket):
    for shard in sorted((tmp_path / "shards").iterdir()):
        write_bytes(as_path(f"gs://bucket/{shard.name}"), shard.read_bytes())
    index_shards([f"gs://bucket/{n}.tar" for n in range(8)], tmp_path / "remote", echo=lambda line: None)
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, paths=(str(tmp_path / "remote"),)))
    codes, output = two([(run, tmp_path / "two", None, False)])
    assert codes == [0, 0], "\n".join(text[-3000:] for text in output)
    counts = read_json(tmp_path / "two" / "result.json")["store"]
    # every shard was read in the epoch that the run had, half of them by each process
    assert counts["bytes"] >= 0.9 * sum(shard.stat().st_size for shard in (tmp_path / "shards").iterdir())


def test_waiting_for_a_block_counts_as_data(run, tmp_path, monkeypatch):
    parts, waited, plain, measure = ["other"], [], IndexedShards.read_block, Clock.measure

    @contextlib.contextmanager
    def measured(self, part):
        with measure(self, part):
            parts.append(part)
            try:
                yield
            finally:
                parts.pop()

    def late(self, shard, number):
        """Keep the second block of each shard back until the training thread has waited for 20 ms, or half a minute."""
        end, seen = time.monotonic() + 30, 0
        while number == 1 and seen < 20 and time.monotonic() < end:
            time.sleep(0.001)
            seen = seen + 1 if parts[-1] == "data" else 0
        waited.append(number == 0 or seen == 20)
        return plain(self, shard, number)

    monkeypatch.setattr(Clock, "measure", measured)
    monkeypatch.setattr(IndexedShards, "read_block", late)
    train(run, tmp_path / "run", progress=False)
    assert len(waited) > 8
    assert all(waited)
