"""Byte ranges: here, behind a URL, and when the store fails."""

import subprocess
import sys
import threading
from concurrent.futures import wait
from operator import itemgetter

import pytest

from clip_jax.storage import paths
from clip_jax.storage import range_reads as remote
from clip_jax.storage.paths import as_path
from clip_jax.storage.range_reads import Range

from ..user_errors import raises_user_error


def test_read_returns_ranges_in_the_requested_order(tmp_path, store):
    local = tmp_path / "a"
    local.write_bytes(bytes(range(100)))
    store.pipe("/box/b", bytes(range(100, 200)))
    ranges = [Range("slow://box/b", 90, 100), Range(str(local), 3, 5), Range(f"file://{local}", 0, 1)]
    ranges += [Range("slow://box/b", 7, 7), ranges[0]]
    last = bytes(range(190, 200))
    assert remote.read(ranges) == [last, b"\x03\x04", b"\x00", b"", last]
    assert store.asked == [("/box/b", 90, 100)]


def test_stat_gives_size_and_a_version_that_changes_with_content(tmp_path, store):
    for path, write in (
        (str(tmp_path / "a"), (tmp_path / "a").write_bytes),
        ("slow://box/a", lambda b: store.pipe("/box/a", b)),
    ):
        write(b"123")
        before = remote.stat(path)
        write(b"456")
        assert before.size == remote.stat(path).size == 3
        assert before.version != remote.stat(path).version


def test_read_retries_failed_ranges_only(store):
    store.pipe("/box/a", b"0123456789")
    store.fail(2)
    assert remote.read([Range("slow://box/a", 2, 4), Range("slow://box/a", 5, 6)]) == [b"23", b"5"]
    assert [a[1:] for a in store.asked] == [(2, 4), (5, 6), (2, 4), (5, 6)]
    store.fail(1)
    assert remote.stat("slow://box/a").size == 10


def test_requests_retries_and_refused_rates_of_a_store_are_counted(store):
    store.pipe("/box/a", b"0123456789")
    remote.take_counts()
    store.fail(2)
    assert remote.read([Range("slow://box/a", 2, 4), Range("slow://box/a", 5, 6)]) == [b"23", b"5"]
    assert remote.take_counts() == {"requests": 4, "bytes": 3, "retries": 2, "throttled": 0, "timeouts": 0, "hedged": 0}
    store.fail(1, OSError("An error occurred (SlowDown): Please reduce your request rate."))
    remote.stat("slow://box/a")
    assert remote.take_counts() == {"requests": 2, "bytes": 0, "retries": 1, "throttled": 1, "timeouts": 0, "hedged": 0}
    assert set(remote.take_counts().values()) == {0}


def test_read_failing_store_is_one_line_with_the_url(store):
    store.pipe("/box/a", b"0123456789")
    store.fail(100)
    for call in (lambda: remote.read([Range("slow://box/a", 2, 4)]), lambda: remote.stat("slow://box/a")):
        with raises_user_error(field="slow://box/a", reason="4 attempts (ConnectionError: reset by peer)"):
            call()
    store.fail(0)
    with raises_user_error(field="slow://box/a", reason="EOFError"):
        remote.read([Range("slow://box/a", 8, 12)])


def test_small_file_of_a_bucket_is_read_as_ranges_are(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0, 0.0))
    in_bucket, plain, answers = as_path("gs://bucket/a"), paths.read_bytes, [TimeoutError, OSError, None]
    paths.write_bytes(in_bucket, b"123")
    (tmp_path / "a").write_bytes(b"45")

    def fails_twice(path):
        if paths.is_remote(path) and (error := answers.pop(0)):
            raise error
        return plain(path)

    monkeypatch.setattr(paths, "read_bytes", fails_twice)
    remote.take_counts()
    assert (remote.read_file(in_bucket), remote.read_file(tmp_path / "a")) == (b"123", b"45")
    assert itemgetter("requests", "bytes", "retries")(remote.take_counts()) == (3, 3, 2)
    answers.append(None)
    for missing in (as_path("gs://bucket/b"), tmp_path / "b"):
        with pytest.raises(FileNotFoundError):
            remote.read_file(missing)


