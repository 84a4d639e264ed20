"""Does the best learning rate stay where it is as width grows? Short runs of all widths and rates, parametrized twice.

    python benchmarks/lr_transfer.py [--minutes 35 --out experiments/results/lr_transfer]

Rates on a grid of factor sqrt(2), three seeds each, four widths over a factor of 8; depth, head size, embedding size,
data and length as they are. The grid is extended until the best rate, of the mean over seeds, lies between others.
The criterion: under mup the best rates of all widths lie within a factor of 2. It was fixed before anything ran; the
widths and the kind of data were not (see the results' README). The data are a few fixed
batches of rendered scenes, seen again and again; a run's loss is its mean over the last pass, so that a batch which
happens to be easy helps no rate. (Fresh pairs at this length left more noise between seeds than rates made difference.)
Each run is a row of runs.csv, written when it ends: started again, the script goes on. With --embed the embedding size
is another.
"""

from __future__ import annotations

import argparse
import csv
import functools
import math
import statistics
import time
from pathlib import Path
from typing import Any

WIDTHS, BASE = (16, 32, 64, 128), 32  # at the base width both parametrizations are one
HEAD, DEPTH, PASSES, BATCHES, BATCH, CONTEXT, VOCAB = 16, 2, 8, 16, 32, 12, 512
STEPS = PASSES * BATCHES
FIRST = 2**-8.5  # where the search begins; then at the best rate of the width before
COLORS = {"standard": "#b5473c", "mup": "#2f6f9f"}
COLUMNS = ("parametrization", "width", "embed", "seed", "peak_lr", "loss", "seconds")


