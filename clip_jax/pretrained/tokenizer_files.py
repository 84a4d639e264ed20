"""Loading the tokenizer that comes with published weights; every setting is applied or rejected by name."""

from __future__ import annotations

import json
from typing import Any

from clip_jax.config import ModelConfig
from clip_jax.data.tokenizers.clip_bpe import END, VOCAB_SIZE, ClipTokenizer
from clip_jax.data.tokenizers.huggingface import CLEANINGS, HFTokenizer
from clip_jax.data.tokenizers.learned_bpe import Tokenizer, check_fits, load_tokenizer
from clip_jax.errors import UserError, foreign
from clip_jax.pretrained.files import read_json
from clip_jax.pretrained.names import Files
from clip_jax.types import JsonObject

# Defaults of transformers' classes: text cleaning, padding token, padding side.
TOKENIZER_CLASSES = {
    "SiglipTokenizer": ("no_punctuation", "</s>", "right"),
    "Siglip2Tokenizer": ("lowercase", "<pad>", "left"),
    "GemmaTokenizer": ("none", "<pad>", "left"),
    "BertTokenizer": ("none", "[PAD]", "right"),
    "CLIPTokenizer": ("none", "<|endoftext|>", "right"),
    "T5Tokenizer": ("none", "<pad>", "right"),
}
# open_clip's cleaning followed by that of transformers' class, combined
COMBINED_CLEANINGS = {
    ("whitespace", "none"): "whitespace", ("whitespace", "lowercase"): "lower", ("lower", "none"): "lower",
    ("lower", "lowercase"): "lower", ("canonicalize", "none"): "canonicalize",
    ("canonicalize", "lowercase"): "canonicalize", ("canonicalize", "no_punctuation"): "canonicalize",
    ("none", "none"): "none",
}  # fmt: skip
BERT_FIELDS = {
    "do_lower_case": "lowercase", "strip_accents": "strip_accents", "tokenize_chinese_chars": "handle_chinese_chars",
}  # fmt: skip


def tokenizer_of(layout: str, model: ModelConfig, config: JsonObject, files: Files) -> Tokenizer | None:
    """Load the tokenizer that the weights were trained with; return None if the files do not determine it.

    Args:
      layout: one of `layouts.LAYOUTS`.
      model: the config of the model.
      config: the content of the weights' config file, {} without one.
      files: the files found with the weights.

    Raises:
      UserError: a setting is not supported, or the tokenizer does not fit the model; ``field`` names the setting.
    """
    text_cfg = config.get("model_cfg", config).get("text_cfg", {}) if layout == "open_clip" else {}
    kwargs = text_cfg.get("tokenizer_kwargs") or {}
    source = str(files.config)
    if not isinstance(kwargs, dict):
        raise UserError(
            source=source, field="text_cfg.tokenizer_kwargs", value=kwargs, reason="must be a group of fields"
        )
    for name, value in kwargs.items():
        if name not in ("clean", "strip_sep_token"):
            raise UserError(
                source=source, field=f"text_cfg.tokenizer_kwargs.{name}", value=value, reason="is not supported"
            )
    if kwargs.get("clean", "lower") not in CLEANINGS:
        raise UserError(
            source=source,
            field="text_cfg.tokenizer_kwargs.clean",
            value=kwargs["clean"],
            reason=f"not of {', '.join(CLEANINGS)}",
        )
    if files.tokenizer is not None and "format" in read_json(files.tokenizer):
        return check_fits(load_tokenizer(files.tokenizer), model.text, str(files.tokenizer))
    of_library = layout == "transformers" or bool(text_cfg.get("hf_tokenizer_name"))
    if model.text.vocab_size == VOCAB_SIZE and not (of_library and files.tokenizer):
        return _published(layout, model, kwargs, source, files)
    if files.tokenizer is None:
        return None
    tokenizer_files = _TokenizerFiles(files, layout, model, text_cfg)
    return check_fits(tokenizer_files.tokenizer(kwargs), model.text, str(files.tokenizer))


def _published(layout: str, model: ModelConfig, kwargs: JsonObject, source: str, files: Files) -> Tokenizer:
    if kwargs.get("clean", "lower") != "lower":
        raise UserError(
            source=source,
            field="text_cfg.tokenizer_kwargs.clean",
            value=kwargs["clean"],
            reason="the published vocabulary takes lower",
        )
    if kwargs.get("strip_sep_token"):
        raise UserError(
            source=source,
            field="text_cfg.tokenizer_kwargs.strip_sep_token",
            value=True,
            reason="the published vocabulary has none",
        )
    pad = None  # open_clip and the released code pad with 0, whatever transformers' files say
    if layout == "transformers" and files.tokenizer_config:
        pad = _token(read_json(files.tokenizer_config), "pad_token")
    ids = {None: 0, "!": 0, "<|endoftext|>": END}
    if pad not in ids:
        raise UserError(
            source=files.tokenizer_config,
            field="pad_token",
            value=pad,
            reason=f"must be one of {', '.join(map(str, ids))}",
        )
    return ClipTokenizer(model.text.context_length, ids[pad])


def _token(values: JsonObject, name: str) -> str | None:
    value = values.get(name)
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else None


