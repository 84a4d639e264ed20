"""What do the memory tricks save? XLA's own analysis of the compiled training step; nothing is run.

    python benchmarks/step_memory.py [ViT-B/32 --batch 32768 --microbatch 512]

Bytes of the program on one device: the state (parameters and both moments), the batch, and temporaries. Compiled for
the device at hand; on a CPU half-precision products are computed wider, so that its temporaries are upper bounds.
"""

from __future__ import annotations

import argparse
import dataclasses

VARIANTS = {
    "float32": {},
    "bfloat16 compute": {"compute_dtype": "bfloat16"},
    "recomputed, nothing kept": {"remat": True},
    "recomputed, attention kept": {"remat": True, "remat_policy": "attention"},
    "recomputed, products kept": {"remat": True, "remat_policy": "dots"},
    "half of the patches dropped": {"patch_dropout": 0.5},
    "bfloat16 moments": {"state_dtype": "bfloat16"},
    "bfloat16 text weights": {"text_param_dtype": "bfloat16"},
    "bfloat16 text weights and moments": {"text_param_dtype": "bfloat16", "state_dtype": "bfloat16"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default="ViT-B/32")
    parser.add_argument("--batch", type=int, default=32768)
    parser.add_argument("--microbatch", type=int, default=512)
    parser.add_argument("--only", action="append", help="a row; repeat")
    args = parser.parse_args()

    import jax
    import jax.numpy as jnp

    from clip_jax.config import OptimConfig, RunConfig
    from clip_jax.config.presets import preset
    from clip_jax.distributed.mesh import batch_sharding, make_mesh
    from clip_jax.models.clip import build
    from clip_jax.optim.optimizer import make_optimizer
    from clip_jax.train.state import abstract_state
    from clip_jax.train.step import make_train_step

    mesh = make_mesh(RunConfig().mesh, jax.devices()[:1])
    print(
        f"{args.name}, batch {args.batch}, pieces of {args.microbatch or args.batch}, on {jax.devices()[0].device_kind}"
    )
    print("\n| variant | state GiB | batch GiB | temporaries GiB | sum GiB |\n|---|---|---|---|---|")
    for label, changes in VARIANTS.items():
        if args.only and label not in args.only:
            continue
        fields = dict(changes)
        optim = OptimConfig(warmup_steps=1, state_dtype=fields.pop("state_dtype", "float32"))
        model = preset(args.name)
        image = dataclasses.replace(model.image, patch_dropout=fields.pop("patch_dropout", 0.0))
        model = dataclasses.replace(model, image=image, **fields)
        micro = args.microbatch if args.microbatch < args.batch else 0
        run = RunConfig(model=model, optim=optim, batch_size=args.batch, microbatch_size=micro, steps=10)
        built = build(model, mesh)
        optimizer = make_optimizer(optim, run.steps, model)
        state = abstract_state(built, optimizer, mesh)
        size, spread = model.image.image_size, batch_sharding(mesh)
        batch = {
            "images": jax.ShapeDtypeStruct((args.batch, size, size, 3), jnp.uint8, sharding=spread),
            "tokens": jax.ShapeDtypeStruct((args.batch, model.text.context_length), jnp.int32, sharding=spread),
        }
        memory = make_train_step(run, built, optimizer, mesh).lower(state, batch).compile().memory_analysis()
        pairs = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(batch))
        kept = memory.argument_size_in_bytes - pairs
        parts = (kept, pairs, memory.temp_size_in_bytes)
        line = " | ".join(f"{p / 2**30:.2f}" for p in (*parts, sum(parts)))
        print(f"| {label} | {line} |", flush=True)


if __name__ == "__main__":
    main()
