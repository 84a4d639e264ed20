"""Every dependency has a wheel for every platform and Python that the documentation promises, or is pure Python."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UV = shutil.which("uv", path=Path(sys.executable).parent) or shutil.which("uv")
PLATFORMS = {
    "Linux x86-64": "x86_64-manylinux_2_28",
    "Linux aarch64": "aarch64-manylinux_2_28",
    "macOS arm64": "aarch64-apple-darwin",
    "Windows x86-64": "x86_64-pc-windows-msvc",
}
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PURE = ("promise",)  # no wheel, but nothing in it to compile
NEEDED = {"jax", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "grain", "ml-collections", "wandb"}
UNREACHED = re.compile(
    r"error sending request|dns error|Network is unreachable|Failed to fetch|timed out", re.IGNORECASE
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(UV is None, reason="uv is not installed (extra 'dev'): pip cannot resolve for another platform"),
]


def resolve(requirements, python, platform, *, extra="", sdists=PURE):
    """Return (packages with versions, error) of the resolution for a platform, from wheels and the named sdists."""
    index = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True, check=False
    ).stdout.strip()
    command = [
        UV, "pip", "compile", str(requirements), "--quiet", "--no-header", "--no-annotate", "--only-binary=:all:",
        f"--python-version={python}", f"--python-platform={platform}", "--no-config",
        *(f"--no-binary={name}" for name in sdists), *([f"--extra={extra}"] if extra else []),
        *([f"--default-index={index}"] if index else []),
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip("the package index did not answer in 120 s")
    if done.returncode and UNREACHED.search(done.stderr):
        pytest.skip(f"no package index can be reached: {done.stderr.splitlines()[0]}")
    return dict(line.split(";")[0].strip().split("==") for line in done.stdout.splitlines()), done.stderr


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_dependency_has_a_wheel(platform, python):
    packages, error = resolve(ROOT / "pyproject.toml", python, PLATFORMS[platform])
    assert packages.keys() >= NEEDED, error


@pytest.mark.parametrize(
    ("extra", "platform", "plugin"),
    [
        ("gpu", "x86_64-manylinux_2_28", "jax-cuda12-plugin"),
        ("gpu", "aarch64-manylinux_2_28", "jax-cuda12-plugin"),
        ("gpu13", "x86_64-manylinux_2_28", "jax-cuda13-plugin"),
        ("gpu13", "aarch64-manylinux_2_28", "jax-cuda13-plugin"),
        ("gpu-preflight", "x86_64-manylinux_2_28", "jax-cuda13-pjrt"),
        ("tpu", "x86_64-manylinux_2_31", "libtpu"),
    ],
)
@pytest.mark.parametrize("python", [PYTHONS[0], PYTHONS[-1]])
def test_an_extra_for_an_accelerator_brings_its_plugin(extra, platform, plugin, python):
    packages, error = resolve(ROOT / "pyproject.toml", python, platform, extra=extra)
    assert plugin in packages, error


def test_a_package_without_a_wheel_is_told(tmp_path):
    (tmp_path / "requirements.in").write_text("promise")
    packages, error = resolve(tmp_path / "requirements.in", "3.13", PLATFORMS["Linux x86-64"], sdists=())
    assert not packages
    assert "no usable wheels" in error
