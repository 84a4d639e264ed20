"""Inference with a trained or published model, its export, and initializing a run from one."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from jax.tree_util import keystr

from clip_jax.config import ModelConfig, RunConfig
from clip_jax.config.model import DType
from clip_jax.data.images.eval_preprocess import Preprocess
from clip_jax.data.tokenizers.learned_bpe import with_context
from clip_jax.distributed.mesh import enable_compile_cache, make_mesh
from clip_jax.errors import UserError
from clip_jax.evals.embedding_model import EmbeddingModel
from clip_jax.finite import finite_tensors
from clip_jax.models.clip import build
from clip_jax.models.execution import on_any_device
from clip_jax.models.positions import resize_image_positions, resize_text_positions
from clip_jax.pretrained.load import Weights, load_weights, save_weights
from clip_jax.pretrained.mapping import flatten, nest
from clip_jax.pretrained.model_card import CARD, MARK, Training, model_card
from clip_jax.pretrained.names import Fetch, hub_fetch, repository
from clip_jax.storage.json_files import read_lines
from clip_jax.storage.paths import SCHEME, as_path, is_url, write_text
from clip_jax.storage.records import Measurement
from clip_jax.train.checkpoint import load_params
from clip_jax.train.context import log_model
from clip_jax.train.inputs import read_tokenizer
from clip_jax.train.loop import InitState
from clip_jax.train.metrics import training_flops
from clip_jax.train.pixels import warn_without_pixels, with_pixels
from clip_jax.train.run_directory import read_config, read_records

logger = logging.getLogger(__name__)


class LoadedModel(EmbeddingModel):
    """A model loaded for inference.

    Args:
      weights: the model, from `read_weights` or `pretrained.load.load_weights`.
      batch_size: inputs per call of the compiled functions.
    """

    def __init__(self, weights: Weights, batch_size: int = 64) -> None:
        enable_compile_cache()
        self.digest = weights.digest
        self.precision: str = weights.config.compute_dtype
        mesh = make_mesh(RunConfig().mesh)
        log_model(weights.config, mesh)
        built = build(weights.config, mesh)
        flat = flatten(weights.params)
        params = jax.tree_util.tree_map_with_path(
            lambda path, sharding: jax.device_put(flat[keystr(path, simple=True, separator="/")], sharding),
            built.shardings,
        )
        super().__init__(
            weights.name, weights.config, built, mesh, params, weights.preprocess, weights.tokenizer, batch_size,
            exact=self.precision == "float32",
        )  # fmt: skip


def is_run(name: str) -> bool:
    """Return whether the path is the directory of a training run."""
    if is_url(name) and not name.startswith(SCHEME):
        return False
    return (as_path(name) / "checkpoints").is_dir() and (as_path(name) / "config.json").exists()


def read_weights(name: str, *, fetch: Fetch = hub_fetch) -> Weights:
    """Read the weights of a run (its last checkpoint), a path, or a published name. Raises UserError."""
    return _read_run(name)[0] if is_run(name) else load_weights(name, fetch=fetch)


def _read_run(name: str) -> tuple[Weights, Training]:
    """Read a run's last checkpoint, and what the run recorded about it."""
    logger.info("reading the last checkpoint of %s", name)
    path = as_path(name)
    begun = read_config(path)
    assert begun is not None
    run = with_pixels(begun, path)
    warn_without_pixels(run, path)
    config = on_any_device(run.model)
    built = build(config, make_mesh(RunConfig().mesh))
    step, params = load_params(name, built)
    arrays = {k: np.asarray(v) for k, v in flatten(params).items()}
    finite_tensors(name, arrays.items())
    preprocess = Preprocess.from_pixels(config.image.image_size, run.pixels)
    weights = Weights(name, config, nest(arrays), preprocess, read_tokenizer(path, config))
    evals = [cast(Measurement, row) for row in read_lines(path / "evals.jsonl") if row.get("step") == step]
    spent = training_flops(begun, step * begun.batch_size).total
    return weights, Training(begun, step, spent, evals, read_records(path))


def model_of(name: str) -> ModelConfig:
    """Return the model of a run, a path or a published name without loading it to a device. Raises UserError."""
    if not is_run(name):
        return load_weights(name).config
    begun = read_config(as_path(name))
    assert begun is not None
    return on_any_device(begun.model)


def load_model(
    name: str, *, batch_size: int = 64, compute_dtype: DType = "float32", fetch: Fetch = hub_fetch
) -> LoadedModel:
    """Load a model for inference.

    Args:
      name: ``openai/ViT-B-32``, ``open_clip:MODEL/TAG``, ``hf:OWNER/NAME``, a weights file or folder, or a run
        directory.
      batch_size: inputs per call of the compiled functions.
      compute_dtype: float32 (full precision, on accelerators too) | bfloat16 | float16.
      fetch: function that gets files from the hub; by default through its cache.

    Raises:
      UserError: there is no such model, or its files are broken.
    """
    weights = read_weights(name, fetch=fetch)
    shape = dataclasses.replace(weights.config, compute_dtype=compute_dtype)
    return LoadedModel(dataclasses.replace(weights, config=shape), batch_size)


