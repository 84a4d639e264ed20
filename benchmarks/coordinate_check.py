"""The coordinate check of both parametrizations: by which power of the width (or depth) does each module move?

    python benchmarks/coordinate_check.py [--widths 32 64 128 256 --out experiments/results/lr_transfer]
    python benchmarks/coordinate_check.py --depths 1 2 4 8

Both towers, on one batch of noise, after a few updates at one rate (`train.coordinates`). Prints the powers of each
module's first size and change, and draws the changes: flat is stable.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HEAD, EMBED, CONTEXT, VOCAB, BATCH = 16, 16, 6, 260, 12
COLORS = {"standard": "#b5473c", "mup": "#2f6f9f"}


def model_of(kind: str, width: int, depth: int, base_width: int, base_depth: int) -> Any:
    from clip_jax.config import ImageTowerConfig, ModelConfig, ParametrizationConfig, TextTowerConfig

    base = ParametrizationConfig()
    if kind == "mup":
        base = ParametrizationConfig("mup", base_width, base_width, base_depth, base_depth)
    shape: dict[str, Any] = {"width": width, "depth": depth, "heads": width // HEAD}
    return ModelConfig(
        image=ImageTowerConfig(**shape, image_size=32, patch_size=16),
        text=TextTowerConfig(**shape, context_length=CONTEXT, vocab_size=VOCAB),
        embed_dim=EMBED,
        scan_layers=False,
        parametrization=base,
    )


def draw(path: Path, sizes: list[int], axis: str, changes: dict[str, list[dict[str, Any]]], modules: list[str]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(modules), figsize=(2.5 * len(modules), 2.8), sharey=True, layout="constrained")
    for ax, module in zip(axes, modules, strict=True):
        for kind, rows in changes.items():
            ax.loglog(sizes, [row[module][1] for row in rows], "o-", ms=4, color=COLORS[kind], label=kind)
        ax.set_xticks(sizes, [str(s) for s in sizes])
        ax.minorticks_off()
        ax.set_title(module, fontsize=9)
        ax.set_xlabel(axis)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("mean |change| of a coordinate")
    axes[0].legend(frameon=False, fontsize=8)
    fig.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--depths", type=int, nargs="+", default=[], help="vary the depth at the first width instead")
    parser.add_argument("--lr", type=float, default=2**-9)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("experiments/results/lr_transfer"))
    args = parser.parse_args()

    import numpy as np

    from clip_jax.train.coord_check import coordinate_changes, fit_powers

    rng = np.random.default_rng(0)
    batch = {
        "images": rng.normal(size=(BATCH, 32, 32, 3)).astype(np.float32),
        "tokens": rng.integers(1, VOCAB, (BATCH, CONTEXT)).astype(np.int32),
    }
    axis, sizes = ("depth", args.depths) if args.depths else ("width", args.widths)
    changes: dict[str, list[dict[str, Any]]] = {}
    for kind in COLORS:
        changes[kind] = []
        for size in sizes:
            width, depth = (args.widths[0], size) if args.depths else (size, 1)
            model = model_of(kind, width, depth, args.widths[0], args.depths[0] if args.depths else 0)
            row = coordinate_changes(model, args.lr, batch, steps=args.steps)
            for tower in ("image", "text"):  # the only stream that all depths have
                row[f"{tower} stream, last"] = row[f"{tower} stream {depth}"]
            changes[kind].append(row)
    print(f"{axis} {', '.join(map(str, sizes))}; {args.steps} updates at {args.lr:g}\n")
    print(f"| module | parametrization | first size ~ {axis}^ | change ~ {axis}^ |\n|---|---|---|---|")
    powers = {kind: fit_powers(sizes, rows) for kind, rows in changes.items()}
    for module in powers["mup"]:
        for kind in COLORS:
            first, change = powers[kind][module]
            print(f"| {module} | {kind} | {first:+.2f} | {change:+.2f} |")
    args.out.mkdir(parents=True, exist_ok=True)
    modules = [f"{t} {part}" for t in ("image", "text") for part in ("stream, last", "embedding")] + ["logits"]
    draw(args.out / f"coordinate_check_{axis}.png", sizes, axis, changes, modules)


if __name__ == "__main__":
    main()
