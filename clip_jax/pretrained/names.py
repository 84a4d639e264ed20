"""Resolving a model's name or path to local files, through a table of names and the Hugging Face hub's cache."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from clip_jax.errors import UserError, closest, name_within
from clip_jax.pretrained.files import read_json

WEIGHTS = ("open_clip_model.safetensors", "model.safetensors", "model.safetensors.index.json", "weights.safetensors")
CONFIGS = ("open_clip_config.json", "config.json")
TOKENIZERS = ("clip_jax_tokenizer.json", "tokenizer.json")

Fetch = Callable[[str, str], Path]  # (repository, file) -> path; raises FileNotFoundError if there is no such file


@dataclass(frozen=True)
class Files:
    """The files found for a name; only the weights are always present."""

    weights: Path
    config: Path | None = None
    tokenizer: Path | None = None
    preprocessor: Path | None = None
    tokenizer_config: Path | None = None
    processor: Path | None = None


def table() -> dict[str, dict[str, str]]:
    """Read the table from names to hub repositories, for ``openai`` and ``open_clip``."""
    values = json.loads(resources.files("clip_jax.pretrained").joinpath("names.json").read_text())
    return {kind: values[kind] for kind in ("openai", "open_clip")}


def repository(name: str) -> str | None:
    """Return the hub repository of ``openai/…``, ``open_clip:MODEL/TAG`` or ``hf:OWNER/NAME``; None for other names.

    Raises UserError, with the most similar names, if the table has no such model.
    """
    for prefix, kind in (("openai/", "openai"), ("open_clip:", "open_clip")):
        if name.startswith(prefix):
            known = table()[kind]
            short = name.removeprefix(prefix)
            if short not in known:
                near = closest(short, known, 4) or list(known)[:4]
                listed = ", ".join(prefix + n for n in near)
                reason = f"not one of the {len(known)} models of {kind}"
                raise UserError(field=name, reason=reason, hint=f"near it: {listed}")
            return known[short]
    if name.startswith("hf:"):
        repo = name.removeprefix("hf:")
        if repo.count("/") != 1 or not all(repo.split("/")):
            raise UserError(field=name, reason="must have the form hf:OWNER/NAME")
        return repo
    return None


def hub_fetch(repo: str, file: str) -> Path:
    """Fetch one file through the hub's cache; with ``HF_HUB_OFFLINE=1``, only from the cache.

    Raises FileNotFoundError if the repository has no such file, and UserError if the hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, file))
    except LocalEntryNotFoundError:  # a subclass of EntryNotFoundError that means "not cached", not "does not exist"
        reason = f"{file} is not in the cache, and the hub cannot be reached"
        raise UserError(field=f"hf:{repo}", reason=reason) from None
    except EntryNotFoundError:
        raise FileNotFoundError(file) from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(field=f"hf:{repo}", reason=str(error).splitlines()[0]) from None


def _first(repo: str, names: tuple[str, ...], fetch: Fetch) -> Path | None:
    for name in names:
        try:
            return fetch(repo, name)
        except FileNotFoundError:
            continue
    return None


def _if_reached(repo: str, name: str, fetch: Fetch) -> Path | None:
    """Fetch a file that only some models need, or return None; a tokenizer that needs it raises (`tokenizer_files`)."""
    try:
        return _first(repo, (name,), fetch)
    except UserError:  # offline, and an older cache without the file
        return None


def _in_folder(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / n for n in names if (folder / n).is_file()), None)


def _local(path: Path) -> Files:
    if path.is_dir():
        weights = _in_folder(path, WEIGHTS)
        if weights is None:
            candidates = sorted(path.glob("*.safetensors")) or sorted(
                p for p in path.iterdir() if p.suffix in (".bin", ".pt", ".pth")
            )
            if len(candidates) != 1:
                raise UserError(field=path, reason=f"holds no weights ({', '.join(WEIGHTS)}) and no run")
            weights = candidates[0]
    else:
        weights = path
    folder = weights.parent
    return Files(
        weights, _in_folder(folder, CONFIGS), _in_folder(folder, TOKENIZERS),
        _in_folder(folder, ("preprocessor_config.json",)), _in_folder(folder, ("tokenizer_config.json",)),
        _in_folder(folder, ("processor_config.json",)),
    )  # fmt: skip


def find(name: str, fetch: Fetch = hub_fetch) -> Files:
    """Find the files of a named model, or of a path to weights or their folder.

    Raises UserError if there is nothing of that name.
    """
    path = Path(name)
    if path.exists():
        return _local(path)
    repo = repository(name)
    if repo is None:
        reason = "no such file, folder or model"
        raise UserError(field=name, reason=reason, hint="models are openai/NAME, open_clip:MODEL/TAG or hf:OWNER/NAME")
    config = _first(repo, CONFIGS, fetch)
    if config is None:
        raise UserError(field=f"hf:{repo}", reason=f"has neither {' nor '.join(CONFIGS)}")
    order = WEIGHTS if config.name == CONFIGS[0] else WEIGHTS[1:]
    weights = _first(repo, order, fetch)
    if weights is None:
        hint = "download a pickle and pass its path to see the command that converts it"
        raise UserError(field=f"hf:{repo}", reason="has no safetensors weights, and pickles are never read", hint=hint)
    if weights.name.endswith(".index.json"):
        names = read_json(weights).get("weight_map")
        for shard in sorted(set(map(str, names.values()))) if isinstance(names, dict) else ():
            fetch(repo, name_within(f"{weights}: shard", shard))
    tokenizer = _if_reached(repo, TOKENIZERS[0], fetch) or _first(repo, TOKENIZERS[1:], fetch)
    return Files(
        weights, config, tokenizer, _first(repo, ("preprocessor_config.json",), fetch),
        _if_reached(repo, "tokenizer_config.json", fetch), _if_reached(repo, "processor_config.json", fetch),
    )  # fmt: skip
