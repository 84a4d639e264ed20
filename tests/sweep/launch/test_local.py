"""Subprocesses in slots."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time

from clip_jax.sweep.launch import local
from clip_jax.sweep.launch.local import Job, LocalLauncher, slot_cores, slot_environment


def job(tmp_path, name, program):
    return Job(tmp_path / name, (sys.executable, "-c", program))


def test_a_crash_is_recorded_and_the_rest_go_on(tmp_path):
    jobs = [
        job(tmp_path, "bad", "import sys; print('first'); sys.exit('it broke')"),
        job(tmp_path, "good", "print('fine')"),
        job(tmp_path, "killed", "import os; os.kill(os.getpid(), 9)"),
    ]
    seen = []
    outcomes = {o.job.run_dir.name: o for o in LocalLauncher(2).run(jobs, seen.append)}
    assert len(seen) == 3
    assert (outcomes["good"].code, outcomes["good"].reason) == (0, "")
    assert outcomes["bad"].reason == "exit code 1: it broke"
    assert outcomes["killed"].reason == "killed by SIGKILL"
    assert json.loads((tmp_path / "bad" / "failure.json").read_text())["log"] == "attempt-1.log"
    assert (tmp_path / "good" / "logs" / "attempt-1.log").read_text() == "fine\n"


def test_a_second_attempt_clears_the_failure(tmp_path):
    LocalLauncher(1).run([job(tmp_path, "a", "raise SystemExit(3)")])
    assert (tmp_path / "a" / "failure.json").exists()
    LocalLauncher(1).run([job(tmp_path, "a", "pass")])
    assert not (tmp_path / "a" / "failure.json").exists()
    assert len(list((tmp_path / "a" / "logs").iterdir())) == 2


def test_what_was_stopped_from_outside_goes_on(tmp_path, monkeypatch):
    program = (
        "import pathlib, sys; mark = pathlib.Path(sys.argv[1])\n"
        "tries = int(mark.read_text()) if mark.exists() else 0; mark.write_text(str(tries + 1))\n"
        "sys.exit(75 if tries < int(sys.argv[2]) else 0)"
    )
    monkeypatch.setattr(local, "RESUMES", 2)
    jobs = [
        Job(tmp_path / name, (sys.executable, "-c", program, str(tmp_path / f"{name}.mark"), str(stops)))
        for name, stops in (("twice", 2), ("always", 9))
    ]
    seen = []
    outcomes = {o.job.run_dir.name: o for o in LocalLauncher(2).run(jobs, seen.append)}
    assert len(seen) == 2, "a job is reported once, when it is over"
    assert outcomes["twice"].code == 0
    assert not (tmp_path / "twice" / "failure.json").exists()
    assert len(list((tmp_path / "twice" / "logs").iterdir())) == 3
    assert outcomes["always"].reason == "exit code 75"
    assert len(list((tmp_path / "always" / "logs").iterdir())) == 3


def test_slots_limit_how_many_run_at_once(tmp_path):
    program = (
        f"import pathlib, time, os; p = pathlib.Path({str(tmp_path)!r}); n = len(list(p.glob('*.on')))\n"
        "f = p / (str(os.getpid()) + '.on'); f.touch(); time.sleep(.3); f.unlink(); print(n)"
    )
    jobs = [job(tmp_path, f"j{i}", program) for i in range(5)]
    LocalLauncher(2).run(jobs)
    counts = [int((j.run_dir / "logs" / "attempt-1.log").read_text()) for j in jobs]
    assert max(counts) <= 1
    assert len(counts) == 5


def test_a_child_that_still_runs_is_waited_for_and_not_doubled(tmp_path):
    run_dir = tmp_path / "a"
    run_dir.mkdir()
    with open(run_dir / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        holder = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1)"], pass_fds=(lock.fileno(),))
    began = time.monotonic()
    LocalLauncher(1).run([job(tmp_path, "a", "print('after')")])
    assert time.monotonic() - began > 0.5
    assert holder.wait() == 0
    assert [p.read_text() for p in (run_dir / "logs").iterdir()] == ["after\n"]


def test_a_driver_that_is_asked_to_stop_stops_its_children(tmp_path):
    child = (
        "import signal, time\n"
        f"def stop(*_): open({str(tmp_path / 'saved')!r}, 'w').close(); raise SystemExit(0)\n"
        f"signal.signal(15, stop); open({str(tmp_path / 'up')!r}, 'w').close(); time.sleep(60)"
    )
    program = (
        "import sys; from pathlib import Path; from clip_jax.sweep.launch.local import Job, LocalLauncher\n"
        f"LocalLauncher(1).run([Job(Path({str(tmp_path / 'a')!r}), (sys.executable, '-c', {child!r}))])"
    )
    driver = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "up").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(30) != 0
    assert (tmp_path / "saved").exists()


def test_slots_share_cores_and_gpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    assert (slot_cores(0, 2), slot_cores(1, 2), slot_cores(0, 1), slot_cores(7, 8)) == (
        {0, 2},
        {1, 3},
        None,
        None,
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert [slot_environment(s, 2)["CUDA_VISIBLE_DEVICES"] for s in range(2)] == ["4", "7"]
    assert slot_environment(0, 1)["CUDA_VISIBLE_DEVICES"] == "4,7"
