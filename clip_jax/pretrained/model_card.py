"""The model card (``README.md``) of exported weights: what the run recorded, and how to load the weights."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import yaml

from clip_jax import flops
from clip_jax.config import ModelConfig, RunConfig
from clip_jax.config.io import to_dict
from clip_jax.errors import UserError
from clip_jax.storage.records import Measurement
from clip_jax.types import JsonObject

CARD = "README.md"
MARK = "# written by clip-jax export"  # a card without this line is someone's own
LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
# Python that loads the weights, by library; {library} stands for where they are
LOADING = {
    "open_clip": """import open_clip

name = "{open_clip}"
model, _, preprocess = open_clip.create_model_and_transforms(name)
tokenizer = open_clip.get_tokenizer(name)
""",
    "transformers": """from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

name = "{transformers}"
model = AutoModel.from_pretrained(name)
preprocess = AutoImageProcessor.from_pretrained(name)
tokenizer = AutoTokenizer.from_pretrained(name)
""",
    "clip_jax": """from clip_jax import load_model

model = load_model("{clip_jax}")
shares = model.classify(["photo.jpg"], labels=["a dog", "a cat"])
""",
}


@dataclass(frozen=True)
class Training:
    """Record of a run about the weights of one checkpoint.

    ``records`` holds the fields of ``status.json`` and ``result.json``, those that were written.
    """

    config: RunConfig
    step: int  # of the checkpoint
    flops: float  # of training up to it
    evals: list[Measurement] = field(default_factory=list)  # at this step
    records: JsonObject = field(default_factory=dict)


def loading_text(layout: str, repo: str = "") -> str:
    """Return the card's Python for loading: from the working directory, or from a repository on the hub."""
    at = {"open_clip": "local-dir:.", "transformers": ".", "clip_jax": "."}
    if repo:
        at = {"open_clip": f"hf-hub:{repo}", "transformers": repo, "clip_jax": f"hf:{repo}"}
    blocks = (f"```python\n{LOADING[name].format(**at)}```\n" for name in (layout, "clip_jax"))
    return "\n".join(blocks)


def model_card(
    title: str, model: ModelConfig, layout: str, *, source: str = "", base_model: str = "", license_id: str = "",
    training: Training | None = None,
) -> str:  # fmt: skip
    """Return the text of a model card. What is not known is left out.

    Args:
      title: its first heading.
      model: the model.
      layout: ``open_clip`` or ``transformers``.
      source: for weights that no run here trained, what they were converted from.
      base_model: the hub repository that the weights come from or began with.
      license_id: the license of the weights, as the hub names it, such as ``mit``.
      training: what the run recorded; None without a run.

    Raises:
      UserError: the license has characters that no name on the hub has.
    """
    if license_id and not LICENSE.fullmatch(license_id):
        raise UserError(
            field="--license", value=license_id, reason="must be a name of the hub, such as mit or cc-by-4.0"
        )
    front = {
        "library_name": layout, "pipeline_tag": "zero-shot-image-classification", "tags": ["clip", "clip_jax"],
        "license": license_id, "base_model": base_model,
    }  # fmt: skip
    parts = [f"---\n{MARK}\n{yaml.safe_dump({k: v for k, v in front.items() if v}, sort_keys=False)}---\n"]
    parts.append(f"# {_plain(title)}\n")
    origin = "was trained with" if training else f"was converted from `{_plain(_last_part(source))}` by"
    parts.append(f"This CLIP model {origin} clip_jax (`clip-jax-scaling`).\n")
    parts += ["## Model\n", _table(("", "image", "text"), _architecture(model)), _sizes(model)]
    if training:
        parts += ["## Training\n", _table(("", ""), _training(training))]
        if training.evals:
            parts += [f"## Evaluation after {training.step:,} steps\n", _evals(training.evals)]
    parts += ["## Load it\n", f"From the folder of this file:\n\n{loading_text(layout)}"]
    if training:
        shown = json.dumps(_shareable(to_dict(training.config)), indent=1)
        parts += ["## Config of the run\n", f"Of paths, only the last part is shown.\n\n```json\n{shown}\n```\n"]
    return "\n".join(parts)


