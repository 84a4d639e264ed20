"""Reproducible tar shards: no times or owners, old ustar headers only, so equal members give equal bytes."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from clip_jax.datasets.icons.package import digest
from clip_jax.storage.paths import write_text

SHARD = 10_000  # samples
Sample = tuple[str, dict[str, bytes]]  # key, extension -> content


def write_shards(folder: Path, samples: Iterable[Sample]) -> dict[str, str]:
    """Write FOLDER/000000.tar and so on, replacing the folder; return SHA-256 by file name."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sums = {}
    for number, batch in enumerate(_batches(iter(samples))):
        path = folder / f"{number:06d}.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for key, members in batch:
                for extension, content in members.items():
                    member = tarfile.TarInfo(f"{key}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
                tar.members = []  # type: ignore[attr-defined]  # TarFile keeps every member otherwise
        sums[path.name] = digest(path)
    return sums


def _batches(samples: Iterator[Sample]) -> Iterator[Iterator[Sample]]:
    import itertools

    while (first := next(samples, None)) is not None:
        yield itertools.chain([first], itertools.islice(samples, SHARD - 1))


def write_task(
    folder: Path, samples: Iterable[Sample], classes: tuple[str, ...], templates: tuple[str, ...]
) -> dict[str, str]:
    """Write a classification set as evaluations read it; samples hold an image and ``cls``. Return SHA-256 by path."""
    sums = write_shards(folder / "test", samples)
    write_text(folder / "classnames.txt", "\n".join(classes) + "\n")
    write_text(folder / "zeroshot_classification_templates.txt", "\n".join(templates) + "\n")
    return {f"test/{name}": value for name, value in sums.items()}
