"""A profiler trace of a few steps, for TensorBoard, XProf or Perfetto."""

from __future__ import annotations

import logging
from pathlib import Path

import jax

from clip_jax.errors import ConfigError
from clip_jax.types import PyTree

logger = logging.getLogger(__name__)

WARM_UP = 10  # steps before a trace that is given by its length only


def parse_window(text: str, steps: int) -> tuple[int, int]:
    """Parse ``"10:13"`` (steps 11 to 13) or ``"3"`` (three steps after ten of warm-up) as (10, 13).

    Raises:
      ConfigError: the text is neither, or the run of ``steps`` steps does not contain these steps.
    """
    start, colon, stop = text.partition(":")
    try:
        window = (int(start), int(stop)) if colon else (WARM_UP, WARM_UP + int(start))
    except ValueError:
        raise ConfigError(field="--profile", value=text, reason="must be a number of steps, or FIRST:LAST") from None
    if not 0 <= window[0] < window[1] <= steps:
        reason = f"steps {window[0]}:{window[1]} must lie within the run's {steps} steps"
        raise ConfigError(field="--profile", value=text, reason=reason)
    return window


class Profiler:
    """Tracer of the steps of ``window`` into ``folder``, on process 0; without a window it does nothing.

    Only the end of the window waits for the device. A run that resumes after the window traces nothing.
    """

    def __init__(self, folder: Path, window: tuple[int, int] | None) -> None:
        self.folder, self.window = folder, window if jax.process_index() == 0 else None
        self.running = False

    def begin_step(self, step: int) -> None:
        """Start the trace if the window begins with the update after ``step``."""
        if self.window is not None and step == self.window[0]:
            jax.profiler.start_trace(str(self.folder))
            self.running = True

    def end_step(self, step: int, metrics: PyTree) -> None:
        """Stop the trace if the window ends at ``step`` updates done."""
        if self.running and self.window is not None and step == self.window[1]:
            jax.block_until_ready(metrics)
            self.close()

    def close(self) -> None:
        """Write the trace collected so far."""
        if self.running:
            self.running = False
            jax.profiler.stop_trace()
            logger.info("trace in %s", self.folder)
