"""Write the report as one self-contained HTML page: interactive curve, evidence, figures, table of runs."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from itertools import chain
from pathlib import Path

import numpy as np

from clip_jax.plotting.ticks import interval_text
from clip_jax.scaling.analysis.analyze import Analysis
from clip_jax.scaling.analysis.averaging import NO_BREAK
from clip_jax.scaling.analysis.frontier_fit import FRONTIER_RULES, REACH
from clip_jax.scaling.data.records import FitRecord, LawRecord
from clip_jax.scaling.laws import compared_laws
from clip_jax.scaling.report.checklist import Checklist, as_text
from clip_jax.scaling.report.figures.drawn import MAX_RUNS_DRAWN, drawn_rows, drawn_text
from clip_jax.scaling.report.figures.headline import AVERAGED_KEY, AVERAGED_NAME, averaged_bands, headline, times_beyond
from clip_jax.scaling.report.figures.learning import known_curves
from clip_jax.scaling.report.figures.same_curves import joint_name, same_curves
from clip_jax.scaling.report.figures.seeds import point_names
from clip_jax.scaling.report.page.data import TIP, embedded
from clip_jax.scaling.report.page.tables import table
from clip_jax.scaling.uncertainty.interval_format import ends_text, times_text
from clip_jax.storage.paths import write_text

# the page may fetch nothing, whatever text a table holds
FLAT_PROFILE = "not identified: the profile of "  # as `FrontierFit.warnings` begins
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
FORM_COLUMNS = ("form", "law", "exponent", "low", "high", "starts", "extrapolation", "status")
CHECK_COLUMNS = ("form", "predicted", "measured", "error", "low", "high", "width", "naive", "naive_error", "verdict")
NEXT_COLUMNS = ("form", "flops", "predicted", "low", "high", "curve_low", "curve_high")
BEST_COLUMNS = (
    "budget", "params", "samples_seen", "seeds", "error", "sd", "drop", "noise", "falls", "sizes", "bracketed"
)  # fmt: skip
REGISTERED_COLUMNS = (
    "registration", "metric", "form", "flops", "times", "predicted", "low", "high", "measured", "off", "inside",
    "naive", "beats_naive", "noise_floor",
)  # fmt: skip
VALLEY_COLUMNS = ("budget", "sizes", "params", "samples_seen", "status")


def write_page(
    path: Path,
    analysis: Analysis,
    law: LawRecord,
    checklist: Checklist | None,
    forecasts: Sequence[Mapping[str, object]] = (),
) -> None:
    """Write ``report.html``; figures are read from the same folder, those left out are named with the reason."""
    data = json.dumps(embedded(analysis), allow_nan=False).replace("<", "\\u003c")
    style, script = (files(__name__).joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    parts = (
        _top(analysis, law),
        _registered(forecasts),
        _evidence(analysis, law),
        _pictures(path.parent, law),
        _rest(analysis, law, checklist),
    )
    body = "\n".join(chain.from_iterable(parts))
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{html.escape(law['title'])}</title><style>{style}</style></head><body>{body}"
        f'<script type="application/json" id="data">{data}</script><script>{script}</script></body></html>'
    )
    write_text(path, page)


def _top(analysis: Analysis, law: LawRecord) -> Iterator[str]:
    yield f"<main><h1>{html.escape(law['title'])}</h1>"
    batches = ", ".join(map(str, law["batch_sizes"]))
    yield (
        f'<p class="note">{law["runs"]} runs, {times_text(law["flops_span"])} of training FLOPs'
        + (f", batch size {batches}" if batches != "0" else "")
        + f". Circled: {html.escape(law['frontier_rule'])}; only those are fitted.</p>"
    )
    yield f"<p><b>{html.escape(law['why'])}.</b></p>"
    yield from _headline(analysis)
    prefix = f"{law['winner']}: "  # shown beside the curve
    if messages := [w for w in law["warnings"] if not w.startswith(prefix)]:
        yield '<ul class="warn">' + "".join(f"<li>{html.escape(w)}</li>" for w in messages) + "</ul>"
    laws = {w.key: w.name for w in compared_laws(analysis.law["chance"])}
    if averaged_bands(analysis) is not None:
        laws = {AVERAGED_KEY: AVERAGED_NAME, **laws}
    rules = {rule: FRONTIER_RULES[rule] for rule in analysis.frontiers}
    yield f'<div class="controls">{_select("law", "Law", laws)}{_select("rule", "Frontier", rules)}'
    yield '<label><input type="checkbox" id="others" checked> other laws</label>'
    if known_curves(analysis):
        yield '<label><input type="checkbox" id="curves" checked> learning curves</label>'
    yield "</div>"
    flops = analysis.rows["flops"]
    # both ends on a step, so that the keyboard reaches them; the script stays inside its grid
    low, high = (
        np.floor(np.log10(flops.min() * REACH[0]) * 100) / 100,
        np.ceil(np.log10(flops.max() * REACH[-1]) * 100) / 100,
    )
    yield (
        '<svg id="plot" role="group" aria-label="Error of every run against training FLOPs, with the fitted law. '
        'Arrow keys walk from run to run."></svg><div id="tip" role="tooltip" hidden></div>'
        f'<div class="target"><label for="target">Target compute</label><input type="range" id="target" '
        f'min="{low:.2f}" max="{high:.2f}" step="0.01"><output id="flops" for="target"></output></div>'
        '<p id="reading" role="status"></p><ul id="rivals" aria-label="Other forms at this compute"></ul>'
        '<p id="fitted"></p><p id="warnings" class="warn"></p>'
        '<p class="note">Drag the dark handle, or use the slider, to read the forecast. Dark band with a solid edge: '
        "the curve; light band with a dashed edge: a new frontier point (the mean of its seeds); both 95 %, "
        "interpolated between eight computes. Bars of the circled points: ± 1 standard error over seeds. Gray: "
        "beyond the data.</p>"
    )


def _headline(analysis: Analysis) -> Iterator[str]:
    """Yield the forecast, its extrapolation factor, and the forecasts of the other forms."""
    first = headline(analysis)
    if first is None:
        return
    row, fitted, target = first.forecast, analysis.frontier.fitted, np.array([analysis.target])
    rivals = [
        f"{fitted[group[0]].curve(target)[0]:.3g} ({joint_name(fitted, group)})"
        for group in same_curves(fitted, np.append(analysis.frontier.points["flops"], target), analysis.winner)
        if first.key not in group
    ]
    yield (
        f'<p id="headline">At {row["flops"]:.2e} FLOPs, which extrapolates '
        f"{times_beyond(analysis, row['flops']):.3g}×, a new frontier point is expected at <b>"
        f"{interval_text(row['predicted'], row['low'], row['high'])}</b> (95 %; {html.escape(first.name)}). "
        + (
            f"{'Its' if first.key == AVERAGED_KEY else 'Other'} forms say {html.escape(', '.join(rivals))}."
            if rivals
            else "No other form was fitted."
        )
        + "</p>"
    )


def _select(name: str, label: str, options: dict[str, str]) -> str:
    inside = "".join(f'<option value="{k}">{html.escape(v)}</option>' for k, v in options.items())
    return f'<span><label for="{name}">{label}</label> <select id="{name}">{inside}</select></span>'


def _warnings(fitted: FitRecord) -> list[str]:
    """Return a fit's warnings, those on flat profiles as one."""
    sides: dict[str, list[str]] = {}
    for name, side in (text.split() for text in fitted["flat"]):
        sides.setdefault(name, []).append(side)
    flat = ", ".join(f"{name} {' and '.join(each)}" for name, each in sides.items())
    others = [text for text in fitted["warnings"] if not text.startswith(FLAT_PROFILE)]
    return [*others, *([f"not identified: the profile is flat: {flat}"] if flat else [])]


