"""What a model card says, and what it leaves out."""

import dataclasses

import pytest
import yaml

from clip_jax import flops
from clip_jax.config import DataConfig, InitConfig, OptimConfig, RunConfig
from clip_jax.pretrained.model_card import Training, model_card

from ..user_errors import raises_user_error

ROWS = [
    {"task": "/home/me/own_task", "metric": "accuracy", "value": 0.375, "low": 0.25, "high": 0.5, "examples": 1024,
     "chance": 0.1},
    {"task": "validation", "metric": "loss", "value": 2.5, "examples": None, "chance": None},
]  # fmt: skip
RECORDS = {
    "data": {"train": {"records": 12_345, "digest": "0"}}, "device": {"kind": "H100", "platform": "gpu", "count": 8},
    "versions": {"jax": "0.11.2", "python": "3.12"}, "wall_s": 5400.0,
}  # fmt: skip


@pytest.fixture
def run(tiny_run):
    data = DataConfig(source="webdataset", paths=("/home/me/pictures", "s3://mine/more"), val_fraction=0.1)
    return dataclasses.replace(tiny_run, data=data)


def rows_of(card):
    """Cells of the tables of a card, by their first cell."""
    lines = (line[2:-2].split(" | ") for line in card.splitlines() if line.startswith("| "))
    return {cells[0]: cells[1:] for cells in lines}


def test_the_card_tells_what_the_run_recorded(run):
    training = Training(run, 8, 1.2345e9, ROWS, RECORDS)
    card = model_card("own", run.model, "open_clip", license_id="mit", base_model="me/base", training=training)
    assert yaml.safe_load(card.split("---")[1]) == {
        "library_name": "open_clip", "pipeline_tag": "zero-shot-image-classification", "tags": ["clip", "clip_jax"],
        "license": "mit", "base_model": "me/base",
    }  # fmt: skip
    rows, count = rows_of(card), flops.params(run.model)
    assert rows["parameters"] == [f"{count.image:,}", f"{count.text:,}"]
    assert f"{count.total:,} parameters" in card
    assert rows["pairs seen"] == ["128 in 8 steps of 16"]
    assert rows["training pairs"] == ["12,345"]
    assert rows["training FLOPs"] == ["1.23e+09"]
    assert rows["devices"] == ["8 × H100"]
    assert rows["wall time"] == ["1.5 h"]
    assert rows["versions"] == ["jax 0.11.2"]
    assert rows["own_task"] == ["accuracy", "0.3750", "[0.250, 0.500]", "0.1000", "1,024"]
    assert rows["validation"] == ["loss", "2.5000", "", "", ""]
    assert '"peak_lr": 0.003' in card
    assert '"pictures"' in card
    assert "/home/me" not in card
    assert "s3://" not in card
    assert "wandb" not in card
    assert "create_model_and_transforms(name)" in card


def test_the_card_says_which_weights_are_averaged(run):
    plain = rows_of(model_card("own", run.model, "open_clip", training=Training(run, 8, 1e9)))
    assert plain["optimizer"] == ["adamw"]
    assert "weights" not in plain
    average = dataclasses.replace(run, optim=OptimConfig(optimizer="muon", ema_decay=0.99))
    rows = rows_of(model_card("own", run.model, "open_clip", training=Training(average, 8, 1e9)))
    assert rows["optimizer"] == ["muon"]
    assert rows["weights"] == ["an exponential moving average, decay 0.99"]


def test_what_is_not_known_is_left_out(run):
    started = dataclasses.replace(run, init_from=InitConfig("/home/me/runs/first", towers="image"))
    card = model_card("own", run.model, "transformers", training=Training(started, 4, 1e9))
    assert set(yaml.safe_load(card.split("---")[1])) == {"library_name", "pipeline_tag", "tags"}
    rows = rows_of(card)
    assert rows["pairs seen"] == ["64 in 4 steps of 8 (not finished) of 16"]
    assert rows["initial weights"] == ["first (image tower)"]
    assert not {"training pairs", "devices", "wall time", "versions"} & set(rows)
    assert "Evaluation" not in card
    assert "AutoModel.from_pretrained(name)" in card
    converted = model_card("b32", RunConfig().model, "open_clip", source="openai/ViT-B-32", base_model="timm/b32")
    assert "was converted from `openai/ViT-B-32`" in converted
    assert "## Training" not in converted
    assert "## Config" not in converted


def test_a_license_is_a_name():
    with raises_user_error(field="--license", value="mine: all"):
        model_card("own", RunConfig().model, "open_clip", license_id="mine: all")
