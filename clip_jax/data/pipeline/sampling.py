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


class SourceMixture:
    """Fixed shares of several sources: which source the n-th draw is from, and which of that source's draws it is.

    The shares hold in every stretch, not only on average: the j-th draw from source s is due at draw (j + ½) / share,
    and the cycle is filled in that order. In the first n draws, for any n, a source has therefore been drawn n times
    its share, give or take one per other source.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self.quota = _whole_shares(np.array(weights, np.float64))
        source = np.repeat(np.arange(len(weights)), self.quota)
        turn = np.concatenate([np.arange(q) for q in self.quota])
        filled = np.lexsort((source, (turn + 0.5) / self.quota[source]))
        self.source, self.turn = source[filled].astype(np.int16), turn[filled].astype(np.int32)

    def __call__(self, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the source of each draw, int [B], and how often that source was drawn before, int64 [B]."""
        cycle, offset = np.divmod(draws, CYCLE)
        source = self.source[offset]
        return source, cycle * self.quota[source] + self.turn[offset]

    def before(self, draws: int) -> np.ndarray:
        """Return how many of the first ``draws`` draws each source has, int64 [S]."""
        cycle, rest = divmod(draws, CYCLE)
        return cycle * self.quota + np.bincount(self.source[:rest], minlength=len(self.quota))


class WeightedSampler:
    """A sampler of several sources in fixed shares (`SourceMixture`), each shuffled in its own epochs.

    Indices are into the concatenation of the sources.
    """

    def __init__(self, counts: Sequence[int], weights: Sequence[float], seed: int) -> None:
        self.counts = np.array(counts, np.int64)
        self.begins = np.cumsum(self.counts) - self.counts
        self.mixture = SourceMixture(weights)
        self.orders = [ShuffledSampler(count, seed_of_source(seed, s)) for s, count in enumerate(counts)]

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        source, turn = self.mixture(positions)
        out = np.empty(len(positions), np.int64)
        for s, order in enumerate(self.orders):
            rows = source == s
            out[rows] = self.begins[s] + order(turn[rows])
        return out

    def drawn(self, samples: int) -> list[int]:
        """Return how many of the first ``samples`` positions each source has."""
        return self.mixture.before(samples).tolist()

    def distinct(self, samples: int) -> int:
        return int(np.minimum(self.drawn(samples), self.counts).sum())


def seed_of_source(seed: int, source: int) -> int:
    """Return the seed of one source of a mixture."""
    return int(np.random.SeedSequence([seed, source]).generate_state(1)[0])


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
