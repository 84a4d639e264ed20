"""Groups of sets with a common design, so that training and evaluation never share a designer.

Two sets belong to the same group if they share an author, if one's prefix continues the other's (mdi, mdi-light), if
they are known to derive from each other, or by measurement: a tenth of the smaller set's icons have the same path data,
or most icons of the same name look the same. Groups are held out whole. Icons that still look alike across the split (a
letter, a plain square, a logo that everybody draws) are found by perceptual hash and removed from training.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clip_jax.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from clip_jax.datasets.icons.package import IconSet

# forks, successors and fonts derived from each other
KNOWN = (
    ("ic", "material-symbols", "mdi", "zmdi", "line-md"),
    ("feather", "lucide"),
    ("ion", "famicons"),
    ("heroicons", "sidekickicons"),
    ("fa", "la"),
    ("mi", "mono-icons"),
    ("maki", "temaki", "pinhead"),
    ("simple-icons", "cib", "logos", "thesvg", "fa-brands", "bxl", "brandico"),
)  # fmt: skip
# share of the smaller set's icons; minimum count, since a plain square proves nothing
SHARED_PATHS, SHARED_LEAST = 0.1, 5
SHARED_LOOKS, LOOKS_ALIKE, NAMES = 0.5, 4, 20  # share of common names, maximum distance in bits, minimum common names


@dataclass(frozen=True)
class Link:
    """Two sets of the same design group, and the reason."""

    first: str
    second: str
    reason: str


def links(sets: Iterable[IconSet], table: pd.DataFrame) -> list[Link]:
    """Return every reason for two sets to be in one design group.

    Args:
      sets: the sets.
      table: columns set, base, hash, digest.
    """
    sets = sorted(sets, key=lambda s: s.prefix)
    prefixes = {s.prefix for s in sets}
    reasons = []
    for first, second in itertools.combinations(sets, 2):
        if _author(first) and _author(first) == _author(second):
            reasons.append(Link(first.prefix, second.prefix, f"author {second.author}"))
        if second.prefix.startswith(f"{first.prefix}-"):
            reasons.append(Link(first.prefix, second.prefix, "prefix"))
    for group in KNOWN:
        members = [p for p in group if p in prefixes]
        reasons += [Link(members[0], p, "known") for p in members[1:]]
    return reasons + _measured(table)


def _author(icons: IconSet) -> str:
    return re.sub(r"\b(inc|llc|corporation|contributors|the|authors)\b|[^a-z0-9]", "", icons.author.lower())


def _measured(table: pd.DataFrame) -> list[Link]:
    paths = table[["set", "digest"]].drop_duplicates()
    sizes = paths["set"].value_counts()
    common = _pairs(paths.groupby("digest")["set"].agg(list))
    reasons = []
    for (first, second), count in sorted(common.items()):
        share = count / min(sizes[first], sizes[second])
        if share >= SHARED_PATHS and count >= SHARED_LEAST:
            reasons.append(Link(first, second, f"{share:.0%} of path data"))
    looks = table.drop_duplicates(["set", "base"])[["set", "base", "hash"]]
    seen: Counter[tuple[str, str]] = Counter()
    alike: Counter[tuple[str, str]] = Counter()
    for _, group in looks.sort_values("set").groupby("base"):
        members = list(zip(group["set"], group["hash"], strict=True))
        for (first, h), (second, g) in itertools.combinations(members, 2):
            seen[first, second] += 1
            alike[first, second] += (int(h) ^ int(g)).bit_count() <= LOOKS_ALIKE
    for pair, count in sorted(seen.items()):
        if count >= NAMES and alike[pair] >= SHARED_LOOKS * count:
            reasons.append(Link(*pair, f"{alike[pair] / count:.0%} of {count} common names look alike"))
    return reasons


def _pairs(groups: Iterable[list[str]]) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for members in groups:
        if len(members) > 1:
            counts.update(itertools.combinations(sorted(members), 2))
    return counts


def group_by_design(prefixes: Iterable[str], reasons: list[Link]) -> list[tuple[str, ...]]:
    """Return the design groups: the connected components of the prefixes under the links, sorted."""
    root = {p: p for p in prefixes}

    def top(p: str) -> str:
        while root[p] != p:
            p = root[p]
        return p

    for link in reasons:
        root[top(link.second)] = top(link.first)
    members: dict[str, list[str]] = {}
    for p in sorted(root):
        members.setdefault(top(p), []).append(p)
    return sorted(tuple(m) for m in members.values())


@dataclass(frozen=True)
class HoldoutSplit:
    """The holdout split of a table, by row.

    Rows bool [N]: ``held_out``; ``copied``: training icons with the path data of a held-out one; ``alike``: other
    training icons that look like a held-out one. Training excludes all three. ``prefixes`` are the held-out sets.
    """

    groups: list[tuple[str, ...]]
    links: list[Link]
    prefixes: list[str]  # held out
    held_out: np.ndarray
    copied: np.ndarray
    alike: np.ndarray

    @property
    def train(self) -> np.ndarray:
        return ~(self.held_out | self.copied | self.alike)


def split(sets: list[IconSet], table: pd.DataFrame, held_out: Collection[str], bits: int) -> HoldoutSplit:
    """Hold out the design groups of the given prefixes.

    Args:
      sets: the sets.
      table: columns set, base, hash, digest.
      held_out: prefixes; their whole groups are held out.
      bits: Hamming distance within which two images look alike.

    Raises:
      UserError: one side would be empty.
    """
    reasons = links(sets, table)
    groups = group_by_design([s.prefix for s in sets], reasons)
    prefixes = sorted(p for g in groups if set(g) & set(held_out) for p in g)
    held = table["set"].isin(prefixes).to_numpy()
    if held.all() or not held.any():
        reason = f"{'all' if prefixes else 'none'} of the sets would be held out"
        hint = "the design groups are " + ", ".join(" ".join(g) for g in groups)[:300]
        raise UserError(field="--held-out", reason=reason, hint=hint)
    digests, hashes = table["digest"].to_numpy(), table["hash"].to_numpy()
    copied, alike = np.zeros((2, len(table)), bool)
    copied[~held] = np.isin(digests[~held], digests[held])
    alike[~held] = near_duplicates(hashes[~held], hashes[held], bits)
    return HoldoutSplit(groups, reasons, prefixes, held, copied, alike & ~copied)


def near_duplicates(train: np.ndarray, held_out: np.ndarray, bits: int) -> np.ndarray:
    """Return which training hashes are within ``bits`` of a held-out one: uint64 [N], uint64 [M] -> bool [N]."""
    unique, back = np.unique(train, return_inverse=True)
    distance = np.full(len(unique), 65, np.uint8)
    for value in np.unique(held_out):
        np.minimum(distance, np.bitwise_count(unique ^ value), out=distance)
    return (distance <= bits)[back]
