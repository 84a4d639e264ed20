"""Where runs and sweeps lie: a directory here, or one in a bucket."""

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clip_jax.errors import UserError
from clip_jax.storage import paths
from clip_jax.storage.paths import as_path, disk_error, disk_errors

from ..user_errors import error_fields, raises_user_error


@pytest.fixture(params=["here", "bucket"])
def root(request, tmp_path):
    if request.param == "here":
        return tmp_path / "root"
    request.getfixturevalue("bucket")
    return as_path("gs://bucket/root")


def test_paths_functions_agree_on_disk_and_in_a_bucket(root):
    file = root / "a" / "x.json"
    assert (paths.list_names(root), paths.exists(file)) == ([], False)
    with pytest.raises(FileNotFoundError):
        paths.read_text(file)
    paths.mkdir(file.parent)
    for text in ("one", "zwei → 2\n\n"):
        paths.write_text(file, text)
        assert paths.read_text(file) == text
    assert (paths.list_names(root), paths.list_names(root / "a"), paths.exists(file)) == (["a"], ["x.json"], True)
    for _ in range(2):
        paths.move_tree(root / "a", root / "aside" / "b")
        assert paths.list_names(root / "aside" / "b") == ["x.json"]
        paths.mkdir(root / "a")
        paths.write_text(file, "again")
    for _ in range(2):
        paths.remove(file)
    assert not paths.exists(file)


def test_staging_dir_replaces_the_whole_folder(root):
    for names in ("ab", "bc"):
        with paths.staging_dir(root / "report") as out:
            for name in names:
                (out / name).write_text(names)
    listed = paths.list_names(root / "report")
    assert listed == (["b", "c"] if paths.is_remote(root) else ["a", "b", "c"])
    assert paths.read_text(root / "report" / "b") == "bc"


def test_create_if_absent_succeeds_once(bucket):
    assert paths.create_if_absent(as_path("gs://bucket/x"), "1")
    assert not paths.create_if_absent(as_path("gs://bucket/x"), "2")
    assert bucket.text("x") == "1"


def test_as_path_keeps_the_scheme(bucket, tmp_path, monkeypatch):
    remote = as_path("gs://b/x/y")
    assert str(remote / "z") == "gs://b/x/y/z" == str(as_path(remote) / "z")
    assert str(paths.absolute(remote)) == "gs://b/x/y"
    assert paths.local_scratch(remote) == tmp_path / "cache" / "gs" / "b" / "x" / "y"
    assert paths.local_scratch(tmp_path) == tmp_path == as_path(f"file://{tmp_path}")


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"CLIP_JAX_CACHE": "/c", "XDG_CACHE_HOME": "/x"}, "/c/shards"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/clip_jax/shards"),
        ({"HOME": "/h"}, "/h/.cache/clip_jax/shards"),
    ],
)
def test_cache_folder_follows_the_environment(monkeypatch, variables, folder):
    for name in ("CLIP_JAX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert paths.cache_folder("shards") == Path(folder)


@pytest.mark.parametrize("url", ["s3://b/x", "memory://x", "gs://", "gs:///"])
def test_as_path_of_another_scheme_is_refused(url):
    with raises_user_error(field=url, reason="gs://BUCKET"):
        as_path(url)


def test_bucket_path_without_gcsfs_is_one_line():
    program = (
        "import sys; sys.modules['gcsfs'] = None\nfrom clip_jax.cli.main import main\n"
        "code = main(['sweep', 'status', '--dir=gs://b/x'])\nprint(code, 'jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n"
    assert error_fields(done.stderr) == ["gs://b/x"]
    assert "gcs]" in done.stderr


def test_bucket_errors_are_one_line(bucket):
    with raises_user_error(field="gs://nowhere/x", reason="nowhere"):
        paths.write_text(as_path("gs://nowhere/x"), "")
    bucket.refuse = 403
    for call in (paths.read_text, paths.exists, paths.list_names):
        with raises_user_error(field="gs://bucket/x", reason="Forbidden"):
            call(as_path("gs://bucket/x"))


def test_bucket_that_does_not_answer_raises_bucket_unavailable(bucket, monkeypatch):
    import fsspec

    def silent(path):
        raise RuntimeError("no way there\nand more")

    monkeypatch.setattr(fsspec.filesystem("gcs"), "info", silent)
    with pytest.raises(paths.BucketUnavailable) as error:
        paths.exists(as_path("gs://bucket/x"))
    assert error.value.filename == "gs://bucket/x"
    assert error.value.strerror == "the bucket does not answer (no way there)"
    with raises_user_error(field="path") as refused:
        as_path("gs://user:SECRET@bucket/x?sig=SECRET")
    assert "SECRET" not in f"{refused.value}{refused.value.value}"


@pytest.mark.parametrize(("level", "logged"), [(logging.NOTSET, False), (logging.DEBUG, True)])
def test_silence_gcsfs_keeps_a_log_level_that_was_set(level, logged):
    logger = logging.getLogger("gcsfs")
    before = logger.level
    try:
        logger.setLevel(level)
        paths.silence_gcsfs()
        assert logger.isEnabledFor(logging.ERROR) is logged
    finally:
        logger.setLevel(before)


def test_write_text_on_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    paths.write_text(tmp_path / "x", "old")
    monkeypatch.setattr(os, "fsync", full)
    with raises_user_error(field=tmp_path / "x", reason="disk is full"):
        paths.write_text(tmp_path / "x", "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x", "old")]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOTDIR])
def test_disk_error_of_an_os_error_is_one_line(tmp_path, number):
    error = OSError(number, os.strerror(number), str(tmp_path / "a"))
    message = disk_error(error)
    assert message.field == str(tmp_path / "a")
    assert message.hint
    with raises_user_error(field=tmp_path), disk_errors(tmp_path):
        raise error
    for other in (ValueError("a bug"), OSError(errno.EIO, "broken"), KeyboardInterrupt(), UserError("mine")):
        assert disk_error(other) is None


def test_disk_error_of_a_message_without_errno_is_recognized():
    message = disk_error(RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert message.reason == "the disk is full"
