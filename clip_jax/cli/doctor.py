"""`clip-jax doctor`: what this machine offers, on one screen: packages, devices, caches, disk, tools of clusters."""

from __future__ import annotations

import os
import platform
import re
import shutil
import textwrap
from importlib import metadata
from pathlib import Path

from clip_jax import __version__
from clip_jax.distributed.cluster import COMPILE_CACHE
from clip_jax.storage.paths import cache_folder

DISTRIBUTION = "clip-jax-scaling"
EXTRAS = ("fast", "search", "icons", "tensorboard", "gcs", "s3")  # those that a user may miss
OF_JAX = ("jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin", "libtpu")  # shown where they are installed
TOOLS = ("nvidia-smi", "sbatch", "kubectl", "gcloud", "apptainer")
ACCELERATORS = (("/dev/nvidia0", "an NVIDIA GPU", "gpu"), ("/dev/accel0", "a TPU", "tpu"))  # file, what, extra
WIDTH, INDENT = 100, 10


def doctor() -> str:
    """Return the lines that a bug report needs; nothing is changed. Opens the devices of this machine."""
    lines = {"clip-jax": f"{__version__}, Python {platform.python_version()}, {platform.platform()}"}
    required, extras = _requirements()
    if required:
        required |= {name: version for name in OF_JAX if (version := _version(name))}
        lines["packages"] = ", ".join(f"{name} {version or 'MISSING'}" for name, version in required.items())
    lines["extras"] = _extras({name: None not in extras[name].values() for name in EXTRAS if name in extras})
    lines["devices"] = _devices()
    lines["memory"] = f"{_gigabytes(_memory())}, {os.cpu_count()} CPU cores"
    lines["disk"] = f"{_gigabytes(shutil.disk_usage('.').free)} free here"
    cache = cache_folder("xla").parent
    folder = cache if cache.exists() else next(p for p in cache.parents if p.exists())
    used = sum(f.stat().st_size for f in cache.rglob("*") if f.is_file() and not f.is_symlink())
    lines["caches"] = (
        f"{cache}: {_gigabytes(used)}, {_gigabytes(shutil.disk_usage(folder).free)} free ($CLIP_JAX_CACHE)"
    )
    lines["programs"] = f"{os.environ.get(COMPILE_CACHE) or cache_folder('xla')}: compiled programs (${COMPILE_CACHE})"
    lines["tools"] = ", ".join(f"{tool} {'yes' if shutil.which(tool) else 'no'}" for tool in TOOLS)
    return "\n".join(
        textwrap.fill(f"{name:{INDENT}}{text}", WIDTH, subsequent_indent=" " * INDENT, break_on_hyphens=False)
        for name, text in lines.items()
        if text
    )


def _requirements() -> tuple[dict[str, str | None], dict[str, dict[str, str | None]]]:
    """Return the versions of the required packages, and those of each extra; None where one is not installed."""
    required: dict[str, str | None] = {}
    extras: dict[str, dict[str, str | None]] = {}
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:  # used from a checkout
        requirements = []
    for text in requirements:
        name = re.split(r"[^\w.-]", text, maxsplit=1)[0]
        extra = re.search(r"extra == ['\"](\w+)", text)
        (extras.setdefault(extra[1], {}) if extra else required)[name] = _version(name)
    return required, extras


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _extras(complete: dict[str, bool]) -> str:
    parts = [", ".join(name for name in complete if complete[name])]
    if missing := [name for name in complete if not complete[name]]:
        parts.append(f"missing: {', '.join(missing)} (pip install '{DISTRIBUTION}[{','.join(missing)}]')")
    return "; ".join(filter(None, parts))


def _devices() -> str:
    """Return the devices that JAX finds, and an accelerator that it does not use."""
    import jax

    try:
        devices = jax.devices()
    except RuntimeError as error:  # a platform that $JAX_PLATFORMS names and that does not start
        return f"none: {str(error).splitlines()[0]}"
    text = f"{len(devices)} × {devices[0].device_kind} ({jax.default_backend()})"
    if jax.default_backend() == "cpu":
        for file, what, extra in ACCELERATORS:
            if Path(file).exists():
                text += f"; {what} is here, but JAX does not use it: pip install '{DISTRIBUTION}[{extra}]'"
                text += (
                    f", or unset JAX_PLATFORMS={platforms}" if (platforms := os.environ.get("JAX_PLATFORMS")) else ""
                )
    return text


def _memory() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else float("nan")


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB"
