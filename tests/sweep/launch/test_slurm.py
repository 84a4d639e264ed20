"""The script and the queue's lines, where there is no Slurm; `tests/slurm` has a real one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clip_jax.config.sweep import Resources
from clip_jax.storage.json_files import read_json
from clip_jax.sweep.launch.base import EngineDown, Job
from clip_jax.sweep.launch.slurm import Slurm
from clip_jax.sweep.launch.submission import note_submission

from ...user_errors import raises_user_error


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Put a pretended Slurm on the path, (name, shell text) for each program."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    monkeypatch.setenv("PATH", f"{bin_dir}:{os.environ['PATH']}")

    def put(name, text):
        (bin_dir / name).write_text(f"#!/bin/bash\n{text}\n")
        (bin_dir / name).chmod(0o755)

    return put


def test_the_script_asks_for_what_the_config_says_and_notes_how_it_ended(tmp_path, programs):
    resources = Resources(
        nodes=2, processes_per_node=4, devices_per_process=2, cpus_per_process=6, gres="gpu:a100", partition="long",
        time_limit_min=90, grace_period_s=60, sbatch=("--account=vision",), setup_commands=("export MODE=fast",),
    )  # fmt: skip
    run_dirs = (tmp_path / "a run", tmp_path / "b")  # a family, and a name that needs quotes
    for run_dir in run_dirs:
        (run_dir / "logs").mkdir(parents=True)
    jobs = [Job((Path("/other"),), ("x",)), Job(run_dirs, ("train", "--dir=a run"), attempt=3)]
    script = Slurm(tmp_path / "s", 1, resources, program=("echo", "$MODE")).render("clip-1", jobs)
    asked = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]
    assert asked == [
        "--job-name=clip-1", "--array=0-1%1", "--nodes=2", "--ntasks-per-node=4", "--requeue", "--open-mode=append",
        f"--output={tmp_path}/s/slurm/clip-1-%a.out", "--partition=long", "--cpus-per-task=6", "--gres=gpu:a100:8",
        "--time=90", "--signal=TERM@60", "--account=vision",
    ]  # fmt: skip
    programs("srun", 'printf "%s\\n" "$MODE" "$CLIP_JAX_SUBMISSION" "$@"; exit 75')
    done = subprocess.run(["bash"], input=script, env=os.environ | {"SLURM_ARRAY_TASK_ID": "1"}, text=True, check=False)
    assert done.returncode == 75
    assert (run_dirs[0] / "logs" / "attempt-3.log").read_text().splitlines() == [
        "fast", "clip-1", "--kill-on-bad-exit=1", "--cpus-per-task=6", "echo", "$MODE", "train", "--dir=a run",
    ]  # fmt: skip
    assert [json.loads((d / "exit.json").read_text()) for d in run_dirs] == [{"name": "clip-1", "code": 75}] * 2


JOB_LINES = """case "$SLURM_ARRAY_TASK_ID" in
  0) runs=(/sweep/runs/a) log=/sweep/runs/a/logs/attempt-1.log arguments=(train) ;;
