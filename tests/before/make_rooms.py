"""Make ``rooms.tar.gz`` for `tests/test_compat.py`, with the code before the package was re-filed into rooms.

Run it with the package of commit 4e659c5, whose module paths it imports::

    git worktree add --detach OLD 4e659c5
    cd OLD && PYTHONPATH=$PWD python …/tests/before/make_rooms.py …/tests/before/rooms.tar.gz

The archive holds ``configs.json`` (stored configs with the run ids of that code), ``sweep.json`` and ``sweep/`` (a
finished sweep), ``run.json`` and ``run/`` (a run stopped at step 5 of 8), and ``end/``: what that code gave when it
trained the run to its end. It gave the same when it trained the run from scratch, which is checked here.
"""

import dataclasses
import gzip
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import typing
from pathlib import Path

STEP, MIN_CONFIGS = 5, 140
SUBPROCESS_ENV = {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0",
    "MPLBACKEND": "Agg",
}

FOLDER = {"data.source": "folder", "data.paths": ["data"]}
SHARDS = {"data.source": "webdataset", "data.paths": ["a", "b"]}
POOL = {"model.image.pool": "attentional", "model.image.pool_heads": 2, "model.image.pool_queries": 8}
RESNET = {
    "model.image.stages": [1, 1, 1, 1], "model.image.depth": 4, "model.image.patch_size": 32,
    "model.image.image_size": 64, "model.image.width": 16, "model.image.heads": 8,
}  # fmt: skip
MUP = {
    "model.parametrisation.kind": "mup", "model.parametrisation.base_image_width": 32,
    "model.parametrisation.base_text_width": 16,
}  # fmt: skip
CAPTION = {"model.objective": "caption"}
BAG = {"model.objective": "bag_of_words"}
HALF = {"model.compute_dtype": "float16", "model.param_dtype": "bfloat16"}
SPIKE = {"faults.on_spike": "rollback"}
INIT = {"init_from.source": "openai/ViT-B/32"}