def _plain(text: object) -> str:
    """Return text as it can stand in a cell of a table, on one line."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("`", "'")


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(_plain(cell) for cell in line) + " |\n" for line in lines)


def _architecture(model: ModelConfig) -> list[tuple[object, ...]]:
    image, text, params = model.image, model.text, flops.params(model)
    kind = f"ResNet, blocks {list(image.stages)}" if image.stages else f"ViT, patches of {image.patch_size}"
    return [
        ("architecture", kind, text.encoder),
        ("input", f"{image.image_size} × {image.image_size} pixels",
         f"{text.context_length} tokens, vocabulary of {text.vocab_size:,}"),
        ("width", image.width, text.width),
        ("depth", image.depth, text.depth),
        ("heads", image.heads, text.heads),
        ("parameters", f"{params.image:,}", f"{params.text:,}"),
    ]  # fmt: skip


def _sizes(model: ModelConfig) -> str:
    params, forward = flops.params(model), flops.flops_per_sample(model)
    decoder = f", {params.decoder:,} of them in the decoder" if params.decoder else ""
    cost = f"{forward.total:.3g} FLOPs per pair for a forward pass"
    return f"{params.total:,} parameters{decoder}; embeddings of {model.embed_dim} dimensions; {cost}.\n"


def _training(training: Training) -> list[tuple[str, object]]:
    config, records = training.config, training.records
    seen = training.step * config.batch_size
    progress = "" if training.step == config.steps else f" of {config.steps:,} (not finished)"
    rows: list[tuple[str, object]] = [
        ("pairs seen", f"{seen:,} in {training.step:,} steps{progress} of {config.batch_size:,}"),
        ("training FLOPs", f"{training.flops:.3g}"),
        ("data", f"{config.data.source}"),
        ("loss", config.loss.name if config.model.objective == "contrastive" else config.model.objective),
        ("optimizer", config.optim.optimizer),
        ("peak learning rate", f"{config.optim.peak_lr:g}"),
        ("seed", config.seed),
    ]
    if config.optim.averages:
        decay = config.optim.ema_decay
        average = (
            f"an exponential moving average, decay {decay:g}" if decay else "the average of schedule-free training"
        )
        rows.append(("weights", average))
    train = (records.get("data") or {}).get("train") or {}
    if train.get("records") and config.data.source != "scenes":
        rows.insert(3, ("training pairs", f"{train['records']:,}"))
    if config.init_from.source:
        source, towers = _last_part(config.init_from.source), config.init_from.towers
        rows.append(("initial weights", f"{source} ({'both towers' if towers == 'both' else f'{towers} tower'})"))
    device, versions = records.get("device") or {}, records.get("versions") or {}
    if "count" in device and "kind" in device:
        rows.append(("devices", f"{device['count']} × {device['kind']}"))
    if records.get("wall_s"):
        rows.append(("wall time", f"{records['wall_s'] / 3600:.2g} h"))
    if versions:
        names = ("clip-jax-scaling", "jax", "flax", "optax")
        rows.append(("versions", ", ".join(f"{n} {versions[n]}" for n in names if n in versions)))
    return rows


def _evals(evals: list[Measurement]) -> str:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.4f}"

    rows = []
    for r in evals:
        low, high = r.get("low"), r.get("high")
        interval = "" if low is None or high is None else f"[{low:.3f}, {high:.3f}]"
        examples = "" if r["examples"] is None else f"{r['examples']:,}"
        task = _last_part(r["task"])
        rows.append((task, r["metric"], number(r["value"]), interval, number(r["chance"]), examples))
    return _table(("task", "metric", "value", "95 % interval", "chance", "examples"), rows)


def _last_part(text: str) -> str:
    """Return the last part of a local path or URL, for folders of the author's machine; other text as it is."""
    local = text.startswith(("/", "~", ".")) or "://" in text or "\\" in text
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1] if local else text


def _shareable(values: object) -> object:
    """Return a config without trackers, with `_last_part` of every path."""
    if isinstance(values, dict):
        return {k: _shareable(v) for k, v in values.items() if k not in ("wandb", "tracking")}
    if isinstance(values, list | tuple):
        return [_shareable(v) for v in values]
    return _last_part(values) if isinstance(values, str) else values
