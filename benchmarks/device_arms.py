"""What `on_device.py` measures. A function takes its section, says what it finds there, and imports what it needs."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Section = Any  # of on_device.py

# the model's fields of each way to run a step; fused-kept is the default
WAYS: dict[str, dict[str, Any]] = {
    "xla-all-kept": {"attention": "xla", "remat_policy": "nothing"},
    "xla-dots": {"attention": "xla", "remat": True, "remat_policy": "dots"},
    "xla-kept": {"attention": "xla", "remat": True, "remat_policy": "dense"},
    "fused-kept": {},
    "fused-kept-unrolled": {"scan_layers": False},
}
# by importance: what is last is what a small budget leaves out
STEPS = [
    ("ViT-B/32", 1024, "fused-kept"),
    ("ViT-L/14", 256, "fused-kept"),
    ("ViT-B/16", 512, "fused-kept"),
    ("ViT-B/32", 1024, "fused-kept-unrolled"),
    ("ViT-B/32", 1024, "xla-kept"),
    ("ViT-B/32", 1024, "xla-dots"),
    ("ViT-B/16", 512, "xla-dots"),
    ("ViT-B/32", 512, "xla-all-kept"),
    ("ViT-L/14", 256, "fused-kept-unrolled"),
    ("ViT-L/14", 256, "xla-dots"),
    ("ViT-B/32", 4096, "fused-kept"),
    ("ViT-H/14", 128, "fused-kept"),
]
TORCH = [
    ("ViT-B/32", 1024, "eager"),
    ("ViT-B/32", 1024, "compiled"),
    ("ViT-L/14", 256, "eager"),
    ("ViT-L/14", 256, "compiled"),
    ("ViT-B/16", 512, "eager"),
    ("ViT-B/16", 512, "compiled"),
]
LENGTHS = (50, 77, 197, 257)
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
# Triton's products need autotuning to find their tiles
NO_AUTOTUNING = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"


def rounded(x: float, digits: int = 4) -> float:
    return float(f"{x:.{digits}g}")


def seconds_of(once: Callable[[], Any], count: int) -> float:
    """Median of single calls, each waited for by ``once``."""
    rows = []
    for _ in range(count):
        began = time.perf_counter()
        once()
        rows.append(time.perf_counter() - began)
    return statistics.median(rows)


def run_of(name: str, batch: int, **fields: Any) -> Any:
    """The run of a preset, of ``tiny``, or of ``small``, whose towers are 256 wide and 4 deep."""
    from clip_jax.config import ImageTowerConfig, ModelConfig, OptimConfig, RunConfig, TextTowerConfig
    from clip_jax.config.presets import preset

    if name in ("tiny", "small"):
        width, depth = (32, 1) if name == "tiny" else (256, 4)
        shape: dict[str, Any] = {"width": width, "depth": depth, "heads": width // 32}
        image = ImageTowerConfig(patch_size=16, image_size=64, **shape)
        model = ModelConfig(
            image=image, text=TextTowerConfig(context_length=33, vocab_size=2048, **shape), embed_dim=width
        )
    else:
        model = preset(name)
    model = dataclasses.replace(model, compute_dtype="bfloat16", **fields)
    return RunConfig(model=model, optim=OptimConfig(warmup_steps=10), batch_size=batch, steps=1000, wandb="disabled")


def arrays_of(run: Any) -> dict[str, Any]:
    """A batch of noise, uint8 images and int32 tokens that end in the largest id."""
    import numpy as np

    rng = np.random.default_rng(0)
    size, text = run.model.image.image_size, run.model.text
    tokens = rng.integers(1, text.vocab_size - 2, (run.batch_size, text.context_length)).astype(np.int32)
    tokens[:, -1] = text.vocab_size - 1
    return {"images": rng.integers(0, 255, (run.batch_size, size, size, 3), np.uint8), "tokens": tokens}


def speed(run: Any, seconds: float, device: str) -> dict[str, Any]:
    """What a step of so many seconds is in samples, FLOP/s and MFU, of the nominal peak where the card is known."""
    from clip_jax import flops
    from clip_jax.flops.devices import peak_flops

    work = flops.training_flops(run.model, run.batch_size, run.batch_size).total
    peak = peak_flops(device, "bfloat16")
    return {
        "ms": rounded(1e3 * seconds, 5), "samples_s": rounded(run.batch_size / seconds),
        "tflops": rounded(work / seconds / 1e12), "mfu": rounded(work / seconds / peak) if peak else None,
    }  # fmt: skip


class Trainee:
    """A training step with its state and a batch on the first device, compiled."""

    def __init__(self, run: Any) -> None:
        import jax

        from clip_jax.distributed.mesh import make_mesh
        from clip_jax.models.clip import build
        from clip_jax.optim.optimizer import make_optimizer
        from clip_jax.train.state import init_state
        from clip_jax.train.step import make_train_step, put_batch

        self.run, self.mesh = run, make_mesh(run.mesh, jax.devices()[:1])
        self.built = build(run.model, self.mesh)
        self.optimizer = make_optimizer(run.optim, run.steps, run.model)
        self.fresh = lambda: init_state(run, self.built, self.optimizer, self.mesh)
        self.arrays, self.put = arrays_of(run), lambda arrays: put_batch(arrays, self.mesh)
        self.state, self.batch = self.fresh(), self.put(self.arrays)
        began = time.perf_counter()
        step = make_train_step(run, self.built, self.optimizer, self.mesh)
        self.step = step.lower(self.state, self.batch).compile()
        self.compile_s = time.perf_counter() - began

    def steps(self, count: int, fed: bool = False) -> float:
        """Seconds a step, dispatched ahead as in the loop; ``fed``: with a new copy of the batch from the host."""
        began = time.perf_counter()
        for _ in range(count):
            self.state, self.metrics = self.step(self.state, self.put(self.arrays) if fed else self.batch)
        self.metrics["loss"].block_until_ready()
        return (time.perf_counter() - began) / count


def env(section: Section) -> None:
    import jax
    import jax.numpy as jnp
    import jaxlib

    def once() -> dict[str, Any]:
        device = jax.devices()[0]
        n, many = (256, 2**20) if section.tiny else (8192, 2**30)
        a = jax.random.normal(jax.random.key(0), (n, n), jnp.bfloat16)
        product, copy = jax.jit(lambda a: a @ a), jax.jit(lambda x: x + 1)
        x = jnp.zeros((many,), jnp.float32)
        product(a).block_until_ready()
        copy(x).block_until_ready()
        tflops = 2e-12 * n**3 / seconds_of(lambda: product(a).block_until_ready(), 10)
        tb_s = 2e-12 * x.nbytes / seconds_of(lambda: copy(x).block_until_ready(), 5)
        limit = (device.memory_stats() or {}).get("bytes_limit", 0) if device.platform != "cpu" else 0
        return {
            "device": device.device_kind, "capability": getattr(device, "compute_capability", None),
            "jax": jax.__version__, "jaxlib": jaxlib.__version__, "cores": os.cpu_count(),
            "matmul_tflops": rounded(tflops), "copy_tb_s": rounded(tb_s), "memory_gib": rounded(limit / 2**30),
        }  # fmt: skip

    section.measure("", once)


def attention(section: Section) -> None:
    """Two blocks, written out in float32, against bfloat16 written out and fused."""
    if not section.tiny:  # nothing is timed here, and autotuning would take most of the seconds
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {NO_AUTOTUNING}"
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from clip_jax.config import ModelConfig
    from clip_jax.models import layers

    if jax.default_backend() == "cpu":
        layers.FUSED = "xla"  # the padding is tried, not the kernel
    width, batch = (32, 2) if section.tiny else (512, 16)

    def blocks(form: str, dtype: str, causal: bool) -> Any:
        spec = layers.BlockSpec(
            width, width // 64 or 1, 2 * width, 2, "gelu", jnp.dtype(dtype), jnp.float32, causal=causal, attention=form
        )
        config = ModelConfig(compute_dtype="bfloat16", attention=form)
        return layers.Stack(lambda r: layers.Block(spec, r), 2, config, nnx.Rngs(0))

    def of(length: int, causal: bool, models: int) -> dict[str, Any]:
        x = jax.random.normal(jax.random.key(1), (models, batch, length, width))
        row: dict[str, Any] = {}
        for name, form, dtype in (
            ("true", "auto", "float32"), ("written", "auto", "bfloat16"), ("fused", "cudnn", "bfloat16"),
        ):  # fmt: skip
            graphdef, state = nnx.split(blocks(form, dtype, causal))
            params = jax.tree.map(lambda a: jnp.stack([a * (1 + 0.1 * i) for i in range(models)]), nnx.as_pure(state))

            def both(params: Any, x: Any, graphdef: Any = graphdef, dtype: str = dtype) -> Any:
                def loss(params: Any) -> Any:
                    y = nnx.merge(graphdef, params)(x.astype(dtype)).astype(jnp.float32)
                    return jnp.mean(jnp.sin(3 * y)), y

                return jax.value_and_grad(loss, has_aux=True)(params)

            with jax.default_matmul_precision("highest" if dtype == "float32" else "default"):
                (_, value), slope = jax.jit(jax.vmap(both))(params, x)
            row[name] = (value, slope)

        def off(name: str, part: int) -> float:
            pairs = zip(jax.tree.leaves(row[name][part]), jax.tree.leaves(row["true"][part]), strict=True)
            return max(float(jnp.linalg.norm((a - b).ravel()) / jnp.linalg.norm(b.ravel())) for a, b in pairs)

        errors = {}
        for part, kind in enumerate(("value", "gradient")):
            errors |= {f"{kind}_error_{name}": off(name, part) for name in ("written", "fused")}
        agree = all(errors[f"{k}_error_fused"] <= 1.5 * errors[f"{k}_error_written"] for k in ("value", "gradient"))
        return {k: rounded(v, 3) for k, v in errors.items()} | {"agree": agree}

    for length in LENGTHS:
        for causal in (True, False):
            what = f"{length} {'causal' if causal else 'full'}"
            section.measure(what, lambda length=length, causal=causal: of(length, causal, 1))
    for length, causal in ((77, True), (257, False)):
        what = f"{length} {'causal' if causal else 'full'} vmapped"
        section.measure(what, lambda length=length, causal=causal: of(length, causal, 2))


def step(section: Section) -> None:
    import jax

    device = jax.devices()[0]

    def once(name: str, batch: int, way: str) -> dict[str, Any]:
        trainee = Trainee(run_of(name, batch, **WAYS[way]))
        memory = trainee.step.memory_analysis()
        planned = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
        trainee.steps(3)
        count = 2 if section.tiny else 10
        seconds, fed = trainee.steps(count), trainee.steps(count, fed=True)
        text = trainee.step.as_text()
        return speed(trainee.run, seconds, device.device_kind) | {
            "ms_fed": rounded(1e3 * fed, 5), "planned_gib": rounded((planned + memory.temp_size_in_bytes) / 2**30),
            "compile_s": rounded(trainee.compile_s), "loss": rounded(float(trainee.metrics["loss"]), 6),
            "fused_calls": [text.count(f'"__cudnn$fmhaSoftmax{way}"') for way in ("", "Backward")],
        }  # fmt: skip

    arms = [("tiny", 8, way) for way in WAYS] if section.tiny else STEPS
    for name, batch, way in arms:
        cost = "step unrolled" if "unrolled" in way else "step"
        section.measure(f"{name} × {batch} {way}", lambda arm=(name, batch, way): once(*arm), cost)


def digests(section: Section) -> None:
    """For `determinism`: digests of the parameters after some steps, twice from one start."""
    import jax
    import numpy as np

    trainee = Trainee(run_of("tiny" if section.tiny else "small", 16 if section.tiny else 512))
    rows = []
    for _ in range(2):
        trainee.state = trainee.fresh()
        trainee.steps(20)
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves(trainee.state.params):
            digest.update(np.asarray(leaf).tobytes())
        rows.append(digest.hexdigest()[:12])
    print("DIGESTS " + json.dumps(rows), flush=True)


def determinism(section: Section) -> None:
    """All processes at once, each on a part of the memory: whether bits agree is asked, not how fast."""
    ways = {"no flag": "", "flag": DETERMINISTIC, "flag, no autotuning": f"{DETERMINISTIC} {NO_AUTOTUNING}"}
    if section.tiny:
        ways = {"no flag": ""}  # a CPU has none
    ways = {way: flags for way, flags in ways.items() if section.wanted(way)}
    if not section.in_time("determinism"):
        for way in ways:
            section.say(way, skipped="no time")
        return

    def start(flags: str) -> Any:
        flags_before = os.environ.get("XLA_FLAGS", "")
        return section.start(
            "digests", XLA_FLAGS=f"{flags_before} {flags}".strip(), XLA_PYTHON_CLIENT_MEM_FRACTION="0.12"
        )

    def compared(pair: list[Any]) -> dict[str, Any]:
        rows = []
        for process in pair:
            left = None if section.tiny else max(section.until - time.monotonic(), 1) + 10
            out, err = process.communicate(timeout=left)
            lines = [line for line in out.splitlines() if line.startswith("DIGESTS ")]
            if not lines:
                raise RuntimeError((err.strip().splitlines() or ["it died"])[-1])
            rows.append(json.loads(lines[0][8:]))
        same = all(a == b for a, b in rows)
        return {"same_in_process": same, "same_across_processes": rows[0] == rows[1], "digests": rows}

    started = {way: [start(flags) for _ in range(2)] for way, flags in ways.items()}
    try:
        for way, pair in started.items():
            section.measure(way, lambda pair=pair: compared(pair), cost="begun already")
    finally:
        for process in (p for pair in started.values() for p in pair):
            process.kill()


def torch(section: Section) -> None:
    if importlib.util.find_spec("torch") is None:
        section.say("", skipped="PyTorch is not installed")
        return
    from torch_clip import trainee

    for name, batch, how in [("tiny", 8, "eager")] if section.tiny else TORCH:

        def once(name: str = name, batch: int = batch, how: str = how) -> dict[str, Any]:
            run = run_of(name, batch)
            row = trainee(run, arrays_of(run), how == "compiled", 2 if section.tiny else 10)
            return speed(run, row.pop("seconds"), row.pop("device")) | row

        section.measure(f"{name} × {batch} {how}", once, cost=f"torch {how}")


def families(section: Section) -> None:
    from clip_jax.config import ImageTowerConfig, ModelConfig, TextTowerConfig
    from clip_jax.config.presets import ladder
    from clip_jax.train.vmapped.benchmark import measure

    base = ModelConfig(
        image=ImageTowerConfig(image_size=32, patch_size=16), compute_dtype="bfloat16",
        text=TextTowerConfig(context_length=21, vocab_size=1024),
    )  # fmt: skip
    rung, members = (1.0, 2) if section.tiny else (4.0, 8)

    def once() -> dict[str, Any]:
        run = dataclasses.replace(run_of("tiny", 16 if section.tiny else 128), model=ladder(rung, base), steps=200)
        gain = measure([dataclasses.replace(run, seed=seed) for seed in range(members)], "vmap", start_s=0.0)
        return {
            "ms": rounded(1e3 * gain.step_s), "ms_family": rounded(1e3 * gain.step_family_s),
            "gain": rounded(gain.steady, 3), "compile_s": rounded(gain.compile_first_s),
            "compile_family_s": rounded(gain.compile_family_s),
        }  # fmt: skip

    section.measure(f"rung {rung:g} × {members}", once)


def data(section: Section) -> None:
    missing = [m for m in ("grain", "PIL", "tokenizers") if importlib.util.find_spec(m) is None]
    if missing:
        section.say("", skipped=f"{', '.join(missing)}: not installed")
        return
    from data_loading import photographs, write_shards

    from clip_jax.config import DataConfig
    from clip_jax.train.loop import train

    def once() -> dict[str, Any]:
        cores, steps = os.cpu_count() or 1, 6 if section.tiny else 40
        with tempfile.TemporaryDirectory() as scratch:
            pictures = photographs(64 if section.tiny else 1024)
            for split in ("train", "val"):
                write_shards(Path(scratch) / split, pictures)
            who: dict[str, Any] = (
                {"num_threads": 2} if section.tiny else {"num_threads": 1, "num_workers": max(1, cores - 2)}
            )
            source = DataConfig(source="webdataset", paths=(scratch,), tokenizer_train_captions=64, **who)
            run = run_of("tiny", 16) if section.tiny else run_of("ViT-B/32", 1024)
            optim = dataclasses.replace(run.optim, warmup_steps=2)
            run = dataclasses.replace(run, data=source, optim=optim, steps=steps, log_every=2, checkpoint_every=10_000)
            train(run, Path(scratch) / "run", None, progress=False)
            lines = (Path(scratch) / "run" / "metrics.jsonl").read_text().splitlines()
        speeds = [s for s in (json.loads(line).get("samples_per_s") for line in lines) if s]
        return {"cores": cores, "samples_s": rounded(statistics.median(speeds[len(speeds) // 2 :]))} | who

    section.measure("loop", once)


SECTIONS: dict[str, Callable[[Section], None]] = {
    "env": env, "attention": attention, "step": step, "determinism": determinism, "torch": torch,
    "families": families, "data": data, "digests": digests,
}  # fmt: skip
