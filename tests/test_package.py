"""The package as a whole: cheap to import, and layered."""

import subprocess
import sys

import pytest

import clip_jax


@pytest.mark.parametrize("module", ["config", "config_io", "presets", "flops", "sweep.plan", "cli"])
def test_planning_modules_leave_heavy_libraries_unloaded(module):
    program = (
        f"import sys, clip_jax.{module}\n"
        "heavy = {'jax', 'tensorflow_datasets', 'wandb', 'matplotlib', 'pandas', 'flax'} & set(sys.modules)\n"
        "sys.exit(' '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"clip_jax.{module} loads {done.stderr}"


def test_public_names_resolve():
    for name in clip_jax.__all__:
        assert getattr(clip_jax, name) is not None


def test_unknown_public_name_is_named():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = clip_jax.no_such_name


def test_imports_point_down_only():
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
