"""Names to files, with a hub that is a folder."""

import pytest

from clip_jax.pretrained.names import find, repository, table

from ..user_errors import raises_user_error


@pytest.fixture
def hub(tmp_path):
    def put(repo, *names):
        folder = tmp_path / repo
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / name).write_text("{}")

    def fetch(repo, file):
        fetch.asked.append(f"{repo}/{file}")
        path = tmp_path / repo / file
        if not path.is_file():
            raise FileNotFoundError(file)
        return path

    fetch.asked, fetch.put = [], put
    return fetch


def test_table_maps_every_published_name_to_a_repository():
    openai = table()["openai"]
    assert len(openai) == 9
    assert all(r.startswith("timm/") and r.endswith(".openai") for r in openai.values())
    assert all(r.count("/") == 1 for kind in table().values() for r in kind.values())
    assert repository("openai/ViT-B-32") == "timm/vit_base_patch32_clip_224.openai"
    assert repository("open_clip:ViT-B-16/laion2b_s34b_b88k") == "laion/CLIP-ViT-B-16-laion2B-s34B-b88K"
    assert repository("hf:openai/clip-vit-base-patch32") == "openai/clip-vit-base-patch32"
    assert repository("some/path") is None


def test_find_prefers_open_clip_files(hub):
    repo = "timm/vit_base_patch32_clip_224.openai"
    hub.put(repo, "open_clip_config.json", "open_clip_model.safetensors", "config.json", "model.safetensors")
    files = find("openai/ViT-B-32", hub)
    assert (files.config.name, files.weights.name) == ("open_clip_config.json", "open_clip_model.safetensors")
    hub.put("me/clip", "config.json", "open_clip_model.safetensors", "model.safetensors", "tokenizer.json")
    files = find("hf:me/clip", hub)
    assert (files.config.name, files.weights.name) == ("config.json", "model.safetensors")
    assert files.tokenizer.name == "tokenizer.json"
    hub.put("me/clip", "clip_jax_tokenizer.json")
    assert find("hf:me/clip", hub).tokenizer.name == "clip_jax_tokenizer.json"


def test_find_never_requests_pickles(hub):
    hub.put("me/old", "open_clip_config.json", "open_clip_pytorch_model.bin")
    with raises_user_error(field="hf:me/old", reason="safetensors"):
        find("hf:me/old", hub)
    assert not [name for name in hub.asked if name.endswith(".bin")]


@pytest.mark.parametrize(
    ("name", "attribute", "part"),
    [
        ("openai/ViT-B-31", "hint", "openai/ViT-B-32"),
        ("open_clip:ViT-B-16/laion", "hint", "open_clip:ViT-B-16/"),
        ("hf:clip", "reason", "hf:OWNER/NAME"),
        ("nowhere", "hint", "openai/NAME"),
        ("hf:me/empty", "reason", "open_clip_config.json nor config.json"),
    ],
)
def test_find_of_an_unknown_name_lists_the_known(hub, name, attribute, part):
    with raises_user_error(**{"field": name, attribute: part}):
        find(name, hub)


def test_find_accepts_folders_and_files(tmp_path, golden):
    files = find(str(golden / "hf_clip"))
    assert (files.weights.name, files.config.name) == ("model.safetensors", "config.json")
    assert find(str(golden / "hf_clip" / "model.safetensors")) == files
    with raises_user_error(field=tmp_path, reason="no weights"):
        find(str(tmp_path))
