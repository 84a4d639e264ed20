"""The registered forecasts of a sweep: ``forecasts/N.json``, ``N.outcome.json``, and those of earlier versions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from clip_jax.errors import UserError
from clip_jax.scaling.data.records import ForecastRecord, OutcomeRecord
from clip_jax.scaling.planning.preregistration import MADE_AFTER
from clip_jax.storage.json_files import read_json
from clip_jax.storage.paths import list_names
from clip_jax.storage.record_fields import Kind, check_object, require_fields

FOLDER, GRADED = "forecasts", ".outcome.json"
FORMER = ("forecast.json", "outcome.json")  # of a sweep that registered one target of one metric
OPTIONAL = ("noise_floor",)
FORECAST: dict[str, Kind] = {
    "metric": "text", "target": "number", "form": "text", "predicted": "number", "curve": ["number?"],
    "mean": ["number?"], "run": ["number?"], "naive": "number", "noise": {"seeds": "whole"}, "rows_sha256": "text",
    "chance": "number?", "frontier": [{"budget": "number", "flops": "number", "error": "number"}], "law": "text",
    "fit": {"form": "text", "values": "numbers"}, "runs": [{"run_id": "text"}], "rule": "text",
    "noise_floor": "number?",
}  # fmt: skip
OUTCOME: dict[str, Kind] = {
    "metric": "text", "target": "number", "flops": "number", "measured": "number", "predicted": "number",
    "inside": "flag", "beats_naive": "flag", "seeds": [{"measured": "number"}],
}  # fmt: skip


@dataclass(frozen=True)
class Registration:
    """Forecasts that were registered together, and those of their outcomes that are known.

    name: of the file. path, graded: the two files. forecasts, outcomes: their content.
    """

    name: str
    path: Path
    graded: Path
    forecasts: tuple[ForecastRecord, ...]
    outcomes: tuple[OutcomeRecord, ...] = ()

    def outcome_of(self, forecast: ForecastRecord) -> OutcomeRecord | None:
        """Return the outcome of a forecast; None while it is not graded."""
        same = (o for o in self.outcomes if o.get("form", forecast["form"]) == forecast["form"])
        return next((o for o in same if (o["metric"], o["target"]) == (forecast["metric"], forecast["target"])), None)


def registrations(folder: Path) -> list[Registration]:
    """Return the forecasts that are registered in a sweep directory, or beside a table, oldest first."""
    known = []
    old, outcome = (read_json(folder / name) for name in FORMER)
    if old is not None:
        known.append(_registration(folder / FORMER[0], folder / FORMER[1], [old], [outcome] if outcome else []))
    numbers = [n.removesuffix(".json") for n in list_names(folder / FOLDER) if n.endswith(".json")]
    for number in sorted(int(n) for n in numbers if n.isdecimal()):
        path, graded = (folder / FOLDER / f"{number}{suffix}" for suffix in (".json", GRADED))
        forecasts = _list_in(path, "forecasts") or []
        known.append(_registration(path, graded, forecasts, _list_in(graded, "outcomes") or []))
    return known


def _list_in(path: Path, field: str) -> list[object] | None:
    """Return a list that a file holds under a name; None if there is no such file."""
    content = read_json(path)
    if content is None:
        return None
    check_object(content, {field: ["object"]}, (field,), path)
    return cast("list[object]", content[field])


def _registration(path: Path, graded: Path, forecasts: list[object], outcomes: list[object]) -> Registration:
    for number, forecast in enumerate(forecasts, 1):
        source = f"{path}: forecast {number}"
        check_object(forecast, FORECAST, tuple(name for name in FORECAST if name not in OPTIONAL), source)
        record = cast("ForecastRecord", forecast)
        if (
            not record["frontier"]
            or record["target"] <= 0
            or any(len(record[b]) != 2 for b in ("curve", "mean", "run"))
        ):
            reason = "must have a frontier, a target above 0 and bands of two ends"
            raise UserError(field=source, reason=reason)
        for point in record["frontier"]:
            require_fields(point, ("budget", "flops", "error"), source, "frontier.")
        require_fields(record["noise"], ("seeds",), source, "noise.")
        require_fields(record["fit"], ("form", "values"), source, "fit.")
    for number, outcome in enumerate(outcomes, 1):
        check_object(outcome, OUTCOME, tuple(OUTCOME), f"{graded}: outcome {number}")
    return Registration(
        path.stem, path, graded,
        cast("tuple[ForecastRecord, ...]", tuple(forecasts)), cast("tuple[OutcomeRecord, ...]", tuple(outcomes)),
    )  # fmt: skip


def registered_rows(folder: Path) -> list[dict[str, object]]:
    """Return a row for each forecast that is registered in a sweep directory, or beside a table, and how it came out.

    ``times``: the target over the largest budget of the fit; ``off``: predicted / measured - 1; ``noise_floor``: the
    scatter of the measured mean; ``measured`` and what follows from it are None before the runs have finished.
    """
    rows: list[dict[str, object]] = []
    for registration in registrations(folder):
        for f in registration.forecasts:
            if f.get(MADE_AFTER):
                continue
            outcome = registration.outcome_of(f)
            measured = outcome["measured"] if outcome else None
            rows.append({
                "registration": registration.name, "metric": f["metric"], "form": f["form"], "flops": f["target"],
                "times": f["target"] / max(p["budget"] for p in f["frontier"]), "predicted": f["predicted"],
                "low": f["mean"][0], "high": f["mean"][1], "noise_floor": f.get("noise_floor"), "naive": f["naive"],
                "measured": measured, "off": f["predicted"] / measured - 1 if measured else None,
                "inside": outcome["inside"] if outcome else None,
                "beats_naive": outcome["beats_naive"] if outcome else None,
            })  # fmt: skip
    return rows
