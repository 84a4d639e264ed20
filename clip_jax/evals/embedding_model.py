"""A model with its image preprocessing and tokenizer: embeddings of images and texts, zero-shot classification."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np
from flax import nnx
from jax.sharding import Mesh

from clip_jax import flops
from clip_jax.config import ModelConfig
from clip_jax.data.images.eval_preprocess import Preprocess, picture_name
from clip_jax.data.labeled.class_names import check_templates
from clip_jax.data.tokenizers.learned_bpe import Tokenizer
from clip_jax.errors import UserError
from clip_jax.evals.encode import Encoder
from clip_jax.evals.zero_shot import class_embeddings
from clip_jax.finite import NotFinite
from clip_jax.models.clip import CLIP, AbstractModel
from clip_jax.models.predictive import Predictive
from clip_jax.types import Params

if TYPE_CHECKING:
    from clip_jax.data.images.open import Picture

T = TypeVar("T")


def _several(field: str, values: Sequence[T]) -> list[T]:
    """Return a caller's images or texts as a list; raise UserError for a single one and for none."""
    if isinstance(values, (str, bytes, Path)):
        raise UserError(field=field, value=values, reason="must be a list", hint=f"{field}=[…] for a single one")
    if len(values) == 0:
        raise UserError(field=field, value=[], reason="must hold at least one")
    return list(values)


class EmbeddingModel:
    """A model with its image preprocessing and tokenizer. Embeddings are float32 and of unit length.

    Args:
      name: the model as messages call it.
      config: its shape and dtypes.
      built: its graph and shardings on ``mesh``.
      mesh: the devices.
      params: its parameters, sharded as ``built`` says.
      preprocess: image size and normalization.
      tokenizer: its tokenizer, if it has one.
      batch_size: inputs per call of the compiled functions; fewer are padded to a power of two.
      exact: multiply in full float32 on accelerators too.
    """

    def __init__(
        self, name: str, config: ModelConfig, built: AbstractModel, mesh: Mesh, params: Params,
        preprocess: Preprocess, tokenizer: Tokenizer | None, batch_size: int, *, exact: bool = False,
    ) -> None:  # fmt: skip
        self.name, self.config, self.params, self.preprocess = name, config, params, preprocess
        self._tokenizer, self._graphdef = tokenizer, built.graphdef
        self._encoder = Encoder(
            built, mesh, batch_size, mean=preprocess.mean, std=preprocess.std, exact=exact, small_batches=True
        )

    def __repr__(self) -> str:
        size, count = self.config.image.image_size, flops.params(self.config).total
        return f"<{type(self).__name__} {self.name}: {count:,} parameters, images of {size} pixels>"

    def with_params(self, params: Params) -> Self:
        """Return the same model with other parameters; compiled functions are shared."""
        model = copy.copy(self)
        model.params = params
        return model

    @property
    def module(self) -> CLIP | Predictive:
        """The Flax module with these weights, for use in JAX code: `CLIP`, or `Predictive` for predictive objectives.

        It takes normalized floats; ``preprocess`` has the mean and standard deviation.
        """
        return nnx.merge(self._graphdef, self.params)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; raises UserError if the weights came without one."""
        if self._tokenizer is None:
            raise UserError(field=self.name, reason="has no tokenizer (tokenizer.json), so texts cannot be embedded")
        return self._tokenizer

    def embed_images(self, images: Sequence[Picture]) -> np.ndarray:
        """Embed images.

        Args:
          images: paths, encoded bytes, PIL images or uint8 arrays [H, W, 3].

        Returns:
          Embeddings [N, E].

        Raises:
          UserError: there is none, an image cannot be read, or its embedding is not finite; the message names it.
        """
        try:
            return self.embed_pixels(self.preprocess.batch(_several("images", images)))
        except NotFinite as error:
            raise error.renamed(picture_name(images[error.row], error.row)) from None

    def embed_pixels(self, images: np.ndarray) -> np.ndarray:
        """Embed preprocessed images, uint8 [N, size, size, 3] -> [N, E]."""
        return self._encoder.images(self.params, images)

    def embed_and_features(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Embed preprocessed images, uint8 [N, size, size, 3], and also return the features before the projection.

        Returns:
          Embeddings [N, E] and features [N, D].
        """
        return self._encoder.images_and_features(self.params, images)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts -> [N, E].

        Raises UserError for no text, for a predictive model, which has image embeddings only, and for a text whose
        embedding is not finite.
        """
        if self.config.objective != "contrastive":
            reason = f"has no text embeddings: it predicts captions (model.objective={self.config.objective!r})"
            hint = "linear_probe, few_shot and knn need none, and `clip-jax eval RUN_DIR` measures its zero-shot tasks"
            raise UserError(field=self.name, reason=reason, hint=hint)
        try:
            return self._encoder.texts(self.params, self.tokenizer.encode(_several("texts", texts)))
        except NotFinite as error:
            raise error.renamed(repr(texts[error.row])) from None

    def text_states(self, texts: Sequence[str], layer: int = -1, *, final_norm: bool = True) -> np.ndarray:
        """Return the text states that image generators condition on, float32 [N, T, D].

        Args:
          texts: N texts.
          layer: the block, counted from the end: -1 is the last one.
          final_norm: whether to apply the final layer norm.

        Raises:
          ValueError: there is no such layer.
        """
        return self._encoder.text_states(self.params, self.tokenizer.encode(list(texts)), layer, final_norm)

    def classify(
        self, images: Sequence[Picture], labels: Sequence[str], templates: Sequence[str] = ("a photo of {c}.",)
    ) -> np.ndarray:
        """Classify images zero-shot.

        Args:
          images: as in `embed_images`.
          labels: names of the classes, at least two.
          templates: prompts in which ``{c}`` stands for the label; their embeddings are averaged per label.

        Returns:
          Probabilities [N, labels].

        Raises:
          UserError: fewer than two labels, a template without ``{c}``, or an image that cannot be read.
        """
        if len(_several("labels", labels)) < 2:
            raise UserError(field="labels", value=list(labels), reason="must hold at least two labels")
        check_templates(templates)
        prompts = self.embed_texts([t.replace("{c}", label) for label in labels for t in templates])
        scores = self.scale * self.embed_images(images) @ class_embeddings(prompts, len(labels)).T
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    @property
    def scale(self) -> float:
        """The logit scale."""
        return min(float(np.exp(np.asarray(self.params["logit_scale"]))), self.config.max_logit_scale)
