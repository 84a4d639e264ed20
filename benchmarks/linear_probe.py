"""The probe against scikit-learn: the same optimum, and the ratio of times, in one session.

    python benchmarks/linear_probe.py [--examples 10000] [--width 512] [--classes 100]

Features are unit vectors around class centers, as CLIP's are; seeded.
"""

from __future__ import annotations

import argparse
import time

import numpy as np


def data(examples: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((classes, width))
    labels = rng.integers(0, classes, examples)
    features = centers[labels] + 3.0 * rng.standard_normal((examples, width))
    return features / np.linalg.norm(features, axis=1, keepdims=True), labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("examples", 10_000), ("width", 512), ("classes", 100)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    from sklearn.linear_model import LogisticRegression

    from clip_jax.evals.linear_probe import fit_probe

    x, y = data(args.examples, args.width, args.classes)
    strengths = np.logspace(-3, 1, 5)
    print(f"{args.examples} × {args.width}, {args.classes} classes; objective is the mean per example")
    print("    λ     ours         sklearn      relative   same predictions   sklearn s")
    began = time.perf_counter()
    probe = fit_probe(x, y, args.classes, strengths, tolerance=1e-8)
    first = time.perf_counter() - began
    began = time.perf_counter()
    probe = fit_probe(x, y, args.classes, strengths, tolerance=1e-8)
    probe_s = time.perf_counter() - began
    total = 0.0
    scores = probe.scores(x)
    for k, strength in enumerate(strengths):
        began = time.perf_counter()
        reference = LogisticRegression(C=1 / strength, tol=1e-8, max_iter=1000).fit(x, y)
        seconds = time.perf_counter() - began
        total += seconds
        logits = x @ reference.coef_.T + reference.intercept_
        loss = np.mean(np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
                       - logits[np.arange(len(y)), y])  # fmt: skip
        loss += strength / (2 * len(y)) * np.sum(reference.coef_**2)
        same = float((scores[k].argmax(1) == logits.argmax(1)).mean())
        relative = (probe.objective[k] - loss) / loss
        line = f"{strength:8.3g} {probe.objective[k]:.8f} {loss:.8f} {relative:+.1e}"
        print(f"{line}   {same:10.4%}        {seconds:8.2f}", flush=True)
    print(f"all five at once: {probe_s:.2f} s (first call, with compiling, {first:.2f} s)")
    print(f"scikit-learn one by one: {total:.2f} s")
    print(f"ratio {total / probe_s:.2f}; iterations {probe.iterations.tolist()}, converged {probe.converged.tolist()}")
    fit_probe(x, y, args.classes, strengths[2:3], tolerance=1e-8)
    began = time.perf_counter()
    fit_probe(x, y, args.classes, strengths[2:3], tolerance=1e-8)
    print(f"one strength alone (λ = {strengths[2]:g}): {time.perf_counter() - began:.2f} s")


if __name__ == "__main__":
    main()
