"""The programs of benchmarks/: each runs at its smallest, and asks the package for names that it has."""

import ast
import importlib
import os
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
PROGRAMS = sorted(FOLDER.glob("*.py"))
# the smallest arguments of each program, and a part of what it then prints; {tmp} is an empty folder
SMALLEST = {
    "back_tests": ("{tmp}/tables", "| Gadre | 3x |"),
    "block_order": ("--pairs 1e6 --hosts 4 --batch-size 64", "| 1e+06 | 4 | 16 |"),
    "compiled_step": ("--targets here --models ViT-B/32 --depth 1 --batch 2 --ways default", "| here | ViT-B/32 |"),
    "branches": (
        "--rungs 0.5 --budgets 1e9,2e9 --seeds 2 --warmup 2 --examples 24 --checkpoint-every 5",
        "| 0.5 | 1.00e+09 | ln(error) |",
    ),
    "coordinate_check": ("--widths 16 32 --steps 1 --out {tmp}", "| logits | mup |"),
    "curve_collapse": ("--sweeps 2 --only none", "| 4 sizes, 2 seeds | none |"),
    "curve_coverage": ("--tables 1 --replicas 10 --only 7", "| annealing, 7 curves | 3x |"),
    "curve_tables": ("{tmp}/curves", "| ViT-B-16 | 2B |"),
    "data_loading": (
        "--images 8 --batches 2 --batch-size 4 --hand-size 8 --indexed 20 --sizes 32 --only remote",
        "| 32 | memory:// | pillow | 2 |",
    ),
    "families": ("--members 2 --rungs 0.5 --forms vmap --batch 8 --steps 30", "| 0.5 | vmap | 2 |"),
    "fit_allocation": ("--tables 1 --draws 20 --only 18", "| Chinchilla, 18 runs | a of params |"),
    "fit_approaches": ("--tables 1 --only akima", "| 2, akima | N* at 10x |"),
    "fit_coverage": ("--replicates 4 --bootstrap 2 --only 6", "| power law, 6 points | b |"),
    "fit_forecast": ("{tmp}/mammut.csv --below 1e6", "| vit | power law | Huber of logs |"),
    "fit_frontier": ("--clouds 2", "| again, from 40 % |"),
    "fit_pooled": ("--tables 1 --separate 1 --draws 20 --only bounded", "| bounded, chance 0.9 | error at 10x |"),
    "fit_speed": ("--starts 2 --replicas 10", "ratio, point fit"),
    "fit_two_step": ("--tables 1 --only 10 --methods profile", "| power, exponential, 10 runs |"),
    "fit_under": ("--clouds 2 --runs 60", "| 60 |"),
    "forecast_coverage": ("--sweeps 1 --results {tmp}/sweeps.jsonl --only power,5", "| power | 5 |"),
    "forecast_price": ("--sweeps 1 --only power --budgets 5", "| power | 5 | 1 |"),
    "fuzz": ("--readers captions --cases 5 --out {tmp}", "0 failures"),
    "icons_forecast_again": ("--out {tmp}/forecast.json", "weights"),
    "linear_probe": ("--examples 60 --width 8 --classes 3", "ratio"),
    "loss_memory": ("--batch 64 --embed 8", "| sigmoid | ring, 64 rows at once |"),
    "lr_transfer": ("--minutes 0 --out {tmp}", "| parametrization | width |"),
    "on_device": ("--tiny --only env,data --out {tmp}", "| data loop |"),
    "optimizers": ('--rates 1 --seeds 1 --steps 3 --width 16 --only "muon, rms"', "| muon, rms |"),
    "precision": ("--steps 2 --rung 0.5 --seeds 2 --only 'bfloat16 moments' --out {tmp}", "| bfloat16 moments |"),
    "prediction_coverage": ("--tables 1 --intervals 1 --only sigmoid", "| **mean** |"),
    "preprocessing": ("--images 2 --size 32", "simplejpeg"),
    "soak": ("--train 1 --others 0 --only train", "train         1"),
    "shuffle_windows": (
        "--pairs 64 --shards 4 --steps 1 --batch-size 16 --seeds 2 --only global",
        "| global |",
    ),
    "store_reading": ("--pairs 1000 --seconds 0.1 --latency-ms 1", "| store | blocks |"),
    "step_flops": ("debug --batch 2", "debug"),
    "step_memory": ("debug --batch 2 --only float32", "| float32 |"),
    "sweep_throughput": ("--runs 2 --rungs 0.5 --steps 2", "ratio "),
    "table_examples": ("{tmp}/examples --only under", "--under=0.1` | error at 5.18e20 FLOPs"),
    "table_options_coverage": ("--tables 1 --replicas 10", "| --below, saturating, 20 rows |"),
    "table_size": ("--rows 100 --only Pareto", "| 100 | fit, Pareto frontier | filled |"),
    "through_coverage": ("--sweeps 1 --budgets 6 --only power", "| power | 6 | through |"),
    "train_step": (
        'rung:0.5 --batch 8 --turns 1 --steps 1 --explain --arms "jax, memory kept"',
        "ms of kernels, summed over threads: ",
    ),
}
IMPORTED = {"device_arms", "fuzz_mutations", "fuzz_readers", "torch_clip"}  # by the others; they have no main


