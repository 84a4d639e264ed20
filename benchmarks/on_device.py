"""All that only an accelerator can say about training, within a quarter of an hour.

    python benchmarks/on_device.py --budget 380 --out FOLDER     # all sections, each with its share of the seconds
    python benchmarks/on_device.py --only step,torch             # what has one of these in its name; again: goes on
    python benchmarks/on_device.py --tiny                        # small shapes, to try the script on a CPU

A measurement is a line of FOLDER/on_device.jsonl as soon as it is known; one that is there is not made again unless it
failed. A section is a process of its own, so one that dies takes nothing with it. The seconds that a section leaves
over go to those behind it. It needs jax, flax, optax, absl and yaml; `torch` and `data` are passed over where their
packages are missing.

env          the largest matrix product and copy
attention    fused against written out, values and gradients of a stack of blocks, and of two at once (`jax.vmap`)
step         training steps as `model.attention` and `model.remat_policy` have them; MFU as the package counts it
determinism  the same steps twice in a process and in two, with and without XLA's flag
torch        the same shapes on PyTorch: fused attention, bfloat16 autocast, fused AdamW, eager and compiled
families     eight small runs in one program against one
data         the training loop fed with JPEGs
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
SHARES = {"env": 3, "attention": 9, "step": 40, "determinism": 10, "torch": 33, "families": 5, "data": 0}
GRACE = 15  # seconds for a measurement that was begun in time
# seconds that one measurement takes on an H100, compiling included: none is begun that would not end in time
COSTS = {"step": 24, "determinism": 30, "torch eager": 10, "torch compiled": 35, "families": 35}


class Section:
    """What is measured in one process: names its rows, passes over those that are there, and keeps to its seconds."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        self.name, self.tiny, self.until = name, args.tiny, args.until
        self.file, self.only = Path(args.out) / "on_device.jsonl", args.only
        self.made = {row["what"] for row in read(self.file) if not row.keys() & {"error", "skipped"}}

    def say(self, what: str, **row: Any) -> None:
        line = json.dumps({"what": f"{self.name} {what}".strip()} | row)
        print(line, flush=True)
        with open(self.file, "a") as file:
            file.write(line + "\n")

    def wanted(self, what: str) -> bool:
        """Whether it was asked for and has not been measured before."""
        name = f"{self.name} {what}".strip()
        return name not in self.made and (not self.only or any(part in name for part in self.only.split(",")))

    def in_time(self, cost: str) -> bool:
        """Whether what takes the seconds of ``cost`` would end before the section must."""
        return self.tiny or time.monotonic() + COSTS.get(cost, 4) < self.until

    def start(self, section: str, **variables: str) -> subprocess.Popen[str]:
        """Another section as a process, for what it prints."""
        command = [sys.executable, str(HERE), "--section", section, *(["--tiny"] if self.tiny else [])]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=os.environ | variables, **pipes)

    def measure(self, what: str, once: Callable[[], dict[str, Any]], cost: str = "") -> None:
        """One row; a measurement that fails is a row too."""
        if not self.wanted(what):
            return
        if not self.in_time(cost or self.name):
            self.say(what, skipped="no time")
            return
        try:
            self.say(what, **once())
        except Exception as error:  # noqa: BLE001 - whatever a device or a library raises is what came of it
            self.say(what, error=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}")


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def shares(names: list[str], until: float) -> Iterator[tuple[str, float]]:
    """Each section with the moment that it must end, its share of what is left then."""
    for i, name in enumerate(names):
        rest = sum(SHARES[n] for n in names[i:])
        left = until - time.monotonic()
        yield name, time.monotonic() + left * (SHARES[name] / rest if rest else 1)


def print_table(rows: list[dict[str, Any]]) -> None:
    print("\n| what | ms | fed | samples/s | TFLOP/s | MFU | GiB | compile s | |")
    print("|---" * 9 + "|")
    columns = ("ms", "ms_fed", "samples_s", "tflops", "mfu", "planned_gib", "compile_s")
    for row in {row["what"]: row for row in rows}.values():
        cells = ["" if row.get(c) is None else f"{row[c]:.1%}" if c == "mfu" else str(row[c]) for c in columns]
        rest = "; ".join(f"{k} {v}" for k, v in row.items() if k not in columns and k != "what")
        print(f"| {row['what']} | {' | '.join(cells)} | {rest} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=os.environ.get("OUT", "."), help="folder of on_device.jsonl")
    parser.add_argument("--budget", type=float, default=900.0, help="seconds for all")
    parser.add_argument("--only", default="", help="parts of names, with commas: what has none of them is left out")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, default=0.0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.section:
        sys.path[:0] = [str(HERE.parent.parent), str(HERE.parent)]
        from device_arms import SECTIONS

        SECTIONS[args.section](Section(args.section, args))
        return
    Path(args.out).mkdir(parents=True, exist_ok=True)
    asked = [part.split()[0] for part in args.only.split(",") if part]
    names = [n for n in SHARES if not set(asked) <= SHARES.keys() or n in asked or not asked]
    for name, until in shares(names, time.monotonic() + args.budget):
        command = [sys.executable, str(HERE), "--section", name, "--out", args.out, "--until", str(until)]
        command += ["--only", args.only] + (["--tiny"] if args.tiny else [])
        variables = {"PYTHONUNBUFFERED": "1", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92", **os.environ}
        began, left = time.monotonic(), None if args.tiny else max(until - time.monotonic(), 0) + GRACE
        process = subprocess.Popen(command, env=variables, start_new_session=True)
        try:
            if code := process.wait(left):
                Section(name, args).say("", error=f"exit code {code}")
        except subprocess.TimeoutExpired:
            Section(name, args).say("", error="over its share of the seconds")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and what it started
        print(f"# {name}: {time.monotonic() - began:.0f} s", flush=True)
    print_table(read(Path(args.out) / "on_device.jsonl"))


if __name__ == "__main__":
    main()
