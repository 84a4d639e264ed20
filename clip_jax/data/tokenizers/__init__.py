"""Tokenizers: learned BPE, CLIP's published BPE, and Hugging Face ``tokenizer.json`` files."""

from clip_jax._moved import names_of

__getattr__ = names_of(__name__, "data.tokenizers.learned_bpe")
