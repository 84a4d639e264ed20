"""Parsing of icon names into subject, style, size and container.

Names are written by hundreds of designers: "arrow-left-circle-outline", "outline-circle-arrow-left", "arrow-left-24".
The meaning of a word is inferred from the set. A style is a word that the set declares, or that ends many of its names;
"X-circle" is X in a circle if the set also has an X.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib import resources

from clip_jax.datasets.icons.package import IconSet

# style word in names -> its form in captions; the last word is its class in the task `styles`
STYLES = {
    "outline": "outline", "outlined": "outline", "line": "line", "linear": "linear", "stroke": "outline",
    "filled": "filled", "fill": "filled", "solid": "solid", "baseline": "filled", "glyph": "solid",
    "duotone": "duotone", "duo": "duotone", "twotone": "two-tone", "tone": "two-tone", "broken": "broken",
    "rounded": "rounded", "round": "rounded", "sharp": "sharp", "thin": "thin", "light": "light", "bold": "bold",
    "regular": "", "flat": "flat", "remix": "remix", "block": "block", "wordmark": "wordmark", "dark": "dark",
    "1x1": "square", "4x3": "rectangular",
}  # fmt: skip
SURE = {"outline", "outlined", "filled", "duotone", "twotone", "linear"}  # always a style, in any set
STYLE_CLASSES = {
    "outline": "outline", "line": "outline", "linear": "outline", "filled": "filled", "solid": "filled",
    "duotone": "duotone", "two-tone": "duotone", "thin": "thin", "light": "light", "bold": "bold", "broken": "broken",
    "sharp": "sharp", "rounded": "rounded",
}  # fmt: skip
SHARE = 0.02  # a word that ends this share of a set's names is a style or a size
SIZES = re.compile(r"(8|1[0-68]|2[0248]|3[026]|4[08]|5[06]|64|96)(px)?")
_TYPE = {"format", "text", "font", "type", "letter", "align", "traffic", "flash", "border", "under", "weight"}

CONTAINERS = {
    "circle": "circle", "circled": "circle", "square": "square", "squared": "square", "box": "box",
    "hexagon": "hexagon", "octagon": "octagon", "rectangle": "rectangle", "triangle": "triangle",
    "diamond": "diamond", "shield": "shield",
}  # fmt: skip
BADGES = {
    "plus": "plus sign", "add": "plus sign", "minus": "minus sign", "remove": "minus sign", "check": "check mark",
    "checked": "check mark", "tick": "check mark", "x": "cross", "close": "cross", "cancel": "cross", "cross": "cross",
    "search": "magnifying glass", "lock": "lock", "heart": "heart", "star": "star", "alert": "warning sign",
    "warning": "warning sign", "clock": "clock", "edit": "pencil", "pencil": "pencil", "question": "question mark",
    "settings": "gear", "cog": "gear", "key": "key", "user": "person", "dollar": "dollar sign", "bolt": "bolt",
    "percent": "percent sign", "info": "info sign",
}  # fmt: skip
CROSSED = {"off", "slash", "disabled", "disable"}
_SWITCHES = {"toggle", "switch", "power", "log", "sign", "take", "cut", "turn", "time"}
DIRECTIONS = {"up", "down", "left", "right", "north", "south", "east", "west"}
_HEADS = {"arrow", "arrows", "chevron", "chevrons", "caret", "angle", "hand", "finger", "triangle"}
_COUNTED = {
    "number",
    "numeric",
    "counter",
    "dice",
    "die",
    "battery",
    "level",
    "looks",
    "filter",
    "bar",
    "signal",
    "clock",
}
_GLUED = {
    "chevronleft": "chevron left", "chevronright": "chevron right", "dropdown": "drop-down", "checkbox": "check box",
    "arrowleft": "arrow left", "arrowright": "arrow right", "fullscreen": "full screen",
    "shoppingcart": "shopping cart",
}  # fmt: skip
_SKIN = re.compile(r"-(medium-light|medium-dark|light|medium|dark)(-skin-tone)?$")


@cache
def countries() -> dict[str, str]:
    """Return English names by two-letter code (ISO 3166-1, the codes of Unicode's flags, a few parts of countries)."""
    return dict(json.loads(resources.files("clip_jax.datasets.icons").joinpath("countries.json").read_text("utf-8")))


@cache
def _country_slugs() -> dict[str, str]:
    plain = str.maketrans("ôÅåéçãíü", "oAaecaiu")
    slugs = {re.sub(r"[^a-z]+", "-", n.translate(plain).lower().replace("'", "")): n for n in countries().values()}
    return slugs | {s.replace("saint-", "st-"): n for s, n in slugs.items() if s.startswith("saint-")}


@dataclass(frozen=True)
class Name:
    """A parsed name: ``base``, without styles and sizes; ``shown``, the subject; ``styles`` and ``size`` in words."""

    base: str
    shown: str
    styles: tuple[str, ...] = ()
    size: str = ""
    country: str = ""
    skin: str = ""

    @property
    def style_class(self) -> str:
        """The class in the task `styles`: the only class among the style words, or "" if there is none or several."""
        classes = {STYLE_CLASSES[s] for s in self.styles if s in STYLE_CLASSES}
        return classes.pop() if len(classes) == 1 else ""


class Names:
    """The parser of one set's names. ``kind``: icon, logo, emoji or flag."""

    def __init__(self, icons: IconSet) -> None:
        names = list(icons.icons)
        self.prefixes, self.suffixes = ({w for affix in affixes for w in affix.split("-")} for affixes in icons.affixes)
        ends = Counter(w for n in names for w in set(n.split("-")[1:][-2:]))
        common = {w for w, c in ends.items() if c >= max(3, SHARE * len(names))}
        codes = sum(n.split("-")[0] in countries() for n in names)
        self.kind = (
            "emoji" if icons.category == "Emoji" or "emoji" in icons.title.lower()
            else "flag" if icons.category.startswith("Flags") and codes > 0.5 * len(names)
            else "logo" if icons.category == "Logos"
            else "icon"
        )  # fmt: skip
        words = SURE | ((self.suffixes | common) & set(STYLES))
        self.styles = set() if self.kind == "emoji" else words
        self.sizes = {w for w in self.suffixes | common if SIZES.fullmatch(w)}
        # "Font Awesome Solid": the style of icons whose name has none
        self.style = STYLES.get(icons.prefix.rpartition("-")[2], "") if "-" in icons.prefix else ""
        self.bases = {self._strip(n)[0] for n in names}

    def _strip(self, name: str) -> tuple[str, list[str], str]:
        """Split a name into base, style words and size."""
        words, size = name.split("-"), ""
        styles: list[str] = []
        while len(words) > 1:
            last = words[-1]
            if last in self.sizes and not size:
                size = last.removesuffix("px")
            elif last in self.styles and words[-2] not in _TYPE:
                styles.insert(0, last)
            else:
                break
            words.pop()
        if styles[:1] == ["tone"] and words[-1] == "two":  # two-tone
            words.pop()
        while len(words) > 1 and words[0] in self.prefixes:
            styles.insert(0, words.pop(0))
        return "-".join(words) or name, styles, size

    def read(self, name: str) -> Name:
        """Parse a name or an alias of an icon in this set."""
        if self.kind == "flag":
            code, _, shape = name.partition("-")
            styles = (STYLES[shape],) if shape in STYLES else ()
            country = countries().get(code if styles else name) or _country_slugs().get(name, "")
            other = not country and code not in countries() and max(map(len, name.split("-"))) > 3  # soviet-union
            return Name(name, country or (f"{name.replace('-', ' ')} flag" if other else ""), styles, country=country)
        if self.kind == "emoji":
            return self._emoji(name)
        base, words, size = self._strip(name)
        styles_shown = [STYLES[w] for w in words if STYLES.get(w)] or [self.style] * bool(self.style)
        return Name(base, self.to_words(base), tuple(dict.fromkeys(styles_shown)), size)

    def _emoji(self, name: str) -> Name:
        slug = re.sub(r"^flag-(for-)?", "", name)
        if slug != name and (country := _country_slugs().get(slug)):
            return Name(f"flag-{slug}", f"flag of {country}", country=country)
        if slug.endswith(("-flag", "-flags")):  # flag-for-white-flag
            name = slug
        skin = _SKIN.search(name)
        if skin and (skin[2] or name[: skin.start()] in self.bases):
            tone = skin[1].replace("-", " ")
            base = name[: skin.start()]
            return Name(base, f"{base.replace('-', ' ')}, {tone} skin", skin=tone)
        return Name(name, name.replace("-", " "))

    def to_words(self, base: str) -> str:
        """Convert "arrow-left-circle" to "arrow left in a circle"."""
        plain = re.sub(r"(?<=[a-z]{3})\d$", "", base)
        if plain != base and plain in self.bases:  # sidebar-left2
            return self.to_words(plain)
        words = base.split("-")
        first, last = words[0], words[-1]
        rest, tail = "-".join(words[:-1]), "-".join(words[1:])
        if len(words) > 1:
            for i in range(1, len(words) - 1):  # arrow-circle-left
                plain = "-".join(words[:i] + words[i + 1 :])
                if words[i] in CONTAINERS and (
                    plain in self.bases or (first in _HEADS and set(words[i + 1 :]) <= DIRECTIONS)
                ):
                    return f"{self.to_words(plain)} in {with_article(CONTAINERS[words[i]])}"
            if first == "brand":
                return f"{self.to_words(tail)} logo"
            variant = re.fullmatch(r"0?\d", last) or last in ("alt", "r", "o")
            known = rest in self.bases or f"{rest}-1" in self.bases or last.startswith("0")
            if variant and words[-2] not in _COUNTED and known:
                return self.to_words(rest)
            if last in CONTAINERS and rest in self.bases and rest not in CONTAINERS:
                return f"{self.to_words(rest)} in {with_article(CONTAINERS[last])}"
            if first in CONTAINERS and tail in self.bases and tail not in CONTAINERS:
                return f"{self.to_words(tail)} in {with_article(CONTAINERS[first])}"
            if last in CROSSED and rest in self.bases and rest not in _SWITCHES:
                return f"{self.to_words(rest)} crossed out"
            if last in BADGES and rest in self.bases and rest not in CONTAINERS:
                return f"{self.to_words(rest)} with {with_article(BADGES[last])}"
        return " ".join(_GLUED.get(w, w) for w in words)


def pointing(shown: str) -> str:
    """Convert "arrow left" to "arrow pointing left"; return "" if the subject has no direction."""
    head, *ways = shown.split(" in a")[0].split()
    if head not in _HEADS or not ways or not set(ways) <= DIRECTIONS:
        return ""
    return shown.replace(f"{head} {' '.join(ways)}", f"{head} pointing {' and '.join(ways)}", 1)


def with_article(words: str) -> str:
    """Convert "circle" to "a circle"."""
    return f"{'an' if words[:1] in 'aeio8' or words[:2] in ('un', 'um') else 'a'} {words}"
