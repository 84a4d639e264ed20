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


def walk(python, root):
    """Run the page's commands with an interpreter under a folder; return (their folder, their environment's Python)."""
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


# one test per interpreter, as pytest-xdist hands tests out one by one
@pytest.mark.parametrize("version", sorted({OWN, "3.11", "3.12", "3.13"}))
def test_the_commands_of_the_page_make_what_it_says(version, tmp_path):
    if (python := interpreter(version)) is None:
        pytest.skip(f"there is no Python {version} on this machine")
    folder, python = walk(python, tmp_path)
    assert (folder / "runs" / "photos" / "result.json").is_file()
    assert (folder / "runs" / "small" / "report" / "report.html").is_file()
    assert len(list((folder / "pictures").glob("*.png"))) == 2000
    for name in ("sweeps", "experiments"):  # an install has the examples that the documentation names
        subprocess.run([python, "-m", "clip_jax.cli", "init", name, "."], cwd=folder, check=True)
        of_install, of_checkout = (
            {path.name for path in (root / name).iterdir() if path.is_file()} for root in (folder, ROOT)
        )
        assert of_install == of_checkout
    alone = similarity(python, block_of("clip_jax"), folder)
    assert -1 <= alone <= 1
    torch_python = os.environ.get(OTHER_LIBRARIES, "")
    if not Path(torch_python).is_file():
        pytest.skip(f"all but open_clip and transformers: {OTHER_LIBRARIES}={torch_python!r} is no Python; make torch")
    others = {library: similarity(torch_python, block_of(library), folder) for library in ("open_clip", "transformers")}
    assert others == pytest.approx({library: alone for library in others}, abs=2e-3)