# dotted fields of valid run configs; together they give every field another value than its default
RUNS: list[dict[str, typing.Any]] = [
    {}, {"steps": 37, "batch_size": 64}, {"seed": 5}, {"log_every": 3, "checkpoint_every": 11}, {"wandb": "disabled"},
    {"wandb": "online"}, {"microbatch_size": 32},
    {"model.image.width": 96, "model.image.depth": 3, "model.image.heads": 6, "model.image.mlp_ratio": 3.0},
    {"model.image.image_size": 48, "model.image.patch_size": 16}, RESNET,
    {"model.image.pool": "avg", "model.image.class_token": False, "model.image.norm_after_pool": True},
    {"model.image.pool": "map", "model.image.norm_pre": False, "model.image.patch_bias": True}, POOL,
    {"model.image.norm_eps": 1e-6, "model.image.layer_scale": 0.1, "model.image.patch_dropout": 0.5},
    {"model.image.projection": False}, {"model.text.projection": False, "model.embed_dim": 64},
    {"model.text.encoder": "bag_of_words"}, {"model.text.width": 96, "model.text.depth": 3, "model.text.heads": 6},
    {"model.text.mlp_ratio": 2.0, "model.text.context_length": 16, "model.text.vocab_size": 512},
    {"model.text.causal": False, "model.text.pool": "last"}, {"model.text.pool": "cls", "model.text.pad_id": 3},
    {"model.text.norm_eps": 1e-6, "model.text.layer_scale": 0.2, "model.text.projection_bias": True},
    POOL | {"model.decoder.depth": 2, "loss.caption_weight": 1.0},
    POOL | {"model.decoder.depth": 1, "model.decoder.width": 32, "model.text.width": 32, "model.embed_dim": 32,
            "model.decoder.heads": 2, "model.decoder.mlp_ratio": 2.0},
    {"model.embed_dim": 32, "model.activation": "quick_gelu", "model.text_activation": "gelu_erf"},
    {"model.init_temperature": 0.1, "model.max_logit_scale": 50.0}, {"model.logit_bias": True, "loss.kind": "sigmoid"},
    {"model.compute_dtype": "bfloat16", "model.attention": "cudnn"}, {"model.attention": "xla"},
    HALF | {"optim.rounding": "nearest", "optim.loss_scale": 1024.0}, {"model.text_param_dtype": "bfloat16"},
    {"model.remat": True}, {"model.remat": True, "model.remat_policy": "dots"}, {"model.remat_policy": "nothing"},
    {"model.scan_layers": False}, MUP,
    MUP | {"model.parametrisation.base_image_depth": 2, "model.parametrisation.base_text_depth": 1},
    CAPTION, CAPTION | {"model.prefix_tokens": 8, "model.vocab_chunk": 128, "evals.prior_images": 64},
    BAG, BAG | {"evals.predictive_score": "raw"},
    SHARDS, SHARDS | {"data.weights": [1.0, 2.0]}, SHARDS | {"data.val_paths": ["c"], "data.val_split": "test"},
    SHARDS | {"data.train_split": "all", "data.val_fraction": 0.1}, SHARDS | {"data.decoder": "simplejpeg"},
    SHARDS | {"data.workers": 4, "data.threads": 3}, SHARDS | {"data.keep_decoded": True, "data.max_broken": 7},
    FOLDER, FOLDER | {"data.filename_column": "image", "data.caption_column": "title", "data.unique_samples": 99},
    {"data.source": "tfds", "data.paths": ["t"], "data.image_key": "picture", "data.caption_key": "text"},
    {"data.augment": "flip", "data.tokenizer_captions": 300}, {"data.augment": "random_resized_crop"},
    {"data.scenes.world_seed": 3, "data.scenes.objects": 64, "data.scenes.zipf": 0.5},
    {"pixels.mean": [0.5, 0.5, 0.5], "pixels.std": [0.5, 0.5, 0.5]}, {"pixels.interpolation": "bilinear"},
    FOLDER | {"pixels.resize_mode": "longest", "pixels.fill_color": 127},
    {"optim.peak_lr": 0.002, "optim.warmup_steps": 5, "optim.weight_decay": 0.2},
    {"optim.schedule": "wsd"}, {"optim.schedule": "wsd", "optim.decay_fraction": 0.4},
    {"optim.b1": 0.8, "optim.b2": 0.95, "optim.eps": 1e-8, "optim.clip_norm": 0.5}, {"optim.layer_decay": 0.7},
    {"optim.state_dtype": "bfloat16"}, {"optim.state_dtype": "bfloat16", "optim.rounding": "nearest"},
    {"mesh.data": 2, "mesh.fsdp": -1}, {"mesh.tensor": 2, "mesh.slices": 2},
    {"evals.zero_shot": ["scenes", "x"], "evals.controls": ["y"], "evals.examples": 40},
    {"evals.at_fractions": [0.25, 0.5], "evals.val_pairs": 64, "evals.val_partitions": 3},
    {"evals.retrieval_images": 100, "evals.batch_size": 128}, INIT, INIT | {"init_from.tower": "image"},
    INIT | {"init_from.freeze": "image"}, INIT | {"init_from.tower": "text", "init_from.freeze": "text"},
    {"loss.method": "ring", "loss.chunk": 64}, {"loss.method": "dense"}, {"loss.method": "gathered"},
    {"faults.on_nan": "rollback", "faults.max_rollbacks": 5}, {"faults.on_spike": "stop"},
    SPIKE | {"faults.spike_factor": 3.0, "faults.spike_window": 20},
]  # fmt: skip

