"""`clip-jax init`: write one of the example configs that come with the package."""

from __future__ import annotations

import ast
from importlib import resources
from pathlib import Path

from clip_jax.errors import UserError
from clip_jax.storage.paths import disk_errors, mkdir

EXAMPLES = {
    "quickstart": "a sweep on rendered scenes",
    "photos": "one run on pictures of your own",
    "finetune": "a published CLIP, trained further on pictures of your own",
    "pod": "a sweep of the published vision transformers on a TPU pod",
}


def write_example(name: str, folder: Path) -> str:
    """Write an example config.

    Args:
      name: one of `EXAMPLES`.
      folder: where to write ``NAME.py``; created if missing.

    Returns:
      The path, and how the example is used.

    Raises:
      UserError: the file exists already, or cannot be written.
    """
    path = folder / f"{name}.py"
    text = resources.files("clip_jax.cli").joinpath("examples", path.name).read_text(encoding="utf-8")
    text = text.replace(f"--config={path.name}", f"--config={path}")
    if path.exists():
        raise UserError(field=str(path), reason="exists already", hint="name another folder")
    with disk_errors(folder):
        mkdir(folder)
        path.write_text(text, encoding="utf-8")
    return f"{path}\n\n{ast.get_docstring(ast.parse(text))}"
