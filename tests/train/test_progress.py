"""The progress line."""

import io
import logging
import time

from clip_jax.cli.log import terminal_log
from clip_jax.train.progress import Progress


def test_progress_line_shows_step_loss_speed_and_time_left():
    out = io.StringIO()
    progress = Progress(100, stream=out)
    progress.show(50, 1.23456, 1234.0, 0.456)
    assert "? left" in out.getvalue()
    progress.first = (40, time.monotonic() - 60)
    assert progress.text(50, 1.0, 1.0, None).endswith("0:05:00 left")
    assert "50/100" in out.getvalue()
    assert all(word in out.getvalue() for word in ("loss 1.2346", "1,234 samples/s", "MFU 45.6%", "left"))
    assert "MFU unknown" in progress.text(50, 1.0, None, None)


def test_progress_hidden_writes_nothing():
    out = io.StringIO()
    Progress(10, stream=out, shown=False).show(5, 1.0, 1.0, None)
    assert out.getvalue() == ""


def test_progress_is_one_line_of_a_terminal_and_leaves_a_clean_end(terminal, monkeypatch):
    stream, screen = terminal
    progress = Progress(80, stream=stream)
    for step in range(10, 60, 10):
        progress.show(step, 12345.678, 123_456.0, 0.5)
    progress.show(60, 1.0, 1.0, 0.1)  # shorter: nothing of the line before is left
    progress.close()
    progress.close()
    print("finished: runs/0123", file=stream, flush=True)
    lines = screen()
    assert lines[1:] == ["finished: runs/0123", ""]
    wide = progress.text(50, 12345.678, 123_456.0, 0.5)
    assert len(wide) == 79
    assert wide.endswith(" left")
    assert lines[0].startswith("####")
    assert lines[0].endswith(" left")
    assert len(lines[0]) < 80
    progress.show(70, 1.0, 1.0, None)
    monkeypatch.setattr("sys.stderr", stream)
    with terminal_log():
        logging.getLogger("clip_jax.somewhere").warning("a note")
    progress.show(80, 1.0, 1.0, None)
    progress.close()
    note, last, _ = screen()
    assert note == "clip-jax: a note"
    assert " 80/80 " in last
