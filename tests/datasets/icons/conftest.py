"""A package like `@iconify/json`, made here: a few sets under several licenses with hand-drawn icons."""

import io
import json
import re
import tarfile

import pytest

from clip_jax.datasets.icons.build import IconsConfig, build
from clip_jax.datasets.icons.package import parse_set

DISC = '<circle cx="12" cy="12" r="9" fill="currentColor"/>'
RING = '<circle cx="12" cy="12" r="9" fill="none" stroke="currentColor" stroke-width="2"/>'
UP = '<path fill="currentColor" d="M12 3 4 13h5v8h6v-8h5Z"/>'
LEFT = '<path fill="currentColor" d="M3 12 13 4v5h8v6h-8v5Z"/>'
HOUSE = '<path fill="currentColor" d="M12 2 2 11h3v10h14V11h3Z"/>'
CROSS = '<path stroke="currentColor" stroke-width="3" d="M4 4 20 20M20 4 4 20"/>'
HOOK = '<path d="M5 3h5v8h9v9H5z"/>'
FACE = '<circle cx="12" cy="12" r="10" fill="#fc0"/><path d="M8 9h1v2H8zm7 0h1v2h-1zM7 15h10v2H7z"/>'
SAD = '<circle cx="12" cy="12" r="10" fill="#fc0"/><path d="M8 9h1v2H8zm7 0h1v2h-1zM7 18q5-6 10 0z"/>'
TRICOLOR = '<path fill="{}" d="M0 4h8v16H0z"/><path fill="{}" d="M8 4h8v16H8z"/><path fill="{}" d="M16 4h8v16h-8z"/>'


def redrawn(body, scale=0.8):
    """Draw an icon as another designer would: in another size, so that no path is the same."""
    numbers = re.compile(r"\d+")
    return re.sub(
        r'\b(d|cx|cy|r)="[^"]*"', lambda match: numbers.sub(lambda n: f"{int(n[0]) * scale:.1f}", match[0]), body
    )


def thin(body):
    return body.replace('fill="currentColor"', 'fill="none" stroke="currentColor"')


def icon_set(prefix, license, icons, **info):
    more = {k: info.pop(k) for k in ("aliases", "categories", "suffixes", "hidden") if k in info}
    hidden = more.pop("hidden", ())
    about = {"name": prefix.title(), "author": {"name": f"The {prefix} author", "url": f"https://{prefix}.example"}}
    about["license"] = {"title": license, "spdx": license, "url": "https://license.example"}
    entries = {n: {"body": body} | ({"hidden": True} if n in hidden else {}) for n, body in icons.items()}
    return {"prefix": prefix, "info": about | info, "icons": entries, "width": 24, "height": 24, **more}


def sets():
    """Return interface icons by three hands and a copy, emoji by two, flags, and two sets that may not be used."""
    shapes = {"house": HOUSE, "arrow-up": UP, "arrow-left": LEFT, "close": CROSS, "circle": RING}
    bold = {f"{n}-fill": b for n, b in shapes.items()} | {"arrow-left-circle": RING + LEFT}
    hands = (("fill", str), ("outline", thin), ("thin", lambda b: f'<g stroke-width=".5">{thin(b)}</g>'))
    held = {f"{n}-{s}": redrawn(f(b)) for n, b in shapes.items() for s, f in hands}
    held |= {"crook": HOOK.replace("M5 3", "M5 3.1")}  # by another hand, and yet the same
    held |= {"cottage": f'<g transform="translate(9 9) scale(.4)">{HOUSE}</g>'}  # paths copied, looks not
    other = {n: redrawn(thin(b), 0.9) for n, b in shapes.items()}
    faulty = {"odd": "<path d=", "nothing": "<g/>", "moving": RING + "<animate/>", "hook": HOOK}
    return [
        icon_set("alpha", "MIT", bold | faulty | {"old": UP},
                 category="General", hidden=("old",), aliases={"home-fill": {"parent": "house-fill"},
                 "arrow-right-fill": {"parent": "arrow-left-fill", "hFlip": True}}, suffixes={"fill": "Fill"},
                 categories={"Places": ["house-fill"]}),
        icon_set("beta", "CC-BY-4.0", other | {"dot": DISC}),
        icon_set("copy", "Apache-2.0", {f"my-{n}": b for n, b in other.items()} | {"sun": redrawn(CROSS, 0.7) + DISC}),
        icon_set("gamma", "MIT", held, suffixes={"fill": "Fill", "outline": "Outline", "thin": "Thin"}),
        icon_set("smile", "CC0-1.0", {"grinning-face": FACE, "sad-face": SAD}, category="Emoji",
                 categories={"Smileys & Emotion": ["grinning-face", "sad-face"]}),
        icon_set("grin", "CC0-1.0", {"grinning-face": redrawn(FACE), "sad-face": redrawn(SAD),
                 "flag-france": redrawn(TRICOLOR).format("#00f", "#eee", "red")}, category="Emoji",
                 categories={"Smileys & Emotion": ["grinning-face"], "People & Body": ["sad-face"]}),
        icon_set("banner", "MIT", {"fr": TRICOLOR.format("#009", "#fff", "red"),
                 "it": TRICOLOR.format("green", "#fff", "red"), "zz": DISC}, category="Flags / Maps"),
        icon_set("free", "GPL-3.0", {"house": HOUSE}),
        icon_set("shop", "CC-BY-NC-4.0", {"house": HOUSE, "circle": RING}),
    ]  # fmt: skip


def write_package(path, contents):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in contents.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture(scope="session")
def package(tmp_path_factory):
    path = tmp_path_factory.mktemp("package") / "icons.tgz"
    return write_package(path, {"readme.md": b"# icons"} | {f"json/{s['prefix']}.json": s for s in sets()})


@pytest.fixture(scope="session")
def make_set():
    """Return a function (prefix, license, {name: body}, **more) -> an `IconSet`."""
    return lambda *args, **info: parse_set(icon_set(*args, **info))


@pytest.fixture(scope="session")
def make_package():
    """Return a function (path, {file name: content}) -> the path of an archive with these."""
    return write_package


@pytest.fixture(scope="session")
def build_tiny(package):
    """Return a function (out, **settings) -> the manifest of a corpus from the made-up package."""

    def build_it(out, **settings):
        options = {"held_out": ("gamma", "grin", "banner"), "common_sets": 3, "workers": 1, "size": 32} | settings
        return build(IconsConfig(out, package, **options), echo=lambda line: None)

    return build_it


@pytest.fixture(scope="session")
def tiny(build_tiny, tmp_path_factory):
    """Build the made-up corpus; return its folder and manifest."""
    out = tmp_path_factory.mktemp("tiny")
    return out, build_tiny(out)
