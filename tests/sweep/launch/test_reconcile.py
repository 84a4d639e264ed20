"""The reconciler, with an engine that lives in a dictionary."""

import json

import pytest

from clip_jax.sweep.launch import submission as files
from clip_jax.sweep.launch.base import EngineDown, Job
from clip_jax.sweep.launch.reconcile import reconcile
from clip_jax.sweep.launch.submission import JobState

from ...user_errors import raises_user_error
from ...whole_result import WHOLE_TEXT


class Killed(BaseException):
    """The driver, at this very moment."""


class FakeEngine:
    """Jobs run for one look and then do what ``script`` has next for them: an exit code, "finish" or "vanish"."""

    name, poll_s = "fake", 0.0

    def __init__(self, script, max_in_flight=None, batch=10):
        self.script, self.max_in_flight, self.max_jobs_per_submit = (
            {k: list(v) for k, v in script.items()},
            max_in_flight,
            batch,
        )
        self.live, self.submitted, self.most = {}, [], 0

    def poll(self, run_dirs):
        for key, (name, job) in list(self.live.items()):
            what = self.script[key].pop(0)
            if what == "live":
                continue
            del self.live[key]
            for run_dir in job.run_dirs:
                if what == "finish":
                    (run_dir / "result.json").write_text(WHOLE_TEXT)
                elif what != "vanish":
                    files.note_exit(run_dir, name, what)
        return {d.name: "running" for d in run_dirs if d.name in self.live}

    def submit(self, name, jobs):
        for job in jobs:
            assert job.key not in self.live, "submitted twice"
            job.log.write_text("said\n")
            self.submitted.append(job.key)
            self.live[job.key] = (name, job)
        self.most = max(self.most, len(self.live))

    def detach(self):
        pass


def jobs_of(tmp_path, *names):
    return [Job((tmp_path / name,), ("train",)) for name in names]


def outcomes(engine, jobs, attempts=3):
    seen = []
    reconcile(engine, jobs, attempts, seen.append, lambda line: None)
    return {o.job.key: o.reason for o in seen}


def test_gone_but_not_done_is_submitted_again_up_to_a_limit(tmp_path):
    engine = FakeEngine({"good": ["finish"], "lost": ["vanish", "live", "finish"], "bad": [1] * 9, "wrong": [2] * 9})
    states = outcomes(engine, jobs_of(tmp_path, "good", "lost", "bad", "wrong"))
    assert states == {
        "good": "", "lost": "", "bad": "exit code 1, 3 times: said", "wrong": "exit code 2: said",
    }  # fmt: skip
    assert sorted(engine.submitted) == ["bad"] * 3 + ["good"] + ["lost"] * 2 + ["wrong"]


def test_a_checkpoint_gives_the_tries_back(tmp_path):
    engine = FakeEngine({"a": [75] * 7 + ["finish"]})
    submit = engine.submit

    def and_save(name, jobs):
        if len(engine.submitted) % 2:
            (tmp_path / "a" / "checkpoints" / str(len(engine.submitted))).mkdir(parents=True)
        submit(name, jobs)

    engine.submit = and_save
    assert outcomes(engine, jobs_of(tmp_path, "a"), 2) == {"a": ""}
    assert json.loads((tmp_path / "a" / "submission.json").read_text())["attempt"] == 8


def test_no_more_at_once_than_the_engine_takes(tmp_path):
    names = [f"j{i}" for i in range(7)]
    engine = FakeEngine({n: ["live", "finish"] for n in names}, max_in_flight=2, batch=1)
    assert set(outcomes(engine, jobs_of(tmp_path, *names)).values()) == {""}
    assert engine.most == 2
    assert engine.submitted == names


