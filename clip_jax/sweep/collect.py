"""One tidy table from the run directories of a sweep."""

from __future__ import annotations

import logging
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from clip_jax.config import OptimConfig
from clip_jax.errors import UserError
from clip_jax.scaling.data.runs_table import LR_CHECK, NEGATIVES, is_check
from clip_jax.storage.json_files import read_json, read_lines
from clip_jax.storage.paths import as_path, write_bytes, write_text
from clip_jax.storage.record_fields import NUMBER_COLUMNS
from clip_jax.storage.records import PlannedRun
from clip_jax.sweep.run_state import FAILURE, RunState
from clip_jax.sweep.tried_values import judge, noise_of
from clip_jax.sweep.trunks import TRUNK
from clip_jax.train.run_directory import RESULT
from clip_jax.train.run_result import RunResult
from clip_jax.types import JsonObject

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    import pandas as pd

RESULT_COLUMNS = NUMBER_COLUMNS
SETTING_COLUMNS = ("weight_decay", "warmup_fraction")  # of the run's config
LATER_COLUMNS = ("goodput", "family_id")  # missing in results of version 0.1


def cells_of(sweep_dir: Path) -> list[PlannedRun]:
    """Return the rows of ``plan.json`` that are to run.

    Raises:
      UserError: the directory holds no sweep.
    """
    plan = read_json(sweep_dir / "plan.json")
    if plan is None:
        reason = "holds no sweep (no plan.json)"
        raise UserError(field=sweep_dir, reason=reason, hint="start one with `clip-jax sweep run`")
    return [row for row in plan["cells"] if row["dropped"] is None]


def _row(cell: PlannedRun, run: RunState) -> dict[str, object]:
    values = dict[str, object](cell)  # type: ignore[arg-type]
    row = {k: values[k] for k in ("run_id", "kind", "rung", "budget", "seed", "width", "depth")}
    result, damage = run.result, next((run.damaged[name] for name in (RESULT, FAILURE) if name in run.damaged), None)
    if result is None or damage is not None:
        state, reason = ("failed", run.failure["reason"]) if run.failure else ("missing", "not run yet")
        state, reason = (state, reason) if damage is None else ("failed", str(damage))
        planned = {k: values[k] for k in ("params", "batch_size", "samples_seen", "flops", "peak_lr", "steps")}
        return {**row, **planned, "state": state, "reason": reason, "final": False}
    row |= {"state": result.state, "reason": result.exit_reason, "final": result.final}
    row |= {k: result[k] for k in (*RESULT_COLUMNS, *LATER_COLUMNS)}
    row |= {"passes": result.samples_seen / result.unique_samples if result.unique_samples else None}
    row |= {NEGATIVES: _negatives(result)}
    row |= _settings(result.config)
    if drawn := result.drawn_by_path:
        paths = (result.config.get("data") or {}).get("paths") or ()
        row |= {f"drawn/{path}": pairs for path, pairs in zip(paths, drawn, strict=False)}
    if branch := result.branched_from:
        row |= {"trunk": branch["trunk"], "branch_at": branch["step"]}
    train = (result.data or {}).get("train")
    if train and train.get("digest"):
        row |= {"train_records": train.get("records"), "train_digest": train["digest"]}
    row |= {"device": result.device["kind"], "jax": result.versions["jax"]}
    for e in result.evals:
        if e["metric"] == "top1" and e["value"] is not None:
            row[f"error/{e['task']}"] = 1.0 - e["value"]
        elif e["task"] == "retrieval":
            row[e["metric"]] = e["value"]
    return row


def several_data(df: pd.DataFrame) -> str | None:
    """Return a line that warns if the finished runs of a table were trained on different data, else None."""
    counts = Counter(df["train_digest"].dropna()) if "train_digest" in df else Counter()
    if len(counts) < 2:
        return None
    digests = ", ".join(f"{digest[:8]} ({count} runs)" for digest, count in counts.items())
    return f"runs were trained on different data, see train_records and train_digest in runs.csv: {digests}"


def _negatives(result: RunResult) -> int | None:
    """Return the number of negatives per pair of a contrastive validation loss, whose chance is ln(pairs)."""
    if (result.config.get("model") or {}).get("objective", "contrastive") != "contrastive":
        return None
    chance = next((e.get("chance") for e in result.evals if (e["task"], e["metric"]) == ("validation", "loss")), None)
    return None if chance is None else round(math.exp(chance)) - 1


