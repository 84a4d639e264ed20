"""The sum over every change of the rate before a step, by few terms: sum_k (η_{k-1} - η_k)·kernel(k, t).

A run of T steps has T²/2 pairs of a change k and a step t. Where rates are linear between knots, every k between two
knots has one and the same change, and what remains is the sum of a smooth kernel over consecutive whole numbers. Gauss
quadrature for that sum (its polynomials are the discrete Chebyshev polynomials of Gram) takes a few nodes per interval,
more of them close to t, where the kernel bends. An interval of no more steps than nodes, a jump among them, is summed
exactly, and a constant rate needs no term. `tests/scaling/curves/test_terms.py` compares it with the plain double sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from types import ModuleType

import numpy as np

from clip_jax.scaling.curves.schedule import Schedule
from clip_jax.scaling.laws.base import Array

WIDTH = 16  # terms of one row that are added at once; a row's last ones are padded
AT_ONCE = 4_000_000  # terms that numpy evaluates at once
TINY_RATE = 1e-12  # of the highest: rates and areas are not below it, so that they have logarithms
# nodes of intervals up to so many of their lengths before the row; of one that ends there, of each of its parts
NODES = ((0.0, 4), (1.0, 12), (4.0, 6), (np.inf, 3))


@dataclass(frozen=True, eq=False)
class Terms:
    """Terms of the sums of n rows, in C chunks of `WIDTH`; they compare by identity.

    drop: [C, WIDTH], the change of the rate times the weight of the node, 0 where padded. log_rate: ln η_k. log_area:
    ln of the sum of the rates from step k to the row's step. lag: the steps from k to the row's. row: int [C], the row
    of each chunk, rising. rows: n.
    """

    drop: Array
    log_rate: Array
    log_area: Array
    lag: Array
    row: Array
    rows: int

    def total(self, kernel: Callable[[Array, Array, Array], Array], shape: tuple[int, ...], xp: ModuleType) -> Array:
        """Return the sum of drop·kernel(log_rate, log_area, lag) of each row, [*shape, rows].

        Args:
          kernel: of arrays [C, WIDTH] to [*shape, C, WIDTH].
          shape: of the parameters.
          xp: numpy or jax.numpy.
        """
        if xp is not np:
            import jax

            each = (self.drop * kernel(self.log_rate, self.log_area, self.lag)).sum(axis=-1)
            return jax.ops.segment_sum(each, self.row, self.rows, indices_are_sorted=True)  # type: ignore[return-value]
        out = np.zeros((*shape, self.rows))
        chunks = max(1, AT_ONCE // (WIDTH * max(1, int(np.prod(shape)))))
        for first in range(0, len(self.row), chunks):
            part = slice(first, first + chunks)
            each = (self.drop[part] * kernel(self.log_rate[part], self.log_area[part], self.lag[part])).sum(axis=-1)
            begins = np.flatnonzero(np.diff(self.row[part], prepend=-1))
            out[..., self.row[part][begins]] += np.add.reduceat(each, begins, axis=-1)
        return out


def terms_of(curves: Sequence[tuple[Schedule, Array]], *, warmup: bool) -> Terms:
    """Return the terms of the rows of several curves, one curve after the other.

    Args:
      curves: a schedule and the steps of its rows, each.
      warmup: whether the sum begins at step 1, so that the rise of the warm-up counts, or after the warm-up.
    """
    parts, first = [], 0
    for schedule, steps in curves:
        part = _terms(schedule.with_knots(steps), np.asarray(steps, int), warmup)
        parts.append((part[0] + first, *part[1:]))
        first += len(steps)
    row, *values = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(row, kind="stable")
    row = row[order]
    count = -(-np.bincount(row, minlength=first) // WIDTH)  # chunks of each row
    begin = np.concatenate([[0], np.cumsum(count)])[:-1]
    position = np.arange(len(row)) - np.searchsorted(row, row) + begin[row] * WIDTH
    chunked = []
    for column in values:
        flat = np.zeros(int(count.sum()) * WIDTH)
        flat[position] = column[order]
        chunked.append(flat.reshape(-1, WIDTH))
    drop, log_rate, log_area, lag = chunked
    return Terms(drop, log_rate, log_area, lag, np.repeat(np.arange(first), count), first)


def _terms(schedule: Schedule, steps: Array, warmup: bool) -> tuple[Array, ...]:
    """Return row, drop, ln(rate), ln(area) and lag of every term; each row's step is a knot."""
    knots, rates = _graded(schedule)
    begin, length, change = knots[:-1], np.diff(knots), -np.diff(rates) / np.diff(knots)
    counts = (change != 0) & (warmup | (begin >= schedule.warmup_steps))
    begin, length, change = begin[counts], length[counts], change[counts]
    away = (steps[:, None] - (begin + length)) / length  # of an interval's end, in its lengths
    tiny, areas = TINY_RATE * rates.max(), schedule.area(steps)
    parts, before = [], -1.0
    for reach, nodes in NODES:
        row, interval = np.nonzero((away >= 0) & (away > before) & (away <= reach))
        for m in np.unique(length[interval]):
            these = length[interval] == m
            at, weight = sum_nodes(int(m), nodes) if reach else graded_nodes(int(m), nodes)
            r, j = row[these][:, None], interval[these][:, None]
            k = begin[j] + 1 + at
            area = areas[r] - schedule.area(k - 1)
            shown = [change[j] * weight, np.log(np.maximum(schedule.rate(k), tiny)), np.log(np.maximum(area, tiny))]
            parts.append([v.ravel() for v in np.broadcast_arrays(r, *shown, steps[r] - k)])
        before = reach
    if not parts:
        return np.zeros(0, int), *(np.zeros(0) for _ in range(4))
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def _graded(schedule: Schedule) -> tuple[Array, Array]:
    """Return knots and rates, with an interval from or to a rate of 0 cut into ever shorter ones towards it: a power of
    the rate is smooth only away from 0.
    """
    steps, rates = schedule.steps, schedule.rates
    more = []
    for j in np.flatnonzero((rates[:-1] == 0) != (rates[1:] == 0)):
        length = int(steps[j + 1] - steps[j])
        aside = 2 ** np.arange(int(np.log2(length)) + 1)
        aside = aside[aside < length]
        more.append(steps[j] + aside if rates[j] == 0 else steps[j + 1] - aside)
    knots = np.unique(np.concatenate([steps, *more])).astype(int)
    return knots, schedule.rate(knots)


@cache
def sum_nodes(m: int, nodes: int) -> tuple[Array, Array]:
    """Return (points in 0 … m - 1, weights) so that sum weights·f(points) is the sum of f over 0, 1, …, m - 1.

    It is exact for polynomials of a degree below twice the nodes, and for every f where m does not exceed the nodes.
    """
    if m <= nodes:
        return np.arange(m, dtype=float), np.ones(m)
    n = np.arange(1, nodes)
    aside = np.sqrt(n**2 * (m**2 - n**2) / (4.0 * (4 * n**2 - 1)))
    points, vectors = np.linalg.eigh(np.diag(np.full(nodes, (m - 1) / 2)) + np.diag(aside, 1) + np.diag(aside, -1))
    return points, m * vectors[0] ** 2


@cache
def graded_nodes(m: int, nodes: int) -> tuple[Array, Array]:
    """Return points and weights as `sum_nodes` does, of parts that halve towards the last point."""
    ends = m - np.minimum(2 ** np.arange(m.bit_length() + 1) - 1, m)
    parts = [(end, *sum_nodes(int(begin - end), nodes)) for begin, end in pairwise(ends) if begin > end]
    return np.concatenate([end + at for end, at, _ in parts]), np.concatenate([weight for *_, weight in parts])