@pytest.mark.parametrize("moment", ["before it is handed over", "after it was handed over"])
def test_a_driver_killed_while_it_submits_doubles_nothing(tmp_path, moment):
    engine = FakeEngine({"a": ["live", "finish", "finish"]})
    submit = engine.submit

    def killed(name, jobs):
        if moment.startswith("after"):
            submit(name, jobs)
        raise Killed

    engine.submit = killed
    jobs = jobs_of(tmp_path, "a")
    with pytest.raises(Killed):
        outcomes(engine, jobs)
    engine.submit = submit
    assert outcomes(engine, jobs, 1) == {"a": ""}
    assert engine.submitted == ["a"]
    assert json.loads((tmp_path / "a" / "submission.json").read_text())["attempt"] == 1


def test_the_word_of_an_older_attempt_does_not_count(tmp_path):
    (job,) = jobs_of(tmp_path, "a")
    files.note_submission(job, "fake", "clip-2", 0)
    files.note_accepted(job)
    files.note_exit(tmp_path / "a", "clip-1", 2)
    assert JobState.read(job).verdict(3) is None
    files.note_exit(tmp_path / "a", "clip-2", 2)
    assert JobState.read(job).verdict(3)["code"] == 2


def test_corrupt_records_are_set_aside_and_the_run_goes_on(tmp_path):
    lines, seen = [], []
    jobs = jobs_of(tmp_path, "a", "b")
    for name in ("result", "status", "submission", "failure", "exit"):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / f"{name}.json").write_text("{ not")
    reconcile(FakeEngine({"a": ["finish"], "b": ["finish"]}), jobs, 3, seen.append, lines.append)
    assert {o.job.key: o.reason for o in seen} == {"a": "", "b": ""}
    assert len(lines) == 5
    assert "result.json: not JSON" in lines[0]
    assert lines[0].endswith("moved to result.json.corrupt")


def test_what_is_left_out_stays_so_until_it_is_taken_up(tmp_path):
    engine = FakeEngine({"a": [2, "finish"], "b": ["live"] * 3 + ["finish"]})
    jobs = jobs_of(tmp_path, "a", "b")
    seen = []

    def report(outcome):
        seen.append((outcome.job.key, outcome.reason))
        if outcome.reason:
            files.requeue(*outcome.job.run_dirs)  # somebody's `retry`, while b still runs

    reconcile(engine, jobs, 3, report, lambda line: None)
    assert seen[0] == ("a", "exit code 2: said")
    assert sorted(seen[1:]) == [("a", ""), ("b", "")]


def test_an_engine_that_is_away_is_no_end_of_a_job(tmp_path):
    engine = FakeEngine({"a": ["finish"]})
    poll, looks = engine.poll, []

    def away(jobs):
        looks.append(1)
        if len(looks) in (2, 3):
            raise EngineDown("fake: no answer")
        return poll(jobs)

    engine.poll = away
    lines, seen = [], []
    reconcile(engine, jobs_of(tmp_path, "a"), 1, seen.append, lines.append)
    assert [o.reason for o in seen] == [""]
    assert lines == ["  fake: no answer; asking again until it answers", "  the engine answers again"]
    engine.poll = lambda jobs: (_ for _ in ()).throw(EngineDown("fake: no answer"))
    with pytest.raises(EngineDown):
        reconcile(engine, jobs_of(tmp_path, "b"), 1)


def test_a_run_of_another_engine_is_refused(tmp_path):
    (job,) = jobs_of(tmp_path, "a")
    files.note_submission(job, "slurm", "clip-1", 0)
    with raises_user_error(field=str(tmp_path / "a"), reason="'slurm'"):
        reconcile(FakeEngine({}), [job], 1)
    files.requeue(*job.run_dirs)
    assert outcomes(FakeEngine({"a": ["finish"]}), [job]) == {"a": ""}


def test_a_family_is_one_job(tmp_path):
    family = Job((tmp_path / "a", tmp_path / "b"), ("train",))
    engine = FakeEngine({"a": [1, "finish"]})
    assert outcomes(engine, [family]) == {"a": ""}
    assert all(json.loads((d / "submission.json").read_text())["attempt"] == 2 for d in family.run_dirs)
