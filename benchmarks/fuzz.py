"""Damaged and hostile input for every reader of files from outside: `make fuzz`.

Each case is a well-formed sample with one to three mutations, by a seed of its own, read in a process with a limit of
time. What may come of it: it is read, or refused with one line. A traceback, a hang of more than 10 s, more than 2 GB,
a process that dies, or a file outside the case's folder is a failure; its input and traceback are kept under --out.

    python benchmarks/fuzz.py                       # 2,000 cases of each reader
    python benchmarks/fuzz.py --readers=tar --cases=50
    python benchmarks/fuzz.py --readers=tar --first=17 --cases=1   # one case again
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from fuzz_mutations import Files, mutate
from fuzz_readers import READERS, Reader

HANG_S, MEMORY, START_S = 10.0, 2 << 30, 180.0


def make_case(name: str, samples: list[Files], seed: int, number: int, root: Path) -> Files:
    """The files of one case; the same for the same reader, seed and number. Case 0 of each sample is well-formed."""
    rng = random.Random(f"{name} {seed} {number}")
    files = dict(samples[number % len(samples)])
    if number < len(samples):
        return files
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        file = rng.choice(sorted(files))
        files[file] = mutate(rng, file, files[file], str(root))
    return files


def read_case(reader: Reader, folder: Path) -> tuple[str, str]:
    """What came of it: ``read``, ``refused`` with its line, or ``failed`` with a traceback."""
    from clip_jax.data.sources.base import BrokenRecord
    from clip_jax.errors import UserError

    try:
        reader.read(folder)
    except (UserError, BrokenRecord, MemoryError) as error:  # the command says the last one in one line too
        lines = str(error).count("\n")
        return ("failed", f"{lines + 1} lines: {error}") if lines else ("refused", str(error))
    except BaseException as error:  # a panic of a library in Rust is no Exception
        if isinstance(error, KeyboardInterrupt):
            raise
        return "failed", traceback.format_exc(limit=-6)
    return "read", ""


def work(name: str, seed: int, first: int, count: int, root: Path) -> None:
    """A worker: a line of JSON for each case, and one before it."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    reader = READERS[name]
    samples = reader.samples()
    folder = root / "inside" / "case"
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what readers print
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for number in range(first, first + count):
        files = make_case(name, samples, seed, number, root)
        shutil.rmtree(folder, ignore_errors=True)
        for file, data in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(data)
        print(json.dumps({"begin": number}), file=out)
        began = time.monotonic()
        came, output = read_case(reader, folder)
        peak = _peak_memory()
        row = {"end": number, "came": came, "said": output[-3000:], "seconds": time.monotonic() - began, "peak": peak}
        print(json.dumps(row), file=out)


def _peak_memory() -> int:
    """Highest memory of this process in bytes. Linux' own count: the other begins at that of whoever started it."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else []:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _listing(root: Path) -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*") if not p.is_relative_to(root / "inside")}


def fuzz(name: str, seed: int, first: int, cases: int, out: Path) -> dict[str, Any]:
    """Run the cases of one reader; returns counts and keeps failures under ``out``."""
    counts: Counter[str] = Counter()
    failures: list[tuple[int, str]] = []
    slowest = peak = 0.0
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for part in ("inside/case", "inside/home"):
            (root / part).mkdir(parents=True)
        before = _listing(root)
        environment = os.environ | {
            "HOME": str(root / "inside/home"), "XDG_CACHE_HOME": str(root / "inside/home"),
            "TMPDIR": str(root / "inside"),
            "CLIP_JAX_CACHE": str(root / "inside/home/c"), "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join(sys.path), "RUST_BACKTRACE": "0",
        }  # fmt: skip
        number, end = first, first + cases
        while number < end:
            command = [sys.executable, __file__, "--worker", name, f"--seed={seed}", f"--first={number}",
                       f"--cases={end - number}", f"--root={root}"]  # fmt: skip
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, text=True, cwd=root / "inside/case", env=environment
            )
            assert process.stdout is not None
            lines: queue.Queue[str] = queue.Queue()
            reading = threading.Thread(
                target=lambda p=process, q=lines: [*map(q.put, p.stdout), q.put("")], daemon=True
            )
            reading.start()
            patience, last_peak = START_S, 0.0
            while True:
                try:
                    line = lines.get(timeout=patience)
                except queue.Empty:
                    failures.append((number, f"hangs for more than {patience:.0f} s"))
                    number += 1
                    break
                if not line:
                    if number < end:
                        failures.append((number, f"the process ended with {process.wait()}"))
                        number += 1
                    break
                row = json.loads(line)
                if "begin" in row:
                    number, patience = row["begin"], HANG_S
                    continue
                patience = HANG_S
                counts[row["came"]] += 1
                slowest, peak = max(slowest, row["seconds"]), max(peak, row["peak"])
                if row["came"] == "failed":
                    failures.append((number, row["said"]))
                elif row["peak"] > MEMORY >= last_peak:
                    failures.append((number, f"takes {row['peak'] / 1e9:.1f} GB"))
                last_peak = row["peak"]
                number += 1
            process.kill()
            process.wait()
            reading.join()
            process.stdout.close()
        if outside := sorted(_listing(root) - before):
            failures.append((-1, f"written outside: {outside[:5]}"))
        samples = READERS[name].samples() if failures else []
        for case, output in failures:
            (out / name).mkdir(parents=True, exist_ok=True)
            (out / name / f"{case}.txt").write_text(output, errors="backslashreplace")
            if case >= 0:
                for file, data in make_case(name, samples, seed, case, root).items():
                    (out / name / f"{case}-{file.replace('/', '_')}").write_bytes(data)
    return {
        "reader": name, "cases": cases, "read": counts["read"], "refused": counts["refused"], "failures": failures,
        "slowest": slowest, "peak": peak, "seconds": time.monotonic() - began,
    }  # fmt: skip


def main() -> int:
    """Parse, run, print a table; the exit code says whether anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--readers", default=",".join(READERS))
    parser.add_argument("--cases", type=int, default=2000, help="of each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"), help="where failures are kept")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args.seed, args.first, args.cases, args.root)
        return 0
    print(f"{'reader':12} {'cases':>6} {'read':>6} {'refused':>8} {'failed':>7} {'slowest':>8} {'peak':>8} {'time':>7}")
    failed = 0
    for name in args.readers.split(","):
        row = fuzz(name, args.seed, args.first, args.cases, args.out.absolute())
        failed += len(row["failures"])
        print(
            f"{name:12} {row['cases']:6,d} {row['read']:6,d} {row['refused']:8,d} {len(row['failures']):7,d} "
            f"{row['slowest']:6.1f} s {row['peak'] / 1e6:5.0f} MB {row['seconds']:5.0f} s",
            flush=True,
        )
        kinds = Counter(ascii((output.strip().splitlines() or [""])[-1][:140]) for _, output in row["failures"])
        for output, count in kinds.most_common(8):
            print(f"    {count} × {output}", flush=True)
    print(f"{failed} failures" + (f", kept in {args.out}" if failed else ""))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
