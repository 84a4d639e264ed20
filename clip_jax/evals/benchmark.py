"""The transfer benchmark: a suite of sets, each with zero-shot, linear probe, few-shot, k-NN or retrieval.

Each (set, task) has its own result file, so an interrupted benchmark resumes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np

from clip_jax.data.images.eval_preprocess import Preprocess
from clip_jax.data.labeled.class_names import Pairing, class_numbers, pair_names
from clip_jax.data.labeled.open import LabeledSet, LabeledSplit, open_labeled
from clip_jax.data.sources.base import evenly_spaced
from clip_jax.data.sources.tar_index import read_arrays
from clip_jax.data.sources.webdataset import WebDataset
from clip_jax.errors import UserError, foreign, name_within, one_of, parse_json, short
from clip_jax.evals import metrics, prompts
from clip_jax.evals.few_shot import SHOTS, few_shot
from clip_jax.evals.knn import knn_scores
from clip_jax.evals.linear_probe import linear_probe
from clip_jax.evals.prompts import Metric
from clip_jax.evals.results import Result, benchmark_metrics, write_results
from clip_jax.evals.retrieval import recalls
from clip_jax.evals.zero_shot import class_embeddings
from clip_jax.finite import NotFinite, finite_rows
from clip_jax.storage.json_files import write_json
from clip_jax.storage.paths import disk_errors, mkdir, read_text
from clip_jax.types import JsonObject

logger = logging.getLogger(__name__)

SetKind = Literal["classification", "retrieval"]
TASKS = ("zeroshot_classification", "linear_probe", "few_shot", "knn", "zeroshot_retrieval")
IMAGES_PER_BATCH = 512  # images decoded at a time
PIECES_AHEAD = 2  # so many times as many are decoded while the device works
DRAWS = 5


class Model(Protocol):
    """Model as the benchmark needs it; `inference.LoadedModel` is one."""

    name: str
    digest: str
    precision: str
    preprocess: Preprocess

    def embed_and_features(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...
    def embed_texts(self, texts: list[str]) -> np.ndarray: ...


@dataclass(frozen=True)
class BenchmarkSet:
    """One set of a suite: its path, prompts, metric, splits and tasks."""

    name: str
    path: str
    kind: SetKind = "classification"
    prompts: str = ""  # name of a built-in prompt set; by default the set's own files
    metric: Metric | Literal[""] = ""  # by default that of the prompts, or accuracy
    train_split: str = "train"
    val_split: str = ""  # for the probe's λ; by default a fifth of the training split
    test_split: str = "test"
    only: tuple[str, ...] = ()  # tasks; by default all of its kind
    pair: Pairing = "name"  # how class folders and TFDS labels match class names

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that this set is used for."""
        every = TASKS[:-1] if self.kind == "classification" else TASKS[-1:]
        return tuple(t for t in every if t in self.only or not self.only)


