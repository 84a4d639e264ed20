"""Indexes of shards: made once, in parts, resumed; equal to a plain scan; subsets by key and by column."""

import io
import json
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clip_jax.data.sources import index_build, indexed_shards, tar_index
from clip_jax.data.sources.block_source import ReusedMemory
from clip_jax.data.sources.index_build import index_shards
from clip_jax.data.sources.index_subset import select_samples
from clip_jax.data.sources.indexed_shards import IndexedShards
from clip_jax.data.sources.shard_index import Manifest, ShardIndex, open_index
from clip_jax.data.sources.shard_list import is_index, shards_of
from clip_jax.data.sources.webdataset import WebDataset
from clip_jax.storage.range_reads import Range

from ...user_errors import raises_user_error


@pytest.fixture
def shards(pairs_dir):
    """Return the two training shards, each with the sidecars of img2dataset."""
    paths = shards_of(pairs_dir, "train")
    for number, shard in enumerate(paths):
        keys = [f"train{number}{i}" for i in range(10)]
        table = {
            "key": keys, "status": ["success"] * 10, "uid": [f"{number:016x}{i:016x}" for i in range(10)],
            "similarity": np.arange(10) / 10 + number / 100, "caption": ["text"] * 10,
            "LANGUAGE": ["en"] * 4 + ["dé"] * 5 + [None],
        }  # fmt: skip
        pd.DataFrame(table).to_parquet(shard.removesuffix(".tar") + ".parquet")
        with open(shard.removesuffix(".tar") + "_stats.json", "w") as file:
            json.dump({"successes": 10}, file)
    return paths


def test_index_equals_the_plain_scan(shards, tmp_path):
    manifest = index_shards(shards, tmp_path / "index")
    for i, shard in enumerate(shards):
        plain, one = tar_index.load_index(shard), manifest.read(i)
        assert np.array_equal(one.offsets[:-2], plain.offsets)
        assert not one.offsets[-2:].any()
        assert one.keys.tolist() == [f"train{i}{n}".encode() for n in range(10)]
        assert one.columns["similarity"].tolist() == pytest.approx(np.arange(10) / 10 + i / 100)
        assert one.columns["uid"].tolist() == [[i, n] for n in range(10)]
    assert not is_index(tmp_path)
    assert open_index(tmp_path / "index").digest == manifest.digest


def test_indexed_records_equal_those_of_the_plain_source(shards, pairs_dir, tmp_path):
    plain = WebDataset(pairs_dir, "train")
    for window_mb in (1, 1000):
        source = IndexedShards(index_shards(shards, tmp_path / "index"), 2, window_mb)
        rows = np.random.default_rng(0).permutation(20).tolist()
        assert source.get_many(rows) == plain.get_many(rows)
        assert source.get_many_captions(rows) == plain.get_many_captions(rows)
        assert [source.name(i) for i in rows] == [plain.name(i) for i in rows]


def test_index_in_parts_equals_the_index_in_one(shards, tmp_path):
    lines = []
    assert index_shards(shards, tmp_path / "parts", part=(1, 2), echo=lines.append) is None
    assert lines[-1] == "1 of 2 parts are made; 1 parts are missing"
    with raises_user_error(field=str(tmp_path / "parts"), reason="1 parts are made"):
        open_index(str(tmp_path / "parts"))
    parts = index_shards(shards, tmp_path / "parts", part=(0, 2))
    whole = index_shards(shards, tmp_path / "whole", workers=2)
    assert parts.table.equals(whole.table)


def test_parts_of_another_list_of_shards_are_not_joined(shards, tmp_path):
    assert index_shards(shards, tmp_path / "index", part=(0, 2)) is None
    longer = [*shards, str(shutil.copy(shards[0], tmp_path / "third.tar"))]
    assert index_shards(longer, tmp_path / "index", part=(1, 2)) is None, "part 0 is of the shorter list"
    manifest = index_shards(longer, tmp_path / "index", part=(0, 2))
    assert [manifest.shard(i) for i in range(len(manifest))] == [os.path.realpath(shard) for shard in longer]


