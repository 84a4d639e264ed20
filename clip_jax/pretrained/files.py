"""Reading and writing weight files. Only safetensors is opened, because reading a pickle can run code."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from clip_jax.errors import UserError, foreign, name_within, parse_json
from clip_jax.storage.paths import disk_errors, read_text
from clip_jax.types import JsonObject

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")


def conversion_command(path: Path) -> str:
    """Return a shell command that converts a pickle to safetensors, for users who trust the file."""
    name, target = path.name, path.with_suffix(".safetensors").name
    load = f"torch.load('{name}', map_location='cpu', weights_only=True)"
    if zipfile.is_zipfile(path):  # reads the list of names, but no member
        with zipfile.ZipFile(path) as archive:
            if any("/code/" in member for member in archive.namelist()):  # TorchScript, as the released models are
                load = f"torch.jit.load('{name}', map_location='cpu').state_dict()"
    return (
        f"python -c \"import torch, safetensors.torch as s; d = {load}; d = d.get('state_dict', d); "
        "s.save_file({k.removeprefix('module.'): v.contiguous().clone() for k, v in d.items()}, "
        f"'{target}')\""
    )


def _refuse_pickle(path: Path, head: bytes) -> None:
    if path.suffix in PICKLES or head[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        reason = "a pickle, which can run code when read"
        raise UserError(field=path, reason=reason, hint=f"if you trust it, convert it: {conversion_command(path)}")


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Read all tensors of a .safetensors file, or of the shards that a .safetensors.index.json names.

    Raises UserError for a file that is missing, truncated or of another kind, and for a pickle (with the command that
    converts it).
    """
    if path.name.endswith(".index.json"):
        names = read_json(path).get("weight_map")
        if not isinstance(names, dict) or not names:
            raise UserError(field=path, reason="holds no weight_map")
        out: dict[str, np.ndarray] = {}
        for name in sorted(set(map(str, names.values()))):
            out |= read_tensors(path.with_name(name_within(f"{path}: shard", name)))
        return out
    if not path.is_file():
        raise UserError(field=path, reason="no such weights file")
    with path.open("rb") as file:
        _refuse_pickle(path, file.read(8))
    from safetensors import safe_open

    with foreign(path, "a whole safetensors file"), safe_open(path, framework="numpy") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dictionary)


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write a .safetensors file atomically, with the permissions of the umask. Raises UserError on disk errors."""
    from safetensors.numpy import save_file

    partial = path.with_name(f".{path.name}.partial")
    with disk_errors(path):
        try:
            partial.touch()
            mode = partial.stat().st_mode & 0o777  # as the umask sets it; the library would set 0600
            save_file({k: np.asarray(v, order="C") for k, v in tensors.items()}, partial, metadata={"format": "pt"})
            partial.chmod(mode)
            partial.replace(path)
        except Exception:
            partial.unlink(missing_ok=True)
            raise


def read_json(path: Path) -> JsonObject:
    """Read a JSON object; raise UserError if the file is missing or holds something else."""
    try:
        values = parse_json(read_text(path), path)
    except FileNotFoundError:
        raise UserError(field=path, reason="no such file") from None
    if not isinstance(values, dict):
        raise UserError(field=path, reason="must hold a JSON object")
    return values