def read_suite(name: str, data: str | None) -> list[BenchmarkSet]:
    """Return the sets of a suite.

    Args:
      name: ``paper27`` or ``poster``, whose sets are DATA/SETNAME; or a JSON file that lists its sets.
      data: folder of the sets; for a JSON file by default its field ``data``, or its own folder.

    Raises:
      UserError: one line naming the field that is wrong.
    """
    if name in prompts.SUITES:
        if data is None:
            raise UserError(field="--suite", value=name, reason="needs --data=FOLDER, a folder with one folder per set")
        builtin = prompts.available()
        return [BenchmarkSet(s, str(Path(data) / s), prompts=s if s in builtin else "") for s in prompts.SUITES[name]]
    path = Path(name)
    if not path.is_file():
        hint = f"pass a file or a built-in suite: {', '.join(prompts.SUITES)}"
        raise UserError(field="--suite", value=name, reason="no such file", hint=hint)
    with foreign(path, "a suite"):
        values = parse_json(read_text(path), path)
        sets, root = values["sets"], Path(data or values.get("data") or path.parent)
        unknown = sorted(set(values) - {"sets", "data"})
        if unknown:
            raise UserError(source=path, field=unknown[0], reason="unknown field")
        entries = []
        for item in sets:
            fields = set(BenchmarkSet.__dataclass_fields__)
            for field in sorted(set(item) - fields):
                raise UserError(source=f"{path}: set {item.get('name')!r}", field=field, reason="unknown field")
            entries.append(
                BenchmarkSet(**{**item, "path": str(root / item["path"]), "only": tuple(item.get("only", ()))})
            )
    for entry in entries:
        _check_texts(path, entry)
        source = f"{path}: set {entry.name!r}"
        one_of("kind", entry.kind, get_args(SetKind), source)
        for task in entry.only:
            one_of("only", task, replace(entry, only=()).tasks, source)
        one_of("pair", entry.pair, get_args(Pairing), source)
        if entry.metric:
            one_of("metric", entry.metric, prompts.METRICS, source)
        if entry.val_split and entry.val_split in (entry.train_split, entry.test_split):
            reason = "λ of the probe would be chosen on training or test images"
            raise UserError(source=source, field="val_split", value=entry.val_split, reason=reason)
    if len({e.name for e in entries}) < len(entries):
        raise UserError(field=path, reason="two sets share a name")
    return entries


def present_sets(suite: str, data: str | None, tasks: tuple[str, ...]) -> tuple[list[BenchmarkSet], list[BenchmarkSet]]:
    """Return the sets of a suite that exist, and those that do not. Raises UserError as `run_suite`."""
    entries = read_suite(suite, data)
    for task in tasks:
        one_of("--tasks", task, TASKS)
    present = [e for e in entries if Path(e.path).is_dir()]
    if not present:
        reason = f"none of its {len(entries)} sets exists, such as {entries[0].path}"
        raise UserError(field="--suite", value=suite, reason=reason, hint="pass their folder with --data")
    return present, [e for e in entries if e not in present]


def _check_texts(path: Path, entry: BenchmarkSet) -> None:
    """Check an entry's text fields; raise UserError if one is not a text, or is a name that would leave its folder."""
    for field in ("kind", "prompts", "metric", "train_split", "val_split", "test_split"):
        if not isinstance(value := getattr(entry, field), str):
            reason = "must be a text"
            raise UserError(source=f"{path}: set {short(entry.name)}", field=field, value=value, reason=reason)
    name_within(f"{path}: name", entry.name)  # it becomes the name of result files
    for field in ("train_split", "val_split", "test_split"):
        if getattr(entry, field):
            name_within(f"{path}: {field}", getattr(entry, field))


