"""The benchmark for accelerators (`benchmarks/on_device.py`): what it decides, and that it runs."""

import argparse
import json
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "on_device.py"


@pytest.fixture(scope="module")
def bench():
    return runpy.run_path(str(SCRIPT))


def section(bench, out, **changes):
    options = {"tiny": True, "until": 0.0, "out": str(out), "only": ""} | changes
    return bench["Section"]("step", argparse.Namespace(**options))


def test_shares_pass_unused_seconds_to_later_sections(bench):
    names, now = list(bench["SHARES"]), time.monotonic()
    shares = {name: until - now for name, until in bench["shares"](names, now + 100)}  # none takes any time
    assert list(shares) == names
    assert all(shares[name] >= bench["SHARES"][name] - 0.5 for name in names)
    assert shares["env"] == pytest.approx(3, abs=0.5)
    assert shares["step"] == pytest.approx(100 * 40 / 88, abs=0.5)
    assert [shares["families"], shares["data"]] == pytest.approx([100, 100], abs=0.5)


def test_section_measures_once_and_writes_a_row(bench, tmp_path):
    made = []

    def once():
        made.append(1)
        return {"ms": 2.0}

    for _ in range(2):
        section(bench, tmp_path).measure("a", once)
    assert len(made) == 1
    section(bench, tmp_path).measure("b", lambda: 1 / 0)
    section(bench, tmp_path).measure("b", once)
    section(bench, tmp_path, only="step c").measure("d", once)
    section(bench, tmp_path, tiny=False).measure("e", once)
    rows = bench["read"](tmp_path / "on_device.jsonl")
    assert [row["what"] for row in rows] == ["step a", "step b", "step b", "step e"]
    assert rows[1]["error"].startswith("ZeroDivisionError")
    assert rows[3]["skipped"]
    assert len(made) == 2


@pytest.mark.thorough
def test_on_device_benchmark_runs_on_a_cpu(tmp_path):
    asked = "env,attention 77,step tiny × 8 xla-kept,determinism,families"
    command = [sys.executable, str(SCRIPT), "--tiny", "--out", str(tmp_path), "--only", asked]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "on_device.jsonl").read_text().splitlines()]
    by_name = {row["what"]: row for row in rows}
    assert not [row for row in rows if row.keys() & {"error", "skipped"}], rows
    assert by_name["env"]["matmul_tflops"] > 0
    assert all(by_name[f"attention 77 {kind}"]["agree"] for kind in ("causal", "full", "causal vmapped"))
    assert by_name["step tiny × 8 xla-kept"]["ms"] > 0
    assert by_name["determinism no flag"]["same_in_process"]
    assert by_name["families rung 1 × 2"]["gain"] > 0
    assert len(by_name) == 7
    assert "| step tiny × 8 xla-kept |" in done.stdout
