"""How long do large tables take? Fit, report and influence of 1e3, 1e4 and 1e5 rows: seconds and peak memory.

    python benchmarks/table_size.py [--rows=1000,10000,100000]

Each command is a process of its own, with an empty cache of compiled programs and then again. CPU seconds are those of
all its threads; peak memory is resident. Rows are simulated: errors of a cloud of runs around a shifted power law.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

COMMANDS = {
    "fit, all rows": ["fit", "TABLE", "--law=shifted", "--at=1e15"],
    "fit, all rows, size and data": ["fit", "TABLE", "--law=chinchilla", "--at=params=1e8,samples_seen=1e8"],
    "fit, Pareto frontier": ["fit", "TABLE", "--law=shifted", "--frontier=pareto", "--at=1e15"],
    "report": ["report", "TABLE", "--out=OUT"],
}
INFLUENCE = """
import sys
import pandas as pd
from clip_jax.distributed.mesh import enable_compile_cache
from clip_jax.scaling.uncertainty.diagnostics import influence
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.laws import law_named
enable_compile_cache()
df = pd.read_csv(sys.argv[1])
fit = fit_law(law_named("chinchilla"), df, df["error_mean"], profile=False)
print(influence(fit)[0].method)
"""


def table(rows, seed=0):
    """A cloud of runs whose sizes lie an e-fold around the best one of their compute."""
    rng = np.random.default_rng(seed)
    flops = np.exp(rng.uniform(np.log(1e10), np.log(1e14), rows))
    best = np.sqrt(flops / 120)
    size = best * np.exp(rng.normal(0, 1.0, rows))
    off = 0.02 * np.log(size / best) ** 2 + 0.03 * rng.standard_normal(rows)
    error = np.minimum(0.15 + 0.75 * (1 + flops / 3e10) ** -0.3 * np.exp(off), 0.98)
    return pd.DataFrame(
        {
            "run_id": [f"run{i}" for i in range(rows)], "flops": flops, "params": size,
            "samples_seen": flops / 6 / size, "error_mean": error,
        }
    )  # fmt: skip


# a process's highest memory starts at that of who started it: this one is small
STARTER = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([done.returncode, done.stderr[-500:], used.ru_utime + used.ru_stime, used.ru_maxrss / 1e6]))
"""


def measured(command, cache):
    """(seconds, CPU seconds, peak GB) of a process. Raises RuntimeError where it fails."""
    begin = time.perf_counter()
    starter = [sys.executable, "-I", "-S", "-c", STARTER, *command]
    output = subprocess.run(
        starter, env=os.environ | {"CLIP_JAX_CACHE": str(cache)}, stdout=subprocess.PIPE, check=True
    ).stdout
    seconds = time.perf_counter() - begin
    code, printed, cpu, gb = json.loads(output)
    if code:
        raise RuntimeError(f"{' '.join(command)}: {printed}")
    return seconds, cpu, gb


def measure(rows, folder, only=""):
    """Rows {rows, command, cache, seconds, cpu, gb} of every command on one table, without a cache and with one."""
    path = Path(folder) / f"table{rows}.csv"
    table(rows).to_csv(path, index=False)
    commands = {
        name: [sys.executable, "-m", "clip_jax.cli", *(str(path) if a == "TABLE" else a for a in words)]
        for name, words in COMMANDS.items()
    }
    commands["report"][-1] = f"--out={folder}/report{rows}"
    commands["fit and influence, size and data"] = [sys.executable, "-c", INFLUENCE, str(path)]
    for name, command in commands.items():
        if only not in name:
            continue
        cache = Path(folder) / f"cache-{rows}-{name.replace(' ', '-')}"
        for kind in ("empty", "filled"):
            seconds, cpu, gb = measured(command, cache)
            yield {"rows": rows, "command": name, "cache": kind, "seconds": seconds, "cpu": cpu, "gb": gb}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", default="1000,10000,100000")
    parser.add_argument("--only", default="", help="commands whose name has this")
    args = parser.parse_args()
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print("| rows | command | cache | seconds | CPU seconds | peak GB |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for rows in map(int, args.rows.split(",")):
            for r in measure(rows, folder, args.only):
                numbers = f"{r['seconds']:.1f} | {r['cpu']:.1f} | {r['gb']:.2f}"
                print(f"| {r['rows']:,} | {r['command']} | {r['cache']} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
