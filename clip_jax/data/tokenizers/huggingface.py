"""Tokenizers from any ``tokenizer.json`` of the tokenizers library, such as SigLIP's."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clip_jax.data.tokenizers.clip_bpe import SPACES, repair_text
from clip_jax.errors import UserError, foreign
from clip_jax.storage.paths import write_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

FORMAT = "tokenizer.json 1"
CLEANINGS = ("none", "whitespace", "lower", "lowercase", "canonicalize", "no_punctuation")
MAX_CONTEXT = 1 << 16  # tokens per row
GROWTH = 64  # maximum factor by which a file's replacements may lengthen a text
_NESTED = re.compile(r"\((?:[^()\\]|\\.)*[+*](?:[^()\\]|\\.)*\)[+*{]")  # a repeated group that contains a repetition
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def clean_text(text: str, how: str) -> str:
    """Clean a text before it is tokenized.

    Args:
      text: the text.
      how: ``none``. Named as in open_clip: ``whitespace``: repair, collapse whitespace; ``lower``: also lower case;
      ``canonicalize``: also without punctuation. As transformers does for SigLIP: ``no_punctuation``: lower case, no
      punctuation, no repair; for SigLIP 2: ``lowercase``.
    """
    if how == "none":
        return text
    if how == "lowercase":
        return text.lower()
    if how != "no_punctuation":
        text = repair_text(text)
    if how == "whitespace":
        return " ".join(text.split())
    if how == "canonicalize":
        text = text.replace("_", " ")
    if how != "lower":
        text = text.translate(_NO_PUNCTUATION)
    return " ".join(text.lower().split())


def _under(values: object, name: str) -> Iterator[object]:
    """Yield every value with the key ``name`` in nested JSON."""
    if isinstance(values, dict):
        if name in values:
            yield values[name]
        values = list(values.values())
    if isinstance(values, list):
        for value in values:
            yield from _under(value, name)


def _check_rules(values: object, source: str) -> None:
    """Check a file's rules; raise UserError for those that a short text can keep busy without end."""
    if not isinstance(values, dict):
        return
    growth = float(np.prod([max(1, len(str(c))) for c in _under(values.get("normalizer"), "content")]))
    if growth > GROWTH:
        reason = f"its replacements may lengthen a text {growth:g}-fold, at most {GROWTH} is allowed"
        raise UserError(source=source, field="normalizer", reason=reason)
    for pattern in _under([values.get("normalizer"), values.get("pre_tokenizer")], "Regex"):
        if _NESTED.search(str(pattern)):
            reason = "has nested repetitions, whose matching may take exponential time"
            raise UserError(source=source, field="Regex", value=pattern, reason=reason)


