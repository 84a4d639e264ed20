"""Tokenizers in the files that transformers' AutoTokenizer and open_clip's HFTokenizer read."""

from __future__ import annotations

import json
from typing import Any

from clip_jax.data.tokenizers.clip_bpe import END, ClipTokenizer
from clip_jax.data.tokenizers.huggingface import HFTokenizer
from clip_jax.data.tokenizers.learned_bpe import Tokenizer
from clip_jax.types import JsonObject


def tokenizer_files(tokenizer: Tokenizer, causal: bool) -> dict[str, JsonObject]:
    """Return the content of ``tokenizer.json`` and ``tokenizer_config.json`` by file name.

    The files are read by ``AutoTokenizer.from_pretrained(FOLDER)``. They give the tokenizer's ids where a text needs no
    repair: the format has no rule for wrong encodings and escaped HTML.

    CLIP's released code pads with id 0, which is also the token "!". No file can say so: a padding token is found in
    texts, too. Padded by the end token, as transformers' files of the released models are, a causal text tower gives
    the same embeddings; for another tower there are no files.

    Args:
      tokenizer: the tokenizer.
      causal: whether the text tower's attention is causal.
    """
    if isinstance(tokenizer, ClipTokenizer) and tokenizer.pad_id == 0:
        if not causal:
            return {}
        tokenizer = ClipTokenizer(tokenizer.context_length, END)
    library = tokenizer.to_library()
    pad_id, side = getattr(tokenizer, "pad_id", 0), getattr(tokenizer, "pad_side", "right")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": tokenizer.context_length,
        "pad_token": library.id_to_token(pad_id), "padding_side": side, "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    if not isinstance(tokenizer, HFTokenizer):
        start, *_, end = library.encode("").tokens
        config |= {"bos_token": start, "eos_token": end}
    elif tokenizer.zeroed_id >= 0:
        config["sep_token"] = library.id_to_token(tokenizer.zeroed_id)
    return {"tokenizer.json": json.loads(library.to_str()), "tokenizer_config.json": config}


def open_clip_settings(tokenizer: Tokenizer) -> JsonObject:
    """Return the fields of open_clip's ``text_cfg`` that make it read `tokenizer_files` from the folder of its config.

    CLIP's published vocabulary needs none: it is open_clip's default. open_clip repairs texts for every tokenizer.
    """
    if isinstance(tokenizer, ClipTokenizer) and tokenizer.pad_id == 0:
        return {}
    kwargs: dict[str, Any] = {"clean": "whitespace"}
    if isinstance(tokenizer, HFTokenizer):
        kwargs |= {"clean": tokenizer.clean} if tokenizer.clean in ("lower", "canonicalize") else {}
        kwargs |= {"strip_sep_token": True} if tokenizer.zeroed_id >= 0 else {}
    return {"hf_tokenizer_name": "in this folder", "tokenizer_kwargs": kwargs}