GRID = {"name": "grid", "method": "grid", "space": ["optim.peak_lr = log(1e-3, 3e-2, 3)"]}
TPE = {"name": "tpe", "method": "tpe", "trials": 8, "together": 2, "proposal_seed": 3}
SLURM = {"name": "slurm", "engine": "slurm", "slots": 4}
PODS = {"name": "pods", "engine": "jobset", "resources.image": "clip:1"}
TPU = PODS | {
    "resources.accelerator": "tpu-v5p-slice", "resources.topology": "2x4", "resources.devices_per_process": 4,
}  # fmt: skip
SWEEPS: list[dict[str, typing.Any]] = [
    {"name": "usual"}, {"name": "sizes", "rungs": [1, 2], "budgets": [1e11], "sizes_per_budget": 0, "seeds": [0, 3]},
    {"name": "named", "models": ["RN50", "ViT-B/32"], "budgets": [1e17], "gflops_per_second": 10.0},
    {"name": "best", "seeds_at_best": [4, 5], "min_steps": 10, "optimum_samples_per_param": 2.0},
    {"name": "rates", "lr_checks": [0.25, 4.0], "lr_checks_at": "rungs", "base_lr": 0.002},
    {"name": "width", "base_width": 64, "lr_width_power": 1.0, "warmup_fraction": 0.05, "metric": "val_loss_refit"},
    {"name": "same", "lr_rule": "constant", "lr_checks": [], "seeds_at_best": []},
    {"name": "settings", "decay_checks": [0.5], "warmup_checks": [2.0], "batch_checks": [0.5, 2.0]},
    {"name": "rules", "by_budget.base_budget": 1e11, "by_budget.lr_power": -0.1, "by_budget.batch_power": 0.5,
     "by_budget.warmup_power": -0.2, "by_budget.decay_power": 0.3},
    {"name": "epochs", "max_epochs": 4.0, "base.data.unique_samples": 5000},
    {"name": "vmapped", "families": "measured"}, {"name": "pairs", "families": "measured", "family_size": 2},
    {"name": "shared", "resources.devices_per_process": 1, "resources.runs_per_device": 4, "slots": 2,
     "resources.price_per_device_hour": 2.5, "resources.max_attempts": 2},
    SLURM | {"resources.nodes": 2, "resources.processes_per_node": 2, "resources.devices_per_process": 4,
             "resources.cores": 8, "resources.gres": "gpu:a100", "resources.poll_s": 5.0},
    SLURM | {"resources.setup": ["module load cuda"], "resources.partition": "p", "resources.sbatch": ["--account=x"],
             "resources.time_limit_min": 60, "resources.stop_before_s": 60},
    PODS | {"resources.memory": "64Gi", "resources.queue": "q", "resources.priority": "high",
            "resources.namespace": "n", "resources.claim": "c", "resources.mount": "/data"},
    TPU | {"resources.slices": 2},
]  # fmt: skip
SEARCHES: list[dict[str, typing.Any]] = [
    {"name": "usual"}, GRID, GRID | {"seeds": [1, 2], "metric": "val_loss_refit", "slots": 3}, TPE,
    GRID | {"space": ["loss.method = choice(dense, ring)", "loss.chunk = choice(64, 128) if loss.method = ring"]},
    GRID | {"keep": 0.5, "base.evals.at_fractions": [0.5], "engine": "slurm", "resources.partition": "p"},
]  # fmt: skip
LAUNCHES: list[dict[str, typing.Any]] = [
    {"coordinator": "host:1", "processes": 4, "process": 1, "heartbeat_s": 50, "start_s": 60}
]

RUN = {
    "model": {
        "embed_dim": 16, "logit_bias": True, "scan_layers": False,
        "image": {"width": 16, "depth": 2, "heads": 2, "image_size": 32, "patch_size": 16, "patch_dropout": 0.25},
        "text": {"width": 16, "depth": 1, "heads": 2, "context_length": 16, "vocab_size": 300},
    },
    "data": {"threads": 1, "tokenizer_captions": 200, "augment": "flip", "max_broken": 3},
    "optim": {"peak_lr": 3e-3, "warmup_steps": 2, "state_dtype": "bfloat16", "schedule": "wsd", "decay_fraction": 0.5},
    "evals": {"examples": 24, "at_fractions": [0.5], "val_pairs": 16, "retrieval_images": 16, "batch_size": 32},
    "loss": {"kind": "sigmoid", "method": "ring", "chunk": 8}, "faults": {"on_nan": "rollback"},
    "batch_size": 16, "steps": 8, "log_every": 1, "checkpoint_every": 4, "wandb": "disabled",
}  # fmt: skip
SWEEP = {
    "name": "finished",
    "base": {
        "model": {"scan_layers": False, "image": {"image_size": 32, "patch_size": 16},
                  "text": {"context_length": 16, "vocab_size": 300}},
        "data": {"threads": 1, "tokenizer_captions": 200}, "batch_size": 16, "checkpoint_every": 4000,
        "evals": RUN["evals"] | {"at_fractions": []}, "wandb": "disabled",
    },
    "rungs": [0.5], "budgets": [1e8, 2e8, 4e8], "min_steps": 2, "seeds_at_best": [], "lr_checks": [2.0],
    "lr_checks_at": "rungs", "slots": 1,
}  # fmt: skip


