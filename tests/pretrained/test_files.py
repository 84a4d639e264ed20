"""Weight files of every broken kind: one clear line, and never a pickle."""

import contextlib
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clip_jax.errors import UserError
from clip_jax.pretrained.files import read_json, read_tensors, write_tensors


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "model.safetensors"
    write_tensors(path, {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "s": np.float32(2.5)})
    return path


def refused(path, match):
    with pytest.raises(UserError, match=match) as error:
        read_tensors(path)
    assert "\n" not in str(error.value)
    assert path.name in str(error.value)


def test_what_is_written_is_read(whole):
    back = read_tensors(whole)
    assert back["a"].tolist() == np.arange(12).reshape(3, 4).tolist()
    assert back["s"].shape == ()
    assert [p.name for p in whole.parent.iterdir()] == [whole.name]


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle was run')",))


@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin", "renamed.safetensors"])
def test_a_pickle_is_never_run(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    refused(tmp_path / name, r"a pickle.*torch.load\('" + name)


def test_a_torch_archive_under_another_name_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(Bomb()))
    refused(path, "a pickle")


def test_truncated_and_foreign_files(tmp_path, whole):
    data = whole.read_bytes()
    for cut in (0, 4, 20, len(data) - 1):
        (tmp_path / "cut.safetensors").write_bytes(data[:cut])
        refused(tmp_path / "cut.safetensors", "not a whole safetensors file")
    (tmp_path / "huge.safetensors").write_bytes(struct.pack("<Q", 2**62) + data[8:])
    refused(tmp_path / "huge.safetensors", "not a whole safetensors file")
    refused(tmp_path / "none.safetensors", "no such weights file")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.integers(0, 400), byte=st.integers(0, 255))
def test_a_fuzzed_file_reads_or_is_one_line(whole, where, byte):
    data = bytearray(whole.read_bytes())
    data[where % len(data)] = byte
    path = whole.with_name("fuzzed.safetensors")
    path.write_bytes(bytes(data))
    with contextlib.suppress(UserError):  # anything else is a crash
        read_tensors(path)


def test_shards(tmp_path):
    write_tensors(tmp_path / "one.safetensors", {"a": np.ones(2, np.float32)})
    write_tensors(tmp_path / "two.safetensors", {"b": np.zeros(3, np.float32)})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    assert set(read_tensors(index)) == {"a", "b"}
    index.write_text(json.dumps({"weight_map": {"a": "../one.safetensors"}}))
    refused(index, "leads out of its folder")
    index.write_text("{}")
    refused(index, "no weight_map")


def test_json_that_is_none(tmp_path):
    for text, match in (("[1]", "a JSON object"), ("{", "not JSON")):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(UserError, match=match):
            read_json(tmp_path / "x.json")
    with pytest.raises(UserError, match="no such file"):
        read_json(tmp_path / "y.json")


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_weights_have_the_mode_that_the_umask_gives(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_tensors(tmp_path / "a.safetensors", {"a": np.zeros(2)})
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o666 & ~mask
