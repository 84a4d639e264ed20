"""The least time of a compiled program, kernel by kernel, read from the text of its optimized HLO. Loads no jax.

A GPU program is a list of kernels. Each takes at least as long as its bytes at the memory bandwidth that kernels reach,
or its FLOPs at the speed that matrix products reach, whichever is longer, plus its launch; collectives add what the
kernels beside them do not hide. A TPU program carries XLA's own estimate of cycles on every instruction. Either is a
lower bound of the time of a step, not a forecast.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from clip_jax.flops.hlo import (
    MOVES,
    Instruction,
    Program,
    Shape,
    bytes_of,
    called,
    constant,
    farthest_pair,
    parse,
    replica_group,
)

if TYPE_CHECKING:
    from clip_jax.flops.devices import Device

LAUNCH = 2e-6  # seconds of a kernel whatever it does
# Speeds that kernels reach, as shares of the data sheet's: of an H100, 3.0 of 3.35 TB/s, 720 of 989 TFLOP/s in dense
# bfloat16 products, 300 where the result has fewer than 128 rows or columns, 370 of 450 GB/s between GPUs
BANDWIDTH, PRODUCTS, NARROW_PRODUCTS, LINK = 3.0 / 3.35, 720 / 989, 300 / 989, 370 / 450
NARROW = 128

Kind = Literal["products", "attention", "elementwise", "copies", "collectives", "unpriced"]
TITLES: dict[Kind, str] = {
    "products": "matrix products and convolutions", "attention": "fused attention",
    "elementwise": "elementwise and reductions", "copies": "copies and the buffers of loops",
    "collectives": "collectives", "unpriced": "not priced by kernel",
}  # fmt: skip
# instructions that are no kernels
FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota", "partition-id", "replica-id",
    "add-dependency", "opt-barrier", "copy-done", "async-update",
}  # fmt: skip
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")


@dataclass(frozen=True)
class Kernel:
    """One kernel of a program: what it does, how often, and bytes and FLOPs of one run of it.

    ``narrow`` is whether the smaller of its result's last two axes is below 128. ``group`` is the first group of the
    devices between which a collective sends.
    """

    name: str
    source: str  # the operation of the traced program
    kind: Kind
    calls: int
    bytes: float
    flops: float = 0.0
    narrow: bool = False
    dtype: str = ""  # of a product's operands
    group: tuple[int, ...] = ()


@dataclass(frozen=True)
class BestCase:
    """Least time of one run of a program on one device, and its kernels with the seconds of all runs of each.

    ``flops`` is the sum over kernels, ``bytes`` what they move; ``exposed`` are seconds of collectives that no kernel
    hides, part of ``seconds``. On a TPU, ``flops`` and ``bytes`` are not known and 0.
    """

    seconds: float
    kernels: tuple[tuple[Kernel, float], ...]
    flops: float = 0.0
    bytes: float = 0.0
    exposed: float = 0.0

    def by_kind(self) -> dict[Kind, tuple[int, float, float, float]]:
        """Return calls, seconds, bytes and FLOPs of each kind of kernel, the longest first."""
        totals: defaultdict[Kind, list[float]] = defaultdict(lambda: [0, 0.0, 0.0, 0.0])
        for kernel, seconds in self.kernels:
            calls = kernel.calls
            for i, x in enumerate((calls, seconds, calls * kernel.bytes, calls * kernel.flops)):
                totals[kernel.kind][i] += x
        rows = sorted(totals.items(), key=lambda item: -item[1][1])
        return {kind: (int(calls), seconds, moved, work) for kind, (calls, seconds, moved, work) in rows}

    def explain(self, lines: int = 5) -> list[str]:
        """Return what takes the time, by kind of kernel, in at most ``lines`` lines."""
        out = []
        for kind, (calls, seconds, moved, work) in list(self.by_kind().items())[:lines]:
            share = seconds / self.seconds if self.seconds else 0.0
            done = f", {moved / 2**30:,.1f} GiB" if moved else ""
            done += f", {work:.3g} FLOPs" if work else ""
            hidden = f", {1e3 * self.exposed:.2f} ms not hidden" if kind == "collectives" else ""
            out.append(f"{1e3 * seconds:9.2f} ms {share:6.1%}  {TITLES[kind]}: {calls:,} kernels{done}{hidden}")
        return out


# --- bytes and FLOPs of single kernels ---


def _integers(text: str, key: str) -> list[int]:
    match = re.search(rf'"?{key}"?[:=] ?[\[{{]([^\]}}]*)[\]}}]', text)
    return [int(n) for n in re.findall(r"\d+", match[1])] if match else []


def _product_flops(instruction: Instruction, known: dict[str, Instruction]) -> float:
    """Return the FLOPs of a dot, whether an instruction or a cuBLAS call."""
    left = known[instruction.operands[0]].shapes[0][1]
    contracted = _integers(instruction.attributes, "lhs_contracting_d[a-z]*")
    return 2.0 * math.prod(instruction.shapes[0][1]) * math.prod(left[i] for i in contracted)


def _convolution_flops(instruction: Instruction, known: dict[str, Instruction], target: str) -> float:
    """Return the FLOPs of a convolution or of either of its gradients."""
    labels = re.search(r"dim_labels=\w+_(\w+)->", instruction.attributes)
    assert labels
    first, second = (known[name].shapes[0][1] for name in instruction.operands[:2])
    result = instruction.shapes[0][1]
    kernel, outputs = second, result
    if "BackwardFilter" in target:
        kernel, outputs = result, second
    elif "BackwardInput" in target:
        outputs = first
    return 2.0 * math.prod(outputs) * math.prod(kernel) / kernel[labels[1].index("o")]


def _attention_flops(instruction: Instruction, known: dict[str, Instruction], target: str) -> float:
    """Return the FLOPs of cuDNN's attention: two products forward, five backward, over the whole matrix of logits.

    Queries, keys and values are [B, T, N, K], whatever the mask hides.
    """
    (_, (b, t, n, k)), (_, (_, s, _, _)) = (known[name].shapes[0] for name in instruction.operands[:2])
    return (2.0 if "Backward" not in target else 5.0) * 2 * b * t * n * k * s


def _unmoved(i: Instruction, known: dict[str, Instruction]) -> Instruction:
    """Return the instruction whose result this one only moves or converts."""
    while i.op in MOVES:
        i = known[i.operands[0]]
    return i


def _fusion_bytes(instruction: Instruction, inside: list[Instruction]) -> int:
    """Return the bytes that a fusion moves: of an operand that is only sliced its slices, of an update in place the
    update, which is written only."""
    by_name = {i.name: i for i in inside}
    users: defaultdict[str, list[Instruction]] = defaultdict(list)
    for i in inside:
        for operand in i.operands:
            users[operand].append(i)
    root = next(i for i in inside if i.root)
    results = [by_name[name] for name in root.operands] if root.op == "tuple" else [root]
    moved = replaced = 0
    in_place: set[str] = set()
    for i in (_unmoved(x, by_name) for x in results):
        if i.op == "dynamic-update-slice":  # any other is computed like a selection, element by element
            moved += by_name[i.operands[1]].bytes
            replaced += i.bytes
            target = by_name[i.operands[0]]
            in_place |= {target.name, _unmoved(target, by_name).name}

    def read(name: str) -> int:
        total = 0
        for user in users[name]:
            if user.op in ("bitcast", "reshape") and user.name not in in_place:
                total += read(user.name)
            elif user.op in ("dynamic-slice", "slice", "gather") and user.operands[0] == name:
                total += user.bytes
            elif name not in in_place:
                return by_name[name].bytes
        return min(total, by_name[name].bytes)

    moved += sum(read(i.name) for i in inside if i.op == "parameter")
    return moved + max(instruction.bytes - replaced, 0)


def _dtype(i: Instruction, known: dict[str, Instruction]) -> str:
    return known[i.operands[0]].shapes[0][0]


def _narrow(shapes: Sequence[Shape]) -> bool:
    return bool(shapes) and min(shapes[0][1][-2:], default=1) < NARROW


@dataclass(frozen=True)
class _Pass:
    """One pass over a computation: its seconds, those that wait for a collective, and the kernels that it runs."""

    seconds: float = 0.0
    exposed: float = 0.0
    kernels: tuple[tuple[Kernel, float], ...] = ()

    def times(self, count: int) -> _Pass:
        kernels = tuple((replace(k, calls=k.calls * count), s * count) for k, s in self.kernels)
        return _Pass(self.seconds * count, self.exposed * count, kernels)


class _Walk:
    """A walk over a program in the order of its schedule: one stream of kernels and one of collectives.

    ``price`` gives the seconds of one run of a kernel.
    """

    def __init__(self, program: Program, price: Callable[[Kernel, Instruction], float]) -> None:
        self.program, self.price = program, price

    def run(self, computation: str) -> _Pass:
        known = {i.name: i for i in self.program.computations[computation]}
        clock = exposed = link_free = 0.0
        kernels: list[tuple[Kernel, float]] = []
        ends: dict[str, float] = {}  # of collectives on their way
        for i in known.values():
            inner = self._inner(i, known)
            if inner is not None:
                clock, exposed = clock + inner.seconds, exposed + inner.exposed
                kernels += inner.kernels
            elif i.op.endswith("-done"):
                end = ends.pop(i.operands[0], clock)
                exposed, clock = exposed + max(end - clock, 0.0), max(end, clock)
            elif i.op not in FREE:
                kernel = self._kernel(i, known)
                seconds = self.price(kernel, i)
                kernels.append((kernel, seconds))
                if kernel.kind != "collectives":
                    clock += seconds
                    continue
                link_free = max(clock, link_free) + seconds
                if i.op.endswith("-start") and '"is_sync":true' not in i.attributes:
                    ends[i.name] = link_free
                else:
                    exposed, clock = exposed + link_free - clock, link_free
        last = max([clock, *ends.values()])
        return _Pass(last, exposed + last - clock, tuple(kernels))

    def _inner(self, i: Instruction, known: dict[str, Instruction]) -> _Pass | None:
        """Return the pass over the computations that an instruction runs; None if it is a kernel of its own."""
        if i.op == "while":
            return self.run(called(i, "body")[0]).times(self._trips(i, known))
        if i.op == "call":
            return self.run(called(i, "to_apply")[0])
        if i.op == "conditional":
            keys = ("branch_computations", "true_computation", "false_computation")
            return max((self.run(name) for key in keys for name in called(i, key)), key=lambda way: way.seconds)
        return None

    def _trips(self, loop: Instruction, known: dict[str, Instruction]) -> int:
        """Return how often a loop runs: as XLA notes it, else for a counter from a constant by 1 up to a constant."""
        match = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if match:
            return int(match[1])
        condition = {i.name: i for i in self.program.computations[called(loop, "condition")[0]]}
        body = {i.name: i for i in self.program.computations[called(loop, "body")[0]]}
        try:
            test = next(i for i in condition.values() if i.op == "compare" and "direction=LT" in i.attributes)
            counter, limit = (condition[name] for name in test.operands)
            index = int(re.findall(r"index=(\d+)", counter.attributes)[0])
            first = constant(known[loop.operands[0]].operands[index], known)
            steps = list(body.values())[-1].operands[index]
            by = next(n for name in body[steps].operands if (n := constant(name, body)) is not None)
            last = constant(limit.name, condition)
        except (StopIteration, KeyError, IndexError, ValueError):
            first = last = by = None
        if first is None or last is None or by != 1 or body[steps].op != "add":
            reason = f"the loop {loop.name} runs an unknown number of times, so the program's time is not known"
            raise ValueError(reason)
        return last - first

    def _kernel(self, i: Instruction, known: dict[str, Instruction]) -> Kernel:
        source = re.search(r'op_name="([^"]*)"', i.attributes)
        operands = sum(known[name].bytes for name in i.operands if name in known)
        kernel = Kernel(i.name, source[1] if source else "", "elementwise", 1, operands + i.bytes)
        base = i.op.removesuffix("-start")
        if base == "async":  # the operation is in a computation of its own
            inner = self.program.computations[called(i, "calls")[0]][-1]
            inner_known = {x.name: x for x in self.program.computations[called(i, "calls")[0]]}
            made = self._kernel(inner, inner_known)
            return replace(made, name=i.name, source=kernel.source or made.source)
        if base in COLLECTIVES:
            return self._collective(i, base, known, kernel)
        if i.op == "fusion":
            return self._fusion(i, kernel)
        if i.op == "custom-call":
            return self._custom_call(i, known, kernel)
        if i.op in ("dot", "convolution"):
            flops = _product_flops(i, known) if i.op == "dot" else _convolution_flops(i, known, "")
            return replace(kernel, kind="products", flops=flops, narrow=_narrow(i.shapes), dtype=_dtype(i, known))
        if i.op in ("copy", "copy-start", "transpose", "concatenate", "pad"):
            return replace(kernel, kind="copies")
        if i.op in ("dynamic-slice", "slice", "gather"):
            return replace(kernel, kind="copies", bytes=2 * i.bytes)
        if i.op == "dynamic-update-slice":
            return replace(kernel, kind="copies", bytes=2 * known[i.operands[1]].bytes)
        return kernel

    def _fusion(self, i: Instruction, kernel: Kernel) -> Kernel:
        name = called(i, "calls")[0]
        inside = self.program.computations[name]
        by_name = {x.name: x for x in inside}
        products = []
        for x in inside:
            if x.op in ("dot", "convolution", "fusion", "custom-call"):  # calls are those with slices for operands
                products.append(self._kernel(x, by_name))
        moved = _fusion_bytes(i, inside)
        largest = max(products, key=lambda p: p.flops, default=None)
        if largest is not None and largest.flops:
            return replace(
                largest, name=i.name, source=kernel.source, bytes=moved, flops=sum(p.flops for p in products)
            )
        moves = {x.op for x in inside} & {"dynamic-update-slice", "transpose", "copy", "concatenate", "pad"}
        computes = {x.op for x in inside} & {"add", "multiply", "subtract", "divide", "reduce", "exponential", "tanh"}
        wide = any(x.op in computes and x.bytes > i.bytes // 8 for x in inside)  # not the arithmetic of an index
        return replace(kernel, kind="copies" if moves and not wide else "elementwise", bytes=moved)

    def _custom_call(self, i: Instruction, known: dict[str, Instruction], kernel: Kernel) -> Kernel:
        match = re.search(r'custom_call_target="([^"]+)"', i.attributes)
        target = match[1] if match else ""
        if "cublas" in target or "cudnn" in target:  # bytes without the workspace
            results = [s for s in i.shapes if s[0] not in ("s8", "u8")]
            kernel = replace(kernel, bytes=kernel.bytes - i.bytes + bytes_of(results))
        if "cublas" in target:
            return replace(
                kernel,
                kind="products",
                flops=_product_flops(i, known),
                narrow=_narrow(i.shapes),
                dtype=_dtype(i, known),
            )
        if "fmha" in target:
            flops = _attention_flops(i, known, target)
            return replace(kernel, kind="attention", flops=flops, narrow=_narrow(i.shapes))
        if "cudnn$conv" in target:
            flops = _convolution_flops(i, known, target)
            return replace(kernel, kind="products", flops=flops, narrow=_narrow(i.shapes), dtype=_dtype(i, known))
        return replace(kernel, kind="unpriced")

    def _collective(self, i: Instruction, base: str, known: dict[str, Instruction], kernel: Kernel) -> Kernel:
        """Price a collective by the bytes that a device sends in a ring."""
        sent = sum(known[name].bytes for name in i.operands)
        if base in ("collective-permute", "collective-broadcast"):
            return replace(kernel, kind="collectives", bytes=sent, group=farthest_pair(i.attributes))
        group = replica_group(i.attributes)
        size = len(group)
        whole = sent * size if base == "all-gather" else sent
        times = 2 if base == "all-reduce" else 1
        return replace(kernel, kind="collectives", bytes=times * whole * (size - 1) / max(size, 1), group=group)


# --- time on devices ---


def best_case(text: str, device: Device, *, model_flops: float = 0.0, host_devices: int = 0) -> BestCase | None:
    """Return the least time of a compiled program on one of its devices.

    Args:
      text: of the optimized HLO module, `jax.stages.Compiled.as_text()`.
      device: what runs it.
      model_flops: FLOPs of the model's formula on this device. What the kernels show too few is charged as well,
        so that a kernel that cannot be priced is not taken for free.
      host_devices: devices of a host, whose groups communicate by the fast link; 0: all of them.

    Returns:
      The time; None where it is not known: a TPU whose clock is not, a GPU without bandwidth.

    Raises:
      ValueError: a loop runs an unknown number of times, or the text is no HLO module.
    """
    if device.clock is not None:
        clock = device.clock
        case = _whole(text, lambda _, i: _cycles(i) / clock)
        shown = tuple((replace(k, bytes=0.0, flops=0.0), s) for k, s in case.kernels if s)
        return BestCase(case.seconds, shown)
    if device.bandwidth is None or device.capability is None:
        return None
    bandwidth, wide = device.bandwidth * BANDWIDTH, device.half * PRODUCTS
    link = (device.link or device.bandwidth) * LINK

    def price(kernel: Kernel, _: Instruction) -> float:
        if kernel.kind == "collectives":
            hosts = {n // host_devices for n in kernel.group} if host_devices else set()
            return kernel.bytes / ((device.slow_link or link) if len(hosts) > 1 else link) + LAUNCH
        peak = device.half if kernel.dtype in ("", "bf16", "f16") else device.single or device.half
        reached = peak * (NARROW_PRODUCTS if kernel.narrow else PRODUCTS)
        return max(kernel.bytes / bandwidth, kernel.flops / reached) + LAUNCH

    case = _whole(text, price)
    missing = model_flops - case.flops
    if missing <= 0:
        return case
    rest = Kernel("", "FLOPs of the formula beyond those of the kernels", "unpriced", 1, 0, missing)
    return replace(
        case,
        seconds=case.seconds + missing / wide,
        flops=model_flops,
        kernels=(*case.kernels, (rest, missing / wide)),
    )


def _whole(text: str, price: Callable[[Kernel, Instruction], float]) -> BestCase:
    program = parse(text)
    case = _Walk(program, price).run(program.entry)
    runs = [k for k, _ in case.kernels]
    return BestCase(
        case.seconds, case.kernels, sum(k.calls * k.flops for k in runs), sum(k.calls * k.bytes for k in runs),
        case.exposed,
    )  # fmt: skip


def _cycles(instruction: Instruction) -> int:
    """Return XLA's own estimate of the cycles of a TPU's instruction, 0 where it gives none."""
    match = re.search(r'"estimated_cycles":"(\d+)"', instruction.attributes)
    return int(match[1]) if match else 0
