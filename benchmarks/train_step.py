"""How fast is a training step: forward, backward, AdamW of the contrastive loss, on this machine?

    python benchmarks/train_step.py                                   # the two shapes below, JAX's settings compared
    python benchmarks/train_step.py --torch --explain                 # beside open_clip on PyTorch (extra: parity)
    python benchmarks/train_step.py ViT-B/32 ViT-B/16 --batch 256 --set model.compute_dtype=bfloat16

Each arm is a process of its own, and arms take turns; the table has medians over all turns. FLOPs by the package's
convention. The peak is the best float32 (or compute dtype) matrix product of 1024, 2048 or 4096 in the same process.
Below the table: the ratio to PyTorch that the step would have at that peak, and with --explain where its time goes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from device_arms import arrays_of

# as `clip-jax train` sets it (cli/host_memory.py)
KEPT = {"GLIBC_TUNABLES": f"glibc.malloc.mmap_max=0:glibc.malloc.arena_max=1:glibc.malloc.trim_threshold={2**64 - 1}"}
DEVICES = "jax, memory kept, two devices"
TWO_DEVICES = KEPT | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
# kinds of kernels, by their names in XLA's program for CPUs; the first that fits
KINDS = {
    "collectives": r"all-|reduce-scatter|collective",
    "matrix products": r"ynn|dot|convolution",
    "copies": r"copy|transpose|concatenate|slice|wrapped_broadcast|pad",
    "passes over arrays": r"",
}


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


def kernels(program: str, once: Callable[[], None], count: int = 2) -> dict[str, float]:
    """Milliseconds per step of each kind of kernel of a compiled program, summed over threads, from a trace."""
    import jax

    names = set(re.findall(r"^\s*(?:ROOT )?%?([\w.-]+) = ", program, re.MULTILINE))
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(count):
                once()
        (trace,) = Path(folder).rglob("*.xplane.pb")
        for plane in jax.profiler.ProfileData.from_file(str(trace)).planes:
            for line in plane.lines if "CPU" in plane.name else ():
                for event in line.events:
                    if event.name in names:
                        kind = next(k for k, pattern in KINDS.items() if re.search(pattern, event.name))
                        total[kind] += event.duration_ns / 1e6 / count
    return dict(total)


def jax_worker(run: Any, count: int, explain: bool) -> dict[str, Any]:
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
    host = jax.default_backend() == "cpu"  # whose devices share the cores
    return {
        "seconds": seconds, "compile_s": compile_s, "peak": peak * (1 if host else mesh.size), "memory": memory,
        "device": kind, "kernels": kernels(step.as_text(), once) if explain and host else {},
    }  # fmt: skip


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
    seconds = (
        jax_worker(run, arm["steps"], arm["explain"])
        if arm["engine"] == "jax"
        else torch_worker(run, arm["steps"], arm["engine"] == "torch.compile")
    )
    params = flops.params(run.model).total
    assert seconds.pop("params", params) == params, "the two models differ"
    seconds["flops"] = flops.training_flops(run.model, run.batch_size, run.batch_size).total
    seconds["batch"] = run.batch_size
    print("RESULT " + json.dumps(seconds))


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
    parser.add_argument("--arms", help="names of some of the arms, with ; between; one of JAX's at least")
    parser.add_argument("--explain", action="store_true", help="trace two more steps of JAX's: time by kind of kernel")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="of the run; repeat")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(json.loads(args.worker))
        return
    for name in args.names:
        unrolled = [*args.set, "model.scan_layers=false"]
        arms = [("jax, scanned", "jax", [*args.set, "model.scan_layers=true"], {}), ("jax", "jax", unrolled, {})]
        arms += [("jax, memory kept", "jax", unrolled, KEPT), (DEVICES, "jax", unrolled, TWO_DEVICES)]
        if args.torch:
            arms += [(e, e, args.set, {}) for e in ("torch", "torch.compile")]
            arms.append(("torch, memory kept", "torch", args.set, KEPT))
        if args.arms:
            arms = [arm for arm in arms if arm[0] in args.arms.split(";")]
        turns: dict[str, list[dict[str, Any]]] = {arm[0]: [] for arm in arms}
        for _ in range(args.turns):
            for label, engine, settings, env in arms:
                arm = {"engine": engine, "name": name, "batch": args.batch, "steps": args.steps, "settings": settings}
                turns[label].append(measure(arm | {"explain": args.explain}, env))
        report(name, turns)


def report(name: str, turns: dict[str, list[dict[str, Any]]]) -> None:
    one = next(turns_of[0] for label, turns_of in turns.items() if label.startswith("jax"))
    print(f"\n{name}, batch {one['batch']}, {one['flops'] / 1e9:.1f} GFLOP per step, on {one['device']}\n")
    best = {
        label: statistics.median(s for turn in turns_of for s in turn["seconds"]) for label, turns_of in turns.items()
    }
    torch = min((s for label, s in best.items() if label.startswith("torch")), default=None)
    head = "| arm | ms per step | samples/s | GFLOP/s | of its matmul peak | peak memory GiB | first step s |"
    print(head + (" × best torch |" if torch else ""))
    print("|---" * (8 if torch else 7) + "|")
    for label, turns_of in turns.items():
        seconds, peak = best[label], max(t["peak"] for t in turns_of)
        rate = turns_of[0]["flops"] / seconds
        line = f"| {label} | {1e3 * seconds:.0f} | {turns_of[0]['batch'] / seconds:.1f} | {rate / 1e9:.0f} | "
        line += f"{rate / peak:.0%} of {peak / 1e9:.0f} | {max(t['memory'] for t in turns_of) / 2**30:.2f} | "
        line += f"{min(t['compile_s'] for t in turns_of):.1f} |"
        print(line + (f" {torch / seconds:.2f} |" if torch else ""), flush=True)
    peak = max(turn["peak"] for label, turns_of in turns.items() if label.startswith("jax") for turn in turns_of)
    at_peak = one["flops"] / peak
    print(f"\nAt JAX's own matmul peak, {peak / 1e9:.0f} GFLOP/s, the step would take {1e3 * at_peak:.0f} ms", end="")
    print(f": {torch / at_peak:.2f} × best torch" if torch else "")
    for label, turns_of in turns.items():
        by_kind = {
            kind: statistics.median(t["kernels"][kind] for t in turns_of) for kind in turns_of[0].get("kernels", ())
        }
        if by_kind:
            parts = (f"{kind} {ms / sum(by_kind.values()):.0%}" for kind, ms in sorted(by_kind.items()))
            print(f"{label}: {sum(by_kind.values()):.0f} ms of kernels, summed over threads: {', '.join(parts)}")


if __name__ == "__main__":
    main()
