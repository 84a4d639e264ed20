"""The text of an optimized HLO module as instructions with shapes and operands. Loads no jax."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

ITEM_BYTES = {
    "f64": 8, "s64": 8, "u64": 8, "c64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "s16": 2, "u16": 2,
    "s8": 1, "u8": 1, "pred": 1, "f8e4m3fn": 1, "f8e5m2": 1,
}  # fmt: skip
MOVES = ("bitcast", "copy", "convert", "reshape")
SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
Shape = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Instruction:
    """One line of a computation, with the shapes of its result."""

    name: str
    op: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    attributes: str
    argument: str  # the text between the parentheses
    root: bool = False  # whether it is the computation's result

    @property
    def bytes(self) -> int:
        """Size of the result."""
        return bytes_of(self.shapes)


@dataclass(frozen=True)
class Program:
    """The computations of an HLO module by name, each its instructions in order."""

    computations: dict[str, list[Instruction]]
    entry: str


def bytes_of(shapes: Sequence[Shape]) -> int:
    """Return the bytes of arrays of these shapes."""
    return sum(ITEM_BYTES.get(dtype, 0) * math.prod(sizes) for dtype, sizes in shapes)


def _shapes(text: str) -> tuple[Shape, ...]:
    matches = SHAPE.findall(text)
    return tuple((d, tuple(int(n) for n in sizes.split(",") if n)) for d, sizes in matches if d in ITEM_BYTES)


def _closing(text: str, start: int) -> int:
    """Return the position of the parenthesis that closes the one at ``start``."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if not depth:
            return i
    raise ValueError(f"unbalanced parentheses: {text[:80]}")


def _instruction(line: str) -> Instruction | None:
    match = re.match(r"\s+(ROOT )?%?([\w.\-]+) = ", line)
    if not match:
        return None
    start = match.end()
    end = _closing(line, start) + 1 if line[start] == "(" else line.index(" ", start)
    open_ = line.index("(", end)
    close = _closing(line, open_)
    argument = line[open_ + 1 : close]
    return Instruction(
        match[2], line[end:open_].strip(), _shapes(line[start:end]), tuple(re.findall(r"%([\w.\-]+)", argument)),
        line[close + 1 :], argument, bool(match[1]),
    )  # fmt: skip


def parse(text: str) -> Program:
    """Parse the text of an optimized HLO module (`jax.stages.Compiled.as_text`); raise ValueError if it has no entry.

    Result shapes and operands are read; everything else is left as text.
    """
    computations: dict[str, list[Instruction]] = {}
    entry, lines = "", None
    for line in text.splitlines():
        if line.endswith("{") and " -> " in line and not line.startswith(" "):
            name = re.match(r"(ENTRY )?%?([\w.\-]+)", line)
            assert name
            lines = computations[name[2]] = []
            entry = name[2] if name[1] else entry
        elif lines is not None and (instruction := _instruction(line)) is not None:
            lines.append(instruction)
    if not entry:
        raise ValueError("the text has no entry computation: it is no HLO module")
    return Program(computations, entry)


def called(instruction: Instruction, key: str) -> list[str]:
    """Return the names of the computations that an attribute of an instruction names."""
    match = re.search(rf"\b{key}=(?:\{{([^}}]*)\}}|%?([\w.\-]+))", instruction.attributes)
    return re.findall(r"[\w.\-]+", match[1] or match[2]) if match else []


def constant(name: str, known: dict[str, Instruction]) -> int | None:
    """Return the value of an integer constant, seen through copies; None if it is none."""
    i = known[name]
    while i.op in MOVES:
        i = known[i.operands[0]]
    return int(i.argument) if i.op == "constant" and re.fullmatch(r"-?\d+", i.argument) else None


def farthest_pair(attributes: str) -> tuple[int, ...]:
    """Return the pair of devices that lie farthest apart among those between which something is sent."""
    match = re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", attributes)
    pairs = re.findall(r"\{(\d+),(\d+)\}", match[1]) if match else []
    return max(((int(a), int(b)) for a, b in pairs), key=lambda pair: abs(pair[0] - pair[1]), default=())


def replica_group(attributes: str) -> tuple[int, ...]:
    """Return the first of a collective's groups of devices, which all have one size.

    It may be written out, as an iota ``[groups,size]<=[shape]T(permutation)``, or as axes of a mesh.

    Raises:
      ValueError: it is written in another way.
    """
    import numpy as np

    match = re.search(r"replica_groups=\{(\{[\d,{}]*\})\}", attributes)
    if match:
        return tuple(int(n) for n in match[1].split("}")[0].strip("{").split(","))
    iota = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"
    match = re.search(rf"replica_groups=\[(\d+),(\d+)\]<={iota}", attributes)
    if match:
        return tuple(_iota(match[3], match[4]).reshape(int(match[1]), int(match[2]))[0].tolist())
    match = re.search(rf"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\({iota}\))? \{{([^}}]*)\}}", attributes)
    axes = re.findall(r"'(\w+)'=(\d+)", match[1]) if match else []
    chosen = re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", match[4]) if match else []
    if not match or any(part for _, part, _ in chosen):
        raise ValueError(f"cannot read the groups of a collective: {attributes[:120]}")
    sizes = [int(size) for _, size in axes]
    ids = _iota(match[2], match[3]) if match[2] else np.arange(math.prod(sizes))
    at = tuple(0 if name not in {c for c, _, _ in chosen} else slice(None) for name, _ in axes)
    return tuple(ids.reshape(sizes)[at].reshape(-1).tolist())


def _iota(shape: str, permutation: str) -> np.ndarray:
    import numpy as np

    sizes = [int(n) for n in shape.split(",")]
    ids = np.arange(math.prod(sizes)).reshape(sizes)
    return ids.transpose([int(n) for n in permutation.split(",")]) if permutation else ids
