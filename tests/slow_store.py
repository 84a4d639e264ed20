"""A store behind a URL that counts what is read of it and fails when told to."""

from fsspec.implementations.memory import MemoryFileSystem


class SlowStore(MemoryFileSystem):
    """``slow://``: fsspec's memory with a log of the ranges asked for, and errors on demand."""

    protocol = "slow"

    asked: list[tuple[str, int, int]] = []  # noqa: RUF012  (of the class: fsspec makes an instance for every thread)
    failures, error = 0, ConnectionError("reset by peer\nand more")

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("slow://").strip("/")

    def fail(self, times, error=ConnectionError("reset by peer\nand more")):  # noqa: B008
        SlowStore.failures, SlowStore.error = times, error

    def _fail(self):
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
