"""What lies beside the weights says how texts become tokens."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tokenizers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from clip_jax.data.tokenizers import huggingface as hf_tokenizer
from clip_jax.data.tokenizers.clip_bpe import END, VOCAB_SIZE
from clip_jax.data.tokenizers.learned_bpe import load_tokenizer, with_context
from clip_jax.pretrained import layouts
from clip_jax.pretrained.load import load_weights, save_weights

from ..user_errors import raises_user_error


def write_tokenizer(folder, words, end=None, bert=False, lower=False):
    vocab = {word: i for i, word in enumerate(words)}
    library = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    if bert:
        library.normalizer = normalizers.BertNormalizer(lowercase=True)
    if lower:
        library.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    if end:
        library.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, vocab[end])])
    library.save(str(folder / "tokenizer.json"))


@pytest.fixture
def siglip2(golden, tmp_path):
    """Return a function (tokenizer_config, changes of text_cfg) -> an open_clip folder with SigLIP 2's tokens."""

    def make(tokenizer_config, end="<eos>", **text_cfg):
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(golden / "openclip_siglip", folder)
        write_tokenizer(folder, ("<pad>", "<eos>", "<bos>", "<unk>", "dog", "Dog", "!", "[SEP]"), end)
        if tokenizer_config is not None:
            (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
        config = json.loads((folder / "config.json").read_text())
        config["model_cfg"]["text_cfg"] |= text_cfg
        (folder / "config.json").write_text(json.dumps(config))
        return str(folder)

    return make


GEMMA = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"}


def rows_of(path, text="dog"):
    row = load_weights(path).tokenizer.encode([text])[0].tolist()
    while len(row) > 1 and row[-1] == row[-2]:
        row.pop()
    return row


@pytest.mark.parametrize(
    ("change", "end", "rows"),
    [({}, "<eos>", [4, 1, 0]), ({"add_eos_token": True, "add_bos_token": False}, "<eos>", [4, 1, 0]),
     ({"add_eos_token": True, "add_bos_token": True}, None, [2, 4, 1, 0]), ({"add_eos_token": False}, None, [4, 0]),
     ({"pad_token": {"content": "<eos>", "special": True}}, "<eos>", [4, 1])],
)  # fmt: skip
def test_pad_and_ends_are_those_of_the_files(siglip2, change, end, rows):
    assert rows_of(siglip2(GEMMA | change, end)) == rows


def test_padding_on_the_left(siglip2, tmp_path):
    tokenizer = load_weights(siglip2(GEMMA | {"padding_side": "left"})).tokenizer
    assert tokenizer.encode(["dog"])[0].tolist() == [0] * 14 + [4, 1]
    tokenizer.save(tmp_path / "saved.json")
    assert load_tokenizer(tmp_path / "saved.json").encode(["dog"]).tolist() == tokenizer.encode(["dog"]).tolist()
    assert with_context(tokenizer, 4).encode(["dog"]).tolist() == [[0, 0, 4, 1]]


@pytest.mark.parametrize(
    ("kwargs", "rows"),
    [({"clean": "canonicalize"}, [4, 1, 0]), ({"clean": "lower"}, [4, 6, 1, 0]),
     ({"clean": "whitespace"}, [5, 6, 1, 0]), ({}, [5, 6, 1, 0])],
)  # fmt: skip
def test_cleaning_is_that_of_the_config(siglip2, kwargs, rows):
    assert rows_of(siglip2(GEMMA, hf_tokenizer_name="x", tokenizer_kwargs=kwargs), " Dog !") == rows


def test_a_separator_is_stripped_where_the_config_says_so(siglip2):
    bert = GEMMA | {"sep_token": "[SEP]"}
    assert rows_of(siglip2(bert, "[SEP]", hf_tokenizer_name="x")) == [4, 7, 0]
    assert rows_of(siglip2(bert, "[SEP]", hf_tokenizer_name="x", tokenizer_kwargs={"strip_sep_token": True})) == [4, 0]


@pytest.mark.parametrize(("lower", "rows"), [(True, [4, 0]), (False, [5, 0])])
def test_the_case_of_bert_is_that_of_its_config(siglip2, tmp_path, lower, rows):
    path = siglip2(GEMMA | {"tokenizer_class": "BertTokenizerFast", "do_lower_case": lower}, hf_tokenizer_name="x")
    write_tokenizer(tmp_path / "model", ("<pad>", "<eos>", "<bos>", "<unk>", "dog", "Dog"), bert=True)
    assert rows_of(path, "Dog") == rows


# what tokenizer_config.json of the published models says, but for their words
PUBLISHED_SIGLIP2 = GEMMA | {
    "tokenizer_class": "GemmaTokenizer", "do_lower_case": True, "add_bos_token": False, "add_eos_token": True,
    "padding_side": "right", "model_input_names": ["input_ids"], "unk_token": "<unk>", "sp_model_kwargs": {},
    "clean_up_tokenization_spaces": False, "spaces_between_special_tokens": False, "extra_special_tokens": {},
    "model_max_length": 10**30, "processor_class": "SiglipProcessor", "use_default_system_prompt": False,
}  # fmt: skip
PUBLISHED_CLIP = {
    "tokenizer_class": "CLIPTokenizer", "do_lower_case": True, "pad_token": "<pad>", "eos_token": "<eos>",
    "bos_token": "<bos>", "unk_token": "<unk>", "errors": "replace", "add_prefix_space": False, "model_max_length": 77,
}  # fmt: skip


def test_the_settings_of_published_models_are_obeyed(siglip2, golden, tmp_path):
    assert rows_of(siglip2(PUBLISHED_SIGLIP2, hf_tokenizer_name="x"), "DOG") == [4, 1, 0]
    assert rows_of(siglip2(PUBLISHED_SIGLIP2 | {"do_lower_case": False}, hf_tokenizer_name="x"), "Dog") == [5, 1, 0]
    for kwargs, row in (({"clean": "canonicalize"}, [4, 1, 0]), ({}, [4, 6, 1, 0]), ({"clean": "none"}, [4, 6, 1, 0])):
        assert rows_of(siglip2(PUBLISHED_SIGLIP2, hf_tokenizer_name="x", tokenizer_kwargs=kwargs), "Dog!") == row
    for source, config in (("hf_siglip", PUBLISHED_SIGLIP2), ("hf_clip", PUBLISHED_CLIP)):
        folder = tmp_path / source
        shutil.copytree(golden / source, folder)
        for lower in (False, True):  # by a rule of the published CLIP's file; of SigLIP 2's there is none
            write_tokenizer(folder, ("<pad>", "<eos>", "<bos>", "<unk>", "dog", "Dog"), "<eos>", lower=lower)
            (folder / "tokenizer_config.json").write_text(json.dumps(config))
            assert rows_of(str(folder), "DOG") == [4, 1, 0]
        (folder / "tokenizer_config.json").write_text(json.dumps(config | {"do_lower_case": False}))
        with raises_user_error(field="do_lower_case"):
            load_weights(str(folder))


@pytest.mark.parametrize(
    ("tokenizer_config", "text_cfg", "field"),
    [(GEMMA | {"pad_token": "<none>"}, {}, "pad_token"), (None, {}, "pad_token"),
     (GEMMA | {"truncation_side": "left"}, {}, "truncation_side"),
     (GEMMA | {"split_special_tokens": True}, {}, "split_special_tokens"),
     (GEMMA | {"do_lower_case": "yes"}, {}, "do_lower_case"),
     (GEMMA | {"add_eos_token": False}, {}, "add_eos_token"), (GEMMA | {"add_bos_token": True}, {}, "add_bos_token"),
     (GEMMA | {"padding_side": "middle"}, {}, "pad_side"),
     (GEMMA, {"tokenizer_kwargs": {"language": "de"}}, "text_cfg.tokenizer_kwargs.language"),
     (GEMMA, {"tokenizer_kwargs": ["clean"]}, "text_cfg.tokenizer_kwargs"),
     (GEMMA, {"tokenizer_kwargs": {"clean": "all"}}, "text_cfg.tokenizer_kwargs.clean"),
     (GEMMA | {"sep_token": "<sep>"}, {"tokenizer_kwargs": {"strip_sep_token": True}}, "sep_token"),
     (GEMMA | {"tokenizer_class": "SiglipTokenizer"}, {"tokenizer_kwargs": {"clean": "lower"}}, "tokenizer_class")],
)  # fmt: skip
def test_what_is_not_obeyed_is_refused_by_field(siglip2, tokenizer_config, text_cfg, field):
    with raises_user_error(field=field):
        load_weights(siglip2(tokenizer_config, **text_cfg))


def test_siglip_of_the_first_release_pads_with_its_end(golden, tmp_path):
    shutil.copytree(golden / "hf_siglip", tmp_path / "m")
    write_tokenizer(tmp_path / "m", ("<pad>", "</s>", "<unk>", "dog", "Dog"), "</s>")
    for config in (None, {"tokenizer_class": "SiglipTokenizer", "pad_token": "</s>", "do_lower_case": True}):
        if config:
            (tmp_path / "m" / "tokenizer_config.json").write_text(json.dumps(config))
        assert rows_of(str(tmp_path / "m"), "Dog!") == [3, 1]
    (tmp_path / "m" / "tokenizer_config.json").write_text(json.dumps(config | {"do_lower_case": False}))
    with raises_user_error(field="do_lower_case"):
        load_weights(str(tmp_path / "m"))


def test_more_tokens_than_the_tower_has_are_refused(siglip2, tmp_path):
    path = siglip2(GEMMA)
    write_tokenizer(tmp_path / "model", ("<pad>", "<eos>", "<bos>", "<unk>", *map(str, range(300))), "<eos>")
    with raises_user_error(field="vocab_size", value=304):
        load_weights(path)


@pytest.mark.parametrize(("layout", "pad"), [("open_clip", 0), ("transformers", END)])
def test_the_published_vocabulary_pads_as_its_library_does(golden, tmp_path, layout, pad):
    weights = load_weights(str(golden / "hf_clip"))
    text = dataclasses.replace(weights.config.text, vocab_size=VOCAB_SIZE)
    config = dataclasses.replace(weights.config, text=text)
    shape = layouts.abstract_params(config)["text"]["token"].shape
    params = weights.params | {"text": weights.params["text"] | {"token": np.zeros(shape, np.float32)}}
    save_weights(dataclasses.replace(weights, config=config, params=params), tmp_path, layout)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<|endoftext|>"}))
    assert load_weights(str(tmp_path)).tokenizer.encode(["a"])[0, -1] == pad


def test_the_published_vocabulary_pads_as_its_files_say(tmp_path):
    from clip_jax.data.tokenizers.clip_bpe import ClipTokenizer

    plain, end = ClipTokenizer(8), ClipTokenizer(8, END)
    assert plain.encode(["a"])[0, -1] == 0
    assert end.encode(["a"])[0].tolist() == [*plain.encode(["a"])[0, :3].tolist(), *[END] * 5]
    end.save(tmp_path / "t.json")
    np.testing.assert_array_equal(load_tokenizer(tmp_path / "t.json").encode(["a"]), end.encode(["a"]))


@pytest.mark.parametrize(
    ("change", "field"),
    [({"context_length": -1}, "context_length"), ({"context_length": [[]]}, "context_length"),
     ({"context_length": 10**9}, "context_length"), ({"vocab_size": 1}, "vocab_size"),
     ({"vocab_size": 1.5}, "vocab_size"), ({"vocab_size": 258}, "vocab_size"), ({"model": [[]]}, None)],
)  # fmt: skip
def test_a_runs_own_tokenizer_is_checked(tmp_path, change, field):
    from clip_jax.data.tokenizers.learned_bpe import train_tokenizer

    path = tmp_path / "tokenizer.json"
    train_tokenizer(["a dog"] * 3, 300, 12).save(path)
    load_tokenizer(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with raises_user_error(field=field or str(path)):
        load_tokenizer(path)


def test_rules_without_end_are_refused_or_one_line(siglip2, tmp_path):
    file = tmp_path / "model" / "tokenizer.json"
    path = siglip2(GEMMA, hf_tokenizer_name="x")
    sound = json.loads(file.read_text())
    longer = {"type": "Replace", "pattern": {"Regex": "o"}, "content": "o" * 10}
    file.write_text(json.dumps(sound | {"normalizer": {"type": "Sequence", "normalizers": [longer] * 9}}))
    with raises_user_error(field="normalizer"):
        load_weights(path)
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    file.write_text(json.dumps(sound | {"pre_tokenizer": split}))
    with raises_user_error(field="Regex", value="(a+)+$"):
        load_weights(path)


def test_whatever_the_library_raises_is_one_line(tmp_path, monkeypatch):
    class PanicException(BaseException):  # as that of a library in Rust
        pass

    class Library:
        def __init__(self, real):
            self.real = real

        def __getattr__(self, name):
            return getattr(self.real, name)

        def encode_batch(self, texts):
            raise PanicException("first\nsecond")

    write_tokenizer(tmp_path, ["<unk>"])
    monkeypatch.setattr(
        tokenizers, "Tokenizer", SimpleNamespace(from_str=lambda text: Library(Tokenizer.from_str(text)))
    )
    tokenizer = hf_tokenizer.HFTokenizer.from_file(tmp_path / "tokenizer.json", 4)
    with raises_user_error(field=str(tmp_path / "tokenizer.json")):
        tokenizer.encode(["a"])
