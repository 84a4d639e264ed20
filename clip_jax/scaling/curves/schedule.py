"""A learning-rate schedule as the rate of every step, given at some steps and linear between them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from clip_jax.errors import UserError
from clip_jax.scaling.laws.base import Array

STRAIGHT = 1e-6  # of the highest rate: how far a rate that needs no knot may lie from the line between knots


@dataclass(frozen=True, eq=False)
class Schedule:
    """The rates of steps 1, 2, …: linear between knots. A jump is two knots one step apart.

    steps: rising ints [K], from 0. rates: [K], 0 or above; the rate at step 0 is 0 before a warm-up, and otherwise the
    first rate, so that nothing rises. warmup_steps: the last step of the warm-up, 0 without one.
    """

    steps: Array
    rates: Array
    warmup_steps: int = 0

    def rate(self, at: Array) -> Array:
        """Return the rate at each step [n]; after the last knot that of the last knot."""
        return np.interp(at, self.steps, self.rates)

    def area(self, at: Array) -> Array:
        """Return the sum of the rates of steps 1 to each step [n], 0 or above, which need not be whole."""
        at = np.asarray(at, float)
        j = np.searchsorted(self.steps, at, side="right") - 1
        u = at - self.steps[j]
        return self._areas[j] + self.rates[j] * u + np.append(self._slopes, 0.0)[j] * u * (u + 1) / 2

    def with_knots(self, at: Array) -> Schedule:
        """Return the same schedule with knots at these steps, and no others where rates are nearly on a line."""
        steps = np.union1d(self.steps[self._bends], np.asarray(at, int))
        return Schedule(steps, self.rate(steps), self.warmup_steps)

    @cached_property
    def _slopes(self) -> Array:
        return np.diff(self.rates) / np.diff(self.steps)

    @cached_property
    def _areas(self) -> Array:
        """The area at each knot."""
        length = np.diff(self.steps)
        each = self.rates[:-1] * length + self._slopes * length * (length + 1) / 2
        return np.concatenate([[0.0], np.cumsum(each)])

    @cached_property
    def _bends(self) -> list[int]:
        """The indices of knots between which all others lie within `STRAIGHT` of a line, in one pass: from each, as far
        as one slope passes all rates.
        """
        steps, rates, allowed = self.steps.tolist(), self.rates.tolist(), STRAIGHT * float(self.rates.max())
        kept, low, high = [0], -np.inf, np.inf
        for i in range(1, len(steps)):
            run, rise = steps[i] - steps[kept[-1]], rates[i] - rates[kept[-1]]
            if not low <= rise / run <= high:
                kept.append(i - 1)
                run, rise, low, high = steps[i] - steps[i - 1], rates[i] - rates[i - 1], -np.inf, np.inf
            low, high = max(low, (rise - allowed) / run), min(high, (rise + allowed) / run)
        return [*kept, len(steps) - 1]


def schedule_of(
    steps: Array, rates: Array, *, warmup_steps: int | None = None, peak: float | None = None, name: str = "curve"
) -> Schedule:
    """Return the schedule of logged rates, with the warm-up before them.

    Rates are linear between logged steps. A change between two rates that are constant before and after it is a jump
    at the step that logs the new one.

    Args:
      steps: whole numbers [n], rising, from 0 on.
      rates: [n], finite, 0 or above.
      warmup_steps: steps of a linear warm-up from 0, which need not be logged; 0: there is none. It must be given where
        the log begins after step 1.
      peak: the rate at the end of the warm-up; the first logged rate by default where there is no warm-up.
      name: of the curve, in messages.

    Raises:
      UserError: steps that do not rise, rates below 0, a warm-up that neither stands in the table nor is given.
    """
    steps, rates = np.asarray(steps, float), np.asarray(rates, float)
    if len(steps) < 2 or not (np.diff(steps) > 0).all() or (steps != np.round(steps)).any() or steps[0] < 0:
        raise UserError(source=name, field="step", reason="must be two or more whole numbers from 0 on, each once")
    if not (np.isfinite(rates).all() and (rates >= 0).all() and rates.max() > 0):
        raise UserError(source=name, field="rate", reason="must be finite and at least 0, somewhere above")
    if warmup_steps is None:
        if steps[0] > 1:
            reason = f"the rates before step {steps[0]:g} are not in the table"
            hint = "give the steps of the warm-up, 0 for none, and its peak"
            raise UserError(source=name, field="--warmup-steps", reason=reason, hint=hint)
        warmup_steps = 0
    if warmup_steps < 0 or warmup_steps >= steps[-1]:
        reason = f"must be at least 0 and below the last step, {steps[-1]:g}"
        raise UserError(source=name, field="--warmup-steps", value=warmup_steps, reason=reason)
    if warmup_steps and peak is None:
        raise UserError(source=name, field="--peak", reason="must be given with a warm-up: the rate at its end")
    if peak is not None and not 0 < peak < np.inf:
        raise UserError(source=name, field="--peak", value=peak, reason="must be above 0 and finite")
    knots = {0.0: 0.0 if warmup_steps else float(peak or rates[0])}
    if warmup_steps and peak is not None:
        knots[float(warmup_steps)] = peak
    knots |= dict(zip(steps.tolist(), rates.tolist(), strict=True)) | _jumps(steps, rates)
    at = np.array(sorted(knots))
    return Schedule(at.astype(int), np.array([knots[s] for s in at]), int(warmup_steps))


def _jumps(steps: Array, rates: Array) -> dict[float, float]:
    """Return the knots of the jumps: the rate of the step before each."""
    same = np.diff(rates) == 0
    jumps = np.flatnonzero(~same[1:-1] & same[:-2] & same[2:]) + 1
    return {float(steps[j + 1] - 1): float(rates[j]) for j in jumps}


def cosine(steps: int, peak: float, *, warmup_steps: int = 0, floor: float = 0.0, knots: int = 256) -> Schedule:
    """Return a warm-up and a half cosine from ``peak`` to ``floor`` at the last step, linear between ``knots``."""
    at = np.unique(np.linspace(warmup_steps, steps, knots).round())
    wave = floor + (peak - floor) * (1 + np.cos(np.pi * (at - warmup_steps) / (steps - warmup_steps))) / 2
    return schedule_of(at, wave, warmup_steps=warmup_steps, peak=peak)


def stable_then_decay(
    steps: int, peak: float, *, decay_steps: int, warmup_steps: int = 0, floor: float = 0.0
) -> Schedule:
    """Return a warm-up, a constant rate and a linear decay over the last steps; with ``decay_steps`` 0 it is constant.

    ``decay_steps`` of 1 is a jump to ``floor``.
    """
    at = np.array([warmup_steps, steps - decay_steps, steps] if decay_steps else [warmup_steps, steps])
    return schedule_of(
        at, np.where(at == steps, floor if decay_steps else peak, peak), warmup_steps=warmup_steps, peak=peak
    )
