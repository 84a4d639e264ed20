"""The byte-level BPE."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clip_jax.data.tokenizers.learned_bpe import MAX_CAPTION_CHARS, clean, load_tokenizer, train_tokenizer

from ...user_errors import raises_user_error

CAPTIONS = ["a red circle on a table", "two red circles", "the table is red", "naïve café"] * 5
TOKENIZER = train_tokenizer(CAPTIONS, 320, 12)


@given(st.text())
def test_any_text_becomes_one_well_formed_row(text):
    row = TOKENIZER.encode([text])[0]
    assert (row.shape, row.dtype) == ((12,), np.int32)
    assert row[0] == 318
    end = int(row.argmax())
    assert row[end] == 319
    assert (row[1:end] < 318).all()
    assert (row[1:end] > 0).all()
    assert (row[end + 1 :] == 0).all()


@given(st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z"))).filter(lambda t: len(t.encode()) < 60))
def test_short_text_comes_back(text):
    wide = train_tokenizer(CAPTIONS, 320, 80)
    assert wide.decode(wide.encode([text])[0]) == clean(text)


# Python's lower() turns a sigma at the end of a word into its final form, and knows other versions of Unicode
@given(st.text(st.characters(max_codepoint=0x2FFF, exclude_categories=("Cn", "Cs"), exclude_characters="Σ<|")))
@example("e\u0301")  # not composed: the tokenizer does not compose either
def test_to_library_gives_the_same_ids(text):
    row = TOKENIZER.encode([text])[0]
    library = TOKENIZER.to_library()
    library.enable_truncation(12)
    assert library.encode(text).ids == row[: row.argmax() + 1].tolist()


def test_case_and_spaces_do_not_matter():
    a, b = TOKENIZER.encode(["A  Red\n circle", "a red circle"])
    assert np.array_equal(a, b)


def test_merges_were_learned_and_long_text_keeps_its_end():
    assert (TOKENIZER.encode(["red"])[0] > 0).sum() == 3  # start, one word, end
    assert TOKENIZER.encode(["zqxj " * 40])[0][-1] == 319


def test_word_by_word_equals_the_whole_sentence():
    text = "two red circles, on the table!"
    row = TOKENIZER.encode([text])[0]
    whole = TOKENIZER.to_library().encode(text).ids[:-1]
    assert row[: len(whole)].tolist() == whole[:11]


def test_equal_captions_give_an_equal_file_and_it_reads_back(tmp_path):
    TOKENIZER.save(tmp_path / "a.json")
    train_tokenizer(CAPTIONS, 320, 12).save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    again = load_tokenizer(tmp_path / "a.json")
    assert np.array_equal(again.encode(CAPTIONS), TOKENIZER.encode(CAPTIONS))
    assert (again.vocab_size, again.context_length) == (320, 12)


@pytest.mark.parametrize(
    ("text", "part"), [(None, "no such"), ("{", "JSON"), ("{}", "format"), ('{"format": "other"}', "format")]
)
def test_load_tokenizer_of_another_file_names_it(tmp_path, text, part):
    if text is not None:
        (tmp_path / "t.json").write_text(text)
    with raises_user_error(field=tmp_path / "t.json", reason=part):
        load_tokenizer(tmp_path / "t.json")


def test_train_tokenizer_long_caption_is_cut_before_learning():
    long = "".join(map(chr, np.random.default_rng(0).integers(97, 123, 5 * MAX_CAPTION_CHARS)))
    texts = [long[:2000] * 2, long]  # from the uncut one other merges would be learned
    cut = train_tokenizer([t[:MAX_CAPTION_CHARS] for t in texts], 400, 16)
    assert np.array_equal(train_tokenizer(texts, 400, 16).encode([long]), cut.encode([long]))
    whole = train_tokenizer([long[:2000], long[2000:6000]], 400, 16)
    assert not np.array_equal(whole.encode([long]), cut.encode([long]))
