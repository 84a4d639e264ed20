"""Any ``tokenizer.json`` of the tokenizers library, SigLIP's among them."""

from __future__ import annotations

import json
import string
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from clip_jax.config import UserError
from clip_jax.data.published_tokenizer import repaired
from clip_jax.places import write_text

FORMAT = "tokenizer.json 1"
CLEANINGS = ("none", "lower", "canonicalize", "no_punctuation")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def clean_text(text: str, how: str) -> str:
    """``none``; ``lower``: repaired, lower case, single spaces; ``canonicalize``: that without punctuation (both as
    open_clip names them); ``no_punctuation``: that without the repair, as transformers treats SigLIP's texts."""
    if how == "none":
        return text
    if how != "no_punctuation":
        text = repaired(text)
    if how == "canonicalize":
        text = text.replace("_", " ")
    if how != "lower":
        text = text.translate(_NO_PUNCTUATION)
    return " ".join(text.lower().split())


class HFTokenizer:
    """Cut and padded to one length by the library, which also adds the special tokens the file asks for."""

    def __init__(
        self, model: str, context_length: int, *, pad_id: int = 0, clean: str = "none", source: str = ""
    ) -> None:
        from tokenizers import Tokenizer as Library

        if clean not in CLEANINGS:
            raise UserError(f"clean={clean!r}: must be one of {', '.join(CLEANINGS)}")
        try:
            self._library: Any = Library.from_str(model)
        except Exception as error:  # noqa: BLE001 (the library raises plain Exception)
            raise UserError(f"{source or 'tokenizer.json'}: not a tokenizer ({str(error).splitlines()[0]})") from None
        self.vocab_size = self._library.get_vocab_size()
        if max(self._library.get_vocab().values(), default=0) >= 2**31:
            raise UserError(f"{source or 'tokenizer.json'}: ids beyond 2**31", field="vocab_size")
        self.context_length, self.pad_id, self.clean = context_length, pad_id, clean
        token = self._library.id_to_token(pad_id)
        if token is None:
            raise UserError(f"{source or 'tokenizer.json'}: pad_id={pad_id} is not in the vocabulary")
        self._library.enable_truncation(context_length)
        self._library.enable_padding(length=context_length, pad_id=pad_id, pad_token=token)

    @classmethod
    def from_file(cls, path: Path, context_length: int, *, pad_id: int = 0, clean: str = "none") -> HFTokenizer:
        """Read a ``tokenizer.json``. Raises UserError when it is missing or broken."""
        try:
            model = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read ({type(error).__name__})") from None
        return cls(model, context_length, pad_id=pad_id, clean=clean, source=str(path))

    def encode(self, texts: list[str]) -> np.ndarray:
        """int32 [N, T]."""
        rows = self._library.encode_batch([clean_text(t, self.clean) for t in texts])
        return np.array([r.ids for r in rows], np.int32).reshape(len(texts), self.context_length)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of one row, for people."""
        return self._library.decode([int(t) for t in tokens if int(t) != self.pad_id])

    def save(self, path: Path) -> None:
        """Write the tokenizer and its settings where `tokenizers.load_tokenizer` reads them."""
        values = {
            "format": FORMAT, "context_length": self.context_length, "pad_id": self.pad_id, "clean": self.clean,
            "tokenizer": json.loads(self._library.to_str()),
        }  # fmt: skip
        write_text(path, json.dumps(values))
