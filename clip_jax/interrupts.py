"""Ctrl-C from the command's first moment on.

Python raises KeyboardInterrupt wherever it happens to be. While modules are loaded, that is lost or becomes another:
extension modules replace it by an ImportError, and callbacks from C print it and go on. So a command answers the signal
itself: at once while something is being imported, when nothing has begun yet; by KeyboardInterrupt elsewhere, and it
remembers that it was asked, for `was_asked` to find where the exception was lost all the same.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

from clip_jax.exit_codes import INTERRUPTED

LINE = "clip-jax: interrupted; the same command goes on from here"
_asked = False


def listen() -> None:
    """Answer SIGINT so, unless it is ignored or answered otherwise; to be called before anything else is imported."""
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _answer)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # what `hold` kept is answered now


def hold() -> None:
    """Keep SIGINT waiting until `listen`, across ``exec``: a new interpreter's own start knows no answer."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def was_asked() -> bool:
    """Whether SIGINT came since `listen`."""
    return _asked


def _answer(number: int, frame: FrameType | None) -> None:
    global _asked
    _asked = True
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, f"{LINE}\n".encode())
            os._exit(INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt
