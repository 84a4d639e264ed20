"""Subprocesses in slots."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from clip_jax.config.sweep import Resources
from clip_jax.distributed import cluster
from clip_jax.storage.paths import as_path
from clip_jax.sweep.launch import local
from clip_jax.sweep.launch.base import EngineDown, Job
from clip_jax.sweep.launch.local import Local, slot_cores, slot_environment
from clip_jax.sweep.launch.reconcile import reconcile, submit

from ...user_errors import raises_user_error
from ...whole_result import WHOLE_TEXT

PYTHON = (sys.executable, "-c")


def job(tmp_path, name, program, *arguments):
    """Return a job that ends with a result if its program does not fail."""
    run_dir = tmp_path / name
    program = f"{program}\nopen({str(run_dir / 'result.json')!r}, 'w').write({WHOLE_TEXT!r})"
    return Job((run_dir,), (program, *arguments))


def engine(tmp_path, slots=1):
    local = Local(tmp_path, slots, program=PYTHON)
    local.poll_s = 0.02
    return local


def run(tmp_path, jobs, slots=1, attempts=1):
    """Return {run: why it was left out, empty if it was not}."""
    seen = []
    reconcile(engine(tmp_path, slots), jobs, attempts, seen.append)
    assert len(seen) == len(jobs), "a job is reported once, when it is over"
    return {o.job.key: o.reason for o in seen}


def test_a_crash_is_recorded_and_the_rest_go_on(tmp_path):
    jobs = [
        job(tmp_path, "bad", "import sys; print('first'); sys.exit('it broke')"),
        job(tmp_path, "good", "print('fine')"),
        job(tmp_path, "killed", "import os; os.kill(os.getpid(), 9)"),
    ]
    outcomes = run(tmp_path, jobs, slots=2, attempts=2)
    assert outcomes == {"good": "", "bad": "exit code 1, 2 times: it broke", "killed": "killed by SIGKILL, 2 times"}
    assert json.loads((tmp_path / "bad" / "failure.json").read_text())["log"] == "attempt-2.log"
    assert (tmp_path / "good" / "logs" / "attempt-1.log").read_text() == "fine\n"


def test_what_makes_progress_goes_on_and_what_does_not_is_left_out(tmp_path):
    program = (
        "import pathlib, sys; saved = pathlib.Path(sys.argv[1]) / 'checkpoints'\n"
        "tries = len(list(saved.glob('*'))); stops, moves = int(sys.argv[2]), sys.argv[3] == 'moves'\n"
        "(saved / str(tries if moves else 0)).mkdir(parents=True, exist_ok=True)\n"
        "if tries < stops: sys.exit(75)"
    )
    jobs = [
        job(tmp_path, "moves", program, str(tmp_path / "moves"), "6", "moves"),
        job(tmp_path, "stands", program, str(tmp_path / "stands"), "6", "stands"),
    ]
    outcomes = run(tmp_path, jobs, slots=2, attempts=3)
    assert outcomes == {"moves": "", "stands": "exit code 75, 3 times"}
    assert len(list((tmp_path / "moves" / "logs").iterdir())) == 7
    assert len(list((tmp_path / "stands" / "logs").iterdir())) == 3


def test_slots_limit_how_many_run_at_once(tmp_path):
    program = (
        f"import pathlib, time, os; p = pathlib.Path({str(tmp_path)!r}); n = len(list(p.glob('*.on')))\n"
        "f = p / (str(os.getpid()) + '.on'); f.touch(); time.sleep(.3); f.unlink(); print(n)"
    )
    jobs = [job(tmp_path, f"j{i}", program) for i in range(5)]
    run(tmp_path, jobs, slots=2)
    counts = [int(j.log.read_text()) for j in jobs]
    assert max(counts) <= 1
    assert len(counts) == 5


def test_a_child_that_still_runs_is_waited_for_and_not_doubled(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "SLOT_S", 0.2)
    first, second = engine(tmp_path), engine(tmp_path)
    long = job(tmp_path, "a", "import time; print('once', flush=True); time.sleep(1)")
    first.submit("clip-1", [long])
    assert second.poll(long.run_dirs) == {"a": "running"}
    with raises_user_error(EngineDown, field="slots", value=1):
        second.submit("clip-2", [job(tmp_path, "b", "pass")])
    began = time.monotonic()
    reconcile(second, [long], 1)
    assert time.monotonic() - began > 0.5
    assert long.log.read_text() == "once\n"
    assert first.poll(long.run_dirs) == {}


def test_a_job_of_several_runs_holds_the_locks_of_all(tmp_path):
    dirs = (tmp_path / "a", tmp_path / "b")
    program = (
        "import sys; from pathlib import Path; from clip_jax.storage.lock import RunLock\n"
        "for d in map(Path, sys.argv[1:]):\n"
        f"  lock = RunLock(d); lock.acquire(); lock.close(); (d / 'result.json').write_text({WHOLE_TEXT!r})"
    )
    family = Job(dirs, (program, *map(str, dirs)))
    seen = []
    reconcile(engine(tmp_path), [family], 1, seen.append)
    assert [o.reason for o in seen] == [""], family.log.read_text()
    assert [json.loads((d / "submission.json").read_text())["attempt"] for d in dirs] == [1, 1]


def test_a_run_is_cancelled_by_whoever_asks(tmp_path):
    child = (
        "import signal, time, pathlib\n"
        f"def stop(*_): pathlib.Path({str(tmp_path / 'saved')!r}).touch(); raise SystemExit(75)\n"
        f"signal.signal(15, stop); pathlib.Path({str(tmp_path / 'up')!r}).touch(); time.sleep(60)"
    )
    long = job(tmp_path, "a", child)
    driver = engine(tmp_path)
    driver.submit("clip-1", [long])
    wait_for(tmp_path / "up")
    engine(tmp_path).cancel(long.run_dirs)
    assert (tmp_path / "saved").exists()
    assert driver.poll(long.run_dirs) == {}
    assert json.loads((tmp_path / "a" / "exit.json").read_text()) == {"name": "clip-1", "code": 75}


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def test_a_driver_that_is_asked_to_stop_stops_its_children(tmp_path):
    child = (
        "import signal, time\n"
        f"def stop(*_): open({str(tmp_path / 'saved')!r}, 'w').close(); raise SystemExit(0)\n"
        f"signal.signal(15, stop); open({str(tmp_path / 'up')!r}, 'w').close(); time.sleep(60)"
    )
    program = (
        "import sys; from pathlib import Path; from clip_jax.sweep.launch.base import Job\n"
        "from clip_jax.sweep.launch.local import Local; from clip_jax.sweep.launch.reconcile import reconcile\n"
        f"local = Local(Path({str(tmp_path)!r}), 1, program=(sys.executable, '-c'))\n"
        f"reconcile(local, [Job((Path({str(tmp_path / 'a')!r}),), ({child!r},))], 1)"
    )
    driver = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    wait_for(tmp_path / "up")
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
    free, cache = Resources(), Resources(env=("CLIP_JAX_COMPILE_CACHE=gs://bucket/xla",))
    assert [slot_environment(s, 2, free)["CUDA_VISIBLE_DEVICES"] for s in range(2)] == ["4", "7"]
    assert slot_environment(0, 1, free) == {}
    assert slot_environment(0, 1, cache) == {"CLIP_JAX_COMPILE_CACHE": "gs://bucket/xla"}
    assert slot_environment(1, 2, cache) == slot_environment(1, 2, free) | cache.variables
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    pairs = Resources(devices_per_process=2)
    assert [slot_environment(s, 2, pairs)["CUDA_VISIBLE_DEVICES"] for s in range(2)] == ["0,1", "2,3"]
    shared = Resources(runs_per_device=3)
    environments = [slot_environment(s, 6, shared) for s in range(6)]
    assert [f["CUDA_VISIBLE_DEVICES"] for f in environments] == ["0", "0", "0", "1", "1", "1"]
    assert {f["XLA_PYTHON_CLIENT_MEM_FRACTION"] for f in environments} == {"0.307"}
    with raises_user_error(field="max_concurrent_runs", value=3, reason="need 6 GPUs") as raised:
        slot_environment(0, 3, pairs)
    assert raised.value.reason.endswith("has 4")


def test_runs_in_a_bucket_keep_logs_and_locks_here_and_a_lease_elsewhere_is_respected(bucket, tmp_path):
    root = as_path("gs://bucket/s")
    program = (
        "import sys; from clip_jax.storage.paths import as_path, write_text\n"
        f"print('said'); write_text(as_path(sys.argv[1]) / 'result.json', {WHOLE_TEXT!r})"
    )
    one, two = (Job((root / "runs" / name,), (program, f"{root}/runs/{name}")) for name in ("one", "two"))
    engine = Local(root, 1, program=PYTHON)
    engine.poll_s = 0.02
    seen = []
    reconcile(engine, [one], 1, seen.append)
    assert [o.reason for o in seen] == [""]
    assert bucket.names("s/runs/one/") == ["exit.json", "result.json", "submission.json"]
    scratch = tmp_path / "cache" / "gs" / "bucket" / "s"
    assert (scratch / "runs" / "one" / "logs" / "attempt-1.log").read_text() == "said\n"
    owner = {"pid": 7, "host": "elsewhere", "machine": "another", "heartbeat": time.time()}
    bucket.put("s/runs/two/.lease/000001.json", json.dumps(owner).encode(), {})
    with raises_user_error(EngineDown, field="gs://bucket/s/runs/two", reason="process 7 on elsewhere"):
        submit(engine, [two])
    assert engine.poll(two.run_dirs) == {}


@pytest.mark.parametrize("hidden", ["", "-1", "NoDevFiles", " ,0"])
def test_no_gpu_is_given_where_all_are_hidden(monkeypatch, hidden):
    monkeypatch.setattr(cluster, "Path", lambda *_: pytest.fail("it looked for devices"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert [slot_environment(s, 2, Resources()) for s in range(2)] == [{}, {}]
    with raises_user_error(field="max_concurrent_runs", value=2):
        slot_environment(0, 2, Resources(devices_per_process=1))