def test_index_again_scans_only_what_changed(shards, tmp_path, monkeypatch):
    first = index_shards(shards, tmp_path / "index")
    scanned = []
    scan = index_build.scan_shard
    monkeypatch.setattr(index_build, "scan_shard", lambda shard: (scanned.append(shard), scan(shard))[1])
    assert index_shards(shards, tmp_path / "index").table.equals(first.table)
    assert scanned == []
    shutil.copy(shards[0], shards[1])
    again = index_shards(shards, tmp_path / "index")
    assert scanned == [shards[1]]
    assert again.digest != first.digest
    file = tmp_path / "index" / again.table["index"].iat[0]
    file.write_bytes(file.read_bytes()[:200])
    index_shards(shards, tmp_path / "index")
    assert scanned[1:] == [shards[0]]


def test_index_again_reads_a_sidecar_that_was_added_or_mended(shards, tmp_path):
    sidecars = [shard.removesuffix(".tar") + ".parquet" for shard in shards]
    kept = [Path(sidecar).read_bytes() for sidecar in sidecars]
    for sidecar in sidecars:
        os.remove(sidecar)
    assert "similarity" not in index_shards(shards, tmp_path / "index").read(0).columns
    for sidecar, content in zip(sidecars, kept, strict=True):
        Path(sidecar).write_bytes(content)
    assert "similarity" in index_shards(shards, tmp_path / "index").read(0).columns


def test_index_of_a_damaged_shard_is_refused_or_counted(shards, tmp_path):
    with open(shards[1], "r+b") as file:
        file.truncate(5000)
    lines = []
    with raises_user_error(field="--max-damaged", reason=shards[1]):
        index_shards(shards, tmp_path / "index", echo=lines.append)
    assert any(line.startswith(shards[1]) for line in lines)
    manifest = index_shards(shards, tmp_path / "index", max_damaged=1, echo=lines.append)
    assert manifest.samples.tolist() == [10]
    assert "1 damaged shards are left out" in lines


def test_index_counts_what_sidecars_and_keys_contradict(shards, tmp_path):
    table = pd.read_parquet(shards[0].removesuffix(".tar") + ".parquet")
    table.loc[3, "key"] = "other"
    table.to_parquet(shards[0].removesuffix(".tar") + ".parquet")
    with open(shards[1].removesuffix(".tar") + "_stats.json", "w") as file:
        json.dump({"successes": 11}, file)
    shutil.copy(shards[0], copy := shards[0].replace("0.tar", "2.tar"))
    lines = []
    manifest = index_shards([*shards, copy], tmp_path / "index", echo=lines.append)
    assert np.isnan(manifest.read(0).columns["similarity"][3])
    text = "\n".join(lines)
    assert "1 samples have no row in their shard's .parquet (" in text
    assert "1 rows of a .parquet with status success have no sample" in text
    assert "1 shards hold another number of samples than their _stats.json says" in text
    assert "10 keys occur in more than one shard" in text


def test_source_of_a_shard_that_changed_is_refused(shards, tmp_path):
    source = IndexedShards(index_shards(shards, tmp_path / "index"), 1, 1)
    with open(shards[1], "ab") as file:
        file.write(b"\0" * 512)
    assert len(source.get_many([0])) == 1
    with raises_user_error(field=shards[1], reason="when it was indexed"):
        source.get_many([15])


def rewrite(shard, data):
    """Write other bytes to a shard; its time of modification and its size stay."""
    status = os.stat(shard)
    Path(shard).write_bytes(data)
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert os.stat(shard).st_size == status.st_size


def test_source_of_a_shard_that_was_written_again_is_refused(shards, tmp_path):
    source = IndexedShards(index_shards(shards, tmp_path / "index"), 1, 1)
    shutil.copy2(shards[0], tmp_path / "copy.tar")
    os.replace(tmp_path / "copy.tar", shards[0])  # another file of the same time, as rsync -a makes
    assert len(source.get_many([0])) == 1
    os.utime(shards[1], (1, 1))
    assert list(source.missing_shards()) == [shards[1]]
    with raises_user_error(field=shards[1], reason="another time of modification", hint="cp -p"):
        source.get_many([15])
    assert source.digest == index_shards(shards, tmp_path / "index").digest, "a begun run goes on"


