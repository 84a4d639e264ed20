"""One training process a run directory."""

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing

import pytest

from clip_jax.storage.lock import (
    HEARTBEAT_TIMEOUT_S,
    INHERITED,
    LOCK_FILE,
    Busy,
    RunLock,
    is_held,
    request_stop,
    wait_until_silent,
)

from ..user_errors import raises_user_error


def test_lock_second_holder_is_refused_and_the_lock_ends_with_its_owner(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from clip_jax.storage.lock import RunLock\n"
        "lock = RunLock(Path(sys.argv[1])); lock.acquire(); print('held', flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    with owner, owner.stdout:
        assert owner.stdout.readline() == b"held\n"
        with raises_user_error(Busy, field=tmp_path, reason=f"process {owner.pid} on {socket.gethostname()}"):
            RunLock(tmp_path).acquire()
        owner.send_signal(signal.SIGKILL)
    lock = RunLock(tmp_path)
    lock.acquire()
    assert lock.owner()["pid"] == os.getpid()
    lock.close()
    with closing(RunLock(tmp_path)) as again:
        again.acquire()


def test_lock_is_inherited_from_the_launcher(tmp_path, monkeypatch):
    with (tmp_path / LOCK_FILE).open("a") as launchers:
        fcntl.flock(launchers, fcntl.LOCK_EX)
        with raises_user_error(Busy, field=tmp_path):
            RunLock(tmp_path).acquire()
        monkeypatch.setenv(INHERITED, str(os.dup(launchers.fileno())))
        lock = RunLock(tmp_path)
        lock.acquire()
        assert INHERITED not in os.environ
        assert not os.get_inheritable(lock.fileno())
    with raises_user_error(Busy, field=tmp_path):
        RunLock(tmp_path).acquire()
    lock.close()


def test_locks_of_several_runs_are_each_inherited(tmp_path, monkeypatch):
    dirs = [tmp_path / name for name in "ab"]
    with contextlib.ExitStack() as held:
        numbers = []
        for run_dir in dirs:
            run_dir.mkdir()
            lock = held.enter_context(closing(RunLock(run_dir)))
            lock.acquire()
            numbers.append(str(os.dup(lock.fileno())))
        monkeypatch.setenv(INHERITED, ",".join(numbers))
        for run_dir in reversed(dirs):
            lock = held.enter_context(closing(RunLock(run_dir)))
            lock.acquire()
        assert INHERITED not in os.environ
        assert all(map(is_held, dirs))
    assert not any(map(is_held, dirs))


def test_lock_inherited_descriptor_of_another_file_is_refused(tmp_path, monkeypatch):
    (tmp_path / LOCK_FILE).touch()
    with (tmp_path / LOCK_FILE).open("a") as held, (tmp_path / "other").open("w") as other:
        fcntl.flock(held, fcntl.LOCK_EX)
        monkeypatch.setenv(INHERITED, str(other.fileno()))
        with raises_user_error(Busy, field=tmp_path):
            RunLock(tmp_path).acquire()


def test_lock_on_a_file_system_without_locks_is_skipped(tmp_path, monkeypatch):
    def unsupported(*args):
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    lock = RunLock(tmp_path)
    lock.acquire()
    assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    lock.close()


class Elsewhere:
    """The status of a run on another host, and a clock that runs as fast as one sleeps."""

    def __init__(self, beats, state="running", host="elsewhere", age=3.0):
        self.now, self.beats = 1000.0, beats
        self.status = {"state": state, "host": host, "heartbeat": self.now - age, "attempt": 1, "pid": 7}

    def read(self):
        if self.beats and self.now > 1005:
            self.status["heartbeat"] = 1004.0
        return dict(self.status)

    def sleep(self, seconds):
        self.now += seconds

    def watch(self, run_dir):
        wait_until_silent(run_dir, self.read, sleep=self.sleep, clock=lambda: self.now)
        return self.now - 1000.0


def test_lock_with_a_heartbeat_on_another_host_is_refused(tmp_path):
    with raises_user_error(Busy, field=tmp_path, reason="process 7 on elsewhere"):
        Elsewhere(beats=True).watch(tmp_path)


@pytest.mark.parametrize(
    ("other", "waited"),
    [
        (Elsewhere(beats=False), HEARTBEAT_TIMEOUT_S),
        (Elsewhere(beats=True, state="stopped"), 0),
        (Elsewhere(beats=True, host=socket.gethostname()), 0),
        (Elsewhere(beats=True, host=None), 0),
        (Elsewhere(beats=False, age=3600.0), 0),
    ],
)
def test_lock_of_a_silent_host_is_waited_for_once(tmp_path, other, waited):
    assert other.watch(tmp_path) == waited


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"host": "gpu-node-17"}, "gpu-node-17"),
        ({"machine": "another boot"}, socket.gethostname()),
        ({"began": "1"}, None),
        ({"began": None}, None),
        ({"pid": "all"}, None),
        ({"pid": -1}, None),
        ({"pid": 10**30}, None),
    ],
)
def test_ask_to_stop_signals_only_the_process_in_the_owner_file(tmp_path, change, named):
    # A lock reaches across hosts, and a process number is given again: an innocent process must not be met.
    innocent = subprocess.Popen(["sleep", "60"], start_new_session=True)
    with closing(RunLock(tmp_path)) as held, innocent:
        try:
            held.acquire()
            held.write_owner(innocent.pid)
            signed = held.owner()
            (tmp_path / LOCK_FILE).write_text(json.dumps(signed | change))
            with raises_user_error(field=tmp_path, reason=f"on {named!r}" if named else ""):
                request_stop(tmp_path)
            older = {k: v for k, v in signed.items() if k in ("pid", "host")}
            (tmp_path / LOCK_FILE).write_text(json.dumps(older))
            with raises_user_error(field=tmp_path):
                request_stop(tmp_path)
            assert innocent.poll() is None
            (tmp_path / LOCK_FILE).write_text(json.dumps(signed))
            request_stop(tmp_path)
            assert innocent.wait(10) == -signal.SIGTERM
            request_stop(tmp_path)  # it is gone
        finally:
            innocent.kill()
