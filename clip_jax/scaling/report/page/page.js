"use strict";
// Everything was fitted beforehand: this script looks up, interpolates in logarithms, and draws.
(() => {
  const D = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const plot = $("plot"), tip = $("tip"), slider = $("target"), SVG = "http://www.w3.org/2000/svg";
  const state = { law: D.law, rule: D.rule, others: true, curves: D.curves.length > 0, at: D.target };
  let X, Y, fromX, box;

  const rule = () => D.rules.find((r) => r.key === state.rule);
  const fitOf = (law) => rule().fits[law] || null;
  const isKnown = (v) => v !== null && v !== undefined;
  // numbers beside one another have as many decimals as show two digits of their spread, and of the first of them
  function decimals(values) {
    const known = values.filter(isKnown);
    const spread = Math.max(...known) - Math.min(...known) || Math.abs(known[0]);
    return Math.min(Math.max(1 - Math.floor(Math.log10(Math.min(spread, Math.abs(known[0]) || spread))), 0), 12);
  }
  const OPEN = "none";
  const written = (values, digits) => values.map((v) => isKnown(v) ? v.toFixed(digits) : OPEN);
  const short = (v) => String(+v.toPrecision(3));
  // ticks within a factor of ten have as many decimals as the one that needs most
  function tickTexts(positions) {
    const texts = positions.map((t) => String(+t.toPrecision(3)));
    const wide = !positions.length || Math.max(...positions) >= 10 * Math.min(...positions);
    if (wide || texts.some((t) => t.includes("e"))) return texts;
    const most = Math.max(...texts.map((t) => (t.split(".")[1] || "").length));
    return positions.map((t) => t.toFixed(most));
  }
  const power = (v) => v.toExponential(2).replace("e+", "e");

  function node(name, attributes, text) {
    const made = document.createElementNS(SVG, name);
    for (const key in attributes) made.setAttribute(key, attributes[key]);
    if (text !== undefined) made.textContent = text;
    return made;
  }
  function add(name, attributes, text, parent = plot) { return parent.appendChild(node(name, attributes, text)); }

  // the value of a curve over D.grid at a compute: a straight line between its two neighbours in log-log
  function along(values, flops) {
    const g = D.grid, last = g.length - 1;
    const place = Math.log(flops / g[0]) / Math.log(g[last] / g[0]) * last;
    const i = Math.min(Math.max(Math.floor(place), 0), last - 1), share = Math.min(Math.max(place - i, 0), 1);
    const a = values[i], b = values[i + 1];
    return a === null || b === null ? null : Math.exp(Math.log(a) * (1 - share) + Math.log(b) * share);
  }

  function ticks(low, high, most) {
    for (const steps of [[1, 1.5, 2, 3, 4, 5, 7], [1, 2, 5], [1, 3], [1]]) {
      const positions = [];
      for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++)
        for (const s of steps) { const v = s * 10 ** e; if (v >= low && v <= high) positions.push(v); }
      if (positions.length <= most) return positions;
    }
    return ticks(low, high, most * 3).filter((_, i) => i % 3 === 0);
  }

  function scales() {
    const width = plot.clientWidth || 1000, height = plot.clientHeight || 520;
    box = { l: 62, r: 22, t: 14, b: 46, w: width, h: height };
    const low = D.grid[0], high = D.grid[D.grid.length - 1];
    const fit = fitOf(state.law), ys = D.runs.map((r) => r.y), least = Math.min(...ys);
    const bars = rule().points.filter((p) => isKnown(p.se));
    const ends = Object.values(rule().fits).map((f) => f.y[f.y.length - 1]);
    const ahead = fit ? [along(fit.y, D.target), along(fit.run_low, D.target)].filter(isKnown) : [];
    const lows = [least, ...ends, ...ahead, ...bars.map((p) => p.y - p.se)].filter((v) => v > least / 1000);
    const bottom = Math.min(...lows) / 1.15;
    const top = Math.min(Math.max(...ys, ...bars.map((p) => p.y + p.se)) * 1.15, D.ceiling === null ? Infinity : D.ceiling);
    X = (v) => box.l + (width - box.l - box.r) * Math.log(v / low) / Math.log(high / low);
    fromX = (x) => low * (high / low) ** ((x - box.l) / (width - box.l - box.r));
    Y = (v) => height - box.b - (height - box.t - box.b) * Math.log(v / bottom) / Math.log(top / bottom);
    box.bottom = bottom; box.top = top; box.low = low; box.high = high;
  }

  function path(points, attributes, parent) {
    const d = points.map((p, i) => (i ? "L" : "M") + X(p[0]).toFixed(1) + " " + Y(p[1]).toFixed(1)).join("");
    return add("path", { d, fill: "none", ...attributes }, undefined, parent);
  }
  function band(fit, prefix, opacity, dashes, parent) {
    const bottom = box.bottom / 10, top = box.top * 10;
    const ends = ["low", "high"].map((end, i) => D.grid.map((c, k) => {
      const v = fit[prefix + end][k];
      return [c, v === null ? (i ? top : bottom) : Math.min(Math.max(v, bottom), top)];
    }));
    path(ends[1].concat([...ends[0]].reverse()), { class: "band", fill: fit.color, opacity, stroke: "none" }, parent);
    for (const end of ends) path(end, { class: "edge", stroke: fit.color, "stroke-width": 0.8, "stroke-dasharray": dashes },
      parent);
  }

  // fits other than the chosen one, each curve once: [[fit that is drawn, names of all that are this curve]]
  function rivals() {
    const fits = rule().fits, chosen = fits[state.law] ? fits[state.law].same : null, curves = new Map();
    for (const fit of Object.values(fits)) {
      if (fit.same === chosen) continue;
      if (!curves.has(fit.same)) curves.set(fit.same, [fits[fit.same], []]);
      curves.get(fit.same)[1].push(fit.name);
    }
    return [...curves.values()];
  }

  function draw() {
    scales();
    plot.textContent = "";
    plot.setAttribute("viewBox", `0 0 ${box.w} ${box.h}`);
    const clip = add("clipPath", { id: "inside" });
    add("rect", { x: box.l, y: box.t, width: box.w - box.l - box.r, height: box.h - box.t - box.b }, undefined, clip);
    add("rect", { id: "beyond", x: X(D.most), y: box.t, width: X(box.high) - X(D.most), height: box.h - box.t - box.b,
      fill: "#f4f4f4" });
    add("text", { x: X(D.most) + 6, y: box.h - box.b - 8, class: "soft" }, "extrapolation");
    const most = box.w < 600 ? 6 : 14;
    for (const t of ticks(box.low, box.high, most)) {
      add("line", { x1: X(t), x2: X(t), y1: box.t, y2: box.h - box.b, stroke: "#e8e8e8" });
      add("text", { x: X(t), y: box.h - box.b + 16, "text-anchor": "middle" }, t.toExponential().replace("e+", "e"));
    }
    const levels = ticks(box.bottom, box.top, 10), texts = tickTexts(levels);
    for (const [i, t] of levels.entries()) {
      add("line", { x1: box.l, x2: box.w - box.r, y1: Y(t), y2: Y(t), stroke: "#e8e8e8" });
      add("text", { x: box.l - 6, y: Y(t) + 4, "text-anchor": "end" }, texts[i]);
    }
    add("text", { x: (box.w + box.l) / 2, y: box.h - 8, "text-anchor": "middle" }, "training FLOPs");
    const middle = (box.h - box.b) / 2;
    add("text", { x: 14, y: middle, "text-anchor": "middle", transform: `rotate(-90 14 ${middle})` }, D.metric);
    const inside = add("g", { "clip-path": "url(#inside)" });
    if (state.curves) for (const c of D.curves) path(c.points, { stroke: c.color, opacity: 0.35 }, inside);
    const fit = fitOf(state.law);
    if (fit) { band(fit, "run_", 0.1, "3 2", inside); band(fit, "", 0.18, "none", inside); }
    if (state.others) for (const [other] of rivals())
      path(D.grid.map((c, i) => [c, other.y[i]]), { class: "rival", stroke: other.color, "stroke-dasharray": "5 4" }, inside);
    if (fit) path(D.grid.map((c, i) => [c, fit.y[i]]), { id: "curve", stroke: fit.color, "stroke-width": 2.4 }, inside);
    D.runs.forEach((r, i) => {
      const dot = add("circle", { class: "run", cx: X(r.x), cy: Y(r.y), r: 4.5, fill: r.color, stroke: "#fff",
        "stroke-width": 0.7, tabindex: i ? -1 : 0, role: "img", "aria-label": r.tip.replace(/\n/g, ", "), "data-run": r.id });
      dot.addEventListener("pointerenter", (e) => show(r, e.clientX, e.clientY));
      dot.addEventListener("pointerleave", hide);
      dot.addEventListener("focus", () => { const p = dot.getBoundingClientRect(); show(r, p.right, p.bottom); });
      dot.addEventListener("blur", hide);
    });
    for (const p of rule().points) {
      add("circle", { class: "frontier", cx: X(p.x), cy: Y(p.y), r: 8, fill: "none", stroke: "#000", "stroke-width": 1.5,
        "pointer-events": "none" });
      if (!isKnown(p.se)) continue;
      const x = X(p.x), up = Y(Math.min(p.y + p.se, box.top)), down = Y(Math.max(p.y - p.se, box.bottom));
      add("path", { class: "bar", d: `M${x} ${up}V${down}M${x - 3} ${up}h6M${x - 3} ${down}h6`, stroke: "#000", fill: "none",
        "pointer-events": "none" });
    }
    move();
  }

  // the handle of the target compute, its reading, and what was fitted
  function move() {
    plot.querySelectorAll(".handle").forEach((e) => e.remove());
    const fit = fitOf(state.law), reading = $("reading"), x = X(state.at);
    const handle = add("g", { class: "handle", "aria-hidden": "true" });
    add("line", { x1: x, x2: x, y1: box.t, y2: box.h - box.b, stroke: "#333", "stroke-dasharray": "3 3" }, undefined, handle);
    add("rect", { id: "grip", x: x - 12, y: box.t, width: 24, height: 26, rx: 5, fill: "#333" }, undefined, handle);
    add("path", { d: `M${x - 4} ${box.t + 8}l-4 5l4 5M${x + 4} ${box.t + 8}l4 5l-4 5`, stroke: "#fff", fill: "none",
      "pointer-events": "none" }, undefined, handle);
    handle.addEventListener("pointerdown", drag);
    $("flops").textContent = `${power(state.at)} FLOPs`;
    slider.value = Math.log10(state.at);
    slider.setAttribute("aria-valuetext", $("flops").textContent);
    for (const key of ["flops", "predicted", "low", "high", "runLow", "runHigh"]) delete reading.dataset[key];
    if (!fit) {
      reading.textContent = `No forecast: ${rule().reasons[state.law] || "there is no fit"}.`;
      $("rivals").textContent = $("fitted").textContent = "";
      $("warnings").textContent = "";
      return;
    }
    const read = { predicted: along(fit.y, state.at), low: along(fit.low, state.at), high: along(fit.high, state.at),
      runLow: along(fit.run_low, state.at), runHigh: along(fit.run_high, state.at) };
    const times = state.at / D.most, name = state.law === "averaged" ? "average over forms" : fit.name;
    const digits = decimals([read.predicted, read.runLow, read.runHigh, read.low, read.high]);
    const span = (low, high) => low !== OPEN && high !== OPEN ? `within ${low} to ${high}`
      : low === high ? "not bounded by the data" : low === OPEN ? `at most ${high}` : `at least ${low}`;
    const [middle, low, high, runLow, runHigh] =
      written([read.predicted, read.low, read.high, read.runLow, read.runHigh], digits);
    reading.textContent = `At ${power(state.at)} FLOPs (${times > 1 ? `extrapolates ${short(times)}×` : "inside the data"})`
      + ` the ${name} expects ${middle}; 95 %: the curve ${span(low, high)}, a new frontier point ${span(runLow, runHigh)}.`;
    others(digits);
    Object.assign(reading.dataset, { flops: state.at }, read);
    const facts = [fit.status, fit.agree, `${rule().points.length} points`].filter((t) => t).join("; ");
    $("fitted").textContent = `${D.metric} = ${fit.text}  (${facts})`;
    $("warnings").textContent = fit.warnings.join("; ");
    add("circle", { class: "handle", cx: x, cy: Y(Math.max(read.predicted, box.bottom)), id: "forecast", r: 5.5, fill: fit.color,
      stroke: "#000", "pointer-events": "none" });
  }

  // what the other forms answer at the target, with the band of a new frontier point
  function others(digits) {
    const list = $("rivals");
    list.textContent = "";
    for (const [fit, names] of rivals()) {
      const values = [along(fit.y, state.at), along(fit.run_low, state.at), along(fit.run_high, state.at)];
      const [middle, low, high] = written(values, Math.max(digits, decimals(values)));
      const item = list.appendChild(document.createElement("li")), swatch = item.appendChild(document.createElement("span"));
      swatch.className = "swatch";
      swatch.style.borderColor = fit.color;
      item.append(`${names.join(" = ")}: ${middle} [${low}, ${high}]`);
      item.dataset.predicted = values[0];
    }
  }

  function target(flops) {
    state.at = Math.min(Math.max(flops, D.grid[0]), D.grid[D.grid.length - 1]);
    move();
  }
  function drag(event) {
    event.preventDefault();
    const follow = (e) => target(fromX(e.clientX - plot.getBoundingClientRect().left));
    const stop = () => { removeEventListener("pointermove", follow); removeEventListener("pointerup", stop); };
    addEventListener("pointermove", follow);
    addEventListener("pointerup", stop);
  }

  function show(run, x, y) {
    tip.textContent = run.tip;
    tip.hidden = false;
    const size = tip.getBoundingClientRect();
    tip.style.left = Math.max(4, Math.min(x + 12, innerWidth - size.width - 8)) + "px";
    tip.style.top = Math.max(4, Math.min(y + 12, innerHeight - size.height - 8)) + "px";
  }
  function hide() { tip.hidden = true; }

  function offer() { // laws without a fit on this frontier cannot be chosen
    for (const o of $("law").options) o.disabled = !fitOf(o.value);
    if (!fitOf(state.law)) state.law = Object.keys(rule().fits)[0] || state.law;
    $("law").value = state.law;
  }

  $("law").addEventListener("change", (e) => { state.law = e.target.value; draw(); });
  $("rule").addEventListener("change", (e) => { state.rule = e.target.value; offer(); draw(); });
  $("others").addEventListener("change", (e) => { state.others = e.target.checked; draw(); });
  if ($("curves")) $("curves").addEventListener("change", (e) => { state.curves = e.target.checked; draw(); });
  slider.addEventListener("input", () => target(10 ** Number(slider.value)));
  plot.addEventListener("keydown", (e) => { // arrows walk from run to run
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[e.key];
    if (e.key === "Escape") hide();
    if (!step || !e.target.classList.contains("run")) return;
    const dots = [...plot.querySelectorAll(".run")], next = dots[dots.indexOf(e.target) + step];
    if (!next) return;
    e.preventDefault();
    e.target.setAttribute("tabindex", -1);
    next.setAttribute("tabindex", 0);
    next.focus();
  });
  addEventListener("resize", draw);

  document.querySelectorAll("table.sort th button").forEach((button) => button.addEventListener("click", () => {
    const head = button.parentElement, body = head.closest("table").tBodies[0], i = head.cellIndex;
    const up = head.getAttribute("aria-sort") !== "ascending";
    head.parentElement.querySelectorAll("th").forEach((h) => h.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = (row) => {
      const text = row.cells[i].dataset.v ?? row.cells[i].textContent, parsed = Number(text);
      return text === "" || Number.isNaN(parsed) ? text : parsed;
    };
    const rows = [...body.rows].sort((a, b) => { const p = value(a), q = value(b); return p > q ? 1 : p < q ? -1 : 0; });
    for (const row of up ? rows : rows.reverse()) body.append(row);
  }));

  offer();
  draw();
})();
