"""Results of the transfer benchmark: CLIP_benchmark's metrics and columns, and a table for the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from clip_jax.errors import UserError, parse_json
from clip_jax.evals import metrics
from clip_jax.storage.json_files import write_json
from clip_jax.storage.paths import read_text, write_text
from clip_jax.types import JsonObject

if TYPE_CHECKING:
    import pandas as pd

Result = JsonObject
SHOWN_METRICS = (
    "acc1", "mean_per_class_recall", "roc_auc", "mean_average_precision", "mean_average_precision_11point",
    "mean_acc1_acc5",
)  # fmt: skip
CHANCE_OF_CLASSES = ("acc1", "mean_per_class_recall")  # whose value of guessing is 1 / classes
PREFIXES = {"zeroshot_classification": "", "linear_probe": "lp_", "knn": "knn_"}  # prefix of metric names by task
RESULT_COLUMNS = ["model", "dataset", "task", "shots", "value", "low", "high", "examples", "classes", "chance"]


def benchmark_metrics(
    scores: np.ndarray, labels: np.ndarray, metric: str = "accuracy", alike: np.ndarray | None = None
) -> JsonObject:
    """Compute CLIP_benchmark's metrics, the exact 95 % interval of acc1, and the set's own metric.

    Args:
      scores: [N, C].
      labels: int [N], or bool [N, C] for multi-label sets, which have average precision only.
      metric: one of `prompts.METRICS`.
      alike: classes with the same prompts, see `metrics.label_ranks`.
    """
    classes = scores.shape[1]
    truth = labels if labels.ndim == 2 else labels[:, None] == np.arange(classes)[None]
    values: JsonObject = {}
    if labels.ndim == 1:
        acc1, acc5 = (float(metrics.hits_at(scores, labels, k, alike).mean()) for k in (1, 5))
        low, high = metrics.proportion_interval(acc1, len(labels), "exact")
        values |= {"acc1": acc1, "acc1_low": low, "acc1_high": high, "acc5": acc5 if classes >= 5 else None}
        values["mean_per_class_recall"] = metrics.mean_per_class(metrics.hits_at(scores, labels, 1, alike), labels)
        if metric == "mean_top1_top5":
            values["mean_acc1_acc5"] = (acc1 + acc5) / 2
        if metric == "roc_auc":
            values["roc_auc"] = metrics.roc_auc(scores[:, 1] - scores[:, 0], labels == 1)
    if labels.ndim == 2 or metric == "11point_map":
        values["mean_average_precision"] = metrics.mean_average_precision(scores, truth)
        values["mean_average_precision_11point"] = metrics.eleven_point_map(scores, truth)
    return {**values, "examples": len(labels), "classes": classes}


def write_results(out: Path, results: list[Result]) -> None:
    """Write ``results.json``, and ``results.csv`` with the columns of CLIP_benchmark."""
    import pandas as pd

    write_json(out / "results.json", results)
    rows = [
        {**r["metrics"], **{k: r[k] for k in ("dataset", "model", "pretrained", "task", "language")},
         "model_fullname": f"{r['model']} {r['pretrained']}"}
        for r in results
    ]  # fmt: skip
    write_text(out / "results.csv", pd.DataFrame(rows).to_csv(index=False))


def read_results(path: str | Path) -> pd.DataFrame:
    """Read the accuracies of a ``results.json`` or ``results.csv`` of `write_results`, one row each.

    Columns: ``model``, ``dataset``, ``task`` (zero_shot, few_shot, linear_probe or knn), ``shots`` (0 unless few_shot),
    ``value``, ``low`` and ``high`` (exact 95 % interval; for few_shot the lowest and highest draw), ``examples``,
    ``classes`` and ``chance`` (1 / classes); NaN if the file has no value. Raises UserError when the file is missing or
    malformed.
    """
    import pandas as pd

    path = Path(path)
    try:
        if path.suffix == ".csv":
            records = cast(list[JsonObject], pd.read_csv(path).to_dict("records"))
        else:
            records = [{**r, **r["metrics"]} for r in parse_json(read_text(path), path)]
        rows = [_accuracy(r) for r in records if r["task"] in PREFIXES]
    except FileNotFoundError:
        raise UserError(field=path, reason="no such file") from None
    except (ValueError, KeyError, TypeError) as error:
        reason = f"not the results of a transfer benchmark ({type(error).__name__}: {error})"
        raise UserError(field=path, reason=reason) from None
    table = pd.DataFrame(rows, columns=RESULT_COLUMNS)
    return table[table["value"].notna()].reset_index(drop=True)


def _accuracy(row: JsonObject) -> JsonObject:
    prefix, shots = PREFIXES[row["task"]], row.get("fewshot_k", -1)
    few = shots == shots and shots > 0  # NaN in other rows of a CSV
    ends = ("min", "max") if few else ("low", "high")
    name = {"zeroshot_classification": "zero_shot"}.get(row["task"], row["task"])
    classes = row.get(f"{prefix}classes", np.nan)
    return {
        "model": row["model"], "dataset": row["dataset"], "task": "few_shot" if few else name,
        "shots": int(shots) if few else 0, "value": row.get(f"{prefix}acc1", np.nan),
        "low": row.get(f"{prefix}acc1_{ends[0]}", np.nan), "high": row.get(f"{prefix}acc1_{ends[1]}", np.nan),
        "examples": row.get(f"{prefix}examples", np.nan), "classes": classes, "chance": 1 / classes,
    }  # fmt: skip


def table(results: list[Result]) -> str:
    """Format the results for the terminal: one value per line, with its exact 95 % interval.

    Few-shot probes are means; their interval is the lowest and highest draw.
    """
    head = ("dataset", "task", "metric", "value", "interval", "chance", "classes", "examples")
    lines = ["{:18s} {:26s} {:28s} {:>7s}  {:>16s}  {:>7s}  {:>7s} {:>8s}".format(*head)]
    for r in results:
        m, task = r["metrics"], r["task"]
        if m.get("fewshot_k", -1) > 0:
            task = f"{m['fewshot_k']}-shot probe"
        for name, value in m.items():
            if (
                not (name.endswith(SHOWN_METRICS) or "@" in name)
                or value is None
                or name.endswith(("_low", "_high", "_std"))
            ):
                continue
            prefix = name.split("_")[0] + "_" if name.startswith(("lp_", "knn_")) else ""
            ends = next((e for e in (("low", "high"), ("min", "max")) if f"{name}_{e[0]}" in m), None)
            interval = f"[{m[f'{name}_{ends[0]}']:.3f}, {m[f'{name}_{ends[1]}']:.3f}]" if ends else ""
            classes = str(m.get(f"{prefix}classes", ""))
            examples = str(m.get(f"{prefix}examples", m.get("examples", "")))
            line = f"{r['dataset']:18s} {task:26s} {name:28s} {value:7.4f}  {interval:>16s}"
            chance = f"{1 / int(classes):.4f}" if classes and name.endswith(CHANCE_OF_CLASSES) else ""
            lines.append(f"{line}  {chance:>7s}  {classes:>7s} {examples:>8s}")
    return "\n".join(lines)
