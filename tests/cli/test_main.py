"""The command line: verbs, and one line for every mistake."""

import dataclasses
import errno
import json
import os
import subprocess
import sys

import jax
import pytest

import clip_jax
from clip_jax.cli import main as cli
from clip_jax.cli.config import read_config
from clip_jax.cli.main import main
from clip_jax.config import RunConfig
from clip_jax.config.io import to_dict
from clip_jax.config.sweep import SweepConfig
from clip_jax.evals.benchmark import TASKS
from clip_jax.exit_codes import MISTAKE, STOPPED, UNREAD
from clip_jax.storage.lock import Busy
from clip_jax.storage.paths import BucketUnavailable

from ..user_errors import error_fields

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:Sharding info:UserWarning")


@pytest.fixture
def config_file(tmp_path, tiny_run):
    path = tmp_path / "c.json"
    path.write_text(json.dumps(to_dict(tiny_run)))
    return path


def test_busy_run_exits_with_the_code_for_trying_later(monkeypatch, capsys):
    def fail(*_):
        raise Busy("r: is being trained by process 7")

    monkeypatch.setattr(cli, "run_verb", fail)
    assert main(["fit", "t"]) == STOPPED
    assert capsys.readouterr().err == "clip-jax: r: is being trained by process 7\n"


def test_flops_prints_the_published_numbers(capsys):
    assert main(["flops", "--no-xla", "ViT-B/32", "ViT-B/16", "ViT-L/14"]) == 0
    printed = capsys.readouterr()
    assert not printed.err
    out = printed.out.splitlines()
    assert [out[1].split()[1], out[1].split()[4]] == ["151,277,313", "14.78"]
    assert out[2].split()[4] == "41.09"
    assert out[3].split()[4] == "175.33"


def test_flops_of_a_rung_prints_xla_count_beside(capsys):
    assert main(["flops", "rung:1"]) == 0
    printed = capsys.readouterr()
    assert "×)" in printed.out
    assert printed.err == "clip-jax: XLA counts the FLOPs of rung:1, too; --no-xla skips it\n"


@pytest.mark.thorough
def test_train_then_eval_then_resume_from_the_command_line(capsys, tmp_path, config_file):
    run = tmp_path / "run"
    assert main(["train", f"--config={config_file}", f"--dir={run}", "--steps=6", "--quiet"]) == 0
    first = capsys.readouterr().out
    assert first.startswith(f"finished: {run}")
    assert "object_rare" in first
    assert json.loads((run / "config.json").read_text())["steps"] == 6
    assert main(["eval", str(run)]) == 0
    assert capsys.readouterr().out.splitlines() == first.splitlines()[1:]


def test_sweep_plan_prints_its_table(capsys, tmp_path):
    sweep = tmp_path / "s.py"
    sweep.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n  return ConfigDict({'name': 's', 'budgets': (1e10, 1e11), 'min_steps': 10})\n"
    )
    assert main(["sweep", "plan", f"--config={sweep}", "--sizes_per_budget=2"]) == 0
    assert "4 runs kept" in capsys.readouterr().out


def test_overrides_with_a_space_and_plain_lists_are_parsed(capsys, tmp_path):
    sweep = tmp_path / "s.json"
    sweep.write_text('{"name": "s", "min_steps": 10, "sizes_per_budget": 0}')
    plan = ["sweep", "plan", "--config", str(sweep)]
    assert main([*plan, "--rungs", "0.5,1", "--budgets=1e10", "--base.evals.zero_shot", "a,b"]) == 0
    plain = capsys.readouterr().out
    assert main([*plan, "--rungs=[0.5, 1]", "--budgets=[1e10]", '--base.evals.zero_shot=["a", "b"]']) == 0
    assert capsys.readouterr().out == plain
    assert "2 runs kept" in plain


def test_config_of_another_command_names_the_right_command(capsys, tmp_path, config_file):
    sweep = tmp_path / "s.yaml"
    sweep.write_text("name: s\nbudgets: [1e10]\n")
    search = tmp_path / "h.yaml"
    search.write_text("name: h\ntrials: 2\n")
    for command, file, right in (
        (["train"], sweep, "sweep run"),
        (["train"], search, "sweep search"),
        (["sweep", "plan"], config_file, "train"),
    ):
        assert main([*command, f"--config={file}"]) == 2
        assert f"clip-jax {right} --config={file}\n" in capsys.readouterr().err


