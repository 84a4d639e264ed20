"""Appending to the ``*.jsonl`` files of a run directory, on file systems and in buckets, where objects cannot grow."""

from __future__ import annotations

import os
import time
from pathlib import Path

from clip_jax.storage.paths import disk_errors, is_remote, read_text, write_text

REWRITE_S = 30.0  # seconds between rewrites of an object in a bucket


class JsonlWriter:
    """Appender for the ``.jsonl`` files of one directory; one process writes at a time.

    On a file system a line is in the file when `add` returns. For a bucket, lines are buffered in memory and `flush`
    rewrites each object whole. Call it before each checkpoint: a kill then loses only lines of steps that will be
    trained again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.remote = folder, is_remote(folder)
        self.last = time.monotonic()
        self._kept: dict[str, str] = {}
        self._behind: set[str] = set()

    def add(self, name: str, text: str, *, sync: bool = False) -> None:
        """Append lines to the file ``name``; with ``sync`` they are on disk when this returns."""
        if self.remote:
            self._kept[name] = self.text(name) + text
            self._behind.add(name)
            return
        with disk_errors(self.folder / name), (self.folder / name).open("a") as file:
            file.write(text)
            if sync:
                file.flush()
                os.fsync(file.fileno())

    def replace(self, name: str, text: str) -> None:
        """Replace the whole file atomically."""
        if self.remote:
            self._kept[name] = text
            self._behind.discard(name)
        write_text(self.folder / name, text)

    def text(self, name: str) -> str:
        """Return the file's text, buffered lines included; empty if there is no such file."""
        if name in self._kept:
            return self._kept[name]
        try:
            return read_text(self.folder / name)
        except FileNotFoundError:
            return ""

    @property
    def due(self) -> bool:
        """True if there are buffered lines and the last rewrite was more than `REWRITE_S` ago."""
        return bool(self._behind) and time.monotonic() - self.last >= REWRITE_S

    def flush(self) -> None:
        """Write all buffered lines."""
        for name in sorted(self._behind):
            write_text(self.folder / name, self._kept[name])
            self._behind.discard(name)
        self.last = time.monotonic()