esac
exec >>"$log" 2>&1
ended() {
  for run in "${runs[@]}"; do
    echo "{\\"name\\": \\"clip-1\\", \\"code\\": $1}" >"$run/.exit.json"
    mv "$run/.exit.json" "$run/exit.json"
  done
  trap - EXIT
  exit "$1"
}
"""


def test_the_script_of_a_container(tmp_path):
    resources = Resources(
        devices_per_process=4, container_image="docker://example.org#clip jax:1", container_mounts=("/data:/data:ro",),
        setup_commands=("module load nccl",), env=("NCCL_DEBUG=WARN, twice",),
    )  # fmt: skip
    script = Slurm(Path("/sweep"), 1, resources).render("clip-1", [Job((Path("/sweep/runs/a"),), ("train",))])
    head = ["--job-name=clip-1", "--array=0-0%1", "--nodes=1", "--ntasks-per-node=1", "--requeue", "--open-mode=append"]
    head += ["--output=/sweep/slurm/clip-1-%a.out", "--gres=gpu:4"]
    checks = [
        "each line of resources.setup_commands ends without an error",
        "JAX finds 4 gpu devices in each process, 4 in all",
        "the run's data opens, and belongs to the run if it goes on",
    ]
    failed = "clip-jax: resources.setup_commands: a line of it failed with exit code $code"
    assert script == "\n".join(
        [
            "#!/bin/bash", *(f"#SBATCH {option}" for option in head), *(f"# checked: {line}" for line in checks),
            JOB_LINES + f"trap 'code=$?; echo \"{failed}\"; ended $code' EXIT", "set -e", "module load nccl", "set +e",
            "trap - EXIT", "export CLIP_JAX_SUBMISSION=clip-1", "export CLIP_JAX_PLATFORM=gpu",
            "export CLIP_JAX_DEVICES_PER_PROCESS=4", "export CLIP_JAX_DEVICES=4",
            "export CLIP_JAX_COMPILE_CACHE=/sweep/.cache/xla", "export NCCL_DEBUG='WARN, twice'",
            "srun --kill-on-bad-exit=1 --container-image='docker://example.org#clip jax:1' "
            '--container-mounts=/sweep:/sweep,/data:/data:ro python3 -m clip_jax.cli "${arguments[@]}"',
            "ended $?", "",
        ]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("", [sys.executable]),
        ("python", ["python"]),
        ("$ENV/bin/python", ["/shared/my env/bin/python"]),
        ("apptainer exec --nv 'clip jax.sif' python", ["apptainer", "exec", "--nv", "clip jax.sif", "python"]),
    ],
)
def test_the_python_of_the_nodes_is_in_the_shell_s_words(tmp_path, programs, python, words):
    run_dir = tmp_path / "a"
    (run_dir / "logs").mkdir(parents=True)
    resources = Resources(python=python.replace("$ENV", '"$ENV"'), setup_commands=("export ENV='/shared/my env'",))
    script = Slurm(tmp_path, 1, resources).render("clip-1", [job := Job((run_dir,), ("train", "--dir=a run"))])
    programs("srun", 'printf "%s\\n" "$@"')
    subprocess.run(["bash"], input=script, env=os.environ | {"SLURM_ARRAY_TASK_ID": "0"}, text=True, check=True)
    assert job.log.read_text().splitlines() == [
        "--kill-on-bad-exit=1", *words, "-m", "clip_jax.cli", "train", "--dir=a run",
    ]  # fmt: skip


def test_the_queue_is_read_by_name_and_place(tmp_path, programs):
    engine = Slurm(tmp_path, 1, Resources())
    jobs = [Job((tmp_path / name,), ()) for name in "abcd"]
    for i, job in enumerate(jobs[:3]):
        note_submission(job, "slurm", "clip-1", i)
    programs("squeue", "printf 'clip-1|7|0|PENDING\\nclip-1|7|1|RUNNING\\nclip-0|6|2|RUNNING\\nshell|9|N/A|RUNNING\\n'")
    assert engine.poll([tmp_path / name for name in "abcd"]) == {"a": "queued", "b": "running"}
    programs("scancel", f'echo "$@" > {tmp_path}/cancelled')
    engine.cancel([tmp_path / name for name in "abcd"])
    assert (tmp_path / "cancelled").read_text() == "7_0 7_1\n"


def test_away_is_not_refused(tmp_path, programs):
    engine = Slurm(tmp_path, 1, Resources())
    programs("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1")
    with raises_user_error(EngineDown, field="squeue", reason="Unable to contact"):
        engine.poll([])
    programs("sbatch", "echo 'sbatch: error: invalid partition specified: long' >&2; exit 1")
    with raises_user_error(field="sbatch", reason="long") as error:
        engine.submit("clip-1", [Job((tmp_path / "a",), ())])
    assert not isinstance(error.value, EngineDown)


@pytest.mark.parametrize(
    ("lines", "code"), [(("true",), 0), (("false",), 1), (("no-such-command-of-ours",), 127), (("exit 3",), 3),
                        (("if true; then", "sh -c 'exit 5'", "fi"), 5)],
)  # fmt: skip
def test_a_setup_line_that_fails_stops_the_job_and_is_told(tmp_path, lines, code):
    run_dir = tmp_path / "runs" / "a"
    (run_dir / "logs").mkdir(parents=True)
    engine = Slurm(tmp_path, 1, Resources(setup_commands=lines), program=("trained",))
    (tmp_path / "srun").write_text('#!/bin/sh\ntouch "$0.ran"\n')
    (tmp_path / "srun").chmod(0o755)
    job = Job((run_dir,), ("train",))
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "0"}
    done = subprocess.run(["bash"], input=engine.render("clip-x", [job]), text=True, env=environment, check=False)
    assert done.returncode == code
    assert read_json(run_dir / "exit.json") == {"name": "clip-x", "code": code}
    assert (tmp_path / "srun.ran").exists() == (code == 0)
    assert ("resources.setup_commands" in job.log.read_text()) == (code != 0)


def test_the_job_tells_its_processes_which_devices_it_asked_for(tmp_path):
    asked = Resources(nodes=2, processes_per_node=4, devices_per_process=2, gres="gpu:h100")
    script = Slurm(tmp_path, 1, asked).render("clip-x", [Job((tmp_path / "a",), ("train",))])
    for line in ("CLIP_JAX_PLATFORM=gpu", "CLIP_JAX_DEVICES_PER_PROCESS=2", "CLIP_JAX_DEVICES=16"):
        assert f"export {line}\n" in script
