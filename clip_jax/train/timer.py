"""Where the time of a run goes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

# start: opening data, restoring. compile: the first call of the step. data: waiting for the next batch.
# step: the rest of the loop, which is the device at work or being given work. other: whatever is left.
PARTS = ("start", "compile", "data", "step", "evaluation", "checkpoint", "other")


class _Stopwatch:
    """Seconds by part since it was made."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(PARTS, 0.0)
        self._part = "other"
        self._since = time.monotonic()

    def turn(self, part: str | None = None) -> str:
        """From now on it is ``part``'s time (None: the same part's); returns whose it was."""
        moment = time.monotonic()
        self.spent[self._part] += moment - self._since
        previous, self._part, self._since = self._part, part or self._part, moment
        return previous


class Clock:
    """Splits the seconds since it was made among `PARTS`; each moment belongs to one of them, the innermost.

    It reads the host's clock and waits for nothing: work that the device still has in flight when a part ends is
    counted where the host next waits for it. ``Clock(whole, n)`` goes on with the time of another one and counts an
    n-th of it, for n runs that one process trains together.
    """

    def __init__(self, whole: Clock | None = None, runs: int = 1) -> None:
        self.before = dict.fromkeys(PARTS, 0.0)
        self._watch: _Stopwatch = whole._watch if whole else _Stopwatch()
        self._runs = runs

    @contextlib.contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Count the time inside as ``part``."""
        previous = self._watch.turn(part)
        try:
            yield
        finally:
            self._watch.turn(previous)

    def add(self, before: Mapping[str, float]) -> None:
        """Add the seconds of earlier attempts."""
        self.before = {name: self.before[name] + before.get(name, 0.0) for name in PARTS}

    def seconds(self) -> dict[str, float]:
        """Seconds by part, over all attempts."""
        self._watch.turn()
        return {name: self.before[name] + self._watch.spent[name] / self._runs for name in PARTS}

    def attempt(self, *parts: str) -> float:
        """Seconds of these parts in this attempt alone."""
        self._watch.turn()
        return sum(self._watch.spent[name] for name in parts) / self._runs
