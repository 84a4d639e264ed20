"""Figures as files: three formats, the same bytes each time."""

import pytest
from matplotlib.figure import Figure

from clip_jax.scaling.report.figures import files


def drawing():
    drawn = Figure(figsize=(2, 2))
    drawn.subplots().plot([1, 2], [2, 1], label="seven words")
    drawn.axes[0].legend()
    return drawn


@pytest.fixture
def figure():
    return drawing()


def test_write_figure_every_format_beside_the_png(figure, tmp_path):
    files.write_figure(tmp_path / "a.png", figure)
    starts = {"a.png": b"\x89PNG", "a.pdf": b"%PDF", "a.svg": b"<?xml"}
    assert {p.name for p in tmp_path.iterdir()} == set(starts)
    for name, start in starts.items():
        assert (tmp_path / name).read_bytes().startswith(start)
    files.remove_figure(tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_write_figure_bucket_through_places(figure, monkeypatch):
    from clip_jax.storage.paths import as_path

    written = {}
    monkeypatch.setattr(files, "write_bytes", lambda path, data: written.update({str(path): data}))
    files.write_figure(as_path("gs://bucket/sweep/a.png"), figure)
    assert list(written) == [f"gs://bucket/sweep/a.{kind}" for kind in ("png", "pdf", "svg")]


@pytest.mark.parametrize("kind", files.FORMATS)
def test_as_bytes_same_drawing_equal(kind):
    assert files.as_bytes(drawing(), kind) == files.as_bytes(drawing(), kind)


def test_as_bytes_text_is_text_and_no_date(figure):
    assert b">seven words</text>" in files.as_bytes(figure, "svg")
    pdf = files.as_bytes(figure, "pdf")
    assert b"/CIDFontType2" in pdf
    assert b"/Type3" not in pdf
    assert b"CreationDate" not in pdf
    assert b"<dc:date>" not in files.as_bytes(figure, "svg")
