"""A byte-level BPE trained on the run's own captions (Sennrich et al., 2016; Radford et al., 2019)."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from clip_jax.config import TextTowerConfig
from clip_jax.errors import UserError, foreign, parse_json
from clip_jax.storage.paths import read_text, write_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

PAD, PAD_TOKEN = 0, "<|pad|>"
FORMAT = "clip_jax byte-level BPE 1"
MAX_CACHED_WORDS = 100_000  # words
MAX_CAPTION_CHARS = 4096  # of a caption that a vocabulary is learned from: a word costs the square of its length


class Tokenizer(Protocol):
    """The interface of tokenizers: texts to rows of token ids."""

    vocab_size: int
    context_length: int

    def encode(self, texts: list[str]) -> np.ndarray:
        """Tokenize texts: int32 [N, T]: start, text, end, padding. A long text is truncated, its end token kept."""
        ...

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of one row, for people."""
        ...

    def save(self, path: Path) -> None:
        """Write the tokenizer as `load_tokenizer` reads it."""
        ...

    def to_library(self) -> Library:
        """Return the tokenizer as an object of the tokenizers library, with cleaning and special tokens."""
        ...


def clean(text: str) -> str:
    """Convert to lower case and collapse whitespace."""
    return " ".join(text.lower().split())


class BytePairTokenizer:
    """A trained byte-level BPE. Id 0 is padding, then bytes and merges; the last two are start and end of text.

    The end of text has the largest id.
    """

    def __init__(self, model: str, vocab_size: int, context_length: int, source: str = "tokenizer.json") -> None:
        """Load a model. Raises UserError naming ``source`` when it is malformed or exceeds ``vocab_size``."""
        from tokenizers import Tokenizer as Library

        with foreign(source, "a tokenizer"):
            self._library = Library.from_str(model)
        held = max(self._library.get_vocab().values(), default=-1) + 4  # plus padding, start and end
        if held > vocab_size:
            reason = f"must be at least {held}, the tokens of its model"
            raise UserError(source=source, field="vocab_size", value=vocab_size, reason=reason)
        self._model = model
        self.vocab_size, self.context_length = vocab_size, context_length
        self.start, self.end = vocab_size - 2, vocab_size - 1
        self._words: dict[str, list[int]] = {}

    def _word(self, word: str) -> list[int]:
        ids = self._words.get(word)
        if ids is None:
            if len(self._words) >= MAX_CACHED_WORDS:
                self._words.clear()
            ids = self._words[word] = [i + 1 for i in self._library.encode(word).ids]
        return ids

    def encode(self, texts: list[str]) -> np.ndarray:
        """Tokenize texts: int32 [N, T]. Pre-tokens never cross a space, so words are encoded separately and cached."""
        out = np.zeros((len(texts), self.context_length), np.int32)
        room, known = self.context_length - 2, self._words.get
        for row, text in enumerate(texts):
            ids: list[int] = []
            for word in text.lower().split():
                ids += known(word) or self._word(word)
            ids = ids[:room]
            out[row, 0] = self.start
            out[row, 1 : 1 + len(ids)] = ids
            out[row, 1 + len(ids)] = self.end
        return out

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of one row, for people."""
        ids = [int(t) - 1 for t in tokens if PAD < int(t) < self.start]
        return self._library.decode(ids).strip()

    def to_library(self) -> Library:
        """Return the tokenizer as an object of the tokenizers library, with cleaning and special tokens: equal ids."""
        from tokenizers import AddedToken
        from tokenizers import Tokenizer as Library

        from clip_jax.data.tokenizers.clip_bpe import SPECIAL, with_special_tokens

        values = json.loads(self._model)
        vocab = {token: n + 1 for token, n in values["model"]["vocab"].items()}
        special = {PAD_TOKEN: PAD} | dict(zip(SPECIAL, (self.start, self.end), strict=True))
        values["model"]["vocab"] = vocab | special
        library = Library.from_str(json.dumps(values))
        library.add_special_tokens([AddedToken(token, normalized=False) for token in special])
        return with_special_tokens(library, *SPECIAL)

    def save(self, path: Path) -> None:
        """Write vocabulary, merges and sizes as JSON."""
        values = {
            "format": FORMAT,
            "vocab_size": self.vocab_size,
            "context_length": self.context_length,
            "model": json.loads(self._model),
        }
        write_text(path, json.dumps(values))


def train_tokenizer(captions: Iterable[str], vocab_size: int, context_length: int) -> BytePairTokenizer:
    """Train a BPE with at most ``vocab_size`` - 3 bytes and merges. Equal captions give an equal tokenizer."""
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers, trainers

    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 3,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    library.train_from_iterator((clean(c[:MAX_CAPTION_CHARS]) for c in captions), trainer)
    return BytePairTokenizer(library.to_str(), vocab_size, context_length)


def with_context(tokenizer: Tokenizer, length: int) -> Tokenizer:
    """Return the same vocabulary with rows of another length."""
    from clip_jax.data.tokenizers.huggingface import HFTokenizer

    if tokenizer.context_length == length:
        return tokenizer
    if isinstance(tokenizer, HFTokenizer):
        return tokenizer.resized(length)
    other = copy.copy(tokenizer)
    other.context_length = length
    return other


def check_fits(tokenizer: Tokenizer, text: TextTowerConfig, source: str) -> Tokenizer:
    """Check that a tokenizer fits a text tower of this shape and return it; raise UserError otherwise.

    Without the check, ids without an embedding and rows of another length would be used silently.
    """
    if not 0 < tokenizer.vocab_size <= text.vocab_size:
        reason = f"must be 1 to {text.vocab_size}, the vocab_size of the text tower"
        raise UserError(source=source, field="vocab_size", value=tokenizer.vocab_size, reason=reason)
    if tokenizer.context_length != text.context_length:
        reason = f"must be {text.context_length}, the context_length of the text tower"
        raise UserError(source=source, field="context_length", value=tokenizer.context_length, reason=reason)
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """Read what a tokenizer's ``save`` wrote. Raises UserError when the file is missing or not of clip_jax."""
    from clip_jax.data.tokenizers import clip_bpe, huggingface

    try:
        with foreign(path, "a tokenizer of clip_jax"):
            values = parse_json(read_text(path), path)
            kind = values["format"]
            most = {"vocab_size": 1 << 24, "context_length": huggingface.MAX_CONTEXT, "pad_id": 1 << 24}
            for name, high in most.items():
                low = 0 if name == "pad_id" else 3
                value = values.get(name, low)
                if type(value) is not int or not low <= value < high:
                    reason = f"must be a whole number from {low} to {high - 1}"
                    raise UserError(source=path, field=name, value=value, reason=reason)
            if kind == clip_bpe.FORMAT:
                return clip_bpe.ClipTokenizer(values["context_length"], values.get("pad_id", 0))
            if kind == huggingface.FORMAT:
                model = json.dumps(values["tokenizer"])
                settings = {k: values[k] for k in ("pad_id", "clean", "pad_side", "zeroed_id") if k in values}
                return huggingface.HFTokenizer(model, values["context_length"], source=str(path), **settings)
            if kind != FORMAT:
                raise KeyError("format")
            model, sizes = json.dumps(values["model"]), (values["vocab_size"], values["context_length"])
            return BytePairTokenizer(model, *sizes, str(path))
    except FileNotFoundError:
        raise UserError(field=path, reason="no such tokenizer file") from None
