"""Every reader of files from outside, with well-formed samples of what it reads; `fuzz` damages them."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzz_mutations import Files, tgz


@dataclass(frozen=True)
class Reader:
    """``samples()`` gives well-formed inputs, each some files; ``read(folder)`` reads what has become of them."""

    samples: Callable[[], list[Files]]
    read: Callable[[Path], Any]


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


def parquet_samples() -> list[Files]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pictures = [_picture("JPEG")] * 5
    pq.write_table(pa.table({"image": pictures, "caption": [["a red", "a dog"]] * 5}), out, row_group_size=3)
    return [{"a.parquet": out.getvalue()}]


def read_parquet(folder: Path) -> None:
    from clip_jax.data.sources.parquet import ParquetPairs

    source = ParquetPairs(folder / "a.parquet", "train", "image", ("caption",), (), 1, 64)
    rows = list(range(min(len(source), 5)))
    source.get_many_captions(rows)
    source.get_many(rows)


def read_tar(folder: Path) -> None:
    from clip_jax.data.images.train_transforms import prepare
    from clip_jax.data.sources.webdataset import WebDataset

    source = WebDataset(folder / "a.tar", "train")
    rows = list(range(min(len(source), 5)))
    source.get_many_captions(rows)
    for record in source.get_many(rows):
        if not isinstance(record, ValueError):
            prepare(record.image, 16, "none")


def image_samples() -> list[Files]:
    kinds = [
        ("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "I;16"),
        ("WEBP", "RGB"), ("GIF", "P"), ("BMP", "RGB"), ("TIFF", "RGB"), ("TIFF", "F"), ("PPM", "RGB"), ("PNG", "1"),
        ("MPO", "RGB"),
    ]  # fmt: skip
    out = [{"a.jpg": _picture(kind, mode)} for kind, mode in kinds]
    for kind in ("AVIF", "DDS", "TGA", "ICO", "PCX", "EPS"):  # that nothing should open
        try:
            out.append({"a.jpg": _picture(kind)})
        except (OSError, KeyError, ValueError):
            continue
    return [*out, {"a.jpg": _picture("PNG", "L", (20_000, 1))}]


def read_image(folder: Path) -> None:
    from clip_jax.data.images.eval_preprocess import Preprocess
    from clip_jax.data.images.train_transforms import prepare
    from clip_jax.data.labeled.perceptual_hash import perceptual_hash

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
            {"captions.csv": b"filename,caption\na.jpg,\xc3\xa9\n", "a.jpg": b"x"},
            {"captions.csv": 'filename;caption\na.jpg;"a red; dog"\n'.encode("utf-16"), "a.jpg": b"x"}]  # fmt: skip


def read_captions(folder: Path) -> None:
    from clip_jax.data.sources.folder import CaptionedFolder

    source = CaptionedFolder(folder, "train")
    rows = list(range(min(len(source), 5)))
    source.get_many(rows)
    source.get_many_captions(rows)


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
    from clip_jax.scaling.data.runs_table import read_table

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

    from clip_jax.config.io import from_dict
    from clip_jax.config.model import ModelConfig
    from clip_jax.pretrained import mapping, open_clip
    from clip_jax.pretrained.files import write_tensors
    from clip_jax.pretrained.layouts import abstract_params, entries_for

    shape = open_clip.config_of(config["model_cfg"], "sample")
    assert from_dict(ModelConfig, {})
    params = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), abstract_params(shape))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
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
    from clip_jax.config.io import to_dict
    from clip_jax.config.sweep import SweepConfig

    return [{"run.json": json.dumps(to_dict(RunConfig())).encode()},
            {"sweep.json": json.dumps(to_dict(SweepConfig("s"))).encode()},
            {"run.yaml": b"steps: 50\noptim: {peak_lr: 1e-3}\ndata: &d\n  num_threads: 1\n"}]  # fmt: skip


def read_config(folder: Path) -> None:
    from clip_jax.config import RunConfig
    from clip_jax.config.io import load
    from clip_jax.config.sweep import SweepConfig
    from clip_jax.sweep.plan import make_plan

    for name in ("run.json", "run.yaml"):
        if (folder / name).exists():
            load(RunConfig, folder / name)
    if (folder / "sweep.json").exists():
        make_plan(load(SweepConfig, folder / "sweep.json"), None)


def overrides_samples() -> list[Files]:
    from clip_jax.config import RunConfig
    from clip_jax.config.io import to_dict
    from clip_jax.storage.json_files import flatten

    fields = flatten(to_dict(RunConfig()))
    return [{"o.json": json.dumps([name, value]).encode()} for name, value in fields.items()]


def read_overrides(folder: Path) -> None:
    from clip_jax.config import RunConfig
    from clip_jax.config.io import load

    text = (folder / "o.json").read_bytes().decode("utf-8", "surrogateescape")
    try:
        name, value = json.loads(text)
        overrides = {str(name): value if isinstance(value, str) else json.dumps(value)}
    except (ValueError, TypeError, RecursionError):
        overrides = {"optim.peak_lr": text, text[:50] or "x": text}
    (folder / "base.json").write_text("{}")
    load(RunConfig, folder / "base.json", overrides)


def records_samples() -> list[Files]:
    from clip_jax.config import RunConfig
    from clip_jax.config.io import run_id, to_dict
    from clip_jax.config.sweep import SweepConfig
    from clip_jax.storage.record_fields import FIELDS

    samples = {"text": "a", "name": "a", "flag": True, "object": {}, "whole": 3, "number": 0.5, "numbers": {"a": 1.5}}

    def make(kind: Any) -> Any:
        if isinstance(kind, dict):
            return {key: make(value) for key, value in kind.items()}
        return [make(kind[0])] if isinstance(kind, list) else samples[kind.rstrip("?")]

    config = RunConfig()
    name = run_id(config)
    files: Files = {"sweep.json": json.dumps(to_dict(SweepConfig("s"))).encode()}
    for file in FIELDS:
        values = make(FIELDS[file])
        values.pop("extensions", None)  # a run with a caller's loss is read by the same caller only
        line = json.dumps(values | {"run_id": name} if "run_id" in values else values).encode()
        files[f"runs/{name}/{file}"] = line + b"\n" + line + b"\n" if file.endswith("l") else line
    cell = make(FIELDS["plan.json"]["cells"][0]) | {"run_id": name, "dropped": None}  # type: ignore[index]
    del files[f"runs/{name}/plan.json"]
    files["plan.json"] = json.dumps({"cells": [cell, cell | {"run_id": "b"}]}).encode()
    files[f"runs/{name}/config.json"] = json.dumps(to_dict(config)).encode()
    files[f"runs/{name}/.lock"] = b'{"pid": 1, "host": "h", "machine": "m", "began": "3"}'
    running = {k: v for k, v in files.items() if not k.endswith("result.json")}
    return [files, running]


def read_records(folder: Path) -> None:
    from clip_jax.config import RunConfig
    from clip_jax.errors import UserError
    from clip_jax.storage.lock import RunLock, request_stop
    from clip_jax.sweep.collect import cells_of, collect, curves
    from clip_jax.sweep.launch.base import Job
    from clip_jax.sweep.launch.submission import JobState, requeue, set_aside_corrupt
    from clip_jax.sweep.run_state import RunState
    from clip_jax.sweep.status import status_table
    from clip_jax.train.run_directory import RunDirectory

    failed: UserError | None = None
    cells_of(folder)
    run_dir = next(p for p in (folder / "runs").iterdir() if p.is_dir())
    job = Job((run_dir,), ())

    def go_on() -> None:
        set_aside_corrupt(RunState.read(run_dir), lambda line: None)
        state = JobState.read(job)
        state.finished, state.given_up, state.verdict(2), requeue(run_dir)

    def asked() -> None:
        with contextlib.suppress(UserError):  # nobody of that number signed it
            request_stop(run_dir)

    for read in (
        lambda: status_table(folder), lambda: collect(folder), lambda: curves(folder), lambda: RunLock(run_dir).owner(),
        lambda: RunDirectory(run_dir, RunConfig()).rows("metrics.jsonl"), asked, go_on,
    ):  # fmt: skip
        try:
            read()
        except UserError as error:
            failed = error
    if failed is not None:
        raise failed


def tokenizer_samples() -> list[Files]:
    from clip_jax.data.tokenizers.clip_bpe import ClipTokenizer
    from clip_jax.data.tokenizers.learned_bpe import train_tokenizer

    learned = train_tokenizer(["a red dog", "two blue cats"] * 3, 300, 12)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.json"
        out = []
        for tokenizer in (learned, ClipTokenizer(12)):
            tokenizer.save(path)
            out.append({"tokenizer.json": path.read_bytes()})
    tokenizer_file = json.loads(out[0]["tokenizer.json"])
    foreign = {
        "format": "tokenizer.json 1",
        "context_length": 12,
        "pad_id": 0,
        "clean": "lower",
        "tokenizer": tokenizer_file["model"],
    }
    return [out[0], out[0], out[1], {"tokenizer.json": json.dumps(foreign).encode()}]


def read_tokenizer(folder: Path) -> None:
    from clip_jax.data.tokenizers.learned_bpe import load_tokenizer

    tokenizer = load_tokenizer(folder / "tokenizer.json")
    tokenizer.encode(["a red dog", "", "x" * 200, "é 猫 \0"])


def suite_samples() -> list[Files]:
    suite = {"data": ".", "sets": [
        {"name": "pets", "path": "pets", "kind": "classification", "prompts": "", "metric": "accuracy",
         "test_split": "test", "only": ["knn"]},
        {"name": "pairs", "path": "pairs", "kind": "retrieval"}]}  # fmt: skip
    picture = _picture("PNG")
    common = {"suite.json": json.dumps(suite).encode(), "pets/classnames.txt": b"cat\ndog\n"}
    templates = {"pets/zeroshot_classification_templates.txt": b"a {c}\n"}
    return [
        common | templates | {"pets/test/cat/0.png": picture, "pets/test/dog/0.png": picture},
        common | {"pets/test/0.tar": _shard()},
    ]


def read_suite(folder: Path) -> None:
    from clip_jax.data.images.eval_preprocess import Preprocess
    from clip_jax.data.labeled.open import open_labeled
    from clip_jax.evals import benchmark as transfer
    from clip_jax.storage.paths import write_text

    for entry in transfer.read_suite(str(folder / "suite.json"), str(folder)):
        write_text(folder / f"{entry.name}_{entry.tasks[0] if entry.tasks else ''}.json", "{}")
        data = open_labeled(folder / "pets")
        for split in data.splits:
            samples = data.split(split)
            for i in range(min(len(samples.labels), 3)):
                Preprocess(16)(samples.picture(i))


def package_samples() -> list[Files]:
    path = '<path fill="currentColor" d="M12 2 2 11h3v10h14V11h3Z"/>'
    one = {
        "prefix": "ph", "width": 24, "height": 24, "lastModified": 1,
        "info": {"name": "P", "author": {"name": "A", "url": "u"}, "category": "General", "palette": False,
                 "license": {"title": "MIT", "spdx": "MIT", "url": "u"}},
        "icons": {"home": {"body": path}, "home-fill": {"body": f"<g>{path}</g>", "width": 32, "left": 2},
                  "use": {"body": '<defs><path id="a" d="M0 0h9v9H0z"/></defs><use xlink:href="#a"/>'}},
        "aliases": {"house": {"parent": "home"}}, "categories": {"Places": ["home"]}, "suffixes": {"fill": "Fill"},
    }  # fmt: skip
    return [{"p.tgz": tgz({"package/json/ph.json": json.dumps(one).encode(), "package/readme.md": b"x"})}]


def read_package(folder: Path) -> None:
    from clip_jax.datasets.icons.package import icon_sets
    from clip_jax.datasets.icons.render import Renderer, render_set
    from clip_jax.datasets.icons.table import describe

    for icons in icon_sets(folder / "p.tgz"):
        render_set(icons, Renderer(24, "#000000"), folder)
        describe(icons, folder)


READERS = {
    "tar": Reader(tar_samples, read_tar), "image": Reader(image_samples, read_image),
    "parquet": Reader(parquet_samples, read_parquet),
    "captions": Reader(captions_samples, read_captions), "table": Reader(table_samples, read_runs_table),
    "safetensors": Reader(safetensors_samples, read_safetensors), "model": Reader(model_samples, read_model),
    "config": Reader(config_samples, read_config), "overrides": Reader(overrides_samples, read_overrides),
    "records": Reader(records_samples, read_records), "tokenizer": Reader(tokenizer_samples, read_tokenizer),
    "suite": Reader(suite_samples, read_suite), "package": Reader(package_samples, read_package),
}  # fmt: skip
