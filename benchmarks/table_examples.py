"""What do the options of `clip-jax fit` tell of published tables, and does the function on a DataFrame say the same?

    python benchmarks/table_examples.py TABLES_DIR [--only=under]

Each example runs its command on a copy of the table, then the function on the DataFrame; where a number differs the
program ends with an error. Tables that the folder lacks are named and left out. One line each: the command, what it
tells, its 95 % interval.
"""

import argparse
import contextlib
import io
import json
import shlex
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from clip_jax.cli.main import main as clip_jax
from clip_jax.scaling.analysis.pooled import fit_pooled
from clip_jax.scaling.any_table.fit import TableFit, fit_rows_of
from clip_jax.scaling.any_table.held_out import judge
from clip_jax.scaling.any_table.intervals import intervals_of
from clip_jax.scaling.any_table.rows import read_rows
from clip_jax.scaling.fit.loss import Loss
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.frontier.approaches import fit_envelope
from clip_jax.scaling.laws import Chinchilla, SaturatingPowerLaw, ShiftedPowerLaw
from clip_jax.scaling.uncertainty.clusters import cluster_intervals

Numbers = list[float | None]  # None: an open end
TRAINING = 6  # FLOPs of training per MAC of a forward pass
TUNED = "rw|tuned|short|const|standard|val"
GADRE = ["loss_c4_val", "loss_openlm", "err_avg17", "err_avg46"]
LAION_2B = ["ImageNet LAION-2B", "COCO LAION-2B"]


@dataclass(frozen=True)
class Example:
    """A command on a table and the function that gives its numbers.

    table: its file; made: by which function from the file, where columns have to be multiplied out first. options: of
    `clip-jax fit`. told: (fit.json) -> (a sentence, numbers). function: (DataFrame) -> the same numbers.
    """

    table: str
    options: tuple[str, ...]
    read: Callable[[dict], tuple[str, Numbers]]
    function: Callable[[pd.DataFrame], Numbers]
    made: Callable[[pd.DataFrame], pd.DataFrame] = lambda df: df


def ends(interval):
    return list(interval.bounded_ends)


# --group: the models of a family, each trained on 8 to 11 numbers of samples

CLIP = ("--where=family=clip", "--x=flops=gflops_total*G", "--law=shifted", "--y-is=accuracy")


def group_told(data):
    (at,), b = data["forecasts"], data["intervals_95"]["b"]
    text = f"b {data['values']['b']:.3f} {span(b)}; error at 1e22 FLOPs {at['value']:.3f}, curve {span(at['curve'])}"
    return f"{text}, a model not seen {span(at['new_run'])}", [data["values"]["b"], *b, *at["curve"], *at["new_run"]]


def group_function(df):
    df = df[df["family"] == "clip"]
    fit = fit_law(ShiftedPowerLaw(), df["gflops_total"] * 1e9, 1 - df["score"])
    intervals = cluster_intervals(fit, df["model"])
    curve, run = intervals.forecast(1e22)
    return [fit.values["b"], *ends(intervals.parameter("b")), *ends(curve), *ends(run)]


# approach 1: Porian's sizes, each at several budgets (published a .497 [.4907, .5045]); training curves of LAION models
# by MACs per sample


def curves_made(df):
    seen = df["epoch"] * df["samples_per_epoch"]
    return df.assign(samples_seen=seen, flops=TRAINING * df["gmacs_per_sample"] * seen * 1e9)


def approach_told(data):
    if data["status"] != "identified":
        return data["status"], []
    parts = [data[c]["exponent"] for c in ("params", "samples_seen")]
    at = data["optima"][0]["params"]
    text = ", ".join(f"{n} ∝ C^{p['value']:.2f} {span(bounds(p))}" for n, p in zip("ND", parts, strict=True))
    text += f"; N* at 1e20 FLOPs {at['value']:.2g} {span(bounds(at))}"
    return text, [n for p in (*parts, at) for n in (p["value"], *bounds(p))]


def envelope(approach):
    if approach.params is None or approach.samples is None:
        return []
    parts = (approach.params.exponent, approach.samples.exponent, approach.params.at(1e20))
    return [n for p in parts for n in (p.value, *ends(p))]


