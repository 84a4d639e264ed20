"""Shards hold what they were given, in order, cut at their size, and what lay there before is gone."""

import tarfile

from clip_jax.datasets.icons import write


def test_write_shards_splits_into_readable_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "SHARD", 2)
    (tmp_path / "old.tar").write_text("old")
    samples = [(f"set/{i}", {"webp": bytes([i]), "txt": b"a\n"}) for i in range(5)]
    sums = write.write_shards(tmp_path, iter(samples))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(sums) == ["000000.tar", "000001.tar", "000002.tar"]
    read = []
    for name in sorted(sums):
        with tarfile.open(tmp_path / name) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert (member.mtime, member.uid, member.uname) == (0, 0, "")
                read.append((member.name, file.read() if file else b""))
    assert read == [(f"{key}.{e}", content) for key, members in samples for e, content in members.items()]


def test_write_shards_keeps_a_long_name(tmp_path):
    key = "streamline-freehand-color/" + "-".join(["word"] * 19)
    write.write_shards(tmp_path, [(key, {"txt": b"a"})])
    with tarfile.open(tmp_path / "000000.tar") as tar:
        assert tar.getnames() == [f"{key}.txt"]
