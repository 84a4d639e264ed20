"""Braces, and the shards that a path names."""

import pytest

from clip_jax.data.sources import shard_list as shards
from clip_jax.data.sources.shard_list import expand_braces, shards_of
from clip_jax.errors import ConfigError

from ...user_errors import raises_user_error


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{08..11}.tar", ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]),
        ("{9..10}", ["9", "10"]),
        ("{a,b}/{0..1}", ["a/0", "a/1", "b/0", "b/1"]),
        ("x{a,b{0..1}c,}y", ["xay", "xb0cy", "xb1cy", "xy"]),
        ("{{0..1},z}", ["0", "1", "z"]),
    ],
)
def test_expand_braces_multiplies_in_written_order(text, names):
    assert expand_braces(text) == names


@pytest.mark.parametrize(
    "text", ["a{0..1", "a}0", "{a,{b}", "a}{b", "a{}", "a{b}", "a{1..b}", "{1.." + "9" * 5000 + "}"]
)
def test_expand_braces_unmatched_brace_is_refused(text):
    with raises_user_error(ConfigError, field="data.paths", value=text, reason="neither a range"):
        expand_braces(text)


def test_expand_braces_too_many_or_descending_is_refused(monkeypatch):
    monkeypatch.setattr(shards, "MAX_NAMES", 20)
    for text, reason in [
        ("a{5..3}", "descending range {5..3}"),
        ("{0..9}{0..9}", "more than 20 files"),
        ("{{0..999999999999}{0..9},b}", "more than 20 files"),  # and none of them is formed
        ("{a," * 3000 + "}" * 3000, "nested too deep"),
    ]:
        with raises_user_error(ConfigError, reason=reason):
            expand_braces(text)


def test_shards_of_local_split_file_and_range(tmp_path):
    for name in ("p/train/10.tar", "p/train/9.tar", "p/val/0.tar", "odd{1,2}.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert shards_of(tmp_path / "p", "train") == [f"{tmp_path}/p/train/9.tar", f"{tmp_path}/p/train/10.tar"]
    assert shards_of(f"file://{tmp_path}/p", "val") == [f"{tmp_path}/p/val/0.tar"]
    assert shards_of(f"{tmp_path}/p/train/{{9..10}}.tar", "val") == shards_of(tmp_path / "p", "train")
    assert shards_of(f"{tmp_path}/odd{{1,2}}.tar", "train") == [f"{tmp_path}/odd{{1,2}}.tar"]  # a name as it stands
    with raises_user_error(field="data.paths", value=str(tmp_path / "gone")):
        shards_of(tmp_path / "gone", "train")
    with raises_user_error(field="data.paths", value=str(tmp_path / "p/test"), reason="train, val"):
        shards_of(tmp_path / "p", "test")


def test_shards_of_a_store(store):
    for name in ("a/train/0.tar", "a/train/1.tar", "b/train/0.tar", "b/val/0.tar"):
        store.pipe(f"/box/{name}", b"")
    shards = shards_of("slow://box/{a,b}", "train")
    assert [s.replace(":///", "://") for s in shards] == [
        f"slow://box/{n}.tar" for n in ("a/train/0", "a/train/1", "b/train/0")
    ]
    assert shards_of("slow://box/x-{0..1}.tar", "train") == ["slow://box/x-0.tar", "slow://box/x-1.tar"]
    with raises_user_error(field="data.paths", value="slow://box/b/test", reason="train, val"):
        shards_of("slow://box/b", "test")


@pytest.fixture
def flat(tmp_path):
    """Write a folder of shards as img2dataset does, with the files that other programs add."""
    for name in ("00000.tar", "00001.tar", "00000_stats.json", "._00000.tar", "__MACOSX/00000.tar", ".cache/0.tar"):
        (tmp_path / "flat" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "flat" / name).write_bytes(b"")
    return tmp_path / "flat"


@pytest.mark.parametrize("path", ["", "/", "/*.tar", "/{00000,00001}.tar", "/0*{0,1}.tar"])
def test_shards_of_flat_folder_and_star_are_found_without_hidden_ones(flat, path):
    assert shards_of(f"{flat}{path}", "train") == [f"{flat}/00000.tar", f"{flat}/00001.tar"]


def test_shards_of_star_over_folders_takes_the_split_of_each(flat, tmp_path):
    for name in ("p/a/train/0.tar", "p/b/train/0.tar", "p/b/val/0.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert shards_of(f"{tmp_path}/p/*", "train") == [f"{tmp_path}/p/a/train/0.tar", f"{tmp_path}/p/b/train/0.tar"]


def test_shards_of_flat_ones_beside_splits_are_not_taken_for_a_split(flat):
    (flat / "train").mkdir()
    (flat / "train" / "0.tar").write_bytes(b"")
    assert shards_of(flat, "train") == [f"{flat}/train/0.tar"]
    with raises_user_error(field="data.paths", hint=f"{flat}/*.tar"):
        shards_of(flat, "val")


def test_shards_of_star_without_match_is_refused(flat):
    with raises_user_error(field="data.paths", value=f"{flat}/x*.tar"):
        shards_of(f"{flat}/x*.tar", "train")


def test_shards_of_flat_folder_in_a_store(store):
    for name in ("00000.tar", "00001.tar", "._00000.tar"):
        store.pipe(f"/box/flat/{name}", b"")
    shards = [s.replace(":///", "://") for s in shards_of("slow://box/flat", "train")]
    assert shards == ["slow://box/flat/00000.tar", "slow://box/flat/00001.tar"]
    assert [s.replace(":///", "://") for s in shards_of("slow://box/flat/*.tar", "val")] == shards
