"""Batches as a pure function of (seed, step)."""

import contextlib
import dataclasses
import re
import sys

import numpy as np
import pytest

from clip_jax.config import DataConfig, EvalConfig
from clip_jax.data.images.fast_jpeg import libraries
from clip_jax.data.open import open_source
from clip_jax.data.pipeline import loader
from clip_jax.data.pipeline.loader import (
    BatchOfStep,
    learn_tokenizer,
    new_tokenizer,
    retrieval_set,
    train_batches,
    validation_pairs,
)
from clip_jax.data.sources.index_build import index_shards
from clip_jax.data.sources.indexed_shards import IndexedShards
from clip_jax.data.sources.shard_list import shards_of
from clip_jax.errors import ConfigError
from clip_jax.storage import range_reads

from ...user_errors import raises_user_error


@pytest.fixture(params=["scenes", "webdataset", "blocks"])
def setup(request, tiny_run, pairs_dir, tmp_path):
    data = tiny_run.data
    if request.param == "blocks":
        data = blocks_of(pairs_dir, tmp_path, augment="square_crop", tokenizer_train_captions=50)
    if request.param == "webdataset":
        data = DataConfig(
            source="webdataset",
            paths=(str(pairs_dir),),
            augment="square_crop",
            num_threads=1,
            tokenizer_train_captions=50,
        )
    run = dataclasses.replace(tiny_run, data=data)
    source = open_source(data, "train", 32)
    return run, source, learn_tokenizer(run, source)


def take(run, source, tokenizer, start=0, count=None):
    with contextlib.closing(train_batches(run, source, tokenizer, start)) as batches:
        return [next(batches) for _ in range(count or run.steps - start)]


def with_data(run, **fields):
    return dataclasses.replace(run, data=dataclasses.replace(run.data, **fields))


def equal(a, b):
    return all(np.array_equal(x[k], y[k]) for x, y in zip(a, b, strict=True) for k in ("images", "tokens"))


def test_batches_are_independent_of_threads_and_resume(setup):
    run, source, tokenizer = setup
    whole = take(run, source, tokenizer)
    more_threads = dataclasses.replace(run, data=dataclasses.replace(run.data, num_threads=4))
    assert equal(whole, take(more_threads, source, tokenizer))
    assert equal(whole[5:], take(run, source, tokenizer, start=5))
    assert whole[0]["images"].shape == (16, 32, 32, 3)
    assert whole[0]["images"].dtype == np.uint8
    assert whole[0]["tokens"].dtype == np.int32


def test_batches_depend_on_the_seed(setup):
    run, source, tokenizer = setup
    other = take(dataclasses.replace(run, seed=1), source, tokenizer)
    assert not equal(take(run, source, tokenizer), other)


@pytest.mark.parametrize("processes", [2, 4])
def test_batch_of_several_processes_equals_that_of_one(setup, processes):
    run, source, tokenizer = setup
    whole = BatchOfStep(run, source, tokenizer)(3)
    parts = [BatchOfStep(run, source, tokenizer, process, processes)(3) for process in range(processes)]
    for key in ("images", "tokens"):
        assert np.array_equal(np.concatenate([p[key] for p in parts]), whole[key])


def test_batch_in_pieces_equals_the_whole(setup, monkeypatch):
    run, source, tokenizer = setup
    whole = take(run, source, tokenizer)
    monkeypatch.setattr(loader, "PIECE", 5)
    make = BatchOfStep(run, source, tokenizer)
    assert [len(c) for c in make.columns] == [4, 4, 4, 4]
    assert equal(whole, take(run, source, tokenizer))
    assert equal(whole[5:], take(run, source, tokenizer, start=5))
    assert equal(whole, [make(step) for step in range(run.steps)])


def test_batches_with_two_workers_equal_those_without_also_after_a_resume(tiny_run, pairs_dir, write_shard, jpeg):
    data = dataclasses.replace(damaged(pairs_dir, write_shard, jpeg, {3, 11}), augment="square_crop")
    run = dataclasses.replace(tiny_run, data=data)
    source = open_source(data, "train", 32)
    tokenizer = learn_tokenizer(run, source)
    whole = take(run, source, tokenizer)
    workers = with_data(run, num_workers=2, num_threads=2)
    with contextlib.closing(train_batches(workers, source, tokenizer, 3)) as batches:
        assert equal(whole[3:], [next(batches) for _ in range(5)])
        assert batches.broken_records == 2


