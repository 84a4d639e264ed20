"""Rendering of icons on white, and the work files that hold the result: a pair of files per set."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.parsers import expat

import numpy as np

from clip_jax.data.labeled.perceptual_hash import perceptual_hash
from clip_jax.datasets.icons.package import Drawing, IconSet
from clip_jax.errors import parse_json
from clip_jax.storage.paths import disk_errors, read_text, write_text

CHUNK = 200  # icons per task of a worker
LONGEST_BODY = 1_000_000  # characters
DEEPEST = 64  # levels of nested elements
_INSIDE = re.compile(r"#|data:image/(png|jpe?g|gif|webp)[;,]")  # allowed beginnings of an href
_PATHS = re.compile(r'\bd="([^"]*)"')
_SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    'viewBox="{0.left} {0.top} {0.width} {0.height}" width="{1}" height="{1}">{2}</svg>'
)


@dataclass(frozen=True)
class Renderer:
    """Renderer of an icon: pixels per side, and the color for parts that do not specify one."""

    size: int
    color: str

    def __call__(self, drawing: Drawing) -> tuple[bytes, int] | str:
        """Render a drawing to lossless WebP and its perceptual hash, or return the reason why it cannot be.

        The longer side fills the square; the rest stays white. Animated icons are refused: resvg renders a still image,
        which would not show what only the animation does.
        """
        import resvg_py
        from PIL import Image

        if len(drawing.body) > LONGEST_BODY or not all(_is_finite(v) for v in drawing[1:5]):
            return "broken"
        if "<animate" in drawing.body or "<set " in drawing.body:
            return "animated"
        body = drawing.body.replace("currentColor", self.color)
        svg = _SVG.format(drawing, self.size, body)
        if not _is_harmless(svg):
            return "broken"
        try:
            drawn = resvg_py.svg_to_bytes(svg_string=svg, background="#ffffff", skip_system_fonts=True)
        except ValueError:
            return "broken"
        except MemoryError:
            raise
        except BaseException as error:  # a Rust panic is not an Exception and would kill the worker
            if type(error).__name__ != "PanicException":
                raise
            return "broken"
        picture = Image.open(io.BytesIO(drawn)).convert("RGB")
        if np.asarray(picture).min() > 250:
            return "empty"
        out = io.BytesIO()
        picture.save(out, "WEBP", lossless=True, quality=0, method=2)
        return out.getvalue(), int(perceptual_hash(picture))


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _is_harmless(svg: str) -> bool:
    """Return whether an SVG is safe to render: XML with references only to its own elements and embedded images.

    The renderer would open files that an SVG refers to, and recurses over its elements, so nesting is limited to
    `DEEPEST`.
    """
    parser = expat.ParserCreate()
    depth, harmless = 0, True

    def start(_: str, attributes: dict[str, str]) -> None:
        nonlocal depth, harmless
        depth += 1
        harmless &= depth <= DEEPEST
        for name, value in attributes.items():
            if name.rpartition(":")[2].lower() == "href":
                harmless &= bool(_INSIDE.match(value.strip()))

    def end(_: str) -> None:
        nonlocal depth
        depth -= 1

    parser.StartElementHandler, parser.EndElementHandler = start, end
    try:
        parser.Parse(svg.encode(), True)
    except (expat.ExpatError, UnicodeEncodeError):
        return False
    return harmless


def path_digest(body: str) -> int:
    """Return a 64-bit hash of an icon's path data, which forks copy verbatim; of its whole body if it has none."""
    paths = "".join(sorted(_PATHS.findall(body))) or body
    return int.from_bytes(hashlib.blake2b("".join(paths.split()).encode(), digest_size=8).digest(), "big")


@dataclass(frozen=True)
class RenderedSet:
    """The rendered icons of a set.

    ``ends``: the end offset of each image in the file ``pictures``; ``hashes``, ``digests``: uint64 [N]; ``left_out``:
    the reason for each icon that was not rendered.
    """

    pictures: Path
    names: tuple[str, ...]
    ends: np.ndarray
    hashes: np.ndarray
    digests: np.ndarray
    left_out: dict[str, str]  # name -> reason


Task = tuple[Renderer, list[Drawing]]


def _in_this_process(tasks: Iterable[Task]) -> Iterator[list[tuple[bytes, int] | str]]:
    return ([pen(d) for d in drawings] for pen, drawings in tasks)


def render_set(
    icons: IconSet,
    pen: Renderer,
    folder: Path,
    imap: Callable[[Iterable[Task]], Iterable[list[tuple[bytes, int] | str]]] = _in_this_process,
) -> None:
    """Render a set to FOLDER/PREFIX.pictures and PREFIX.json, unless they exist.

    ``imap`` maps tasks to their results; by default in this process, or `pool.Pool.imap`. Raises UserError when the
    disk is full.
    """
    index = folder / f"{icons.prefix}.json"
    if index.exists():
        return
    names = list(icons.icons)
    tasks = [(pen, [icons.icons[n] for n in names[i : i + CHUNK]]) for i in range(0, len(names), CHUNK)]
    kept: list[tuple[str, int, int, int]] = []
    left_out: dict[str, str] = {}
    end = 0
    with disk_errors(folder), (folder / f"{icons.prefix}.pictures").open("wb") as file:
        for start, results in zip(range(0, len(names), CHUNK), imap(tasks), strict=True):
            for name, result in zip(names[start : start + CHUNK], results, strict=True):
                if isinstance(result, str):
                    left_out[name] = result
                    continue
                end += file.write(result[0])
                kept.append((name, end, result[1], path_digest(icons.icons[name].body)))
    write_text(index, json.dumps({"kept": kept, "left_out": left_out}))


def load_rendered(folder: Path, prefix: str) -> RenderedSet:
    """Read what `render_set` wrote."""
    path = folder / f"{prefix}.json"
    index = parse_json(read_text(path), path)
    names, ends, hashes, digests = zip(*index["kept"], strict=True) if index["kept"] else [()] * 4
    return RenderedSet(
        folder / f"{prefix}.pictures", names, np.array(ends, np.int64), np.array(hashes, np.uint64),
        np.array(digests, np.uint64), index["left_out"],
    )  # fmt: skip
