"""Ahead-of-time check of a sweep: does each training step fit in memory, and how long will it take?

Every distinct training step is compiled for the target before anything is launched: for a TPU slice or for GPUs that
need not be at hand, else for this machine's devices. Nothing is executed.

Memory is XLA's own analysis of the compiled step. Time is twofold: a roofline of our own FLOPs and bytes, the least
that the device's data sheet allows; and *at best*, what the kernels of the compiled program need (`flops.compiled`).
The second is the nearer one, and hours and cost follow from it where it is known.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_jax import flops
from clip_jax.config import OptimConfig, RunConfig
from clip_jax.config.model import RematPolicy
from clip_jax.config.run import untracked
from clip_jax.errors import ConfigError, UserError
from clip_jax.flops.compiled import BestCase, best_case
from clip_jax.flops.devices import GIB
from clip_jax.models.execution import resolve
from clip_jax.storage.paths import mkdir, write_text
from clip_jax.sweep.preflight.roofline import Roofline, roofline
from clip_jax.sweep.preflight.targets import Target, find_target, tracing_for

if TYPE_CHECKING:
    from clip_jax.config import DataConfig

logger = logging.getLogger(__name__)

# policies that save less memory than each policy does, tried in this order if memory is short
CHEAPER_POLICIES: dict[str, tuple[RematPolicy, ...]] = {
    "everything": ("dense", "nothing"), "dots": ("dense", "nothing"),
    "dense": ("nothing",), "attention": ("nothing",), "nothing": (),
}  # fmt: skip
# of a core for a JPEG of 500 × 375 and the crop to 224, benchmarks/README.md ("preprocessing.py")
DECODE_SECONDS = {"pillow": 2.23e-3, "simplejpeg": 1.40e-3}
MIN_PIECE = 8  # pairs per device and microbatch; fewer leave the device idle


@dataclass(frozen=True)
class Step:
    """Bytes per device of a compiled step, its compile time, and its least time where it is known.

    ``reason`` says why it was refused.
    """

    state: float  # parameters and moments
    needed: float  # state, batch, temporaries and program
    compile_s: float
    reason: str = ""
    best: BestCase | None = None


def compile_step(config: RunConfig, target: Target, hlo: Path | None = None) -> Step:
    """Compile one training step; a config that the mesh cannot hold gives a reason, not an error.

    The optimized program is written to the file ``hlo``, if one is given.
    """
    import jax

    from clip_jax.distributed.mesh import check_batch, make_mesh
    from clip_jax.train.determinism import DETERMINISTIC
    from clip_jax.train.step import abstract_step

    try:
        mesh = make_mesh(config.mesh, target.devices)
        check_batch(config.microbatch_size or config.batch_size, mesh)
        train_step, state, batch = abstract_step(config, mesh)
    except ConfigError as error:
        return Step(0, 0, 0, str(error))
    kept = float(sum(_bytes_per_device(x) for x in jax.tree.leaves(state)))
    if kept > target.memory:
        return Step(kept, kept, 0, "parameters and moments alone do not fit: split them over more devices (mesh.fsdp)")
    began = time.monotonic()
    options = dict(target.options)
    if config.deterministic and target.devices[0].platform in ("gpu", "cuda"):
        options[DETERMINISTIC] = True
    with tracing_for(target):
        lowered = train_step.lower(state, batch)
    try:
        compiled = lowered.compile(compiler_options=options or None)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        match = re.search(r"\(?([\d.]+)([MG])\)? exceeds", str(error))
        temporaries = float(match[1]) * (GIB if match[2] == "G" else 2**20) if match else target.memory
        return Step(kept, kept + temporaries, time.monotonic() - began, "too little memory")
    memory = compiled.memory_analysis()
    assert memory is not None
    needed = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    needed += memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    reason = "too little memory" if needed > target.memory else ""
    took, best = time.monotonic() - began, None
    if hlo is not None:
        mkdir(hlo.parent)
        write_text(hlo, compiled.as_text() or "")
    if target.device is not None and not reason:
        share = _work(config) / len(target.devices)
        try:
            best = best_case(
                compiled.as_text() or "", target.device, model_flops=share, host_devices=target.host_devices
            )
        except ValueError as error:
            raise UserError(field="--target", value=target.name, reason=f"time of the step: {error}") from error
    return Step(kept, float(needed), took, reason, best)


def _work(config: RunConfig) -> float:
    """Return the model's FLOPs of a step, without what is computed again."""
    batch = config.batch_size
    return flops.training_flops(config.model, batch, batch, config.init_from.freeze_tower).total


def _bytes_per_device(x: Any) -> int:
    """Return the bytes of an array on one device."""
    return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize


