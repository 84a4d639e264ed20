"""What a bug report needs, on one screen."""

import jax

from clip_jax.cli import doctor as module
from clip_jax.cli.main import main


def test_doctor_shows_this_machine_on_one_screen(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIP_JAX_CACHE", str(tmp_path / "none"))
    monkeypatch.delenv("CLIP_JAX_COMPILE_CACHE", raising=False)
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    text = " ".join(" ".join(lines).split())
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    assert f"jax {jax.__version__}, " in text
    assert f"{jax.device_count()} × cpu" in text
    assert f"{tmp_path}/none: 0.0 GB" in text
    assert f"{tmp_path}/none/xla: compiled programs ($CLIP_JAX_COMPILE_CACHE)" in text
    assert "sbatch " in text
    assert not (tmp_path / "none").exists()


OPTIONAL = ("numpy; extra == 'fast'", "gone2; extra == 'gcs'", "numpy; extra == 's3'", "gone3>1; extra == 's3'")


def test_doctor_names_what_is_missing_and_an_unused_accelerator(monkeypatch, tmp_path):
    monkeypatch.setattr(module.metadata, "requires", lambda _: ["jax>=0.1", "gone>1", *OPTIONAL])
    monkeypatch.setattr(module, "ACCELERATORS", ((str(tmp_path), "an NVIDIA GPU", "gpu"),))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("CLIP_JAX_COMPILE_CACHE", "gs://bucket/xla")
    text = " ".join(module.doctor().split())
    assert "programs gs://bucket/xla: compiled programs" in text
    assert "gone MISSING" in text
    assert "extras fast; missing: gcs, s3 (pip install 'clip-jax-scaling[gcs,s3]')" in text
    assert "an NVIDIA GPU is here, but JAX does not use it: pip install 'clip-jax-scaling[gpu]'" in text
    assert "unset JAX_PLATFORMS=cpu" in text
