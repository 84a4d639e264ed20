"""The block order: every record once per epoch, few shards per stream, the same on any number of processes."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_jax.data.pipeline.block_order import BlockSampler, WeightedBlockSampler
from clip_jax.data.sources.base import Layout

COUNTS = st.lists(st.integers(1, 30), min_size=1, max_size=12)


def layout(counts, block):
    return Layout(np.array(counts), np.full(len(counts), block))


def sampler(counts, block=4, streams=4, window=2, seed=0):
    return BlockSampler(layout(counts, block), streams, window, seed)


@settings(deadline=None)
@given(COUNTS, st.integers(1, 9), st.integers(1, 6), st.integers(1, 5), st.integers(0, 3))
def test_every_record_occurs_once_per_epoch(counts, block, streams, window, epoch):
    order, total = sampler(counts, block, streams, window), sum(counts)
    positions = np.arange(epoch * total, (epoch + 1) * total)
    assert sorted(order(positions).tolist()) == list(range(total))


@settings(deadline=None)
@given(COUNTS, st.integers(1, 9), st.integers(1, 6), st.integers(1, 5), st.randoms())
def test_record_of_a_position_does_not_depend_on_what_was_asked_before(counts, block, streams, window, random):
    positions = np.arange(3 * sum(counts))
    whole = sampler(counts, block, streams, window)(positions)
    some = np.array(random.sample(positions.tolist(), len(positions) // 2), np.int64)
    assert sampler(counts, block, streams, window)(some).tolist() == whole[some].tolist()


def test_epochs_and_seeds_have_orders_of_their_own():
    order = sampler([20] * 6)
    first, second = order(np.arange(120)), order(np.arange(120, 240))
    assert first.tolist() != second.tolist()
    assert first.tolist() != sampler([20] * 6, seed=1)(np.arange(120)).tolist()
    assert (order.distinct(50), order.distinct(500)) == (50, 120)


def test_a_stream_reads_its_shards_block_by_block():
    order = sampler([100] * 16, block=10, streams=4, window=2)
    for stream in range(4):
        rows = order(np.arange(stream, 1600, 4))  # a quarter of the records: four whole shards, in two windows
        shards = rows // 100
        assert len(set(shards.tolist())) == 4
        for window in (slice(0, 200), slice(200, 400)):
            assert len(set(shards[window].tolist())) == 2
            blocks = [set((rows[window][i : i + 20] // 10).tolist()) for i in range(0, 200, 20)]
            assert all(len(b) == 2 for b in blocks), "one block of each shard at a time"
            assert set().union(*blocks) == {s * 10 + b for s in set(shards[window].tolist()) for b in range(10)}


def test_next_blocks_are_those_that_the_following_positions_read():
    order = sampler([40] * 8, block=10, streams=2, window=2)
    positions = np.arange(0, 16)  # the first 8 of the first 20 records of both streams
    following = {row // 10 for row in order(np.arange(40, 80)).tolist()}
    assert {row // 10 for row in order.next_blocks(positions)} == following


def test_pickled_sampler_is_the_same():
    order = sampler([7, 30, 2, 11], block=5, streams=3, window=2, seed=9)
    again = pickle.loads(pickle.dumps(order))  # noqa: S301  (as worker processes get it)
    assert again(np.arange(100)).tolist() == order(np.arange(100)).tolist()


def test_memory_and_time_are_those_of_shards_not_of_records():
    order = BlockSampler(layout([10_000] * 100_000, 400), 64, 8, 0)  # a billion records
    rows = order(np.arange(10**10, 10**10 + 640))
    assert len(set(rows.tolist())) == 640
    assert rows.max() < 10**9


@pytest.mark.parametrize("streams", [1, 4])
def test_weighted_block_sampler_keeps_the_shares_and_the_epochs_of_each_source(streams):
    layouts = [layout([30, 20], 5), layout([25, 25, 50], 5)]
    order = WeightedBlockSampler(layouts, (0.25, 0.75), streams, 2, 0)
    rows = order(np.arange(200))
    first, second = rows[rows < 50], rows[rows >= 50]
    assert order.drawn(200) == [len(first), len(second)]
    assert abs(len(first) - 50) <= streams
    assert len(set(second[:100].tolist())) >= 100 - streams  # streams may begin the next epoch a record apart
    assert order.distinct(200) == min(len(first), 50) + 100
    assert set(order.next_blocks(np.arange(4))) <= set(range(150))
