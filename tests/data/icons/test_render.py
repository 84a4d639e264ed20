"""Icons on white: exact, centred, in the colour asked for; what cannot be drawn has a reason and stops nothing."""

import io

import numpy as np
import pytest
from PIL import Image

from clip_jax.data.icons.package import Drawing
from clip_jax.data.icons.render import Pen, draw_set, load_drawn, path_digest

BOX = '<path fill="currentColor" d="M0 0h24v24H0z"/>'


def pixels(drawn):
    return np.asarray(Image.open(io.BytesIO(drawn[0])).convert("RGB"))


def test_current_colour_on_white_the_longer_side_fills_the_square():
    drawn = Pen(32, "#0000ff")(Drawing(BOX.replace("h24", "h12").replace("H0", "h-12"), 0, 0, 12, 24))
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
def test_what_cannot_be_seen_has_a_reason(body, reason):
    assert Pen(16, "#000000")(Drawing(body, 0, 0, 24, 24)) == reason


@pytest.mark.parametrize("view", [(0, 0, 0, 24), (0, 0, -1, 24), (0, 0, "x", 24)])
def test_a_plane_of_no_size_is_broken_or_drawn_and_never_fatal(view):
    found = Pen(16, "#000000")(Drawing(BOX, *view))
    assert found in ("broken", "empty") or pixels(found).shape == (16, 16, 3)


def test_a_panic_of_the_renderer_is_a_broken_icon_and_an_interrupt_is_not(monkeypatch):
    import resvg_py

    for error, outcome in ((type("PanicException", (BaseException,), {}), "broken"), (KeyboardInterrupt, None)):

        def fail(error=error, **_):
            raise error

        monkeypatch.setattr(resvg_py, "svg_to_bytes", fail)
        if outcome:
            assert Pen(16, "#000000")(Drawing(BOX, 0, 0, 24, 24)) == outcome
        else:
            with pytest.raises(error):
                Pen(16, "#000000")(Drawing(BOX, 0, 0, 24, 24))


def test_digest_is_of_the_paths():
    body = '<path fill="red" d="M0 0h1"/>'
    assert path_digest(body) == path_digest(body.replace("red", "blue")) != path_digest(body.replace("h1", "h2"))
    assert path_digest("<circle r='1'/>") != path_digest("<circle r='2'/>")


def test_a_drawn_set_is_not_drawn_again(tmp_path, make_set):
    icons = make_set("pen", "MIT", {"box": BOX, "none": "<g/>", "dot": '<circle r="9"/>'})
    draw_set(icons, Pen(16, "#000000"), tmp_path)
    found = load_drawn(tmp_path, "pen")
    assert (found.names, found.left_out) == (("box", "dot"), {"none": "empty"})
    assert found.pictures.stat().st_size == found.ends[-1]

    def never(*_):
        raise AssertionError

    draw_set(icons, Pen(16, "#000000"), tmp_path, never)
