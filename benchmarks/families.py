"""What does training several runs in one program gain? Start-up, compilation and the steps, apart.

    python benchmarks/families.py [--members 1,2,4,8 --rungs 1,2 --batch 64 --steps 500 --cores 1]

Against the same runs one after the other in the same session: a process each, a compilation each (with the cache that
runs of one machine share, so all but the first of equal programs are found there), their steps. `vmap` batches the
members' kernels, `map` runs them one after the other inside the program. The members differ in seed, so each has a
batch of its own; making batches is not timed. ``--cores``: keep to so many, as a slot of a sweep does.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time


def cpu_seconds() -> float:
    """Return the processor time of this process and its children, in seconds.

    It is a clock for a CPU that others use too: on one core it is the wall time on an idle machine.
    """
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", default="1,2,4,8")
    parser.add_argument("--rungs", default="1,2")
    parser.add_argument("--forms", default="vmap,map")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=500, help="of the runs in the last column")
    parser.add_argument("--cores", type=int, default=0)
    parser.add_argument(
        "--cpu-time", action="store_true", help="count processor time, on a machine that others use too"
    )
    args = parser.parse_args()
    if args.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-args.cores :])

    import jax

    from clip_jax.config import ImageTowerConfig, ModelConfig, RunConfig, TextTowerConfig
    from clip_jax.config.presets import ladder
    from clip_jax.train.vmapped.benchmark import measure, start_seconds

    image, text = ImageTowerConfig(image_size=32, patch_size=16), TextTowerConfig(context_length=20, vocab_size=1024)
    base = ModelConfig(image=image, text=text, scan_layers=jax.default_backend() != "cpu")
    print(f"{jax.devices()[0].device_kind}, {len(os.sched_getaffinity(0))} cores, batches of {args.batch}\n")
    print(
        "| rung | form | members | start s | compile s, alone (next) | compile s, family | gain: start | gain: compile "
        f"| samples/s alone | samples/s family | gain: steps | gain: {args.steps} steps in all |\n|{'---|' * 12}"
    )
    clock = cpu_seconds if args.cpu_time else time.perf_counter
    start_s = min(start_seconds(clock) for _ in range(2))
    for rung in map(float, args.rungs.split(",")):
        run = RunConfig(model=ladder(rung, base), batch_size=args.batch, steps=args.steps, wandb="disabled")
        for form in args.forms.split(","):
            for members in map(int, args.members.split(",")):
                configs = [dataclasses.replace(run, seed=seed) for seed in range(members)]
                g = measure(configs, form, start_s=start_s, clock=clock)
                print(
                    f"| {rung:g} | {form} | {members} | {g.start_s:.1f} | {g.compile_first_s:.1f} "
                    f"({g.compile_next_s:.1f}) | {g.compile_family_s:.1f} | {g.start:.1f} | {g.compilation:.2f} | "
                    f"{args.batch / g.step_s:,.0f} | {members * args.batch / g.step_family_s:,.0f} | {g.steady:.2f} | "
                    f"{g.whole(args.steps):.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
