"""A process that trains the jobs of one slot one after another; most of a small run's time is the start of a process.

A job is a command line of ``clip-jax``. It comes over a socket with the descriptors of its log and of the locks that it
holds while it runs, and its exit code goes back. `clip_jax.cli.slot` is the other end.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from clip_jax.storage.lock import INHERITED

PROGRAM = (sys.executable, "-m", "clip_jax.cli.slot")
_LENGTH = 8  # hexadecimal digits before the text of a job
_MOST_DESCRIPTORS = 250  # the kernel passes up to 253 in one message


@dataclass(frozen=True)
class Order:
    """A job as the slot's process receives it: arguments of ``clip-jax``, variables, descriptors."""

    arguments: list[str]
    environment: dict[str, str]
    log: int
    locks: list[int]


class SlotProcess:
    """The process of one slot, as its driver sees it. It holds the slot's lock until it ends.

    It ends by itself after a job that failed or was stopped, when it has grown too large, and when its driver has gone.

    Args:
      environment: variables of all of its jobs.
      slot_lock: descriptor of the slot's lock.
      log: where it writes until its first job.
    """

    def __init__(self, environment: Mapping[str, str], slot_lock: int, log: IO[bytes]) -> None:
        self._socket, far_end = socket.socketpair()
        with far_end:
            self.process = subprocess.Popen(
                (*PROGRAM, str(far_end.fileno())),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={k: v for k, v in (os.environ | environment).items() if k != INHERITED},
                pass_fds=(far_end.fileno(), slot_lock),
                start_new_session=True,
            )

    def give(self, arguments: Sequence[str], environment: Mapping[str, str], log: int, locks: Sequence[int]) -> None:
        """Hand over a job; ``log`` and ``locks`` are descriptors, which the process gets copies of.

        Raises:
          OSError: the process has ended.
        """
        text = json.dumps({"arguments": list(arguments), "environment": dict(environment)}).encode()
        socket.send_fds(self._socket, [f"{len(text):0{_LENGTH}x}".encode()], [log, *locks])
        self._socket.sendall(text)

    def poll(self) -> int | None:
        """Return the exit code of the last job, or that of the process if it died in it; None while it runs."""
        if not select.select([self._socket], [], [], 0)[0]:
            return None
        try:
            code = self._socket.recv(_LENGTH)
        except ConnectionResetError:  # it died before it read the job
            code = b""
        if code and not int(code):
            return 0
        self.close()
        return int(code or self.process.returncode)

    def finish(self) -> None:
        """Wait until the process has ended after its job, whose exit code can still be polled."""
        with contextlib.suppress(OSError):  # it has ended
            self._socket.shutdown(socket.SHUT_WR)
        self.process.wait()

    def close(self) -> None:
        """Wait for the end of a process that has no job."""
        self._socket.close()
        self.process.wait()


def receive(connection: socket.socket) -> Order | None:
    """Wait for a job; return None when the driver has closed the connection or has gone."""
    head, descriptors, *_ = socket.recv_fds(connection, _LENGTH, _MOST_DESCRIPTORS)
    if not head:
        return None
    length, text = int(head, 16), b""
    while len(text) < length:
        if not (part := connection.recv(length - len(text))):
            return None
        text += part
    log, *locks = descriptors
    return Order(**json.loads(text), log=log, locks=locks)


def answer(connection: socket.socket, code: int) -> None:
    """Send the exit code of a job."""
    connection.sendall(f"{code:{_LENGTH}d}".encode())