def _settings(config: JsonObject) -> dict[str, float | None]:
    """Return the settings of a run for which its result has no column; None for those its config lacks."""
    optim = config.get("optim") or {}
    warmup, steps = optim.get("warmup_steps"), config.get("steps")
    share = None if warmup is None or not steps else OptimConfig(warmup_steps=warmup).warmup_of(steps) / steps
    return dict(zip(SETTING_COLUMNS, (optim.get("weight_decay"), share), strict=True))


def _measurements(cell: PlannedRun, run: RunState) -> list[dict[str, object]]:
    known = {k: cell[k] for k in ("run_id", "budget", "params", "seed", "kind")}
    return [{**known, **e} for e in run.result.evals] if run.result else []


def read_runs(root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return one row per planned run and one row per final measurement, as `collect` writes them.

    Raises:
      UserError: the directory holds no sweep.
    """
    import pandas as pd

    cells = [cell for cell in cells_of(root) if cell["kind"] != TRUNK]
    runs = [(cell, RunState.read(root / "runs" / cell["run_id"])) for cell in cells]
    rows = [_row(cell, run) for cell, run in runs]
    df = pd.DataFrame(rows).sort_values(["budget", "params", "kind", "seed"], kind="stable").reset_index(drop=True)
    return df, pd.DataFrame([row for cell, run in runs for row in _measurements(cell, run)])


def collect(sweep_dir: str | Path) -> pd.DataFrame:
    """Return one row per planned run, and write it to ``runs.csv`` and ``runs.parquet``; write ``evals.csv``.

    ``evals.csv`` has one row per final measurement, with its interval, chance level and number of examples. The columns
    of the runs are identity (run_id kind rung budget seed width depth), state, counts, settings (batch_size peak_lr
    weight_decay, and warmup_fraction of the steps), errors by task, and the training data's fingerprint (train_records,
    train_digest). Runs that failed or have not run keep a row with the reason and ``final`` False.

    Raises:
      UserError: the directory holds no sweep.
    """
    root = as_path(sweep_dir)
    df, measured = read_runs(root)
    write_text(root / "runs.csv", df.to_csv(index=False))
    write_bytes(root / "runs.parquet", df.to_parquet())
    write_text(root / "evals.csv", measured.to_csv(index=False))
    return df


def collect_to_fit(root: Path) -> pd.DataFrame:
    """Return what `collect` does, and log the number of runs."""
    df = collect(root)
    logger.info("reading %s: %d runs, %d finished", root, len(df), int(df["final"].sum()))
    return df


def curves(sweep_dir: str | Path, metric: str = "error_mean") -> pd.DataFrame | None:
    """Return the mean error during training as rows (run_id, step, flops, error); None if it was not measured."""
    import pandas as pd

    root = as_path(sweep_dir)
    names = {"error_mean": ("zero_shot_mean", "error"), "val_loss_refit": ("validation", "loss_refit")}
    if metric not in names:
        return None
    rows = []
    for cell in cells_of(root):
        try:
            evals = read_lines(root / "runs" / cell["run_id"] / "evals.jsonl")
        except UserError as error:
            logger.warning("%s; its learning curve is left out", error)
            continue
        for e in evals:
            if (e["task"], e["metric"]) == names[metric]:
                rows.append({"run_id": cell["run_id"], "step": e["step"], "flops": e["flops"], "error": e["value"]})
    return pd.DataFrame(rows) if rows else None


def lr_evidence(df: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Judge the learning rates tried at each budget's size of the checks (`tried_values.judge`, as `sweep rules` does).

    Args:
      df: runs, one row each.
      metric: a column, lower is better.

    Returns:
      Rows (budget, params, peak_lr, error, verdict): errors are means over the seeds that all rates of the cell have,
      and the verdict, with its reason, stands at the rate that the runs use.
    """
    import pandas as pd

    done = df[df["final"].astype(bool)]
    noise = noise_of(done, metric)
    checks, used = done[done["kind"] == LR_CHECK], done[~is_check(done["kind"])]
    rows: list[dict[str, object]] = []
    for (budget, params), group in checks.groupby(["budget", "params"]):
        cell = used[(used["budget"] == budget) & (used["params"] == params)]
        if cell.empty:
            continue
        judged = judge(pd.concat([cell, group]), "peak_lr", metric, noise)
        usual = float(cell["peak_lr"].iloc[0])
        rows += [
            {"budget": budget, "params": params, "peak_lr": rate, "error": error,
             "verdict": judged.text if math.isclose(rate, usual) else ""}
            for rate, error in zip(judged.values, judged.errors, strict=True)
        ]  # fmt: skip
    return pd.DataFrame(rows, columns=["budget", "params", "peak_lr", "error", "verdict"])