class _TokenizerFiles:
    """A ``tokenizer.json`` with its ``tokenizer_config.json``, combined as transformers' AutoTokenizer does."""

    def __init__(self, files: Files, layout: str, model: ModelConfig, text_cfg: JsonObject) -> None:
        from tokenizers import Tokenizer as Library

        assert files.tokenizer is not None
        self.path, self.layout, self.model, self.text_cfg = files.tokenizer, layout, model, text_cfg
        self.json = read_json(files.tokenizer)
        self.config = read_json(files.tokenizer_config) if files.tokenizer_config else {}
        self.source = str(files.tokenizer_config or files.tokenizer)
        with foreign(self.path, "a tokenizer"):
            self.library: Any = Library.from_str(json.dumps(self.json))
        self.library.no_padding()
        self.lower = False
        self.declared_kind = self.kind = str(self.config.get("tokenizer_class") or "").removesuffix("Fast")
        if not self.kind and model.logit_bias and self.library.id_to_token(1) == "</s>":
            self.kind = "SiglipTokenizer"  # SigLIP's first release names no class; id 1 of its vocabulary identifies it

    def tokenizer(self, kwargs: JsonObject) -> HFTokenizer:
        """Build the tokenizer; raise UserError naming the field that is not supported."""
        for name, usual in (("truncation_side", "right"), ("split_special_tokens", False)):
            if self.config.get(name, usual) != usual:
                raise UserError(
                    source=self.source, field=name, value=self.config[name], reason=f"only {usual!r} is supported"
                )
        self._apply_case()
        self._apply_end_tokens()
        side = self.config.get("padding_side", TOKENIZER_CLASSES.get(self.kind, ("", "", "right"))[2])
        zeroed = (
            self._id("sep_token", _token(self.config, "sep_token") or "[SEP]") if kwargs.get("strip_sep_token") else -1
        )
        return HFTokenizer(
            json.dumps(self.json), self.model.text.context_length, pad_id=self._pad(), clean=self._cleaning(kwargs),
            pad_side=side, zeroed_id=zeroed, source=str(self.path),
        )  # fmt: skip

    def _id(self, field: str, token: str) -> int:
        number = self.library.token_to_id(token)
        if number is None:
            raise UserError(
                source=self.source, field=field, value=token, reason=f"is not in the vocabulary of {self.path.name}"
            )
        return number

    def _pad(self) -> int:
        if (token := _token(self.config, "pad_token")) is not None:
            return self._id("pad_token", token)
        padding = self.json.get("padding")
        if isinstance(padding, dict) and isinstance(padding.get("pad_id"), int):
            return padding["pad_id"]
        if self.kind in TOKENIZER_CLASSES:
            return self._id("pad_token", TOKENIZER_CLASSES[self.kind][1])
        if "pad_id" in self.text_cfg:
            return self.model.text.pad_id
        raise UserError(
            source=self.source,
            field="pad_token",
            value=None,
            reason="nothing says which token pads",
            hint="put tokenizer_config.json beside the weights",
        )

    def _apply_case(self) -> None:
        """Set `lower`, whether to lower-case texts before the library gets them, as its own rules do not."""
        normalizer, asked = self.json.get("normalizer"), self.config.get("do_lower_case")
        if isinstance(normalizer, dict) and normalizer.get("type") == "BertNormalizer":
            normalizer |= {rule: self.config[name] for name, rule in BERT_FIELDS.items() if name in self.config}
            return
        rules = self.library.normalizer
        lowers = self.kind == "SiglipTokenizer" or (rules is not None and "A" not in rules.normalize_str("A"))
        if asked not in (None, True, False) or (asked is False and lowers):
            reason = "must be true or false" if asked is not False else "its rules are for lower case"
            raise UserError(source=self.source, field="do_lower_case", value=asked, reason=reason)
        self.lower = asked is True and not lowers

    def _apply_end_tokens(self) -> None:
        """Check the start and end tokens that tokenizer.json adds; without such rules, add them as the flags say."""
        flags = {n: self.config[f"add_{n}_token"] for n in ("bos", "eos") if f"add_{n}_token" in self.config}
        tokens = {name: _token(self.config, f"{name}_token") for name in flags}
        if self.json.get("post_processor") is not None:
            added = self.library.encode("").tokens
            for name, flag in flags.items():
                if tokens[name] is not None and bool(flag) != (tokens[name] in added):
                    raise UserError(
                        source=self.source,
                        field=f"add_{name}_token",
                        value=flag,
                        reason=f"{self.path.name} adds {added}",
                    )
            return
        wanted = {name: token for name, token in tokens.items() if token and flags[name]}
        if not wanted:
            return
        part: dict[str, Any] = {n: {"SpecialToken": {"id": token, "type_id": 0}} for n, token in wanted.items()}
        text = {"Sequence": {"id": "A", "type_id": 0}}
        self.json["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [p for p in (part.get("bos"), text, part.get("eos")) if p],
            "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                token: {"id": token, "ids": [self._id(f"{name}_token", token)], "tokens": [token]}
                for name, token in wanted.items()
            },
        }

    def _cleaning(self, kwargs: JsonObject) -> str:
        of_class = TOKENIZER_CLASSES.get(self.kind if self.layout == "transformers" else self.declared_kind, ("none",))[
            0
        ]
        if self.lower and of_class == "none":
            of_class = "lowercase"
        if self.layout == "transformers":
            if self.model.logit_bias and not self.kind:
                raise UserError(
                    source=self.source, field="tokenizer_class", reason="missing, so the cleaning of texts is unknown",
                    hint="put tokenizer_config.json beside the weights",
                )  # fmt: skip
            return of_class
        # open_clip's default where it names a tokenizer; else what its SigLIP models are trained with
        usual = "canonicalize" if self.model.logit_bias and not self.text_cfg.get("hf_tokenizer_name") else "whitespace"
        asked_for = kwargs.get("clean", usual)
        if asked_for == "none":
            return of_class
        if (asked_for, of_class) not in COMBINED_CLEANINGS:
            raise UserError(
                source=self.source,
                field="tokenizer_class",
                value=self.kind,
                reason=f"not after open_clip's clean={asked_for!r}",
            )
        return COMBINED_CLEANINGS[asked_for, of_class]
