"""Strict numerics for every test: eight virtual CPU devices, no silent rank promotion, one compile cache."""

import dataclasses
import io
import os
import tarfile
import tempfile
import time
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
# nearly all of a test's time is compilation, of programs that run a few times: do not optimize them
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    + " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
os.environ.setdefault("MPLBACKEND", "Agg")
# one cache a worker: jax writes an entry in place, so a neighbor could read half of one
os.environ["CLIP_JAX_CACHE"] = str(
    Path(tempfile.gettempdir()) / "clip_jax_test_cache" / os.environ.get("PYTEST_XDIST_WORKER", "main")
)

import jax
import pytest
from hypothesis import settings
from PIL import Image

from clip_jax.config import (
    DataConfig,
    EvalConfig,
    ImageTowerConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TextTowerConfig,
)
from clip_jax.storage.paths import cache_folder

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(cache_folder("xla")))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

SLOW_MARKS = {"thorough", "slow", "slurm", "browser"}
QUICK_S = 20.0  # CPU seconds, with compiling from nothing, that a test may take without the mark `thorough`


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Fail a test that takes long and is not marked ``thorough``: `make test` has to stay short."""
    began = time.process_time()
    result = yield
    seconds = time.process_time() - began
    if seconds > QUICK_S and not any(mark.name in SLOW_MARKS for mark in item.iter_markers()):
        raise AssertionError(f"{item.nodeid} took {seconds:.0f} s of CPU: mark it thorough, or make it shorter")
    return result


settings.register_profile("tests", deadline=None, max_examples=25)
settings.load_profile("tests")


@pytest.fixture(scope="session")
def tiny_run():
    """Return a run that trains in seconds on eight virtual devices."""
    text = TextTowerConfig(width=16, depth=1, heads=2, context_length=16, vocab_size=400)
    image = ImageTowerConfig(width=16, depth=1, heads=2, image_size=32, patch_size=16)
    return RunConfig(
        model=ModelConfig(image=image, text=text, embed_dim=16, scan_layers=False),
        data=DataConfig(tokenizer_train_captions=200, num_threads=1),
        optim=OptimConfig(peak_lr=3e-3, warmup_steps=2),
        evals=EvalConfig(max_examples=24, val_pairs=16, val_partitions=2, retrieval_images=16, batch_size=32),
        batch_size=16,
        steps=8,
        log_every=2,
        checkpoint_every=4,
        wandb="disabled",
    )


@pytest.fixture(scope="session")
def run_of(tiny_run):
    """Return a function (objective, text encoder) -> the tiny run with them, other fields at their default."""

    def make(objective, encoder="transformer", **change):
        text = tiny_run.model.text
        if "bag_of_words" in (objective, encoder):
            text = TextTowerConfig(encoder=encoder, context_length=16, vocab_size=400)
        model = dataclasses.replace(tiny_run.model, objective=objective, text=text, **change)
        evals = tiny_run.evals
        if objective != "contrastive":
            evals = dataclasses.replace(evals, retrieval_images=EvalConfig().retrieval_images, prior_images=4)
        return dataclasses.replace(tiny_run, model=model, evals=evals)

    return make


def _write_shard(path, samples):
    """Write a WebDataset shard of {member name: bytes}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in samples.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def _jpeg(color=(200, 30, 30), size=(40, 48)):
    """Return a one-color JPEG, (width, height) pixels."""
    out = io.BytesIO()
    Image.new("RGB", size, color).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture
def write_shard():
    """Return the function that writes a shard."""
    return _write_shard


@pytest.fixture
def jpeg():
    """Return the function that makes a picture."""
    return _jpeg


@pytest.fixture
def pairs_dir(tmp_path):
    """Write a WebDataset folder: 20 training and 20 held-out pairs, in two shards each."""
    for split in ("train", "val"):
        for shard in range(2):
            samples = {}
            for i in range(10):
                key = f"{split}{shard}{i}"
                samples[f"{key}.jpg"] = _jpeg((25 * i, 10 * shard, 90))
                samples[f"{key}.txt"] = f"picture {i} of shard {shard}\nanother line {i}".encode()
            _write_shard(tmp_path / "pairs" / split / f"{shard}.tar", samples)
    return tmp_path / "pairs"


@pytest.fixture(scope="session")
def _buckets():
    """Yield the one store of this process's clients, which remember its address."""
    from .bucket import Bucket

    store = Bucket()
    os.environ |= store.environment  # which gcsfs reads when it is imported
    pytest.importorskip("gcsfs", reason="the extra gcs is not installed")
    yield store
    store.close()


@pytest.fixture
def bucket(_buckets, tmp_path, monkeypatch):
    """Yield an empty ``gs://bucket`` for this process and those it starts, and an empty cache folder."""
    compiled, cache = cache_folder("xla"), tmp_path / "cache"
    compiled.mkdir(parents=True, exist_ok=True)
    cache.mkdir()
    (cache / "xla").symlink_to(compiled)  # not empty: compiling again would take most of the test's time
    monkeypatch.setenv("CLIP_JAX_CACHE", str(cache))
    _buckets.objects.clear()
    yield _buckets
    _buckets.refuse = 0


@pytest.fixture
def store(monkeypatch):
    """Yield an empty `SlowStore`; ``asked`` lists (path, start, end), `fail` and `hang` set how many calls will."""
    import threading

    import fsspec

    from clip_jax.storage import range_reads

    from .slow_store import SlowStore

    fsspec.register_implementation("slow", SlowStore, clobber=True)
    monkeypatch.setattr(range_reads, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(SlowStore, "store", {})
    monkeypatch.setattr(SlowStore, "asked", [])
    monkeypatch.setattr(SlowStore, "failures", 0)
    monkeypatch.setattr(SlowStore, "hung", 0)
    monkeypatch.setattr(SlowStore, "hanging", threading.Event())
    monkeypatch.setattr(SlowStore, "end", threading.Event())
    yield fsspec.filesystem("slow")
    SlowStore.end.set()


@pytest.fixture(scope="session")
def golden():
    """Return golden numbers of the reference implementations: small models with random weights."""
    return Path(__file__).parent / "parity"
