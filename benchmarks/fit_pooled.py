"""Do pooled intervals of several tasks' laws hold the truth, and how much narrower are they than separate fits?

    python benchmarks/fit_pooled.py [--tables=200] [--separate=200] [--draws=1000] [--only='runs named']

Six tasks at eight budgets over three decades, with exponents and asymptotes that scatter over tasks. "separate" is the
same fit with priors too weak to matter; widths are medians, relative to the truth.
"""

import argparse
import time

import numpy as np
import pandas as pd

from clip_jax.scaling.analysis.pooled import fit_pooled

TASKS, BUDGETS = 6, 8


def table(rng, *, noise=0.02, spread=(0.4, 0.25), examples=0, together=0.0, chance=None, decades=3.0):
    """(rows, truth): truth holds E, b by task and the curve. together: share of the scatter common to a run."""
    x = np.geomspace(1e10, 10 ** (10 + decades), BUDGETS)
    e = 0.12 * np.exp(spread[0] * rng.standard_normal(TASKS))
    b = 0.25 * np.exp(spread[1] * rng.standard_normal(TASKS))
    a = 0.4 * np.exp(0.3 * rng.standard_normal(TASKS))

    def curve(flops):
        part = a * (np.asarray(flops)[..., None] / 1e10) ** -b
        return e + part if chance is None else e + (chance - e) * 2 * part / (1 + 2 * part)

    common = np.sqrt(together) * rng.standard_normal(BUDGETS)[:, None]
    scatter = common + np.sqrt(1 - together) * rng.standard_normal((BUDGETS, TASKS))
    y = curve(x) * np.exp(noise * scatter)
    if examples:
        y = np.maximum(rng.binomial(examples, np.minimum(y, 1)) / examples, 1 / examples)
    rows = pd.DataFrame({
        "task": np.tile([f"t{i}" for i in range(TASKS)], BUDGETS), "flops": np.repeat(x, TASKS), "error": y.ravel(),
        "examples": examples or 1, "run": np.repeat(np.arange(BUDGETS), TASKS),
    })  # fmt: skip
    return rows, {"E": e, "b": b, "curve": curve}


CASES = {
    "noise 2 %": {},
    "noise 2 %, exponents nearly equal": {"spread": (0.4, 0.05)},
    "noise 1 %, 2,000 test examples": {"noise": 0.01, "examples": 2000},
    "bounded, chance 0.9": {"chance": 0.9},
    "noise 2 %, half of it common to a run": {"together": 0.5},
    "noise 2 %, half of it common to a run, runs named": {"together": 0.5, "run": "run"},
    "noise 2 %, runs named": {"run": "run"},
}


def coverage(options, tables, *, draws=1000, seed=0, pool=True, skip=0):
    """quantity -> (share of intervals that hold the truth, median relative width); and the worst mixing.

    skip: tables that are drawn but not fitted, so that the rest of a longer run can be run alone.
    """
    rng, out, mixing = np.random.default_rng(seed), {}, []
    for number in range(tables):
        rows, truth = table(rng, **{k: v for k, v in options.items() if k != "run"})
        chance, chains = options.get("chance"), int(rng.integers(1e9))
        if number < skip:
            continue
        pooled = fit_pooled(
            rows, pool=pool, run=options.get("run"), draws=draws, seed=chains,
            examples="examples" if options.get("examples") else None,
            chance=None if chance is None else {f"t{i}": chance for i in range(TASKS)},
        )  # fmt: skip
        mixing.append(pooled.mixing)
        looked = []
        for name, parameters in pooled.parameters().items():
            looked += [(k, v, truth[k][int(name[1:])]) for k, v in parameters.items()]
        for at, label in ((1e13, "error at 1x"), (1e14, "error at 10x")):
            looked += [(label, v, truth["curve"](at)[int(t[1:])]) for t, v in pooled.forecast(at).items()]
            looked.append((f"mean over tasks{label[5:]}", pooled.mean(at), truth["curve"](at).mean()))
        for label, v, wanted in looked:
            out.setdefault(label, []).append((wanted in v, v.width / wanted))
    return {k: (np.mean([r[0] for r in v]), np.median([r[1] for r in v])) for k, v in out.items()}, np.max(mixing)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tables", type=int, default=200)
    parser.add_argument("--skip", type=int, default=0, help="tables that are drawn but not fitted, of --tables")
    parser.add_argument("--separate", type=int, default=200, help="tables that are also fitted task by task")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--only", default="", help="the case of this name, or those whose name has this")
    args = parser.parse_args()
    start = time.time()
    print("| tables | quantity | pooled covers | separate covers | pooled width | separate width |")
    print("|---|---|---|---|---|---|")
    for name, options in CASES.items():
        if args.only in ("", name) or (args.only in name and args.only not in CASES):
            pooled, share = coverage(options, args.tables, draws=args.draws, skip=args.skip)
            alone = coverage(options, args.separate, draws=args.draws, pool=False)[0] if args.separate else {}
            for label, (held, width) in pooled.items():
                other = (f"{alone[label][0]:.1%}", f"{alone[label][1]:.2g}") if alone else ("-", "-")
                print(f"| {name} | {label} | {held:.1%} | {other[0]} | {width:.2g} | {other[1]} |", flush=True)
            print(f"worst shift of a median in the chains: {share:.2f} sd; {time.time() - start:.0f} s", flush=True)
    print(f"\n{time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