def test_shard_of_a_store_is_told_by_its_content(shards, tmp_path, store, monkeypatch):
    version = {"created": "monday", "ETag": '"a"', "generation": 17}
    plain = type(store).info
    monkeypatch.setattr(type(store), "info", lambda self, path, **kw: plain(self, path, **kw) | version)
    store.pipe("/box/0.tar", Path(shards[0]).read_bytes())
    source = IndexedShards(index_shards(["slow://box/0.tar"], tmp_path / "index"), 1, 1)
    version |= {"created": "tuesday", "ETag": '"b"'}
    assert source.missing_shards() == {}
    version |= {"generation": 18}
    assert "another version" in source.missing_shards()["slow://box/0.tar"]


@pytest.mark.parametrize("change", ["size", "key", "longer key", "order"])
def test_another_member_at_an_indexed_place_is_refused(write_shard, tmp_path, change):
    members = {f"{key}.{extension}": b"x" * 600 for key in "abc" for extension in ("jpg", "txt")}
    shard = str(write_shard(tmp_path / "0.tar", members))
    source = IndexedShards(index_shards([shard], tmp_path / "index"), 1, 1)
    others = {
        "size": members | {"b.txt": b"x" * 601},
        "key": {name.replace("c.", "d."): data for name, data in members.items()},
        "longer key": {name.replace("c.", "cc."): data for name, data in members.items()},
        "order": dict(reversed(members.items())),
    }
    again = write_shard(tmp_path / "again.tar", others[change]).read_bytes()
    rewrite(shard, again)
    with raises_user_error(field=shard, reason="holds another member at byte", hint="delete ") as caught:
        source.get_many([0])
    os.remove(caught.value.hint.split()[1])
    assert len(IndexedShards(index_shards([shard], tmp_path / "index"), 1, 1).get_many([0, 1, 2])) == 3


def test_size_in_a_header_is_read_however_it_is_padded():
    fields = [
        b"00000000123\0",
        b"       123 \0",
        b"123\0\0\0\0\0\0\0\0\0",
        b"000000000123",
        b"\x80" + b"\0" * 11,
        b"00000000128\0",
        b"123\0rubbish.",
    ]
    values = indexed_shards.octal_numbers(np.frombuffer(b"".join(fields), np.uint8).reshape(-1, 12))
    assert values.tolist() == [0o123, 0o123, 0o123, 0o123, -1, -1, 0o123]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_member_of_any_name_is_read(tmp_path, form):
    stems = ["", "folder/", "é", "l" * 94, "f" * 60 + "/" + "l" * 60]
    stems += [] if form == tarfile.USTAR_FORMAT else ["l" * 120]  # which ustar cannot hold
    names = [f"{stem}{i}" for stem in stems for i in range(3)]
    with tarfile.open(tmp_path / "0.tar", "w", format=form) as tar:
        for member in (f"{name}.{extension}" for name in names for extension in ("jpeg", "txt")):
            info = tarfile.TarInfo(member)
            info.size = len(member.encode())
            tar.addfile(info, io.BytesIO(member.encode()))
    source = IndexedShards(index_shards([str(tmp_path / "0.tar")], tmp_path / "index"), 1, 1)
    records = source.get_many(list(range(len(names))))
    assert [str(record.image, "utf-8") for record in records] == [f"{name}.jpeg" for name in names]


