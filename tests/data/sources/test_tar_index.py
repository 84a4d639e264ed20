"""The index of a shard: what it says, what is read for it, and when it is made anew."""

import io
import tarfile

import numpy as np
import pytest

from clip_jax.data.sources import tar_index
from clip_jax.data.sources.tar_index import BLOCK, MEMBERS, MIN_READ, load_index, scan
from clip_jax.data.sources.webdataset import Shards
from clip_jax.errors import UserError
from clip_jax.storage import range_reads as remote

from ...user_errors import raises_user_error


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CLIP_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "shards"


def tar_bytes(members, form=tarfile.USTAR_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


SAMPLES = {
    "a.png": b"second choice",
    "a.jpg": b"picture",
    "a.txt": b"text",
    "a.json": b"{}",
    "dir/b.TXT": b"",
    "c.cls": b"7" * 600,
}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_load_index_offsets_hold_for_every_tar_format(tmp_path, form):
    path = tmp_path / "0.tar"
    data = (
        tar_bytes({**SAMPLES, f"{'long/' * 40}d.jpg": b"far"}, form)
        if form != tarfile.USTAR_FORMAT
        else tar_bytes(SAMPLES)
    )
    path.write_bytes(data)
    places = load_index(str(path)).offsets.astype(int).reshape(len(MEMBERS), 2, -1)
    got = {
        (member, i): data[BLOCK * start : BLOCK * start + size]
        for member, (starts, sizes) in zip(MEMBERS, places, strict=True)
        for i, (start, size) in enumerate(zip(starts, sizes, strict=True))
        if start
    }
    want = {("image", 0): b"picture", ("txt", 0): b"text", ("txt", 1): b"", ("cls", 2): b"7" * 600}
    assert got == (want if form == tarfile.USTAR_FORMAT else {**want, ("image", 3): b"far"})


def test_scan_of_large_members_reads_headers_only(store):
    large = {f"{i}.{e}": bytes(n) for i in range(20) for e, n in (("jpg", 100_000), ("txt", 50))}
    data = tar_bytes(large)
    store.pipe("/box/0.tar", data)
    assert scan("slow://box/0.tar", len(data)).offsets.shape[1] == 20
    read = sum(end - start for _, start, end in store.asked)
    assert read <= 22 * MIN_READ + tarfile.RECORDSIZE < len(data) / 10
    assert len(store.asked) <= 22  # one request a sample: its small members come along


def test_scan_of_small_members_reads_many_at_a_time(store):
    data = tar_bytes({f"{i}.txt": b"x" for i in range(400)})
    store.pipe("/box/0.tar", data)
    assert scan("slow://box/0.tar", len(data)).offsets.shape[1] == 400
    assert len(store.asked) <= len(data) / MIN_READ + 2


def test_load_index_second_call_reads_no_header(store, cache):
    store.pipe("/box/0.tar", tar_bytes(SAMPLES))
    first = load_index("slow://box/0.tar")
    assert len(list(cache.iterdir())) == 1
    store.asked.clear()
    again = load_index("slow://box/0.tar")
    assert np.array_equal(again.offsets, first.offsets)
    assert again[1:] == first[1:]
    assert not store.asked


@pytest.mark.parametrize("how", ["cut", "junk", "flipped", "other arrays", "none"])
def test_load_index_damaged_cache_entry_is_rebuilt(tmp_path, cache, how):
    path = tmp_path / "0.tar"
    path.write_bytes(tar_bytes(SAMPLES))
    first = load_index(str(path))
    (entry,) = cache.iterdir()
    good = entry.read_bytes()
    if how == "cut":
        entry.write_bytes(good[:100])
    elif how == "junk":
        entry.write_bytes(b"junk" * 100)
    elif how == "flipped":
        where = good.index(first.offsets.tobytes()) + 3
        entry.write_bytes(good[:where] + bytes([good[where] ^ 1]) + good[where + 1 :])
    elif how == "other arrays":
        with np.load(entry) as arrays:
            header = arrays["told"]
        with entry.open("wb") as file:
            np.savez(file, told=header, places=np.zeros((2, 3)))
    else:
        entry.unlink()
    assert np.array_equal(load_index(str(path)).offsets, first.offsets)
    assert entry.read_bytes() == good


def test_load_index_changed_shard_is_scanned_again(store):
    store.pipe("/box/0.tar", tar_bytes(SAMPLES))
    load_index("slow://box/0.tar")
    changed = dict(reversed(SAMPLES.items()))  # as many bytes
    store.pipe("/box/0.tar", tar_bytes(changed))
    again, scanned = load_index("slow://box/0.tar"), scan("slow://box/0.tar", remote.stat("slow://box/0.tar").size)
    assert np.array_equal(again.offsets, scanned.offsets)
    assert (again.digest, again.passed) == (scanned.digest, scanned.passed)


def test_load_index_without_a_cache_folder_works(tmp_path, monkeypatch):
    path = tmp_path / "0.tar"
    path.write_bytes(tar_bytes(SAMPLES))
    monkeypatch.setenv("CLIP_JAX_CACHE", str(path))  # a file, so no folder can be made in it
    assert load_index(str(path)).offsets.shape == (2 * len(MEMBERS), 3)


@pytest.mark.parametrize("cut", [100, 700, 3 * BLOCK, 6 * BLOCK])
def test_load_index_truncated_tar_is_named(tmp_path, cut, cache):
    path = tmp_path / "0.tar"
    path.write_bytes(tar_bytes({"a.jpg": bytes(600), "b.jpg": bytes(600)})[:cut])
    with raises_user_error(field=path, reason="readable tar"):
        load_index(str(path))
    assert not cache.exists()


def test_load_index_member_beyond_4_gib_is_refused(tmp_path):
    path = tmp_path / "0.tar"
    info = tarfile.TarInfo("a.jpg")
    info.size = 1 << 32
    with path.open("wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate((1 << 32) + 4 * BLOCK)
    with raises_user_error(field=tmp_path / "0.tar", reason="4 GiB"):
        tar_index.scan(str(path), path.stat().st_size)


def test_write_atomically_on_a_full_disk_leaves_no_file(tmp_path):
    def write(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    assert not tar_index.write_atomically(tmp_path / "shards" / "x.npz", write)
    assert list((tmp_path / "shards").iterdir()) == []


A, B = {"0.jpg": b"one", "0.txt": b"a"}, {"1.jpg": b"two", "1.txt": b"b"}


def refused(tmp_path, data):
    """Return the error that a shard of these bytes raises."""
    path = tmp_path / "0.tar"
    path.write_bytes(data)
    with pytest.raises(UserError) as raised:
        load_index(str(path))
    assert str(path) in (raised.value.source, raised.value.field)
    return raised.value


def twice(members):
    """Return a tar that holds each member twice."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for _ in range(2):
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize("how", ["two tars in one", "a header of zeros", "a damaged header", "junk"])
def test_scan_bytes_behind_the_end_are_refused(tmp_path, how):
    whole = bytearray(tar_bytes(A | B))
    if how == "two tars in one":
        data = tar_bytes(A) + tar_bytes(B)
    elif how == "junk":
        data = tar_bytes(A) + b"junk"
    else:
        whole[4 * BLOCK : 5 * BLOCK] = bytes(BLOCK) if how == "a header of zeros" else b"x" * BLOCK
        data = bytes(whole)
    assert "tar" in refused(tmp_path, data).reason


def test_scan_zeros_behind_the_end_are_none(tmp_path):
    (tmp_path / "0.tar").write_bytes(tar_bytes(A) + bytes(3 * BLOCK + tar_index.TAIL_CHUNK))
    assert load_index(str(tmp_path / "0.tar")).offsets.shape[1] == 1


def test_scan_a_folder_as_last_member_is_no_early_end(tmp_path):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, data in (("a.jpg", tarfile.REGTYPE, b"x"), ("empty", tarfile.DIRTYPE, b"")):
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(data)
            tar.addfile(info, io.BytesIO(data))
    (tmp_path / "0.tar").write_bytes(out.getvalue())
    assert load_index(str(tmp_path / "0.tar")).offsets.shape[1] == 1


@pytest.mark.parametrize(
    ("data", "name"),
    [(twice(A), "0.jpg"), (tar_bytes({"0.jpg": b"1", "0.JPG": b"2"}), "0.JPG"), (twice({"a/0.cls": b"1"}), "a/0.cls")],
)
def test_scan_a_member_twice_is_refused_by_name(tmp_path, data, name):
    assert refused(tmp_path, data).field == name


def test_scan_hidden_members_are_passed_over(tmp_path):
    hidden = ("._0.jpg", "__MACOSX/._0.jpg", ".DS_Store", "a/.ipynb_checkpoints/0.jpg", "__MACOSX/9.txt")
    (tmp_path / "0.tar").write_bytes(tar_bytes({**dict.fromkeys(hidden, b"x"), "./0.jpg": b"1", "./0.txt": b"2"}))
    assert load_index(str(tmp_path / "0.tar")).offsets.shape[1] == 1


def keys(path):
    """Return the keys of the samples of a shard."""
    shards = Shards([str(path)])
    return [shards.name(i).rpartition(":")[2] for i in range(len(shards))]


@pytest.mark.parametrize(
    ("names", "samples"),
    [
        (("f_0.15.jpg", "f_0.15.txt", "f_0.25.jpg", "f_0.25.txt"), ["f_0.15", "f_0.25"]),
        (("d/f_0.15.jpg", "d/f_0.15.txt", "d/f_0.jpg", "d/f_0.txt"), ["d/f_0.15", "d/f_0"]),
        (("s0.input.jpg", "s0.outputs.txt"), ["s0.input", "s0.outputs"]),
        (("a.jpg", "a.txt", "a.seg.png", "b.1.jpg", "b.1.txt"), ["a", "b.1"]),
    ],
)
def test_scan_keeps_dots_in_keys(tmp_path, names, samples):
    (tmp_path / "0.tar").write_bytes(tar_bytes(dict.fromkeys(names, b"x")))
    assert keys(tmp_path / "0.tar") == samples


def test_scan_counts_skipped_members(tmp_path):
    names = ("a.jpg", "a.txt", "a.seg.png", "a.depth.png", "b.jpg", "b.png", "b.txt")
    (tmp_path / "0.tar").write_bytes(tar_bytes(dict.fromkeys(names, b"x")))
    for _ in range(2):  # scanned, and from the cache
        index = load_index(str(tmp_path / "0.tar"))
        assert index.passed == {"dotted": (2, "a.depth.png"), "pictures": (1, "b.png")}
    assert [note.partition(" ")[0] for note in Shards([str(tmp_path / "0.tar")] * 2).notes] == ["2", "4"]


def test_scan_digest_knows_names_and_sizes_not_places(tmp_path):
    digests = set()
    for n, members in enumerate((A, A | B, {"1.jpg": b"one", "0.txt": b"a"}, {"0.jpg": b"ones", "0.txt": b"a"})):
        for folder in ("here", "there"):
            path = tmp_path / folder / f"{n}.tar"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(tar_bytes(members))
        assert load_index(str(tmp_path / "here" / f"{n}.tar")).digest == load_index(str(path)).digest
        digests.add(load_index(str(path)).digest)
    assert len(digests) == 4


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("long_name", [False, True])
def test_plain_members_are_those_of_tarfile_or_none(tmp_path, tar_format, long_name):
    path, names = tmp_path / "0.tar", ["a/b.jpg", "c.txt", "é.png", "x" * 60 + "/" + "y" * 80 + ".jpg"]
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name in names if long_name else names[:3]:
            info = tarfile.TarInfo(name)
            info.size = len(name) * 100
            tar.addfile(info, io.BytesIO(b"x" * info.size))
    size = path.stat().st_size
    plain = tar_index.plain_members(tar_index.HeaderReader(str(path), size), size)
    every = tar_index.tarfile_members(tar_index.HeaderReader(str(path), size), str(path), size)
    assert plain is None or plain == every
    if tar_format == tarfile.USTAR_FORMAT or (tar_format == tarfile.GNU_FORMAT and not long_name):
        assert plain == every
