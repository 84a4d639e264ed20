"""Does the best learning rate stay where it is as width grows? Short runs of all widths and rates, parametrised twice.

    python benchmarks/lr_transfer.py [--minutes 35 --out experiments/results/lr_transfer]

Fixed before anything ran: rates on a grid of factor sqrt(2), three seeds each, four widths over a factor of 8; depth,
head size, embedding size, data and length as they are. The grid is extended until the best rate, of the mean over
seeds, has two rates on either side. The criterion: under mup the best rates of all widths lie within a factor of 2.
The loss of a run is the mean of its last tenth; every pair is seen once, so that it is of pairs not seen before.
Each run is a row of runs.csv, written when it ends: started again, the script goes on. With --embed the embedding size
is another, for the two outer widths.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import math
import statistics
import time
from pathlib import Path
from typing import Any

WIDTHS = (32, 64, 128, 256)
HEAD, DEPTH, STEPS, BATCH, CONTEXT, VOCAB = 16, 2, 150, 32, 12, 512
FIRST = {"standard": 2**-9.5, "mup": 2**-8.5}  # where the search begins
COLUMNS = ("parametrisation", "width", "embed", "seed", "peak_lr", "loss", "seconds")


def model_of(kind: str, width: int, embed: int, depth: int = DEPTH) -> Any:
    """Both towers of one width; base width is the smallest, where the parametrisations are the same."""
    from clip_jax.config import ImageTowerConfig, ModelConfig, ParametrisationConfig, TextTowerConfig

    base = ParametrisationConfig("mup", WIDTHS[0], WIDTHS[0]) if kind == "mup" else ParametrisationConfig()
    shape: dict[str, Any] = {"width": width, "depth": depth, "heads": width // HEAD, "mlp_ratio": 2.0}
    return ModelConfig(
        image=ImageTowerConfig(**shape, image_size=32, patch_size=16),
        text=TextTowerConfig(**shape, context_length=CONTEXT, vocab_size=VOCAB),
        embed_dim=embed,
        scan_layers=False,
        parametrisation=base,
    )


def run_of(kind: str, width: int, embed: int, seed: int, peak_lr: float, steps: int) -> Any:
    from clip_jax.config import OptimConfig, RunConfig

    optim = OptimConfig(peak_lr=peak_lr, warmup_steps=steps // 10)
    return RunConfig(model=model_of(kind, width, embed), optim=optim, batch_size=BATCH, steps=steps, seed=seed)


@functools.cache
def batches(seed: int, steps: int) -> list[dict[str, Any]]:
    """The batches of one seed, the same for all rates and widths."""
    import numpy as np

    from clip_jax.config import ScenesConfig
    from clip_jax.data.scenes import ScenesSource
    from clip_jax.data.tokenizers import train_tokenizer

    source = ScenesSource(ScenesConfig(), "train", 32)
    tokenizer = train_tokenizer(source.batch_captions(np.arange(5000)), VOCAB, CONTEXT)
    out = []
    for step in range(steps):
        images, captions = source.batch(np.arange(BATCH) + 10_000 + (seed * steps + step) * BATCH)
        out.append({"images": images, "tokens": tokenizer.encode(captions)})
    return out


class Shape:
    """One compiled program, for every rate and seed of a width."""

    def __init__(self, kind: str, width: int, embed: int, steps: int) -> None:
        import jax

        from clip_jax.models.clip import build
        from clip_jax.optim import make_optimizer
        from clip_jax.parallel import make_mesh
        from clip_jax.train.step import make_train_step

        self.run = functools.partial(run_of, kind, width, embed, steps=steps)
        config = self.run(seed=0, peak_lr=1e-3)
        self.mesh, self.steps = make_mesh(config.mesh, jax.devices()[:1]), steps
        self.built = build(config.model, self.mesh)
        self.step = make_train_step(config, self.built, make_optimizer(config.optim, steps, config.model), self.mesh)
        self.first: dict[int, Any] = {}  # parameters of a seed

    def loss(self, seed: int, peak_lr: float) -> float:
        """Train once; infinite when it is not a number."""
        import jax

        from clip_jax.optim import make_optimizer
        from clip_jax.train.state import init_state
        from clip_jax.train.step import put_batch

        config = self.run(seed=seed, peak_lr=peak_lr)
        optimizer = make_optimizer(config.optim, self.steps, config.model)
        if seed not in self.first:
            self.first[seed] = jax.device_get(init_state(config, self.built, optimizer, self.mesh))
        state = jax.device_put(self.first[seed])
        state = dataclasses.replace(state, opt_state=optimizer.init(state.params))
        losses = []
        for batch in batches(seed, self.steps):
            state, metrics = self.step(state, put_batch(batch, self.mesh))
            losses.append(metrics["loss"])
        end = statistics.fmean(float(x) for x in losses[-self.steps // 10 :])
        return end if math.isfinite(end) else math.inf


def read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open() as file:
        return [
            {"parametrisation": r["parametrisation"], **{k: float(r[k]) for k in COLUMNS[1:]}}
            for r in csv.DictReader(file)
        ]


def curve(rows: list[dict[str, Any]], kind: str, width: int, embed: int) -> dict[float, list[float]]:
    """Losses by rate; at the base width both parametrisations are one."""
    kinds = ("standard", "mup") if width == WIDTHS[0] else (kind,)
    out: dict[float, list[float]] = {}
    for r in rows:
        if r["parametrisation"] in kinds and (r["width"], r["embed"]) == (width, embed):
            out.setdefault(r["peak_lr"], []).append(r["loss"])
    return dict(sorted(out.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=35, help="then stop; the same command goes on")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--embed", type=int, default=32)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--kinds", nargs="+", default=("mup", "standard"))
    parser.add_argument("--out", type=Path, default=Path("experiments/results/lr_transfer"))
    args = parser.parse_args()

    path, end = args.out / "runs.csv", time.monotonic() + 60 * args.minutes
    args.out.mkdir(parents=True, exist_ok=True)
    rows = read(path)
    for width in args.widths:
        for kind in args.kinds if width > WIDTHS[0] else args.kinds[:1]:
            if time.monotonic() < end:
                search(args, path, rows, kind, width, end)


def search(args: Any, path: Path, rows: list[dict[str, Any]], kind: str, width: int, end: float) -> None:
    """Add runs until the best rate has two on either side, each with all seeds."""
    shape = None
    while time.monotonic() < end:
        found = curve(rows, kind, width, args.embed)
        means = {lr: statistics.fmean(v) for lr, v in found.items()}
        best = min(means, key=means.__getitem__) if means else FIRST[kind]
        wanted = [best * 2 ** (k / 2) for k in (0, 1, -1, 2, -2)]
        wanted = [float(f"{lr:.6g}") for lr in wanted]
        missing = [(lr, s) for lr in wanted for s in range(args.seeds) if s >= len(found.get(lr, ()))]
        if not missing:
            print(f"{kind} width {width}: best {best:.5f}, loss {means[best]:.4f}", flush=True)
            return
        lr, seed = missing[0]
        shape = shape or Shape(kind, width, args.embed, args.steps)
        start = time.monotonic()
        loss = shape.loss(seed, lr)
        values = (kind, width, args.embed, seed, lr, f"{loss:.5f}", f"{time.monotonic() - start:.2f}")
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(COLUMNS)
            writer.writerow(values)
        rows.append({"parametrisation": kind, **{k: float(v) for k, v in zip(COLUMNS[1:], values[1:], strict=True)}})


if __name__ == "__main__":
    main()
