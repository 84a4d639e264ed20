"""Uploading exported weights, to a stand-in for the hub on this machine."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from clip_jax.config import ImageTowerConfig, ModelConfig, TextTowerConfig
from clip_jax.data.images.eval_preprocess import Preprocess
from clip_jax.data.tokenizers.learned_bpe import train_tokenizer
from clip_jax.models.clip import init_params
from clip_jax.pretrained.hub import push
from clip_jax.pretrained.load import Weights, save_weights
from clip_jax.pretrained.model_card import model_card

from ..hub import TOKEN, StandIn
from ..user_errors import raises_user_error

TEXTS = ["a Dog", "a  cat &amp; a kettle"]
MODEL = ModelConfig(
    image=ImageTowerConfig(width=32, depth=1, heads=4, image_size=32, patch_size=16),
    text=TextTowerConfig(width=32, depth=1, heads=4, context_length=16, vocab_size=300),
    embed_dim=24,
)


@pytest.fixture(scope="module")
def weights():
    return Weights("made", MODEL, init_params(MODEL, 3), Preprocess(32), train_tokenizer(["a red kettle"], 300, 16))


@pytest.fixture(params=["open_clip", "transformers"])
def exported(request, weights, tmp_path):
    folder = tmp_path / "own"
    save_weights(weights, folder, request.param)
    (folder / "README.md").write_text(model_card("own", MODEL, request.param, source="made"))
    (folder / "notes.txt").write_text("not part of the export")
    return request.param, folder


def on_hub(hub, tmp_path, program, *, token=TOKEN):
    """Run a program whose hub is the stand-in; return the finished process."""
    home = {"HF_HOME": str(tmp_path / "hf_home"), "HF_ENDPOINT": hub.url, "HF_TOKEN": token}
    env = {**os.environ, **home, "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=env, timeout=300
    )


PUSH = "import sys; from clip_jax.cli.main import main; sys.exit(main(['push', {folder!r}, 'me/own', '--private']))"
LOAD = """
import json
from clip_jax.pretrained.load import load_weights
weights = load_weights("hf:me/own")
print(json.dumps([weights.digest, weights.tokenizer.encode({texts!r}).tolist()]))
"""


@pytest.mark.thorough
def test_what_is_pushed_is_loaded_from_the_hub(exported, weights, tmp_path):
    layout, folder = exported
    with StandIn() as hub:
        for _ in range(2):  # into a repository that is new, and into one that exists
            done = on_hub(hub, tmp_path, PUSH.format(folder=str(folder)))
            assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == f"{hub.url}/me/own"
        pushed = hub.files["me/own"]
        assert set(pushed) == {p.name for p in folder.iterdir()} - {"notes.txt"}
        assert hub.private == {"me/own": True}
        hub.private["me/own"] = False
        refused = on_hub(hub, tmp_path, PUSH.format(folder=str(folder)))
        assert refused.stderr.startswith("clip-jax: me/own: exists and is public; "), refused.stderr
        done = on_hub(hub, tmp_path, LOAD.format(texts=TEXTS))
        assert done.returncode == 0, done.stderr
    digest, ids = json.loads(done.stdout.splitlines()[-1])
    assert digest == weights.digest
    np.testing.assert_array_equal(ids, weights.tokenizer.encode(TEXTS))
    if layout == "open_clip":  # open_clip takes a tokenizer from the repository that its config names
        text_cfg = json.loads(pushed["open_clip_config.json"])["model_cfg"]["text_cfg"]
        assert text_cfg["hf_tokenizer_name"] == "me/own"
    card = pushed["README.md"].decode()
    where = {"open_clip": "hf-hub:me/own", "transformers": "me/own"}[layout]
    assert f'name = "{where}"' in card
    assert 'load_model("hf:me/own")' in card
    assert not [p for p in folder.iterdir() if TOKEN.encode() in p.read_bytes()]


@pytest.mark.thorough
def test_who_is_not_logged_in_is_told_so_in_one_line(exported, tmp_path):
    _, folder = exported
    with StandIn() as hub:
        done = on_hub(hub, tmp_path, PUSH.format(folder=str(folder)), token="hf_someone_else")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("clip-jax: me/own: ")
    assert "401" in line
    assert "HF_TOKEN" in line
    assert "hf_someone_else" not in line
    done = on_hub(hub, tmp_path, PUSH.format(folder=str(folder)))  # closed: nobody listens
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_what_is_no_export_is_refused(exported, tmp_path):
    _, folder = exported
    with raises_user_error(field=folder.parent, reason="holds no exported weights"):
        push(folder.parent, "me/own")
    with raises_user_error(field="own", reason="must have the form OWNER/NAME"):
        push(folder, "own")
    with raises_user_error(field="me/own..own", reason="Cannot have -- or .."):
        push(folder, "me/own..own")
    shutil.rmtree(folder)
    with raises_user_error(field=folder, reason="holds no exported weights"):
        push(folder, "me/own")
