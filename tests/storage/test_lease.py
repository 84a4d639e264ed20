"""One holder a directory of a bucket."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from clip_jax.storage import lease as lease_module
from clip_jax.storage import lock as lock_module
from clip_jax.storage.lease import Lease
from clip_jax.storage.lock import HEARTBEAT_TIMEOUT_S, STALE_AFTER_S, Busy
from clip_jax.storage.paths import as_path

from ..user_errors import raises_user_error

THERE = "gs://bucket/run"


def lease(**given):
    return Lease(as_path(THERE), **given)


def test_lease_second_holder_is_refused_and_a_dead_process_releases(bucket):
    program = (
        "import sys, time; from clip_jax.storage.paths import as_path; from clip_jax.storage.lease import Lease\n"
        "Lease(as_path(sys.argv[1])).acquire(); print('held', flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", program, THERE], stdout=subprocess.PIPE)
    with owner, owner.stdout:
        assert owner.stdout.readline() == b"held\n"
        mine = lease()
        assert mine.is_held()
        with raises_user_error(Busy, field=THERE, reason=f"process {owner.pid} on {socket.gethostname()}"):
            mine.acquire()
        owner.send_signal(signal.SIGKILL)
    assert not mine.is_held()
    mine.acquire()
    assert mine.owner()["pid"] == os.getpid()
    assert bucket.names("run/.lease/") == ["000002.json"], "what it superseded is gone"
    with raises_user_error(Busy, field="gs://bucket/run"):
        lease().acquire()
    mine.close()
    assert not mine.is_held()
    mine = lease()
    mine.acquire()
    mine.close()


class Elsewhere:
    """A holder on another machine, and a clock that runs as fast as one sleeps."""

    def __init__(self, bucket, beats=False, age=3.0):
        self.bucket, self.beats, self.now, self.began = bucket, beats, 1e9, 1e9
        self.said = {"pid": 7, "host": "elsewhere", "machine": "another", "began": "1"}
        self.say(self.now - age)

    def say(self, heartbeat):
        self.bucket.put("run/.lease/000004.json", json.dumps(self.said | {"heartbeat": heartbeat}).encode(), {})

    def sleep(self, seconds):
        self.now += seconds
        if self.beats and self.now > self.began + 8:
            self.say(self.now)

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
    mine = holder.lease()
    assert mine.is_held() is (age < HEARTBEAT_TIMEOUT_S)
    mine.acquire()
    assert holder.now - holder.began == waited
    assert bucket.names("run/.lease/") == ["000005.json"]
    sleeper = lease()
    sleeper.number = 4
    holder.say(holder.now)  # its thread was in the middle of it
    with raises_user_error(Busy, field="gs://bucket/run", reason=f"process {os.getpid()} on"):
        sleeper.check()
    mine.check()
    mine.close()


def test_lease_acquired_by_two_at_once_goes_to_one(bucket, monkeypatch):
    mine, other = lease(), lease()
    looked = other._newest

    def late():
        found = looked()
        monkeypatch.undo()
        mine.acquire()
        return found

    monkeypatch.setattr(other, "_newest", late)
    with raises_user_error(Busy, field="gs://bucket/run", reason=f"process {os.getpid()} on"):
        other.acquire()
    mine.check()
    mine.close()


def test_lease_reused_process_id_is_not_the_holder(monkeypatch):
    there = {
        "pid": os.getpid(),
        "machine": lock_module.machine_id(),
        "began": lock_module.process_start_time(os.getpid()),
    }
    assert lease_module._holder_alive(there) is True
    assert lease_module._holder_alive(there | {"began": "1"}) is False
    assert lease_module._holder_alive(there | {"machine": None}) is None


def test_lease_heartbeat_is_written(bucket):
    import time

    mine = lease(heartbeat_s=0.02)
    mine.acquire()
    first = bucket.text("run/.lease/000001.json")
    deadline = time.monotonic() + 20
    while bucket.text("run/.lease/000001.json") == first and time.monotonic() < deadline:
        time.sleep(0.01)
    assert bucket.text("run/.lease/000001.json") != first
    mine.close()
    assert json.loads(bucket.text("run/.lease/000001.json"))["released"]