def sizes_function(df):
    return envelope(fit_envelope(df[df["config"] == TUNED], run_id="n", params="n", samples="tokens"))


def curves_function(df):
    df = df.assign(params=df["gmacs_per_sample"] * 1e6, error=1 - df["imagenet1k_acc1"])
    return envelope(fit_envelope(df, "error", run_id="run"))


# --under: single runs, tuned well and badly; fitted below 1e20 FLOPs, the dearest run lies at 5.18e20


def under_told(data):
    (at,), best = data["forecasts"], min(row["measured"] for row in data["held_out"]["table"])
    text = f"error at 5.18e20 FLOPs {at['value']:.3f}, lowest measured {best:.3f}; curve {span(at['curve'])}"
    return text, [at["value"]]


def under_function(weight):
    def function(df):
        df = df[(df["family"] == "clip") & (df["gflops_total"] < 1e11)]
        df = df[~df.duplicated()]
        loss = Loss(under=weight)
        fit = fit_law(ShiftedPowerLaw(), df["gflops_total"] * 1e9, 1 - df["imagenet1k_acc1"], loss=loss)
        return [float(np.ravel(fit.predict(5.18e20))[0])]

    return function


# --tasks: ImageNet and COCO of three data sets, without the largest run (at 3.98e22 FLOPs); Gadre's language models at
# 20 tokens per parameter: two losses and two averages of errors


def tasks_made(df):
    df = df[df["upstream_dataset"].str.startswith("LAION") & (df["gmacs_total"] < df["gmacs_total"].max())]
    columns = {"imagenet1k_acc1": "ImageNet", "mscoco_image_retrieval_r5": "COCO"}
    long = df.rename(columns=columns).melt(
        ["name", "upstream_dataset", "gmacs_total"], columns.values(), "set", "score"
    )
    return long.assign(task=long["set"] + " " + long["upstream_dataset"])


def tasks_told(names):
    def numbers_of(data):
        (at,) = data["forecasts"]
        parts = [at["tasks"][name] for name in names]
        text = ", ".join(f"{n} {p['value']:.3f} {span(bounds(p))}" for n, p in zip(names, parts, strict=True))
        return f"at {float(at['at']):.3g} FLOPs {text}", [n for p in parts for n in (p["value"], *bounds(p))]

    return numbers_of


def tasks_function(long, names, flops):
    def function(df):
        forecast = fit_pooled(long(df), run="run").forecast(flops)
        return [n for name in names for n in (forecast[name].value, *ends(forecast[name]))]

    return function


def openclip_long(df):
    return df.assign(run=df["name"], flops=TRAINING * df["gmacs_total"] * 1e9, error=1 - df["score"])


def gadre_long(df):
    df = df[df["token_multiplier"] == 20].assign(flops=df["flops_6ND"]).reset_index(names="run")
    return df.melt(["run", "flops"], GADRE, "task", "error")


# --below: cut ten times below the largest run


def below_told(data):
    held = data["held_out"]
    last = held["table"][-1]
    text = f"{held['inside']} of {held['shown']} rows above inside, rms {held['rms']:.3f}; the largest measured"
    text += f" {last['measured']:.3f}, forecast {last['predicted']:.3f} {span([last['low'], last['high']])}"
    return text, [held["rms"], last["predicted"], last["low"], last["high"]]


def below_function(law, what):
    def function(df):
        rows = read_rows(df, what, law)
        fit = fit_rows_of(rows, what, law)
        held = judge(fit, rows.held_out, intervals_of(fit, rows, what).new_run)
        last = held["table"][-1]
        return [held["rms"], last["predicted"], last["low"], last["high"]]

    return function


LAION = TableFit(
    ("saturating",), ("flops=gmacs_total*6e9",), "imagenet1k_acc1", "accuracy",
    ("upstream_dataset=LAION-2B",), below=3.98e21,
)  # fmt: skip
HOFFMANN = TableFit(
    ("chinchilla",), ("params=n_params", "samples_seen=tokens", "flops=train_flop"), "loss",
    where=("excluded_by_published_fit=0",), delta=1e-3, below=1.29e21,
)  # fmt: skip


def options_of(what):
    """The command line of the settings that `--below` uses."""
    lists = [f"--{n}={v}" for n, values in (("x", what.x), ("where", what.where)) for v in values]
    one = [f"--law={what.laws[0]}", f"--y={what.y}", f"--y-is={what.y_is}", f"--delta={what.delta}"]
    return (*lists, *one, f"--below={what.below:g}")


UNDER = (*CLIP, "--y=imagenet1k_acc1", "--below=1e20", "--at=5.18e20")
RUNS = "clip_mammut_runs_datacomp_imagenet.csv"
EXAMPLES = {
    "group": Example(
        "clip_family_best_datacomp_imagenet.csv", (*CLIP, "--y=score", "--group=model", "--at=1e22"),
        group_told, group_function,
    ),
    "approach": Example(
        "porian_isoflop_dev.csv",
        (f"--where=config={TUNED}", "--approach=1", "--group=n", "--x=params=n", "--x=samples_seen=tokens",
         "--y=loss", "--at=1e20"),
        approach_told, sizes_function,
    ),
    "approach, curves": Example(
        "openclip_learning_curves.csv",
        ("--approach=1", "--group=run", "--x=params=gmacs_per_sample*M", "--y=imagenet1k_acc1", "--y-is=accuracy",
         "--at=1e20"),
        approach_told, curves_function, curves_made,
    ),
    "under": Example(RUNS, (*UNDER, "--under=0.1"), under_told, under_function(0.1)),
    "under, hardly": Example(RUNS, (*UNDER, "--under=0.99"), under_told, under_function(0.99)),
    "tasks": Example(
        "openclip_cherti.csv",
        ("--tasks=task", "--group=name", "--x=flops=gmacs_total*6e9", "--y=score", "--y-is=accuracy", "--at=3.98e22"),
        tasks_told(LAION_2B), tasks_function(openclip_long, LAION_2B, 3.98e22), tasks_made,
    ),
    "tasks, columns": Example(
        "gadre_overtrain_c4.csv",
        ("--x=flops=flops_6ND", "--where=token_multiplier=20", f"--y={','.join(GADRE)}", "--at=5.7e22"),
        tasks_told(GADRE), tasks_function(gadre_long, GADRE, 5.7e22),
    ),
    "below": Example("openclip_cherti.csv", options_of(LAION), below_told, below_function(SaturatingPowerLaw(), LAION)),
    "below, sizes": Example(
        "chinchilla_epoch245.csv", options_of(HOFFMANN), below_told, below_function(Chinchilla(), HOFFMANN)
    ),
}  # fmt: skip


def bounds(data):
    """The ends of an interval in fit.json."""
    return [data["low"], data["high"]]


def span(interval):
    low, high = ("none" if end is None else f"{end:.3g}" for end in interval)
    return f"[{low}, {high}]"


def run(example, folder):
    """Run the command and the function; return what they tell. Raises SystemExit where they differ."""
    df = example.made(pd.read_csv(folder / example.table))
    with tempfile.TemporaryDirectory() as out:
        path = Path(out) / example.table
        df.to_csv(path, index=False)
        with contextlib.redirect_stdout(io.StringIO()):
            code = clip_jax(["fit", str(path), *example.options, f"--out={out}"])
        if code:
            raise SystemExit(f"{example.options}: exit code {code}")
        text, numbers = example.read(json.loads((Path(out) / "fit.json").read_text()))
        again = example.function(pd.read_csv(path))
    # an open end is None in fit.json and infinite in an Interval
    committed, repeated = (np.array([np.inf if n is None else abs(n) for n in v], float) for v in (numbers, again))
    if len(committed) != len(repeated) or not np.allclose(committed, repeated, rtol=1e-6):
        raise SystemExit(f"{example.options}: the command tells {committed}, the function {repeated}")
    return text


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="examples whose name has this")
    args = parser.parse_args()
    print("| command | result, 95 % intervals |\n|---|---|")
    for name, example in EXAMPLES.items():
        if args.only in name:
            outcome = (
                run(example, args.folder) if (args.folder / example.table).is_file() else "left out: no such table"
            )
            command = shlex.join(["clip-jax", "fit", example.table, *example.options]).replace("|", "\\|")
            print(f"| `{command}` | {outcome} |", flush=True)


if __name__ == "__main__":
    main()
