"""A package of its own that adds one law, loss, source, evaluator and engine to clip_jax."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np

from clip_jax.data.sources.base import Record, Source
from clip_jax.scaling.laws.base import IRREDUCIBLE, Law, amplitude, asymptote_grid


class SquareRoot(Law):
    key, name, exponent_name, asymptote, offset, amplitudes = "sqrt", "square root", "a", "E", "E", ("a",)
    parameters = (IRREDUCIBLE, amplitude("a", "error removed by compute", ("flops", 0.5)))
    template, latex_template = "{E} + {a}·C^-0.5", "<E> + <a> C^{-1/2}"

    def curve(self, p, x, xp):
        return p["E"] + p["a"] * xp.exp(-0.5 * x["flops"])

    def grid(self, x, y):
        return [asymptote_grid(y), [0.1 * y.min(), y.max()]]


def hinge(image, text, scale, bias):
    scores = scale * (image @ text.T)
    return jnp.mean(jnp.maximum(0, 1 + scores - jnp.diagonal(scores)[:, None]))


class Squares(Source):
    def __init__(self, config, path, split):
        self.count, self.split = int(path), split

    def __len__(self):
        return self.count

    def name(self, i):
        return f"{self.split} square {i}"

    def captions(self, i):
        return (f"a square of shade {i}",)

    def __getitem__(self, i):
        return Record(np.full((8, 8, 3), i % 256, np.uint8), self.captions(i))


def similarity(model):
    first, second = model.embed_texts(["a square", "a circle"])
    return [{"metric": "cosine", "value": float(first @ second)}]


class InTurn:
    name, max_in_flight, max_jobs_per_submit, poll_s = "in-turn", 1, 1, 0.05

    def __init__(self, sweep_dir, slots, resources):
        self.resources = resources

    def submit(self, name, jobs):
        for job in jobs:
            job.log.parent.mkdir(parents=True, exist_ok=True)
            with job.log.open("ab") as log:
                subprocess.run([sys.executable, "-m", "clip_jax.cli", *job.arguments], stdout=log, stderr=log)

    def poll(self, run_dirs):
        return {}

    def cancel(self, run_dirs):
        raise NotImplementedError  # no job outlives `submit`

    def render(self, name, jobs):
        return "\n".join("clip-jax " + " ".join(job.arguments) for job in jobs)

    def detach(self):
        pass
