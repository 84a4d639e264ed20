"""CLIP's published BPE with 49,408 entries, built from OpenAI's merges (``clip_merges.txt``, MIT License).

The tokenizers library splits and merges; text is cleaned here: mojibake (ftfy), HTML entities, lower case, single
spaces.
"""

from __future__ import annotations

import functools
import html
import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clip_jax.config.run import CLIP_VOCAB_SIZE
from clip_jax.errors import ConfigError
from clip_jax.storage.paths import write_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FORMAT = "clip published BPE 1"
VOCAB_SIZE = CLIP_VOCAB_SIZE
START, END = 49_406, 49_407
SPECIAL = {"<|startoftext|>": START, "<|endoftext|>": END}
END_OF_WORD = "</w>"
# Words as CLIP splits them: English contractions, letters, single digits, runs of anything else. The released code
# ignores case: the long s is an s, and the iota below (U+0345), a mark whose capital is a letter, is in no word.
WORDS = r"'[sſ]|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}\x{345}]+"

SPACES = r"[\s\x1c-\x1f\x85]+"  # what str.split splits at


def repair_text(text: str) -> str:
    """Repair a text as the released code does: fix wrong encodings, unescape HTML twice."""
    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text)))


def clean(text: str) -> str:
    """Repair a text, collapse whitespace, convert to lower case."""
    return " ".join(repair_text(text).split()).lower()


def _bytes_in_order() -> list[str]:
    """Return the 256 characters that stand for bytes in byte-level BPE, in the order of their ids.

    Bytes that print in Latin-1 come first and stand for themselves; the others follow as U+0100, U+0101, …
    """
    printed = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [*map(chr, printed), *(chr(256 + n) for n in range(256 - len(printed)))]


@functools.cache
def published_tokenizer() -> Tokenizer:
    """Build CLIP's tokenizer as an object of the tokenizers library, from the published merges.

    It expects cleaned text (`clean`) and adds neither start nor end token.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    lines = (files("clip_jax.data.tokenizers") / "clip_merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [(left, right) for left, right in (line.split() for line in lines[1:])]
    letters = _bytes_in_order()
    tokens = [*letters, *(c + END_OF_WORD for c in letters), *(left + right for left, right in merges), *SPECIAL]
    model = models.BPE(
        vocab={token: n for n, token in enumerate(tokens)}, merges=merges, end_of_word_suffix=END_OF_WORD
    )  # fmt: skip
    tokenizer = Tokenizer(model)
    words = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIAL])
    return tokenizer


def with_special_tokens(tokenizer: Tokenizer, start: str, end: str) -> Tokenizer:
    """Let a tokenizer convert texts to lower case, collapse whitespace, and add ``start`` and ``end``; return it."""
    from tokenizers import Regex, normalizers, processors

    spaces = normalizers.Replace(Regex(SPACES), " ")
    tokenizer.normalizer = normalizers.Sequence([spaces, normalizers.Strip(), normalizers.Lowercase()])
    ids = [(token, tokenizer.token_to_id(token)) for token in (start, end)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", pair=f"{start} $A {end} {start} $B {end}", special_tokens=ids
    )
    return tokenizer


class ClipTokenizer:
    """CLIP's tokenizer. Rows are ``start, text, end, pad …``; a long text is truncated, its end token kept.

    The released code pads with 0, transformers' files of the same models with the end token.
    """

    vocab_size = VOCAB_SIZE

    def __init__(self, context_length: int = 77, pad_id: int = 0) -> None:
        for name, value, low, high in (("context_length", context_length, 3, 1 << 16), ("pad_id", pad_id, 0, END)):
            if not isinstance(value, int) or not low <= value <= high:
                reason = f"must be a whole number from {low} to {high}"
                raise ConfigError(field=name, value=value, reason=reason)
        self._library = published_tokenizer()
        self.context_length, self.pad_id = context_length, pad_id

    def encode(self, texts: list[str]) -> np.ndarray:
        """Tokenize texts: int32 [N, T]. Note that id 0, the padding, is also the token "!"."""
        out = np.full((len(texts), self.context_length), self.pad_id, np.int32)
        for row, encoding in enumerate(self._library.encode_batch_fast([clean(text) for text in texts])):
            ids = [START, *encoding.ids, END][: self.context_length]
            ids[-1] = END
            out[row, : len(ids)] = ids
        return out

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of one row up to its end token, for people."""
        ids: list[int] = []
        for token in map(int, tokens):
            if token == END:
                break
            if token != START:
                ids.append(token)
        return self._library.decode(ids, skip_special_tokens=False).replace(END_OF_WORD, " ").strip()

    def to_library(self) -> Tokenizer:
        """Return the tokenizer as an object of the tokenizers library, with cleaning and special tokens.

        Its rules can neither repair wrong encodings nor unescape HTML; otherwise the ids are the same.
        """
        from tokenizers import Tokenizer, normalizers

        library = with_special_tokens(Tokenizer.from_str(self._library.to_str()), *SPECIAL)
        library.normalizer = normalizers.Sequence([normalizers.NFC(), library.normalizer])  # part of the repair
        return library

    def save(self, path: Path) -> None:
        """Write what `load_tokenizer` needs: the vocabulary's name and the context length."""
        padding = {"pad_id": self.pad_id} if self.pad_id else {}
        write_text(path, json.dumps({"format": FORMAT, "context_length": self.context_length} | padding))