def _registered(forecasts: Sequence[Mapping[str, object]]) -> Iterator[str]:
    if forecasts:
        yield "<h2>Registered forecasts</h2>" + table(forecasts, REGISTERED_COLUMNS)
        yield (
            '<p class="note">Each was written down before any run of its target. low, high: its 95 % band for the mean '
            "over seeds; off: predicted / measured - 1; noise_floor: the relative scatter of the measured mean, from "
            "seeds and pictures; times: beyond the largest budget of the fit.</p>"
        )


def _evidence(analysis: Analysis, law: LawRecord) -> Iterator[str]:
    scores = {s["form"]: s["mean_abs_log_error"] for s in law["extrapolation"]}
    names = point_names(analysis, analysis.frontier.points)
    forms = [
        {
            "form": f["form"],
            "law": ", ".join([f["formula"], *(f"{k} = {v:.4g}" for k, v in f["values"].items())]),
            "exponent": f["exponent"]["value"],
            "low": f["exponent"]["low"], "high": f["exponent"]["high"],
            "starts": f"{f['agree']} of {f['starts']}", "extrapolation": scores.get(f["form"]),
            "status": "; ".join([f["status"], *_warnings(f)]),
        }
        for f in law["fits"]
    ]  # fmt: skip
    if forms:
        yield "<h2>Forms</h2>" + table(forms, FORM_COLUMNS)
        yield (
            '<p class="note">low, high: 95 % interval of the exponent; a dash: held or not bounded by the data; a '
            "fit that is not identified has at most one end.</p>"
        )
    if law["forecast_check"]:
        yield "<h2>Forecast check: the largest budget, from the others</h2>"
        yield table(law["forecast_check"], CHECK_COLUMNS)
    if law["next_budget"]:
        times = times_beyond(analysis, law["next_budget"][0]["flops"])
        yield f"<h2>Every form at the target, which extrapolates {times:.3g}×</h2>"
        yield table(law["next_budget"], NEXT_COLUMNS)
        together = ""
        if law["averaged"]:
            low, high = law["averaged"][-1]["union"]
            together = f"The curves' bands of all forms together: {ends_text(low, high)}. "
        yield f'<p class="note">{together}{NO_BREAK.capitalize()}.</p>'
    if law["influence"]:
        yield "<h2>What leaving one point out does</h2>"
        influence = [{"point": name, **r} for name, r in zip(names, law["influence"], strict=True)]
        yield table(influence, ("point", "flops", "exponent", "parameter", "with", "without", "shift"))
        yield '<p class="note">exponent: without the point; parameter: the one it moves most, in standard errors.</p>'
    yield "<h2>Best of each budget</h2>" + table(law["frontier"], BEST_COLUMNS)
    a = law["allocation"]
    if a["status"] == "identified":
        yield (
            f"<p>Optimal parameters ~ C^{a['params']:.3f} ± {a['params_se']:.3f}, samples ~ C^{a['samples']:.3f} ± "
            f"{a['samples_se']:.3f} (standard errors).</p>"
        )
    else:
        yield f'<p class="note">Exponents of optimal size and samples {html.escape(a["status"])}.</p>'
    yield table(law["isoflop"][:60], VALLEY_COLUMNS)
    if law["lr_evidence"]:
        yield "<h2>Learning rates tried at each budget's best size</h2>"
        yield table(law["lr_evidence"], ("budget", "params", "peak_lr", "error", "verdict"))


