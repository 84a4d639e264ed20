"""Damaged and hostile input for every reader of files from outside: `make fuzz`.

Each case is a well-formed sample with one to three mutations, by a seed of its own, read in a process with a limit of time
and memory. What may come of it: it is read, or refused with one line. A traceback, a hang of more than 10 s, more than 2 GB,
a process that dies, or a file outside the case's folder is a failure; its input and traceback are kept under --out.

    python benchmarks/fuzz.py                       # 2,000 cases of each reader
    python benchmarks/fuzz.py --readers=tar --cases=50
    python benchmarks/fuzz.py --readers=tar --first=17 --cases=1   # one case again
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import os
import queue
import random
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HANG_S, MEMORY, START_S = 10.0, 2 << 30, 180.0
Files = dict[str, bytes]


@dataclass(frozen=True)
class Reader:
    """``samples()`` gives well-formed inputs, each some files; ``read(folder)`` reads them, whatever has become of them."""

    samples: Callable[[], list[Files]]
    read: Callable[[Path], Any]


# --- mutations ---


def nasty_values(root: str) -> list[Any]:
    """What JSON can hold and nobody expects; ``root`` is where nothing may be written."""
    return [
        None, True, False, 0, -1, 1, 2**31, 2**63, 10**19, 10**400, 1e308, -1e308, 1e-320, float("nan"), float("inf"),
        "", "a", "\0", "\ud800", "../../../escaped/x", f"{root}/escaped/x", "/dev/zero", "x" * 5000, "9" * 5000, "null",
        [], {}, [[]], [None], {"a": {}}, "\n", "-", "é", "{0}", "%s", "<b>", 0.1,
    ]  # fmt: skip


TOKENS = [
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"[" * 50_000, b'{"a":' * 20_000, b"9" * 400, b"1e999", b"NaN", b"-", b'"', b",", b";",
    b"\t", b"\r\n", b"\n\n", b"../../escaped/x", b"\xf0\x9f\x98\x80", b"\xe2\x80\xa8", b"''", b"=", b"#", b"\\", b"A" * 200_000,
]  # fmt: skip


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """One change to bytes."""
    at, out = rng.randrange(len(data) + 1), bytearray(data)
    kind = rng.randrange(8)
    if kind == 0 and out:
        out[at % len(out)] ^= 1 << rng.randrange(8)
    elif kind == 1 and out:
        out[at % len(out)] = rng.choice((0, 1, 127, 128, 255))
    elif kind == 2:
        del out[at : at + rng.choice((1, 4, 64, 512, 4096))]
    elif kind == 3:
        out[at:at] = out[at : at + rng.choice((1, 16, 512, 4096))] * rng.choice((1, 2, 50))
    elif kind == 4:
        out[at:at] = rng.choice(TOKENS)
    elif kind == 5:
        del out[at:]
    elif kind == 6:
        out[at : at + 8] = rng.randbytes(rng.choice((1, 2, 4, 8)))
    else:
        for _ in range(rng.randrange(1, 30)):
            if out:
                out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


def _places(value: Any, into: list[tuple[Any, Any]]) -> None:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        into.append((value, key))
        _places(inner, into)


def mutate_json(rng: random.Random, data: bytes, root: str) -> bytes:
    """One change to the structure of JSON (or to one of its lines); of anything else, to its bytes."""
    lines = data.split(b"\n")
    which = (
        rng.randrange(len(lines)) if len(lines) > 2 and lines[0].startswith(b"{") and lines[0].endswith(b"}") else None
    )
    try:
        value = json.loads(data if which is None else lines[which])
    except ValueError:
        return mutate_bytes(rng, data)
    places: list[tuple[Any, Any]] = []
    _places(value, places)
    nasty = rng.choice(nasty_values(root))
    if not places or rng.random() < 0.03:
        value = nasty
    else:
        holder, key = rng.choice(places)
        kind = rng.randrange(6)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[f"{key}x"] = holder.pop(key)
        elif kind == 2:
            other_holder, other_key = rng.choice(places)
            holder[key] = (
                copy.deepcopy(other_holder[other_key])
                if other_key in other_holder or (isinstance(other_holder, list) and other_key < len(other_holder))
                else nasty
            )
        else:
            holder[key] = nasty
    made = json.dumps(value).encode()
    if which is None:
        return made
    lines[which] = made
    return b"\n".join(lines)


def mutate_tgz(rng: random.Random, data: bytes, root: str) -> bytes:
    """One change to a member of a compressed tar, or to the archive's own bytes."""
    if rng.random() < 0.2:
        return mutate_bytes(rng, data)
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
            members = [(m.name, f.read() if (f := tar.extractfile(m)) else b"") for m in tar]
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError):
        return mutate_bytes(rng, data)
    which = rng.randrange(len(members)) if members else 0
    if members:
        name, content = members[which]
        members[which] = (name, mutate(rng, "a.json", content, root)) if rng.random() < 0.9 else (f"../{name}", content)
    return tgz(dict(members))


