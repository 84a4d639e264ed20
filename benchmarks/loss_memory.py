"""How much memory does each form of the contrastive loss need, value and gradient, on a device?

    python benchmarks/loss_memory.py [--batch 32768 --embed 512 --devices 8]

Temporary memory per device, from XLA's own analysis of the compiled program; nothing is run, so any size will do.
"""

from __future__ import annotations

import argparse
import functools
import os


def temporaries(loss, mesh, batch: int, embed: int, scalars: int) -> int:
    """Bytes of temporaries per device of value and gradient by every argument."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    from clip_jax.distributed.mesh import AXES

    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((AXES,), ()))
    pairs = [jax.ShapeDtypeStruct((batch, embed), jnp.float32, sharding=split)] * 2
    numbers = [jax.ShapeDtypeStruct((), jnp.float32, sharding=whole)] * scalars
    gradient = jax.value_and_grad(loss, tuple(range(2 + scalars)))
    outs = (whole, (split, split, *[whole] * scalars))
    compiled = jax.jit(gradient, out_shardings=outs).lower(*pairs, *numbers).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("batch", 32768), ("embed", 512), ("devices", 8)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={args.devices}"

    from clip_jax.config import MeshConfig
    from clip_jax.distributed.mesh import make_mesh
    from clip_jax.losses import contrastive, sigmoid

    mesh = make_mesh(MeshConfig())
    print(
        f"global batch {args.batch}, E = {args.embed}, {args.devices} devices; float32; MiB of temporaries per device\n"
    )
    print("| loss | form | MiB | of all-gather |\n|---|---|---|---|")
    for kind, scalars in (("softmax", 1), ("sigmoid", 2)):
        if kind == "softmax":
            gathered, ring = contrastive.gathered_contrastive_loss, contrastive.ring_contrastive_loss
        else:
            gathered, ring = sigmoid.gathered_sigmoid_loss, sigmoid.ring_sigmoid_loss
        forms = {"all-gather": functools.partial(gathered, mesh=mesh)}
        for chunk in (args.batch // args.devices, 1024, 256, 64):
            name = f"ring, {chunk} rows at once" + (" (whole blocks)" if len(forms) == 1 else "")
            forms[name] = functools.partial(ring, mesh=mesh, chunk=chunk)
        reference = None
        for name, loss in forms.items():
            size = temporaries(loss, mesh, args.batch, args.embed, scalars)
            reference = reference or size
            print(f"| {kind} | {name} | {size / 2**20:.1f} | 1/{reference / size:.1f} |", flush=True)


if __name__ == "__main__":
    main()