def _pictures(folder: Path, law: LawRecord) -> Iterator[str]:
    from clip_jax.scaling.report.figures import FIGURES

    left_out = []
    for name, (title, _) in FIGURES.items():
        if (reason := law["figures"][name]) is not None:
            left_out.append(f"<li>{title}: {html.escape(reason)}</li>")
            continue
        code = base64.b64encode((folder / f"{name}.png").read_bytes()).decode()
        yield f'<h2>{title}</h2><img alt="{title}" src="data:image/png;base64,{code}">'
    if left_out:
        yield '<h2>Figures left out</h2><ul class="note">' + "".join(left_out) + "</ul>"


def _rest(analysis: Analysis, law: LawRecord, checklist: Checklist | None) -> Iterator[str]:
    columns = tuple(c for c in (*TIP, analysis.metric) if c in analysis.rows.columns)
    shown = drawn_rows(analysis)[list(columns)]
    yield "<h2>Runs</h2>" + (f'<p class="note">{text}; all are fitted.</p>' if (text := drawn_text(analysis)) else "")
    yield table([{str(k): v for k, v in r.items()} for r in shown.to_dict("records")], columns, sortable=True)
    if law["left_out"]:
        yield "<h2>Runs left out of the fit</h2>" + table(law["left_out"][:MAX_RUNS_DRAWN], ("run_id", "reason"))
        if (more := len(law["left_out"]) - MAX_RUNS_DRAWN) > 0:
            yield f'<p class="note">… {more:,} more; law.json has all.</p>'
    if checklist is not None:
        yield f"<details><summary>Checklist of the fit</summary><pre>{html.escape(as_text(checklist))}</pre></details>"
    versions = ", ".join(f"{k} {v}" for k, v in law["versions"].items())
    yield f'<p class="note">Rows fitted, SHA-256: <code>{law["rows_sha256"]}</code>; {html.escape(versions)}.</p>'
    yield "</main>"