def blocks_of(pairs_dir, tmp_path, **fields):
    """Return the data of an index of `pairs_dir`, in blocks of a few pairs."""
    index_shards(shards_of(pairs_dir, "train"), tmp_path / "index", echo=lambda line: None)
    settings = {"paths": (str(tmp_path / "index"),), "streams": 4, "window_shards": 2, "window_mb": 1} | fields
    return DataConfig(source="webdataset", val_paths=(str(pairs_dir),), num_threads=1, order="blocks", **settings)


def test_batches_of_blocks_by_workers_equal_those_without(tiny_run, pairs_dir, tmp_path):
    run = dataclasses.replace(tiny_run, data=blocks_of(pairs_dir, tmp_path, num_workers=2))
    source = open_source(run.data, "train", 32)
    tokenizer = learn_tokenizer(run, source)
    assert equal(take(run, source, tokenizer, 5), take(with_data(run, num_workers=0), source, tokenizer, 5))


def test_batches_of_blocks_in_shares_hold_the_shares_on_every_number_of_processes(tiny_run, pairs_dir, tmp_path):
    data = blocks_of(pairs_dir, tmp_path)
    data = dataclasses.replace(data, paths=data.paths * 2, weights=(0.25, 0.75))
    run = dataclasses.replace(tiny_run, data=data)
    source = open_source(data, "train", 32)
    tokenizer = learn_tokenizer(run, source)
    make = BatchOfStep(run, source, tokenizer)
    rows = make.order(np.arange(160))
    assert abs((rows < 20).sum() - 40) <= 4
    parts = [BatchOfStep(run, source, tokenizer, process, 4)(2) for process in range(4)]
    assert np.array_equal(make(2)["images"], np.concatenate([p["images"] for p in parts]))


