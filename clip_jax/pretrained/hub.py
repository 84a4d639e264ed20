"""Uploading exported weights to the Hugging Face hub."""

from __future__ import annotations

import json
from pathlib import Path

from clip_jax.errors import UserError
from clip_jax.pretrained.files import read_json
from clip_jax.pretrained.model_card import CARD, loading_text
from clip_jax.pretrained.names import CONFIGS, TOKENIZERS, WEIGHTS

# what `load.save_weights` and the card write; nothing else in the folder is uploaded
UPLOADED = (CARD, *CONFIGS, *WEIGHTS[:2], *TOKENIZERS, "tokenizer_config.json", "preprocessor_config.json")


def push(folder: Path, repo: str, *, private: bool = False) -> str:
    """Upload the exported weights in a folder to a repository of the hub, in one commit; return its address.

    Who uploads is known to huggingface_hub: by ``HF_TOKEN`` or a login. In the uploaded copies, the model card loads
    the model from the hub, and open_clip's config names the repository as the place of the tokenizer.

    Args:
      folder: what ``clip-jax export`` wrote.
      repo: ``OWNER/NAME``; created if missing.
      private: whether a repository that is created is private.

    Raises:
      UserError: the folder holds no exported weights, the repository has no such name, or the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    files = {name: folder / name for name in UPLOADED if (folder / name).is_file()}
    layout = "open_clip" if CONFIGS[0] in files else "transformers"
    if not (set(CONFIGS) & set(files) and set(WEIGHTS) & set(files)):
        raise UserError(field=folder, reason="holds no exported weights", hint="write them with clip-jax export")
    if repo.count("/") != 1:
        raise UserError(field=repo, reason="must have the form OWNER/NAME")
    contents: dict[str, Path | bytes] = {**files}
    if CARD in files:
        card = files[CARD].read_text(encoding="utf-8")
        contents[CARD] = card.replace(loading_text(layout), loading_text(layout, repo)).encode()
    if layout == "open_clip":
        config = read_json(files[CONFIGS[0]])
        text_cfg = config.get("model_cfg", {}).get("text_cfg", {})
        if "hf_tokenizer_name" in text_cfg:
            text_cfg["hf_tokenizer_name"] = repo
            contents[CONFIGS[0]] = json.dumps(config, indent=2).encode()
    # the first base is that of the HTTP library's errors, which it does not translate
    failures: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, OSError, ValueError)
    adds = [CommitOperationAdd(name, content) for name, content in contents.items()]
    try:
        api = HfApi()
        address = api.create_repo(repo, private=private or None, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise UserError(field=repo, reason="exists and is public", hint="drop --private, or name another")
        api.create_commit(repo, adds, commit_message="Weights from clip_jax")
    except UserError:
        raise
    except failures as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        hint = "log in with `hf auth login`, or set HF_TOKEN" if status in (401, 403) else None
        raise UserError(field=repo, reason=f"{error}".partition("\n")[0] or type(error).__name__, hint=hint) from None
    return str(address)
