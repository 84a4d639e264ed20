"""From the runs of a sweep, or a table of runs, to its law and report."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from clip_jax.config.io import from_dict
from clip_jax.config.sweep import SweepConfig
from clip_jax.errors import UserError
from clip_jax.scaling.data.records import LawRecord
from clip_jax.storage.json_files import read_json, write_json
from clip_jax.storage.paths import as_path, staging_dir
from clip_jax.sweep.analysis.spending import spending
from clip_jax.sweep.collect import collect_to_fit, curves, lr_evidence, several_data
from clip_jax.train.trackers import track_law

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    import pandas as pd

Echo = Callable[[str], None]


def report(sweep_dir: str | Path, echo: Echo = logger.info) -> LawRecord:
    """Collect the runs, fit, write ``report/`` and print the summary.

    Raises:
      UserError: the directory holds no sweep, or no run has finished.
    """
    from clip_jax.scaling.data.chance import chance_beside
    from clip_jax.scaling.report.write import text_summary, write_report
    from clip_jax.sweep.analysis.registrations import registered_rows

    root = as_path(sweep_dir)
    df = collect_to_fit(root)
    config = from_dict(SweepConfig, read_json(root / "sweep.json") or {})
    check_finished(df, root)
    logger.info("writing %s", root / "report")
    with staging_dir(root / "report") as out:
        law = write_report(
            df,
            out,
            metric=config.metric,
            curves=curves(root, config.metric),
            lr_evidence=lr_evidence(df, config.metric),
            title=config.name.replace("_", " "),
            chance=chance_beside(root, config.metric),
            forecasts=registered_rows(root),
        )
        track_law(config.base, root, _numbers(law), out / "error_vs_flops.png")
    echo("\n" + text_summary(law) + f"\n\n  {root / 'report' / 'report.html'}")
    if (spent := spending(root, config.metric)) is not None:
        write_json(root / "report" / "spending.json", spent.to_json())
        echo(f"  {spent.text}")
    if (note := several_data(df)) is not None:
        echo(f"  {note}")
    failed = df[df["state"] == "failed"]
    for row in failed.to_dict("records"):
        echo(f"  left out, failed: {row['run_id']}: {row['reason']}")
    return law


def report_of_table(
    path: Path, out: str | None, metric: str, echo: Echo = logger.info, *, chance: float | None = None
) -> LawRecord:
    """Write the report of a table of runs, and the figure of a graded forecast that lies beside the table.

    Args:
      path: a sweep's ``runs.csv``, or another table of runs.
      out: the folder to write; by default ``report/`` beside the table.
      metric: the column to explain.
      echo: receives lines.
      chance: the error of guessing; by default that of ``evals.csv`` beside the table.

    Raises:
      UserError: the table cannot be read or fitted.
    """
    from clip_jax.scaling.data.chance import chance_of_table
    from clip_jax.scaling.data.runs_table import read_table
    from clip_jax.scaling.report.write import text_summary, write_report
    from clip_jax.sweep.analysis.forecast import redraw_forecast
    from clip_jax.sweep.analysis.registrations import registered_rows

    df = read_table(path)
    evidence = lr_evidence(df, metric) if {"kind", "final", "peak_lr", metric} <= set(df.columns) else None
    folder_of = Path(out) if out else path.parent / "report"
    logger.info("writing %s", folder_of)
    chance = chance_of_table(df, metric, path.parent, chance)
    title = path.absolute().parent.name
    law = write_report(
        df, folder_of, metric=metric, lr_evidence=evidence, title=title, chance=chance,
        forecasts=registered_rows(path.parent),
    )  # fmt: skip
    redraw_forecast(df, path.parent, folder_of, metric)
    echo(text_summary(law) + f"\n\n  {folder_of / 'report.html'}")
    return law


def _numbers(law: LawRecord) -> dict[str, float]:
    """Return a law's numbers for W&B: each form's parameters, and the forecast at ten times the compute."""
    numbers = {f"{f['form']}/{name}": value for f in law["fits"] for name, value in f["values"].items()}
    for row in law["averaged"][-1:]:
        low, high = row["run"]
        numbers |= {"next_budget/flops": row["flops"], "next_budget/predicted": row["median"]}
        numbers |= {"next_budget/low": low, "next_budget/high": high}
    return numbers


def check_finished(df: pd.DataFrame, root: Path) -> None:
    """Check that a run of a sweep's table has finished; raise UserError, with the reason of the first, otherwise."""
    if not df["final"].any():
        first = df["reason"].iloc[0]
        raise UserError(field=root, reason=f"no run has finished, the first: {first}")
