"""Icons on white: exact, centred, in the colour asked for; what cannot be drawn has a reason and stops nothing."""

import io

import numpy as np
import pytest
from PIL import Image

from clip_jax.datasets.icons.package import Drawing
from clip_jax.datasets.icons.render import DEEPEST, LONGEST_BODY, Renderer, load_rendered, path_digest, render_set

BOX = '<path fill="currentColor" d="M0 0h24v24H0z"/>'


def pixels(drawn):
    return np.asarray(Image.open(io.BytesIO(drawn[0])).convert("RGB"))


def test_renderer_draws_current_color_on_white_filling_the_square():
    drawn = Renderer(32, "#0000ff")(Drawing(BOX.replace("h24", "h12").replace("H0", "h-12"), 0, 0, 12, 24))
    image = pixels(drawn)
    assert image.shape == (32, 32, 3)
    assert (image[:, 8:24] == (0, 0, 255)).all()
    assert (image[:, :8] == 255).all()
    assert (image[:, 24:] == 255).all()


@pytest.mark.parametrize(
    ("body", "reason"),
    [("<path d=", "broken"), ("<g/>", "empty"), ('<path fill="#fff" d="M0 0h24v24H0z"/>', "empty"),
     (BOX + "<animate/>", "animated"), ("&nbsp;", "broken"), ("</svg>", "broken")],
)  # fmt: skip
def test_renderer_of_an_invisible_icon_gives_the_reason(body, reason):
    assert Renderer(16, "#000000")(Drawing(body, 0, 0, 24, 24)) == reason


@pytest.mark.parametrize("view", [(0, 0, 0, 24), (0, 0, -1, 24), (0, 0, "x", 24)])
def test_renderer_view_box_without_area_does_not_crash(view):
    drawn = Renderer(16, "#000000")(Drawing(BOX, *view))
    assert drawn in ("broken", "empty") or pixels(drawn).shape == (16, 16, 3)


def test_renderer_panic_is_a_broken_icon_and_an_interrupt_is_raised(monkeypatch):
    import resvg_py

    for error, outcome in ((type("PanicException", (BaseException,), {}), "broken"), (KeyboardInterrupt, None)):

        def fail(error=error, **_):
            raise error

        monkeypatch.setattr(resvg_py, "svg_to_bytes", fail)
        if outcome:
            assert Renderer(16, "#000000")(Drawing(BOX, 0, 0, 24, 24)) == outcome
        else:
            with pytest.raises(error):
                Renderer(16, "#000000")(Drawing(BOX, 0, 0, 24, 24))


def test_path_digest_depends_on_the_paths_only():
    body = '<path fill="red" d="M0 0h1"/>'
    assert path_digest(body) == path_digest(body.replace("red", "blue")) != path_digest(body.replace("h1", "h2"))
    assert path_digest("<circle r='1'/>") != path_digest("<circle r='2'/>")


def test_render_set_reuses_drawn_icons(tmp_path, make_set):
    icons = make_set("pen", "MIT", {"box": BOX, "none": "<g/>", "dot": '<circle r="9"/>'})
    render_set(icons, Renderer(16, "#000000"), tmp_path)
    rendered = load_rendered(tmp_path, "pen")
    assert (rendered.names, rendered.left_out) == (("box", "dot"), {"none": "empty"})
    assert rendered.pictures.stat().st_size == rendered.ends[-1]

    def never(*_):
        raise AssertionError

    render_set(icons, Renderer(16, "#000000"), tmp_path, never)


INSIDE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)


@pytest.mark.parametrize("attribute", ["href", "xlink:href", "HREF", "x:href"])
@pytest.mark.parametrize(
    "target", ["{0}", "file://{0}", "&#47;{0}", "http://host/a.png", "", "data:image/svg+xml,<svg/>"]
)
def test_renderer_reference_to_a_file_is_broken(tmp_path, attribute, target):
    # A file that is drawn into a corpus may be anybody's; a device or a pipe would never end.
    Image.new("RGB", (8, 8), "red").save(tmp_path / "secret.png")
    spaces = 'xmlns:x="http://www.w3.org/1999/xlink"'
    target = target.format(tmp_path / "secret.png").replace("<", "&lt;")
    body = f'<image {spaces} {attribute}="{target}" width="24" height="24"/>'
    assert Renderer(16, "#000000")(Drawing(body, 0, 0, 24, 24)) == "broken"


def test_renderer_reference_inside_the_icon_is_drawn():
    image = f'<image href="{INSIDE}" width="4" height="4"/>'
    body = f'<defs><path id="a" d="M0 0h9v9H0z"/></defs><use xlink:href="#a"/>{image}'
    assert not isinstance(Renderer(16, "#000000")(Drawing(body, 0, 0, 24, 24)), str)


@pytest.mark.parametrize(
    "drawing",
    [
        Drawing("<g>" * 100_000 + BOX + "</g>" * 100_000, 0, 0, 24, 24),
        Drawing("<g>" * DEEPEST + BOX + "</g>" * DEEPEST, 0, 0, 24, 24),
        Drawing(BOX + " " * LONGEST_BODY, 0, 0, 24, 24),
        Drawing(BOX, 0, 0, float("inf"), 24),
        Drawing(BOX, 0, 0, '1"><image href="/etc/passwd"/><g id="', 24),
    ],
    ids=["deep", "deeper", "long", "infinite", "view"],
)
def test_renderer_too_deep_too_long_or_non_finite_is_broken(drawing):
    assert Renderer(16, "#000000")(drawing) == "broken"


def test_renderer_at_the_allowed_depth_is_drawn():
    body = "<g>" * (DEEPEST - 2) + BOX + "</g>" * (DEEPEST - 2)
    assert not isinstance(Renderer(16, "#000000")(Drawing(body, 0, 0, 24, 24)), str)
