"""Stop requests by signals and preemption, agreed on by all processes."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

import jax

from clip_jax.interrupts import Handler, handled, was_asked


class StopRequest:
    """Request to stop with a checkpoint after the current step, with its reason."""

    def __init__(self) -> None:
        self.reason: str | None = "signal SIGINT" if was_asked() else None
        self._calls = 0

    def on_signal(self, number: int, frame: FrameType | None = None) -> None:
        """Handle a signal; a second SIGINT raises KeyboardInterrupt immediately."""
        if self.reason and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.reason = f"signal {signal.Signals(number).name}"

    def should_stop(self) -> bool:
        """Return whether to stop; every process calls it once per step, and all get the same answer."""
        if jax.process_count() > 1 and self.reason is None:
            from jax.experimental import multihost_utils

            self._calls += 1  # not the step, which a rollback repeats: JAX compares for equality
            if multihost_utils.reached_preemption_sync_point(self._calls):
                self.reason = "preempted"
        return self.reason is not None


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Yield a StopRequest that handles SIGTERM and SIGINT; the current step is finished first.

    With several processes SIGTERM belongs to JAX (any process that gets it tells the others), and SIGINT is forwarded
    as SIGTERM.
    """
    request = StopRequest()
    handlers: dict[signal.Signals, Handler] = {signal.SIGTERM: request.on_signal, signal.SIGINT: request.on_signal}
    if jax.process_count() > 1:
        handlers = {signal.SIGINT: lambda number, frame: os.kill(os.getpid(), signal.SIGTERM)}
    with handled(handlers):
        yield request