def nested(fields: dict[str, typing.Any]) -> dict[str, typing.Any]:
    """Return ``{"a.b": 1}`` as ``{"a": {"b": 1}}``."""
    values: dict[str, typing.Any] = {}
    for name, value in fields.items():
        *groups, last = name.split(".")
        group = values
        for part in groups:
            group = group.setdefault(part, {})
        group[last] = value
    return values


def leaves(value: typing.Any, name: str = "") -> dict[str, typing.Any]:
    """Return the fields of a config dataclass as dotted name -> value."""
    if not dataclasses.is_dataclass(value):
        return {name: value}
    parts = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return {k: v for part, inner in parts.items() for k, v in leaves(inner, f"{name}.{part}" if name else part).items()}


def same_fields(defaults: typing.Any, configs: list[typing.Any]) -> list[str]:
    """Return the names of the fields that no config gives another value than its default."""
    usual = leaves(defaults)
    return [name for name in usual if all(leaves(config)[name] == usual[name] for config in configs)]


def stored_configs() -> dict[str, typing.Any]:
    """Return configs as stored, with their ids: ``run``, ``sweep``, ``search`` and ``distributed``."""
    from clip_jax.checks import UserError
    from clip_jax.config_io import from_dict, run_id, to_dict
    from clip_jax.sweep.propose import propose
    from clip_jax.sweep.run import plan_of
    from clip_jax.sweep.search_config import SearchConfig, apply
    from clip_jax.sweep_config import SweepConfig

    from clip_jax.config import DistributedConfig, RunConfig
    from clip_jax.sweep.plan import make_cell, setting_checks

    runs = [from_dict(RunConfig, nested(fields)) for fields in RUNS]
    choose = random.Random(0)
    while len(runs) < MIN_CONFIGS:
        try:
            config = from_dict(RunConfig, nested({k: v for some in choose.sample(RUNS, 4) for k, v in some.items()}))
        except UserError:  # these do not go together
            continue
        if config not in runs:
            runs.append(config)
    sweeps = [from_dict(SweepConfig, nested(fields)) for fields in SWEEPS]
    searches = [from_dict(SearchConfig, nested(fields)) for fields in SEARCHES]
    launches = [from_dict(DistributedConfig, fields) for fields in LAUNCHES]
    missing = same_fields(RunConfig(), runs) + same_fields(DistributedConfig(), launches)
    for defaults, configs in ((SweepConfig("x"), sweeps), (SearchConfig("x"), searches)):
        set_here = [name for name in same_fields(defaults, configs) if not name.startswith(("base.", "resources."))]
        missing += set_here
    missing += same_fields(SweepConfig("x").resources, [sweep.resources for sweep in sweeps])
    assert not missing, missing

    def sweep_ids(sweep: SweepConfig) -> list[str]:
        cells = list(plan_of(sweep).cells)
        for cell in plan_of(sweep).kept:
            cells += setting_checks(sweep, cell.rung, cell.budget)
            cells += [make_cell(sweep, cell.rung, cell.budget, 0, lr_factor=factor) for factor in sweep.lr_checks]
        return [cell.run_id for cell in cells]

    def search_ids(search: SearchConfig) -> list[str]:
        if search.method == "tpe":  # the proposals are Optuna's, and its version's
            return []
        settings = propose(search.dimensions, search.method, search.trials, search.proposal_seed, search.together, [])
        return [run_id(apply(search.base, setting)) for setting in settings]

    return {
        "run": [{"id": run_id(config), "config": to_dict(config)} for config in runs],
        "sweep": [{"ids": sweep_ids(config), "config": to_dict(config)} for config in sweeps],
        "search": [{"ids": search_ids(config), "config": to_dict(config)} for config in searches],
        "distributed": [{"config": to_dict(config)} for config in launches],
    }