def test_next_shard_is_read_in_place_of_a_missing_one_in_every_process(shards, tmp_path):
    third = shards[0].replace("0.tar", "2.tar")
    shutil.copy(shards[0], third)
    manifest = index_shards([*shards, third], tmp_path / "index")
    source = IndexedShards(manifest, 1, 1)
    assert source.missing_shards() == {}
    expected = source.get_many(list(range(10)))
    os.remove(shards[1])
    with open(third, "ab") as file:
        file.write(b"\0" * 512)
    missing = source.missing_shards()
    assert list(missing) == [shards[1], third]
    assert [reason.partition(" ")[0] for reason in missing.values()] == ["No", "has"]
    source.replace_shards(missing)
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301  (as worker processes get it)
    for one in (source, copy):
        assert one.get_many(list(range(10, 30))) == expected * 2  # of the first shard, behind the last
        assert one.get_many_captions([12, 23]) == [expected[2].captions, expected[3].captions]
        assert one.name(12) == one.name(2)
    assert len(source) == 30
    assert source.identity != source.digest
    with raises_user_error(field=shards[0], reason="none of the shards"):
        source.replace_shards([*missing, shards[0]])


def test_captions_of_json_fields_have_their_weights(write_shard, jpeg, tmp_path):
    fields = [
        {"text": "short", "synthetic": ["one", "two"]}, {"text": None, "synthetic": ["only"]}, {"other": "x"}, [1],
    ]  # fmt: skip
    members = {}
    for i, values in enumerate(fields):
        members |= {f"{i}.jpg": jpeg(), f"{i}.json": json.dumps(values).encode()}
    write_shard(tmp_path / "0.tar", members)
    manifest = index_shards([str(tmp_path / "0.tar")], tmp_path / "index")
    source = IndexedShards(manifest, 1, 1, ("text", "synthetic"), (3.0, 1.0))
    first, second, none, other = source.get_many([0, 1, 2, 3])
    assert (first.captions, first.weights) == (("short", "one", "two"), (0.75, 0.125, 0.125))
    assert (second.captions, second.weights) == (("only",), (1.0,))
    assert none.reason == "its .json has no caption in text, synthetic"
    assert other.reason == "its .json is not a JSON object"
    assert source.get_many_captions([0, 1]) == [first.captions, second.captions]


def test_first_samples_of_an_index_are_those_of_the_manifest(shards, tmp_path):
    source = IndexedShards(index_shards(shards, tmp_path / "index"), 1, 1)
    part = source.first(13)
    assert (len(part), part.layout.counts.tolist()) == (13, [10, 3])
    assert part.get_many([12]) == source.get_many([12])
    assert set(source.spread(4).tolist()) <= set(range(20))


@pytest.mark.parametrize("kind", ["keys", "uids", "npy"])
def test_subset_by_keys_reads_those_samples_alone(shards, tmp_path, kind):
    index_shards(shards, tmp_path / "index")
    file = tmp_path / f"list.{'npy' if kind == 'npy' else 'txt'}"
    if kind == "npy":
        pairs = np.array([(0, 4), (1, 2), (1, 9), (5, 5)], np.dtype("u8,u8"))
        np.save(file, pairs)
    elif kind == "uids":
        file.write_text("\n".join(f"{a:016x}{b:016x}" for a, b in [(0, 4), (1, 2), (1, 9), (5, 5)]))
    else:
        file.write_text("train04\ntrain12\ntrain19\nunknown\n")
    lines = []
    manifest = select_samples(tmp_path / "index", tmp_path / "some", keys=file, echo=lines.append)
    assert manifest.samples.tolist() == [1, 2]
    assert "3 of 4 listed keys are in the index" in lines
    source = IndexedShards(manifest, 2, 1)
    assert [source.name(i).rpartition(":")[2] for i in range(3)] == ["train04", "train12", "train19"]
    assert [r.captions[0] for r in source.get_many([0, 1, 2])] == [
        "picture 4 of shard 0", "picture 2 of shard 1", "picture 9 of shard 1",
    ]  # fmt: skip


