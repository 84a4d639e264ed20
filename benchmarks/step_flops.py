"""Do our FLOPs of a training step agree with XLA's own count? The step is compiled unrolled; nothing is run.

    python benchmarks/step_flops.py ViT-B/32 ViT-S/16 --batch 64

XLA counts each product once as it is compiled, element-wise work too, and the body of a scan once: so the layers are
unrolled. Ours counts products alone, by the formula (`flops.training_flops`) and by a walk over the step's jaxpr.
"""

from __future__ import annotations

import argparse
import dataclasses

from clip_jax.config import ModelConfig


def counts(model: ModelConfig, batch: int) -> tuple[float, float, float]:
    """(formula, walk, XLA's count) of one training step, in FLOPs."""
    import jax
    import jax.numpy as jnp

    from clip_jax import flops
    from clip_jax.config import OptimConfig, RunConfig
    from clip_jax.distributed.mesh import make_mesh
    from clip_jax.models.clip import build
    from clip_jax.optim.optimizer import make_optimizer
    from clip_jax.train.state import abstract_state
    from clip_jax.train.step import make_train_step

    model = dataclasses.replace(model, scan_layers=False)
    run = RunConfig(model=model, batch_size=batch, steps=10, optim=OptimConfig(warmup_steps=1))
    mesh = make_mesh(run.mesh, jax.devices()[:1])
    built, optimizer = build(model, mesh), make_optimizer(run.optim, run.steps, model)
    size = model.image.image_size
    shapes = {
        "images": jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8),
        "tokens": jax.ShapeDtypeStruct((batch, model.text.context_length), jnp.int32),
    }
    state = abstract_state(built, optimizer, mesh)
    step = make_train_step(run, built, optimizer, mesh)
    compiled = step.lower(state, shapes).compile()
    formula = flops.training_flops(model, batch, batch).total
    return formula, flops.jaxpr_flops(step, state, shapes), compiled.cost_analysis()["flops"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["ViT-B/32"])
    parser.add_argument("--batch", type=int, default=64)
    args = parser.parse_args()

    from clip_jax.config.presets import preset

    print("| model | batch | formula | walk / formula | XLA / formula |\n|---|---|---|---|---|")
    for name in args.names:
        formula, walk, xla = counts(preset(name), args.batch)
        print(f"| {name} | {args.batch} | {formula:.4g} | {walk / formula:.4f} | {xla / formula:.4f} |", flush=True)


if __name__ == "__main__":
    main()
