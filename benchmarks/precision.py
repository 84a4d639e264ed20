"""Do the memory tricks of the paper cost accuracy? Runs with each, against float32 runs of the same seeds.

    python benchmarks/precision.py [--steps 600 --seeds 4 --only moments --out runs/precision]

Fixed before anything ran: a trick passes when its mean validation loss over the seeds lies within two standard
deviations of the float32 runs' (over their seeds) of the float32 mean. Rounding to the nearest is there as a control:
it is what stochastic rounding is for. Runs already in the folder are not repeated.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from pathlib import Path
from typing import Any

MARGIN = 2.0  # standard deviations of the float32 runs
TRICKS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16 compute": {"model": {"compute_dtype": "bfloat16"}},
    "float16 compute, loss scale": {"model": {"compute_dtype": "float16"}},
    "recomputed blocks": {"model": {"remat": True}},
    "bfloat16 moments": {"optim": {"state_dtype": "bfloat16"}},
    "bfloat16 text weights": {"model": {"text_param_dtype": "bfloat16"}},
    "float16 text weights": {"model": {"text_param_dtype": "float16"}},
    "all: bfloat16 compute, moments, text weights": {
        "model": {"compute_dtype": "bfloat16", "text_param_dtype": "bfloat16", "remat": True},
        "optim": {"state_dtype": "bfloat16"},
    },
    "control: bfloat16 text weights, nearest": {
        "model": {"text_param_dtype": "bfloat16"}, "optim": {"half_rounding": "nearest"},
    },
}  # fmt: skip


def base(steps: int, rung: float) -> Any:
    from clip_jax.config import EvalConfig, OptimConfig, RunConfig
    from clip_jax.config.presets import ladder

    model = dataclasses.replace(ladder(rung), scan_layers=False)
    return RunConfig(
        model=model,
        optim=OptimConfig(peak_lr=4e-3, warmup_steps=steps // 10),
        evals=EvalConfig(max_examples=100, retrieval_images=64, val_partitions=4),
        steps=steps,
        log_every=100,
        wandb="disabled",
    )


def run_of(steps: int, rung: float, seed: int, changes: dict[str, Any]) -> Any:
    run = base(steps, rung)
    fields = {name: dataclasses.replace(getattr(run, name), **values) for name, values in changes.items()}
    return dataclasses.replace(run, seed=seed, **fields)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rung", type=float, default=2, help="of the ladder")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--only", default="", help="tricks whose name has this, besides float32")
    parser.add_argument("--out", type=Path, default=Path("runs/precision"))
    args = parser.parse_args()

    from clip_jax.config.io import run_id
    from clip_jax.evals.in_training import make_evaluator
    from clip_jax.train.loop import train

    losses: dict[str, list[float]] = {}
    for name, changes in TRICKS.items():
        if args.only not in name and name != "float32":
            continue
        for seed in range(args.seeds):
            run = run_of(args.steps, args.rung, seed, changes)
            result = train(run, args.out / run_id(run), make_evaluator, progress=False)
            losses.setdefault(name, []).append(result["val_loss"])
        print(f"{name}: {', '.join(f'{x:.4f}' for x in losses[name])}", flush=True)
    mean, spread = statistics.mean(losses["float32"]), statistics.stdev(losses["float32"])
    print(f"\n{args.seeds} seeds, {args.steps} steps of 128 pairs of scenes; float32 sd {spread:.4f}\n")
    print("| trick | val_loss | off by | in float32 sd | within 2 |\n|---|---|---|---|---|")
    for name, values in losses.items():
        off = statistics.mean(values) - mean
        verdict = "yes" if abs(off) <= MARGIN * spread else "no"
        print(f"| {name} | {mean + off:.4f} | {off:+.4f} | {off / spread:+.2f} | {verdict} |")


if __name__ == "__main__":
    main()
