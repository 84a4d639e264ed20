"""The transfer benchmark: a suite of sets, each measured by zero-shot, probe, few-shot, neighbours or retrieval.

One result a (set, task), in a file of its own, so that an interrupted benchmark goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from clip_jax.data.images.eval_preprocess import Preprocess
from clip_jax.data.labeled.class_names import PAIRINGS, numbered, pair_names
from clip_jax.data.labeled.open import LabelledSet, Split, open_labelled
from clip_jax.data.sources.tar_index import kept
from clip_jax.data.sources.webdataset import WebDataset
from clip_jax.errors import UserError, foreign, name_within, parse_json, short
from clip_jax.evals import metrics, prompts
from clip_jax.evals.few_shot import SHOTS, few_shot
from clip_jax.evals.knn import knn_scores
from clip_jax.evals.linear_probe import linear_probe
from clip_jax.evals.results import Result, scored, write_results
from clip_jax.evals.retrieval import recalls
from clip_jax.finite import NotFinite, finite_rows
from clip_jax.storage.paths import disk_errors, mkdir, read_text, write_text

TASKS = ("zeroshot_classification", "linear_probe", "few_shot", "knn", "zeroshot_retrieval")
BATCH = 512  # pictures held decoded at a time
DRAWS = 5


class Model(Protocol):
    """What the benchmark needs of a model; `loading.LoadedModel` is one."""

    name: str
    digest: str
    precision: str
    preprocess: Preprocess

    def embed_and_features(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...
    def embed_texts(self, texts: list[str]) -> np.ndarray: ...


@dataclass(frozen=True)
class Entry:
    """One set of a suite: where it lies, which prompts and metric it takes, which tasks it is for."""

    name: str
    path: str
    kind: str = "classification"  # classification | retrieval
    prompts: str = ""  # a name of `prompts`; else the set's own files
    metric: str = ""  # of `prompts.METRICS`; else the prompts' or accuracy
    train_split: str = "train"
    val_split: str = ""  # the probe's λ is chosen on it; else on a fifth of the training split
    test_split: str = "test"
    only: tuple[str, ...] = ()  # tasks; else all that its kind can have
    pair: str = "name"  # name | place: how class folders and TFDS labels find their classnames.txt or ``prompts``

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks this set is for."""
        every = TASKS[:-1] if self.kind == "classification" else TASKS[-1:]
        return tuple(t for t in every if t in self.only or not self.only)


def read_suite(name: str, data: str | None) -> list[Entry]:
    """``paper27`` and ``poster`` look for DATA/SETNAME; anything else is a JSON file that lists its sets.

    Raises UserError, one line, naming the field that is wrong.
    """
    if name in prompts.SUITES:
        if data is None:
            raise UserError(f"--suite={name}: needs --data=FOLDER, which holds one folder a set")
        here = prompts.available()
        return [Entry(s, str(Path(data) / s), prompts=s if s in here else "") for s in prompts.SUITES[name]]
    path = Path(name)
    if not path.is_file():
        raise UserError(f"--suite={name}: no such file; the built-in suites are {', '.join(prompts.SUITES)}")
    with foreign(path, "a suite"):
        values = parse_json(read_text(path), path)
        sets, root = values["sets"], Path(data or values.get("data") or path.parent)
        unknown = sorted(set(values) - {"sets", "data"})
        if unknown:
            raise UserError(f"{path}: {unknown[0]} is not known")
        entries = []
        for item in sets:
            fields = set(Entry.__dataclass_fields__)
            for field in sorted(set(item) - fields):
                raise UserError(f"{path}: set {item.get('name')!r}: {field} is not known")
            entries.append(Entry(**{**item, "path": str(root / item["path"]), "only": tuple(item.get("only", ()))}))
    for entry in entries:
        _check_texts(path, entry)
        if entry.kind not in ("classification", "retrieval"):
            raise UserError(f"{path}: set {entry.name!r}: kind={entry.kind!r}: must be classification or retrieval")
        for task in entry.only:
            every = replace(entry, only=()).tasks
            if task not in every:
                raise UserError(f"{path}: set {entry.name!r}: only: {task!r} must be among {', '.join(every)}")
        if entry.pair not in PAIRINGS:
            raise UserError(f"{path}: set {entry.name!r}: pair={entry.pair!r}: must be one of {', '.join(PAIRINGS)}")
        if entry.metric and entry.metric not in prompts.METRICS:
            raise UserError(f"{path}: set {entry.name!r}: metric={entry.metric!r}: {', '.join(prompts.METRICS)}")
        if entry.val_split and entry.val_split in (entry.train_split, entry.test_split):
            reason = "the probe's λ would be chosen on the pictures that it is trained or measured on"
            raise UserError(
                f"{path}: set {entry.name!r}: val_split={entry.val_split}: {reason}", field="val_split",
                value=entry.val_split, reason=reason,
            )  # fmt: skip
    if len({e.name for e in entries}) < len(entries):
        raise UserError(f"{path}: two sets share a name")
    return entries


