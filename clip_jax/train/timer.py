"""Accounting of a run's wall time by part."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

# start: opening data, restoring. compile: the first call of the step. data: waiting for the next batch.
# step: the rest of the loop, when the device works or gets work. other: everything else.
PARTS = ("start", "compile", "data", "step", "evaluation", "checkpoint", "other")


class _Stopwatch:
    """Seconds by part since its creation."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(PARTS, 0.0)
        self._part = "other"
        self._since = time.monotonic()

    def switch(self, part: str | None = None) -> str:
        """Charge the time from now on to ``part`` (None: to the same part as before); return the previous part."""
        moment = time.monotonic()
        self.spent[self._part] += moment - self._since
        previous, self._part, self._since = self._part, part or self._part, moment
        return previous


class Clock:
    """Split of the seconds since its creation among `PARTS`; each moment counts for the innermost part only.

    It reads the host's clock and never waits: work that the device still has in flight when a part ends is counted
    where the host next waits for it. ``Clock(whole, n)`` shares the time of another clock and counts 1/n of it, for n
    runs that one process trains together.
    """

    def __init__(self, whole: Clock | None = None, runs: int = 1) -> None:
        self.before = dict.fromkeys(PARTS, 0.0)
        self._watch: _Stopwatch = whole._watch if whole else _Stopwatch()
        self._runs = runs

    @contextlib.contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Count the time inside the context as ``part``."""
        previous = self._watch.switch(part)
        try:
            yield
        finally:
            self._watch.switch(previous)

    def add(self, before: Mapping[str, float]) -> None:
        """Add the seconds of earlier attempts."""
        self.before = {name: self.before[name] + before.get(name, 0.0) for name in PARTS}

    def seconds(self) -> dict[str, float]:
        """Return the seconds by part over all attempts."""
        self._watch.switch()
        return {name: self.before[name] + self._watch.spent[name] / self._runs for name in PARTS}

    def attempt(self, *parts: str) -> float:
        """Return the seconds of these parts in this attempt only."""
        self._watch.switch()
        return sum(self._watch.spent[name] for name in parts) / self._runs
