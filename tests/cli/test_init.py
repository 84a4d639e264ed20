"""Example configs: they are what the package ships, the real reader takes them, and they run."""

import csv
import json
import tomllib

import numpy as np
import pytest
from PIL import Image

from clip_jax.cli.init import EXAMPLES, write_example
from clip_jax.cli.main import main
from clip_jax.config import RunConfig
from clip_jax.config.io import load
from clip_jax.config.presets import preset
from clip_jax.config.sweep import SweepConfig

from ..user_errors import raises_user_error

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:Sharding info:UserWarning")


@pytest.mark.parametrize("name", ["quickstart", "photos", "finetune", "pod"])
def test_init_writes_a_config_that_the_reader_takes(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", name, "my/own"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"my/own/{name}.py\n\n")
    assert f"--config=my/own/{name}.py" in out
    assert "Hardware:" in out
    cls = RunConfig if name in ("photos", "finetune") else SweepConfig
    config = load(cls, f"my/own/{name}.py", model_of={"openai/ViT-B-32": preset("ViT-B/32")}.__getitem__)
    assert name != "finetune" or config.model == preset("ViT-B/32")
    if cls is RunConfig:  # one step works, whatever the length of the example
        load(cls, f"my/own/{name}.py", {"steps": "1"}, model_of={"openai/ViT-B-32": config.model}.__getitem__)


@pytest.mark.parametrize("name", ["sweeps", "experiments"])
def test_init_writes_the_folder_that_the_documentation_names(name, tmp_path, monkeypatch, pytestconfig, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", name, "."]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    files = [path for path in (pytestconfig.rootpath / name).iterdir() if path.suffix in (".py", ".json")]
    assert listed == sorted(f"{name}/{path.name}" for path in files)
    assert all((tmp_path / name / path.name).read_text() == path.read_text() for path in files)
    (tmp_path / name / files[0].name).unlink()
    with raises_user_error(reason="exists already"):
        write_example(name, tmp_path)
    assert not (tmp_path / name / files[0].name).exists()


def test_every_example_is_in_the_wheel_and_written_by_some_name(tmp_path, pytestconfig):
    package = pytestconfig.rootpath / "clip_jax"
    examples = {path for path in (package / "cli" / "examples").rglob("*") if path.suffix in (".py", ".json")}
    project = tomllib.loads((pytestconfig.rootpath / "pyproject.toml").read_text())
    packaged = project["tool"]["setuptools"]["package-data"]["clip_jax"]
    assert examples <= {path for pattern in packaged for path in package.glob(pattern)}
    for name in EXAMPLES:
        write_example(name, tmp_path / name)
    assert {path.name for path in tmp_path.rglob("*.*")} == {path.name for path in examples}


def test_init_quickstart_plans(tmp_path, capsys):
    assert main(["init", "quickstart", str(tmp_path)]) == 0
    assert main(["sweep", "plan", f"--config={tmp_path}/quickstart.py"]) == 0
    assert "runs kept" in capsys.readouterr().out


def test_init_refuses_to_overwrite(tmp_path):
    (tmp_path / "photos.py").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for folder, reason in ((tmp_path, "exists already"), (tmp_path / "file", "is there already and is no folder")):
        with raises_user_error(reason=reason):
            write_example("photos", folder)
    assert (tmp_path / "photos.py").read_text() == (tmp_path / "file").read_text() == "mine"


def test_init_of_no_example_is_refused(capsys, tmp_path):
    assert main(["init", "photo", str(tmp_path)]) == 2
    assert (
        "EXAMPLE='photo': must be one of quickstart, photos, finetune, pod, sweeps, experiments; did you mean photos?"
        in capsys.readouterr().err
    )


def write_pictures(folder, count):
    """Write a folder of pictures of one of four colors each, with captions."""
    folder.mkdir()
    colors = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
    rows = []
    for i in range(count):
        name, color = list(colors.items())[i % 4]
        noise = np.random.default_rng(i).integers(0, 60, (48, 64, 3))
        Image.fromarray(np.clip(np.array(color) - noise, 0, 255).astype(np.uint8)).save(folder / f"{i}.png")
        rows.append((f"{i}.png", f"a {name} picture, number {i}"))
    with (folder / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("filename", "caption"), *rows])


@pytest.mark.thorough
def test_init_photos_trains_on_a_folder_of_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "pictures", 160)
    assert main(["init", "photos", "."]) == 0
    command = ["train", "--config=photos.py", "--dir=run", "--quiet", "--steps=4", "--batch_size=16"]
    assert main([*command, "--evals.val_pairs=1000"]) == 2
    error = capsys.readouterr().err
    assert "evals.val_pairs=1000: " in error
    assert error.endswith(" works\n")
    assert main(command) == 0  # in the same directory
    assert capsys.readouterr().out.count("finished: run") == 1
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 4
