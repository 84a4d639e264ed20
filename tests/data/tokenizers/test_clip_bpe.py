"""The published vocabulary against 200 strings of the reference tokenizer."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from clip_jax.data.tokenizers.clip_bpe import END, START, ClipTokenizer
from clip_jax.data.tokenizers.learned_bpe import load_tokenizer
from clip_jax.errors import ConfigError
from clip_jax.pretrained.tokenizer_export import tokenizer_files

from ...user_errors import raises_user_error

PARITY = Path(__file__).parents[2] / "parity"
GOLD = json.loads((PARITY / "tokenizer.json").read_text())


def test_all_golden_strings_are_exact():
    tokenizer = ClipTokenizer(GOLD["context_length"])
    rows = tokenizer.encode([c["text"] for c in GOLD["cases"]])
    assert rows.dtype == np.int32
    assert len(GOLD["cases"]) == 200
    for case, row in zip(GOLD["cases"], rows, strict=True):
        ids = case["ids"]
        assert row[: len(ids)].tolist() == ids, case["text"]
        assert not row[len(ids) :].any()


@pytest.mark.parametrize(
    ("every", "name"),
    [
        pytest.param(1, "sha256", marks=pytest.mark.slow),
        pytest.param(16, "sha256_of_every_16th", marks=pytest.mark.thorough),
    ],
)
def test_a_million_code_points_give_the_reference_ids(every, name):
    wanted = json.loads((PARITY / "tokenizer_code_points.json").read_text())
    left_out = {n for first, last in wanted["left_out"] for n in range(first, last + 1)} | {*range(0xD800, 0xE000)}
    points = [chr(n) for n in range(0x110000) if n not in left_out]
    assert len(points) == wanted["count"] > 1_000_000
    points, digest, tokenizer = points[::every], hashlib.sha256(), ClipTokenizer(77)
    for first in range(0, len(points), 10_000):
        rows = tokenizer.encode([wanted["text"].format(c=c) for c in points[first : first + 10_000]])
        for row in rows:
            digest.update(row[1 : row.argmax()].astype("<i4").tobytes())
    assert digest.hexdigest() == wanted[name]


def test_special_tokens_in_a_text_are_special():
    row = ClipTokenizer(8).encode(["a <|endoftext|>b"])[0].tolist()
    assert row == [START, 320, END, 321, END, 0, 0, 0]


def test_repairing_text_matters():
    assert sum(c["ftfy_matters"] for c in GOLD["cases"]) > 5


def test_a_long_text_keeps_its_end():
    row = ClipTokenizer(8).encode(["a photo of a very very very long caption"])[0]
    assert (row[0], row[-1]) == (START, END)


def test_decode_gives_the_words_back():
    tokenizer = ClipTokenizer()
    assert tokenizer.decode(tokenizer.encode(["A photo of a dog!"])[0]) == "a photo of a dog !"


def test_it_is_saved_and_loaded(tmp_path):
    ClipTokenizer(16).save(tmp_path / "tokenizer.json")
    again = load_tokenizer(tmp_path / "tokenizer.json")
    assert isinstance(again, ClipTokenizer)
    assert again.context_length == 16


def test_what_cannot_be_is_told(tmp_path):
    with raises_user_error(ConfigError, field="context_length", value=2):
        ClipTokenizer(2)
    (tmp_path / "x.json").write_text('{"format": "something else"}')
    with raises_user_error(field=tmp_path / "x.json", reason="format"):
        load_tokenizer(tmp_path / "x.json")


def test_tokenizer_files_padding_by_id_0_only_for_a_causal_tower():
    assert tokenizer_files(ClipTokenizer(), causal=False) == {}
    files = tokenizer_files(ClipTokenizer(), causal=True)
    assert files["tokenizer_config.json"]["pad_token"] == "<|endoftext|>"
