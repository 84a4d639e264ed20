"""The fuzzing of every reader (`benchmarks/fuzz.py`, `make fuzz`) in its smallest form."""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = str(Path(__file__).parents[1] / "benchmarks")


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, BENCHMARKS)
    try:
        return importlib.import_module("fuzz")
    finally:
        sys.path.remove(BENCHMARKS)


@pytest.mark.parametrize("name", ["tar", "image", "captions", "config", "overrides", "tokenizer"])
def test_fuzzed_input_gives_one_line_at_most(bench, name, tmp_path):
    row = bench.fuzz(name, seed=1, first=0, cases=30, out=tmp_path)
    assert row["failures"] == []
    assert row["read"] + row["refused"] == 30
    assert row["read"]  # else the samples are none, and their mutations say nothing
    assert row["peak"] < bench.MEMORY


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["table", "records", "suite", "package", "safetensors", "model"])
def test_fuzzed_input_of_slow_readers_gives_one_line_at_most(bench, name, tmp_path):
    row = bench.fuzz(name, seed=1, first=0, cases=40, out=tmp_path)
    assert row["failures"] == []
    assert row["read"] + row["refused"] == 40
    assert row["read"]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("raise KeyError('a bug')", "KeyError"),
        ("raise UserError('two\\x00' + chr(10) + 'lines')", None),
        ("os.abort()", "ended with"),
        ("(folder.parents[1] / 'escaped').write_text('')", "written outside"),
        ("time.sleep(60)", "hangs"),
    ],
)
def test_fuzz_reports_each_kind_of_failure(tmp_path, body, expected):
    # A reader that fails in each way, put in the place of one of ours.
    for file in ("fuzz.py", "fuzz_mutations.py"):
        shutil.copy(Path(BENCHMARKS) / file, tmp_path)
    (tmp_path / "fuzz_readers.py").write_text(
        "import os, time\nfrom dataclasses import dataclass\nfrom typing import Any\n"
        "from clip_jax.errors import UserError\n"
        "@dataclass\nclass Reader:\n    samples: Any\n    read: Any\n"
        f"def read(folder):\n    {body}\n"
        "READERS = {'tar': Reader(lambda: [{'a.tar': b'x'}], read)}\n"
    )
    program = "import fuzz, sys; fuzz.HANG_S = 2.0; sys.argv[1:] = ['--cases=1', '--out=o']; sys.exit(fuzz.main())"
    environment = os.environ | {"PYTHONPATH": str(Path(BENCHMARKS).parent)}
    options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "check": False}
    done = subprocess.run([sys.executable, "-c", program], **options)
    assert done.returncode == (0 if expected is None else 1), done.stderr
    assert expected is None or expected in done.stdout
