"""Samplers: pure functions of the position, exact shares, epochs of their own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_jax.data.pipeline.sampling import CYCLE, InfiniteSampler, ShuffledSampler, SourceMixture, WeightedSampler

WEIGHTS = st.lists(st.floats(1e-3, 1.0), min_size=2, max_size=6)


def sources_of(order, positions):
    return np.searchsorted(np.cumsum(order.counts), order(positions), side="right")


def test_infinite_sampler_positions_are_records_offset_by_seed():
    assert InfiniteSampler(0)(np.arange(3)).tolist() == [0, 1, 2]
    assert InfiniteSampler(1)(np.arange(1))[0] == 1 << 32
    assert InfiniteSampler(0).distinct(10**12) == 10**12


def test_shuffled_sampler_shows_each_record_once_per_epoch_in_a_new_order():
    order = ShuffledSampler(50, seed=3)
    first, second = order(np.arange(50)), order(np.arange(50, 100))
    assert sorted(first) == sorted(second) == list(range(50))
    assert first.tolist() != second.tolist()
    assert first.tolist() != ShuffledSampler(50, seed=4)(np.arange(50)).tolist()
    assert (order.distinct(20), order.distinct(120)) == (20, 50)


@given(WEIGHTS)
def test_mixture_quotas_sum_to_a_cycle_within_one_record(weights):
    quota = SourceMixture(weights).quota
    assert quota.sum() == CYCLE
    assert np.abs(quota - CYCLE * np.array(weights) / sum(weights)).max() < 1 + 1e-6


def test_mixture_quotas_are_at_least_one_record():
    assert SourceMixture([1e-9, 1e-9, 1.0]).quota.tolist() == [1, 1, CYCLE - 2]


@given(WEIGHTS, st.integers(1, 3 * CYCLE))
def test_weighted_sampler_prefixes_have_the_requested_shares(weights, samples):
    order = WeightedSampler([7] * len(weights), weights, seed=0)
    share = order.mixture.quota / CYCLE
    drawn = order.drawn(samples)
    assert sum(drawn) == samples
    assert np.abs(np.array(drawn) - samples * share).max() <= len(weights)


def test_weighted_sampler_drawn_counts_the_records_shown():
    order = WeightedSampler([10, 300, 40], [5, 3, 2], seed=1)
    seen = sources_of(order, np.arange(77))
    assert np.bincount(seen, minlength=3).tolist() == order.drawn(77)
    assert order.drawn(1000) == [500, 300, 200]
    assert order.distinct(100) == len(set(order(np.arange(100)).tolist())) == 10 + 30 + 20
    assert order.distinct(10_000) == 350


def test_weighted_sampler_runs_each_source_through_its_epochs():
    order = WeightedSampler([10, 16], [0.5, 0.5], seed=0)
    positions = np.arange(CYCLE - 100, CYCLE + 100)  # of the first source, records 49,950 to 50,050 of its own count
    index = order(positions)
    first = index[index < 10]
    assert first.tolist() == order.orders[0](np.arange(49_950, 50_050)).tolist()
    for epoch in first.reshape(-1, 10):
        assert sorted(epoch) == list(range(10))
    assert len({tuple(e) for e in first.reshape(-1, 10)}) > 1
    second = index[index >= 10][8:]  # 49,950 is 14 of an epoch of 16: whole epochs begin a little later
    assert set(second) == set(range(10, 26))


@pytest.mark.parametrize("position", [0, 5, CYCLE - 1, CYCLE, 10**9])
def test_weighted_sampler_position_alone_equals_position_in_a_range(position):
    order = WeightedSampler([10, 300], [0.7, 0.3], seed=0)
    together = order(np.arange(position, position + 8))
    assert [int(order(np.array([position + k]))[0]) for k in range(8)] == together.tolist()
