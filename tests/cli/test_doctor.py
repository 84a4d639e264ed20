"""What a bug report needs, on one screen."""

import jax

from clip_jax.cli import doctor as module
from clip_jax.cli.main import main


def test_doctor_shows_this_machine_on_one_screen(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIP_JAX_CACHE", str(tmp_path / "none"))
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    text = " ".join(" ".join(lines).split())
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    assert f"jax {jax.__version__}, " in text
    assert f"{jax.device_count()} × cpu" in text
    assert f"{tmp_path}/none: 0.0 GB" in text
    assert "sbatch " in text
    assert not (tmp_path / "none").exists()


def test_doctor_names_what_is_missing_and_an_unused_accelerator(monkeypatch, tmp_path):
    monkeypatch.setattr(module.metadata, "requires", lambda _: ["jax>=0.1", "gone>1", "s3fs2; extra == 's3'"])
    monkeypatch.setattr(module, "ACCELERATORS", ((str(tmp_path), "an NVIDIA GPU", "gpu"),))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    text = " ".join(module.doctor().split())
    assert "gone MISSING" in text
    assert "s3: no s3fs2 (pip install 'clip-jax-scaling[s3]')" in text
    assert "an NVIDIA GPU is here, but JAX does not use it: pip install 'clip-jax-scaling[gpu]'" in text
    assert "unset JAX_PLATFORMS=cpu" in text