def export(name: str, folder: str | Path, layout: str = "open_clip", *, license_id: str = "") -> None:
    """Write a model in the layout of open_clip or transformers, with a model card (``README.md``).

    Args:
      name: the model, as in `load_model`.
      folder: where to write; created if missing.
      layout: ``open_clip`` or ``transformers``.
      license_id: the license of the weights for the card, as the hub names it; empty: the card names none.

    Raises:
      UserError: the libraries have no such model, because it is predictive or has a bag of words as text tower, or the
        folder has a ``README.md`` that is not a model card of an export.
    """
    weights, training = _read_run(name) if is_run(name) else (load_weights(name), None)
    objective, encoder = weights.config.objective, weights.config.text.encoder
    if objective != "contrastive" or encoder != "transformer":
        reason = f"model.objective={objective!r} with model.text.encoder={encoder!r} cannot be exported"
        raise UserError(field=name, reason=reason, hint="the layouts hold contrastive models with a text transformer")
    began_with = training.config.init_from.source if training else name
    published = repository(began_with) if began_with and not Path(began_with).exists() else None
    card = model_card(
        Path(folder).resolve().name, weights.config, layout, source=name, base_model=published or "",
        license_id=license_id, training=training,
    )  # fmt: skip
    path = Path(folder) / CARD
    if path.exists() and MARK not in path.read_text(encoding="utf-8"):
        raise UserError(field=path, reason="exists and is not from an export", hint="name another folder")
    logger.info("writing %s", folder)
    save_weights(weights, folder, layout)
    write_text(path, card)


# Fields that may differ between the source weights and the run that starts from them: image size and context length
# (positions are resized), and how training treats the model.
_MAY_DIFFER = {"image": ("image_size", "patch_dropout"), "text": ("context_length",)}


def _check_same_shape(run: ModelConfig, loaded: ModelConfig, towers: tuple[str, ...], source: str) -> None:
    if "text" in towers and run.objective != loaded.objective:
        reason = f"init_from.source={source} has {loaded.objective!r}"
        hint = "init_from.towers='image' takes the image tower alone"
        raise UserError(field="model.objective", value=run.objective, reason=reason, hint=hint)
    for tower in towers:
        a, b = dataclasses.asdict(getattr(run, tower)), dataclasses.asdict(getattr(loaded, tower))
        for field in a:
            if field not in _MAY_DIFFER[tower] and a[field] != b[field]:
                reason = f"init_from.source={source} has {b[field]!r}"
                raise UserError(field=f"model.{tower}.{field}", value=a[field], reason=reason)
    of_text = ("activation_of_text",) if "text" in towers else ()
    for field in ("embed_dim", *(("activation",) if "image" in towers else ()), *of_text):
        if getattr(run, field) != getattr(loaded, field):
            name = field.replace("activation_of_text", "text_activation")
            reason = f"init_from.source={source} has {getattr(loaded, field)!r}"
            raise UserError(field=f"model.{name}", value=getattr(run, field), reason=reason)


def start_from(config: RunConfig, *, fetch: Fetch = hub_fetch) -> InitState:
    """Read what ``init_from`` names: initial parameters, the text tower's tokenizer, and the image preprocessing.

    The tensors of the chosen towers come from the source, with positions resized to the run's resolution and context
    length. If both towers are chosen, temperature, logit bias and decoder come from the source too. The preprocessing
    is the one that the image tower was trained with.

    Args:
      config: the run.
      fetch: function that gets files from the hub; by default through its cache.

    Raises:
      UserError: the source's shape differs from the run's, or it has no tokenizer for its text tower.
    """
    source, chosen = config.init_from.source, config.init_from.towers
    weights = read_weights(source, fetch=fetch)
    towers = ("image", "text") if chosen == "both" else (chosen,)
    _check_same_shape(config.model, weights.config, towers, source)
    tensors = flatten(weights.params)

    def take(path: tuple[Any, ...], value: Any) -> Any:
        name = keystr(path, simple=True, separator="/")
        tower = name.split("/")[0]
        if tower not in towers and not (chosen == "both" and name in tensors):
            return value
        if name not in tensors:
            raise UserError(field="init_from.source", value=source, reason=f"has no parameter {name}")
        array = np.asarray(tensors[name])
        if name in ("image/position", "image/pool/position"):
            side = config.model.image.image_size // config.model.image.patch_size
            array = resize_image_positions(array, (side, side), int(config.model.image.class_token))
        elif name == "text/position" and config.model.objective == "contrastive":
            array = resize_text_positions(array, config.model.text.tokens)
        if array.shape != value.shape:
            reason = f"{name} is {array.shape}, the run has {value.shape}"
            raise UserError(field="init_from.source", value=source, reason=reason)
        return jax.device_put(array.astype(value.dtype), value.sharding)

    tokenizer = None
    if "text" in towers:
        if weights.tokenizer is None:
            reason = "has no tokenizer (tokenizer.json), so its text tower cannot be used"
            raise UserError(field="init_from.source", value=source, reason=reason)
        tokenizer = with_context(weights.tokenizer, config.model.text.context_length)
    pixels = weights.preprocess.pixels if "image" in towers else None
    return InitState(lambda fresh: jax.tree_util.tree_map_with_path(take, fresh), tokenizer, pixels)