def test_model_from_source_is_the_model_of_the_run(tmp_path, config_file, tiny_run):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text(config_file.read_text())
    overrides = {"model": "from source", "init_from.source": str(tmp_path / "run"), "model.max_logit_scale": "50"}
    for cls, base in ((RunConfig, {}), (SweepConfig, {"name": "s", "base": {}})):
        file = tmp_path / "c.json"
        file.write_text(json.dumps(base))
        prefix = "base." if base else ""
        config = read_config(cls, str(file), {f"{prefix}{name}": value for name, value in overrides.items()})
        model = (config.base if base else config).model
        assert model == dataclasses.replace(tiny_run.model, max_logit_scale=50.0)


def test_version_flag_prints_the_package_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"clip-jax {clip_jax.__version__}\n"


@pytest.mark.thorough
def test_fit_of_a_table_prints_a_law(capsys, tmp_path):
    rows = "\n".join(f"r{i},{10.0 ** (10 + i / 2)},1000,100,{0.7 * 10 ** (-i / 20)}" for i in range(6))
    (tmp_path / "t.csv").write_text("run_id,flops,params,samples_seen,error\n" + rows + "\n")
    assert main(["fit", str(tmp_path / "t.csv"), "--metric=error"]) == 0
    assert "b=0.1000" in capsys.readouterr().out


def test_a_mistake_about_a_suite_is_told_before_the_model_is_read(capsys, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "suite.json").write_text('{"sets": [{"name": "a", "path": "a"}]}')
    command = ["eval", "no-such-model", f"--suite={tmp_path / 'suite.json'}"]
    assert main([*command, "--tasks=zero_shot"]) == 2
    err = capsys.readouterr().err
    assert error_fields(err) == ["--tasks"]
    assert all(task in err for task in cli.TASKS.split(", "))
    assert ", ".join(TASKS) == cli.TASKS
    assert main(command) == 2
    assert error_fields(capsys.readouterr().err) == ["no-such-model"]


REQUIRED = "the following arguments are required"