def test_read_missing_file_is_not_retried(tmp_path, store):
    with raises_user_error(field="slow://box/gone", reason="file"):
        remote.read([Range("slow://box/gone", 0, 1)])
    with raises_user_error(field="slow://box/gone", reason="file"):
        remote.stat("slow://box/gone")
    assert len(store.asked) == 1
    with raises_user_error(field=tmp_path / "gone", reason="No such file"):
        remote.read([Range(str(tmp_path / "gone"), 0, 1)])
    (tmp_path / "short").write_bytes(b"12")
    with raises_user_error(field=tmp_path / "short", reason="byte 3"):
        remote.read([Range(str(tmp_path / "short"), 0, 3)])


def test_stat_unknown_or_uninstalled_protocol_is_named(monkeypatch):
    with raises_user_error(field="nothing://a", reason="nothing"):
        remote.stat("nothing://a")
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # as if it were not installed
    with raises_user_error(field="gs://bucket/a", reason="gcsfs"):
        remote.stat("gs://bucket/a")


def test_glob_returns_whole_paths(tmp_path, store):
    for name in ("x/1.tar", "x/2.txt", "y/3.tar"):
        store.pipe(f"/box/{name}", b"")
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert sorted(remote.glob("slow://box/", "*/*.tar")) == ["slow:///box/x/1.tar", "slow:///box/y/3.tar"]
    assert sorted(remote.glob(str(tmp_path), "x/*")) == [str(tmp_path / "x/1.tar"), str(tmp_path / "x/2.txt")]
    assert remote.glob("slow://box/none", "*.tar") == remote.glob(str(tmp_path / "none"), "*.tar") == []


def test_read_local_files_imports_no_fsspec(pairs_dir):
    code = (
        "import sys; from clip_jax.data.sources.webdataset import WebDataset;"
        f"print(len(WebDataset({str(pairs_dir)!r}, 'train').get_many([3])), 'fsspec' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"1 False\n"


def test_hedged_reads_ask_again_for_a_slow_range_and_take_the_first_answer(store, monkeypatch):
    store.pipe("/box/b", bytes(range(200)))
    reads, slow = remote.HedgedReads(), threading.Event()
    monkeypatch.setattr(remote, "MIN_TIMES", 5)
    for start in range(10):
        assert reads.read(Range("slow://box/b", start, start + 3)) == bytes(range(start, start + 3))
    plain, asked = remote.read, []
    remote.take_counts()

    def first_hangs(ranges):
        asked.append(ranges)
        if len(asked) == 1:
            slow.wait(10)
        return plain(ranges)

    monkeypatch.setattr(remote, "read", first_hangs)
    assert reads.read(Range("slow://box/b", 50, 53)) == bytes([50, 51, 52])
    slow.set()
    assert (len(asked), remote.take_counts()["hedged"]) == (2, 1)


def test_hedged_reads_ask_again_for_the_first_range_too(store, monkeypatch):
    store.pipe("/box/b", bytes(range(200)))
    monkeypatch.setattr(remote, "HEDGE_S", 0.01)
    store.hang(1)
    remote.take_counts()
    assert remote.HedgedReads().read(Range("slow://box/b", 50, 53)) == bytes([50, 51, 52])
    assert remote.take_counts()["hedged"] == 1


def test_request_that_hangs_is_asked_again_and_counted(store, monkeypatch):
    def until_it_hangs(futures, timeout):
        """Wait for a call, and no longer for one that hangs: in place of a time limit."""
        while not (done := [f for f in futures if f.done()]) and not store.hanging.wait(0.001):
            pass
        store.hanging.clear()
        return wait(done)

    store.pipe("/box/a", b"0123456789")
    monkeypatch.setattr(remote, "wait", until_it_hangs)
    remote.take_counts()
    store.hang(2)
    assert remote.read([Range("slow://box/a", 2, 4)]) == [b"23"]
    store.hang(1)
    assert remote.stat("slow://box/a").size == 10
    assert remote.take_counts() == {
        "requests": 5, "bytes": 2, "retries": 3, "throttled": 0, "timeouts": 3, "hedged": 0,
    }  # fmt: skip
    store.hang(4)
    with raises_user_error(field="slow://box/a", reason="4 attempts (TimeoutError: no answer within 60"):
        remote.read([Range("slow://box/a", 2, 4)])


def test_hedged_reads_raise_what_both_requests_raise(store):
    with raises_user_error(field="slow://box/missing", reason="no such file"):
        remote.HedgedReads().read(Range("slow://box/missing", 0, 3))
