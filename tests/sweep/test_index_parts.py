"""An index made by jobs: what is submitted to each engine, a part that fails, and the same index as by one process."""

import shutil

import pytest
import yaml

from clip_jax.cli.main import main
from clip_jax.config.io import from_fields
from clip_jax.config.sweep import IndexConfig, Resources
from clip_jax.data.sources.index_build import index_shards
from clip_jax.data.sources.shard_index import open_index
from clip_jax.data.sources.shard_list import shards_of
from clip_jax.sweep import index_parts
from clip_jax.sweep.index_parts import index_in_parts
from clip_jax.sweep.launch.submission import note_exit

from ..user_errors import error_fields, raises_user_error


@pytest.fixture
def shards(pairs_dir, tmp_path):
    """Return the pattern of five shards."""
    (tmp_path / "five").mkdir()
    for number in range(5):
        shutil.copy(pairs_dir / "train" / f"{number % 2}.tar", tmp_path / "five" / f"{number}.tar")
    return f"{tmp_path}/five/{{0..4}}.tar"


class AtOnce:
    """An engine that does each job when it is submitted."""

    name, max_in_flight, max_jobs_per_submit, poll_s = "local", None, 1000, 0.0

    def __init__(self):
        self.commands = []

    def submit(self, name, jobs):
        for job in jobs:
            self.commands.append(job.arguments)
            job.log.parent.mkdir(parents=True, exist_ok=True)
            note_exit(job.run_dirs[0], name, main(list(job.arguments)))

    def poll(self, run_dirs):
        return {}

    def detach(self):
        pass


@pytest.fixture
def engine(monkeypatch):
    at_once = AtOnce()
    monkeypatch.setattr(index_parts, "open_engine", lambda config, folder: at_once)
    return at_once


def test_index_by_jobs_is_the_index_by_one_process_and_is_completed(shards, tmp_path, engine):
    whole = index_shards(shards_of(shards, "train"), tmp_path / "whole", echo=lambda line: None)
    lines = []
    index_in_parts(IndexConfig(parts=3), [shards], "train", tmp_path / "parts", echo=lines.append)
    assert open_index(tmp_path / "parts").table.equals(whole.table)
    assert sorted(lines)[:3] == [f"part-{i}-of-3: made" for i in range(3)]
    assert not list((tmp_path / "parts" / "parts").iterdir())
    engine.commands.clear()
    shutil.copy(tmp_path / "five" / "0.tar", tmp_path / "five" / "5.tar")
    more = shards.replace("{0..4}", "{0..5}")
    index_in_parts(IndexConfig(parts=9), [more], "train", tmp_path / "parts", echo=lines.append)
    assert len(engine.commands) == 6, "no more jobs than shards"
    assert len(open_index(tmp_path / "parts")) == 6


def test_part_that_fails_is_named_and_made_by_the_next_call(shards, tmp_path, engine, capsys):
    whole = (tmp_path / "five" / "3.tar").read_bytes()
    (tmp_path / "five" / "3.tar").write_bytes(whole[:2000])
    out = tmp_path / "index"
    with raises_user_error(reason="1 of 2 parts are not made, part-1-of-2: exit code 2"):
        index_in_parts(IndexConfig(parts=2), [shards], "train", out, echo=print)
    engine.commands.clear()
    (tmp_path / "five" / "3.tar").write_bytes(whole)
    index_in_parts(IndexConfig(parts=2), [shards], "train", out, ("--workers=1",), echo=print)
    assert [command[-2:] for command in engine.commands] == [("--workers=1", "--part=1/2")]
    assert open_index(out).samples.tolist() == [10] * 5


def test_dry_run_prints_the_jobs_of_each_engine(shards, tmp_path, capsys, monkeypatch):
    (tmp_path / "five").rename(tmp_path / "a five")
    monkeypatch.chdir(tmp_path)
    command = ["data", "index", "a five/{0..4}.tar", f"--out={tmp_path}/index", "--workers=8", "--dry-run"]
    asked = ["--engine=slurm", "--parts=4", "--max_concurrent_runs=2", "--resources.cpus_per_process=8"]
    assert main([*command, *asked, "--resources.python=python"]) == 0
    script = capsys.readouterr().out
    assert "#SBATCH --array=0-3%2" in script
    assert "#SBATCH --cpus-per-task=8" in script
    assert (
        f"  2) runs=({tmp_path}/index/jobs/part-2-of-4) log={tmp_path}/index/jobs/part-2-of-4/logs/attempt-1.log "
        f"arguments=(data index '{tmp_path}/a five/{{0..4}}.tar' --out={tmp_path}/index --split=train --workers=8 "
        "--max-damaged=0 --part=2/4) ;;"
    ) in script
    assert 'python -m clip_jax.cli "${arguments[@]}"' in script
    assert "the run's data" not in script
    pods = ["--engine=jobset", "--resources.container_image=i", f"--resources.mount_path={tmp_path}"]
    assert main([*command, *pods, "--resources.pvc_name=c"]) == 0
    jobs = list(yaml.safe_load_all(capsys.readouterr().out))
    pod = jobs[4]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert (len(jobs), pod["containers"][0]["command"][-1]) == (5, "--part=4/5")
    assert main(command) == 0
    assert capsys.readouterr().out.count("clip-jax data index") == 5
    assert not (tmp_path / "index").exists()


def test_jobs_that_contradict_the_command_are_refused(shards, tmp_path, capsys):
    command = ["data", "index", shards, f"--out={tmp_path}/index"]
    for wrong, field in (
        (["--part=0/2", "--parts=2"], "--part"),
        (["--parts=1"], "parts"),
        (["--engine=slurm", "--resources.queue=q"], "resources.queue"),
        (["--engine=slurm", "--resources.nodes=2"], "resources.nodes"),
        (["--resources.partitions=q"], "resources.partitions"),
    ):
        assert main([*command, *wrong]) == 2
        assert error_fields(capsys.readouterr().err)[0] == field
    fields = {"engine": "slurm", "resources.partition": "cpu"}
    assert from_fields(IndexConfig, fields, "") == IndexConfig(engine="slurm", resources=Resources(partition="cpu"))


@pytest.mark.thorough
def test_index_by_processes_of_the_local_engine(shards, tmp_path):
    whole = index_shards(shards_of(shards, "train"), tmp_path / "whole", echo=lambda line: None)
    command = ["data", "index", shards, f"--out={tmp_path}/index", "--parts=3", "--max_concurrent_runs=2"]
    assert main(command) == 0
    assert open_index(tmp_path / "index").table.equals(whole.table)
