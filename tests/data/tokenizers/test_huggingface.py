"""Tokenizers from a tokenizer.json."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from clip_jax.data.tokenizers.huggingface import HFTokenizer, clean_text
from clip_jax.data.tokenizers.learned_bpe import load_tokenizer

from ...user_errors import raises_user_error


@pytest.fixture
def file(tmp_path):
    vocab = {"<unk>": 0, "</s>": 1, "a": 2, "dog": 3, "cat": 4}
    library = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    library.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_rows_are_cut_and_padded_with_the_end_kept(file):
    tokenizer = HFTokenizer.from_file(file, 4, pad_id=1, clean="canonicalize")
    rows = tokenizer.encode(["A dog!", "a cat a dog a cat", ""])
    assert rows.tolist() == [[2, 3, 1, 1], [2, 4, 2, 1], [1, 1, 1, 1]]
    assert rows.dtype == np.int32
    assert tokenizer.encode([]).shape == (0, 4)


def test_cleaning():
    assert clean_text("A  Dog_run, now!", "canonicalize") == "a dog run now"
    assert clean_text("A  Dog!", "lower") == "a dog!"
    assert clean_text("A_Dog &amp; schÃ¶n", "canonicalize") == "a dog schön"
    assert clean_text("A_Dog &amp; Cat", "no_punctuation") == "adog amp cat"
    assert clean_text("A  Dog!", "none") == "A  Dog!"


def test_saved_and_loaded_it_gives_the_same_rows(file, tmp_path):
    tokenizer = HFTokenizer.from_file(file, 5, pad_id=1, clean="lower")
    tokenizer.save(tmp_path / "saved.json")
    again = load_tokenizer(tmp_path / "saved.json")
    assert again.encode(["A Cat", "dog"]).tolist() == tokenizer.encode(["A Cat", "dog"]).tolist()


def test_tokenizer_of_a_broken_file_names_file_or_setting(file, tmp_path):
    (tmp_path / "bad.json").write_text("{}")
    for path, part in ((tmp_path / "bad.json", "tokenizer"), (tmp_path / "none.json", "FileNotFound")):
        with raises_user_error(field=path, reason=part):
            HFTokenizer.from_file(path, 8)
    with raises_user_error(source=tmp_path / "tokenizer.json", field="pad_id", value=99):
        HFTokenizer.from_file(file, 8, pad_id=99)
    with raises_user_error(source=tmp_path / "tokenizer.json", field="clean", value="all"):
        HFTokenizer.from_file(file, 8, clean="all")
