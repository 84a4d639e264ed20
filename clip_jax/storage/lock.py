"""At most one training process a run directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from clip_jax.errors import UserError, parse_json, short

FILE = ".lock"
INHERITED = "CLIP_JAX_LOCK_FDS"  # a launcher that holds locks hands them to its child under this name, with commas
HEARTBEAT_TIMEOUT_S = 60.0  # a run of another host that says nothing for so long is dead
STALE_AFTER_S = 600.0  # and one whose last word is so old needs no watching
_UNSUPPORTED = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL)


class Busy(UserError):
    """Another process trains in this directory."""


class RunLock:
    """An ``flock`` on ``RUN_DIR/.lock``: it goes with its owner, however that ends, SIGKILL included.

    The file names the owner, for the message. A file system without such locks is passed over: `wait_until_silent` is
    then all there is.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / FILE
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Raises Busy, naming the owner, when another process holds it."""
        file = self._inherited() or self.path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = self.owner()
            file.close()
            raise Busy(
                f"{self.path.parent}: is being trained by process {owner.get('pid', '?')} on {owner.get('host', '?')}; "
                f"wait for it or stop it"
            ) from None
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
        self._file = file
        self.write_owner(os.getpid())

    def _inherited(self) -> IO[str] | None:
        for number in filter(None, os.environ.get(INHERITED, "").split(",")):
            with contextlib.suppress(OSError):  # a descriptor of that number may be another process's, or none
                if os.path.samestat(os.fstat(int(number)), self.path.stat()):
                    left = [n for n in os.environ.pop(INHERITED).split(",") if n != number]
                    os.environ |= {INHERITED: ",".join(left)} if left else {}
                    os.set_inheritable(int(number), False)
                    return os.fdopen(int(number), "a+")
        return None

    def write_owner(self, pid: int) -> None:
        """Say who holds it."""
        assert self._file is not None
        self._file.truncate(0)
        about = {"pid": pid, "host": socket.gethostname(), "machine": machine_id(), "began": process_start_time(pid)}
        self._file.write(json.dumps(about) + "\n")
        self._file.flush()

    def owner(self) -> dict[str, Any]:
        """What the owner said of itself: ``pid``, ``host``, ``machine`` and when its process ``began``."""
        try:
            return dict(parse_json(self.path.read_bytes(), self.path))
        except (OSError, ValueError, TypeError):
            return {}

    def fileno(self) -> int:
        """The descriptor to hand to a child."""
        assert self._file is not None
        return self._file.fileno()

    def check(self) -> None:
        """Nothing to check: nobody takes a lock away. (`lease.Lease`)"""

    def close(self) -> None:
        """Let go. A child that inherited the lock keeps it."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None


def request_stop(run_dir: Path) -> None:
    """Send SIGTERM to the process that holds the lock, if it is the one that signed it.

    A lock may reach across hosts (NFS, Lustre, GPFS), and process numbers are used again: only a process of this
    machine that began when the lock says is signalled.

    Raises UserError naming the host and process where that is not so, or the lock does not tell.
    """
    owner = RunLock(run_dir).owner()
    pid, host, began = owner.get("pid"), owner.get("host"), owner.get("began")
    if not isinstance(pid, int) or isinstance(pid, bool) or not 1 < pid < 2**31:
        raise UserError(f"{run_dir}: is being trained, and its {FILE} does not say by which process; stop it by hand")
    who = f"{run_dir}: is being trained by process {pid} on {short(host)}"
    if host != socket.gethostname() or owner.get("machine", machine_id()) != machine_id():
        raise UserError(field=str(run_dir), value=host, reason=who.partition(": ")[2], hint="cancel it there")
    if "began" not in owner:
        raise UserError(f"{who}, as an older version noted; stop that process by hand")
    try:
        handle = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    except OSError:
        return  # it has ended
    try:
        if process_start_time(pid) != began:
            raise UserError(f"{who}, but process {pid} here began at another time, so it is another one")
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if handle is None:
                os.kill(pid, signal.SIGTERM)
            else:
                signal.pidfd_send_signal(handle, signal.SIGTERM)
    finally:
        if handle is not None:
            os.close(handle)


@functools.cache
def machine_id() -> str | None:
    """Names what process ids are of: a boot of a machine, and a container in it. None where that is not known."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def process_start_time(pid: int) -> str | None:
    """When a process of this machine began, in its clock; None when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def is_held(run_dir: Path) -> bool:
    """Whether a process of this machine trains there, as far as locks tell."""
    try:
        with (run_dir / FILE).open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def wait_until_silent(
    run_dir: Path,
    read_status: Callable[[], dict[str, Any]],
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.time,
) -> None:
    """Where locks do not reach across hosts: watch a run that another host says it trains.

    Returns at once unless ``status.json`` says "running" on another host, lately. Then it looks for up to a minute
    whether the heartbeat goes on. Raises Busy when it does.
    """
    seen = read_status()
    elsewhere = seen.get("state") == "running" and seen.get("host") not in (None, socket.gethostname())
    if not elsewhere or clock() - float(seen.get("heartbeat", 0.0)) > STALE_AFTER_S:
        return
    for _ in range(int(HEARTBEAT_TIMEOUT_S)):
        sleep(1.0)
        now = read_status()
        if now.get("state") != "running":
            return
        if (now.get("heartbeat"), now.get("attempt")) != (seen.get("heartbeat"), seen.get("attempt")):
            raise Busy(f"{run_dir}: is being trained by process {now.get('pid')} on {now.get('host')}; its heart beats")
