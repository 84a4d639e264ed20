"""`clip-jax init`: write example configs that come with the package."""

from __future__ import annotations

import ast
from importlib import resources
from pathlib import Path, PurePosixPath

from clip_jax.errors import UserError
from clip_jax.storage.paths import disk_errors, mkdir, write_text

# name -> (file or folder of cli/examples, what it is)
EXAMPLES = {
    "quickstart": ("sweeps/quickstart.py", "a sweep on rendered scenes"),
    "photos": ("photos.py", "one run on pictures of your own"),
    "finetune": ("finetune.py", "a published CLIP, trained further on pictures of your own"),
    "pod": ("sweeps/pod.py", "a sweep of the published vision transformers on a TPU pod"),
    "sweeps": ("sweeps", "the folder sweeps/ that the documentation names"),
    "experiments": ("experiments", "the folder experiments/ that the documentation names"),
}


def write_example(name: str, folder: Path) -> str:
    """Write an example config, or a folder of them.

    Args:
      name: one of `EXAMPLES`.
      folder: where to write ``NAME.py``, or the folder ``NAME`` of examples; created if missing.

    Returns:
      The path and how the example is used; of a folder, a line for each file.

    Raises:
      UserError: a file exists already, or cannot be written.
    """
    entry = PurePosixPath(EXAMPLES[name][0])
    package = resources.files("clip_jax.cli").joinpath("examples")
    source = package.joinpath(entry)
    if source.is_dir():
        paths = {entry / file.name: folder / entry / file.name for file in source.iterdir() if file.is_file()}
    else:
        paths = {entry: folder / entry.name}
    if existing := [path for path in paths.values() if path.exists()]:
        raise UserError(field=str(min(existing)), reason="exists already", hint="name another folder")
    lines = []
    with disk_errors(folder):
        for example, path in sorted(paths.items()):
            mkdir(path.parent)
            text = (
                package.joinpath(example).read_text(encoding="utf-8").replace(f"--config={example}", f"--config={path}")
            )
            write_text(path, text)
            usage = ast.get_docstring(ast.parse(text)) if path.suffix == ".py" else "Sets for clip-jax eval --suite."
            lines.append(f"{path}\n\n{usage}" if example == entry else f"{path}  {(usage or '').splitlines()[0]}")
    return "\n".join(lines)
