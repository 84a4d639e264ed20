"""SIGINT (Ctrl-C) handling from process start.

Python raises KeyboardInterrupt at whatever point the program is. During imports the exception gets lost: extension
modules replace it by ImportError, and callbacks from C print it and continue. So commands install a handler of their
own. During an import, when no work has begun yet, it exits at once. Elsewhere it raises KeyboardInterrupt and records
the request, so that `was_asked` still reports it where the exception was swallowed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType

from clip_jax.exit_codes import INTERRUPTED

Handler = Callable[[int, FrameType | None], object]
LINE = "clip-jax: interrupted; the same command goes on from here"
_asked = False


def listen() -> None:
    """Install the SIGINT handler, unless SIGINT is ignored or has another handler. Call it before other imports."""
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _answer)


def was_asked() -> bool:
    """Return whether SIGINT arrived since `listen`."""
    return _asked


@contextlib.contextmanager
def handled(handlers: Mapping[signal.Signals, Handler]) -> Iterator[None]:
    """Install signal handlers for the duration of a context; do nothing in a thread, where Python allows none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _answer(number: int, frame: FrameType | None) -> None:
    global _asked
    _asked = True
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, f"{LINE}\n".encode())
            os._exit(INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt
