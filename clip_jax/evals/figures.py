"""Figures of a transfer benchmark, from a table of accuracies (`evals.results.read_results`), and of retrieval.

Sets are given as ``{title: (name with a prompt ensemble, name with a single prompt)}``: two values of the column
``dataset``, of which the table may lack one.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_jax.plotting.style import BLUE, GREEN, HOUSE, INK, ORANGE, SOFT, NotDrawn, new_figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from clip_jax.plotting.figure import Figure

Sets = Mapping[str, tuple[str, str]]
PROMPTS = (("prompt ensemble", BLUE, "o"), ("single prompt", ORANGE, "s"))
ACROSS = 5  # panels per row
TICKS = (1, 2, 4, 8, 16)


def zero_shot(table: pd.DataFrame, sets: Sets) -> Figure:
    """Plot zero-shot accuracy with a prompt ensemble and with a single prompt: 95 % interval, image count, chance.

    One panel per model. Raises NotDrawn when none of the sets was measured.
    """
    from matplotlib import rc_context

    measured = {
        model: {name: rows for name, pair in sets.items() if (rows := _zero_shot(group, pair))}
        for model, group in table.groupby("model", sort=False)
    }
    measured = {model: rows for model, rows in measured.items() if rows}
    if not measured:
        raise NotDrawn("no zero-shot accuracy of these sets")
    heights = [len(rows) for rows in measured.values()]
    numbers = [row for rows in measured.values() for both in rows.values() for row in both.values()]
    with rc_context(HOUSE):  # type: ignore[arg-type]
        figure, _ = new_figure(7.4, 0.8 + 0.35 * len(measured) + 0.5 * sum(heights))
        figure.clear()
        axes = figure.subplots(len(measured), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
        axes[-1].set_xscale("log")
        axes[-1].set_xlim(min(min(r["chance"], r["value"] or 1) for r in numbers) / 3, 1)
        for axis, (model, rows) in zip(axes, measured.items(), strict=True):
            _intervals(axis, rows)
            axis.set_title(model)
        axes[-1].set_xlabel("zero-shot top-1 accuracy, with 95 % interval")
        axes[-1].xaxis.set_major_formatter("{x:g}")
        _legend(figure, list(axes))
        figure.draw_without_rendering()
        return figure


def retrieved(examples: Sequence[tuple[str, Sequence[tuple[np.ndarray, bool]]]]) -> Figure:
    """Draw captions, each above the images retrieved for it, best first; the caption's own image has a green frame.

    Args:
      examples: (caption, [(image uint8 [H, W, 3], whether it is the caption's own), …]).
    """
    from matplotlib import rc_context

    across = max(len(images) for _, images in examples)
    with rc_context(HOUSE):  # type: ignore[arg-type]
        figure, _ = new_figure(1.1 * across, 1.35 * len(examples))
        figure.clear()
        figure.set_layout_engine("constrained", h_pad=0.12)  # inches, for the captions
        rows = figure.subplots(len(examples), across, squeeze=False)
        for axes, (caption, images) in zip(rows, examples, strict=True):
            text = textwrap.shorten(caption, 16 * across, placeholder=" …")
            # not a title, to which the layout would fit the column
            axes[0].annotate(text, (0, 1.05), xycoords="axes fraction", size=7).set_in_layout(False)
            for axis, (image, correct) in zip(axes, images, strict=True):
                axis.imshow(image)
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set(visible=correct, color=GREEN, linewidth=2.5)
        return figure


def _intervals(axis: Axes, measured: Mapping[str, dict[str, Any]]) -> None:
    for y, rows in enumerate(measured.values()):
        chance = next(iter(rows.values()))["chance"]
        axis.plot([chance] * 2, [y - 0.36, y + 0.36], color=SOFT, ls=":", label="chance")
        for side, (name, color, marker) in enumerate(PROMPTS):
            if name not in rows:
                continue
            row, at = rows[name], y + 0.34 * side - 0.17
            axis.plot([max(row["low"], 1e-9), row["high"]], [at] * 2, color=color)  # a logarithm has no 0
            axis.plot(row["value"], at, marker, color=color, ms=4, label=name)
            text = f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]  {row['examples']:,.0f} pictures"
            axis.annotate(text, (1.02, at), xycoords=("axes fraction", "data"), va="center", color=color, size=7)
    axis.set_yticks(range(len(measured)), list(measured))
    axis.set_ylim(len(measured) - 0.5, -0.5)
    axis.grid(visible=False, axis="y")


def shots(table: pd.DataFrame, sets: Sets) -> Figure:
    """Plot accuracy of probes over examples per class, beside zero-shot: a panel per set, a part per model.

    Few-shot probes: mean, lowest and highest draw. *all* is the linear probe on the whole training split; it and
    zero-shot have 95 % intervals. Raises NotDrawn when none of the sets was measured.
    """
    from matplotlib import rc_context

    measured = {
        model: (group, [name for name, pair in sets.items() if group["dataset"].isin(pair).any()])
        for model, group in table.groupby("model", sort=False)
    }
    measured = {model: part for model, part in measured.items() if part[1]}
    if not measured:
        raise NotDrawn("no accuracy of these sets")
    across = min(ACROSS, max(len(names) for _, names in measured.values()))
    downs = [-(-len(names) // across) for _, names in measured.values()]
    with rc_context(HOUSE):  # type: ignore[arg-type]
        figure, _ = new_figure(max(1.9 * across, 5.6), 0.5 + 0.5 * len(measured) + 1.9 * sum(downs))
        figure.clear()
        parts, drawn = figure.subfigures(len(measured), 1, squeeze=False, height_ratios=downs)[:, 0], []
        for part, down, (model, (group, names)) in zip(parts, downs, measured.items(), strict=True):
            axes = part.subplots(down, across, squeeze=False).ravel()
            for axis, name in zip(axes, names, strict=False):
                _panel(axis, group, sets[name])
                axis.set_title(name)
                drawn.append(axis)
            for axis in axes[len(names) :]:
                axis.remove()
            part.suptitle(model, size=9, weight="bold", x=0.01, ha="left")
            part.supylabel("top-1 accuracy", size=8.5)
        parts[-1].supxlabel("training examples per class", size=8.5)
        _legend(figure, drawn)
        figure.draw_without_rendering()
        return figure


def _legend(figure: Figure, axes: list[Axes]) -> None:
    """Draw each label once, below the figure."""
    handles = {label: h for a in axes for h, label in zip(*a.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=min(len(handles), 6))


def _zero_shot(table: pd.DataFrame, pair: tuple[str, str]) -> dict[str, Any]:
    rows = table[table["task"] == "zero_shot"].drop_duplicates("dataset", keep="last").set_index("dataset")
    names = zip((p[0] for p in PROMPTS), pair, strict=True)
    return {label: rows.loc[name].to_dict() for label, name in names if name in rows.index}


def _panel(axis: Axes, table: pd.DataFrame, pair: tuple[str, str]) -> None:
    rows = table[table["dataset"] == pair[0]]
    few = rows[rows["task"] == "few_shot"].sort_values("shots")
    probe = rows[rows["task"] == "linear_probe"]
    for (label, color, _), dash in zip(PROMPTS, ("-", "--"), strict=True):
        row = _zero_shot(table, pair).get(label)
        if row is None:
            continue
        axis.axhline(row["value"], color=color, ls=dash, label=f"zero-shot, {label}")
        if dash == "-":
            axis.axhspan(row["low"], row["high"], color=color, alpha=0.12, lw=0)
        axis.axhline(row["chance"], color=SOFT, ls=":", label="chance")
        axis.annotate(
            f"{row['classes']:,.0f} classes\n{row['examples']:,.0f} pictures", (0.04, 0.97), xycoords="axes fraction",
            va="top", size=6.5, color=SOFT,
        )  # fmt: skip
    ends = [np.abs(few[side].to_numpy() - few["value"].to_numpy()) for side in ("low", "high")]
    if len(few):
        axis.errorbar(few["shots"], few["value"], ends, fmt="-o", color=INK, ms=3, lw=1, label="probe")
    last = 4 * TICKS[-1]
    if len(probe):
        row = probe.iloc[0]
        ends = [[row["value"] - row["low"]], [row["high"] - row["value"]]]
        axis.errorbar([last], [row["value"]], ends, fmt="D", color=INK, ms=3.5, lw=1, label="probe on all")
    if rows["task"].isin(["few_shot", "linear_probe"]).sum() == 0:
        axis.annotate("no training split", (0.5, 0.5), xycoords="axes fraction", ha="center", size=7, color=SOFT)
    axis.set_xscale("log", base=2)
    axis.set_xticks([*TICKS, last], [*map(str, TICKS), "all"])
    axis.set_xlim(0.7, 1.5 * last)
    axis.set_ylim(0, 1.25 * max(axis.get_ylim()[1], 1e-3))
