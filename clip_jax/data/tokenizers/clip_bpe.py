"""CLIP's published BPE with 49,408 entries, by the package ``instant-clip-tokenizer``.

The package splits and merges; text cleaning is done here: mojibake (ftfy), HTML entities, lower case, single spaces,
and the two special tokens where they are spelled out in a text.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from clip_jax.errors import ConfigError
from clip_jax.storage.paths import write_text

FORMAT = "clip published BPE 1"
VOCAB_SIZE = 49_408
START, END = 49_406, 49_407
SPECIAL = {"<|startoftext|>": START, "<|endoftext|>": END}
_SPLIT = re.compile("(" + "|".join(map(re.escape, SPECIAL)) + ")")


def repair_text(text: str) -> str:
    """Repair a text as the released code does: fix wrong encodings, unescape HTML twice."""
    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text)))


def clean(text: str) -> str:
    """Repair a text, collapse whitespace, convert to lower case."""
    return " ".join(repair_text(text).split()).lower()


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
        from instant_clip_tokenizer import Tokenizer as Library

        self._library: Any = Library()
        self.context_length, self.pad_id = context_length, pad_id

    def _ids(self, text: str) -> list[int]:
        out: list[int] = []
        for piece in _SPLIT.split(clean(text)):
            out += [SPECIAL[piece]] if piece in SPECIAL else self._library.encode(piece)
        return out

    def encode(self, texts: list[str]) -> np.ndarray:
        """Tokenize texts: int32 [N, T]. Note that id 0, the padding, is also the token "!"."""
        out = np.full((len(texts), self.context_length), self.pad_id, np.int32)
        for row, text in enumerate(texts):
            ids = [START, *self._ids(text), END][: self.context_length]
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
        return self._library.decode(ids).strip()

    def save(self, path: Path) -> None:
        """Write what `load_tokenizer` needs: the vocabulary's name and the context length."""
        padding = {"pad_id": self.pad_id} if self.pad_id else {}
        write_text(path, json.dumps({"format": FORMAT, "context_length": self.context_length} | padding))