def test_process_of_a_block_order_reads_its_own_streams_alone(
    tiny_run, pairs_dir, tmp_path, write_shard, jpeg, monkeypatch
):
    for shard in range(8):
        names = [f"{shard}{i:02d}" for i in range(20)]
        members = {f"{n}.{e}": content for n in names for e, content in (("jpg", jpeg()), ("txt", b"a"))}
        write_shard(tmp_path / f"{shard}.tar", members)
    index_shards(shards_of(f"{tmp_path}/*.tar", "train"), tmp_path / "index")
    data = blocks_of(pairs_dir, tmp_path / "other", paths=(str(tmp_path / "index"),))
    run = dataclasses.replace(tiny_run, data=data)
    read, plain = [], IndexedShards.read_block

    def noted(self, shard, number):
        read[-1].add(shard)
        return plain(self, shard, number)

    monkeypatch.setattr(IndexedShards, "read_block", noted)
    for process in range(4):
        read.append(set())
        make = BatchOfStep(run, source := open_source(data, "train", 32), learn_tokenizer(run, source), process, 4)
        for step in range(160 // run.batch_size):
            make(step)
        assert source.requests == 2, "each shard once"
    assert [len(r) for r in read] == [2, 2, 2, 2]
    assert set().union(*read) == set(range(8))


@pytest.fixture
def eight_shards(pairs_dir, tmp_path, write_shard, jpeg):
    """Return the data of an index of 8 shards of 20 pairs, in 8 streams with windows of 2."""
    for shard in range(8):
        names = [f"{shard}{i:02d}" for i in range(20)]
        colors = {name: jpeg((10 * i, 30 * shard, 90)) for i, name in enumerate(names)}
        members = {f"{n}.{e}": content for n in names for e, content in (("jpg", colors[n]), ("txt", n.encode()))}
        write_shard(tmp_path / f"{shard}.tar", members)
    index_shards(shards_of(f"{tmp_path}/*.tar", "train"), tmp_path / "index", echo=lambda line: None)
    return blocks_of(pairs_dir, tmp_path / "other", paths=(str(tmp_path / "index"),), streams=8)


def test_batches_of_blocks_are_the_same_on_1_2_and_8_processes_and_after_a_change_of_hosts(tiny_run, eight_shards):
    run = dataclasses.replace(tiny_run, data=eight_shards)
    tokenizer = learn_tokenizer(run, open_source(run.data, "train", 32))

    def batch(step, processes):
        """Return the global batch as this many new processes make it, which have read nothing before."""
        made = [
            BatchOfStep(run, open_source(run.data, "train", 32), tokenizer, process, processes)(step)
            for process in range(processes)
        ]
        return {name: np.concatenate([part[name] for part in made]) for name in ("images", "tokens")}

    make = BatchOfStep(run, open_source(run.data, "train", 32), tokenizer)
    whole = [make(step) for step in range(12)]  # an epoch has 10; a stream's window, 20 turns of 2 to a batch, too
    for step, processes in ((0, 8), (1, 2), (4, 8), (5, 1), (9, 2), (10, 8), (11, 2)):
        assert equal([whole[step]], [batch(step, processes)])
    assert len({row.tobytes() for step in range(10) for row in whole[step]["tokens"]}) == 160


def test_open_source_first_samples_of_several_indexes_stay_in_blocks(tiny_run, pairs_dir, tmp_path):
    data = blocks_of(pairs_dir, tmp_path)
    source = open_source(dataclasses.replace(data, paths=data.paths * 2, unique_samples=27), "train", 32)
    assert (len(source), source.layout.counts.tolist()) == (27, [10, 10, 7])


def test_batches_draw_captions_by_their_weights(tiny_run, tmp_path, write_shard, jpeg):
    members = {}
    for i in range(16):
        members |= {f"{i:02d}.jpg": jpeg(), f"{i:02d}.json": b'{"a": "left", "b": "right"}'}
    write_shard(tmp_path / "0.tar", members)
    index_shards([str(tmp_path / "0.tar")], tmp_path / "index")
    data = DataConfig(
        source="webdataset", paths=(str(tmp_path / "index"),), order="blocks", caption_keys=("a", "b"),
        caption_weights=(9.0, 1.0), num_threads=1,
    )  # fmt: skip
    run = dataclasses.replace(tiny_run, data=data)
    source = open_source(data, "train", 32)
    tokenizer = learn_tokenizer(run, source)
    make = BatchOfStep(run, source, tokenizer)
    (left,) = tokenizer.encode(["left"])
    drawn = np.concatenate([(make(step)["tokens"] == left).all(axis=1) for step in range(20)])
    assert 0.84 < drawn.mean() < 0.96


def test_open_source_block_order_and_index_belong_together(tiny_run, pairs_dir, tmp_path):
    data = blocks_of(pairs_dir, tmp_path)
    with raises_user_error(field="data.paths", value=data.paths[0], reason="at random"):
        open_source(dataclasses.replace(data, order="global", streams=0, window_shards=8, window_mb=64), "train", 32)
    with raises_user_error(field="data.paths", value=str(pairs_dir), reason="needs an index"):
        open_source(dataclasses.replace(data, paths=(str(pairs_dir),)), "train", 32)
    with raises_user_error(field="data.streams", value=5, reason="must divide batch_size=16"):
        BatchOfStep(
            dataclasses.replace(tiny_run, data=dataclasses.replace(data, streams=5)),
            open_source(data, "train", 32),
            None,
        )


def test_batches_error_in_a_worker_process_is_one_line(tiny_run, pairs_dir, write_shard, jpeg):
    data = damaged(pairs_dir, write_shard, jpeg, {3, 4, 11})
    run = dataclasses.replace(tiny_run, data=dataclasses.replace(data, num_workers=1))
    source = open_source(data, "train", 32)
    tokenizer = learn_tokenizer(run, source)
    with raises_user_error(field="data.max_corrupt_records", value=2, reason="0.tar"):
        take(run, source, tokenizer)
    (pairs_dir / "train" / "0.tar").unlink()
    with raises_user_error(field=re.compile(r"pairs/train/0\.tar$"), reason="No such file"):
        take(run, source, tokenizer)


def test_batches_from_a_url_equal_those_from_a_folder(tiny_run, pairs_dir, store):
    for shard in range(2):
        store.pipe(f"/box/train/{shard}.tar", (pairs_dir / "train" / f"{shard}.tar").read_bytes())
    data = DataConfig(source="webdataset", paths=(str(pairs_dir),), num_threads=2, tokenizer_train_captions=20)
    run = dataclasses.replace(tiny_run, data=data)
    local = open_source(data, "train", 32)
    tokenizer = learn_tokenizer(run, local)
    remote = open_source(dataclasses.replace(data, paths=("slow://box",)), "train", 32)
    assert learn_tokenizer(run, remote).encode(["picture 3"]).tolist() == tokenizer.encode(["picture 3"]).tolist()
    assert equal(take(run, local, tokenizer), take(run, remote, tokenizer))


def test_store_counts_of_batches_include_what_the_process_itself_asks(tiny_run, pairs_dir, store):
    store.pipe("/box/train/0.tar", (pairs_dir / "train" / "0.tar").read_bytes())
    data = DataConfig(source="webdataset", paths=(str(pairs_dir),), num_threads=1, tokenizer_train_captions=20)
    run = dataclasses.replace(tiny_run, data=data)
    source = open_source(data, "train", 32)
    batches = train_batches(run, source, learn_tokenizer(run, source))
    before = batches.store
    range_reads.stat("slow://box/train/0.tar")  # as the search for missing shards does
    assert batches.store["requests"] == before["requests"] + 1
    assert batches.store["requests"] == before["requests"] + 1, "counted once"
    batches.close()


def weighted(tiny_run, pairs_dir, weights, **fields):
    paths = tuple(str(pairs_dir / split) + "/{0..1}.tar" for split in ("train", "val"))
    data = DataConfig(source="webdataset", paths=paths, weights=weights, num_threads=1, tokenizer_train_captions=50)
    return with_data(dataclasses.replace(tiny_run, data=data), **fields)


def test_batches_hold_the_weighted_shares(tiny_run, pairs_dir):
    run = weighted(tiny_run, pairs_dir, (3.0, 1.0))
    source = open_source(run.data, "train", 32)
    make = BatchOfStep(run, source, None)
    shares = [(make.order(step * 16 + np.arange(16)) >= 20).sum() for step in range(6)]
    assert shares == [4] * 6
    assert make.order.distinct(96) == 40
    tokenizer = learn_tokenizer(run, source)
    whole = take(run, source, tokenizer)
    assert equal(whole[2:], take(with_data(run, num_threads=3), source, tokenizer, start=2))
    parts = [BatchOfStep(run, source, tokenizer, process, 4)(5) for process in range(4)]
    assert np.array_equal(np.concatenate([p["images"] for p in parts]), whole[5]["images"])
    with contextlib.closing(train_batches(run, source, tokenizer)) as batches:
        assert batches.drawn(96) == [72, 24]


def test_batches_source_smaller_than_its_share_is_refused(tiny_run, pairs_dir):
    run = dataclasses.replace(weighted(tiny_run, pairs_dir, (3.0, 1.0)), batch_size=32)
    with raises_user_error(ConfigError, field="data.weights", reason="24"):
        BatchOfStep(run, open_source(run.data, "train", 32), None)


def test_batches_show_each_record_once_per_epoch_in_a_new_order(tiny_run, pairs_dir):
    data = DataConfig(source="webdataset", paths=(str(pairs_dir),), num_threads=1)
    run = dataclasses.replace(tiny_run, data=data, batch_size=10)
    make = BatchOfStep(run, open_source(data, "train", 32), None)
    epochs = [make.order(np.arange(20) + e * 20).tolist() for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(20))
    assert epochs[0] != epochs[1]


def test_batches_with_cache_decoded_are_unchanged(setup):
    run, source, tokenizer = setup
    if run.data.source == "scenes" or run.data.order == "blocks":
        pytest.skip("scenes are rendered, and blocks are read as they come: there is nothing to keep")
    keep = dataclasses.replace(run, data=dataclasses.replace(run.data, cache_decoded=True))
    assert equal(take(run, source, tokenizer), take(keep, source, tokenizer))


def test_batches_of_unique_samples_repeat_the_first_n(tiny_run):
    data = dataclasses.replace(tiny_run.data, unique_samples=16)
    run = dataclasses.replace(tiny_run, data=data)
    source = open_source(data, "train", 32)
    tokenizer = learn_tokenizer(run, source)
    a, b = take(run, source, tokenizer, count=2)
    key = {x.tobytes() for x in a["images"]}
    assert key == {x.tobytes() for x in b["images"]}
    assert not np.array_equal(a["images"], b["images"])


def test_batches_of_fewer_records_than_a_batch_is_refused(tiny_run, pairs_dir):
    data = DataConfig(source="webdataset", paths=(str(pairs_dir),))
    run = dataclasses.replace(tiny_run, data=data, batch_size=32)
    with raises_user_error(ConfigError, field="batch_size", value=32):
        train_batches(run, open_source(data, "train", 32), None)


def test_batches_with_a_missing_decoder_is_refused(tiny_run, pairs_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    libraries.cache_clear()
    data = DataConfig(source="webdataset", paths=(str(pairs_dir),), jpeg_decoder="simplejpeg")
    run = dataclasses.replace(tiny_run, data=data)
    with raises_user_error(ConfigError, field="data.jpeg_decoder", value="simplejpeg"):
        train_batches(run, open_source(data, "train", 32), None)


def damaged(pairs_dir, write_shard, jpeg, broken):
    samples = {}
    for i in range(20):
        samples[f"{i:02d}.jpg"] = b"junk" if i in broken else jpeg((10 * i, 0, 0))
        samples[f"{i:02d}.txt"] = f"number {i}".encode()
    (pairs_dir / "train" / "1.tar").unlink()
    write_shard(pairs_dir / "train" / "0.tar", samples)
    return DataConfig(
        source="webdataset", paths=(str(pairs_dir),), max_corrupt_records=2, num_threads=1, tokenizer_train_captions=50
    )


def test_batches_replace_broken_records_and_count_them_once_also_after_a_resume(tiny_run, pairs_dir, write_shard, jpeg):
    data = damaged(pairs_dir, write_shard, jpeg, {3, 11})
    run = dataclasses.replace(tiny_run, data=data)
    source = open_source(data, "train", 32)
    tokenizer = learn_tokenizer(run, source)
    batches = train_batches(run, source, tokenizer)
    whole = [next(batches) for _ in range(run.steps)]
    assert batches.broken_records == 2
    assert equal(whole[3:], take(run, source, tokenizer, start=3))


def test_batches_too_many_broken_records_names_the_last(tiny_run, pairs_dir, write_shard, jpeg):
    data = damaged(pairs_dir, write_shard, jpeg, {3, 4, 11})
    run = dataclasses.replace(tiny_run, data=data)
    source = open_source(data, "train", 32)
    with raises_user_error(field="data.max_corrupt_records", value=2, reason="0.tar"):
        take(run, source, learn_tokenizer(run, source))


def test_retrieval_set_broken_records_are_passed_over_and_counted(tiny_run, pairs_dir, write_shard, jpeg, caplog):
    write_shard(pairs_dir / "val" / "2.tar", {"x.jpg": jpeg(), "x.txt": b" ", "y.jpg": b"junk", "y.txt": b"y"})
    run = with_data(tiny_run, source="webdataset", paths=(str(pairs_dir),))
    run = dataclasses.replace(run, evals=dataclasses.replace(run.evals, retrieval_images=0))
    tokenizer = learn_tokenizer(run, open_source(run.data, "train", 32))
    pairs = retrieval_set(run, open_source(run.data, "val", 32), tokenizer)
    assert len(pairs["images"]) == 20
    (line,) = [r.getMessage() for r in caplog.records if r.name.startswith("clip_jax")]
    assert "2 broken records" in line
    assert "2.tar:x" in line


def test_validation_pairs_default_number_fits_the_split_and_is_logged(tiny_run, pairs_dir, caplog):
    caplog.set_level("INFO")
    run = with_data(tiny_run, source="webdataset", paths=(str(pairs_dir),))
    tokenizer = learn_tokenizer(run, open_source(run.data, "train", 32))
    held_out = open_source(run.data, "val", 32)  # 20 records
    for partitions, each in ((2, 10), (3, 6), (1, 20)):
        run = dataclasses.replace(run, evals=EvalConfig(val_partitions=partitions))
        assert validation_pairs(run, held_out, tokenizer)["images"].shape == (each * partitions, 32, 32, 3)
        assert caplog.records[-1].getMessage() == (
            f"evals.val_pairs: {each} in each of {partitions} partitions, as 20 are held out"
        )
    run = dataclasses.replace(run, evals=EvalConfig(val_partitions=11))
    with raises_user_error(ConfigError, field="evals.val_pairs", hint="more pairs"):
        validation_pairs(run, held_out, tokenizer)


def test_validation_pairs_and_retrieval_set_of_each_source(setup):
    run, _, tokenizer = setup
    held_out = open_source(run.data, "val", 32)
    if run.data.source == "webdataset":
        with raises_user_error(ConfigError, field="evals.val_pairs", value=16, hint="evals.val_pairs=10 works"):
            validation_pairs(run, held_out, tokenizer)
        run = dataclasses.replace(run, evals=dataclasses.replace(run.evals, val_pairs=8))
    pairs = validation_pairs(run, held_out, tokenizer)
    count = run.evals.val_pairs * run.evals.val_partitions
    assert pairs["images"].shape == (count, 32, 32, 3)
    retrieved = retrieval_set(run, held_out, tokenizer)
    captions = 2 if run.data.source == "webdataset" else 1
    assert len(retrieved["images"]) == 16
    assert retrieved["image_of_text"].tolist() == np.repeat(np.arange(16), captions).tolist()


def test_new_tokenizer_is_the_one_that_the_config_names(tiny_run):
    source = open_source(tiny_run.data, "train", 32)
    assert new_tokenizer(tiny_run, source).vocab_size == tiny_run.model.text.vocab_size
    text = dataclasses.replace(tiny_run.model.text, vocab_size=49_408)
    model, data = dataclasses.replace(tiny_run.model, text=text), DataConfig(tokenizer="clip")
    clip = new_tokenizer(dataclasses.replace(tiny_run, model=model, data=data), source)
    cat = [49_406, 320, 2368, 49_407]  # start, "a", "cat", end
    assert clip.encode(["A cat"]).tolist() == [cat + [0] * (text.context_length - len(cat))]
