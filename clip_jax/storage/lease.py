"""Leases, which stand in for file locks in a bucket: at most one training process or sweep driver per directory."""

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

from clip_jax.errors import parse_json
from clip_jax.storage import paths
from clip_jax.storage.lock import HEARTBEAT_TIMEOUT_S, STALE_AFTER_S, Busy, RunLock, machine_id, process_start_time
from clip_jax.storage.record_fields import check_fields
from clip_jax.storage.records import Owner

LEASE_FOLDER = ".lease"
HEARTBEAT_S = 10.0  # seconds between heartbeats
POLL_S = 5.0  # seconds between checks for another holder's heartbeat


class Lease:
    """A lease: numbered objects ``DIR/.lease/000001.json``, of which the highest number is valid.

    To take over the directory, a process creates the next number; of several that try, one succeeds. The holder writes
    a heartbeat into its object every 10 seconds, and in the end that it released the lease. A lease is stale at once
    if the holder's process on this machine has exited; otherwise after 10 minutes without a heartbeat, or after 60 s
    without one while we are polling. A holder that was merely slow sees the higher lease number in `check` and stops
    writing. A write can still slip through between `check` and the write itself.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self.dir, self.folder = run_dir, run_dir / LEASE_FOLDER
        self.sleep, self.clock, self.heartbeat_s = sleep, clock, heartbeat_s
        self.number = 0
        self._owner_info = {
            "token": uuid.uuid4().hex, "pid": os.getpid(), "host": socket.gethostname(),
            "machine": machine_id(), "began": process_start_time(os.getpid()),
        }  # fmt: skip
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Take the lease and start the heartbeat; raise Busy, naming the owner, if another process holds it."""
        number, holder = self._newest()
        if holder is not None and not self._is_stale(number, holder):
            raise self._busy(holder)
        if not paths.create_if_absent(self._path(number + 1), self._text()):
            raise self._busy(self.owner())
        self.number = number + 1
        for name in self._names()[:-1]:
            with contextlib.suppress(OSError):
                paths.remove(self.folder / name)
        self._thread = threading.Thread(target=self._heartbeat, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Check that this process still holds the lease; raise Busy if another has taken over."""
        if self.number and self._newest_number() > self.number:
            owner = self.owner()
            raise Busy(
                field=self.dir, reason=f"process {owner.get('pid')} on {owner.get('host')} has taken over from this one"
            )

    def owner(self) -> Owner:
        """Return what the newest lease records of its owner, ``pid`` and ``host`` among it; empty without a lease."""
        return self._newest()[1] or {}

    def is_held(self) -> bool:
        """Return whether any process holds the lease, without waiting for a heartbeat."""
        _, holder = self._newest()
        if holder is None or holder.get("released"):
            return False
        if (alive := _holder_alive(holder)) is not None:
            return alive
        return self.clock() - float(holder["heartbeat"]) < HEARTBEAT_TIMEOUT_S

    def close(self) -> None:
        """Release the lease and stop the heartbeat."""
        if self._thread is None:
            return
        self._end.set()
        self._thread.join()
        self._thread = None
        with contextlib.suppress(OSError, ValueError):  # others will see that the heartbeat stopped
            paths.write_text(self._path(self.number), self._text(released=True))
        self.number = 0

    def _heartbeat(self) -> None:
        while not self._end.wait(self.heartbeat_s):
            with contextlib.suppress(OSError, ValueError):  # the next heartbeat may succeed
                if self._newest_number() > self.number:
                    return
                paths.write_text(self._path(self.number), self._text())

    def _text(self, **more: object) -> str:
        return json.dumps(self._owner_info | {"heartbeat": self.clock()} | more)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.json"

    def _names(self) -> list[str]:
        return [name for name in paths.list_names(self.folder) if name.removesuffix(".json").isdecimal()]

    def _newest_number(self) -> int:
        return max((int(name.removesuffix(".json")) for name in self._names()), default=0)

    def _newest(self) -> tuple[int, Owner | None]:
        number = self._newest_number()
        try:
            if not number:
                return number, None
            path = self._path(number)
            check_fields("lease.json", lease := parse_json(paths.read_text(path), path), path)
            return number, lease
        except FileNotFoundError:  # superseded between the listing and the read
            return self._newest()

    def _is_stale(self, number: int, holder: Owner) -> bool:
        if holder.get("released"):
            return True
        if (alive := _holder_alive(holder)) is not None:
            return not alive
        if self.clock() - float(holder["heartbeat"]) > STALE_AFTER_S:
            return True
        for _ in range(int(HEARTBEAT_TIMEOUT_S / POLL_S)):
            self.sleep(POLL_S)
            newest_number, newest = self._newest()
            if newest is None or newest.get("released"):
                return newest_number == number
            if (newest_number, newest["heartbeat"]) != (number, holder["heartbeat"]):
                return False
        return True

    def _busy(self, owner: Owner) -> Busy:
        who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')}"
        return Busy(field=self.dir, reason=f"is being trained by {who}", hint="wait for it or stop it")


def open_lock(run_dir: Path) -> RunLock | Lease:
    """Return the lock for a directory: a lease in a bucket, an ``flock`` elsewhere. It is not acquired yet."""
    return Lease(run_dir) if paths.is_remote(run_dir) else RunLock(run_dir)


def _holder_alive(holder: Owner) -> bool | None:
    """Return whether the holder's process runs on this machine; None if it runs, or may run, on another one."""
    if holder.get("machine") is None or holder["machine"] != machine_id():
        return None
    return holder["began"] is not None and process_start_time(int(holder["pid"])) == holder["began"]
