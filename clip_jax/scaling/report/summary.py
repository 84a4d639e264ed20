"""Summarize a law in a few lines for a terminal."""

from __future__ import annotations

import textwrap

from clip_jax.scaling.analysis.averaging import NO_BREAK
from clip_jax.scaling.analysis.extrapolation import AVERAGED
from clip_jax.scaling.analysis.frontier_fit import BUDGET, FRONTIER_RULES
from clip_jax.scaling.data.records import LawRecord
from clip_jax.scaling.uncertainty.interval_format import ends_text, times_text

TERMINAL_COLUMNS = 100  # of a terminal
BUDGETS_SHOWN = 10  # budgets
SHOWN_WEIGHT = 0.005  # of a form whose answer is printed


def text_summary(law: LawRecord) -> str:
    """Summarize the law for a terminal of 100 columns.

    Args:
      law: the content of ``law.json``.

    Returns:
      Lines of text.
    """
    span = f"{times_text(law['flops_span'])} of FLOPs"
    lines = [f"{law['title']}  ({law['metric']}; {law['runs']} runs over {span})", ""]
    if law["frontier_rule"] != FRONTIER_RULES[BUDGET]:
        lines.insert(1, f"  no column 'budget': the frontier is the {law['frontier_rule']}")
    lines.append("   budget      params     samples  seeds   error     sd  drop to next  beyond noise  bracketed")
    hidden = max(len(law["frontier"]) - BUDGETS_SHOWN, 0)
    for i, r in enumerate(law["frontier"]):
        if hidden and 3 <= i < 3 + hidden:
            if i == 3:
                lines.append(f"  … {hidden} more")
            continue
        sd = "-" if r["sd"] is None else f"{r['sd']:.4f}"
        drop = "" if r["drop"] is None else f"{r['drop']:+.4f}"
        falls = "" if r["drop"] is None else {True: "yes", False: "NO", None: "unknown"}[r["falls"]]
        lines.append(
            f"  {r['budget']:8.2e}  {r['params']:8,.0f}  {r['samples_seen']:10,.0f}  {r['seeds']:5d}  {r['error']:.4f} "
            f"{sd:>7}  {drop:>12}  {falls:>12}  {'yes' if r['bracketed'] else 'no':>9}"
        )
    a = law["allocation"]
    if a["status"] == "identified":
        lines.append(
            f"  optimal size ~ C^{a['params']:.2f} (se {a['params_se']:.2f}), samples ~ C^{a['samples']:.2f} "
            f"(se {a['samples_se']:.2f})"
        )
    else:
        lines.append(f"  exponents of optimal size and samples {a['status']}")
    lines += [
        "",
        "  form                   law                               exponent  95 % interval     extrapolation",
    ]
    scores = {s["form"]: s["mean_abs_log_error"] for s in law["extrapolation"]}
    for f in law["fits"]:
        e = f["exponent"]
        values = ", ".join(f"{k}={v:.3g}" for k, v in f["values"].items() if k != e["name"])
        score = "-" if scores.get(f["form"]) is None else f"{scores[f['form']]:.4f}"
        mark = " *" if f["form"] == law["winner"] else ""
        loose = not f["identified"]
        interval = _span(e["low"], e["high"])
        lines.append(f"  {f['form']:21s}  {values:32s}  {e['name']}={e['value']:.4f}  {interval}  {score}{mark}")
        remarks = [f["status"]] if f["status"] != "converged" else []
        remarks += ["not identified"] if loose else []
        if remarks or f["notes"]:
            lines.append(f"      {'; '.join([*remarks, *f['notes']])}")
    lines += [f"  {law['selection']}"] if law.get("selection") else []
    lines.append(f"  {law['why']}")
    if law["forecast_check"]:
        first = law["forecast_check"][0]
        lines += [
            "",
            f"  forecast check: fitted without {first['flops']:.2e} FLOPs, where {first['measured']:.4f} was measured;",
            f"  the naive guess 'same as the last budget' is {first['naive']:.4f} (off by {first['naive_error']:+.4f})",
        ]
        shown = [r for r in law["forecast_check"] if r["form"] in (AVERAGED, law["winner"])]
        for check in shown:
            verdict = check["verdict"].split(":")[0].replace("does not beat the naive guess", "does not beat it")
            lines.append(
                f"  {check['form']:21s}  {check['predicted']:.4f} {_span(check['low'], check['high'])} "
                f"width {_number(check['width'])}  off by {check['error']:+.4f}: {verdict}"
            )
        if any(r["verdict"].startswith("no forecast") for r in shown):
            lines.append("  no forecast: the band is open, or wider than the remaining error")
    lines += forecast_lines(law)
    lines += [f"  note: {law['rising']}"] if law.get("rising") else []
    lines += [f"  note: {w}" for w in (*law["rivals"], *law["moved"])][:3]
    verdicts = {r["budget"]: str(r["verdict"]) for r in law["lr_evidence"] if r.get("verdict")}
    if verdicts:
        inside = sum(v.startswith(("inside", "flat")) for v in verdicts.values())
        lines.append(f"  learning rate: {inside} of {len(verdicts)} budgets inside the rates tried")
        lines += [
            f"    at {budget:.2e} FLOPs: {verdict}" for budget, verdict in verdicts.items() if verdict != "inside"
        ]
    wrapped = [textwrap.wrap(line, TERMINAL_COLUMNS, subsequent_indent="      ") or [""] for line in lines[1:]]
    return "\n".join([lines[0], *(part for parts in wrapped for part in parts)])


def forecast_lines(law: LawRecord) -> list[str]:
    """Return the averaged forecast at the target, its extrapolation factor, and the forecast of each form."""
    if not law["averaged"]:
        return []
    seen, ahead = law["averaged"][0], law["averaged"][-1]
    lines = [
        "",
        f"  at {ahead['flops']:.1e} FLOPs it expects {ahead['median']:.4f}: curve {_span(*ahead['curve'])}, "
        f"a new frontier point {_span(*ahead['run'])}",
        f"  (95 %, averaged over forms; it extrapolates {ahead['flops'] / seen['flops']:.0f}x, and {NO_BREAK})",
    ]
    untested = law["averaging"]["left_out"] if law["averaging"] else {}
    if untested:
        lines.append(f"  too few points for {', '.join(untested)}: what they would say is in no band here")
    shown = [f for f in ahead["forms"] if f["weight"] >= SHOWN_WEIGHT]
    for form in shown:
        predicted = f"{form['predicted']:.4f} {_span(form['low'], form['high'])}"
        lines.append(f"    {form['form']:24s} weight {form['weight']:.2f}  {predicted}")
    others = [f"{f['form']} {f['predicted']:.4f}" for f in ahead["forms"] if f not in shown]
    lines += [f"    next to no weight: {', '.join(others)}"] if others else []
    return [*lines, f"    {'the bands of all forms together':44s} {_span(*ahead['union'])}"]


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"


def _span(low: float | None, high: float | None) -> str:
    return ends_text(low, high, ".4f")
