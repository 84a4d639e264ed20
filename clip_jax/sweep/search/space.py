"""Search space, written as lines of text: ``optim.peak_lr = log(1e-4, 1e-1)``.

``log(LOW, HIGH)``, ``uniform(LOW, HIGH)`` and ``integer(LOW, HIGH)`` take a third number, the points of a grid;
``choice(A, B, …)`` lists values. A line may end in `` if FIELD = VALUE``: the field exists only if an earlier line
chose that value.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from clip_jax.errors import ConfigError, UserError, parse_json

Kind = Literal["log", "uniform", "integer", "choice"]
EDGE = 0.05  # fraction of a dimension's range, on its own scale, that counts as its edge
_LINE = re.compile(r"([\w.]+)\s*=\s*(\w+)\((.*)\)(?:\s+if\s+([\w.]+)\s*=\s*(\S+))?$")

Value = bool | int | float | str | None  # of a config field
Setting = dict[str, Value]


@dataclass(frozen=True)
class Dimension:
    """One field and its values; ``points`` is the size of its grid, 0 if none was given."""

    field: str
    kind: Kind
    low: float = 0.0
    high: float = 0.0
    points: int = 0
    values: tuple[Value, ...] = ()
    parent: str = ""
    parent_value: Value = None

    def exists(self, setting: Mapping[str, Value]) -> bool:
        """Return whether the field is active given the values chosen so far."""
        return not self.parent or setting.get(self.parent) == self.parent_value

    def at(self, share: float) -> Value:
        """Return the value at a fraction ``share`` in [0, 1] of the range; for choices, of their order."""
        if self.kind == "choice":
            return self.values[min(int(share * len(self.values)), len(self.values) - 1)]
        if self.kind == "log":
            return float(f"{math.exp(math.log(self.low) + share * math.log(self.high / self.low)):.4g}")
        value = self.low + share * (self.high - self.low)
        return min(round(value), int(self.high)) if self.kind == "integer" else float(f"{value:.4g}")

    def share(self, value: float) -> float:
        """Return the position of a number in the range: 0 at the lower end, 1 at the upper."""
        if self.kind == "log":
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def grid(self) -> list[Value]:
        """Return the values of the grid in order.

        Raises:
          ConfigError: the range has no number of points.
        """
        if self.kind == "choice":
            return list(self.values)
        if not self.points:
            reason = f"a grid needs a number of points: {self.kind}(LOW, HIGH, POINTS)"
            raise ConfigError(source="space", field=self.field, reason=reason)
        return list(dict.fromkeys(self.at(i / (self.points - 1)) for i in range(self.points)))

    def edge(self, value: Value) -> str:
        """Return ``lower`` or ``upper`` if the value lies on that end of the range, else an empty string."""
        if self.kind == "choice":
            return ""
        share = self.share(cast(float, value))
        step = 0.5 / (self.points - 1) if self.points else EDGE
        return "lower" if share < step else "upper" if share > 1 - step else ""


def parse_space(lines: Sequence[str]) -> tuple[Dimension, ...]:
    """Parse the lines of a search space.

    Raises:
      ConfigError: a line cannot be parsed; it is named.
    """
    dimensions: list[Dimension] = []
    for line in lines:
        match = _LINE.match(line.strip())
        if not match or match[2] not in get_args(Kind):
            reason = "must be FIELD = log(…), uniform(…), integer(…) or choice(…)"
            raise ConfigError(field="space", value=line, reason=reason)
        field, _, inside, parent, value = match.groups()
        kind = cast(Kind, match[2])
        values = tuple(_value(part) for part in inside.split(",") if part.strip())
        if field in {d.field for d in dimensions}:
            raise ConfigError(source="space", field=field, reason="is given by two lines")
        parent_value = _value(value) if parent else None
        if parent:
            before = next((d for d in dimensions if d.field == parent), None)
            if before is None or parent_value not in before.values:
                raise ConfigError(field="space", value=line, reason=f"no earlier line chooses {parent} = {value}")
        if kind == "choice":
            if len(set(map(str, values))) < 2 or len(set(map(str, values))) < len(values):
                raise ConfigError(field="space", value=line, reason="needs two values or more, all different")
            dimensions.append(Dimension(field, kind, values=values, parent=parent or "", parent_value=parent_value))
        else:
            dimensions.append(_range(line, field, kind, values, parent or "", parent_value))
    if not dimensions:
        raise ConfigError(field="space", reason="must hold a line, such as optim.peak_lr = log(1e-4, 1e-1)")
    return tuple(dimensions)


def _range(line: str, field: str, kind: Kind, values: tuple[Value, ...], parent: str, parent_value: Value) -> Dimension:
    numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)]
    if len(numbers) < len(values) or len(values) not in (2, 3):
        raise ConfigError(field="space", value=line, reason="needs LOW and HIGH, and for a grid the number of points")
    low, high, points = (*numbers, 0)[:3]
    if not low < high or (kind == "log" and low <= 0):
        raise ConfigError(field="space", value=line, reason=f"needs {'0 < ' if kind == 'log' else ''}LOW < HIGH")
    if (len(values) == 3 and points < 2) or points != int(points):
        raise ConfigError(field="space", value=line, reason="a grid has two points or more")
    if kind == "integer" and (low != int(low) or high != int(high)):
        raise ConfigError(field="space", value=line, reason="integer needs whole numbers")
    return Dimension(field, kind, low, high, int(points), (), parent, parent_value)


def _value(text: str) -> Value:
    try:
        return parse_json(text, "space")
    except UserError:
        return {"True": True, "False": False}.get(text.strip(), text.strip().strip("'\""))


def grid(space: Sequence[Dimension]) -> list[Setting]:
    """Return every setting of the grid once, without inactive fields."""
    return list(_grid(list(space), {}))


def _grid(space: list[Dimension], setting: Setting) -> Iterator[Setting]:
    if not space:
        yield dict(setting)
        return
    first, rest = space[0], space[1:]
    for value in first.grid() if first.exists(setting) else [None]:
        yield from _grid(rest, setting if value is None else setting | {first.field: value})


def sample_random(space: Sequence[Dimension], count: int, seed: int) -> list[Setting]:
    """Return ``count`` random settings; the i-th is a function of (seed, i)."""
    import numpy as np

    settings = []
    for i in range(count):
        rng, setting = np.random.default_rng((seed, i)), Setting()
        for dimension in space:
            share = float(rng.random())  # drawn even for inactive fields, so that no field's value depends on another's
            if dimension.exists(setting):
                setting[dimension.field] = dimension.at(share)
        settings.append(setting)
    return settings


def edge_warnings(space: Sequence[Dimension], setting: Setting) -> list[str]:
    """Return a line for every range on whose end the setting lies, as the optimum may lie beyond it."""
    lines = []
    for d in space:
        if d.field in setting and (side := d.edge(setting[d.field])):
            end = d.low if side == "lower" else d.high
            lines.append(f"{d.field}={setting[d.field]:g} lies on the {side} edge ({end:g}) of its range; widen it")
    return lines


def unique(parts: Sequence[Sequence[Setting]]) -> list[Setting]:
    """Return the settings without repetitions, in order."""
    seen: dict[str, Setting] = {}
    for setting in itertools.chain.from_iterable(parts):
        seen.setdefault(json.dumps(setting, sort_keys=True), setting)
    return list(seen.values())
