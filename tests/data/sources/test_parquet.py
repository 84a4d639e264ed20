"""Parquet files with images: row groups in the block order, from here and from a store, and what is refused."""

import dataclasses
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clip_jax.config import DataConfig
from clip_jax.data.open import open_source
from clip_jax.data.pipeline.loader import BatchOfStep, learn_tokenizer, train_batches
from clip_jax.data.sources.base import BrokenRecord
from clip_jax.data.sources.parquet import ParquetPairs

from ...user_errors import raises_user_error


@pytest.fixture
def table(jpeg):
    """Return a function (file number, rows) -> a table with images, two caption columns and one that is not read."""

    def make(number, rows=10):
        return pa.table(
            {
                "image": [jpeg((9 * i, 60 * number, 90)) for i in range(rows)],
                "other": [np.random.default_rng(i).bytes(3000) for i in range(rows)],
                "caption": [f"picture {i} of {number}" for i in range(rows)],
                "synthetic": [[f"first {i}", f"second {i}"] for i in range(rows)],
            }
        )

    return make


@pytest.fixture
def folder(table, tmp_path):
    """Return a folder with a split of three files of 4, 4 and 2 rows per row group, and a held-out split."""
    for split, files in (("train", 3), ("val", 1)):
        (tmp_path / "set" / split).mkdir(parents=True)
        for number in range(files):
            pq.write_table(table(number), tmp_path / "set" / split / f"{number}.parquet", row_group_size=4)
    return tmp_path / "set"


def pairs(path, keys=("caption",), weights=(), window=(2, 1)):
    return ParquetPairs(path, "train", "image", keys, weights, *window)


