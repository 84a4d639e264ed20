"""Zero-shot tasks on held-out sets: images by designers whose work training never shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clip_jax.datasets.icons.names import countries

if TYPE_CHECKING:
    import pandas as pd

COMMON_EACH, BASIC_EACH, STYLE_EACH, GROUP_EACH = 12, 40, 250, 150  # maximum images per class
BASIC = 40  # number of classes of icons-basic
MIN_PER_CLASS = 3  # images per class of icons-common and of styles
LOGO_SETS = 3  # a name in this many logo sets is a brand, whose logo is the same in every set
# territories with the flag of Norway, the United States, Australia, France or Spain
SAME_FLAGS = ("bv", "sj", "um", "hm", "mf", "cp", "ea")

_GROUPS = {
    "activit": "activities", "animal": "animals and nature", "nature": "animals and nature", "flag": "flags",
    "food": "food and drink", "object": "objects", "people": "people and body", "smiley": "smileys and emotion",
    "symbol": "symbols", "travel": "travel and places",
}  # fmt: skip
_ICON = (
    "{c}", "{c} icon", "a black icon of {c}", "an icon of {c}", "outline {c}", "filled {c}",
    "a black outline icon of {c}",
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """One task. ``rows``: row numbers in the table, in its order; ``labels``: the index into ``classes`` of each."""

    name: str
    rows: list[int]
    labels: list[int]
    classes: tuple[str, ...]
    templates: tuple[str, ...]

    @property
    def summary(self) -> dict[str, float]:
        """Numbers of classes and examples, the accuracy of guessing, and that of always naming the largest class."""
        largest = max(self.labels.count(k) for k in set(self.labels)) if len(self.classes) < 50 else 0
        counts = {"classes": len(self.classes), "examples": len(self.rows), "chance": 1 / len(self.classes)}
        return counts | ({"largest_class": largest / len(self.rows)} if largest else {})


def tasks(table: pd.DataFrame, common_sets: int) -> list[Task]:
    """Return all tasks that have at least two classes among the held-out rows.

    Emoji are limited to names that also occur in training.

    Args:
      table: in shuffled order; columns set, kind, shown, style, country, skin, group and held_out.
      common_sets: number of sets in which a name must occur to be a class of icons-common.
    """
    held = table[table["held_out"]]
    icons, emoji = table[table["kind"] == "icon"], table[(table["kind"] == "emoji") & (table["skin"] == "")]
    spread = icons.groupby("shown")["set"].nunique()
    logos = table[table["kind"] == "logo"].groupby("shown")["set"].nunique()
    names = spread.index[spread >= common_sets].difference(logos.index[logos >= LOGO_SETS])
    common = held[(held["kind"] == "icon") & held["shown"].isin(names)]
    most = spread[names].sort_values(ascending=False, kind="stable").index[:BASIC]
    basic = common[common["shown"].isin(most)]
    styles = held[(held["kind"] == "icon") & (held["style"] != "")]
    emoji = emoji[emoji["country"] == ""]
    faces = emoji[emoji["held_out"] & emoji["shown"].isin(emoji.loc[~emoji["held_out"], "shown"])]
    voted = _groups(table[(table["kind"] == "emoji") & (table["skin"] == "")])
    grouped = held[(held["kind"] == "emoji") & held["shown"].isin(voted.index)]
    flags = held[(held["country"] != "") & ~held["country"].isin([countries()[code] for code in SAME_FLAGS])]
    candidates = [
        _task("icons-common", common, common["shown"], COMMON_EACH, MIN_PER_CLASS, _ICON),
        _task("icons-basic", basic, basic["shown"], BASIC_EACH, MIN_PER_CLASS, _ICON),
        _task("emoji", faces, faces["shown"], 0, 1, ("{c}", "{c} emoji", "an emoji of {c}")),
        _task("emoji-groups", grouped, grouped["shown"].map(voted), GROUP_EACH, MIN_PER_CLASS,
              ("{c}", "an emoji, {c}", "an emoji of {c}", "{c} emoji")),
        _task("flags", flags, flags["country"], 0, 1, ("flag of {c}", "the flag of {c}", "{c}")),
        _task("styles", styles, styles["style"], STYLE_EACH, MIN_PER_CLASS,
              ("a black {c} icon", "{c} icon", "{c}", "a black {c} icon of a thing")),
    ]  # fmt: skip
    return [t for t in candidates if len(t.classes) > 1]


def _groups(emoji: pd.DataFrame) -> pd.Series:
    """Return the group of each emoji by majority over the emoji sets: some of them call every face people."""
    emoji = emoji.drop_duplicates(["set", "shown"])
    named = (
        emoji["group"]
        .astype(str)
        .str.lower()
        .map(lambda g: next((v for k, v in _GROUPS.items() if g.startswith(k)), ""))
    )
    named = named[named != ""]
    return named.groupby(emoji.loc[named.index, "shown"]).agg(lambda g: g.value_counts().sort_index().idxmax())


def _task(name: str, rows: pd.DataFrame, classes: pd.Series, each: int, least: int, templates: tuple[str, ...]) -> Task:
    """Make a task of the first ``each`` images per class (0: all), in the table's order.

    Classes with fewer than ``least`` images are left out.
    """
    counts = classes.value_counts()
    names = tuple(sorted(counts.index[counts >= least]))
    label = {c: i for i, c in enumerate(names)}
    kept = classes[classes.isin(names)]
    if each:
        kept = kept[kept.groupby(kept).cumcount() < each]
    return Task(name, kept.index.tolist(), [label[c] for c in kept], names, templates)