def mutate(rng: random.Random, name: str, data: bytes, root: str) -> bytes:
    """One change to a file, of the kind that its name calls for."""
    if name.endswith(".tgz"):
        return mutate_tgz(rng, data, root)
    if name.endswith((".json", ".jsonl", ".lock")) and rng.random() < 0.75:
        return mutate_json(rng, data, root)
    return mutate_bytes(rng, data)


def tgz(contents: Files) -> bytes:
    """A compressed tar of these files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


# --- readers ---


def _picture(kind: str, mode: str = "RGB", size: tuple[int, int] = (24, 18), **options: Any) -> bytes:
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, kind, **options)
    return out.getvalue()


def _shard() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for key in range(3):
            for end, content in (("jpg", _picture("JPEG")), ("txt", b"a red\na dog"), ("cls", b"1"), ("json", b"{}")):
                member = tarfile.TarInfo(f"k/{key}.{end}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def tar_samples() -> list[Files]:
    return [{"a.tar": _shard()}]


def read_tar(folder: Path) -> None:
    from clip_jax.data.transforms import prepare
    from clip_jax.data.webdataset import WebDataset

    source = WebDataset(folder / "a.tar", "train")
    rows = list(range(min(len(source), 5)))
    source.many_captions(rows)
    for record in source.many(rows):
        if not isinstance(record, ValueError):
            prepare(record.image, 16, "none")


def image_samples() -> list[Files]:
    kinds = [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "I;16"), ("WEBP", "RGB"),
             ("GIF", "P"), ("BMP", "RGB"), ("TIFF", "RGB"), ("TIFF", "F"), ("PPM", "RGB"), ("PNG", "1"), ("MPO", "RGB")]  # fmt: skip
    out = [{"a.jpg": _picture(kind, mode)} for kind, mode in kinds]
    for kind in ("AVIF", "DDS", "TGA", "ICO", "PCX", "EPS"):  # that nothing should open
        try:
            out.append({"a.jpg": _picture(kind)})
        except (OSError, KeyError, ValueError):
            continue
    return [*out, {"a.jpg": _picture("PNG", "L", (20_000, 1))}]


def read_image(folder: Path) -> None:
    from clip_jax.data.overlap import perceptual_hash
    from clip_jax.data.preprocess import Preprocess
    from clip_jax.data.transforms import prepare

    data = (folder / "a.jpg").read_bytes()
    failed: Exception | None = None
    for read in (
        lambda: prepare(data, 32, "none"), lambda: prepare(data, 32, "square_crop", "simplejpeg"),
        lambda: Preprocess(32)(data), lambda: Preprocess(32, "longest")(folder / "a.jpg"),
        lambda: Preprocess(32, "squash")(data), lambda: perceptual_hash(data),
    ):  # fmt: skip
        try:
            read()
        except ValueError as error:
            if type(error).__name__ != "BrokenRecord":
                raise
            failed = error
    if failed is not None:
        raise failed


def captions_samples() -> list[Files]:
    rows = 'filename,caption\na.jpg,a red dog\nb/c.jpg,"two, words"\na.jpg,again\n'
    return [{"captions.csv": rows.encode(), "a.jpg": _picture("JPEG")},
            {"captions.csv": b"filename,caption\na.jpg,\xc3\xa9\n", "a.jpg": b"x"}]  # fmt: skip


def read_captions(folder: Path) -> None:
    from clip_jax.data.folder import CaptionedFolder

    source = CaptionedFolder(folder, "train")
    rows = list(range(min(len(source), 5)))
    source.many(rows)
    source.many_captions(rows)


def table_samples() -> list[Files]:
    import pandas as pd

    rows = [{"run_id": f"r{i}", "flops": 1e10 * 2.5**i, "params": 1e4 * (i + 1), "samples_seen": 1e5 * (i + 1),
             "error_mean": 0.9 * 0.8**i, "seed": 0, "final": True} for i in range(6)]  # fmt: skip
    df = pd.DataFrame(rows)
    parquet = io.BytesIO()
    df.to_parquet(parquet)
    return [
        {"t.csv": df.to_csv(index=False).encode()}, {"t.tsv": df.to_csv(index=False, sep="\t").encode()},
        {"t.json": json.dumps(rows).encode()}, {"t.jsonl": "".join(json.dumps(r) + "\n" for r in rows).encode()},
        {"t.parquet": parquet.getvalue()},
    ]  # fmt: skip


def read_runs_table(folder: Path) -> None:
    from clip_jax.scaling.table import read_table

    read_table(next(folder.glob("t.*")))


def _model() -> Files:
    config = {
        "model_cfg": {
            "embed_dim": 16,
            "vision_cfg": {"image_size": 32, "width": 16, "layers": 1, "head_width": 8, "patch_size": 16},
            "text_cfg": {"context_length": 12, "vocab_size": 300, "width": 16, "heads": 2, "layers": 1},
        },
        "preprocess_cfg": {"size": 32, "mode": "RGB", "mean": [0.5, 0.5, 0.5], "std": [0.3, 0.3, 0.3],
                           "interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0},
    }  # fmt: skip
    import jax
    import numpy as np

    from clip_jax.config_io import from_dict
    from clip_jax.model_config import ModelConfig
    from clip_jax.pretrained import mapping, open_clip
    from clip_jax.pretrained.files import write_tensors
    from clip_jax.pretrained.layouts import abstract_params, entries_for

    shape = open_clip.config_of(config["model_cfg"], "sample")
    assert from_dict(ModelConfig, {})
    params = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), abstract_params(shape))
    with tempfile.TemporaryDirectory() as here:
        path = Path(here) / "a.safetensors"
        write_tensors(path, mapping.write(params, entries_for("open_clip", shape)))
        return {"open_clip_config.json": json.dumps(config).encode(), "open_clip_model.safetensors": path.read_bytes()}


def safetensors_samples() -> list[Files]:
    weights = _model()["open_clip_model.safetensors"]
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    return [
        {"m.safetensors": weights},
        {
            "m.safetensors.index.json": json.dumps(index).encode(),
            "one.safetensors": weights,
            "two.safetensors": weights,
        },
    ]


def read_safetensors(folder: Path) -> None:
    from clip_jax.pretrained.files import read_tensors

    index = folder / "m.safetensors.index.json"
    read_tensors(index if index.exists() else folder / "m.safetensors")


def model_samples() -> list[Files]:
    return [_model()]


def read_model(folder: Path) -> None:
    import warnings

    from clip_jax.pretrained.load import load_weights

    warnings.simplefilter("ignore")
    load_weights(str(folder))


def config_samples() -> list[Files]:
    from clip_jax.config import RunConfig
    from clip_jax.config_io import to_dict
    from clip_jax.sweep_config import SweepConfig

    return [{"run.json": json.dumps(to_dict(RunConfig())).encode()},
            {"sweep.json": json.dumps(to_dict(SweepConfig("s"))).encode()}]  # fmt: skip


def read_config(folder: Path) -> None:
    from clip_jax.config import RunConfig
    from clip_jax.config_io import load
    from clip_jax.sweep.plan import make_plan
    from clip_jax.sweep_config import SweepConfig

    if (folder / "run.json").exists():
        load(RunConfig, folder / "run.json")
    else:
        make_plan(load(SweepConfig, folder / "sweep.json"), None)


def overrides_samples() -> list[Files]:
    from clip_jax.config import RunConfig
    from clip_jax.config_io import to_dict
    from clip_jax.train.record import flat

    fields = flat(to_dict(RunConfig()))
    return [{"o.json": json.dumps([name, value]).encode()} for name, value in fields.items()]


def read_overrides(folder: Path) -> None:
    from clip_jax.config import RunConfig
    from clip_jax.config_io import load

    text = (folder / "o.json").read_bytes().decode("utf-8", "surrogateescape")
    try:
        name, value = json.loads(text)
        given = {str(name): value if isinstance(value, str) else json.dumps(value)}
    except (ValueError, TypeError, RecursionError):
        given = {"optim.peak_lr": text, text[:50] or "x": text}
    (folder / "base.json").write_text("{}")
    load(RunConfig, folder / "base.json", given)


def records_samples() -> list[Files]:
    from clip_jax.config import RunConfig
    from clip_jax.config_io import run_id, to_dict
    from clip_jax.sweep_config import SweepConfig
    from clip_jax.train.shapes import FIELDS

    samples = {"text": "a", "name": "a", "flag": True, "object": {}, "whole": 3, "number": 0.5, "numbers": {"a": 1.5}}

    def make(kind: Any) -> Any:
        if isinstance(kind, dict):
            return {key: make(value) for key, value in kind.items()}
        return [make(kind[0])] if isinstance(kind, list) else samples[kind.rstrip("?")]

    config = RunConfig()
    name = run_id(config)
    files: Files = {"sweep.json": json.dumps(to_dict(SweepConfig("s"))).encode()}
    for file in FIELDS:
        line = json.dumps(make(FIELDS[file])).encode()
        files[f"runs/{name}/{file}"] = line + b"\n" + line + b"\n" if file.endswith("l") else line
    cell = make(FIELDS["plan.json"]["cells"][0]) | {"run_id": name, "dropped": None}  # type: ignore[index]
    del files[f"runs/{name}/plan.json"]
    files["plan.json"] = json.dumps({"cells": [cell, cell | {"run_id": "b"}]}).encode()
    files[f"runs/{name}/config.json"] = json.dumps(to_dict(config)).encode()
    files[f"runs/{name}/.lock"] = b'{"pid": 1, "host": "h", "machine": "m", "began": "3"}'
    running = {k: v for k, v in files.items() if not k.endswith("result.json")}
    return [files, running]


def read_records(folder: Path) -> None:
    from clip_jax.checks import UserError
    from clip_jax.config import RunConfig
    from clip_jax.sweep.collect import cells_of, collect, curves
    from clip_jax.sweep.launch.engine import Job
    from clip_jax.sweep.status import status_table
    from clip_jax.sweep.submission import finished, left_out, set_aside_corrupt, take_up, verdict
    from clip_jax.train.lock import RunLock, ask_to_stop
    from clip_jax.train.record import Record

    failed: UserError | None = None
    cells_of(folder)
    run_dir = next(p for p in (folder / "runs").iterdir() if p.is_dir())
    job = Job((run_dir,), ())

    def go_on() -> None:
        set_aside_corrupt(run_dir, lambda line: None, whole_result=True)
        finished(job), left_out(job), verdict(job, 2), take_up(job)

    for read in (
        lambda: status_table(folder), lambda: collect(folder), lambda: curves(folder), lambda: RunLock(run_dir).owner(),
        lambda: Record(run_dir, RunConfig()).rows("metrics.jsonl"), lambda: ask_to_stop(run_dir), go_on,
    ):  # fmt: skip
        try:
            read()
        except UserError as error:
            failed = error
    if failed is not None:
        raise failed


def tokenizer_samples() -> list[Files]:
    from clip_jax.data.published_tokenizer import PublishedTokenizer
    from clip_jax.data.tokenizers import train_tokenizer

    learned = train_tokenizer(["a red dog", "two blue cats"] * 3, 300, 12)
    with tempfile.TemporaryDirectory() as here:
        path = Path(here) / "t.json"
        out = []
        for tokenizer in (learned, PublishedTokenizer(12)):
            tokenizer.save(path)
            out.append({"tokenizer.json": path.read_bytes()})
    own = json.loads(out[0]["tokenizer.json"])
    foreign = {
        "format": "tokenizer.json 1",
        "context_length": 12,
        "pad_id": 0,
        "clean": "lower",
        "tokenizer": own["model"],
    }
    return [out[0], out[0], out[1], {"tokenizer.json": json.dumps(foreign).encode()}]


def read_tokenizer(folder: Path) -> None:
    from clip_jax.data.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(folder / "tokenizer.json")
    tokenizer.encode(["a red dog", "", "x" * 200, "é 猫 \0"])


def suite_samples() -> list[Files]:
    suite = {"data": ".", "sets": [
        {"name": "pets", "path": "pets", "kind": "classification", "prompts": "", "metric": "accuracy",
         "test_split": "test", "only": ["knn"]},
        {"name": "pairs", "path": "pairs", "kind": "retrieval"}]}  # fmt: skip
    picture = _picture("PNG")
    return [{
        "suite.json": json.dumps(suite).encode(), "pets/test/cat/0.png": picture, "pets/test/dog/0.png": picture,
        "pets/classnames.txt": b"cat\ndog\n", "pets/zeroshot_classification_templates.txt": b"a {c}\n",
    }, {"suite.json": json.dumps(suite).encode(), "pets/test/0.tar": _shard(), "pets/classnames.txt": b"cat\ndog\n"}]  # fmt: skip


def read_suite(folder: Path) -> None:
    from clip_jax.data.labelled import open_labelled
    from clip_jax.data.preprocess import Preprocess
    from clip_jax.evals import transfer
    from clip_jax.places import write_text

    for entry in transfer.read_suite(str(folder / "suite.json"), str(folder)):
        write_text(folder / f"{entry.name}_{entry.tasks[0] if entry.tasks else ''}.json", "{}")
        data = open_labelled(folder / "pets")
        for split in data.splits:
            found = data.split(split)
            for i in range(min(len(found.labels), 3)):
                Preprocess(16)(found.picture(i))


def package_samples() -> list[Files]:
    path = '<path fill="currentColor" d="M12 2 2 11h3v10h14V11h3Z"/>'
    one = {
        "prefix": "ph", "width": 24, "height": 24, "lastModified": 1,
        "info": {"name": "P", "author": {"name": "A", "url": "u"}, "license": {"title": "MIT", "spdx": "MIT", "url": "u"},
                 "category": "General", "palette": False},
        "icons": {"home": {"body": path}, "home-fill": {"body": f"<g>{path}</g>", "width": 32, "left": 2},
                  "use": {"body": '<defs><path id="a" d="M0 0h9v9H0z"/></defs><use xlink:href="#a"/>'}},
        "aliases": {"house": {"parent": "home"}}, "categories": {"Places": ["home"]}, "suffixes": {"fill": "Fill"},
    }  # fmt: skip
    return [{"p.tgz": tgz({"package/json/ph.json": json.dumps(one).encode(), "package/readme.md": b"x"})}]


def read_package(folder: Path) -> None:
    from clip_jax.data.icons.package import icon_sets
    from clip_jax.data.icons.render import Pen, draw_set
    from clip_jax.data.icons.table import describe

    for icons in icon_sets(folder / "p.tgz"):
        draw_set(icons, Pen(24, "#000000"), folder)
        describe(icons, folder)


READERS = {
    "tar": Reader(tar_samples, read_tar), "image": Reader(image_samples, read_image),
    "captions": Reader(captions_samples, read_captions), "table": Reader(table_samples, read_runs_table),
    "safetensors": Reader(safetensors_samples, read_safetensors), "model": Reader(model_samples, read_model),
    "config": Reader(config_samples, read_config), "overrides": Reader(overrides_samples, read_overrides),
    "records": Reader(records_samples, read_records), "tokenizer": Reader(tokenizer_samples, read_tokenizer),
    "suite": Reader(suite_samples, read_suite), "package": Reader(package_samples, read_package),
}  # fmt: skip

# --- running ---


def make_case(name: str, samples: list[Files], seed: int, number: int, root: Path) -> Files:
    """The files of one case; the same for the same reader, seed and number. Case 0 of each sample is well-formed."""
    rng = random.Random(f"{name} {seed} {number}")
    files = dict(samples[number % len(samples)])
    if number < len(samples):
        return files
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        file = rng.choice(sorted(files))
        files[file] = mutate(rng, file, files[file], str(root))
    return files


def read_case(reader: Reader, folder: Path) -> tuple[str, str]:
    """What came of it: ``read``, ``refused`` with its line, or ``failed`` with a traceback."""
    from clip_jax.checks import UserError
    from clip_jax.data.sources import BrokenRecord

    try:
        reader.read(folder)
    except (UserError, BrokenRecord, MemoryError) as error:  # the command says the last one in one line too
        lines = str(error).count("\n")
        return ("failed", f"{lines + 1} lines: {error}") if lines else ("refused", str(error))
    except BaseException as error:  # a panic of a library in Rust is no Exception
        if isinstance(error, KeyboardInterrupt):
            raise
        return "failed", traceback.format_exc(limit=-6)
    return "read", ""


def work(name: str, seed: int, first: int, count: int, root: Path) -> None:
    """A worker: a line of JSON for each case, and one before it."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    reader = READERS[name]
    samples = reader.samples()
    folder = root / "inside" / "case"
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what readers print
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for number in range(first, first + count):
        files = make_case(name, samples, seed, number, root)
        shutil.rmtree(folder, ignore_errors=True)
        for file, data in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(data)
        print(json.dumps({"begin": number}), file=out)
        began = time.monotonic()
        came, said = read_case(reader, folder)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        row = {"end": number, "came": came, "said": said[-3000:], "seconds": time.monotonic() - began, "peak": peak}
        print(json.dumps(row), file=out)