def test_row_groups_are_shards_of_the_files_rows(folder, table):
    source = pairs(folder)
    assert source.layout.counts.tolist() == [4, 4, 2] * 3
    rows = np.random.default_rng(0).permutation(30).tolist()
    records = source.get_many(rows)
    assert [r.captions for r in records] == [(f"picture {i % 10} of {i // 10}",) for i in rows]
    assert [r.image for r in records] == [table(i // 10)["image"][i % 10].as_py() for i in rows]
    assert source.get_many_captions(rows) == [r.captions for r in records]
    assert source.name(17) == f"{folder}/train/1.parquet: row 3 of row group 1"
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301  (as worker processes get it)
    assert copy.get_many(rows) == records
    assert copy.digest == source.digest
    assert source.first(13).layout.counts.tolist() == [4, 4, 2, 3]


def test_captions_of_columns_have_their_weights(folder):
    record = pairs(folder, ("synthetic", "caption"), (1.0, 3.0)).get_many([12])[0]
    assert (record.captions, record.weights) == (("first 2", "second 2", "picture 2 of 1"), (0.125, 0.125, 0.75))


def test_images_of_structs_and_rows_without_one(table, tmp_path):
    images = [{"bytes": image.as_py(), "path": "x"} for image in table(0)["image"]]
    images[3] = {"bytes": None, "path": "x"}
    captions = ["" if i == 5 else f"text {i}" for i in range(10)]
    pq.write_table(pa.table({"image": images, "caption": captions}), tmp_path / "a.parquet")
    records = pairs(tmp_path / "a.parquet").get_many(list(range(10)))
    assert [i for i, r in enumerate(records) if isinstance(r, BrokenRecord)] == [3, 5]
    assert records[4].image == images[4]["bytes"]
    assert records[3].reason == "has no image in image"
    assert records[5].reason == "has no caption in caption"


def test_a_store_is_asked_for_the_columns_alone_and_once(folder, store):
    for file in sorted((folder / "train").iterdir()):
        store.pipe(f"/box/train/{file.name}", file.read_bytes())
    source, local = pairs("slow://box"), pairs(folder)
    assert source.digest == local.digest
    store.asked.clear()
    assert source.get_many(list(range(30))) == local.get_many(list(range(30)))
    sizes = {f"/box/train/{file.name}": file.stat().st_size for file in (folder / "train").iterdir()}
    asked = [(path, begin, end) for path, begin, end in store.asked if end < sizes[path]]  # besides the footers
    assert len(set(asked)) == len(asked) == 18, "two ranges for each of nine row groups, as a column lies between"
    assert source.bytes_read < 0.6 * sum(sizes.values())


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_batches_of_row_groups_are_the_same_on_any_number_of_processes_and_workers(tiny_run, folder, processes):
    data = DataConfig(
        source="parquet", paths=(str(folder),), order="blocks", streams=4, window_shards=2, window_mb=1, num_threads=1,
    )  # fmt: skip
    run = dataclasses.replace(tiny_run, data=data)
    source = open_source(data, "train", 32)
    tokenizer = learn_tokenizer(run, source)
    whole = [BatchOfStep(run, source, tokenizer)(step) for step in range(4)]
    for step in range(4):
        parts = [BatchOfStep(run, source, tokenizer, p, processes)(step) for p in range(processes)]
        assert np.array_equal(whole[step]["images"], np.concatenate([p["images"] for p in parts]))
    if processes == 2:
        workers = dataclasses.replace(run, data=dataclasses.replace(data, num_workers=2))
        batches = train_batches(workers, open_source(data, "train", 32), tokenizer, 2)
        assert all(np.array_equal(whole[step]["images"], next(batches)["images"]) for step in (2, 3))
        batches.close()


def test_next_row_group_is_read_in_place_of_those_of_a_missing_file(folder):
    source = pairs(folder)
    expected = source.get_many([20, 21, 22, 23])
    (folder / "train" / "1.parquet").unlink()
    missing = source.missing_shards()
    assert list(missing) == [f"{folder}/train/1.parquet"]
    source.replace_shards(missing)
    assert source.get_many([10, 11, 12, 13]) == expected
    assert source.get_many([14, 15, 16, 17]) == source.get_many([24, 25, 26, 27]), "the next but one"


def test_missing_files_cannot_be_allowed():
    with raises_user_error(field="data.max_missing_shards", value=1):
        DataConfig(source="parquet", paths=("set",), order="blocks", max_missing_shards=1)


def test_what_cannot_be_read_so_is_refused_by_name(folder, table, tmp_path):
    with raises_user_error(field="data.window_mb", value=1, reason="row groups", hint="data.window_mb="):
        pairs(folder, window=(500, 1))
    with raises_user_error(field="data.caption_keys", value="text"):
        pairs(folder, ("text",))
    with raises_user_error(field="data.image_key", value="synthetic", reason="encoded images"):
        ParquetPairs(folder, "train", "synthetic", ("caption",), (), 2, 1)
    with raises_user_error(field="data.caption_keys", value="other", reason="texts"):
        pairs(folder, ("other",))
    with raises_user_error(field="data.paths", reason="no .parquet shards"):
        ParquetPairs(folder, "test", "image", ("caption",), (), 2, 1)
    whole = (folder / "train" / "0.parquet").read_bytes()
    for name, content in (("cut", whole[:-20]), ("short", b"PAR1"), ("empty", b""), ("text", b"a" * 100_000)):
        (tmp_path / f"{name}.parquet").write_bytes(content)
        with raises_user_error(field=tmp_path / f"{name}.parquet", reason="not a readable Parquet file"):
            pairs(tmp_path / f"{name}.parquet")
    pq.write_table(table(0).slice(0, 0), tmp_path / "none.parquet")
    with raises_user_error(field="data.paths", reason="no rows"):
        pairs(tmp_path / "none.parquet")
    source = pairs(folder)
    (folder / "train" / "0.parquet").write_bytes(whole + b"\0")
    with raises_user_error(field=folder / "train" / "0.parquet", reason="bytes"):
        source.get_many([0])
    (folder / "train" / "0.parquet").write_bytes(whole[:500] + b"\0" * 200 + whole[700:])
    with raises_user_error(field=f"{folder}/train/0.parquet: row group 0", reason="not readable"):
        pairs(folder).get_many([0])
    with raises_user_error(field="data.order", value="global", reason="row groups"):
        DataConfig(source="parquet", paths=("x",))
    with raises_user_error(field="data.caption_key", reason="ignored"):
        DataConfig(source="parquet", paths=("x",), order="blocks", caption_key="a", caption_keys=("b",))
