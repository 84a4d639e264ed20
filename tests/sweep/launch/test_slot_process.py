"""Several jobs of a slot in one process."""

import contextlib
import dataclasses
import importlib.util
import os
import signal
import subprocess
import sys
import time

import pytest

from clip_jax.config.io import to_dict
from clip_jax.config.sweep import Resources
from clip_jax.storage.json_files import read_json, read_lines, write_json
from clip_jax.storage.lock import RunLock, is_held, request_stop
from clip_jax.sweep.launch.base import train_job
from clip_jax.sweep.launch.local import Local
from clip_jax.sweep.launch.reconcile import reconcile
from clip_jax.sweep.launch.slot_process import SlotProcess
from clip_jax.train.metrics import TIMES

COUNT = ("flops", "ViT-B/32", "--no-xla")


@contextlib.contextmanager
def process(tmp_path):
    """Start a process whose slot is locked."""
    with contextlib.closing(RunLock(tmp_path)) as lock, (tmp_path / "start.log").open("ab") as log:
        lock.acquire()
        made = SlotProcess({}, lock.fileno(), log)
    try:
        yield made
    finally:
        made.process.kill()
        made.close()


def ended(made, seconds=60.0):
    end = time.monotonic() + seconds
    while (code := made.poll()) is None and time.monotonic() < end:
        time.sleep(0.01)
    return code


def give(made, tmp_path, name, *arguments):
    with (tmp_path / name).open("ab") as log:
        made.give(arguments, {"CLIP_JAX_SUBMISSION": name}, log.fileno(), [])
    return (tmp_path / name).read_text


def test_jobs_of_one_process_have_their_own_logs_and_codes(tmp_path):
    with process(tmp_path) as made:
        first = give(made, tmp_path, "one", *COUNT)
        assert ended(made) == 0
        second = give(made, tmp_path, "two", *COUNT)
        assert ended(made) == 0
        assert first() == second() != ""
        mistake = give(made, tmp_path, "three", "flops", "nothing")
        assert ended(made) == 2
        assert "nothing" in mistake()
        assert made.process.wait(30) == 0, "what failed may have left something behind"
        with pytest.raises(OSError, match=r"."):
            give(made, tmp_path, "four", *COUNT)
        assert first() == second()
    assert (tmp_path / "start.log").read_text() == ""


def test_a_process_that_is_killed_ends_its_job_with_that_signal(tmp_path):
    with process(tmp_path) as made:
        made.process.send_signal(signal.SIGSTOP)
        give(made, tmp_path, "one", *COUNT)
        assert made.poll() is None
        made.process.kill()
        assert ended(made) == -signal.SIGKILL


def test_a_process_ends_with_its_driver_and_holds_its_slot_until_then(tmp_path):
    program = (
        "import sys; from pathlib import Path; from clip_jax.storage.lock import RunLock\n"
        "from clip_jax.sweep.launch.slot_process import SlotProcess\n"
        "lock = RunLock(Path(sys.argv[1])); lock.acquire()\n"
        "made = SlotProcess({}, lock.fileno(), open(sys.argv[1] + '/start.log', 'ab')); lock.close()\n"
        "print(made.process.pid, flush=True); sys.stdin.read()"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert int(driver.stdout.readline()) > 0
    assert is_held(tmp_path)
    driver.kill()
    driver.communicate()
    end = time.monotonic() + 60
    while is_held(tmp_path) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_held(tmp_path)


def test_values_are_kept_only_where_runs_share_a_process():
    spec = importlib.util.find_spec("clip_jax.reuse")
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))  # as a new process has it
    made = []
    for _ in range(2):
        module.reuse("a", lambda: made.append(1))
    assert len(made) == 2
    module.keep()
    first = module.reuse("a", object)
    assert module.reuse("a", object) is first
    kept = [module.reuse(i, object) for i in range(module.MOST)]
    assert module.reuse("a", object) is not first, "the oldest of one too many is forgotten"
    assert [module.reuse(i, object) is kept[i] for i in range(1, module.MOST)] == [True] * (module.MOST - 1)


def runs_of(tiny_run):
    """Return runs of two lengths, rates, sizes and seeds; the fourth diverges."""
    wide = dataclasses.replace(tiny_run.model, image=dataclasses.replace(tiny_run.model.image, width=32))

    def rate(peak_lr):
        return dataclasses.replace(tiny_run.optim, peak_lr=peak_lr)

    changes = ({}, {"steps": 6, "optim": rate(1e-3)}, {"model": wide}, {"optim": rate(1e30)}, {"seed": 1})
    return [dataclasses.replace(tiny_run, **change) for change in changes]


