"""The archive is read set by set; what is no such archive, or is not there, is one line."""

import pytest

from clip_jax.datasets.icons.package import find_package, icon_sets
from clip_jax.errors import UserError

from ...user_errors import raises_user_error


def test_icon_sets_of_an_archive(package):
    sets = {s.prefix: s for s in icon_sets(package)}
    assert sorted(sets) == ["alpha", "banner", "beta", "copy", "free", "gamma", "grin", "shop", "smile"]
    alpha = sets["alpha"]
    assert "old" not in alpha.icons
    assert alpha.hidden == 1
    assert alpha.aliases == {"house-fill": ("home-fill",)}  # the mirrored one is another picture
    assert (alpha.categories["house-fill"], alpha.affixes) == (("Places",), ((), ("fill",)))
    assert alpha.icons["house-fill"].width == 24
    assert [s.prefix for s in icon_sets(package, ("copy", "beta"))] == ["beta", "copy"]


@pytest.mark.parametrize(
    ("content", "file", "part"),
    [({"readme.md": b"no icons"}, "", "json/SET.json"), ({"json/a.json": b"{"}, "json/a.json", "JSON"),
     ({"json/a.json": {"prefix": "a"}}, "json/a.json", "icons")],
)  # fmt: skip
def test_icon_sets_of_another_archive_names_archive_and_file(tmp_path, make_package, content, file, part):
    with raises_user_error(reason=part) as caught:
        list(icon_sets(make_package(tmp_path / "a.tgz", content)))
    assert str(caught.value).startswith("--package")
    assert f"{tmp_path}/a.tgz: " in str(caught.value)
    assert file in str(caught.value)


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "Evil", "a/b", "a_b", "", "a.b"])
def test_icon_sets_names_that_would_leave_their_folder_are_refused(tmp_path, make_package, name):
    well = {"prefix": "a", "icons": {"b": {"body": "<g/>"}}}
    list(icon_sets(make_package(tmp_path / "well.tgz", {"json/a.json": well})))
    for field, content in (("prefix", well | {"prefix": name}), ("a: icon", well | {"icons": {name: {"body": ""}}})):
        with raises_user_error(field=field, value=name):
            list(icon_sets(make_package(tmp_path / "evil.tgz", {"json/a.json": content})))


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b"\xff", b"[]", b'{"prefix": "a", "icons": []}', b'{"prefix": "a", "icons": {"b": 1}}',
                b'{"prefix": "a", "icons": {"b": {"body": 1}}}', b'{"prefix": "a", "info": [], "icons": {}}'],
)  # fmt: skip
def test_icon_sets_damaged_json_is_one_line(tmp_path, make_package, content):
    with pytest.raises(UserError) as caught:
        list(icon_sets(make_package(tmp_path / "a.tgz", {"json/a.json": content})))
    assert "\n" not in str(caught.value)


def test_icon_sets_of_no_archive_is_refused(tmp_path):
    (tmp_path / "a.tgz").write_text("nothing")
    with raises_user_error(field=f"--package: {tmp_path}/a.tgz", reason="archive"):
        list(icon_sets(tmp_path / "a.tgz"))
    with raises_user_error(field="--package", value=tmp_path / "b.tgz"):
        find_package(tmp_path / "b.tgz", tmp_path)


def test_find_package_runs_npm_once(tmp_path, monkeypatch):
    npm = tmp_path / "npm"
    npm.write_text('#!/bin/sh\nfor last; do :; done\necho $* >> "$0.log"\ntouch "$last/iconify-json-1.2.3.tgz"\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for _ in range(2):
        assert find_package(None, tmp_path / "work").name == "iconify-json-1.2.3.tgz"
    assert npm.with_suffix(".log").read_text().splitlines() == [
        f"pack @iconify/json --silent --pack-destination {tmp_path}/work"
    ]


def test_find_package_with_failing_or_missing_npm_is_refused(tmp_path, monkeypatch):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with raises_user_error(field="--package", reason="no network"):
        find_package(None, tmp_path / "work")
    npm.unlink()
    with raises_user_error(field="--package", reason="npm pack"):
        find_package(None, tmp_path / "work")
