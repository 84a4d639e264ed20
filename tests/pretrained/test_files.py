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

from ..user_errors import raises_user_error


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "model.safetensors"
    write_tensors(path, {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "s": np.float32(2.5)})
    return path


def refused(path, reason, **attributes):
    with raises_user_error(**{"field": path, "reason": reason} | attributes):
        read_tensors(path)


def test_write_tensors_round_trips(whole):
    back = read_tensors(whole)
    assert back["a"].tolist() == np.arange(12).reshape(3, 4).tolist()
    assert back["s"].shape == ()
    assert [p.name for p in whole.parent.iterdir()] == [whole.name]


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle was run')",))


@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin", "renamed.safetensors"])
def test_read_tensors_of_a_pickle_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    refused(tmp_path / name, "pickle", hint=f"torch.load('{name}")


def test_read_tensors_of_a_torch_archive_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(Bomb()))
    refused(path, "pickle")


def test_read_tensors_of_a_truncated_file_is_refused(tmp_path, whole):
    data = whole.read_bytes()
    for cut in (0, 4, 20, len(data) - 1):
        (tmp_path / "cut.safetensors").write_bytes(data[:cut])
        refused(tmp_path / "cut.safetensors", "safetensors")
    (tmp_path / "huge.safetensors").write_bytes(struct.pack("<Q", 2**62) + data[8:])
    refused(tmp_path / "huge.safetensors", "too large")
    refused(tmp_path / "none.safetensors", "no such")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.integers(0, 400), byte=st.integers(0, 255))
def test_read_tensors_of_a_fuzzed_file_is_read_or_one_line(whole, where, byte):
    data = bytearray(whole.read_bytes())
    data[where % len(data)] = byte
    path = whole.with_name("fuzzed.safetensors")
    path.write_bytes(bytes(data))
    with contextlib.suppress(UserError):  # anything else is a crash
        read_tensors(path)


def test_read_tensors_of_an_index_reads_all_shards(tmp_path):
    write_tensors(tmp_path / "one.safetensors", {"a": np.ones(2, np.float32)})
    write_tensors(tmp_path / "two.safetensors", {"b": np.zeros(3, np.float32)})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    assert set(read_tensors(index)) == {"a", "b"}
    index.write_text(json.dumps({"weight_map": {"a": "../one.safetensors"}}))
    refused(index, "folder", field=f"{index}: shard", value="../one.safetensors")
    index.write_text("{}")
    refused(index, "weight_map")


def test_read_json_of_no_object_is_refused(tmp_path):
    for text, part in (("[1]", "object"), ("{", "not JSON")):
        (tmp_path / "x.json").write_text(text)
        with raises_user_error(field=tmp_path / "x.json", reason=part):
            read_json(tmp_path / "x.json")
    with raises_user_error(field=tmp_path / "y.json", reason="no such file"):
        read_json(tmp_path / "y.json")


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_write_tensors_respects_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_tensors(tmp_path / "a.safetensors", {"a": np.zeros(2)})
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o666 & ~mask
