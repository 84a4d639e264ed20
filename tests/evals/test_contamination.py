"""The overlap report, on folders."""

import numpy as np
import pytest
from PIL import Image

from clip_jax.cli.main import main
from clip_jax.data.images.eval_preprocess import Preprocess
from clip_jax.evals.contamination import overlap_report

from ..user_errors import raises_user_error


class Guess:
    name, digest, preprocess = "guess", "g", Preprocess(4)

    def embed_and_features(self, images):
        return np.tile([1.0, 0.0], (len(images), 1)), images

    def embed_texts(self, texts):
        return np.array([[1.0, 0.0] if "cat" in t else [0.0, 1.0] for t in texts])


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (6, 6, 3), np.uint8)).resize((50, 40)) for _ in range(8)]
    for split, chosen in (("train", range(6)), ("test", (4, 5, 6, 7))):
        for i in chosen:
            folder = tmp_path / split / split / ("cat" if i % 2 else "dog")
            folder.mkdir(parents=True, exist_ok=True)
            pictures[i].resize((32, 32) if split == "test" else (50, 40)).save(folder / f"{i}.png")
    return tmp_path / "train", tmp_path / "test"


def test_overlap_report_counts_and_names_duplicates(folders, capsys):
    text = overlap_report(*folders, Guess())
    assert "6 training pictures (0 unreadable), 4 for evaluation" in text
    assert "within 6 bits: 2 (50.00%" in text
    assert "4.png ~ " in text
    assert "all 0.5000, clean 0.5000, overlap 0.5000" in text
    assert main(["data", "overlap", *map(str, folders)]) == 0
    assert "2 (50.00%" in capsys.readouterr().out


def test_a_folder_with_captions_is_training_data(folders, tmp_path):
    train = tmp_path / "captioned" / "train"
    train.mkdir(parents=True)
    files = sorted(folders[0].rglob("*.png"))
    for file in files:
        (train / file.name).write_bytes(file.read_bytes())
    (train / "captions.csv").write_text("filename,caption\n" + "".join(f"{f.name},a\n{f.name},b\n" for f in files))
    lines = overlap_report(train.parent, folders[1]).splitlines()
    assert lines[:2] == overlap_report(*folders).splitlines()[:2]
    assert {line.rpartition("/")[2] for line in lines[2:]} == {"4.png", "5.png"}


def test_overlap_report_wrong_arguments_are_refused(folders, tmp_path):
    with raises_user_error(field=tmp_path / "none"):
        overlap_report(tmp_path / "none", folders[1])
    with raises_user_error(field="--max-distance", value=65):
        overlap_report(*folders, max_distance=65)
    next(folders[1].rglob("*.png")).write_bytes(b"broken")
    with raises_user_error(field=folders[1], reason="1 pictures of its test split"):
        overlap_report(*folders)