@pytest.mark.parametrize(
    ("argv", "field"),
    [
        (["flops", "ViT-Q"], "preset"),
        (["flops", "rung:zero"], "rung:zero"),
        (["flops", "debug", "--fast"], "--fast"),
        (["fit", "gone.csv"], "gone.csv"),
        (["report", "gone"], "gone"),
        (["eval", "gone"], "gone"),
        (["train", "--config=gone.py"], "gone.py"),
        (["train", "--config=CONFIG", "--profile=9:4"], "--profile"),
        (
            ["train", "--config=CONFIG", "--distributed.processes=2"],
            "distributed.coordinator",
        ),
        (["train", "--config=CONFIG", "--distributed.port=2"], "distributed.port"),
        (["train", "--config=CONFIG", "--optim.lr=1"], "optim.lr"),
        (
            ["train", "--config=CONFIG", "--steps"],
            "--steps",
        ),
        (
            ["train", "--config=CONFIG", "--batch_size=12"],
            "batch_size",
        ),
        (["train", "--config=CONFIG", "--wandb=perhaps"], "wandb"),
        (["train", "--config=CONFIG", "--mesh.data=3"], "mesh"),
        (["sweep", "status"], "--dir, --config"),
        (["sweep", "status", "--dir=gone"], "gone"),
        (["sweep", "rules", "--dir=gone"], "gone"),
        (["sweep", "run", "--config=gone.py"], "gone.py"),
        (["sweep"], REQUIRED),
        (["family", "gone"], "gone/request.json"),
        (["family"], REQUIRED),
        (["dance"], "verb"),
        ([], REQUIRED),
    ],
)
def test_main_user_mistake_prints_one_line_and_returns_2(capsys, tmp_path, monkeypatch, config_file, argv, field):
    monkeypatch.chdir(tmp_path)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    assert main([a.replace("CONFIG", str(config_file)) for a in argv]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert error_fields(err) == [field]
    assert sorted(p.name for p in tmp_path.rglob("*")) == before, "nothing half-written"


@pytest.mark.parametrize(
    ("argv", "field", "rest"),
    [
        (["train", "--config=CONFIG", "--steps"], "--steps", "needs a value; as --steps=VALUE"),
        (["train", "--config=CONFIG", "steps=3"], "steps", "unknown argument; fields are set as --name=value"),
        (["train", "--config=CONFIG", "--steps", "--seed=1"], "--steps", "needs a value"),
        (["train", "--config=CONFIG", "--peak_lr=1"], "peak_lr", "did you mean optim.peak_lr?"),
        (["train", "--config=CONFIG", "--optim.lr", "1"], "optim.lr", "did you mean optim.peak_lr?"),
        (["train", "--config=CONFIG", "--image.widht=8"], "image", "did you mean model.image?"),
        (["train", "--config=CONFIG", "--data.augment=flp"], "data.augment", "did you mean flip?"),
        (["train", "--config=CONFIG", "--quite"], "--quite", "did you mean --quiet?"),
        (["flops", "debug", "--no-xl"], "--no-xl", "did you mean --no-xla?"),
        (["flops", "ViT-B-32"], "preset", "did you mean ViT-B/32?"),
        (["classify", "a.jpg", "--labels", "a", "--model=openai/ViT-B/32"], None, "openai/ViT-B-32"),
        (["trian", "--config=CONFIG"], "verb", "did you mean train?"),
        (["sweep", "staus"], "action", "did you mean status?"),
        (["sweep", "status", "here", "--dir=there"], "--dir", "here"),
    ],
)
def test_main_misspelled_name_suggests_the_nearest(capsys, config_file, argv, field, rest):
    assert main([a.replace("CONFIG", str(config_file)) for a in argv]) == 2
    err = capsys.readouterr().err
    assert err.count("clip-jax:") == err.count("\n") == 1
    assert field is None or error_fields(err) == [field]
    assert rest in err


def test_help_names_every_verb_and_imports_nothing_heavy():
    program = (
        "import sys\nfrom clip_jax.cli.main import main\n"
        "try:\n  main(['--help'])\nexcept SystemExit as e:\n  assert e.code == 0\n"
        "heavy = {'jax', 'numpy', 'pandas', 'matplotlib', 'wandb', 'flax'} & set(sys.modules)\n"
        "sys.exit(' '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for verb in ("train", "sweep", "fit", "compare", "design", "replicate", "report", "flops", "eval"):
        assert verb in done.stdout


def test_compare_and_design_run_from_the_command_line(capsys, tmp_path):
    for name, scale in (("a", 1.0), ("b", 0.9)):
        rows = "".join(f"1e{k},{scale * 10 * 10 ** (-0.1 * k)}\n" for k in range(10, 16))
        (tmp_path / f"{name}.csv").write_text("flops,error\n" + rows)
    a, b = str(tmp_path / "a.csv"), str(tmp_path / "b.csv")
    assert main(["compare", a, b, "--at=1e14"]) == 0
    assert "second needs 2.87× " in capsys.readouterr().out  # 0.9 ** (-1 / 0.1)
    assert main(["design", a, "--at=1e18", "--candidate=1e16", "--budget=3e16"]) == 0
    assert "run 3 × flops=1e+16" in capsys.readouterr().out
    assert main(["compare", a, b, "--law=power,saturating"]) == 2
    assert error_fields(capsys.readouterr().err) == ["--law"]


@pytest.mark.thorough
def test_sweep_preflight_reports_what_fits(capsys, tmp_path):
    config = tmp_path / "s.json"
    config.write_text(
        '{"name": "p", "base": {"batch_size": 8, "steps": 30}, "rungs": [0.5], "budgets": [1e10], "min_steps": 2}'
    )
    run = ["sweep", "preflight", f"--config={config}", "--resources.price_per_device_hour=2"]
    assert main(run) == 0
    out, err = capsys.readouterr()
    assert err == "clip-jax: compiling the training steps of 1 runs, 1 shapes; nothing is trained\n"
    assert "rung 0.5 " in out
    assert "yes" in out
    assert "cost" in out
    assert main([*run, "--base.batch_size=7", "--base.mesh.data=2"]) == 2
    assert "--target" in error_fields(capsys.readouterr().err)


@pytest.mark.parametrize("lines", [1, 0])
def test_main_closed_output_pipe_gives_no_traceback(lines, tmp_path):
    code = (
        "import sys\nfrom clip_jax.cli import main as cli\n"
        "cli._flops = lambda args: [print('x' * 100) for _ in range(20_000)]\n"
        "sys.exit(cli.main(['flops', 'ViT-B/32']))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        for _ in range(lines):
            process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert (errors, process.returncode) == (b"", UNREAD)


def test_main_other_broken_pipe_is_raised(monkeypatch, capfd):
    def breaks(name):
        raise BrokenPipeError("a socket")

    monkeypatch.setattr("clip_jax.config.presets.preset", breaks)
    with pytest.raises(BrokenPipeError):
        main(["flops", "ViT-B/32"])


ROWS = "run_id\tflops\tparams\tsamples_seen\terror_mean\n" + "".join(
    f"r{i}\t{1e17 * 3**i}\t{10**6 * (i + 1)}\t{2 * 10**6 * (i + 1)}\t{0.9 * 0.9**i}\n" for i in range(8)
)


@pytest.mark.thorough
def test_report_of_a_file_name_in_capitals_is_written(tmp_path, capsys):
    (tmp_path / "RUNS.CSV").write_text(ROWS)
    assert main(["report", str(tmp_path / "RUNS.CSV")]) == 0
    assert (tmp_path / "report" / "report.html").is_file()
    errors = capsys.readouterr().err.splitlines()
    assert errors[:2] == [
        f"clip-jax: reading {tmp_path / 'RUNS.CSV'}: 8 rows",
        f"clip-jax: writing {tmp_path / 'report'}",
    ]


def test_table_verbs_accept_a_file_with_any_suffix(tmp_path, capsys):
    path = tmp_path / "runs.tsv"
    path.write_text(ROWS)
    for verb in (
        ["fit", str(path)],
        ["fit", str(path), "--law=power"],
        ["design", str(path), "--at=1e22", "--candidate=1e21", "--budget=2e21"],
        ["compare", str(path), str(path)],
    ):
        assert main(verb) == 0
        printed = capsys.readouterr()
        assert "clip-jax:" not in printed.out
        lines = printed.err.splitlines()
        assert lines[0] == f"clip-jax: reading {path}: 8 rows"
        used = f"clip-jax: devices: {jax.device_count()} × {jax.devices()[0].device_kind}"
        rest = {"fit": ["clip-jax: fitting error_mean of 8 runs", used], "compare": [lines[0]], "design": []}
        assert lines[1:] == ([used] if "--law=power" in verb else rest[verb[0]])


@pytest.mark.parametrize("name", ["none.tsv", "none.CSV", "none.jsonl", "none"])
def test_report_of_a_missing_file_is_one_line(name, tmp_path, capsys):
    assert main(["report", str(tmp_path / name)]) == 2
    assert error_fields(capsys.readouterr().err) == [str(tmp_path / name)]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EROFS, "Read-only file system", "/a"), "lies on a read-only file system"),
        (PermissionError(errno.EACCES, "Permission denied", "/a"), "permission denied"),
        (MemoryError("Unable to allocate 9 TiB"), "out of memory (Unable to allocate 9 TiB)"),
    ],
)
def test_main_full_disk_or_memory_is_one_line_in_every_verb(monkeypatch, capsys, error, reason):
    def fail(*_, **options):
        raise error

    for function, arguments in (
        ("clip_jax.sweep.analysis.report.report_of_table", ["report", "a.csv"]),
        ("clip_jax.inference.export", ["export", "m", "d"]),
        ("clip_jax.cli.main.run_verb", ["fit", "t"]),
    ):
        monkeypatch.setattr(function, fail)
        assert main(arguments) == MISTAKE
        errors = capsys.readouterr().err
        assert errors.count("\n") == 1
        assert reason in errors


def test_main_unreachable_bucket_is_one_line_and_exits_for_a_retry(monkeypatch, capsys):
    def fail(*_):
        raise BucketUnavailable(5, "the bucket does not answer (no way there)", "gs://SECRET@bucket/x")

    monkeypatch.setattr(cli, "run_verb", fail)
    assert main(["fit", "t"]) == STOPPED
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert errors.startswith("clip-jax: gs://***@bucket/x: the bucket does not answer (no way there)")


@pytest.mark.parametrize("arguments", [["flops", "ViT-B/32", "--no-xla"], ["sweep", "--help"], ["--version"]])
def test_command_with_unread_output_ends_quietly(arguments):
    command = [sys.executable, "-m", "clip_jax.cli", *arguments]
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}  # else argparse hides what fails
    with subprocess.Popen(command, env=buffered, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()  # before anything is written
        assert process.stderr.read() == b""
    assert process.returncode == UNREAD
