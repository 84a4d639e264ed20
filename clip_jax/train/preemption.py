"""Being asked to stop: signals on one process, an agreement between all on several."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax

from clip_jax.interrupts import was_asked


class StopRequest:
    """Whether, and why, the run should stop after the present step with a checkpoint."""

    def __init__(self) -> None:
        self.reason: str | None = "signal SIGINT" if was_asked() else None
        self._calls = 0

    def heard(self, number: int, frame: Any = None) -> None:
        """A signal handler. A second SIGINT is answered at once."""
        if self.reason and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.reason = f"signal {signal.Signals(number).name}"

    def now(self) -> bool:
        """To be asked once a step by every process; all get the same answer at the same step."""
        if jax.process_count() > 1 and self.reason is None:
            from jax.experimental import multihost_utils

            self._calls += 1  # not the step: a rollback would repeat steps, and JAX compares for equality
            if multihost_utils.reached_preemption_sync_point(self._calls):
                self.reason = "preempted"
        return self.reason is not None


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """A StopRequest that listens to SIGTERM and SIGINT; the step under way is finished first.

    With several processes SIGTERM is JAX's (any process that gets it tells the others), and SIGINT is passed on as one.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    handlers: dict[signal.Signals, Any] = {signal.SIGTERM: request.heard, signal.SIGINT: request.heard}
    if jax.process_count() > 1:
        handlers = {signal.SIGINT: lambda number, frame: os.kill(os.getpid(), signal.SIGTERM)}
    before = {s: signal.signal(s, handler) for s, handler in handlers.items()}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