@pytest.fixture
def tables(tmp_path):
    """Write tables that programs read; one that is not there is left out."""
    flops = np.geomspace(1e10, 2e13, 8)
    error = 0.1 + 0.6 * (flops / 1e10) ** -0.2 * np.exp(0.01 * np.random.default_rng(0).standard_normal(8))
    for folder in ("tables", "examples", "curves"):
        (tmp_path / folder).mkdir()
    pd.DataFrame({"flops_6ND": flops, "loss_c4_val": error, "N": 1e6}).to_csv(
        tmp_path / "tables" / "gadre_overtrain_c4.csv", index=False
    )
    gflops = np.geomspace(1, 1e7, 24)
    mammut = {"family": "vit", "gflops_total": gflops, "imagenet1k_acc1": 0.9 - 0.6 * gflops**-0.1}
    pd.DataFrame(mammut).to_csv(tmp_path / "mammut.csv", index=False)
    runs = pd.DataFrame(mammut).assign(family="clip", gflops_total=np.geomspace(1e7, 1e12, 24))
    runs.to_csv(tmp_path / "examples" / "clip_mammut_runs_datacomp_imagenet.csv", index=False)
    runs = [(n, np.arange(1, n + 1)) for n in (3, 13, 34)]
    epochs = pd.concat([
        pd.DataFrame({"run": f"Samples-{n}B", "arch": "ViT-B-16", "data": "2B", "lr": 1e-3, "epoch": epoch,
                      "total_epochs": n, "samples_per_epoch": 1e9})
        for n, epoch in runs
    ])  # fmt: skip
    epochs["imagenet1k_acc1"] = 0.8 - 0.5 / epochs["epoch"] ** 0.5 - 0.1 / epochs["total_epochs"]
    epochs.to_csv(tmp_path / "curves" / "openclip_learning_curves.csv", index=False)
    return tmp_path


def test_every_benchmark_has_smallest_arguments():
    assert {p.stem for p in PROGRAMS} == SMALLEST.keys() | IMPORTED


@pytest.mark.thorough
@pytest.mark.parametrize("program", sorted(SMALLEST))
def test_benchmark_runs_at_its_smallest(program, tables, monkeypatch, capfd):
    arguments, line = SMALLEST[program]
    monkeypatch.chdir(tables)
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("JAX_PLATFORMS", "XLA_FLAGS", "CLIP_JAX_CACHE"):  # some programs set these
        monkeypatch.setenv(name, os.environ[name])
    monkeypatch.setattr(sys, "argv", [program, *shlex.split(arguments.format(tmp=tables))])
    code = None
    try:
        runpy.run_path(str(FOLDER / f"{program}.py"), run_name="__main__")
    except SystemExit as end:
        code = end.code
    assert not code
    assert line in capfd.readouterr().out


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_benchmark_imports_exist(program):
    asked = [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(program.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "clip_jax"
        for alias in node.names
    ]
    missing = []
    for module, name in asked:
        if not hasattr(importlib.import_module(module), name):
            try:
                importlib.import_module(f"{module}.{name}")
            except ModuleNotFoundError:
                missing.append(f"{module}.{name}")
    assert not missing
