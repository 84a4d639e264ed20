"""At most one training process, or driver, a directory of a bucket: a lease, for there are no locks."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clip_jax.errors import parse_json
from clip_jax.storage import paths
from clip_jax.storage.lock import HEARTBEAT_TIMEOUT_S, STALE_AFTER_S, Busy, RunLock, machine_id, process_start_time
from clip_jax.storage.record_fields import check_fields

FOLDER = ".lease"
HEARTBEAT_S = 10.0  # between two signs of life
POLL_S = 5.0  # between two looks for one


class Lease:
    """Numbered objects ``DIR/.lease/000001.json``, of which the highest counts.

    To take the directory over is to make the next number, which one of several can. The holder writes a time into its
    object every ten seconds and in the end that it let go. It counts as gone at once when its process was one of this
    machine and is no more; else when nothing was heard of it for ten minutes, or for one while we watched. A holder
    that was only held up finds the higher number (`check`) and touches nothing more: between this look and the write
    that follows lies the one moment in which it still could.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self.dir, self.folder = run_dir, run_dir / FOLDER
        self.sleep, self.clock, self.heartbeat_s = sleep, clock, heartbeat_s
        self.number = 0
        self._said = {
            "token": uuid.uuid4().hex, "pid": os.getpid(), "host": socket.gethostname(),
            "machine": machine_id(), "began": process_start_time(os.getpid()),
        }  # fmt: skip
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Raises Busy, naming the owner, when another process holds it."""
        number, there = self._newest()
        if there is not None and not self._is_gone(number, there):
            raise self._busy(there)
        if not paths.create_if_absent(self._path(number + 1), self._text()):
            raise self._busy(self.owner())
        self.number = number + 1
        for name in self._names()[:-1]:
            with contextlib.suppress(OSError):
                paths.remove(self.folder / name)
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises Busy when another has taken over."""
        if self.number and self._newest_number() > self.number:
            owner = self.owner()
            raise Busy(f"{self.dir}: process {owner.get('pid')} on {owner.get('host')} has taken over from this one")

    def owner(self) -> dict[str, Any]:
        """What the owner said of itself: ``pid`` and ``host``."""
        return self._newest()[1] or {}

    def is_held(self) -> bool:
        """Whether somebody does, without waiting for a sign of life."""
        _, there = self._newest()
        if there is None or there.get("released"):
            return False
        if (alive := _holder_alive(there)) is not None:
            return alive
        return self.clock() - float(there["heartbeat"]) < HEARTBEAT_TIMEOUT_S

    def close(self) -> None:
        """Let go."""
        if self._thread is None:
            return
        self._end.set()
        self._thread.join()
        self._thread = None
        with contextlib.suppress(OSError, ValueError):  # it will be found silent
            paths.write_text(self._path(self.number), self._text(released=True))
        self.number = 0

    def _beat(self) -> None:
        while not self._end.wait(self.heartbeat_s):
            with contextlib.suppress(OSError, ValueError):  # the next one may pass
                if self._newest_number() > self.number:
                    return
                paths.write_text(self._path(self.number), self._text())

    def _text(self, **more: Any) -> str:
        return json.dumps(self._said | {"heartbeat": self.clock()} | more)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.json"

    def _names(self) -> list[str]:
        return [name for name in paths.list_names(self.folder) if name.removesuffix(".json").isdecimal()]

    def _newest_number(self) -> int:
        return max((int(name.removesuffix(".json")) for name in self._names()), default=0)

    def _newest(self) -> tuple[int, dict[str, Any] | None]:
        number = self._newest_number()
        try:
            if not number:
                return number, None
            path = self._path(number)
            check_fields("lease.json", found := parse_json(paths.read_text(path), path), path)
            return number, found
        except FileNotFoundError:  # superseded in this moment
            return self._newest()

    def _is_gone(self, number: int, there: dict[str, Any]) -> bool:
        if there.get("released"):
            return True
        if (alive := _holder_alive(there)) is not None:
            return not alive
        if self.clock() - float(there["heartbeat"]) > STALE_AFTER_S:
            return True
        for _ in range(int(HEARTBEAT_TIMEOUT_S / POLL_S)):
            self.sleep(POLL_S)
            now_number, now = self._newest()
            if now is None or now.get("released"):
                return now_number == number
            if (now_number, now["heartbeat"]) != (number, there["heartbeat"]):
                return False
        return True

    def _busy(self, owner: dict[str, Any]) -> Busy:
        who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')}"
        return Busy(f"{self.dir}: is being trained by {who}; wait for it or stop it")


def open_lock(run_dir: Path) -> RunLock | Lease:
    """What keeps others out of a directory, of the kind that its place allows."""
    return Lease(run_dir) if paths.is_remote(run_dir) else RunLock(run_dir)


def _holder_alive(there: dict[str, Any]) -> bool | None:
    """Whether the holder's process is here; None when it is, or may be, of another machine."""
    if there.get("machine") is None or there["machine"] != machine_id():
        return None
    return there["began"] is not None and process_start_time(int(there["pid"])) == there["began"]