@dataclass(frozen=True)
class Verdict:
    """Result for one shape of a sweep on the target. ``config`` is the variant that fits, or the last one tried."""

    label: str
    config: RunConfig
    step: Step
    time: Roofline
    tried: int

    @property
    def fits(self) -> bool:
        """Whether the shape can be launched."""
        return not self.step.reason

    @property
    def seconds(self) -> float | None:
        """Least time of a step, by the compiled program where it tells, else by the roofline; None if unknown."""
        return self.step.best.seconds if self.step.best else self.time.seconds


def find_fit(label: str, config: RunConfig, target: Target, flop_per_second: float | None = None) -> Verdict:
    """Compile the config; if memory is short, try more rematerialization, then microbatches, cheapest first."""
    tried, variant = 0, config
    step = Step(0, 0, 0, "")
    peaks: dict[tuple[bool, str], Step] = {}

    for variant in variants(config, target, peaks):
        step = compile_step(variant, target)
        tried += 1
        if not variant.microbatch_size or config.microbatch_size:
            peaks[variant.model.remat, variant.model.remat_policy] = step
        if not step.reason or "memory" not in step.reason:
            break
    time_ = Roofline(None) if step.reason else roofline(variant, target.devices, target.device, flop_per_second)
    return Verdict(label, variant, step, time_, tried)


def variants(config: RunConfig, target: Target, peaks: dict[tuple[bool, str], Step]) -> Iterator[RunConfig]:
    """Yield the config, then its cheaper ways to save memory: more recomputation, then microbatches.

    Args:
      config: the run's.
      target: what it is compiled for.
      peaks: by (remat, policy), what the variants so far needed; filled in by the caller between two of them.
    """
    from clip_jax.train.determinism import model_to_build

    device = target.devices[0]
    config = dataclasses.replace(config, model=resolve(model_to_build(config, device), device))
    yield config
    kept = (config.model.remat, config.model.remat_policy)
    policies = [kept]
    for policy in CHEAPER_POLICIES[config.model.remat_policy if config.model.remat else "everything"]:
        if policy == "dense" and config.model.image.stages:
            policy = "dots"  # the policy that supports convolutions
        if kept == (True, policy):
            continue
        policies.append((True, policy))
        yield _recomputed(config, True, policy)
    can_split = (
        not (config.model.image.stages or config.model.decoder.depth) and config.model.objective == "contrastive"
    )
    if not can_split or config.microbatch_size:
        return
    for remat, policy in (policies[0], policies[-1]):
        whole = peaks[remat, policy]
        share = (target.memory - whole.state) * 0.8 / max(whole.needed - whole.state, 1.0)
        piece = even_microbatch(config.batch_size, len(target.devices), share)
        while piece >= MIN_PIECE * len(target.devices):
            yield dataclasses.replace(_recomputed(config, remat, policy), microbatch_size=piece)
            piece = even_microbatch(config.batch_size, len(target.devices), piece / 2 / config.batch_size)


def _recomputed(config: RunConfig, remat: bool, policy: RematPolicy) -> RunConfig:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, remat=remat, remat_policy=policy))


def even_microbatch(batch: int, devices: int, share: float) -> int:
    """Return the largest microbatch that splits the batch and the devices evenly; 0 if there is none.

    Args:
      batch: pairs per step.
      devices: number of devices.
      share: the largest share of the batch that it may be.
    """
    per_device = batch // devices
    sizes = [n for n in range(1, per_device) if per_device % n == 0 and n <= per_device * share]
    return max(sizes, default=0) * devices


# fields of the optimizer that change the program; schedule-free is tied to a schedule
_OPTIM = (
    "optimizer", "schedule", "lr_decay_fraction", "state_dtype", "half_rounding", "ema_decay", "loss_scale",
)  # fmt: skip


def shape_of(config: RunConfig) -> RunConfig:
    """Return the config with every field that does not change the compiled program at its default."""
    kept: dict[str, Any] = {name: getattr(config.optim, name) for name in _OPTIM}
    optim = dataclasses.replace(OptimConfig(), warmup_steps=0, **kept)
    shape = dataclasses.replace(config, optim=optim, data=RunConfig().data, evals=RunConfig().evals)
    return untracked(dataclasses.replace(shape, steps=2, seed=0, log_every=1, checkpoint_every=1))


Echo = Callable[[str], None]


