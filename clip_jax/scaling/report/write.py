"""Write the report of a table of runs: `law.json`, the checklist, figures, one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from clip_jax.config.passes import passes_number, passes_text
from clip_jax.scaling.analysis.analyze import Analysis, analyze
from clip_jax.scaling.data.chance import chance_of_table
from clip_jax.scaling.data.records import LawRecord
from clip_jax.scaling.data.runs_table import read_table
from clip_jax.scaling.fit.solver import table_of
from clip_jax.scaling.report.checklist import NOT_STATED, checklist, folder_for, write_checklist
from clip_jax.scaling.report.summary import text_summary
from clip_jax.storage.json_files import write_json

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["fit_table", "text_summary", "write_analysis", "write_report"]


def write_report(
    df: pd.DataFrame,
    out_dir: str | Path,
    *,
    metric: str = "error_mean",
    curves: pd.DataFrame | None = None,
    lr_evidence: pd.DataFrame | None = None,
    title: str = "Zero-shot transfer against compute",
    chance: float | None = None,
    forecasts: Sequence[Mapping[str, object]] = (),
) -> LawRecord:
    """Fit a table and write ``law.json``, ``checklist.json``, ``checklist.txt``, figures and ``report.html``.

    Each figure is a PNG with a PDF and an SVG of the same stem. ``figures`` of ``law.json`` maps its stem to null, or
    to the reason why the table cannot give it; the page says the same. Errors are those of `analysis.analyze`.

    Args:
      df: the table of runs.
      out_dir: the folder, made if missing.
      metric: the column to explain, as in `analysis.analyze`.
      curves: evaluations during training; drawn, never fitted.
      lr_evidence: rows of the learning rates that were tried.
      title: of the report.
      chance: the error of guessing.
      forecasts: rows of the registered forecasts, for the page (`page.REGISTERED_COLUMNS`).

    Returns:
      The law as ``law.json`` holds it.
    """
    # importing matplotlib takes a second, most of which the fits leave free
    Thread(target=import_module, args=("matplotlib.backends.backend_pdf",), daemon=True).start()
    with table_of(len(df)):
        analysis = analyze(df, metric, curves=curves, lr_evidence=lr_evidence, title=title, chance=chance)
        return write_analysis(analysis, out_dir, forecasts)


def write_analysis(
    analysis: Analysis, out_dir: str | Path, forecasts: Sequence[Mapping[str, object]] = ()
) -> LawRecord:
    """Write the report of an `Analysis`.

    Args:
      analysis: of `analysis.analyze`.
      out_dir: the folder, made if missing.
      forecasts: as of `write_report`.

    Returns:
      The law as ``law.json`` holds it.
    """
    from clip_jax.scaling.report.figures import draw_all
    from clip_jax.scaling.report.page import write_page

    out = folder_for(out_dir)
    content = None
    if analysis.best is not None:
        content = checklist(analysis.best.checked, _answers(analysis), intervals=analysis.best.intervals)
        write_checklist(content, out)
    law: LawRecord = {**analysis.law, "figures": draw_all(analysis, out)}
    write_page(out / "report.html", analysis, law, content, forecasts)
    write_json(out / "law.json", law)
    return law


def _answers(analysis: Analysis) -> dict[str, str]:
    """Return the answers to the checklist's questions that the table itself gives."""
    seeds = analysis.rows.groupby(["budget", "params"])["seed"].nunique()
    left_out = "; ".join(f"{r['run_id']}: {r['reason']}" for r in analysis.law["left_out"]) or "none"
    answers = {
        "metric": analysis.metric,
        "checkpoints": "ends of runs; evaluations during training are drawn, never fitted",
        "seeds": f"{seeds.min()} to {seeds.max()}",
        "left_out": left_out,
    }
    if "unique_samples" in analysis.rows:
        answers["data"] = passes_answer(analysis.rows)
    if analysis.law["lr_evidence"]:
        answers["hyperparameters"] = (
            "learning rates were checked at each budget's best size: see lr_evidence in law.json"
        )
    return {k: v or NOT_STATED for k, v in answers.items()}


def passes_answer(rows: pd.DataFrame) -> str:
    """Return the passes over the data of runs as an answer to the checklist; empty if the table does not tell."""
    import pandas as pd

    passes = (rows["samples_seen"] / pd.to_numeric(rows["unique_samples"], errors="coerce")).dropna()
    if passes.empty:
        return ""
    if passes.max() <= 1:
        return "no pair was seen twice in a run"
    return f"runs made {passes_number(passes.min())} to {passes_text(passes.max())}"


def fit_table(path: str | Path, metric: str = "error_mean", chance: float | None = None) -> LawRecord:
    """Fit the law of a table on disk, without figures, as `clip-jax fit` prints it.

    Args:
      path: the table.
      metric: the column to explain.
      chance: the error of guessing; None: read from the evaluations beside the table.

    Returns:
      The content of ``law.json``.

    Raises:
      UserError: as `analysis.analyze`, and for a table that cannot be read.
    """
    table = read_table(path)
    chance = chance_of_table(table, metric, Path(path).parent, chance)
    with table_of(len(table)):
        return analyze(table, metric, title=str(path), name=str(path), chance=chance, full=False).law