def test_subset_by_column_takes_all_conditions(shards, tmp_path):
    index_shards(shards, tmp_path / "index")
    manifest = select_samples(tmp_path / "index", tmp_path / "some", where="similarity > 0.5 and similarity <= 0.8")
    assert manifest.samples.tolist() == [3, 3]  # .6 to .8 of the first shard, .51 to .71 of the second
    texts = select_samples(tmp_path / "index", tmp_path / "de", where="LANGUAGE == dé and similarity < 0.6")
    assert [texts.read(i).keys.tolist() for i in (0, 1)] == [[b"train04", b"train05"], [b"train14", b"train15"]]
    others = select_samples(tmp_path / "index", tmp_path / "others", where="LANGUAGE != en")
    assert others.samples.tolist() == [6, 6]
    for wrong, column, holds in (("LANGUAGE == 3", "LANGUAGE", "texts"), ("similarity == en", "similarity", "numbers")):
        with raises_user_error(field="--where", value=column, reason=holds):
            select_samples(tmp_path / "index", tmp_path / "none", where=wrong)
    with raises_user_error(field="--where", value="LANGUAGE > en", reason="condition"):
        select_samples(tmp_path / "index", tmp_path / "none", where="LANGUAGE > en")
    with raises_user_error(field="--where", value="width", reason=shards[0], hint="index without the shard"):
        select_samples(tmp_path / "index", tmp_path / "none", where="width > 3")
    with raises_user_error(field="--where", value="similarity", reason="condition"):
        select_samples(tmp_path / "index", tmp_path / "none", where="similarity")
    with raises_user_error(field="--keys, --where", reason="choose none of 20"):
        select_samples(tmp_path / "index", tmp_path / "none", where="similarity > 3")


def test_subset_goes_on_where_it_was_interrupted(shards, tmp_path, monkeypatch):
    index_shards(shards, tmp_path / "index")
    (tmp_path / "keys.txt").write_text("\n".join(["train03", "train07", "train12", "unknown"]))
    how = {"keys": tmp_path / "keys.txt", "where": "similarity < 0.5"}
    lines, written, plain = [], [], ShardIndex.write
    index_shards(shards, tmp_path / "some")  # of other samples, under the same names
    whole = select_samples(tmp_path / "index", tmp_path / "whole", **how, echo=lines.append)
    assert lines[-2] == "2 of 4 listed keys are in the index and fulfil the conditions"

    def until_the_second(self, path):
        written.append(path)
        if len(written) == 2:
            raise KeyboardInterrupt
        plain(self, path)

    monkeypatch.setattr(ShardIndex, "write", until_the_second)
    with pytest.raises(KeyboardInterrupt):
        select_samples(tmp_path / "index", tmp_path / "some", **how)
    lines.clear()
    again = select_samples(tmp_path / "index", tmp_path / "some", **how, echo=lines.append)
    assert len(written) == 3, "the second shard alone"
    assert lines[-3:-1] == [
        "1 shards were chosen from before", "2 of 4 listed keys are in the index and fulfil the conditions",
    ]  # fmt: skip
    assert again.table.equals(whole.table)
    assert [again.read(i).keys.tolist() for i in (0, 1)] == [[b"train03"], [b"train12"]]
    select_samples(tmp_path / "index", tmp_path / "some", keys=how["keys"])
    assert len(written) == 5, "other conditions"
    sidecar = shards[0].removesuffix(".tar") + ".parquet"
    table = pd.read_parquet(sidecar)
    table.assign(similarity=0.0).to_parquet(sidecar)
    index_shards(shards, tmp_path / "index")
    changed = select_samples(tmp_path / "index", tmp_path / "some", **how)
    assert changed.samples.tolist() == [2, 1]


@pytest.mark.thorough
def test_subset_of_several_workers_is_that_of_one(shards, tmp_path):
    index_shards(shards, tmp_path / "index")
    (tmp_path / "keys.txt").write_text("\n".join(["train03", "train07", "train12", "unknown"]))
    lines, others = [], []
    one = select_samples(tmp_path / "index", tmp_path / "one", keys=tmp_path / "keys.txt", echo=lines.append)
    four = select_samples(
        tmp_path / "index", tmp_path / "four", keys=tmp_path / "keys.txt", workers=4, echo=others.append
    )
    assert four.table.equals(one.table)
    assert lines[:-1] == others[:-1]
    for i in range(2):
        assert np.array_equal(one.read(i).offsets, four.read(i).offsets)
    with raises_user_error(field="--where", value="width", hint="index without the shard"):
        select_samples(tmp_path / "index", tmp_path / "none", where="width > 3", workers=2)


