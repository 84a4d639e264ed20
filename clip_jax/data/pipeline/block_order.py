"""The order of `data.order=blocks`: shards are shuffled, and samples within windows of a few shards.

The positions of a run are dealt to ``streams`` streams, position p to stream p mod ``streams``. In every epoch the
shards are permuted and laid end to end; stream k reads the k-th of ``streams`` equal parts of that line, so every
sample occurs once per epoch and all streams end it together. A stream reads its part in windows of ``window_shards``
shards. From each shard of a window it takes the next block, some consecutive samples (`Layout`); the samples of one
block of each shard are shuffled together, then come the next blocks.

A process that draws the positions of few streams reads few shards, each from beginning to end in ranges of one block.
The record at a position follows from the seed and the shards' sample counts alone: it is the same for any number of
processes, workers and threads, and finding it reads no data. Memory is proportional to the number of shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from clip_jax.data.pipeline.sampling import CYCLE, SourceMixture, seed_of_source
from clip_jax.data.sources.base import Layout

KEPT_EPOCHS = 2  # permutations of the shards kept in memory
KEPT_GROUPS = 4  # shuffled groups of blocks kept per stream


@dataclass(frozen=True)
class Pieces:
    """The part of an epoch that one stream reads: of shard ``shard[i]`` the samples ``low[i]`` up to ``high[i]``."""

    shard: np.ndarray
    low: np.ndarray
    high: np.ndarray
    window_ends: np.ndarray  # samples up to the end of each window


@dataclass(frozen=True)
class _Window:
    """One window of a stream: ``parts`` lists, for each group of blocks, (shard, first sample, end) of every shard."""

    parts: list[np.ndarray]  # int64 [shards, 3] per group
    ends: np.ndarray  # samples up to the end of each group


class BlockSampler:
    """A sampler that visits all records once per epoch, in windows of shards. See the module's text.

    ``pieces(epoch, stream)`` are the `Pieces` that a stream reads in an epoch.

    Args:
      layout: of the source.
      streams: number of streams; a batch size that it divides gives each the same share of every batch.
      window_shards: shards whose samples are shuffled together.
      seed: of all permutations.
    """

    def __init__(self, layout: Layout, streams: int, window_shards: int, seed: int) -> None:
        self.layout, self.streams, self.window_shards, self.seed = layout, streams, window_shards, seed
        self.count = len(layout)
        self.begins = np.cumsum(layout.counts) - layout.counts
        self._line = lru_cache(KEPT_EPOCHS)(self._make_line)
        self.pieces = lru_cache(KEPT_EPOCHS * streams)(self._make_pieces)
        self._window = lru_cache(KEPT_GROUPS * streams)(self._make_window)
        self._rows = lru_cache(KEPT_GROUPS * streams)(self._make_rows)

    def __getstate__(self) -> tuple[object, ...]:
        """Return the arguments: worker processes compute the permutations themselves."""
        return self.layout, self.streams, self.window_shards, self.seed

    def __setstate__(self, state: tuple[Layout, int, int, int]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Return the record index of each position, int64 [B] -> int64 [B]."""
        epoch, offset = np.divmod(positions, self.count)
        turn, stream = np.divmod(offset, self.streams)
        out = np.empty(len(positions), np.int64)
        filled = np.zeros(len(positions), bool)
        for n in range(len(positions)):
            if filled[n]:
                continue
            group, begin, end = self._find(int(epoch[n]), int(stream[n]), int(turn[n]))
            same = (epoch == epoch[n]) & (stream == stream[n]) & (turn >= begin) & (turn < end)
            out[same] = self._rows(*group)[turn[same] - begin]
            filled |= same
        return out

    def next_blocks(self, positions: np.ndarray) -> list[int]:
        """Return one record index in each block that the streams of these positions read next."""
        epoch, offset = np.divmod(positions, self.count)
        turn, stream = np.divmod(offset, self.streams)
        seen, rows = set(), []
        for e, k in zip(epoch.tolist(), stream.tolist(), strict=True):
            if (e, k) in seen:
                continue
            seen.add((e, k))
            last = int(turn[(epoch == e) & (stream == k)].max())
            end = self._find(e, k, last)[2]
            if end < int(self.pieces(e, k).window_ends[-1]):
                (_, _, window, group), _, _ = self._find(e, k, end)
                parts = self._window(e, k, window).parts[group]
                rows += (self.begins[parts[:, 0]] + parts[:, 1]).tolist()
        return rows

    def distinct(self, samples: int) -> int:
        """Return the number of different records among the first ``samples`` positions."""
        return min(samples, self.count)

    def _make_line(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the shards in the order of an epoch, and the number of samples up to the end of each."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.layout.counts))
        return order, np.cumsum(self.layout.counts[order])

    def _make_pieces(self, epoch: int, stream: int) -> Pieces:
        order, ends = self._line(epoch)
        each, rest = divmod(self.count, self.streams)
        begin = stream * each + min(stream, rest)
        end = begin + each + (stream < rest)
        first, last = np.searchsorted(ends, begin, side="right"), np.searchsorted(ends, end, side="left")
        shard, shard_ends = order[first : last + 1], ends[first : last + 1]
        shard_begins = shard_ends - self.layout.counts[shard]
        low, high = np.maximum(begin - shard_begins, 0), np.minimum(end, shard_ends) - shard_begins
        total = np.cumsum(high - low)
        last_of_window = np.arange(self.window_shards - 1, len(shard) + self.window_shards - 1, self.window_shards)
        return Pieces(shard, low, high, total[np.minimum(last_of_window, len(shard) - 1)])

    def _make_window(self, epoch: int, stream: int, window: int) -> _Window:
        pieces = self.pieces(epoch, stream)
        part = slice(window * self.window_shards, (window + 1) * self.window_shards)
        shard, low, high = pieces.shard[part], pieces.low[part], pieces.high[part]
        block = self.layout.blocks[shard]
        first = low // block
        parts, sizes = [], []
        for group in range(int(((high - 1) // block - first).max()) + 1):
            begin = np.maximum(low, (first + group) * block)
            end = np.minimum(high, (first + group + 1) * block)
            parts.append(np.stack([shard, begin, end], 1)[begin < end])
            sizes.append(int(np.maximum(end - begin, 0).sum()))
        return _Window(parts, np.cumsum(sizes))

    def _make_rows(self, epoch: int, stream: int, window: int, group: int) -> np.ndarray:
        """Return the record indices of one group of blocks in the order in which they are drawn."""
        parts = self._window(epoch, stream, window).parts[group]
        rows = np.concatenate([self.begins[s] + np.arange(begin, end) for s, begin, end in parts.tolist()])
        rng = np.random.default_rng([self.seed, epoch, stream, window, group])
        return rows[rng.permutation(len(rows))]

    def _find(self, epoch: int, stream: int, turn: int) -> tuple[tuple[int, int, int, int], int, int]:
        """Return the (epoch, stream, window, group) of a turn of a stream, with the group's first turn and its end."""
        ends = self.pieces(epoch, stream).window_ends
        window = int(np.searchsorted(ends, turn, side="right"))
        begin = int(ends[window - 1]) if window else 0
        groups = self._window(epoch, stream, window).ends
        group = int(np.searchsorted(groups, turn - begin, side="right"))
        first = begin + (int(groups[group - 1]) if group else 0)
        return (epoch, stream, window, group), first, begin + int(groups[group])


class WeightedBlockSampler:
    """A sampler of several sources in fixed shares (`SourceMixture`), each in blocks in its own epochs.

    Every stream draws from the sources in turns of its own, and reads of each source the stream of the same number.
    Indices are into the concatenation of the sources. Arguments as of `BlockSampler`, a layout and a weight per source.
    """

    def __init__(
        self, layouts: Sequence[Layout], weights: Sequence[float], streams: int, window_shards: int, seed: int
    ) -> None:
        self.counts = np.array([len(layout) for layout in layouts], np.int64)
        self.begins = np.cumsum(self.counts) - self.counts
        self.streams, self.mixture = streams, SourceMixture(weights)
        # streams begin at evenly spaced draws of the cycle, so that not all draw from the same source at once
        self.starts = np.arange(streams) * CYCLE // streams
        self.skipped = np.stack([self.mixture.before(start) for start in self.starts.tolist()])
        self.orders = [
            BlockSampler(layout, streams, window_shards, seed_of_source(seed, s)) for s, layout in enumerate(layouts)
        ]

    def _positions(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the source of each position, and the position in that source's own order."""
        turn, stream = np.divmod(positions, self.streams)
        source, draws = self.mixture(turn + self.starts[stream])
        return source, (draws - self.skipped[stream, source]) * self.streams + stream

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Return the record index of each position, int64 [B] -> int64 [B]."""
        source, inner = self._positions(positions)
        out = np.empty(len(positions), np.int64)
        for s, order in enumerate(self.orders):
            rows = source == s
            out[rows] = self.begins[s] + order(inner[rows])
        return out

    def next_blocks(self, positions: np.ndarray) -> list[int]:
        """Return one record index in each block that the streams of these positions read next."""
        source, inner = self._positions(positions)
        return [
            row + begin
            for s, (order, begin) in enumerate(zip(self.orders, self.begins.tolist(), strict=True))
            for row in order.next_blocks(inner[source == s])
        ]

    def drawn(self, samples: int) -> list[int]:
        """Return how many of the first ``samples`` positions each source has."""
        turns, more = divmod(samples, self.streams)
        ends = self.starts + turns + (np.arange(self.streams) < more)
        return (np.stack([self.mixture.before(end) for end in ends.tolist()]) - self.skipped).sum(0).tolist()

    def distinct(self, samples: int) -> int:
        """Return the number of different records among the first ``samples`` positions."""
        return int(np.minimum(self.drawn(samples), self.counts).sum())