def train_all(root, runs, *, share):
    jobs = []
    for i, run in enumerate(runs):
        (root / str(i)).mkdir(parents=True)
        write_json(root / str(i) / "request.json", to_dict(run))
        jobs.append(train_job(root / str(i)))
    reasons, pids = {}, []
    engine = Local(root, 1, Resources(share_process=share))
    engine.poll_s = 0.02
    reconcile(engine, jobs, 2, lambda outcome: reasons.update({outcome.job.key: outcome.reason}))
    pids = [read_json(root / str(i) / "status.json")["pid"] for i in range(len(runs))]
    engine.detach()
    return [reasons[str(i)] for i in range(len(runs))], pids


@pytest.mark.thorough
def test_runs_of_one_process_have_the_bits_of_runs_alone(tiny_run, tmp_path):
    runs = runs_of(tiny_run)
    shared, pids = train_all(tmp_path / "shared", runs, share=True)
    assert (len(set(pids[:4])), len(set(pids))) == (1, 2), "one process until a run fails, then another"
    assert [reason[:18] for reason in shared] == ["", "", "", "exit code 2: clip-", ""]
    alone, others = train_all(tmp_path / "alone", runs[1:4], share=False)
    assert len(set(others)) == 3
    assert [reason.replace("shared/3", "alone/2") for reason in shared[1:4]] == alone
    for i, run in enumerate(runs[1:4]):
        in_slot, by_itself = tmp_path / "shared" / str(i + 1), tmp_path / "alone" / str(i)
        names = [
            {str(p.relative_to(d)) for p in d.rglob("*") if "checkpoints" not in p.parts} for d in (in_slot, by_itself)
        ]
        assert names[0] == names[1]
        assert read_lines(in_slot / "evals.jsonl") == read_lines(by_itself / "evals.jsonl")
        rows = [[{k: v for k, v in r.items() if k not in TIMES} for r in read_lines(d / "metrics.jsonl")]
                for d in (in_slot, by_itself)]  # fmt: skip
        assert rows[0] == rows[1]
        if alone[i]:
            continue
        seals = [read_json(d / "checkpoints" / str(run.steps) / "_CHECKPOINT_METADATA")["custom_metadata"]["seals"]
                 for d in (in_slot, by_itself)]  # fmt: skip
        assert seals[0] == seals[1], "the state, bit for bit"
        result = read_json(in_slot / "result.json")
        assert sum(result["seconds"].values()) == pytest.approx(result["wall_s"], rel=0.1), "of this run alone"


@pytest.mark.thorough
def test_a_run_of_a_shared_process_is_stopped_alone_and_resumed(tiny_run, tmp_path):
    runs = [dataclasses.replace(tiny_run, steps=4), dataclasses.replace(tiny_run, steps=100_000), tiny_run]
    jobs = []
    for i, run in enumerate(runs):
        (tmp_path / str(i)).mkdir()
        write_json(tmp_path / str(i) / "request.json", to_dict(run))
        jobs.append(train_job(tmp_path / str(i)))
    engine = Local(tmp_path, 1)
    engine.submit("clip-1", jobs[:1])
    wait(lambda: not engine.poll(jobs[0].run_dirs))
    (pid,) = [process.process.pid for process in engine.idle.values()]
    engine.submit("clip-2", jobs[1:2])
    assert read_json(tmp_path / "1" / ".lock")["pid"] == pid
    wait(lambda: len(read_lines(tmp_path / "1" / "metrics.jsonl")) > 2)
    request_stop(tmp_path / "1")
    wait(lambda: not engine.poll(jobs[1].run_dirs))
    assert read_json(tmp_path / "1" / "exit.json") == {"name": "clip-2", "code": 75}
    assert os.listdir(tmp_path / "1" / "checkpoints")
    engine.submit("clip-3", jobs[2:])
    wait(lambda: not engine.poll(jobs[2].run_dirs))
    assert read_json(tmp_path / "2" / "result.json")["state"] == "finished"
    assert read_json(tmp_path / "0" / "status.json")["pid"] == pid != read_json(tmp_path / "2" / "status.json")["pid"]
    engine.detach()


def wait(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