class HFTokenizer:
    """A tokenizer of the tokenizers library, truncating and padding to a fixed length.

    The library adds the special tokens that the file asks for.

    Args:
      model: the text of a ``tokenizer.json``.
      context_length: tokens per row.
      pad_id: the padding token.
      clean: one of `CLEANINGS`, see `clean_text`.
      pad_side: ``right`` or ``left``.
      zeroed_id: a token replaced by 0 in every row (open_clip's ``strip_sep_token``); -1: none.
      source: the file, for errors.

    Raises:
      UserError: a setting is out of range, or the file is not a tokenizer.
    """

    def __init__(
        self, model: str, context_length: int, *, pad_id: int = 0, clean: str = "none", pad_side: str = "right",
        zeroed_id: int = -1, source: str = "",
    ) -> None:  # fmt: skip
        from tokenizers import Tokenizer as Library

        source = source or "tokenizer.json"
        if clean not in CLEANINGS:
            raise UserError(source=source, field="clean", value=clean, reason=f"must be one of {', '.join(CLEANINGS)}")
        if not isinstance(context_length, int) or not 1 <= context_length <= MAX_CONTEXT:
            reason = f"must be a whole number from 1 to {MAX_CONTEXT}"
            raise UserError(source=source, field="context_length", value=context_length, reason=reason)
        self._source, self._model = source, model
        with foreign(source, "a tokenizer"):
            self._library = Library.from_str(model)
        _check_rules(json.loads(model), source)
        self.vocab_size = max(self._library.get_vocab().values(), default=-1) + 1  # ids need not be contiguous
        if self.vocab_size > 2**31:
            raise UserError(source=source, field="vocab_size", value=self.vocab_size, reason="must be at most 2**31")
        self.context_length, self.pad_id, self.clean = context_length, pad_id, clean
        self.pad_side, self.zeroed_id = pad_side, zeroed_id
        token = self._library.id_to_token(pad_id) if isinstance(pad_id, int) and 0 <= pad_id < 1 << 31 else None
        if token is None:
            raise UserError(source=source, field="pad_id", value=pad_id, reason="is not in the vocabulary")
        if pad_side not in ("right", "left"):
            raise UserError(source=source, field="pad_side", value=pad_side, reason="must be right or left")
        self._library.enable_truncation(context_length)
        self._library.enable_padding(direction=pad_side, length=context_length, pad_id=pad_id, pad_token=token)

    @classmethod
    def from_file(
        cls, path: Path, context_length: int, *, pad_id: int = 0, clean: str = "none", pad_side: str = "right",
        zeroed_id: int = -1,
    ) -> HFTokenizer:  # fmt: skip
        """Read a ``tokenizer.json``; settings as for the class. Raises UserError when it is missing or malformed."""
        try:
            model = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(field=path, reason=f"cannot be read ({type(error).__name__})") from None
        return cls(
            model, context_length, pad_id=pad_id, clean=clean, pad_side=pad_side, zeroed_id=zeroed_id, source=str(path)
        )

    def resized(self, context_length: int) -> HFTokenizer:
        """Return the same tokenizer with rows of another length."""
        return HFTokenizer(
            self._model, context_length, pad_id=self.pad_id, clean=self.clean, pad_side=self.pad_side,
            zeroed_id=self.zeroed_id, source=self._source,
        )  # fmt: skip

    def encode(self, texts: list[str]) -> np.ndarray:
        """Tokenize texts: int32 [N, T]. Raises UserError for a text that the file's rules cannot tokenize."""
        cleaned = [clean_text(t, self.clean) for t in texts]
        with foreign(self._source, "a tokenizer"):
            rows = self._library.encode_batch(cleaned)
        out = np.array([r.ids for r in rows], np.int32).reshape(len(texts), self.context_length)
        return np.where(out == self.zeroed_id, 0, out) if self.zeroed_id >= 0 else out

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of one row, for people."""
        return self._library.decode([int(t) for t in tokens if int(t) != self.pad_id])

    def to_library(self) -> Library:
        """Return the tokenizer as an object of the tokenizers library, without truncation and padding.

        The cleaning is put before the file's own rules, except for the repair of wrong encodings and HTML.
        """
        from tokenizers import Regex, normalizers
        from tokenizers import Tokenizer as Library

        library = Library.from_str(self._model)
        library.no_truncation()
        library.no_padding()
        rules: list[normalizers.Normalizer] = []
        if self.clean in ("lower", "lowercase", "canonicalize", "no_punctuation"):
            rules.append(normalizers.Lowercase())
        if self.clean == "canonicalize":
            rules.append(normalizers.Replace("_", " "))
        if self.clean in ("canonicalize", "no_punctuation"):
            rules.append(normalizers.Replace(Regex(f"[{re.escape(string.punctuation)}]"), ""))
        if self.clean not in ("none", "lowercase"):
            rules += [normalizers.Replace(Regex(SPACES), " "), normalizers.Strip()]
        if rules:
            library.normalizer = normalizers.Sequence([*rules, *([library.normalizer] if library.normalizer else [])])
        return library

    def save(self, path: Path) -> None:
        """Write the tokenizer and its settings as `load_tokenizer` reads them."""
        values = {
            "format": FORMAT, "context_length": self.context_length, "pad_id": self.pad_id, "clean": self.clean,
            "tokenizer": json.loads(self._library.to_str()),
        }  # fmt: skip
        later = {"pad_side": (self.pad_side, "right"), "zeroed_id": (self.zeroed_id, -1)}
        values |= {name: value for name, (value, usual) in later.items() if value != usual}
        write_text(path, json.dumps(values))
