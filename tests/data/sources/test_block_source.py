"""Blocks of shards are read about once, within the memory that is documented."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

from clip_jax.data.pipeline.block_order import BlockSampler
from clip_jax.data.pipeline.prefetch import Prefetcher
from clip_jax.data.sources.base import Layout, Record
from clip_jax.data.sources.block_source import WINDOWS_HELD, BlockSource, ReusedMemory
from clip_jax.storage.range_reads import Range

from ...user_errors import raises_user_error

BLOCKS, MEGABYTE = 8, 2**20


@dataclass
class Uneven:
    """A block of known size."""

    nbytes: int


class CountedBlocks(BlockSource[Uneven]):
    """Shards of eight blocks each, which are a fifth larger or smaller than said, and how often each was read."""

    def __init__(self, shards, window_shards):
        counts = np.full(shards, 8 * 64)
        layout = Layout(counts, np.full(shards, 64))
        super().__init__(layout, np.arange(shards), MEGABYTE, window_shards * MEGABYTE)
        self.sizes = np.random.default_rng(0).uniform(0.8, 1.2, (shards, BLOCKS)) * MEGABYTE
        self.read = Counter()

    @property
    def file_names(self):
        return [f"{i}.tar" for i in range(len(self.ends))]

    @property
    def digest(self):
        return "counted"

    def read_block(self, shard, number):
        self.read[shard, number] += 1
        return Uneven(int(self.sizes[shard, number]))

    def _record(self, row, block, sample):
        return Record(np.zeros((1, 1, 3), np.uint8), ("a",))


@pytest.mark.parametrize(("streams", "window"), [(4, 4), (2, 8), (16, 2)])
def test_each_block_is_read_about_once_in_an_epoch(streams, window):
    source = CountedBlocks(32, window)
    order = BlockSampler(source.layout, streams, window, 0)
    source.hold(streams)
    batch = 64

    def make(step):
        positions = np.arange(step * batch, (step + 1) * batch)
        source.read_ahead(order.next_blocks(positions))
        return len(source.get_many(order(positions).tolist()))

    batches = Prefetcher(make, range(len(source) // batch), 2, 0)
    assert sum(next(batches) for _ in range(len(source) // batch)) == len(source)
    batches.close()
    assert source.max_bytes == WINDOWS_HELD * streams * window * MEGABYTE
    assert len(source.read) == 32 * BLOCKS
    # a block on the border of two streams is read by both, and threads that run ahead cost a few more
    assert source.read.total() < 1.1 * 32 * BLOCKS + streams


def test_memory_is_used_again_only_when_no_view_of_it_is_left(tmp_path):
    (tmp_path / "file").write_bytes(bytes(range(200)))
    memory = ReusedMemory()
    first = memory.read(Range(str(tmp_path / "file"), 0, 100))
    view = first[10:12]
    del first
    second = memory.read(Range(str(tmp_path / "file"), 100, 190))
    assert (bytes(view), bytes(second)) == (bytes([10, 11]), bytes(range(100, 190)))
    assert memory.free == []
    del view
    assert len(memory.free) == 1
    third = memory.read(Range(str(tmp_path / "file"), 50, 60))
    assert (bytes(second), bytes(third), memory.free) == (bytes(range(100, 190)), bytes(range(50, 60)), [])
    with raises_user_error(field=tmp_path / "file", reason="byte 201"):
        memory.read(Range(str(tmp_path / "file"), 100, 201))


def test_missing_shards_in_a_row_are_replaced_by_different_ones():
    source = CountedBlocks(8, 2)
    source.replace_shards(["2.tar", "3.tar", "4.tar", "7.tar"])
    assert source.stand_ins == {2: 5, 3: 6, 4: 0, 7: 0}