def preflight(
    runs: list[tuple[str, RunConfig, float]],
    target_name: str,
    *,
    flop_per_second: float | None = None,
    price: float | None = None,
    explain: bool = False,
    echo: Echo = logger.info,
) -> list[Verdict]:
    """Compile every distinct shape of (label, config, planned FLOPs), print the table and return the verdicts.

    Args:
      runs: in the order to print.
      target_name: see `find_target`; the number of slices is that of the first config's mesh.
      flop_per_second: speed of one device whose data sheet is not known.
      price: price per device-hour, in any currency.
      explain: whether to say below each shape what takes its time.
      echo: receives one line.

    Raises:
      UserError: there is no run, or the target cannot be used.
    """
    if not runs:
        raise UserError(field="plan", reason="has no cell left to run, so there is nothing to compile")
    target = find_target(target_name, runs[0][1].mesh.slices)
    groups: dict[RunConfig, list[tuple[str, RunConfig, float]]] = {}
    for label, config, planned in runs:
        groups.setdefault(shape_of(config), []).append((label, config, planned))
    count = len(target.devices)
    logger.info("compiling the training steps of %d runs, %d shapes; nothing is trained", len(runs), len(groups))
    several = "device" if count == 1 else "devices"
    echo(f"  {target.name}: {count} {several} of {target.memory / GIB:.2f} GiB; times are best cases")
    echo(
        f"  {'shape':24s} {'fits':5s} {'as':26s} {'GiB':>6s} {'spare':>6s} {'compile':>8s} {'FLOPs/step':>11s} "
        f"{'roofline':>8s} {'limit':8s} {'at best':>8s} {'MFU':>6s} {'hours':>8s} {'device-h':>9s}"
        + (f" {'cost':>9s}" if price else "")
    )
    verdicts = []
    for shape, members in groups.items():
        verdict = find_fit(members[0][0], shape, target, flop_per_second)
        verdicts.append(verdict)
        steps = sum(config.steps for _, config, _ in members)
        echo(_line(verdict, target, steps, len(members), price))
        if explain and verdict.step.best:
            for line in verdict.step.best.explain():
                echo(f"    {line}")
        need = _host_need(verdict, target, members[0][1].data)
        if need:
            echo(f"    {need}")
    refused = [v for v in verdicts if not v.fits]
    for v in refused:
        short = v.step.needed - target.memory
        by = f"; needs {v.step.needed / GIB:.2f} GiB per device, {short / GIB:.2f} too many" if short > 0 else ""
        echo(f"  refused: {v.label}: {v.step.reason}{by}")
    changed = [v for v in verdicts if v.fits and v.tried > 1]
    if changed:
        hardest = max(changed, key=lambda v: (bool(v.config.microbatch_size), v.tried))
        echo(f"  what fits all of them is set by {_fields(hardest.config)}")
    return verdicts


def _fields(config: RunConfig) -> str:
    fields = []
    if config.model.remat:
        fields += ["--base.model.remat=true", f"--base.model.remat_policy={config.model.remat_policy}"]
    if config.microbatch_size:
        fields.append(f"--base.microbatch_size={config.microbatch_size}")
    return " ".join(fields)


def _line(verdict: Verdict, target: Target, steps: int, runs: int, price: float | None) -> str:
    config, step = verdict.config, verdict.step
    way = f"kept: {config.model.remat_policy}" if config.model.remat else "all kept"
    if config.microbatch_size:
        way += f", pieces {config.microbatch_size:,}"
    work, seconds, best = _work(config), verdict.seconds, step.best
    least = f"{verdict.time.seconds:8.3f}" if verdict.time.seconds is not None else f"{'-':>8s}"
    times = f"{least} {verdict.time.bound:8s}"
    times += f" {best.seconds:8.3f}" if best else f" {'-':>8s}"
    mfu = None
    if best and target.device is not None and config.model.compute_dtype != "float32":
        mfu = work / len(target.devices) / target.device.half / best.seconds
    times += f" {mfu:6.1%}" if mfu is not None else f" {'-':>6s}"
    if seconds is None:
        times += f" {'-':>8s} {'-':>9s}"
    else:
        hours = seconds * steps / 3600
        times += f" {hours:8.2f} {hours * len(target.devices):9.1f}"
        if price:
            times += f" {hours * len(target.devices) * price:9.0f}"
    label = verdict.label + (f" × {runs}" if runs > 1 else "")
    return (
        f"  {label:24s} {'yes' if verdict.fits else 'NO':5s} {way:26s} {step.needed / GIB:6.2f} "
        f"{(target.memory - step.needed) / GIB:6.2f} {step.compile_s:6.0f} s {work:11.2e} {times}"
    )


def _host_need(verdict: Verdict, target: Target, data: DataConfig) -> str:
    """Return what each host must read for a step at best, with the cores that decode it; empty if nothing is read."""
    if verdict.seconds is None or data.source == "scenes":
        return ""
    hosts = max(len(target.devices) // (target.host_devices or len(target.devices)), 1)
    pairs = verdict.config.batch_size / verdict.seconds / hosts
    need = f"needs {pairs:,.0f} pairs/s per host"
    if data.cache_decoded:
        return need
    cores = math.ceil(pairs * DECODE_SECONDS[data.jpeg_decoder])
    return f"{need}, about {cores:,} cores to decode ({data.jpeg_decoder}, JPEGs of 500 × 375)"
