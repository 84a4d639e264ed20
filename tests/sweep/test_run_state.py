"""One snapshot of a run directory."""

from clip_jax.storage.json_files import write_json
from clip_jax.sweep.launch.submission import note_exit, set_aside_corrupt
from clip_jax.sweep.run_state import RunState

from ..whole_result import WHOLE

SUBMISSION = {"engine": "slurm", "name": "clip-1", "index": 0, "attempt": 2, "tries": 1, "step": 4, "accepted": True}


def test_run_state_of_no_directory_has_not_begun(tmp_path):
    state = RunState.read(tmp_path / "none")
    assert (state.finished, state.given_up, state.engine, state.checkpoint, state.exit_code) == (
        False,
        None,
        "",
        0,
        None,
    )
    assert state.status == {}


def test_run_state_reads_every_state_file(tmp_path):
    write_json(tmp_path / "status.json", {"state": "stopped", "step": 7})
    write_json(tmp_path / "submission.json", SUBMISSION)
    write_json(tmp_path / "failure.json", {"reason": "boom"})
    note_exit(tmp_path, "clip-1", 3)
    for step in (4, 12, 8):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    state = RunState.read(tmp_path)
    assert state.status["step"] == 7
    assert (state.submission, state.engine) == (SUBMISSION, "slurm")
    assert (state.exit_code, state.checkpoint) == (3, 12)
    assert state.given_up == {"reason": "boom"}
    write_json(tmp_path / "result.json", WHOLE | {"steps": 12})
    state = RunState.read(tmp_path)
    assert state.finished
    assert state.result.steps == 12
    assert state.given_up is None, "it finished all the same"


def test_run_state_ignores_the_exit_code_of_an_earlier_submission(tmp_path):
    write_json(tmp_path / "submission.json", SUBMISSION)
    note_exit(tmp_path, "clip-0", 2)
    assert RunState.read(tmp_path).exit_code is None


def test_run_state_names_damaged_files(tmp_path):
    write_json(tmp_path / "result.json", {"steps": 12})
    (tmp_path / "failure.json").write_text("{")
    state = RunState.read(tmp_path)
    assert set(state.damaged) == {"result.json", "failure.json"}
    assert state.damaged["result.json"].reason.startswith("lacks the field ")
    assert state.finished, "until it is set aside"
    lines = []
    assert not set_aside_corrupt(state, lines.append).finished
    assert len(lines) == 2
    assert RunState.read(tmp_path).damaged == {}
    assert (tmp_path / "result.json.corrupt").exists()
