"""Captions of an icon, a pure function of its set and its name; the plainest caption is first."""

from __future__ import annotations

import json
import re

from clip_jax.datasets.icons.names import Name, Names, pointing, with_article
from clip_jax.datasets.icons.package import IconSet

ALIASES, CATEGORIES = 3, 2  # maximum number used
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_SCALE = re.compile(r"\dx(-|$)")  # "house2x": the same icon at twice the size
_DULL = re.compile(r"extras|regular|^$|general|misc|^base$|^common$", re.IGNORECASE)


def category_words(category: str) -> str:
    """Convert "ComputerDevices" to "computer devices"; return "" for an uninformative category."""
    if _DULL.search(category):
        return ""
    return re.sub(r"\s*[/&+]\s*", " and ", _CAMEL.sub(" ", category).replace("-", " ")).lower()


def captions(icons: IconSet, names: Names, icon: str) -> tuple[str, ...]:
    """Return all captions of an icon; () when its name means nothing to a reader (a code of no country)."""
    name = names.read(icon)
    if not name.shown:
        return ()
    lines = _flag(name) if name.country else _emoji(name) if names.kind == "emoji" else _icon(icons, names, name)
    if not name.country:
        others = [alias for alias in icons.aliases.get(icon, ()) if not _SCALE.search(alias)]
        lines += [names.read(alias).shown for alias in others[:ALIASES]]
        groups = [words for c in icons.categories.get(icon, ())[:CATEGORIES] if (words := category_words(c))]
        lines += [f"{name.shown}, {words}" for words in groups]
    lines.append(f"{_styled(name)}, {icons.title}")
    if names.kind == "icon":
        lines.append(icon.replace("-", " "))  # the designer's name, with styles and sizes last
    return tuple(dict.fromkeys(line for line in lines if line))


def _styled(name: Name) -> str:
    return " ".join((*name.styles, f"flag of {name.country}" if name.country else name.shown))


def _flag(name: Name) -> list[str]:
    shape = "".join(f"{s} " for s in name.styles)
    return [
        f"flag of {name.country}",
        f"{shape}flag of {name.country}",
        f"the {shape}flag of {name.country}",
        name.country,
    ]


def _emoji(name: Name) -> list[str]:
    return [name.shown, f"an emoji of {name.shown}", f"{name.shown} emoji"]


def _icon(icons: IconSet, names: Names, name: Name) -> list[str]:
    noun, manner = names.kind, " ".join(("colourful" if icons.color else "black", *name.styles))
    lines = [_styled(name), f"{with_article(manner)} {noun} of {name.shown}", f"{_styled(name)} {noun}"]
    if turned := pointing(name.shown):
        lines.append(" ".join((*name.styles, turned)))
    if name.size:
        lines.append(f"{_styled(name)}, {name.size} pixels")
    return lines


def members(icons: IconSet, names: Names, icon: str) -> tuple[bytes, bytes] | None:
    """Return KEY.txt and KEY.json of an icon, or None if it has no caption."""
    lines = captions(icons, names, icon)
    if not lines:
        return None
    about = {
        "set": icons.prefix, "icon": icon, "title": icons.title, "author": icons.author, "licence": icons.license,
        "attribution": icons.attribution,
    }  # fmt: skip
    return "\n".join(lines).encode() + b"\n", json.dumps(about, ensure_ascii=False).encode()
