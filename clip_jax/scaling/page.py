"""The report as one self-contained HTML page: an interactive curve, the evidence, the table of runs."""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_jax.scaling.uncertainty import Ensemble

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "run_id",
    "budget",
    "flops",
    "params",
    "samples_seen",
    "batch_size",
    "seed",
    "peak_lr",
    "kind",
    "val_loss_refit",
)
FIGURES = (
    ("learning_curves.png", "Learning curves"),
    ("isoflop.png", "IsoFLOP curves"),
    ("residuals.png", "Residuals"),
)

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1c1c1c;max-width:1080px;margin:2em auto;padding:0 1em}
h1{font-size:1.5em;margin-bottom:.1em} h2{font-size:1.15em;margin-top:2em}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13px;display:block;overflow-x:auto}
th,td{padding:.25em .7em;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}
th{cursor:pointer;background:#f6f6f6} td:first-child,th:first-child{text-align:left}
.note{color:#555} .bad{color:#a33} #curve{width:100%;height:auto;border:1px solid #ddd}
label{margin-right:1.2em} #tip{position:fixed;background:#fff;border:1px solid #999;padding:.3em .6em;font-size:12px;
pointer-events:none;display:none;white-space:pre} img{max-width:100%}
"""

_SCRIPT = """
const D=JSON.parse(document.getElementById('data').textContent),S=document.getElementById('curve'),
tip=document.getElementById('tip'),NS='http://www.w3.org/2000/svg',W=1000,H=540,M={l:70,r:20,t:15,b:50};
let shown={},logx=true,logy=true,curves=true;D.forms.forEach(f=>shown[f.name]=true);
function el(n,a,t){const e=document.createElementNS(NS,n);for(const k in a)e.setAttribute(k,a[k]);
if(t!==undefined)e.textContent=t;S.appendChild(e);return e}
function ticks(a,b,log){if(!log){const s=Math.pow(10,Math.floor(Math.log10((b-a)/4))),k=(b-a)/s>12?4:(b-a)/s>6?2:1,o=[];
for(let v=Math.ceil(a/(s*k))*s*k;v<=b;v+=s*k)o.push(v);return o}
const o=[];for(let e=Math.floor(Math.log10(a));e<=Math.log10(b);e++)for(const m of Math.log10(b/a)>2?[1]:[1,2,3,4,5,6,7,8,9])
{const v=m*Math.pow(10,e);if(v>=a&&v<=b)o.push(v)}return o}
function draw(){S.innerHTML='';const xs=D.grid,xa=Math.min(...xs),xb=Math.max(...xs),ys=D.runs.map(r=>r.y);
const floor=D.forms.filter(g=>g.low).flatMap(g=>g.low),low=Math.min(...ys),
ya=Math.max(low*.3,Math.min(low*.6,...floor)),yb=Math.max(...ys)*1.12,f=(v,a,b,log)=>log?Math.log(v/a)/Math.log(b/a):(v-a)/(b-a),
X=v=>M.l+(W-M.l-M.r)*f(v,xa,xb,logx),Y=v=>H-M.b-(H-M.t-M.b)*f(v,ya,yb,logy);
for(const t of ticks(xa,xb,logx)){el('line',{x1:X(t),x2:X(t),y1:M.t,y2:H-M.b,stroke:'#eee'});
el('text',{x:X(t),y:H-M.b+18,'text-anchor':'middle','font-size':12},t.toExponential(0))}
for(const t of ticks(ya,yb,logy)){el('line',{x1:M.l,x2:W-M.r,y1:Y(t),y2:Y(t),stroke:'#eee'});
el('text',{x:M.l-8,y:Y(t)+4,'text-anchor':'end','font-size':12},+t.toPrecision(3))}
el('text',{x:(W+M.l)/2,y:H-12,'text-anchor':'middle','font-size':13},'training FLOPs');
el('text',{x:18,y:H/2,'text-anchor':'middle','font-size':13,transform:`rotate(-90 18 ${H/2})`},D.metric);
const line=(p,a)=>el('path',Object.assign({d:p.map((q,i)=>(i?'L':'M')+X(q[0])+' '+Y(Math.min(Math.max(q[1],ya),yb))).join(''),
fill:'none'},a));
if(curves)for(const c of D.curves)line(c.points,{stroke:c.colour,opacity:.35});
for(const g of D.forms)if(shown[g.name]){if(g.low){const p=xs.map((x,i)=>[x,g.high[i]]).concat(xs.map((x,i)=>[x,g.low[i]]).reverse());
line(p,{fill:g.colour,opacity:.13,stroke:'none'})}line(xs.map((x,i)=>[x,g.y[i]]),{stroke:g.colour,'stroke-width':g.low?2.4:1.4,
'stroke-dasharray':g.low?'':'6 4'})}
for(const r of D.runs){const c=el('circle',{cx:X(r.x),cy:Y(r.y),r:r.best?7:4.5,fill:r.colour,stroke:r.best?'#000':'#fff',
'stroke-width':r.best?1.8:.6});c.onmousemove=e=>{tip.style.display='block';tip.style.left=Math.min(e.clientX+12,innerWidth-260)+'px';
tip.style.top=e.clientY+12+'px';tip.textContent=r.tip};c.onmouseout=()=>tip.style.display='none'}}
function box(name,on,set,colour){const l=document.createElement('label'),i=document.createElement('input');i.type='checkbox';i.checked=on;
i.onchange=()=>{set(i.checked);draw()};l.append(i,' '+name);if(colour)l.style.color=colour;document.getElementById('boxes').append(l)}
D.forms.forEach(g=>box(g.name,true,v=>shown[g.name]=v,g.colour));box('log FLOPs',true,v=>logx=v);box('log error',true,v=>logy=v);
box('learning curves',true,v=>curves=v);draw();
document.querySelectorAll('table.sort th').forEach(th=>th.onclick=()=>{const b=th.closest('table').tBodies[0],i=th.cellIndex,
s=th.dataset.up=th.dataset.up==='1'?'0':'1',v=r=>{const t=r.cells[i].dataset.v??r.cells[i].textContent,n=parseFloat(t);return isNaN(n)?t:n};
[...b.rows].sort((p,q)=>(v(p)>v(q)?1:v(p)<v(q)?-1:0)*(s==='1'?1:-1)).forEach(r=>b.append(r))});
"""


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3e}" if abs(value) >= 1e6 or 0 < abs(value) < 1e-3 else f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) < 1e9 else f"{value:.3e}"
    return str(value)


def _table(rows: list[dict[str, Any]], columns: tuple[str, ...], sortable: bool = False) -> str:
    head = "".join(f"<th>{html.escape(c.replace('_', ' '))}</th>" for c in columns)

    def cell(value: Any) -> str:
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and np.isfinite(value)
        sort = f' data-v="{value!r}"' if number else ""
        return f"<td{sort}>{html.escape(_text(value))}</td>"

    body = "".join("<tr>" + "".join(cell(r.get(c)) for c in columns) + "</tr>" for r in rows)
    kind = ' class="sort"' if sortable else ""
    return f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _plain_rows(df: pd.DataFrame) -> list[dict[str, Any]]:
    rows = df.to_dict("records")
    return [{str(k): v.item() if isinstance(v, np.generic) else v for k, v in r.items()} for r in rows]


def _interactive(
    law: dict[str, Any], runs: list[dict[str, Any]], ensembles: list[Ensemble], curves: Any
) -> dict[str, Any]:
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm, to_hex

    from clip_jax.scaling.figures import FORM_COLOURS

    metric = law["metric"]
    sizes = [r["params"] for r in runs]
    norm = LogNorm(min(sizes), max(sizes) if max(sizes) > min(sizes) else min(sizes) * 1.1)
    colour = {r["run_id"]: to_hex(colormaps["viridis_r"](norm(r["params"]))) for r in runs}
    best = {(f["budget"], f["params"]) for f in law["frontier"]}
    flops = [r["flops"] for r in runs]
    first = min(flops) if curves is None else min(min(flops), float(curves["flops"].min()))
    grid = np.geomspace(first / 1.2, max(flops) * 12, 90)
    forms = []
    for ensemble in ensembles:
        name = ensemble.fit.law.name
        form = {"name": name, "colour": FORM_COLOURS[name], "y": ensemble.fit.predict(grid).tolist()}
        if name == law["winner"]:
            low, high = ensemble.band(grid, observation=False)
            form |= {"low": low.tolist(), "high": high.tolist()}
        forms.append(form)
    lines = []
    if curves is not None:
        for run_id, part in curves.sort_values("flops").groupby("run_id"):
            if run_id in colour:
                points = list(zip(part["flops"].tolist(), part["error"].tolist(), strict=True))
                lines.append({"colour": colour[run_id], "points": points})
    dots = [
        {
            "x": r["flops"],
            "y": r[metric],
            "colour": colour[r["run_id"]],
            "best": (r["budget"], r["params"]) in best,
            "tip": "\n".join(f"{c}: {_text(r[c])}" for c in (*COLUMNS, metric) if c in r),
        }
        for r in runs
    ]
    return {
        "metric": metric.replace("_", " "),
        "grid": grid.tolist(),
        "forms": forms,
        "runs": dots,
        "curves": lines,
    }


def write_page(
    path: Path, law: dict[str, Any], df: pd.DataFrame, ensembles: list[Ensemble], curves: Any = None
) -> None:
    """Write ``report.html`` beside the figures. Nothing is fetched from a network when it is opened."""
    runs = _plain_rows(df)
    data = json.dumps(_interactive(law, runs, ensembles, curves), allow_nan=False).replace("<", "\\u003c")
    parts = [f"<h1>{html.escape(law['title'])}</h1>"]
    batches = ", ".join(map(str, law["batch_sizes"]))
    parts.append(
        f'<p class="note">{law["runs"]} runs, {law["flops_span"]:.0f}× of training FLOPs, batch size {batches}. '
        f"Circled: the best size of each budget; only those are fitted.</p>"
    )
    parts.append(f"<p><b>{html.escape(law['why'])}.</b></p>")
    parts.append('<div id="boxes"></div><svg id="curve" viewBox="0 0 1000 540"></svg><div id="tip"></div>')
    parts.append("<h2>Forms</h2>")
    fits = [
        {
            "form": f["form"],
            "law": f["formula"],
            "values": ", ".join(f"{k} = {v:.4g}" for k, v in f["values"].items()),
            "exponent": f["exponent"]["value"],
            "low": f["exponent"]["low"],
            "high": f["exponent"]["high"],
            "agreeing_starts": f"{f['agree']} of {f['starts']}",
            "status": "; ".join([f["status"], *f["notes"]]),
            "extrapolation": next(
                (s["mean_abs_log_error"] for s in law["extrapolation"] if s["form"] == f["form"]), None
            ),
        }
        for f in law["fits"]
    ]
    parts.append(
        _table(
            fits,
            (
                "form",
                "law",
                "values",
                "exponent",
                "low",
                "high",
                "agreeing_starts",
                "extrapolation",
                "status",
            ),
        )
    )
    if law["forecast_check"]:
        parts.append("<h2>Forecast check: the largest budget, from the others</h2>")
        columns = (
            "form",
            "predicted",
            "measured",
            "error",
            "low",
            "high",
            "width",
            "naive",
            "naive_error",
            "verdict",
        )
        parts.append(_table(law["forecast_check"], columns))
    if law["next_budget"]:
        parts.append("<h2>Ten times more compute</h2>")
        parts.append(_table(law["next_budget"], ("form", "flops", "predicted", "low", "high")))
    parts.append("<h2>Best of each budget</h2>")
    best_columns = (
        "budget",
        "params",
        "samples_seen",
        "seeds",
        "error",
        "sd",
        "drop",
        "noise",
        "falls",
        "sizes",
        "bracketed",
    )
    parts.append(_table(law["frontier"], best_columns))
    allocation = law["allocation"]
    if allocation["status"] == "identified":
        parts.append(
            f"<p>Optimal parameters ~ C^{allocation['params']:.3f} ± {allocation['params_se']:.3f}, samples ~ "
            f"C^{allocation['samples']:.3f} ± {allocation['samples_se']:.3f} (standard errors).</p>"
        )
    else:
        parts.append(f'<p class="note">Exponents of optimal size and samples {html.escape(allocation["status"])}.</p>')
    parts.append(_table(law["isoflop"], ("budget", "sizes", "params", "samples_seen", "status")))
    if law["lr_evidence"]:
        parts.append("<h2>Learning rates tried at each budget's best size</h2>")
        parts.append(_table(law["lr_evidence"], ("budget", "params", "peak_lr", "error", "verdict")))
    for name, title in FIGURES:
        if (path.parent / name).exists():
            code = base64.b64encode((path.parent / name).read_bytes()).decode()
            parts.append(f'<h2>{title}</h2><img alt="{title}" src="data:image/png;base64,{code}">')
    parts.append("<h2>Runs</h2>")
    shown = tuple(c for c in (*COLUMNS, law["metric"]) if c in df.columns)
    parts.append(_table(runs, shown, sortable=True))
    if law["left_out"]:
        parts.append("<h2>Runs left out of the fit</h2>")
        parts.append(_table(law["left_out"], ("run_id", "reason")))
    body = "\n".join(parts)
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(law["title"])}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>{body}'
        f'<script type="application/json" id="data">{data}</script><script>{_SCRIPT}</script></body></html>'
    )
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(page)
    partial.replace(path)
