"""What library code logs, as a command shows it: one line on stderr each."""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
from collections.abc import Iterator

LOGGER = logging.getLogger("clip_jax")


class _Terminal(logging.Handler):
    """Handler that writes to what ``sys.stderr`` is at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        clear = "\r\x1b[K" if sys.stderr.isatty() else ""  # of the progress line
        print(f"{clear}clip-jax: {record.getMessage()}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def terminal_log() -> Iterator[None]:
    """Show the package's log on stderr, and there alone; a command within a command changes nothing."""
    if any(isinstance(handler, _Terminal) for handler in LOGGER.handlers):
        yield
        return
    handler, before = _Terminal(), (LOGGER.level, LOGGER.propagate)
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(before[0])
        LOGGER.propagate = before[1]


def terminal_columns() -> int | None:
    """Return the width of the terminal that stdout is; None where it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
