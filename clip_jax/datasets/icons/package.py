"""The package `@iconify/json`: hundreds of icon sets, one JSON file each, streamed from the archive."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from clip_jax.errors import UserError, foreign, name_within, parse_json, short

NAME = "@iconify/json"
LARGEST_SET = 1 << 28  # bytes of a set's JSON; ten times the largest
PACK_S = 1800  # timeout of a 100 MB download


ICON_NAME = "[a-z0-9-]+"  # Iconify's rule for prefixes and icon names


class Drawing(NamedTuple):
    """An SVG without its root element, its view box, and its ``name`` for messages."""

    body: str
    left: float
    top: float
    width: float
    height: float
    name: str = ""


@dataclass(frozen=True)
class IconSet:
    """One icon set. ``aliases`` and ``categories`` are by icon; ``affixes`` are the styles that the set declares."""

    prefix: str
    title: str
    author: str
    author_url: str
    license: str  # SPDX; empty when the set states none
    license_title: str
    license_url: str
    category: str
    color: bool
    icons: dict[str, Drawing]
    hidden: int  # number of icons withdrawn by their designer; not in ``icons``
    aliases: dict[str, tuple[str, ...]]
    categories: dict[str, tuple[str, ...]]
    affixes: tuple[tuple[str, ...], tuple[str, ...]]  # prefixes, suffixes

    @property
    def attribution(self) -> str:
        """Title, author and license, with their URLs where known."""
        parts = ((f"{self.title} by {self.author}", self.author_url), (self.license_title, self.license_url))
        return ", ".join(f"{text} ({url})" if url else text for text, url in parts)


def find_package(path: Path | None, folder: Path) -> Path:
    """Return ``given`` if it exists, else the archive in ``folder``, fetched with npm if necessary.

    Raises UserError when there is no archive.
    """
    if path is not None:
        if not path.is_file():
            raise UserError(field="--package", value=path, reason="no such file")
        return path
    archives = sorted(folder.glob("iconify-json-*.tgz"))
    if archives:
        return archives[-1]
    npm = shutil.which("npm")
    if npm is None:
        reason = f"needs the archive of {NAME}, as `npm pack {NAME}` fetches it where npm is installed"
        raise UserError(field="--package", reason=reason)
    folder.mkdir(parents=True, exist_ok=True)
    command = [npm, "pack", NAME, "--silent", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PACK_S, check=False)
    except subprocess.TimeoutExpired:
        reason = f"npm pack {NAME} took more than {PACK_S} s"
        raise UserError(field="--package", reason=reason, hint="pass the archive") from None
    archives = sorted(folder.glob("iconify-json-*.tgz"))
    if done.returncode or not archives:
        reason = (done.stderr.strip().splitlines() or ["no archive came"])[-1]
        raise UserError(field="--package", reason=f"npm pack {NAME} failed ({reason})", hint="pass the archive")
    return archives[-1]


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def icon_sets(package: Path, only: tuple[str, ...] = ()) -> Iterator[IconSet]:
    """Yield the sets in the archive's order, restricted to the prefixes ``only`` if any are given.

    Raises UserError when the file is not an archive of the package.
    """
    sets = 0
    with foreign(f"--package: {package}", f"an archive of {NAME}"), tarfile.open(package, "r|gz") as tar:
        for member in tar:
            folder, _, file = member.name.partition("/")[2].rpartition("/")
            if not member.isfile() or folder != "json" or not file.endswith(".json"):
                continue
            sets += 1
            if only and file.removesuffix(".json") not in only:
                continue
            data = tar.extractfile(member)
            assert data is not None
            if member.size > LARGEST_SET:
                reason = f"{short(member.name)} is larger than {LARGEST_SET:,} bytes"
                raise UserError(field="--package", value=package, reason=reason)
            icons = parse_set(parse_json(data.read(), where := f"--package: {package}: {member.name}"), where)
            if icons.prefix != file.removesuffix(".json"):
                raise UserError(
                    source=f"--package={package}: {short(member.name)}",
                    field="prefix",
                    value=icons.prefix,
                    reason="must be the file's name",
                )
            yield icons
    if not sets:
        reason = "holds no json/SET.json"
        raise UserError(field="--package", value=package, reason=reason, hint=f"pass the archive of {NAME}")


def parse_set(data: object, source: str = "--package") -> IconSet:
    """Parse json/PREFIX.json. Aliases that rotate or mirror their icon are not names of it and are left out."""
    with foreign(source, f"a set of {NAME}"):
        return _parse_set(data)


def _parse_set(data: Any) -> IconSet:
    info, icons = data.get("info", {}), data["icons"]
    prefix = name_within("prefix", data["prefix"], allowed=ICON_NAME)
    for name, icon in icons.items():
        name_within(f"{prefix}: icon", name, allowed=ICON_NAME)
        if not isinstance(icon["body"], str):
            raise UserError(source=f"{prefix}/{name}", field="body", value=icon.get("body"), reason="must be a text")
    author, license_ = info.get("author", {}), info.get("license", {})
    aliases: dict[str, tuple[str, ...]] = {}
    for name, alias in data.get("aliases", {}).items():
        if set(alias) <= {"parent", "hidden"}:
            aliases[alias["parent"]] = (*aliases.get(alias["parent"], ()), name)
    categories: dict[str, tuple[str, ...]] = {}
    for category, names in data.get("categories", {}).items():
        for name in names:
            categories[name] = (*categories.get(name, ()), category)
    seen = {name: icon for name, icon in icons.items() if not icon.get("hidden")}
    return IconSet(
        prefix=prefix, title=_text(info, "name", prefix),
        author=_text(author, "name"), author_url=_text(author, "url"),
        license=_text(license_, "spdx"), license_title=_text(license_, "title"), license_url=_text(license_, "url"),
        category=_text(info, "category"), color=bool(info.get("palette")),
        icons={
            name: Drawing(
                icon["body"],
                *(icon.get(k, data.get(k, default)) for k, default in _VIEW),
            )._replace(name=f"{prefix}/{name}")
            for name, icon in sorted(seen.items())
        },
        hidden=len(icons) - len(seen), aliases=aliases, categories=categories,
        affixes=(tuple(filter(None, data.get("prefixes") or {})), tuple(filter(None, data.get("suffixes") or {}))),
    )  # fmt: skip


def _text(values: dict[str, object], name: str, default: str = "") -> str:
    value = values.get(name, default)
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a text")
    return value


_VIEW = (("left", 0), ("top", 0), ("width", 16), ("height", 16))
