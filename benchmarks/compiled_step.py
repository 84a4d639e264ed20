"""What does XLA make of the training step for accelerators that are not at hand? Nothing is run.

    python benchmarks/compiled_step.py --targets h100:1,h200:1,b200:1,h100:8 [--models ViT-B/32 --batch 1024]

Targets are those of ``clip-jax sweep preflight``, with its extras gpu-preflight and preflight. A row: memory per
device, kernels and bytes they move in a step, its least time by `clip_jax.flops.compiled`, and the share of the nominal
bfloat16 peak which the model's FLOPs then make ("MFU at best"). Without ``--batch`` the largest power of two of pairs
per device that fits. ``--explain`` adds what takes the time, ``--kernels N`` the N longest groups of kernels of one
name and origin, ``--hlo FOLDER`` keeps the programs.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import math
import re
from pathlib import Path
from typing import Any

# all kept, attention written out: the default before attention and what is kept were chosen by the devices
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "before": {"attention": "xla", "remat_policy": "nothing"},
    "nothing kept": {"remat": True, "remat_policy": "nothing"},
    "unrolled": {"scan_layers": False},
}
FIRST_TRY = {"ViT-B/32": 1024, "ViT-B/16": 512, "ViT-L/14": 128, "ViT-H/14": 64}


def run_of(name: str, batch: int, depth: int, **fields: Any) -> Any:
    """Return the run of a preset in bfloat16; ``depth`` above 0 replaces that of both towers."""
    from clip_jax.config import OptimConfig, RunConfig
    from clip_jax.config.presets import preset

    model = preset(name)
    if depth:
        image, text = (dataclasses.replace(tower, depth=depth) for tower in (model.image, model.text))
        model = dataclasses.replace(model, image=image, text=text)
    model = dataclasses.replace(model, compute_dtype="bfloat16", **fields)
    return RunConfig(model=model, batch_size=batch, steps=10, optim=OptimConfig(warmup_steps=1))


def longest(best: Any, count: int) -> list[str]:
    """Return a line for each of the groups of kernels, of one name and origin, that take longest."""
    groups: dict[tuple[str, str], list[float]] = {}
    for kernel, seconds in best.kernels:
        key = re.sub(r"[.\d]+$", "", kernel.name), kernel.source.rsplit("jit(train_step)/", 1)[-1][-70:]
        total = groups.setdefault(key, [0.0, 0, 0.0])
        for i, x in enumerate((seconds, kernel.calls, kernel.calls * kernel.bytes)):
            total[i] += x
    ranked = sorted(groups.items(), key=lambda group: -group[1][0])[:count]
    return [
        f"{1e3 * seconds:9.2f} ms {calls:5,.0f} × {moved / calls / 2**20:8.1f} MiB  {name}: {source}"
        for (name, source), (seconds, calls, moved) in ranked
    ]


def largest(name: str, depth: int, way: str, target: Any) -> tuple[Any, Any]:
    """Return run and compiled step at the largest power of two of pairs per device that fits."""
    from clip_jax.models.execution import resolve
    from clip_jax.sweep.preflight.preflight import compile_step

    count, batch = len(target.devices), FIRST_TRY.get(name, 64)
    tried: dict[int, tuple[Any, Any]] = {}
    while True:
        run = run_of(name, batch * count, depth, **WAYS[way])
        run = dataclasses.replace(run, model=resolve(run.model, target.devices[0]))
        step = compile_step(run, target)
        tried[batch] = run, step
        a_pair = max(step.needed - step.state, 1) / batch
        fits = 2 ** int(math.log2(max((target.memory - step.state) / a_pair, 1)))
        following = fits if not step.reason and fits > batch else batch // 2 if step.reason else batch
        if following in tried or not following:
            return next((tried[b] for b in sorted(tried, reverse=True) if not tried[b][1].reason), tried[batch])
        batch = following


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", default="h100:1")
    parser.add_argument("--models", default="ViT-B/32,ViT-B/16,ViT-L/14,ViT-H/14")
    parser.add_argument("--ways", default="before,default", help=f"of {', '.join(WAYS)}")
    parser.add_argument("--batch", type=int, default=0, help="pairs per device; 0: the most that fit")
    parser.add_argument("--depth", type=int, default=0, help="blocks of each tower, for a quick look")
    parser.add_argument("--explain", action="store_true")
    parser.add_argument("--kernels", type=int, default=0, help="groups of kernels to list")
    parser.add_argument("--hlo", type=Path, help="folder for the optimized programs")
    args = parser.parse_args()
    logging.getLogger("jax").setLevel(logging.ERROR)  # which warns of the platform that is not here

    from clip_jax import flops
    from clip_jax.flops.devices import GIB
    from clip_jax.models.execution import resolve
    from clip_jax.sweep.preflight.preflight import compile_step
    from clip_jax.sweep.preflight.targets import find_target

    columns = ("target", "step", "way", "pairs per device", "GiB", "kernels", "GiB moved", "FLOPs, of the model's")
    columns += ("ms at best", "MFU at best")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name in args.targets.split(","):
        target = find_target(name)
        for model in args.models.split(","):
            for way in args.ways.split(","):
                if args.batch:
                    run = run_of(model, args.batch * len(target.devices), args.depth, **WAYS[way])
                    run = dataclasses.replace(run, model=resolve(run.model, target.devices[0]))
                    step = compile_step(
                        run, target, args.hlo / f"{name}-{model}-{way}.hlo".replace("/", "") if args.hlo else None
                    )
                else:
                    run, step = largest(model, args.depth, way, target)
                row = [name, model, way, f"{run.batch_size // len(target.devices):,}", f"{step.needed / GIB:.1f}"]
                best = step.best
                if best is None:
                    print(f"| {' | '.join([*row, step.reason or 'not known'])} | | | | |", flush=True)
                    continue
                work = flops.training_flops(run.model, run.batch_size, run.batch_size).total / len(target.devices)
                kernels = sum(k.calls for k, _ in best.kernels)
                moved = f"{best.bytes / GIB:,.0f}" if best.bytes else "-"
                counted = f"{best.flops / work:.3f}" if best.flops else "-"
                row += [f"{kernels:,}", moved, counted, f"{1e3 * best.seconds:.1f}"]
                print(f"| {' | '.join(row)} | {work / target.device.half / best.seconds:.1%} |", flush=True)
                for line in (best.explain() if args.explain else []) + longest(best, args.kernels):
                    print(f"  {line}", flush=True)


if __name__ == "__main__":
    main()
