"""The blocks of docs/tutorials/whole-path.md, copied as they stand into a fresh interpreter and an empty directory."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .test_docs import ROOT, blocks

PAGE = ROOT / "docs" / "tutorials" / "whole-path.md"
PYENV = Path("~/.pyenv/versions").expanduser()
OTHER_LIBRARIES = "CLIP_JAX_TORCH_PYTHON"  # environment variable: a Python with open_clip and transformers
OWN = f"{sys.version_info.major}.{sys.version_info.minor}"
pytestmark = pytest.mark.slow


def interpreter(version):
    """Return a Python of this version on the machine, None without one."""
    if version == OWN:
        return sys._base_executable
    of_pyenv = sorted(PYENV.glob(f"{version}.*/bin/python"))  # first: on the PATH stands a shim that may not run
    return str(of_pyenv[-1]) if of_pyenv else shutil.which(f"python{version}")


@pytest.fixture(scope="module", params=sorted({OWN, "3.11", "3.13"}))
def walked(request, tmp_path_factory):
    """(folder in which the page's commands were run, Python that they were run with)"""
    if (python := interpreter(request.param)) is None:
        pytest.skip(f"there is no Python {request.param} on this machine")
    root = tmp_path_factory.mktemp("whole")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):  # the checkout as it is committed or changed, without what git ignores
        if (ROOT / name).is_file():
            (root / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / "checkout" / name)
    subprocess.run([python, "-m", "venv", root / "venv"], check=True)
    dropped = {"PYTHONPATH", "JAX_PLATFORMS", "XLA_FLAGS", "CLIP_JAX_CACHE"}
    env = {k: v for k, v in os.environ.items() if k not in dropped}
    env |= {"PATH": f"{root / 'venv' / 'bin'}:{env['PATH']}", "CLIP_JAX_CACHE": str(root / "cache")}
    script = "\n".join(blocks(PAGE, "sh"))
    done = subprocess.run(
        ["bash", "-euc", script], cwd=root / "checkout", env=env, capture_output=True, text=True, check=False
    )
    if done.returncode and any(
        s in done.stderr for s in ("No matching distribution", "ConnectionError", "NewConnection")
    ):
        pytest.skip(f"the dependencies cannot be installed here: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return root / "first-model", root / "venv" / "bin" / "python"


def similarity(python, code, folder):
    """Return the number that a block of the page prints."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}
    done = subprocess.run([python, "-c", code], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split("[[")[1].split("]")[0])


def block_of(library):
    """Return the Python block of the page that imports a library."""
    return next(
        block for block in blocks(PAGE, "python") if f"from {library} " in block or f"import {library}" in block
    )


def test_the_commands_of_the_page_make_what_it_says(walked):
    folder, python = walked
    assert (folder / "runs" / "photos" / "result.json").is_file()
    assert (folder / "runs" / "small" / "report" / "report.html").is_file()
    assert len(list((folder / "pictures").glob("*.png"))) == 2000
    assert -1 <= similarity(python, block_of("clip_jax"), folder) <= 1


@pytest.mark.parametrize("name", ["sweeps", "experiments"])
def test_an_install_has_the_examples_that_the_documentation_names(walked, name):
    folder, python = walked
    subprocess.run([python, "-m", "clip_jax.cli", "init", name, "."], cwd=folder, check=True)
    written, committed = ({path.name for path in (root / name).iterdir() if path.is_file()} for root in (folder, ROOT))
    assert written == committed


@pytest.mark.parametrize("library", ["open_clip", "transformers"])
def test_other_libraries_load_the_export_as_the_page_says(walked, library):
    if not (torch_python := os.environ.get(OTHER_LIBRARIES)):
        pytest.skip(f"{OTHER_LIBRARIES} names no Python with torch, open_clip and transformers")
    folder, python = walked
    reference, actual = (
        similarity(p, block_of(name), folder) for p, name in ((torch_python, library), (python, "clip_jax"))
    )
    assert reference == pytest.approx(actual, abs=2e-3)
