"""Where the time of a run goes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

# start: opening data, restoring. compile: the first call of the step. data: waiting for the next batch.
# step: the rest of the loop, which is the device at work or being given work. other: whatever is left.
PARTS = ("start", "compile", "data", "step", "evaluation", "checkpoint", "other")


class Clock:
    """Splits the seconds since it was made among `PARTS`; each moment belongs to one of them, the innermost.

    It reads the host's clock and waits for nothing: work that the device still has in flight when a part ends is
    counted where the host next waits for it.
    """

    def __init__(self) -> None:
        self.before = dict.fromkeys(PARTS, 0.0)
        self.now = dict.fromkeys(PARTS, 0.0)
        self._part = "other"
        self._since = time.monotonic()

    def _turn(self, part: str) -> str:
        moment = time.monotonic()
        self.now[self._part] += moment - self._since
        previous, self._part, self._since = self._part, part, moment
        return previous

    @contextlib.contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Count the time inside as ``part``."""
        previous = self._turn(part)
        try:
            yield
        finally:
            self._turn(previous)

    def add(self, before: Mapping[str, float]) -> None:
        """Add the seconds of earlier attempts."""
        self.before = {name: self.before[name] + before.get(name, 0.0) for name in PARTS}

    def seconds(self) -> dict[str, float]:
        """Seconds by part, over all attempts."""
        self._turn(self._part)
        return {name: self.before[name] + self.now[name] for name in PARTS}

    def attempt(self, *parts: str) -> float:
        """Seconds of these parts in this attempt alone."""
        self._turn(self._part)
        return sum(self.now[name] for name in parts)
