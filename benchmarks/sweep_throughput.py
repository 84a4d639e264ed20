"""How many small runs per hour does a slot train, in one process and in a process each?

    python benchmarks/sweep_throughput.py [--runs 12 --rungs 0.5,1 --steps 200 --memory 0]

The runs of a sweep on one core, handed over by the sweep's own engine: sizes in turn, each run with its own learning
rate and length, and the quickstart's evaluation. Both ways begin with an empty compilation cache and take turns; wall
and processor time (of the slot's processes) are those of all runs. ``--memory``: train so many runs in one process and
print its size as it goes, instead.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

from clip_jax.config import EvalConfig, ImageTowerConfig, ModelConfig, OptimConfig, RunConfig, TextTowerConfig
from clip_jax.config.io import to_dict
from clip_jax.config.presets import ladder
from clip_jax.config.sweep import Resources
from clip_jax.storage.json_files import write_json
from clip_jax.sweep.launch.base import Job, train_job
from clip_jax.sweep.launch.local import Local, on_cores
from clip_jax.sweep.launch.reconcile import Outcome, reconcile


def make_runs(count: int, rungs: list[float], steps: int) -> list[RunConfig]:
    """Return runs as a sweep plans them: budgets ascending, the sizes of each in turn."""
    image, text = ImageTowerConfig(image_size=32, patch_size=16), TextTowerConfig(context_length=20, vocab_size=1024)
    base = ModelConfig(image=image, text=text, scan_layers=False)
    evals = EvalConfig(zero_shot=("scenes",), max_examples=480, val_pairs=1024, val_partitions=2)
    return [
        RunConfig(
            model=ladder(rungs[i % len(rungs)], base),
            optim=OptimConfig(peak_lr=4e-3 / (1 + i), warmup_steps=max(1, (steps + i) // 10)),
            evals=evals,
            batch_size=64,
            steps=steps + i,
            wandb="disabled",
        )
        for i in range(count)
    ]


def submit_all(root: Path, runs: list[RunConfig], *, share: bool, sizes: bool = False) -> tuple[float, float]:
    """Train the runs in one slot; return seconds of wall and of processor time."""
    jobs: list[Job] = []
    for i, run in enumerate(runs):
        run_dir = root / f"{i:03d}"
        run_dir.mkdir(parents=True)
        write_json(run_dir / "request.json", to_dict(run))
        jobs.append(train_job(run_dir))
    engine, ended = Local(root, 1, Resources(share_process=share)), []

    def report(outcome: Outcome) -> None:
        if outcome.reason:
            raise SystemExit(f"{outcome.job.key}: {outcome.reason}")
        ended.append(outcome)
        if sizes and len(ended) % max(1, len(runs) // 10) == 0:  # it has begun the next run, or waits after the last
            pid = next(iter([*engine.idle.values(), *(c.process for c in engine.children.values())])).process.pid
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            print(f"| {len(ended)} | {pages * os.sysconf('SC_PAGE_SIZE') / 2**20:.0f} | {pid} |", flush=True)

    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    reconcile(engine, jobs, 1, report)
    engine.detach()
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--rungs", default="0.5,1")
    parser.add_argument("--steps", type=int, default=200, help="of the first run; each of the others has one more")
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--memory", type=int, default=0, metavar="RUNS")
    args = parser.parse_args()
    rungs = [float(r) for r in args.rungs.split(",")]
    with on_cores({max(os.sched_getaffinity(0))}), tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if args.memory:
            print("| runs | MiB | process |\n|---|---|---|")
            submit_all(root / "memory", make_runs(args.memory, rungs, args.steps), share=True, sizes=True)
            return
        runs, hours = make_runs(args.runs, rungs, args.steps), {}
        about = f"{args.runs} runs of {args.steps} steps and more, rungs {args.rungs}"
        print(f"one core, {about}; load {os.getloadavg()[0]:.1f}\n")
        print("| a process for | wall s | processor s | runs per hour | by processor time |\n|---|---|---|---|---|")
        for turn in range(args.turns):
            for name, share in (("each run", False), ("all runs", True)):
                os.environ["CLIP_JAX_CACHE"] = str(root / f"cache-{turn}-{share}")
                wall, cpu = submit_all(root / f"{turn}-{share}", runs, share=share)
                hours.setdefault(name, []).append((wall, cpu))
                hour = " | ".join(f"{3600 * len(runs) / seconds:.0f}" for seconds in (wall, cpu))
                print(f"| {name} | {wall:.1f} | {cpu:.1f} | {hour} |", flush=True)
        ratios = [min(t[i] for t in hours["each run"]) / min(t[i] for t in hours["all runs"]) for i in (0, 1)]
        print(f"\nratio {ratios[0]:.2f}, by processor time {ratios[1]:.2f}")


if __name__ == "__main__":
    main()
