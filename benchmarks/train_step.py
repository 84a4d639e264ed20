"""How fast is a training step: forward, backward, AdamW of the contrastive loss, on this machine?

    python benchmarks/train_step.py                                   # the two shapes below, JAX's settings compared
    python benchmarks/train_step.py --torch                           # beside open_clip on PyTorch (extra: parity)
    python benchmarks/train_step.py ViT-B/32 ViT-B/16 --batch 256 --set model.compute_dtype=bfloat16

Each arm is a process of its own, and arms take turns; the table has medians over all turns. FLOPs by the package's
convention. The peak is the best float32 (or compute dtype) matrix product of 1024, 2048 or 4096 in the same process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

from device_arms import arrays_of

# as `clip-jax train` sets it (cli/host_memory.py)
KEPT = {"GLIBC_TUNABLES": f"glibc.malloc.mmap_max=0:glibc.malloc.arena_max=1:glibc.malloc.trim_threshold={2**64 - 1}"}


def model_of(name: str) -> tuple[Any, int]:
    """(model, batch size) of a preset, a rung of the ladder, or ``tiny``."""
    from clip_jax.config import ImageTowerConfig, ModelConfig, TextTowerConfig
    from clip_jax.config.presets import ladder, preset

    if name == "tiny":
        image = ImageTowerConfig(width=192, depth=6, heads=3, patch_size=8, image_size=64)
        text = TextTowerConfig(width=192, depth=4, heads=3, context_length=32, vocab_size=8192)
        return ModelConfig(image=image, text=text, embed_dim=192, scan_layers=False), 128
    if name.startswith("rung:"):
        return ladder(float(name[5:])), 128
    return preset(name), 16


def run_of(name: str, batch: int, settings: list[str]) -> Any:
    """The RunConfig of a shape with fields set as on the command line."""
    from clip_jax.config import OptimConfig, RunConfig
    from clip_jax.config.io import from_dict, parse_value, set_dotted, to_dict

    model, usual = model_of(name)
    size = batch or usual
    values = to_dict(RunConfig(model=model, optim=OptimConfig(warmup_steps=10), batch_size=size, steps=1000))
    for item in settings:
        dotted, _, text = item.partition("=")
        set_dotted(values, dotted, parse_value(text))
    return from_dict(RunConfig, values)


def timed(step: Any, count: int) -> list[float]:
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    return seconds


def jax_worker(run: Any, count: int) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    from clip_jax.distributed.mesh import make_mesh
    from clip_jax.models.clip import build
    from clip_jax.optim.optimizer import make_optimizer
    from clip_jax.train.state import init_state
    from clip_jax.train.step import make_train_step, put_batch

    dtype = jnp.dtype(run.model.compute_dtype)
    peak = 0.0
    for n in (1024, 2048, 4096):
        a = jnp.ones((n, n), dtype)
        product = jax.jit(lambda a: a @ a)
        product(a).block_until_ready()
        best = min(timed(lambda f=product, a=a: f(a).block_until_ready(), 4))
        peak = max(peak, 2 * n**3 / best)
    mesh = make_mesh(run.mesh)
    built = build(run.model, mesh)
    optimizer = make_optimizer(run.optim, run.steps, run.model)
    state = init_state(run, built, optimizer, mesh)
    batch = put_batch(arrays_of(run), mesh)
    began = time.perf_counter()
    step = make_train_step(run, built, optimizer, mesh).lower(state, batch).compile()
    compile_s = time.perf_counter() - began

    def once() -> None:
        nonlocal state
        state, metrics = step(state, batch)
        metrics["loss"].block_until_ready()

    timed(once, 2)
    stats = jax.devices()[0].memory_stats() or {}
    seconds = timed(once, count)
    memory = stats.get("peak_bytes_in_use", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    kind = jax.devices()[0].device_kind
    return {"seconds": seconds, "compile_s": compile_s, "peak": peak * mesh.size, "memory": memory, "device": kind}


def torch_worker(run: Any, count: int, compiled: bool) -> dict[str, Any]:
    import open_clip
    import torch

    image, text = run.model.image, run.model.text
    size = {"image_size": image.image_size, "layers": image.depth, "width": image.width, "patch_size": image.patch_size}
    model = open_clip.model.CLIP(
        run.model.embed_dim,
        vision_cfg={**size, "head_width": image.width // image.heads},
        text_cfg={
            "context_length": text.context_length, "vocab_size": text.vocab_size, "width": text.width,
            "heads": text.heads, "layers": text.depth,
        },
        quick_gelu=run.model.activation == "quick_gelu",
    )  # fmt: skip
    loss_fn = open_clip.ClipLoss()
    call = torch.compile(model) if compiled else model
    decay = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.98), eps=1e-6, fused=True)
    arrays = arrays_of(run)
    images, tokens = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["tokens"]).long()

    def once() -> None:
        pixels = (images.permute(0, 3, 1, 2).float() / 255.0 - 0.45) / 0.27
        optimizer.zero_grad()
        loss_fn(*call(pixels, tokens)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    began = time.perf_counter()
    once()
    compile_s = time.perf_counter() - began
    timed(once, 1)
    n = 2048
    a = torch.ones(n, n)
    peak = 2 * n**3 / min(timed(lambda: a @ a, 5))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    count_params = sum(p.numel() for p in model.parameters())
    return {
        "seconds": timed(once, count), "compile_s": compile_s, "peak": peak, "memory": memory, "device": "cpu",
        "params": count_params,
    }  # fmt: skip


def worker(arm: dict[str, Any]) -> None:
    from clip_jax import flops

    run = run_of(arm["name"], arm["batch"], arm["settings"])
    found = (
        jax_worker(run, arm["steps"])
        if arm["engine"] == "jax"
        else torch_worker(run, arm["steps"], arm["engine"] == "torch.compile")
    )
    params = flops.params(run.model).total
    assert found.pop("params", params) == params, "the two models differ"
    found["flops"] = flops.training_flops(run.model, run.batch_size, run.batch_size).total
    found["batch"] = run.batch_size
    print("RESULT " + json.dumps(found))


def measure(arm: dict[str, Any], env: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--worker", json.dumps(arm)]
    out = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=False)
    lines = [line for line in out.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise SystemExit(f"{arm}: {out.stderr.strip().splitlines()[-1:]}")
    return json.loads(lines[0][7:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["tiny", "ViT-B/32"])
    parser.add_argument("--batch", type=int, default=0, help="global; default 128 for tiny and rungs, 16 for presets")
    parser.add_argument("--steps", type=int, default=3, help="timed steps a turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--torch", action="store_true", help="also open_clip on PyTorch, eager and compiled")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="of the run; repeat")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(json.loads(args.worker))
        return
    for name in args.names:
        unrolled = [*args.set, "model.scan_layers=false"]
        arms = [("jax, scanned", "jax", [*args.set, "model.scan_layers=true"], {}), ("jax", "jax", unrolled, {})]
        arms.append(("jax, memory kept", "jax", unrolled, KEPT))
        if args.torch:
            arms += [(e, e, args.set, {}) for e in ("torch", "torch.compile")]
            arms.append(("torch, memory kept", "torch", args.set, KEPT))
        turns: dict[str, list[dict[str, Any]]] = {arm[0]: [] for arm in arms}
        for _ in range(args.turns):
            for label, engine, settings, env in arms:
                arm = {"engine": engine, "name": name, "batch": args.batch, "steps": args.steps, "settings": settings}
                turns[label].append(measure(arm, env))
        report(name, turns)


def report(name: str, turns: dict[str, list[dict[str, Any]]]) -> None:
    one = turns["jax"][0]
    print(f"\n{name}, batch {one['batch']}, {one['flops'] / 1e9:.1f} GFLOP per step, on {one['device']}\n")
    best = {label: statistics.median(s for turn in found for s in turn["seconds"]) for label, found in turns.items()}
    torch = min((s for label, s in best.items() if label.startswith("torch")), default=None)
    head = "| arm | ms per step | samples/s | GFLOP/s | of its matmul peak | peak memory GiB | first step s |"
    print(head + (" × best torch |" if torch else ""))
    print("|---" * (8 if torch else 7) + "|")
    for label, found in turns.items():
        seconds, peak = best[label], max(t["peak"] for t in found)
        rate = found[0]["flops"] / seconds
        line = f"| {label} | {1e3 * seconds:.0f} | {found[0]['batch'] / seconds:.1f} | {rate / 1e9:.0f} | "
        line += f"{rate / peak:.0%} of {peak / 1e9:.0f} | {max(t['memory'] for t in found) / 2**30:.2f} | "
        line += f"{min(t['compile_s'] for t in found):.1f} |"
        print(line + (f" {torch / seconds:.2f} |" if torch else ""), flush=True)


if __name__ == "__main__":
    main()
