"""Does every optimizer train? How well a small model fits rendered scenes, by optimizer and peak rate.

    python benchmarks/optimizers.py [--rates 4 --seeds 2 --steps 128 --width 32]

The rates of an optimizer lie a factor of 2 apart, as many for each, around the center in `ARMS`. A run passes again
and again over 16 batches of 32 pairs; its loss is that of the weights it evaluates (averaged ones, where it averages)
on these pairs. (Other pairs are fitted worse than by chance after so many passes over so few.) A row says how far an
optimizer's best loss lies from AdamW's, and whether its best rate is the first or the last tried: then the row is no
verdict. At this scale no row says which optimizer is the better one.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from typing import Any

import lr_transfer as toy

FREE = {"optimizer": "schedule_free", "schedule": "wsd", "lr_decay_fraction": 0.0}
# optimizer's fields, exponent of 2 of the central rate
ARMS: dict[str, tuple[dict[str, Any], float]] = {
    "adamw": ({}, -7),
    "adamw, ema": ({"ema_decay": 0.9}, -7),
    "muon, rms": ({"optimizer": "muon"}, -7.5),
    "muon, spectral": ({"optimizer": "muon", "muon_scale": "spectral", "muon_adam_lr": 0.25}, -5),
    "lion": ({"optimizer": "lion", "b2": 0.99}, -9.5),
    "adafactor": ({"optimizer": "adafactor"}, -7),
    "schedule_free": (FREE, -6.5),
}


class Arm:
    """The program of one optimizer, for every rate and seed."""

    def __init__(self, fields: dict[str, Any], width: int, steps: int) -> None:
        import jax
        import jax.numpy as jnp
        from flax import nnx

        from clip_jax.config import OptimConfig, RunConfig
        from clip_jax.distributed.mesh import make_mesh
        from clip_jax.models.clip import build, make_model
        from clip_jax.optim.optimizer import make_optimizer, with_schedule
        from clip_jax.train.state import TrainState, state_shardings
        from clip_jax.train.step import make_loss, make_train_step

        self.steps, self.fields = steps, {"warmup_steps": steps // 10, **fields}
        model = toy.model_of("standard", width, 32)
        config = RunConfig(model=model, optim=OptimConfig(**self.fields), batch_size=toy.BATCH, steps=steps)
        self.mesh = make_mesh(config.mesh, jax.devices()[:1])
        built = build(model, self.mesh)
        optimizer = make_optimizer(config.optim, steps, model, axes=built.axes)
        shardings = state_shardings(built, optimizer, self.mesh)
        self.step = make_train_step(config, built, optimizer, self.mesh)
        self.loss = jax.jit(make_loss(config, built, self.mesh))
        self.start = jax.jit(
            lambda params, numbers: TrainState(
                jnp.zeros((), jnp.int32), params, with_schedule(optimizer.init(params), numbers)
            ),
            out_shardings=shardings,
        )
        self.first = jax.jit(
            lambda seed: nnx.as_pure(nnx.state(make_model(model, rngs=nnx.Rngs(jax.random.key(seed)))))
        )

    def train(self, seed: int, peak_lr: float) -> tuple[float, float]:
        """Return (loss after one run, seconds per step without the first)."""
        import jax

        from clip_jax.config import OptimConfig
        from clip_jax.optim.averaging import averaged_weights, second_weights
        from clip_jax.optim.optimizer import schedule_numbers
        from clip_jax.train.step import put_batch

        optim = OptimConfig(peak_lr=peak_lr, **self.fields)
        state = self.start(self.first(seed), schedule_numbers(optim, self.steps))
        began = 0.0
        for step in range(self.steps):
            state, metrics = self.step(state, put_batch(toy.batches(seed)[step % toy.BATCHES], self.mesh))
            if not step:
                jax.block_until_ready(metrics)
                began = time.perf_counter()
        jax.block_until_ready(state)
        seconds = (time.perf_counter() - began) / max(1, self.steps - 1)
        weights = averaged_weights(optim, state.params, second_weights(state.opt_state))
        tests = (put_batch(b, self.mesh) for b in toy.batches(seed))
        loss = statistics.fmean(float(self.loss(weights, b, jax.random.key(0))[0]) for b in tests)
        return loss if math.isfinite(loss) else math.inf, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rates", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--only", help="names of arms, separated by semicolons")
    args = parser.parse_args()
    print("| optimizer | best peak rate | loss | seeds apart | by AdamW's | ms per step |\n|---|---|---|---|---|---|")
    of_adamw = None
    for name in args.only.split(";") if args.only else ARMS:
        fields, center = ARMS[name]
        arm = Arm(fields, args.width, args.steps)
        rates = [2 ** (center + i - (args.rates - 1) / 2) for i in range(args.rates)]
        ends = {rate: [arm.train(seed, rate) for seed in range(args.seeds)] for rate in rates}
        mean = {rate: statistics.fmean(loss for loss, _ in runs) for rate, runs in ends.items()}
        best = min(mean, key=lambda rate: mean[rate])
        losses = [loss for loss, _ in ends[best]]
        of_adamw = of_adamw or mean[best]
        edge = ", at the edge" if best in (rates[0], rates[-1]) and len(rates) > 2 else ""
        fastest = min(seconds for runs in ends.values() for _, seconds in runs)
        print(
            f"| {name} | {best:.2g}{edge} | {mean[best]:.3f} | {max(losses) - min(losses):.3f} "
            f"| {mean[best] / of_adamw:.3f} | {1e3 * fastest:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