def model_of(kind: str, width: int, embed: int, depth: int = DEPTH) -> Any:
    """Both towers of one width."""
    from clip_jax.config import ImageTowerConfig, ModelConfig, ParametrizationConfig, TextTowerConfig

    base = ParametrizationConfig("mup", BASE, BASE) if kind == "mup" else ParametrizationConfig()
    shape: dict[str, Any] = {"width": width, "depth": depth, "heads": width // HEAD, "mlp_ratio": 2.0}
    return ModelConfig(
        image=ImageTowerConfig(**shape, image_size=32, patch_size=16),
        text=TextTowerConfig(**shape, context_length=CONTEXT, vocab_size=VOCAB),
        embed_dim=embed,
        scan_layers=False,
        parametrization=base,
    )


def run_of(kind: str, width: int, embed: int, seed: int, peak_lr: float) -> Any:
    from clip_jax.config import OptimConfig, RunConfig

    optim = OptimConfig(peak_lr=peak_lr, warmup_steps=STEPS // 10)
    return RunConfig(model=model_of(kind, width, embed), optim=optim, batch_size=BATCH, steps=STEPS, seed=seed)


@functools.cache
def batches(seed: int) -> list[dict[str, Any]]:
    """The batches of one seed, the same for all rates and widths."""
    import numpy as np

    from clip_jax.config import ScenesConfig
    from clip_jax.data.scenes.scenes import ScenesSource
    from clip_jax.data.tokenizers.learned_bpe import train_tokenizer

    source = ScenesSource(ScenesConfig(), "train", 32)
    tokenizer = train_tokenizer(source.batch_captions(np.arange(5000)), VOCAB, CONTEXT)
    out = []
    for i in range(BATCHES):
        images, captions = source.batch(np.arange(BATCH) + 10_000 + (seed * BATCHES + i) * BATCH)
        out.append({"images": images, "tokens": tokenizer.encode(captions)})
    return out


class Shape:
    """One compiled program, for every rate and seed of a width."""

    def __init__(self, kind: str, width: int, embed: int) -> None:
        import jax
        from flax import nnx

        from clip_jax.distributed.mesh import make_mesh
        from clip_jax.models.clip import build, make_model
        from clip_jax.optim.optimizer import make_optimizer
        from clip_jax.train.step import make_train_step

        self.run = functools.partial(run_of, kind, width, embed)
        config = self.run(seed=0, peak_lr=1e-3)
        self.mesh = make_mesh(config.mesh, jax.devices()[:1])
        built = build(config.model, self.mesh)
        self.step = make_train_step(config, built, make_optimizer(config.optim, STEPS, config.model), self.mesh)

        def first(seed: Any) -> Any:  # one program for all seeds
            return nnx.as_pure(nnx.state(make_model(config.model, rngs=nnx.Rngs(jax.random.key(seed)))))

        self.first = jax.jit(first, out_shardings=built.shardings)

    def loss(self, seed: int, peak_lr: float) -> float:
        """Train once; infinite when it is not a number."""
        import jax.numpy as jnp

        from clip_jax.optim.optimizer import make_optimizer
        from clip_jax.train.state import TrainState
        from clip_jax.train.step import put_batch

        config = self.run(seed=seed, peak_lr=peak_lr)
        params = self.first(seed)
        opt_state = make_optimizer(config.optim, STEPS, config.model).init(params)
        state, losses = TrainState(jnp.zeros((), jnp.int32), params, opt_state), []
        for step in range(STEPS):
            state, metrics = self.step(state, put_batch(batches(seed)[step % BATCHES], self.mesh))
            losses.append(metrics["loss"])
        end = statistics.fmean(float(x) for x in losses[-BATCHES:])
        return end if math.isfinite(end) else math.inf


def read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open() as file:
        return [
            {"parametrization": r["parametrization"], **{k: float(r[k]) for k in COLUMNS[1:]}}
            for r in csv.DictReader(file)
        ]


def curve(rows: list[dict[str, Any]], kind: str, width: int, embed: int) -> dict[float, list[float]]:
    """Losses by rate; at the base width both parametrizations are one."""
    kinds = COLORS if width == BASE else (kind,)
    out: dict[float, list[float]] = {}
    for r in rows:
        if r["parametrization"] in kinds and (r["width"], r["embed"]) == (width, embed):
            out.setdefault(r["peak_lr"], []).append(r["loss"])
    return dict(sorted(out.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=35, help="then stop; the same command goes on")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--embed", type=int, default=32)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--kinds", nargs="+", default=("mup", "standard"))
    parser.add_argument("--out", type=Path, default=Path("experiments/results/lr_transfer"))
    args = parser.parse_args()

    path, end = args.out / "runs.csv", time.monotonic() + 60 * args.minutes
    args.out.mkdir(parents=True, exist_ok=True)
    rows, best = read(path), dict.fromkeys(args.kinds, FIRST)
    for width in args.widths:
        for kind in args.kinds:
            best[kind] = search(args, path, rows, kind, width, best[kind], end)
    print("\n" + summary(rows, args.embed))
    if complete(rows, args.embed):
        draw(args.out / "lr_transfer.png", rows, args.embed)


def vertex(by_rate: dict[float, list[float]]) -> tuple[float, float, float]:
    """Best rate of the grid; that of a parabola through the best and up to two rates on either side; and the standard
    deviation of its log2 when seeds are left out one by one (jackknife). The last two are NaN at an edge."""
    import numpy as np

    rates = sorted(by_rate)
    losses = np.array([by_rate[lr] for lr in rates])  # [rates, seeds]
    x = np.log2(rates)

    def lowest(means: Any) -> float:
        k = int(np.argmin(means))
        if k in (0, len(rates) - 1):
            return math.nan
        near = slice(max(k - 2, 0), k + 3)
        a, b, _ = np.polyfit(x[near] - x[k], means[near], 2)
        return float(x[k] - b / (2 * a))

    n = losses.shape[1]
    left = np.array([lowest(np.delete(losses, s, axis=1).mean(axis=1)) for s in range(n)])
    spread = float(np.sqrt((n - 1) / n * np.sum((left - left.mean()) ** 2)))
    return rates[int(np.argmin(losses.mean(axis=1)))], 2 ** lowest(losses.mean(axis=1)), spread


def complete(rows: list[dict[str, Any]], embed: int) -> dict[str, dict[int, dict[float, list[float]]]]:
    """Curves by parametrization and width: the rates that all seeds have."""
    out: dict[str, dict[int, dict[float, list[float]]]] = {}
    for kind in COLORS:
        for width in sorted({int(r["width"]) for r in rows}):
            losses = curve(rows, kind, width, embed)
            seeds = max(map(len, losses.values()), default=0)
            losses = {lr: v for lr, v in losses.items() if len(v) == seeds}
            if len(losses) > 2:
                out.setdefault(kind, {})[width] = losses
    return out


def summary(rows: list[dict[str, Any]], embed: int) -> str:
    """A table, and the verdict on the criterion."""
    lines = [
        "| parametrization | width | best rate of the grid | of the parabola | ± octaves | loss | rates |",
        "|---|---|---|---|---|---|---|",
    ]
    verdicts = []
    for kind, curves in complete(rows, embed).items():
        bests = []
        for width, losses in curves.items():
            best, smooth, spread = vertex(losses)
            loss = statistics.fmean(losses[best])
            bests.append((best, smooth))
            lines.append(
                f"| {kind} | {width} | {best:.5f} | {smooth:.5f} | {spread:.2f} | {loss:.3f} | {len(losses)} |"
            )
        grid, curved = (max(b) / min(b) for b in zip(*bests, strict=True))
        widths = f"{min(curves)} to {max(curves)}"
        verdicts.append(f"{kind}: over widths {widths} best rates differ by {grid:.2f} (grid), {curved:.2f} (parabola)")
    return "\n".join([*lines, "", *verdicts])


def draw(path: Path, rows: list[dict[str, Any]], embed: int) -> None:
    """Loss over rate at each width, one panel a parametrization."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    whole = complete(rows, embed)
    fig, axes = plt.subplots(
        1, len(whole), figsize=(4.4 * len(whole), 3.4), sharex=True, sharey=True, layout="constrained"
    )
    widths = sorted(set().union(*whole.values()))
    shades = matplotlib.colormaps["viridis"]([0.85 - 0.75 * i / max(len(widths) - 1, 1) for i in range(len(widths))])
    for ax, (kind, curves) in zip(axes, whole.items(), strict=True):
        for width, points in curves.items():
            shade = shades[widths.index(width)]
            means = {lr: statistics.fmean(v) for lr, v in points.items()}
            ax.plot(means.keys(), means.values(), "o-", ms=3, color=shade, label=f"width {width}")
            for lr, values in points.items():
                ax.plot([lr] * len(values), values, ".", ms=3, alpha=0.35, color=shade)
            best = min(means, key=means.__getitem__)
            ax.plot(best, means[best], "o", ms=9, mfc="none", color=shade)
        ax.set_xscale("log", base=2)
        ax.set_xlabel("peak learning rate")
        ax.set_title(kind)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("training loss, last pass")
    axes[-1].legend(frameon=False, fontsize=8)
    fig.savefig(path, dpi=130)


def on_grid(lr: float, steps: int) -> float:
    """The rate so many grid steps from another, always the same digits."""
    return float(f"{2 ** (round(2 * math.log2(lr) + steps) / 2):.6g}")


def search(args: Any, path: Path, rows: list[dict[str, Any]], kind: str, width: int, first: float, end: float) -> float:
    """Add runs until the best rate lies between others, each with all seeds; the best rate."""
    shape, best = None, first
    while time.monotonic() < end:
        losses = curve(rows, kind, width, args.embed)
        means = {lr: statistics.fmean(v) for lr, v in losses.items()}
        best = min(means, key=means.__getitem__) if means else on_grid(first, 0)
        wanted = [on_grid(best, k) for k in (0, 1, -1)]
        missing = [(lr, s) for lr in wanted for s in range(args.seeds) if s >= len(losses.get(lr, ()))]
        if not missing:
            print(f"{kind} width {width}: best {best:.5f}, loss {means[best]:.4f}", flush=True)
            break
        lr, seed = missing[0]
        shape = shape or Shape(kind, width, args.embed)
        start = time.monotonic()
        loss = shape.loss(seed, lr)
        values = (kind, width, args.embed, seed, lr, f"{loss:.5f}", f"{time.monotonic() - start:.2f}")
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(COLUMNS)
            writer.writerow(values)
        rows.append({"parametrization": kind, **{k: float(v) for k, v in zip(COLUMNS[1:], values[1:], strict=True)}})
    return best


if __name__ == "__main__":
    main()
