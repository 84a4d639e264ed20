"""A store behind a URL that counts what is read of it, and fails or does not answer when told to."""

import threading

from fsspec.implementations.memory import MemoryFileSystem


class SlowStore(MemoryFileSystem):
    """``slow://``: fsspec's memory with a log of the ranges asked for, and errors and hung calls on demand."""

    protocol = "slow"

    asked: list[tuple[str, int, int]] = []  # noqa: RUF012  (of the class: fsspec makes an instance for every thread)
    failures, error = 0, ConnectionError("reset by peer\nand more")
    hung, hanging, end = 0, threading.Event(), threading.Event()

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("slow://").strip("/")

    def fail(self, times, error=ConnectionError("reset by peer\nand more")):  # noqa: B008
        SlowStore.failures, SlowStore.error = times, error

    def hang(self, times):
        SlowStore.hung = times

    def _fail(self):
        if self.hung:
            SlowStore.hung -= 1
            self.hanging.set()
            self.end.wait()  # until the test is over
        if self.failures:
            SlowStore.failures -= 1
            raise self.error

    def cat_file(self, path, start=None, end=None, **kwargs):
        self.asked.append((self._strip_protocol(path), start, end))
        self._fail()
        return super().cat_file(path, start, end, **kwargs)

    def info(self, path, **kwargs):
        self._fail()
        return super().info(path, **kwargs)