def _check_texts(path: Path, entry: Entry) -> None:
    """Raises UserError for a field of a suite's entry that is no text, or a name that would leave its folder."""
    for field in ("kind", "prompts", "metric", "train_split", "val_split", "test_split"):
        if not isinstance(getattr(entry, field), str):
            raise UserError(f"{path}: set {short(entry.name)}: {field} must be a text", field=field)
    name_within(f"{path}: name", entry.name)  # of its files of results
    for field in ("train_split", "val_split", "test_split"):
        if getattr(entry, field):
            name_within(f"{path}: {field}", getattr(entry, field))


def fingerprint(path: Path) -> str:
    """Changes when a file of the folder does: names, sizes and times."""
    sha = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        stat = file.stat()
        sha.update(f"{file.relative_to(path)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return sha.hexdigest()[:16]


def embedded(model: Model, split: Split, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and features of these pictures. Raises UserError naming the first that cannot be read or embedded."""
    try:
        found = model.embed_and_features(split.pixels(model.preprocess, rows))
        for what, values in zip(("embedding", "features"), found, strict=True):
            finite_rows(values, what, str)
    except NotFinite as error:
        raise error.renamed(split.name(int(rows[error.row]))) from None
    return found


class Bench:
    """One model, one folder of results and cached features."""

    def __init__(
        self, model: Model, out: Path, *, limit: int = 0, seed: int = 0, echo: Callable[[str], None] = print
    ) -> None:
        self.echo = echo
        self.model, self.out, self.limit, self.seed = model, out, limit, seed
        with disk_errors(out):
            mkdir(out / "features")

    def _key(self, *parts: Any) -> str:
        # everything a feature depends on: weights, preprocessing, precision, data, and how much of it
        known = [self.model.digest, self.model.preprocess.to_config(), self.model.precision, self.limit, *parts]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:24]

    def _cached(self, key: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        path = self.out / "features" / f"{key}.npz"
        if (there := kept(path)) is not None:
            return there
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

    def _rows(self, count: int) -> np.ndarray:
        if not self.limit or self.limit >= count:
            return np.arange(count)
        return np.linspace(0, count - 1, self.limit).round().astype(int)

    def features(self, path: str, split_name: str, open_split: Callable[[], Split]) -> dict[str, np.ndarray]:
        """``embeddings`` [N, E], ``features`` [N, D], ``labels`` [N] of one split, from the cache if they are there."""

        def make() -> dict[str, np.ndarray]:
            split = open_split()
            rows = self._rows(len(split.labels))
            parts = [embedded(self.model, split, rows[i : i + BATCH]) for i in range(0, len(rows), BATCH)]
            embeddings, features = (np.concatenate(x) for x in zip(*parts, strict=True))
            return {"embeddings": embeddings, "features": features, "labels": split.labels[rows]}

        found = self._cached(self._key(fingerprint(Path(path)), split_name), make)
        for what in ("embeddings", "features"):  # of an earlier version, which did not look
            finite_rows(found[what], what, lambda row: f"{path}: picture {row} of {split_name}")
        return found

    def run(self, entry: Entry, task: str) -> list[Result]:
        """The results of one (set, task), from its file if nothing they depend on has changed."""
        what = {k: v for k, v in asdict(entry).items() if k != "only"}  # says whether, not what, is measured
        key = self._key(fingerprint(Path(entry.path)), what, task, self.seed)
        path = self.out / f"{entry.name}_{task}.json"
        if path.is_file():
            with contextlib.suppress(UserError):  # damaged: measured again
                stored = parse_json(read_text(path), path)
                if isinstance(stored, dict) and stored.get("key") == key:
                    return stored["results"]
        found = self._retrieval(entry) if task == "zeroshot_retrieval" else self._classification(entry, task)
        common = {"dataset": entry.name, "model": self.model.name, "pretrained": self.model.digest, "language": "en"}
        results = [{**common, "task": t, "metrics": m} for t, m in found]
        write_text(path, json.dumps({"key": key, "results": results}, indent=1) + "\n")
        return results

    def _split(self, entry: Entry, data: LabelledSet, name: str) -> dict[str, np.ndarray]:
        return self.features(entry.path, name, lambda: data.split(name))

    def _classification(self, entry: Entry, task: str) -> list[tuple[str, dict[str, Any]]]:
        data = open_labelled(entry.path, entry.pair)
        test = self._split(entry, data, entry.test_split)
        texts, metric = class_prompts(entry, data, self.echo)
        labels, classes = test["labels"], len(texts)
        several = labels.ndim == 2
        if labels.shape[1] != classes if several else int(labels.max()) >= classes:
            raise UserError(f"{entry.path}: its labels do not fit the {classes} classes")
        if task == "zeroshot_classification":
            scores = test["embeddings"] @ classifier(self.model, texts).T
            return [(task, scored(scores, labels, metric, metrics.first_alike([tuple(t) for t in texts])))]
        train = self._split(entry, data, entry.train_split)
        pair = (train["features"], train["labels"])
        if task == "linear_probe":
            held = self._split(entry, data, entry.val_split) if entry.val_split else None
            val = None if held is None else (held["features"], held["labels"])
            scores, l2 = linear_probe(pair, test["features"], classes, val=val, seed=self.seed)
            finite_rows(
                scores, "linear probe's scores", lambda row: f"{entry.path}: picture {row} of {entry.test_split}"
            )
            found = {f"lp_{k}": v for k, v in scored(scores, labels, metric).items()}
            return [(task, {**found, "weight_decay": l2, "fewshot_k": -1, "seed": self.seed})]
        if task == "knn":
            scores = knn_scores(train["embeddings"], train["labels"], test["embeddings"], classes)
            return [(task, {f"knn_{k}": v for k, v in scored(scores, labels, metric).items()})]
        if several:
            self.echo(f"{entry.name}: several classes a picture, so no few_shot")
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

    def _retrieval(self, entry: Entry) -> list[tuple[str, dict[str, Any]]]:
        pairs = WebDataset(Path(entry.path), entry.test_split)
        rows = self._rows(len(pairs))
        captions = [pairs.captions(r) for r in rows.tolist()]
        owners = [i for i, found in enumerate(captions) for _ in found]
        texts = [c for found in captions for c in found]
        split = Split(np.zeros(len(pairs), np.int32), pairs.shards.image, pairs.shards.name)
        images = self.features(entry.path, entry.test_split, lambda: split)["embeddings"]
        found: dict[str, Any] = {}
        for row in recalls(images, self.model.embed_texts(texts), np.array(owners)):
            # CLIP_benchmark names what is fetched: image_retrieval is text to image
            side, k = row["metric"].split("_recall@")
            name = f"{'image' if side == 'text_to_image' else 'text'}_retrieval_recall@{k}"
            low, high = metrics.clopper_pearson(row["value"], row["examples"])
            found |= {name: row["value"], f"{name}_low": low, f"{name}_high": high}
        return [("zeroshot_retrieval", {**found, "examples": len(images), "texts": len(texts)})]


def class_prompts(
    entry: Entry, data: LabelledSet, echo: Callable[[str], None] = lambda _: None
) -> tuple[list[list[str]], str]:
    """Prompts class by class, and the metric; ``echo`` is told what stands on numbers or has no name.

    Raises UserError when nothing says how to name the classes, or when the set's names and the prompts' do not pair.
    """
    known = prompts.prompt_set(entry.prompts) if entry.prompts else None
    names = (known.classes if known else ()) or data.class_names
    if not names:
        raise UserError(f"{entry.path}: no classnames.txt, and no prompts of its own")
    if blank := [i for i, name in enumerate(names) if not name]:
        echo(f"{entry.name}: classes without a name: {', '.join(map(str, blank))}")
    metric = entry.metric or (known.metric if known else "accuracy")
    if known:
        found, own = known.prompts(tuple(names)), data.class_names
        if known.classes and (not own or numbered(own)):
            echo(f"{entry.name}: its classes are numbers; class n is the n-th of prompts {known.name}")
        if known.classes and own:
            order = pair_names(own, known.classes, entry.path, labels=known.labels, by=entry.pair)
            return [found[i] for i in order], metric
        return found, metric
    templates = data.templates or ("a photo of a {c}.",)
    return [[t.replace("{c}", c) for t in templates] for c in names], metric


def classifier(model: Model, texts: list[list[str]]) -> np.ndarray:
    """Prompts class by class -> [C, E]: normalised, averaged, normalised (Radford et al., 2021, section 3.1.4)."""
    asked = [p for prompts_of in texts for p in prompts_of]
    flat = finite_rows(model.embed_texts(asked), "embedding", lambda row: repr(asked[row]))
    parts = np.split(flat, np.cumsum([len(p) for p in texts])[:-1])
    means = np.stack([p.mean(axis=0) for p in parts])
    return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)


def run_suite(
    model: Model, suite: str, out: str | Path, *, data: str | None = None, tasks: tuple[str, ...] = TASKS,
    limit: int = 0, seed: int = 0, echo: Callable[[str], None] = print,
) -> list[Result]:  # fmt: skip
    """Measure a model on a suite; writes one JSON a (set, task), ``results.json`` and ``results.csv``.

    A set that is not there is said and passed over. Raises UserError when none is there, or a file is broken.
    """
    entries = read_suite(suite, data)
    for task in tasks:
        if task not in TASKS:
            raise UserError(f"--tasks={task}: must be among {', '.join(TASKS)}")
    there = [e for e in entries if Path(e.path).is_dir()]
    for entry in entries:
        if entry not in there:
            echo(f"not there, passed over: {entry.name} ({entry.path})")
    if not there:
        raise UserError(f"--suite={suite}: none of its {len(entries)} sets is there; looked for {entries[0].path} …")
    bench = Bench(model, Path(out), limit=limit, seed=seed, echo=echo)
    results: list[Result] = []
    for entry, task in _plan(there, tasks, echo):
        results += bench.run(entry, task)
    write_results(Path(out), results)
    return results


def _plan(entries: list[Entry], tasks: tuple[str, ...], echo: Callable[[str], None]) -> Iterator[tuple[Entry, str]]:
    for entry in entries:
        splits = open_labelled(entry.path, entry.pair).splits if entry.kind == "classification" else ()
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
