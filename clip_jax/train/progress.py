"""The progress line of a run."""

from __future__ import annotations

import os
import sys
import time
from typing import TextIO

from clip_jax.durations import clock_text

BAR, NO_TERMINAL = 20, 10**6  # columns of the bar; of a file
CLEAR = "\r\x1b[K"  # back to the first column, and clear to the end of the line


class Progress:
    """Progress line of a run: rewritten in place on a terminal, else one line per logged step.

    Time left is reckoned from the first line on: neither starting nor compiling enters it.
    """

    def __init__(self, steps: int, *, stream: TextIO | None = None, shown: bool = True) -> None:
        self.steps, self.shown = steps, shown
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.first: tuple[int, float] | None = None  # step and time of the first line
        self.open = False  # a line on the terminal waits to be rewritten

    def text(self, step: int, loss: float, samples_per_s: float | None, mfu: float | None) -> str:
        """Return the line; on a terminal, the bar takes what its width leaves."""
        left = "?"
        if self.first is not None and step > self.first[0]:
            left = clock_text((time.monotonic() - self.first[1]) * (self.steps - step) / (step - self.first[0]))
        speed = "?" if samples_per_s is None else f"{samples_per_s:,.0f}"
        use = "unknown" if mfu is None else f"{mfu:.1%}"
        text = (
            f"{step:{len(str(self.steps))}d}/{self.steps}  loss {loss:.4f}  {speed} samples/s  MFU {use}  {left} left"
        )
        columns = _columns(self.stream) if self.live else NO_TERMINAL
        bar = max(min(BAR, columns - len(text) - 2), 0)
        filled = bar * step // self.steps
        return f"{'#' * filled}{'.' * (bar - filled)} {text}".strip()[: columns - 1]

    def show(self, step: int, loss: float, samples_per_s: float | None, mfu: float | None) -> None:
        """Print the line."""
        if not self.shown:
            return
        line = self.text(step, loss, samples_per_s, mfu)
        # the cursor stays behind the line, where a terminal echoes ^C
        self.stream.write(f"{CLEAR}{line}" if self.live else f"{line}\n")
        self.stream.flush()
        self.open = self.live
        self.first = self.first or (step, time.monotonic())

    def close(self) -> None:
        """End the line, so that it stays on the terminal."""
        if self.open:
            self.stream.write("\n")
            self.stream.flush()
            self.open = False


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80
