"""Kill commands at random moments, again and again, and hold what they end with against a run that nobody killed:
`make soak`.

    python benchmarks/soak.py                            # 50 kills of train, 5 of each of the others
    python benchmarks/soak.py --train=3 --others=1 --seed=1 [--only=sweep]

A command is killed (SIGKILL, with all of its process group) and repeated until it ends by itself; then its directory
must hold what an undisturbed one holds. Rounds are repeated, each in a new directory, until there were enough kills.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz_readers import _picture

from clip_jax.config import (
    DataConfig,
    EvalConfig,
    ImageTowerConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TextTowerConfig,
)
from clip_jax.config.io import to_dict
from clip_jax.config.sweep import SweepConfig

PROGRAM = (sys.executable, "-m", "clip_jax.cli")


def tiny(steps: int = 300) -> RunConfig:
    """A run of seconds."""
    text = TextTowerConfig(width=16, depth=1, heads=2, context_length=16, vocab_size=400)
    image = ImageTowerConfig(width=16, depth=1, heads=2, image_size=32, patch_size=16)
    return RunConfig(
        model=ModelConfig(image=image, text=text, embed_dim=16, scan_layers=False),
        data=DataConfig(tokenizer_train_captions=200, num_threads=1), optim=OptimConfig(peak_lr=3e-3, warmup_steps=2),
        evals=EvalConfig(max_examples=24, val_pairs=16, val_partitions=2, retrieval_images=16, batch_size=32),
        batch_size=16, steps=steps, log_every=10, checkpoint_every=20, wandb="disabled",
    )  # fmt: skip


def of_run(root: Path) -> Any:
    """What a run ended with: sums of its last state, its losses and its measurements."""
    result = json.loads((root / "result.json").read_text())
    state = root / "checkpoints" / str(result["steps"]) / "_CHECKPOINT_METADATA"
    losses = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    sums = json.loads(state.read_text())["custom_metadata"]["seals"]
    return [sums, [(row["step"], row["loss"]) for row in losses], result["evals"]]


def of_sweep(root: Path) -> Any:
    """Return what a sweep ended with: what each run ended with, and the law."""
    law = json.loads((root / "report" / "law.json").read_text())
    del law["rows_sha256"]  # of rows that hold times
    return [{p.name: of_run(p) for p in sorted((root / "runs").iterdir())}, law]


def of_eval(root: Path) -> Any:
    """The results of a benchmark."""
    return json.loads((root / "results.json").read_text())


def of_icons(root: Path) -> Any:
    """Check sums of every file of a corpus."""
    return json.loads((root / "manifest.json").read_text())["sha256"]


def soak(
    name: str, command: list[str], kills: int, out: Path, of: Callable[[Path], Any], rng: random.Random
) -> dict[str, Any]:
    """Kill a command so many times; ``{out}`` in it is the directory. Raises AssertionError where an end differs."""
    began = time.monotonic()

    def start(root: Path) -> subprocess.Popen[bytes]:
        arguments = [part.replace("{out}", str(root)) for part in command]
        with (out / f"{name}.log").open("ab") as log:  # the process holds a copy
            return subprocess.Popen(arguments, stdout=log, stderr=log, start_new_session=True)

    whole = out / f"{name}-whole"
    assert start(whole).wait() == 0, f"{name} fails undisturbed; see {out}/{name}.log"
    wanted, begun = of(whole), time.monotonic()
    assert start(out / f"{name}-warm").wait() == 0  # with compiled programs at hand, as all that follow
    lasts = time.monotonic() - begun
    done = rounds = 0
    while done < kills:
        root, rounds = out / f"{name}-{rounds}", rounds + 1
        while True:
            process = start(root)
            try:
                code = process.wait(rng.uniform(0, lasts) if done < kills else None)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                done += 1
                print(f"\r{name}: {done} kills, {rounds} rounds", end="", file=sys.stderr, flush=True)
                continue
            assert code in (0, 75), f"{name} ended with {code} after {done} kills; see {out}/{name}.log"
            if code == 0:
                break
            time.sleep(1.0)  # a child of the killed one still has the directory
        assert of(root) == wanted, f"{name}: {root} differs from {whole} after {done} kills"
        shutil.rmtree(root)
    return {"kills": done, "rounds": rounds, "seconds": time.monotonic() - began}


def main() -> int:
    """Parse, soak, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=50, help="kills of train")
    parser.add_argument("--others", type=int, default=5, help="kills of each of sweep, eval and icons")
    parser.add_argument("--only", default="", help="train, eval, icons or sweep (eval needs train)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    print(f"{'command':8} {'kills':>6} {'rounds':>7} {'time':>8}")
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        os.environ |= {"CLIP_JAX_CACHE": str(out / "cache"), "JAX_PLATFORMS": "cpu"}
        (out / "run.json").write_text(json.dumps(to_dict(tiny())))
        sweep = SweepConfig(
            "soak", base=tiny(), rungs=(0.5, 1), budgets=(1e8, 2e8, 4e8), sizes_per_budget=0, min_steps=2
        )
        (out / "sweep.json").write_text(json.dumps(to_dict(sweep)))
        for kind, letter in (("cat", 0), ("dog", 1)):
            for split in ("train", "test"):
                folder = out / "sets" / "pets" / split / kind
                folder.mkdir(parents=True)
                for i in range(20):
                    (folder / f"{i}.png").write_bytes(_picture("PNG", size=(20 + letter, 20 + i)))
        suite = {"sets": [{"name": f"pets{i}", "path": "pets"} for i in range(3)]}
        (out / "sets" / "suite.json").write_text(json.dumps(suite))
        commands: dict[str, tuple[list[str], int, Callable[[Path], Any]]] = {
            "train": (["train", f"--config={out}/run.json", "--dir={out}", "--quiet"], args.train, of_run),
            "eval": (["eval", f"{out}/train-whole", f"--suite={out}/sets/suite.json", "--out={out}"],
                     args.others, of_eval),
            "icons": (["data", "icons", "{out}", f"--package={out}/icons.tgz", "--size=64", "--common-sets=2",
                       "--held-out=b"], args.others, of_icons),
            "sweep": (["sweep", "run", f"--config={out}/sweep.json", "--dir={out}"], args.others, of_sweep),
        }  # fmt: skip
        (out / "icons.tgz").write_bytes(_package())
        for name, (command, kills, of) in commands.items():
            if args.only not in ("", name):
                continue
            row = soak(name, [*PROGRAM, *command], kills, out, of, rng)
            print(f"{name:8} {row['kills']:6,d} {row['rounds']:7,d} {row['seconds']:6.0f} s", flush=True)
    return 0


def _package() -> bytes:
    """Three sets of a few hundred icons, whose drawings differ: sets that share them would be of one family."""
    from fuzz_mutations import tgz

    files = {}
    shapes = {"a": "h9v9z", "b": "v-5h3v12h-3z", "c": "l-6 3l9 1l-2 -9z"}
    for prefix, shape in shapes.items():
        icons = {
            f"icon-{word}-{i}": {"body": f'<path d="M{8 + i % 12} {9 + i % 7}{shape}m{len(word)} {i // 20}h2v2z"/>'}
            for word in ("home", "user", "star") for i in range(100)
        }  # fmt: skip
        about = {"name": prefix, "author": {"name": prefix}, "license": {"title": "MIT", "spdx": "MIT"}}
        files[f"package/json/{prefix}.json"] = json.dumps(
            {"prefix": prefix, "width": 24, "height": 24, "info": about, "icons": icons}
        ).encode()
    return tgz(files)


if __name__ == "__main__":
    sys.exit(main())
