"""`clip-jax data icons`: build a corpus of captioned icons, with held-out designs and zero-shot tasks."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from clip_jax.datasets.icons import package as packages
from clip_jax.datasets.icons.contact_sheet import contact_sheet
from clip_jax.datasets.icons.design_groups import HoldoutSplit, split
from clip_jax.datasets.icons.package import Drawing, IconSet
from clip_jax.datasets.icons.pool import Pool
from clip_jax.datasets.icons.render import Renderer, render_set
from clip_jax.datasets.icons.table import Contents, describe, rows_of, shuffled
from clip_jax.datasets.icons.tasks import Task, tasks
from clip_jax.datasets.icons.write import Sample, write_shards, write_task
from clip_jax.errors import ConfigError, UserError, at_least, between
from clip_jax.storage.paths import disk_errors, write_text

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    import pandas as pd

LICENSES = (
    "MIT", "Apache-2.0", "ISC", "BSD-2-Clause", "BSD-3-Clause", "Unlicense", "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0",
    "CC-BY-SA-3.0", "CC-BY-SA-4.0", "OFL-1.1", "MPL-2.0",
)  # fmt: skip
# at least one design group of each kind: interface icons in many styles and colors, a theme, emoji, flags
HELD_OUT = ("ph", "icon-park", "carbon", "iconoir", "teenyicons", "healthicons", "openmoji", "emojione", "circle-flags")
FORMAT = 1  # of the work files


@dataclass(frozen=True)
class IconsConfig:
    """Settings of the corpus: what is rendered, and what is held out."""

    out: Path
    package: Path | None = None  # the archive of @iconify/json; None fetches it with npm
    size: int = 64  # pixels per side
    sets: tuple[str, ...] = ()  # prefixes; empty takes all
    licenses: tuple[str, ...] = LICENSES  # SPDX; sets under other licenses are left out
    held_out: tuple[str, ...] = HELD_OUT  # prefixes; their whole design groups are held out
    color: str = "#000000"  # of parts that do not specify one
    near_bits: int = 4  # training icons within this Hamming distance of a held-out one are removed
    common_sets: int = 20  # minimum number of sets with a name, for the task icons-common
    workers: int = 0  # rendering processes; 0: one per core

    def __post_init__(self) -> None:
        between("--size", self.size, 16, 1024)
        between("--near-bits", self.near_bits, 0, 64)
        at_least("--common-sets", self.common_sets, 2)
        at_least("--workers", self.workers, 0)
        if not re.fullmatch(r"#[0-9a-fA-F]{6}", self.color):
            raise ConfigError(field="--color", value=self.color, reason="must be #RRGGBB")
        for name in ("licenses", "held_out"):
            if not getattr(self, name):
                raise ConfigError(field=f"--{name.replace('_', '-')}", reason="needs at least one")


class Identity(TypedDict):
    """Settings and versions that the rendered images depend on."""

    package: str
    package_sha256: str
    size: int
    colour: str
    format: int
    versions: dict[str, str | None]


class IconCounts(TypedDict):
    """Numbers of icons by what became of them."""

    kept: int
    train: int
    val: int
    removed: dict[str, int]
    repeats_in_train: int
    withdrawn: int
    left_out: dict[str, int]
    refused_licences: dict[str, int]


class IconsManifest(Identity):
    """The record of a corpus, as in manifest.json."""

    icons: IconCounts
    licences: dict[str, int]
    sets: dict[str, str]
    families: list[list[str]]
    held_out: list[str]
    links_of_held_out: list[dict[str, str]]
    tasks: dict[str, dict[str, float]]
    sha256: dict[str, str]


def build(config: IconsConfig, echo: Callable[[str], None] = logger.info) -> IconsManifest:
    """Render, split and write the corpus under ``config.out``.

    An interrupted build resumes. The same package and library versions give the same bytes.

    Args:
      config: the settings.
      echo: called with progress lines.

    Returns:
      The manifest, also written to OUT/manifest.json.

    Raises:
      UserError: there is no package, OUT holds something else, or one of the splits would be empty.
    """
    with disk_errors(config.out):
        return _build(config, echo)


def _build(config: IconsConfig, echo: Callable[[str], None]) -> IconsManifest:
    if find_spec("resvg_py") is None:
        reason = "not installed, and icons are rendered with it"
        raise UserError(field="resvg_py", reason=reason, hint="pip install 'clip-jax-scaling[icons]'")
    config = replace(config, package=packages.find_package(config.package, config.out / ".work"))
    assert config.package is not None
    identity = _identity(config)
    work = _work_folder(config.out, identity)
    sets, tables, left_out, refused = _render_all(config, work, echo)
    (config.out / "manifest.json").unlink(missing_ok=True)  # the corpus that it describes is about to be replaced
    table = shuffled(tables)
    parts = split(sets, table, config.held_out, config.near_bits)
    table["held_out"] = parts.held_out
    made = tasks(table, config.common_sets)
    manifest: IconsManifest = {
        **identity,
        "versions": identity["versions"] | {"clip-jax-scaling": version("clip-jax-scaling")},
        "icons": {
            "kept": len(table), "train": int(parts.train.sum()), "val": int(parts.held_out.sum()),
            "removed": {"same_paths": int(parts.copied.sum()), "perceptual_hash": int(parts.alike.sum()),
                        "within_bits": config.near_bits},
            "repeats_in_train": int(table[parts.train].duplicated(["hash", "digest"]).sum()),
            "withdrawn": sum(s.hidden for s in sets),
            "left_out": dict(sorted(Counter(reason for _, reason in left_out).items())), "refused_licences": refused,
        },
        "licences": {
            str(k): int(v)
            for k, v in table["set"].map({s.prefix: s.license for s in sets}).value_counts().sort_index().items()
        },
        "sets": {s.prefix: s.attribution for s in sets},
        "families": [list(g) for g in parts.groups if len(g) > 1],
        "held_out": parts.prefixes,
        "links_of_held_out": [
            {"one": link.first, "other": link.second, "why": link.reason}
            for link in parts.links if {link.first, link.second} & set(parts.prefixes)
        ],
        "tasks": {t.name: t.summary for t in made},
        "sha256": {},
    }  # fmt: skip
    write_text(config.out / "left_out.txt", "".join(f"{icon} {reason}\n" for icon, reason in sorted(left_out)))
    with closing(Contents(work)) as contents:
        manifest["sha256"] = _write(config.out, table, parts, made, contents)
        licenses = {s.prefix: s.license for s in sets}
        contact_sheet(config.out / "contact_sheet.png", table, contents, licenses, manifest["sets"])
    write_text(config.out / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return manifest


def _identity(config: IconsConfig) -> Identity:
    """Return everything that the rendered images depend on."""
    from PIL import features

    assert config.package is not None
    return {
        "package": packages.NAME, "package_sha256": packages.digest(config.package), "size": config.size,
        "colour": config.color, "format": FORMAT,
        "versions": {"resvg_py": version("resvg_py"), "pillow": version("pillow"), "webp": features.version("webp")},
    }  # fmt: skip


def _work_folder(out: Path, identity: Identity) -> Path:
    work = out / ".work"
    if not (work / "identity").is_file() and any((out / name).exists() for name in ("train", "val", "eval")):
        reason, hint = "already holds train, val or eval of another data set", "choose another folder"
        raise UserError(field="--out", value=out, reason=reason, hint=hint)
    mark = work / "identity"
    text = json.dumps(identity, sort_keys=True)
    work.mkdir(parents=True, exist_ok=True)
    if not mark.exists() or mark.read_text() != text:
        for path in (*work.glob("*.json"), *work.glob("*.pictures")):
            path.unlink()
        write_text(mark, text)
    return work


def _render_all(
    config: IconsConfig, work: Path, echo: Callable[[str], None]
) -> tuple[list[IconSet], list[pd.DataFrame], list[tuple[str, str]], dict[str, int]]:
    """Render every allowed set that is not rendered yet.

    Returns the sets without their drawings, their tables, (icon, reason) for each icon left out, and the number of
    icons per refused license.
    """
    assert config.package is not None
    sets, tables, left_out, refused, drawn = [], [], [], Counter[str](), 0
    workers = config.workers or os.cpu_count() or 1
    with ExitStack() as stack:
        imap = stack.enter_context(closing(Pool[Drawing, tuple[bytes, int] | str](workers))).imap
        for icons in packages.icon_sets(config.package, config.sets):
            if icons.license not in config.licenses:
                refused[icons.license or "none stated"] += len(icons.icons)
                continue
            render_set(icons, Renderer(config.size, config.color), work, imap)
            rows, out = describe(icons, work)
            tables.append(rows)
            left_out += [(f"{icons.prefix}/{icon}", reason) for icon, reason in out.items()]
            drawn += len(rows)
            echo(f"{drawn:8,d} icons  {icons.prefix} ({icons.license})")
            sets.append(replace(icons, icons={}, aliases={}, categories={}))
    prefixes = {s.prefix for s in sets}
    if missing := set(config.sets) - prefixes:
        reason = "not in the package, or under a license not allowed"
        raise UserError(field="--sets", value=", ".join(sorted(missing)), reason=reason)
    if not tables or not drawn:
        hint = f"allow one of {', '.join(sorted(refused))}, which {sum(refused.values())} icons have"
        raise UserError(field="--licenses", reason="no icon is left", hint=hint)
    if config.held_out != HELD_OUT and (missing := set(config.held_out) - prefixes):
        raise UserError(field="--held-out", value=", ".join(sorted(missing)), reason="not among the sets")
    return sorted(sets, key=lambda s: s.prefix), tables, left_out, dict(sorted(refused.items()))


def _write(out: Path, table: pd.DataFrame, parts: HoldoutSplit, made: list[Task], contents: Contents) -> dict[str, str]:
    """Write the shards of both splits and of the tasks; return their SHA-256 by path."""
    sums: dict[str, str] = {}

    def pairs(rows: pd.DataFrame) -> Iterator[Sample]:
        for row in rows_of(rows):
            caption, about = contents.texts(row)
            yield f"{row.set}/{row.name}", {"webp": contents.picture(row), "txt": caption, "json": about}

    def labeled_samples(task: Task) -> Iterator[Sample]:
        for row, label in zip(rows_of(table.loc[task.rows]), task.labels, strict=True):
            yield f"{row.set}/{row.name}", {"webp": contents.picture(row), "cls": str(label).encode()}

    for side, chosen in (("train", parts.train), ("val", parts.held_out)):
        digests = write_shards(out / side, pairs(table[chosen]))
        sums |= {f"{side}/{name}": value for name, value in digests.items()}
    shutil.rmtree(out / "eval", ignore_errors=True)
    for task in made:
        digests = write_task(out / "eval" / task.name, labeled_samples(task), task.classes, task.templates)
        sums |= {f"eval/{task.name}/{name}": value for name, value in digests.items()}
    return sums


def summary(manifest: IconsManifest) -> str:
    """Format the manifest's numbers for people."""
    icons = manifest["icons"]
    refused = ", ".join(f"{count:,} {name}" for name, count in icons["refused_licences"].items()) or "none"
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in icons["left_out"].items()) or "none"
    removed = icons["removed"]
    lines = [
        f"{icons['kept']:,} icons: " + ", ".join(f"{count:,} {name}" for name, count in manifest["licences"].items()),
        f"left out: {left_out} (left_out.txt); by license: {refused}; withdrawn by designers: {icons['withdrawn']:,}",
        f"held out, {len(manifest['held_out'])} sets, whole design groups: {' '.join(manifest['held_out'])}",
        f"removed from train: {removed['same_paths']:,} with the path data of a held-out icon, "
        f"{removed['perceptual_hash']:,} more within {removed['within_bits']} bits of 64 of one",
        f"train {icons['train']:,} pairs, {icons['repeats_in_train']:,} repeat an image; val {icons['val']:,} pairs",
        f"{'task':14} {'classes':>8} {'examples':>9} {'chance':>8}",
    ]
    lines += [f"{n:14} {t['classes']:8,d} {t['examples']:9,d} {t['chance']:8.4f}" for n, t in manifest["tasks"].items()]
    return "\n".join(lines)
