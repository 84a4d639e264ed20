"""The package as a whole: cheap to import, and layered."""

import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import clip_jax


@pytest.mark.parametrize("module", ["config", "config_io", "presets", "flops", "sweep.plan", "cli"])
def test_planning_modules_leave_heavy_libraries_unloaded(module):
    program = (
        f"import sys, clip_jax.{module}\n"
        "heavy = {'jax', 'tensorflow_datasets', 'wandb', 'matplotlib', 'pandas', 'flax'} & set(sys.modules)\n"
        "assert not sys.modules.get('logging') or not sys.modules['logging'].getLogger('clip_jax').handlers\n"
        "sys.exit(' '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"clip_jax.{module} loads {done.stderr}"
    assert done.stdout == ""


def test_public_names_resolve_to_what_can_be_called():
    for name in clip_jax.__all__:
        assert callable(getattr(clip_jax, name)), name


def test_no_public_name_is_a_module_too():
    # Importing a module binds its name in the package, over whatever had it.
    modules = {module.name for module in pkgutil.iter_modules(clip_jax.__path__)}
    assert not modules & set(clip_jax.__all__)


@pytest.mark.parametrize("before", ["", "clip_jax.load_model;", "import clip_jax.train.loop;"])
def test_train_is_the_package_whatever_was_imported_before(before):
    program = (
        f"import clip_jax, sys; {before} first, second = clip_jax.train, clip_jax.train\n"
        "assert first is second is sys.modules['clip_jax.train'], first\n"
        "try: first(None, 'run')\n"
        "except clip_jax.UserError as error: print(error.field, error.hint)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("clip_jax.train ")
    assert "clip_jax.train_run(" in done.stdout


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


def test_dir_lists_the_public_names_and_the_package_ships_its_types():
    assert set(clip_jax.__all__) <= set(dir(clip_jax))
    assert not {"Any", "import_module", "sys", "TYPE_CHECKING"} & set(dir(clip_jax))
    assert (Path(clip_jax.__file__).parent / "py.typed").exists()


@pytest.mark.thorough
def test_mypy_knows_the_type_of_every_public_name(tmp_path):
    program = ["import clip_jax", *(f"reveal_type(clip_jax.{name})" for name in clip_jax.__all__)]
    program += ['model = clip_jax.load_model("x")', "reveal_type(model)", "reveal_type(model.classify)"]
    (tmp_path / "user.py").write_text("\n".join([*program, "clip_jax.no_such_name", ""]))
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "mypy", "--config-file", str(root / "pyproject.toml"), str(tmp_path / "user.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    types = re.findall(r'Revealed type is "(.*)"', done.stdout)
    assert len(types) == len(clip_jax.__all__) + 2, done.stdout + done.stderr
    assert not {"Any", "builtins.object"} & set(types)
    assert types[-2] == "clip_jax.inference.LoadedModel"
    assert 'has no attribute "no_such_name"' in done.stdout
    assert "Found 1 error" in done.stdout


WINDOWS = """
import multiprocessing, subprocess, sys
import jax, flax.nnx, grain, huggingface_hub, matplotlib.pyplot, optax, orbax.checkpoint, pandas, scipy.optimize
# what Windows has not, taken from clip_jax alone
import os, select, signal
for name in ("fcntl", "pwd", "resource", "termios"):
    sys.modules[name] = None
for module, names in (
    (os, "fork getpgid getuid killpg pread sched_getaffinity setsid sysconf"), (select, "epoll poll"),
    (signal, "SIGALRM SIGHUP SIGKILL SIGUSR1 pthread_sigmask setitimer"),
):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
from clip_jax import load_model
from clip_jax.cli.main import main
assert load_model(sys.argv[2]).embed_images([sys.argv[4]]).shape[0] == 1
codes = main(["fit", sys.argv[1], "--law=chinchilla", "--y=val_loss"]), main(["train", f"--config={sys.argv[3]}"])
sys.exit(f"codes {codes}")
"""


@pytest.mark.thorough
def test_models_load_and_tables_are_fitted_without_what_windows_lacks(tmp_path, pytestconfig):
    root = pytestconfig.rootpath
    table, config = root / "experiments" / "results" / "icons" / "runs.csv", root / "experiments" / "debug.py"
    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    arguments = [table, root / "tests" / "parity" / "hf_clip", config, tmp_path / "red.png"]
    done = subprocess.run(
        [sys.executable, "-c", WINDOWS, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    *_, errors, codes = done.stderr.splitlines()
    assert codes == "codes (0, 2)", done.stderr
    assert errors.startswith("clip-jax: Windows has no locks for run directories; ")
    assert "beta" in done.stdout