def test_digests_of_subsets_tell_which_samples_were_chosen(shards, tmp_path):
    base = index_shards(shards, tmp_path / "index")
    low, high, every = (
        select_samples(tmp_path / "index", tmp_path / name, where=where)
        for name, where in (("low", "similarity < 0.45"), ("high", "similarity > 0.55"), ("all", "similarity >= 0"))
    )
    assert low.samples.tolist() != base.samples.tolist()
    assert every.digest == base.digest
    assert len({base.digest, low.digest, high.digest}) == 3
    one, other = (
        select_samples(tmp_path / "index", tmp_path / f"half{i}", where=f"similarity {comparison} 0.495")
        for i, comparison in enumerate("<>")
    )
    assert one.samples.tolist() == other.samples.tolist() == [5, 5]
    assert one.digest != other.digest


def test_manifest_without_samples_is_refused(tmp_path):
    table = pd.DataFrame({c: ["x"] for c in ("shard", "index", "version", "checksum")} | {"samples": 0, "bytes": 1})
    with raises_user_error(field=tmp_path / "manifest.parquet", reason="no shards"):
        Manifest(tmp_path, table)


def test_a_size_that_a_header_does_not_tell_is_no_change(write_shard, tmp_path):
    path = write_shard(tmp_path / "0.tar", {f"{key}.{e}": b"x" * 600 for key in "ab" for e in ("jpg", "txt")})
    data = bytearray(path.read_bytes())
    data[124:136] = b"\x80" + (600).to_bytes(11, "big")  # as GNU tar writes large sizes
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    path.write_bytes(data)
    source = IndexedShards(index_shards([str(path)], tmp_path / "index"), 1, 1)
    assert [bytes(record.image) for record in source.get_many([0, 1])] == [b"x" * 600] * 2


def test_memory_of_parts_is_reused_and_at_most_a_quarter_larger(tmp_path):
    (tmp_path / "file").write_bytes(bytes(range(250)) * 4000)
    memory, generator = ReusedMemory(), np.random.default_rng(0)
    held = []
    for size in (int(n) for n in generator.lognormal(8, 1.5, 200)):
        size = min(size, 900_000)
        held = [*held, memory.read(Range(str(tmp_path / "file"), 0, size))][-3:]
        assert bytes(held[-1]) == (bytes(range(250)) * 4000)[:size]
        assert all(ReusedMemory.bytes_of(part) <= 1.25 * len(part) + 1 for part in held)
        assert len(memory.free) <= 4
    first = memory.read(Range(str(tmp_path / "file"), 0, 5000))
    address = np.frombuffer(first, np.uint8).ctypes.data
    del first
    again = memory.read(Range(str(tmp_path / "file"), 0, 5000))
    assert np.frombuffer(again, np.uint8).ctypes.data == address


def test_records_far_apart_keep_no_block_in_memory(write_shard, tmp_path):
    shards = [
        write_shard(
            tmp_path / f"{n}.tar", {f"{n}{i}.{e}": b"%d" % n * 40_000 for i in range(4) for e in ("jpg", "txt")}
        )
        for n in range(12)
    ]
    source = IndexedShards(index_shards(list(map(str, shards)), tmp_path / "index"), 1, 1)
    source.block_bytes, source.max_bytes = 330_000, 660_000  # two blocks, and every shard is one
    rows = [4 * n for n in range(12)] + [1]
    records = source.get_many(rows)
    assert [bytes(record.image) for record in records] == [b"%d" % (row // 4) * 40_000 for row in rows]
    assert all(isinstance(record.image, bytes) for record in records)
    assert source.held_bytes <= 4 * 660_000
    near = source.get_many([0, 1])
    assert all(isinstance(record.image, memoryview) for record in near), "a view, where blocks fit"
