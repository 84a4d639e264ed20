"""Batches as a pure function of (seed, step)."""

import dataclasses

import numpy as np
import pytest

from clip_jax.config import ConfigError, DataConfig, UserError
from clip_jax.data.loader import BatchOfStep, learn_tokenizer, retrieval_set, train_batches, validation_pairs
from clip_jax.data.sources import open_source


@pytest.fixture(params=["scenes", "webdataset"])
def setup(request, tiny_run, pairs_dir):
    data = tiny_run.data
    if request.param == "webdataset":
        data = DataConfig(
            source="webdataset",
            paths=(str(pairs_dir),),
            augment="square_crop",
            threads=1,
            tokenizer_captions=50,
        )
    run = dataclasses.replace(tiny_run, data=data)
    source = open_source(data, "train", 32)
    return run, source, learn_tokenizer(run, source)


def take(run, source, tokenizer, start=0, count=None):
    batches = train_batches(run, source, tokenizer, start)
    return [next(batches) for _ in range(count or run.steps - start)]


def equal(a, b):
    return all(np.array_equal(x[k], y[k]) for x, y in zip(a, b, strict=True) for k in ("images", "tokens"))


def test_threads_and_resuming_change_no_batch(setup):
    run, source, tokenizer = setup
    whole = take(run, source, tokenizer)
    more_threads = dataclasses.replace(run, data=dataclasses.replace(run.data, threads=4))
    assert equal(whole, take(more_threads, source, tokenizer))
    assert equal(whole[5:], take(run, source, tokenizer, start=5))
    assert whole[0]["images"].shape == (16, 32, 32, 3)
    assert whole[0]["images"].dtype == np.uint8
    assert whole[0]["tokens"].dtype == np.int32


def test_the_seed_changes_the_batches(setup):
    run, source, tokenizer = setup
    other = take(dataclasses.replace(run, seed=1), source, tokenizer)
    assert not equal(take(run, source, tokenizer), other)


def test_two_processes_make_the_batch_of_one(setup):
    run, source, tokenizer = setup
    whole = BatchOfStep(run, source, tokenizer)(3)
    parts = [BatchOfStep(run, source, tokenizer, process, 2)(3) for process in range(2)]
    for key in ("images", "tokens"):
        assert np.array_equal(np.concatenate([p[key] for p in parts]), whole[key])


def test_every_record_once_an_epoch_in_a_new_order(tiny_run, pairs_dir):
    data = DataConfig(source="webdataset", paths=(str(pairs_dir),), threads=1)
    run = dataclasses.replace(tiny_run, data=data, batch_size=10)
    make = BatchOfStep(run, open_source(data, "train", 32), None)
    epochs = [make.order(np.arange(20) + e * 20).tolist() for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(20))
    assert epochs[0] != epochs[1]


def test_kept_pictures_give_the_same_batches(setup):
    run, source, tokenizer = setup
    if run.data.source == "scenes":
        pytest.skip("scenes are rendered, there is nothing to keep")
    keep = dataclasses.replace(run, data=dataclasses.replace(run.data, keep_decoded=True))
    assert equal(take(run, source, tokenizer), take(keep, source, tokenizer))


def test_the_first_n_of_an_endless_source_repeat(tiny_run):
    data = dataclasses.replace(tiny_run.data, unique_samples=16)
    run = dataclasses.replace(tiny_run, data=data)
    source = open_source(data, "train", 32)
    tokenizer = learn_tokenizer(run, source)
    a, b = take(run, source, tokenizer, count=2)
    key = {x.tobytes() for x in a["images"]}
    assert key == {x.tobytes() for x in b["images"]}
    assert not np.array_equal(a["images"], b["images"])


def test_fewer_records_than_a_batch(tiny_run, pairs_dir):
    data = DataConfig(source="webdataset", paths=(str(pairs_dir),))
    run = dataclasses.replace(tiny_run, data=data, batch_size=32)
    with pytest.raises(ConfigError, match="batch_size=32: the training set has only 20 records"):
        train_batches(run, open_source(data, "train", 32), None)


def damaged(pairs_dir, write_shard, jpeg, broken):
    samples = {}
    for i in range(20):
        samples[f"{i:02d}.jpg"] = b"junk" if i in broken else jpeg((10 * i, 0, 0))
        samples[f"{i:02d}.txt"] = f"number {i}".encode()
    (pairs_dir / "train" / "1.tar").unlink()
    write_shard(pairs_dir / "train" / "0.tar", samples)
    return DataConfig(source="webdataset", paths=(str(pairs_dir),), max_broken=2, threads=1, tokenizer_captions=50)


def test_broken_records_are_replaced_counted_once_and_the_same_after_a_resume(tiny_run, pairs_dir, write_shard, jpeg):
    data = damaged(pairs_dir, write_shard, jpeg, {3, 11})
    run = dataclasses.replace(tiny_run, data=data)
    source = open_source(data, "train", 32)
    tokenizer = learn_tokenizer(run, source)
    batches = train_batches(run, source, tokenizer)
    whole = [next(batches) for _ in range(run.steps)]
    assert batches.broken_records == 2
    assert equal(whole[3:], take(run, source, tokenizer, start=3))


def test_too_many_broken_records_end_the_run_with_the_last_ones_name(tiny_run, pairs_dir, write_shard, jpeg):
    data = damaged(pairs_dir, write_shard, jpeg, {3, 4, 11})
    run = dataclasses.replace(tiny_run, data=data)
    source = open_source(data, "train", 32)
    with pytest.raises(UserError, match=r"0\.tar:\d\d: the image does not decode.*data.max_broken=2"):
        take(run, source, learn_tokenizer(run, source))


def test_held_out_pairs_and_retrieval(setup):
    run, _, tokenizer = setup
    held_out = open_source(run.data, "val", 32)
    if run.data.source == "webdataset":
        with pytest.raises(ConfigError, match="held-out split has only 20 records"):
            validation_pairs(run, held_out, tokenizer)
        run = dataclasses.replace(run, evals=dataclasses.replace(run.evals, val_pairs=8))
    pairs = validation_pairs(run, held_out, tokenizer)
    count = run.evals.val_pairs * run.evals.val_partitions
    assert pairs["images"].shape == (count, 32, 32, 3)
    found = retrieval_set(run, held_out, tokenizer)
    captions = 2 if run.data.source == "webdataset" else 1
    assert len(found["images"]) == 16
    assert found["image_of_text"].tolist() == np.repeat(np.arange(16), captions).tolist()
