"""Which record stands at which position of a run: pure functions of (seed, position), so any host can tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

CYCLE = 100_000  # positions after which the pattern of a weighted mixture repeats; shares are exact to one in it


class Order(Protocol):
    """position -> index of a record."""

    def __call__(self, positions: np.ndarray, /) -> np.ndarray:
        """int64 [B] -> int64 [B]."""
        ...

    def distinct(self, samples: int, /) -> int:
        """Different records among the first ``samples`` positions."""
        ...


class Endless:
    """Every position has a record of its own; seeds have different ones."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        return positions + (self.seed << 32)

    def distinct(self, samples: int) -> int:
        return samples


class Shuffled:
    """All records once an epoch, in a new order every epoch."""

    def __init__(self, count: int, seed: int) -> None:
        import grain

        self.count = count
        self._order: Any = grain.MapDataset.range(count).seed(seed).shuffle().repeat(None)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        return np.array([self._order[p] for p in positions.tolist()], np.int64)

    def distinct(self, samples: int) -> int:
        return min(samples, self.count)


class Weighted:
    """Sources drawn in fixed shares, each in epochs of its own length; indices count through all sources in turn.

    The shares hold in every stretch, not only on average: source s is due at (j + ½) / share positions for its j-th
    record, and the cycle is filled in that order, so that in any first n positions a source has been drawn within
    one per other source of n times its share.
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
            Shuffled(count, int(np.random.SeedSequence([seed, s]).generate_state(1)[0]))
            for s, count in enumerate(counts)
        ]

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        cycle, place = np.divmod(positions, CYCLE)
        source = self.source[place]
        turn = cycle * self.quota[source] + self.turn[place]
        out = np.empty(len(positions), np.int64)
        for s, order in enumerate(self.orders):
            mine = source == s
            out[mine] = self.begins[s] + order(turn[mine])
        return out

    def drawn(self, samples: int) -> list[int]:
        """How many of the first ``samples`` positions each source has."""
        cycle, rest = divmod(samples, CYCLE)
        return (cycle * self.quota + np.bincount(self.source[:rest], minlength=len(self.quota))).tolist()

    def distinct(self, samples: int) -> int:
        return int(np.minimum(self.drawn(samples), self.counts).sum())


def _whole_shares(weights: np.ndarray) -> np.ndarray:
    """Positions of a cycle for each source, int64 [S]: at least one, the largest remainders rounded up."""
    exact = weights / weights.sum() * CYCLE
    whole = np.maximum(np.floor(exact), 1).astype(np.int64)
    while (left := CYCLE - int(whole.sum())) != 0:
        if left < 0:  # a share was raised to one: the largest gives way
            whole[whole.argmax()] += left
        else:
            whole[np.argsort(whole - exact, kind="stable")[:left]] += 1
    return whole
