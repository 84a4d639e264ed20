"""Where runs and sweeps lie: a directory here, or one in a bucket."""

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clip_jax.errors import UserError
from clip_jax.storage import paths as places
from clip_jax.storage.paths import disk_error, disk_errors, place


@pytest.fixture(params=["here", "bucket"])
def root(request, tmp_path):
    if request.param == "here":
        return tmp_path / "root"
    request.getfixturevalue("bucket")
    return place("gs://bucket/root")


def test_files_are_replaced_listed_and_removed_alike(root):
    file = root / "a" / "x.json"
    assert (places.names(root), places.exists(file)) == ([], False)
    with pytest.raises(FileNotFoundError):
        places.read_text(file)
    places.make(file.parent)
    for text in ("one", "zwei → 2\n\n"):
        places.write_text(file, text)
        assert places.read_text(file) == text
    assert (places.names(root), places.names(root / "a"), places.exists(file)) == (["a"], ["x.json"], True)
    for _ in range(2):
        places.move_tree(root / "a", root / "aside" / "b")
        assert places.names(root / "aside" / "b") == ["x.json"]
        places.make(root / "a")
        places.write_text(file, "again")
    for _ in range(2):
        places.remove(file)
    assert not places.exists(file)


def test_a_folder_is_what_was_written_last(root):
    for names in ("ab", "bc"):
        with places.folder(root / "report") as out:
            for name in names:
                (out / name).write_text(names)
    there = places.names(root / "report")
    assert there == (["b", "c"] if places.is_remote(root) else ["a", "b", "c"])
    assert places.read_text(root / "report" / "b") == "bc"


def test_one_of_several_makes_an_object(bucket):
    assert places.create(place("gs://bucket/x"), "1")
    assert not places.create(place("gs://bucket/x"), "2")
    assert bucket.text("x") == "1"


def test_paths_keep_their_scheme(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    there = place("gs://b/x/y")
    assert str(there / "z") == "gs://b/x/y/z" == str(place(there) / "z")
    assert str(places.absolute(there)) == "gs://b/x/y"
    assert places.scratch(there) == Path("/cache/clip_jax/gs/b/x/y")
    assert places.scratch(tmp_path) == tmp_path == place(f"file://{tmp_path}")


@pytest.mark.parametrize("url", ["s3://b/x", "memory://x", "gs://", "gs:///"])
def test_other_urls_are_refused(url):
    with pytest.raises(UserError, match=f"^{url}: a run or a sweep lies in a directory or under gs://BUCKET/$"):
        place(url)


def test_a_bucket_without_its_package_is_one_line():
    program = (
        "import sys; sys.modules['gcsfs'] = None\nfrom clip_jax.cli.main import main\n"
        "code = main(['sweep', 'status', '--dir=gs://b/x'])\nprint(code, 'jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n"
    assert done.stderr == "clip-jax: gs://b/x: needs the package gcsfs (pip install 'clip-jax-scaling[gcs]')\n"


def test_what_a_bucket_says_is_one_line(bucket):
    with pytest.raises(UserError, match="^gs://nowhere/x: there is no bucket 'nowhere'$"):
        places.write_text(place("gs://nowhere/x"), "")
    bucket.refuse = 403
    for call in (places.read_text, places.exists, places.names):
        with pytest.raises(UserError, match="^gs://bucket/x: the bucket refuses "):
            call(place("gs://bucket/x"))


def test_a_bucket_that_does_not_answer_is_told_from_other_errors(monkeypatch):
    class Silent:
        def info(self, path):
            raise RuntimeError("no way there\nand more")

    monkeypatch.setattr(places, "_store", lambda path: Silent())
    with pytest.raises(places.NoAnswer) as error:
        places.exists(place("gs://bucket/x"))
    assert error.value.filename == "gs://bucket/x"
    assert error.value.strerror == "the bucket does not answer (no way there)"
    with pytest.raises(UserError) as refused:
        place("gs://user:SECRET@bucket/x?sig=SECRET")
    assert refused.value.field == "path"
    assert "SECRET" not in f"{refused.value}{refused.value.value}"


@pytest.mark.parametrize(("level", "told"), [(logging.NOTSET, False), (logging.DEBUG, True)])
def test_the_log_of_the_buckets_package_is_shown_where_asked_for(level, told):
    logger = logging.getLogger("gcsfs")
    before = logger.level
    try:
        logger.setLevel(level)
        places.hush()
        assert logger.isEnabledFor(logging.ERROR) is told
    finally:
        logger.setLevel(before)


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    places.write_text(tmp_path / "x", "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="the disk is full"):
        places.write_text(tmp_path / "x", "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x", "old")]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOTDIR])
def test_disk_error_is_one_line_whoever_met_it(tmp_path, number):
    error = OSError(number, os.strerror(number), str(tmp_path / "a"))
    told = disk_error(error)
    assert told.field == str(tmp_path / "a")
    assert told.hint
    with pytest.raises(UserError) as caught, disk_errors(tmp_path):
        raise error
    assert caught.value.field == str(tmp_path)
    for other in (ValueError("a bug"), OSError(errno.EIO, "broken"), KeyboardInterrupt(), UserError("mine")):
        assert disk_error(other) is None


def test_disk_error_of_a_library_that_keeps_the_words_alone():
    told = disk_error(RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert told.reason == "the disk is full"
