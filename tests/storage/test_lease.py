"""One holder a directory of a bucket."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from clip_jax.storage import lock as lock_module
from clip_jax.storage import paths
from clip_jax.storage.lease import Lease
from clip_jax.storage.lock import HEARTBEAT_TIMEOUT_S, STALE_AFTER_S, Busy
from clip_jax.storage.paths import as_path

from ..user_errors import raises_user_error

THERE = "gs://bucket/run"


def lease(**options):
    return Lease(as_path(THERE), **options)


def test_lease_second_holder_is_refused_and_a_dead_process_releases(bucket):
    program = (
        "import sys, time; from clip_jax.storage.paths import as_path; from clip_jax.storage.lease import Lease\n"
        "Lease(as_path(sys.argv[1])).acquire(); print('held', flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", program, THERE], stdout=subprocess.PIPE)
    with owner, owner.stdout:
        assert owner.stdout.readline() == b"held\n"
        holding = lease()
        assert holding.is_held()
        with raises_user_error(Busy, field=THERE, reason=f"process {owner.pid} on {socket.gethostname()}"):
            holding.acquire()
        owner.send_signal(signal.SIGKILL)
    assert not holding.is_held()
    holding.acquire()
    assert holding.owner()["pid"] == os.getpid()
    assert bucket.names("run/.lease/") == ["000002.json"], "what it superseded is gone"
    with raises_user_error(Busy, field="gs://bucket/run"):
        lease().acquire()
    holding.close()
    assert not holding.is_held()
    holding = lease()
    holding.acquire()
    holding.close()


class Elsewhere:
    """A holder on another machine, and a clock that runs as fast as one sleeps."""

    def __init__(self, bucket, beats=False, age=3.0):
        self.bucket, self.beats, self.now, self.began = bucket, beats, 1e9, 1e9
        self.owner = {"pid": 7, "host": "elsewhere", "machine": "another", "began": "1"}
        self.beat(self.now - age)

    def beat(self, heartbeat):
        self.bucket.put("run/.lease/000004.json", json.dumps(self.owner | {"heartbeat": heartbeat}).encode(), {})

    def sleep(self, seconds):
        self.now += seconds
        if self.beats and self.now > self.began + 8:
            self.beat(self.now)

    def lease(self):
        return lease(sleep=self.sleep, clock=lambda: self.now)


def test_lease_with_a_heartbeat_on_another_host_is_refused(bucket):
    holder = Elsewhere(bucket, beats=True)
    with raises_user_error(Busy, field="gs://bucket/run", reason="process 7 on elsewhere"):
        holder.lease().acquire()
    assert bucket.names("run/.lease/") == ["000004.json"]


@pytest.mark.parametrize(("age", "waited"), [(3.0, HEARTBEAT_TIMEOUT_S), (STALE_AFTER_S + 1, 0)])
def test_lease_of_a_silent_holder_is_taken_over_after_one_timeout(bucket, age, waited):
    holder = Elsewhere(bucket, age=age)
    holding = holder.lease()
    assert holding.is_held() is (age < HEARTBEAT_TIMEOUT_S)
    holding.acquire()
    assert holder.now - holder.began == waited
    assert bucket.names("run/.lease/") == ["000005.json"]
    sleeper = lease()
    sleeper.number = 4
    holder.beat(holder.now)  # its thread was in the middle of it
    with raises_user_error(Busy, field="gs://bucket/run", reason=f"process {os.getpid()} on"):
        sleeper.check()
    holding.check()
    holding.close()


def test_lease_acquired_by_two_at_once_goes_to_one(bucket, monkeypatch):
    first, second = lease(), lease()
    create = paths.create_if_absent

    def late(path, text):
        monkeypatch.undo()
        first.acquire()  # after the second has seen that no one holds it
        return create(path, text)

    monkeypatch.setattr(paths, "create_if_absent", late)
    with raises_user_error(Busy, field="gs://bucket/run", reason=f"process {os.getpid()} on"):
        second.acquire()
    first.check()
    first.close()


@pytest.mark.parametrize(
    ("change", "held"),
    [({}, True), ({"began": "1"}, False), ({"machine": None}, False), ({"machine": "another"}, False)],
)
def test_lease_is_held_by_its_process_on_this_machine_and_elsewhere_by_a_heartbeat(bucket, change, held):
    holder = Elsewhere(bucket)
    holder.owner |= {
        "pid": os.getpid(),
        "machine": lock_module.machine_id(),
        "began": lock_module.process_start_time(os.getpid()),
        **change,
    }
    holder.beat(holder.now - HEARTBEAT_TIMEOUT_S - 1)
    assert holder.lease().is_held() is held, "a process id that was used again is not the holder"
    if change.get("began") is None:
        holder.beat(holder.now)
        assert holder.lease().is_held()


def test_lease_heartbeat_is_written(bucket):
    import time

    holding = lease(heartbeat_s=0.02)
    holding.acquire()
    first = bucket.text("run/.lease/000001.json")
    deadline = time.monotonic() + 20
    while bucket.text("run/.lease/000001.json") == first and time.monotonic() < deadline:
        time.sleep(0.01)
    assert bucket.text("run/.lease/000001.json") != first
    holding.close()
    assert json.loads(bucket.text("run/.lease/000001.json"))["released"]
