"""Samplers: the record at each position of a run as a pure function of (seed, position), the same on every host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

CYCLE = 100_000  # positions per period of a weighted mixture; shares are rounded to 1 / CYCLE


class Sampler(Protocol):
    """A map from positions to record indices."""

    def __call__(self, positions: np.ndarray, /) -> np.ndarray:
        """Return the record index of each position, int64 [B] -> int64 [B]."""
        ...

    def distinct(self, samples: int, /) -> int:
        """Return the number of different records among the first ``samples`` positions."""
        ...


class InfiniteSampler:
    """A sampler of an infinite source: each position has its own record, different for each seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        return positions + (self.seed << 32)

    def distinct(self, samples: int) -> int:
        return samples


class ShuffledSampler:
    """A sampler that visits all records once per epoch, in a new order every epoch."""

    def __init__(self, count: int, seed: int) -> None:
        import grain

        self.count = count
        self._order = grain.MapDataset.range(count).seed(seed).shuffle().repeat(None)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        return np.array([self._order[p] for p in positions.tolist()], np.int64)

    def distinct(self, samples: int) -> int:
        return min(samples, self.count)


class WeightedSampler:
    """A sampler of several sources in fixed shares, each shuffled in its own epochs.

    Indices are into the concatenation of the sources. The shares hold in every stretch, not only on average: the j-th
    record of source s is due at position (j + ½) / share, and the cycle is filled in that order. In the first n
    positions, for any n, a source has therefore been drawn n times its share, give or take one per other source.
    """

    def __init__(self, counts: Sequence[int], weights: Sequence[float], seed: int) -> None:
        self.counts = np.array(counts, np.int64)
        self.begins = np.cumsum(self.counts) - self.counts
        self.quota = _whole_shares(np.array(weights, np.float64))
        source = np.repeat(np.arange(len(counts)), self.quota)
        turn = np.concatenate([np.arange(q) for q in self.quota])
        filled = np.lexsort((source, (turn + 0.5) / self.quota[source]))
        self.source, self.turn = source[filled].astype(np.int16), turn[filled].astype(np.int32)
        self.orders = [
            ShuffledSampler(count, int(np.random.SeedSequence([seed, s]).generate_state(1)[0]))
            for s, count in enumerate(counts)
        ]

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        cycle, offset = np.divmod(positions, CYCLE)
        source = self.source[offset]
        turn = cycle * self.quota[source] + self.turn[offset]
        out = np.empty(len(positions), np.int64)
        for s, order in enumerate(self.orders):
            rows = source == s
            out[rows] = self.begins[s] + order(turn[rows])
        return out

    def drawn(self, samples: int) -> list[int]:
        """Return how many of the first ``samples`` positions each source has."""
        cycle, rest = divmod(samples, CYCLE)
        return (cycle * self.quota + np.bincount(self.source[:rest], minlength=len(self.quota))).tolist()

    def distinct(self, samples: int) -> int:
        return int(np.minimum(self.drawn(samples), self.counts).sum())


def _whole_shares(weights: np.ndarray) -> np.ndarray:
    """Return the positions per cycle of each source, int64 [S]: at least one, the largest remainders rounded up."""
    exact = weights / weights.sum() * CYCLE
    whole = np.maximum(np.floor(exact), 1).astype(np.int64)
    while (left := CYCLE - int(whole.sum())) != 0:
        if left < 0:  # shares were raised to one: take the excess from the largest
            whole[whole.argmax()] += left
        else:
            whole[np.argsort(whole - exact, kind="stable")[:left]] += 1
    return whole