def fingerprint(path: Path) -> str:
    """Return a hash of the names, sizes and modification times of a folder's files."""
    sha = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        stat = file.stat()
        sha.update(f"{file.relative_to(path)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return sha.hexdigest()[:16]


def decoded_ahead(split: LabeledSplit, preprocess: Preprocess, pieces: Sequence[np.ndarray]) -> Generator[np.ndarray]:
    """Yield the pixels of pieces of rows, uint8 [N, size, size, 3], decoded by a thread per core ahead of their use.

    Raises UserError naming the first image that cannot be read.
    """
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:

        def begin(rows: np.ndarray) -> list[Future[np.ndarray]]:
            parts = np.array_split(rows, min(threads, len(rows)))
            return [pool.submit(split.pixels, preprocess, part) for part in parts]

        under_way = deque(begin(rows) for rows in pieces[:PIECES_AHEAD])
        try:
            for i in range(len(pieces)):
                if i + PIECES_AHEAD < len(pieces):
                    under_way.append(begin(pieces[i + PIECES_AHEAD]))
                yield np.concatenate([part.result() for part in under_way.popleft()])
        finally:
            for part in (part for parts in under_way for part in parts):
                part.cancel()


def embed_split(model: Model, split: LabeledSplit, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings [N, E] and features [N, D] of the images of ``rows``.

    Raises UserError naming the first image that cannot be read or has a non-finite result.
    """
    pieces = [rows[i : i + IMAGES_PER_BATCH] for i in range(0, len(rows), IMAGES_PER_BATCH)]
    parts = []
    with contextlib.closing(decoded_ahead(split, model.preprocess, pieces)) as decoded:
        for piece, pixels in zip(pieces, decoded, strict=True):
            try:
                parts.append(model.embed_and_features(pixels))
                for what, values in zip(("embedding", "features"), parts[-1], strict=True):
                    finite_rows(values, what, str)
            except NotFinite as error:
                raise error.renamed(split.name(int(piece[error.row]))) from None
    embeddings, features = (np.concatenate(x) for x in zip(*parts, strict=True))
    return embeddings, features


class Benchmark:
    """A benchmark of one model, with a folder of results and cached features."""

    def __init__(
        self, model: Model, out: Path, *, limit: int = 0, seed: int = 0, echo: Callable[[str], None] = logger.info
    ) -> None:
        self.echo = echo
        self.model, self.out, self.limit, self.seed = model, out, limit, seed
        with disk_errors(out):
            for folder in ("features", "classifiers"):
                mkdir(out / folder)

    def _key(self, *parts: object) -> str:
        # all that features depend on: weights, preprocessing, precision, data, limit
        known = [self.model.digest, self.model.preprocess.to_config(), self.model.precision, self.limit, *parts]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:24]

    def _cached(
        self, key: str, make: Callable[[], dict[str, np.ndarray]], folder: str = "features"
    ) -> dict[str, np.ndarray]:
        path = self.out / folder / f"{key}.npz"
        if (cached := read_arrays(path)) is not None:
            return cached
        values = make()
        partial = path.with_name(f".{key}.partial.npz")
        with disk_errors(path):
            try:
                np.savez(partial, **values)  # type: ignore[arg-type]
                partial.replace(path)
            except OSError:
                partial.unlink(missing_ok=True)
                raise
        return values

    def features(self, path: str, split_name: str, open_split: Callable[[], LabeledSplit]) -> dict[str, np.ndarray]:
        """Return ``embeddings`` [N, E], ``features`` [N, D] and ``labels`` [N] of a split, cached on disk."""

        def make() -> dict[str, np.ndarray]:
            split = open_split()
            rows = evenly_spaced(len(split.labels), self.limit)
            embeddings, features = embed_split(self.model, split, rows)
            return {"embeddings": embeddings, "features": features, "labels": split.labels[rows]}

        arrays = self._cached(self._key(fingerprint(Path(path)), split_name), make)
        for what in ("embeddings", "features"):  # cached by a version without this check
            finite_rows(arrays[what], what, lambda row: f"{path}: picture {row} of {split_name}")
        return arrays

    def classifier(self, texts: list[list[str]]) -> np.ndarray:
        """Return `classifier` of the model, cached on disk: variants of a set have the same prompts."""
        known = json.dumps([self.model.digest, self.model.precision, "classifier", texts])
        key = hashlib.sha256(known.encode()).hexdigest()[:24]
        return self._cached(key, lambda: {"classes": classifier(self.model, texts)}, "classifiers")["classes"]

    def run(self, entry: BenchmarkSet, task: str) -> list[Result]:
        """Return the results of one (set, task), from its file if nothing that they depend on has changed."""
        what = {k: v for k, v in asdict(entry).items() if k != "only"}  # selects tasks, does not change results
        key = self._key(fingerprint(Path(entry.path)), what, task, self.seed)
        path = self.out / f"{entry.name}_{task}.json"
        if path.is_file():
            with contextlib.suppress(UserError):  # damaged: measure again
                stored = parse_json(read_text(path), path)
                if isinstance(stored, dict) and stored.get("key") == key:
                    return stored["results"]
        measured = self._retrieval(entry) if task == "zeroshot_retrieval" else self._classification(entry, task)
        common = {"dataset": entry.name, "model": self.model.name, "pretrained": self.model.digest, "language": "en"}
        results = [{**common, "task": t, "metrics": m} for t, m in measured]
        write_json(path, {"key": key, "results": results})
        return results

    def _split(self, entry: BenchmarkSet, data: LabeledSet, name: str) -> dict[str, np.ndarray]:
        return self.features(entry.path, name, lambda: data.split(name))

    def _classification(self, entry: BenchmarkSet, task: str) -> list[tuple[str, JsonObject]]:
        data = open_labeled(entry.path, entry.pair)
        test = self._split(entry, data, entry.test_split)
        texts, metric = class_prompts(entry, data, self.echo)
        labels, classes = test["labels"], len(texts)
        several = labels.ndim == 2
        if labels.shape[1] != classes if several else int(labels.max()) >= classes:
            raise UserError(field=entry.path, reason=f"has labels beyond its {classes} classes")
        if task == "zeroshot_classification":
            scores = test["embeddings"] @ self.classifier(texts).T
            return [(task, benchmark_metrics(scores, labels, metric, metrics.first_alike([tuple(t) for t in texts])))]
        train = self._split(entry, data, entry.train_split)
        pair = (train["features"], train["labels"])
        if task == "linear_probe":
            held = self._split(entry, data, entry.val_split) if entry.val_split else None
            val = None if held is None else (held["features"], held["labels"])
            scores, l2 = linear_probe(pair, test["features"], classes, val=val, seed=self.seed)
            finite_rows(
                scores, "linear probe's scores", lambda row: f"{entry.path}: picture {row} of {entry.test_split}"
            )
            probe = {f"lp_{k}": v for k, v in benchmark_metrics(scores, labels, metric).items()}
            return [(task, {**probe, "weight_decay": l2, "fewshot_k": -1, "seed": self.seed})]
        if task == "knn":
            scores = knn_scores(train["embeddings"], train["labels"], test["embeddings"], classes)
            return [(task, {f"knn_{k}": v for k, v in benchmark_metrics(scores, labels, metric).items()})]
        if several:
            self.echo(f"{entry.name}: multi-label, so no few_shot")
            return []
        fewest = int(np.bincount(train["labels"], minlength=classes).min())
        if fewest < min(SHOTS):
            self.echo(f"{entry.name}: a class has {fewest} training examples, so no few_shot")
            return []
        shots = few_shot(pair, (test["features"], labels), classes, shots=SHOTS, draws=DRAWS, seed=self.seed)
        return [
            ("linear_probe", {"lp_acc1": f.mean, "lp_acc1_std": f.std, "lp_acc1_min": f.low, "lp_acc1_max": f.high,
                              "fewshot_k": f.shots, "seed": self.seed})
            for f in shots
        ]  # fmt: skip

    def _retrieval(self, entry: BenchmarkSet) -> list[tuple[str, JsonObject]]:
        pairs = WebDataset(Path(entry.path), entry.test_split)
        rows = evenly_spaced(len(pairs), self.limit)
        captions = [pairs.captions(r) for r in rows.tolist()]
        owners = [i for i, lines in enumerate(captions) for _ in lines]
        texts = [line for lines in captions for line in lines]
        split = LabeledSplit(np.zeros(len(pairs), np.int32), pairs.shards.image, pairs.shards.name)
        images = self.features(entry.path, entry.test_split, lambda: split)["embeddings"]
        metrics_row: JsonObject = {}
        for row in recalls(images, self.model.embed_texts(texts), np.array(owners)):
            # CLIP_benchmark names the retrieved side: image_retrieval is text to image
            side, k = row["metric"].split("_recall@")
            name = f"{'image' if side == 'text_to_image' else 'text'}_retrieval_recall@{k}"
            assert row["examples"] is not None
            low, high = metrics.proportion_interval(row["value"], row["examples"], "exact")
            metrics_row |= {name: row["value"], f"{name}_low": low, f"{name}_high": high}
        return [("zeroshot_retrieval", {**metrics_row, "examples": len(images), "texts": len(texts)})]


def class_prompts(
    entry: BenchmarkSet, data: LabeledSet, echo: Callable[[str], None] = lambda _: None
) -> tuple[list[list[str]], str]:
    """Return the prompts of each class, and the metric.

    ``echo`` is called with warnings: classes matched by number, classes without a name. Raises UserError when nothing
    names the classes, or when the set's names do not match the prompts'.
    """
    known = prompts.prompt_set(entry.prompts) if entry.prompts else None
    names = (known.classes if known else ()) or data.class_names
    if not names:
        reason = "has no class names"
        raise UserError(field=entry.path, reason=reason, hint="add classnames.txt, or name prompts in the suite")
    if blank := [i for i, name in enumerate(names) if not name]:
        echo(f"{entry.name}: classes without a name: {', '.join(map(str, blank))}")
    metric = entry.metric or (known.metric if known else "accuracy")
    if known:
        texts, classes = known.prompts(tuple(names)), data.class_names
        if known.classes and (not classes or class_numbers(classes)):
            echo(
                f"{entry.name}: its classes are numbers; class n is matched with the n-th class of prompts {known.name}"
            )
        if known.classes and classes:
            order = pair_names(classes, known.classes, entry.path, labels=known.labels, by=entry.pair)
            return [texts[i] for i in order], metric
        return texts, metric
    templates = data.templates or ("a photo of a {c}.",)
    return [[t.replace("{c}", c) for t in templates] for c in names], metric


def classifier(model: Model, texts: list[list[str]]) -> np.ndarray:
    """Return zero-shot weights [C, E] of prompts by class: normalize, average, normalize (Radford et al., 2021)."""
    asked = [p for prompts_of in texts for p in prompts_of]
    flat = finite_rows(model.embed_texts(asked), "embedding", lambda row: repr(asked[row]))
    parts = np.split(flat, np.cumsum([len(p) for p in texts])[:-1])
    return np.concatenate([class_embeddings(part, 1) for part in parts])


def run_suite(
    model: Model, suite: str, out: str | Path, *, data: str | None = None, tasks: tuple[str, ...] = TASKS,
    limit: int = 0, seed: int = 0, echo: Callable[[str], None] = logger.info,
) -> list[Result]:  # fmt: skip
    """Evaluate a model on a suite; write one JSON per (set, task), ``results.json`` and ``results.csv``.

    Sets that do not exist are reported and skipped.

    Args:
      model: the model.
      suite, data: see `read_suite`.
      out: folder of the results.
      tasks: those of `TASKS` to run.
      limit: maximum number of images per split, evenly spaced; 0 takes all.
      seed: of validation splits and few-shot draws.
      echo: called with progress lines.

    Raises:
      UserError: none of the sets exists, or a file is malformed.
    """
    present, absent = present_sets(suite, data, tasks)
    logger.info("%d of %d sets are there; writing %s", len(present), len(present) + len(absent), out)
    for entry in absent:
        echo(f"skipped {entry.name}: {entry.path} does not exist")
    bench = Benchmark(model, Path(out), limit=limit, seed=seed, echo=echo)
    results: list[Result] = []
    for entry, task in _plan(present, tasks, echo):
        results += bench.run(entry, task)
    write_results(Path(out), results)
    return results


def _plan(
    entries: list[BenchmarkSet], tasks: tuple[str, ...], echo: Callable[[str], None]
) -> Iterator[tuple[BenchmarkSet, str]]:
    for entry in entries:
        splits = open_labeled(entry.path, entry.pair).splits if entry.kind == "classification" else ()
        for task in entry.tasks:
            if task not in tasks:
                continue
            if task in TASKS[1:4] and entry.train_split not in splits:
                echo(f"{entry.name}: no {entry.train_split} split, so no {task}")
                continue
            if task in TASKS[1:4] and entry.train_split == entry.test_split:
                echo(f"{entry.name}: training and test split are both {entry.test_split}, so no {task}")
                continue
            yield entry, task
