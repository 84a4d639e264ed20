"""A store behind a URL that counts what is read of it and fails when told to."""

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from clip_jax.storage import range_reads as remote


class SlowStore(MemoryFileSystem):
    """``slow://``: fsspec's memory with a log of the ranges asked for, and errors on demand."""

    protocol = "slow"

    asked: list[tuple[str, int, int]] = []  # noqa: RUF012  (of the class: fsspec makes an instance for every thread)
    failures = 0

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("slow://").strip("/")

    def fail(self, times):
        SlowStore.failures = times

    def _fail(self):
        if self.failures:
            SlowStore.failures -= 1
            raise ConnectionError("reset by peer\nand more")

    def cat_file(self, path, start=None, end=None, **kwargs):
        self.asked.append((self._strip_protocol(path), start, end))
        self._fail()
        return super().cat_file(path, start, end, **kwargs)

    def info(self, path, **kwargs):
        self._fail()
        return super().info(path, **kwargs)


@pytest.fixture
def store(monkeypatch):
    """An empty `SlowStore`; ``asked`` lists (path, start, end), `fail` sets how many calls will fail."""
    fsspec.register_implementation("slow", SlowStore, clobber=True)
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(SlowStore, "store", {})
    monkeypatch.setattr(SlowStore, "asked", [])
    monkeypatch.setattr(SlowStore, "failures", 0)
    return fsspec.filesystem("slow")