def command(*arguments: str, cwd: Path) -> None:
    """Run ``clip-jax`` in a process of its own, with XLA's own settings."""
    subprocess.run(
        [sys.executable, "-m", "clip_jax.cli", *arguments], cwd=cwd, check=True, env=os.environ | SUBPROCESS_ENV
    )


def store_end(run_dir: Path, out: Path) -> None:
    """Store the end of a run: its parameters, metrics and evaluation rows, and the versions and CPU that gave them."""
    import jax
    import numpy as np

    import clip_jax

    out.mkdir(parents=True)
    leaves_of = jax.tree_util.tree_leaves_with_path(clip_jax.load_model(str(run_dir)).params)
    np.savez_compressed(
        out / "params.npz", **{jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves_of}
    )
    for name in ("metrics.jsonl", "evals.jsonl"):
        shutil.copy(run_dir / name, out / name)
    (out / "machine.json").write_text(json.dumps(machine()))


def machine() -> dict[str, typing.Any]:
    """Return what the bits of a program on a CPU depend on: versions, instructions of the CPU, number of threads."""
    import jax
    import jaxlib

    flags = {
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "model name"))
    }
    return {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "cpu": sorted(flags), "threads": os.cpu_count()}


def main(archive: str) -> None:
    """Make the archive."""
    os.environ |= SUBPROCESS_ENV
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "configs.json").write_text(json.dumps(stored_configs()))
        (root / "run.json").write_text(json.dumps(RUN))
        (root / "sweep.json").write_text(json.dumps(SWEEP))
        command("sweep", "run", "--config=sweep.json", "--dir=sweep", cwd=root)
        command("train", "--config=run.json", "--dir=scratch", cwd=root)
        command("train", "--config=run.json", "--dir=run", f"--until={STEP}", cwd=root)
        shutil.copytree(root / "run", root / "resumed")
        command("train", "--config=run.json", "--dir=resumed", cwd=root)
        for name in ("scratch", "resumed"):
            store_end(root / name, root / "ends" / name)
            shutil.rmtree(root / name)
        trim(root)
        pack(root, Path(archive).resolve())


def trim(root: Path) -> None:
    """Remove what no test reads, and the name of the machine; check that both ends of the run are the same bits."""
    for path in root.glob("sweep/runs/*/checkpoints"):
        shutil.rmtree(path)
    for path in [
        root / "sweep" / "report",
        root / "sweep" / "slots",
        root / "run" / "checkpoints" / "4",
        *root.rglob("logs"),
    ]:
        shutil.rmtree(path)
    for path in [root / "sweep" / "runs.parquet", *root.rglob(".lock")]:
        path.unlink()
    for path in root.rglob("status.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "host"}))
    ends = [(root / "ends" / name / "params.npz").read_bytes() for name in ("scratch", "resumed")]
    assert ends[0] == ends[1], "the run that went on did not end as the run from scratch"
    shutil.rmtree(root / "ends" / "scratch")
    (root / "ends" / "resumed").rename(root / "end")
    (root / "ends").rmdir()


def pack(root: Path, archive: Path) -> None:
    """Write the folder as a tar.gz that depends on its content only."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path in sorted(root.rglob("*")):
            tar.add(path, path.relative_to(root), recursive=False, filter=anonymous)
    archive.write_bytes(gzip.compress(out.getvalue(), mtime=0))


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return the member without the names of its owner."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main(sys.argv[1])