def _listing(root: Path) -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*") if not p.is_relative_to(root / "inside")}


def fuzz(name: str, seed: int, first: int, cases: int, out: Path) -> dict[str, Any]:
    """Run the cases of one reader; returns counts and keeps failures under ``out``."""
    counts: Counter[str] = Counter()
    failures: list[tuple[int, str]] = []
    slowest = peak = 0.0
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for part in ("inside/case", "inside/home"):
            (root / part).mkdir(parents=True)
        before = _listing(root)
        environment = os.environ | {
            "HOME": str(root / "inside/home"), "XDG_CACHE_HOME": str(root / "inside/home"), "TMPDIR": str(root / "inside"),
            "CLIP_JAX_CACHE": str(root / "inside/home/c"), "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join(sys.path), "RUST_BACKTRACE": "0",
        }  # fmt: skip
        number, end = first, first + cases
        while number < end:
            command = [sys.executable, __file__, "--worker", name, f"--seed={seed}", f"--first={number}",
                       f"--cases={end - number}", f"--root={root}"]  # fmt: skip
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, text=True, cwd=root / "inside/case", env=environment
            )
            assert process.stdout is not None
            lines: queue.Queue[str] = queue.Queue()
            threading.Thread(target=lambda p=process, q=lines: [*map(q.put, p.stdout), q.put("")], daemon=True).start()
            patience, last_peak = START_S, 0.0
            while True:
                try:
                    line = lines.get(timeout=patience)
                except queue.Empty:
                    failures.append((number, f"hangs for more than {patience:.0f} s"))
                    number += 1
                    break
                if not line:
                    if number < end:
                        failures.append((number, f"the process ended with {process.wait()}"))
                        number += 1
                    break
                row = json.loads(line)
                if "begin" in row:
                    number, patience = row["begin"], HANG_S
                    continue
                patience = HANG_S
                counts[row["came"]] += 1
                slowest, peak = max(slowest, row["seconds"]), max(peak, row["peak"])
                if row["came"] == "failed":
                    failures.append((number, row["said"]))
                elif row["peak"] > MEMORY >= last_peak:
                    failures.append((number, f"takes {row['peak'] / 1e9:.1f} GB"))
                last_peak = row["peak"]
                number += 1
            process.kill()
            process.wait()
        if outside := sorted(_listing(root) - before):
            failures.append((-1, f"written outside: {outside[:5]}"))
        samples = READERS[name].samples() if failures else []
        for case, said in failures:
            (out / name).mkdir(parents=True, exist_ok=True)
            (out / name / f"{case}.txt").write_text(said)
            if case >= 0:
                for file, data in make_case(name, samples, seed, case, root).items():
                    (out / name / f"{case}-{file.replace('/', '_')}").write_bytes(data)
    return {
        "reader": name, "cases": cases, "read": counts["read"], "refused": counts["refused"], "failures": failures,
        "slowest": slowest, "peak": peak, "seconds": time.monotonic() - began,
    }  # fmt: skip


def main() -> int:
    """Parse, run, print a table; the exit code says whether anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--readers", default=",".join(READERS))
    parser.add_argument("--cases", type=int, default=2000, help="of each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"), help="where failures are kept")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args.seed, args.first, args.cases, args.root)
        return 0
    print(f"{'reader':12} {'cases':>6} {'read':>6} {'refused':>8} {'failed':>7} {'slowest':>8} {'peak':>8} {'time':>7}")
    failed = 0
    for name in args.readers.split(","):
        row = fuzz(name, args.seed, args.first, args.cases, args.out.absolute())
        failed += len(row["failures"])
        print(
            f"{name:12} {row['cases']:6,d} {row['read']:6,d} {row['refused']:8,d} {len(row['failures']):7,d} "
            f"{row['slowest']:6.1f} s {row['peak'] / 1e6:5.0f} MB {row['seconds']:5.0f} s",
            flush=True,
        )
        kinds = Counter((said.strip().splitlines() or [""])[-1][:140] for _, said in row["failures"])
        for said, count in kinds.most_common(8):
            print(f"    {count} × {said}", flush=True)
    print(f"{failed} failures" + (f", kept in {args.out}" if failed else ""))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
