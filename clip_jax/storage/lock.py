"""File locks: at most one training process per run directory."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, cast

from clip_jax.errors import UserError, parse_json, short
from clip_jax.storage.records import Owner, Status

LOCK_FILE = ".lock"
# environment variable in which a launcher passes its child the descriptors of held locks, separated by commas
INHERITED = "CLIP_JAX_LOCK_FDS"
HEARTBEAT_TIMEOUT_S = 60.0  # without a heartbeat for this long while we poll, a run on another host is dead
STALE_AFTER_S = 600.0  # a heartbeat this old needs no polling: the run is dead
_UNSUPPORTED = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL)


class Busy(UserError):
    """Error for a directory in which another process is training."""


def _flock(file: IO[str], *, shared: bool = False) -> None:
    """Lock a file without waiting. Raises BlockingIOError if it is locked, UserError where there are no such locks."""
    try:
        import fcntl
    except ImportError:
        reason = "Windows has no locks for run directories"
        raise UserError(reason=reason, hint="train on Linux or macOS; models load and tables are fitted here") from None
    fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


class RunLock:
    """An ``flock`` on ``RUN_DIR/.lock``; the kernel releases it when the owner ends, even by SIGKILL.

    The file names the owner, for the error message. On a file system without such locks `acquire` succeeds, and
    `wait_until_silent` is the only protection.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / LOCK_FILE
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Take the lock; raise Busy, naming the owner, if another process holds it."""
        file = self._inherited() or self.path.open("a+")
        try:
            _flock(file)
        except BlockingIOError:
            owner = self.owner()
            file.close()
            raise Busy(
                field=self.path.parent,
                reason=f"is being trained by process {owner.get('pid', '?')} on {owner.get('host', '?')}",
                hint="wait for it or stop it",
            ) from None
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
        self._file = file
        self.write_owner(os.getpid())

    def _inherited(self) -> IO[str] | None:
        for number in filter(None, os.environ.get(INHERITED, "").split(",")):
            with contextlib.suppress(OSError):  # the number may belong to no open file, or to another one
                if os.path.samestat(os.fstat(int(number)), self.path.stat()):
                    left = [n for n in os.environ.pop(INHERITED).split(",") if n != number]
                    os.environ |= {INHERITED: ",".join(left)} if left else {}
                    os.set_inheritable(int(number), False)
                    return os.fdopen(int(number), "a+")
        return None

    def write_owner(self, pid: int) -> None:
        """Write who holds the lock, process ``pid`` of this host, into the file."""
        assert self._file is not None
        self._file.truncate(0)
        about = {"pid": pid, "host": socket.gethostname(), "machine": machine_id(), "began": process_start_time(pid)}
        self._file.write(json.dumps(about) + "\n")
        self._file.flush()

    def owner(self) -> Owner:
        """Read what the file records of the owner: ``pid``, ``host``, ``machine`` and when its process ``began``."""
        try:
            return cast(Owner, dict(parse_json(self.path.read_bytes(), self.path)))
        except (OSError, ValueError, TypeError):
            return {}

    def fileno(self) -> int:
        """Return the descriptor to pass to a child process."""
        assert self._file is not None
        return self._file.fileno()

    def check(self) -> None:
        """Do nothing: unlike a `lease.Lease`, a lock cannot be taken over."""

    def close(self) -> None:
        """Release the lock. A child that inherited it keeps it."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None


def request_stop(run_dir: Path) -> None:
    """Send SIGTERM to the process that the lock names as its owner.

    A lock may reach across hosts (NFS, Lustre, GPFS), and process ids are reused: only a process of this machine whose
    start time is the recorded one is signalled.

    Raises UserError naming the host and process if it is another one, or if the lock does not name its owner.
    """
    owner = RunLock(run_dir).owner()
    pid, host, began = owner.get("pid"), owner.get("host"), owner.get("began")
    if not isinstance(pid, int) or isinstance(pid, bool) or not 1 < pid < 2**31:
        reason = f"is being trained, but its {LOCK_FILE} does not name the process"
        raise UserError(field=run_dir, reason=reason, hint="stop it by hand")
    running = f"is being trained by process {pid} on {short(host)}"
    if host != socket.gethostname() or owner.get("machine", machine_id()) != machine_id():
        raise UserError(field=run_dir, reason=running, hint="cancel it there")
    if "began" not in owner:
        reason = f"{running}, as an older version recorded without a start time"
        raise UserError(field=run_dir, reason=reason, hint="stop that process by hand")
    try:
        handle = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    except OSError:
        return  # it has ended
    try:
        if process_start_time(pid) != began:
            reason = f"{running}, but process {pid} of this machine has another start time: it is a different process"
            raise UserError(field=run_dir, reason=reason)
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
    """Return an id of the PID namespace: the boot of this machine and the container; None where it is unknown."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def process_start_time(pid: int) -> str | None:
    """Return the start time of a process on this machine, in clock ticks since boot; None if it has exited."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def is_held(run_dir: Path) -> bool:
    """Return whether a process holds the lock of ``run_dir``, as far as the file system can tell."""
    try:
        with (run_dir / LOCK_FILE).open("a+") as file:
            _flock(file, shared=True)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def wait_until_silent(
    run_dir: Path,
    read_status: Callable[[], Status],
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.time,
) -> None:
    """Wait until a run that another host trains has no heartbeat, for file systems whose locks do not cross hosts.

    Returns at once unless ``status.json`` says "running" on another host with a heartbeat of the last ten minutes. It
    then polls the heartbeat for up to a minute; raises Busy if it advances.
    """
    first = read_status()
    elsewhere = first.get("state") == "running" and first.get("host") not in (None, socket.gethostname())
    if not elsewhere or clock() - float(first.get("heartbeat", 0.0)) > STALE_AFTER_S:
        return
    for _ in range(int(HEARTBEAT_TIMEOUT_S)):
        sleep(1.0)
        status = read_status()
        if status.get("state") != "running":
            return
        if (status.get("heartbeat"), status.get("attempt")) != (first.get("heartbeat"), first.get("attempt")):
            owner = f"process {status.get('pid')} on {status.get('host')}"
            raise Busy(field=run_dir, reason=f"is being trained by {owner} (its heartbeat is current)")
