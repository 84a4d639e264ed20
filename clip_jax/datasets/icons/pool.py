"""A process pool for rendering untrusted drawings, any of which may hang or kill its process."""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Generic, TypeVar

from clip_jax.errors import UserError

LIMIT_S = 10.0  # per drawing; most take two milliseconds
START_S = 120.0  # for a process to import its libraries
MAX_GROWTH = 1 << 30  # bytes by which a drawing may grow its process
MAX_TASKS_AHEAD = 2  # tasks per process that may wait for an earlier one

T = TypeVar("T")
R = TypeVar("R")
Task = tuple[Callable[[T], R], Sequence[T]]


def _serve(connection: Connection) -> None:
    """Answer each item of each task, until the parent closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # handled by the parent
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limited = False
    with contextlib.suppress(EOFError, BrokenPipeError):
        connection.send(None)
        while True:
            draw, items = connection.recv()
            for item in items:
                connection.send(draw(item))
                if not limited:  # the libraries are loaded after the first drawing
                    _limit_memory()
                    limited = True


def _limit_memory() -> None:
    """Limit the growth of this process to `MAX_GROWTH` bytes, where the system reports its size."""
    with contextlib.suppress(OSError, ValueError):
        most = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MAX_GROWTH
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


class _Worker(Generic[T, R]):
    """One process, its current task, and the answers so far."""

    def __init__(self) -> None:
        self._start()
        self.task: int | None = None
        self.draw: Callable[[T], R]
        self.items: Sequence[T] = ()
        self.answers: list[R | str] = []

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, remote = context.Pipe()
        self.process = context.Process(target=_serve, args=(remote,), daemon=True)
        self.process.start()
        remote.close()
        self.ready = False
        self.deadline = time.monotonic() + START_S

    def assign(self, number: int, task: Task[T, R]) -> None:
        self.task, (self.draw, self.items), self.answers = number, task, []
        self._send_rest()

    def _send_rest(self) -> None:
        """Send the items that are not answered yet, once the process is ready."""
        if self.ready and self.task is not None:
            self.connection.send((self.draw, self.items[len(self.answers) :]))
            self.deadline = time.monotonic() + LIMIT_S

    def receive(self) -> None:
        """Receive one answer. Raises EOFError when the process has ended."""
        answer = self.connection.recv()
        if not self.ready:
            self.ready = True
            self._send_rest()
            return
        self.answers.append(answer)
        self.deadline = time.monotonic() + LIMIT_S

    def skip(self, reason: str) -> None:
        """Answer the current item, which takes too long, with ``reason``; go on with the next in a new process."""
        self.end()
        self.answers.append(reason)
        self._start()

    @property
    def item(self) -> T | None:
        """The item being processed."""
        return self.items[len(self.answers)] if len(self.answers) < len(self.items) else None

    def end(self) -> int | None:
        """Kill the process; return the exit code if it had exited before."""
        self.process.join(0.5 if not self.process.is_alive() else 0)
        code = self.process.exitcode
        self.process.kill()
        self.process.join()
        self.connection.close()
        return code


class Pool(Generic[T, R]):
    """A pool of ``workers`` processes, started with the first task. Close it when done."""

    def __init__(self, workers: int) -> None:
        self.count = workers
        self.workers: list[_Worker[T, R]] = []

    def imap(self, tasks: Iterable[Task[T, R]], slow: str = "slow") -> Iterator[list[R | str]]:
        """Yield the answers to each task, in order.

        Args:
          tasks: pairs of a function, which is pickled, and the items that it is called with.
          slow: the answer to an item that takes longer than `LIMIT_S`.

        Raises:
          UserError: a process exited (a crash, out of memory), or did not start.
        """
        self.workers = self.workers or [_Worker() for _ in range(self.count)]
        waiting = enumerate(tasks)
        done: dict[int, list[R | str]] = {}
        order: deque[int] = deque()
        more = True
        while True:
            for worker in self.workers:
                if more and worker.task is None and len(order) < self.count * MAX_TASKS_AHEAD:
                    number, task = next(waiting, (0, None))
                    more = task is not None
                    if task is not None:
                        order.append(number)
                        if task[1]:
                            worker.assign(number, task)
                        else:
                            done[number] = []
            while order and order[0] in done:
                yield done.pop(order.popleft())
            if not order and not more:
                return
            if any(w.task is not None for w in self.workers):
                self._collect(done, slow)

    def _collect(self, done: dict[int, list[R | str]], slow: str) -> None:
        busy = [w for w in self.workers if w.task is not None]
        left = min(w.deadline for w in busy) - time.monotonic()
        heard = wait([w.connection for w in busy], timeout=max(left, 0.0))
        for worker in busy:
            try:
                if worker.connection in heard:
                    worker.receive()
                elif time.monotonic() > worker.deadline:
                    if not worker.ready:
                        raise UserError(reason=f"a rendering process did not start within {START_S:.0f} s")
                    worker.skip(slow)
            except (EOFError, ConnectionError):
                code = worker.end()
                how = f"signal {-code}" if code and code < 0 else f"exit code {code}"
                name = getattr(worker.item, "name", "")
                reason = f"the process that rendered it exited ({how})"
                hint = "exclude its set (--sets), or give the process more memory"
                raise UserError(field=name or "workers", reason=reason, hint=hint) from None
            if len(worker.answers) == len(worker.items):
                assert worker.task is not None
                done[worker.task], worker.task = worker.answers, None

    def close(self) -> None:
        """Kill the processes."""
        for worker in self.workers:
            worker.end()
        self.workers = []
