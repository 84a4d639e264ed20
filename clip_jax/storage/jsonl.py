"""The ``*.jsonl`` of a run directory: they grow by lines, also where a file cannot."""

from __future__ import annotations

import os
import time
from pathlib import Path

from clip_jax.storage.paths import disk_errors, is_remote, read_text, write_text

REWRITE_S = 30.0  # between two writings of a file that is written whole


class JsonlWriter:
    """One writer's. On a file system a line is there when it was added.

    In a bucket lines are kept here and each file is written whole by `flush`, which is to be called before a checkpoint
    is begun: a kill then loses lines of later steps only, and those steps are trained again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.remote = folder, is_remote(folder)
        self.last = time.monotonic()
        self._kept: dict[str, str] = {}
        self._behind: set[str] = set()

    def add(self, name: str, text: str, *, sync: bool = False) -> None:
        """Lines at the end of a file; with ``sync`` they are on disk when this returns."""
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
        """The whole file, at once."""
        if self.remote:
            self._kept[name] = text
            self._behind.discard(name)
        write_text(self.folder / name, text)

    def text(self, name: str) -> str:
        """All of it, what was not written yet included; empty where there is no such file."""
        if name in self._kept:
            return self._kept[name]
        try:
            return read_text(self.folder / name)
        except FileNotFoundError:
            return ""

    @property
    def due(self) -> bool:
        """Whether `flush` should be called."""
        return bool(self._behind) and time.monotonic() - self.last >= REWRITE_S

    def flush(self) -> None:
        """Write what is behind."""
        for name in sorted(self._behind):
            write_text(self.folder / name, self._kept[name])
            self._behind.discard(name)
        self.last = time.monotonic()
