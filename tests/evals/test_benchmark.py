"""The benchmark with a model that sees colors."""

import dataclasses
import io
import json
import re
import tarfile
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clip_jax.data.images.eval_preprocess import Preprocess
from clip_jax.data.labeled.open import LabeledSplit, open_labeled
from clip_jax.data.sources.base import BrokenRecord
from clip_jax.evals import benchmark as transfer
from clip_jax.evals import results

from ..user_errors import raises_user_error

TASKS = ("zeroshot_classification",)
COLORS = {"red": (220, 20, 20), "green": (20, 220, 20), "blue": (20, 20, 220)}


class Colors:
    """Embeds a picture by its mean color and a text by the color word in it."""

    name, digest, precision, preprocess = "colors", "abc", "float32", Preprocess(4)
    seen = 0

    def embed_and_features(self, images):
        self.seen += len(images)
        features = images.reshape(len(images), -1, 3).mean(axis=1) / 255
        return features / np.linalg.norm(features, axis=1, keepdims=True), features

    def embed_texts(self, texts):
        colors = [next((c for w, c in COLORS.items() if w in t), (1, 1, 1)) for t in texts]
        colors = np.array(colors, float)
        return colors / np.linalg.norm(colors, axis=1, keepdims=True)


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def picture(color, rng):
    array = np.clip(np.array(color) + rng.integers(-20, 20, (6, 6, 3)), 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def suite(tmp_path):
    rng = np.random.default_rng(0)
    root = tmp_path / "sets"
    for split, count in (("train", 12), ("test", 9)):
        members = []
        for i in range(count):
            word = list(COLORS)[i % 3]
            members += [(f"{split}{i}.png", picture(COLORS[word], rng)), (f"{split}{i}.cls", str(i % 3).encode())]
        write_tar(root / "colors" / split / "0.tar", members)
    (root / "colors" / "classnames.txt").write_text("\n".join(COLORS))
    pairs = [m for i, w in enumerate(COLORS) for m in
             ((f"p{i}.png", picture(COLORS[w], rng)), (f"p{i}.txt", f"a {w} thing\nso {w}".encode()))]  # fmt: skip
    write_tar(root / "pairs" / "test" / "0.tar", pairs)
    path = tmp_path / "suite.json"
    sets = [{"name": "colors", "path": "colors"}, {"name": "pairs", "path": "pairs", "kind": "retrieval"},
            {"name": "absent", "path": "absent"}]  # fmt: skip
    path.write_text(json.dumps({"data": str(root), "sets": sets}))
    return path


FIRST = ["colors", "zeroshot_classification"]


@pytest.mark.thorough
def test_run_suite_runs_every_task_and_writes_its_files(suite, tmp_path, caplog):
    model, lines = Colors(), []
    caplog.set_level("INFO", "clip_jax")
    rows = transfer.run_suite(model, str(suite), tmp_path / "out", echo=lines.append)
    assert [line for line in lines if "absent" in line]
    assert f"2 of 3 sets are there; writing {tmp_path / 'out'}" in caplog.messages
    by_task = {}
    for r in rows:
        by_task.setdefault((r["dataset"], r["task"]), []).append(r["metrics"])
    assert by_task["colors", "zeroshot_classification"][0]["acc1"] == 1.0
    assert by_task["colors", "zeroshot_classification"][0]["acc5"] is None
    probe, *shots = by_task["colors", "linear_probe"]
    assert probe["lp_acc1"] == 1.0
    assert probe["lp_acc1_low"] < 1.0
    assert [s["fewshot_k"] for s in shots] == [1, 2, 4]
    assert by_task["colors", "knn"][0]["knn_acc1"] == 1.0
    assert by_task["pairs", "zeroshot_retrieval"][0]["text_retrieval_recall@1"] == 1.0
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    assert {"dataset", "model", "pretrained", "task", "language", "model_fullname", "acc1", "lp_acc1"} <= set(table)
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == rows
    text = results.table(rows)
    assert "4-shot probe" in text
    accuracy = next(line.split() for line in text.splitlines() if line.split()[:3] == [*FIRST, "acc1"])
    assert accuracy[-3:] == ["0.3333", "3", "9"]
    assert "text_retrieval_recall@1" in text
    assert not list((tmp_path / "out").rglob("*partial*"))


def test_run_suite_resumes_and_measures_changed_sets_again(suite, tmp_path):
    model = Colors()
    first = transfer.run_suite(model, str(suite), tmp_path / "out", echo=lambda _: None)
    count = model.seen
    assert count == 12 + 9 + 3  # each split is embedded once for all its tasks
    again = transfer.run_suite(model, str(suite), tmp_path / "out", echo=lambda _: None)
    assert again == first
    assert model.seen == count
    (tmp_path / "out" / "colors_knn.json").unlink()  # as if interrupted: features are still there
    transfer.run_suite(model, str(suite), tmp_path / "out", echo=lambda _: None)
    assert model.seen == count
    for field, value in (("digest", "def"), ("precision", "bfloat16"), ("preprocess", Preprocess(4, "squash"))):
        other = Colors()
        setattr(other, field, value)
        transfer.run_suite(other, str(suite), tmp_path / "out", tasks=("knn",), echo=lambda _: None)
        assert other.seen == 12 + 9, field


def test_decoded_ahead_gives_the_pieces_in_order_before_they_are_asked_for(monkeypatch):
    read, tasks = [], [np.arange(i, i + 5) for i in range(0, 50, 5)]

    def picture(i):
        read.append(i)
        return np.full((2, 2, 3), i, np.uint8)

    split = LabeledSplit(np.zeros(50, np.int32), picture, str)
    decoded = transfer.decoded_ahead(split, lambda image: image, tasks)
    first = next(decoded)
    end = time.monotonic() + 30
    while len(read) < 15 and time.monotonic() < end:
        time.sleep(0.001)
    assert sorted(read) == list(range(15)), "two pieces ahead, and no more"
    joined = np.concatenate([first, *decoded])
    np.testing.assert_array_equal(joined, split.pixels(lambda image: image, np.arange(50)))


def test_decoded_ahead_names_the_first_broken_image():
    def picture(i):
        if i in (7, 9, 31):
            raise BrokenRecord("cut short")
        return np.zeros((2, 2, 3), np.uint8)

    split = LabeledSplit(np.zeros(50, np.int32), picture, lambda i: f"picture {i}")
    with raises_user_error(BrokenRecord, source="picture 7"):
        list(transfer.decoded_ahead(split, lambda image: image, [np.arange(0, 30), np.arange(30, 50)]))


def test_sets_with_the_same_prompts_embed_them_once(suite, tmp_path, monkeypatch):
    asked = []
    embed = Colors.embed_texts
    monkeypatch.setattr(Colors, "embed_texts", lambda self, texts: asked.append(texts) or embed(self, texts))
    bench = transfer.Benchmark(Colors(), tmp_path / "out")
    texts = [["a red"], ["a blue", "b blue"]]
    np.testing.assert_array_equal(bench.classifier(texts), transfer.classifier(Colors(), texts))
    np.testing.assert_array_equal(bench.classifier(texts), transfer.classifier(Colors(), texts))
    bench.classifier([["a red"], ["a blue"]])
    assert asked.count(["a red", "a blue", "b blue"]) == 3, "two of them by the plain form"
    assert asked.count(["a red", "a blue"]) == 1


def test_run_suite_set_with_only_runs_those_tasks(suite, tmp_path):
    values = json.loads(suite.read_text())
    values["sets"] = [{**values["sets"][0], "only": ["knn"]}]
    suite.write_text(json.dumps(values))
    rows = transfer.run_suite(Colors(), str(suite), tmp_path / "out", echo=lambda _: None)
    assert [r["task"] for r in rows] == ["knn"]


def test_read_results_reads_both_written_formats(suite, tmp_path):
    rows = transfer.run_suite(Colors(), str(suite), tmp_path / "out", echo=lambda _: None)
    read = results.read_results(tmp_path / "out" / "results.json")
    pd.testing.assert_frame_equal(read, results.read_results(tmp_path / "out" / "results.csv"), check_dtype=False)
    assert list(read["task"]) == ["zero_shot", "linear_probe", *["few_shot"] * 3, "knn"]
    assert list(read["shots"]) == [0, 0, 1, 2, 4, 0]
    assert read["examples"].dropna().unique().tolist() == [9]
    assert read["chance"].dropna().tolist() == [1 / 3] * 3
    probe = next(r["metrics"] for r in rows if r["task"] == "linear_probe")
    assert tuple(read.loc[1, ["value", "low", "high"]]) == (
        probe["lp_acc1"],
        probe["lp_acc1_low"],
        probe["lp_acc1_high"],
    )
    (tmp_path / "other.json").write_text('{"sets": []}')
    for path in ("other.json", "nothing.csv"):
        with raises_user_error(field=tmp_path / path):
            results.read_results(tmp_path / path)


def test_run_suite_with_a_wrong_setting_names_it(suite, tmp_path):
    def refused(attributes, name=str(suite), **options):
        with raises_user_error(**attributes):
            transfer.run_suite(Colors(), name, tmp_path / "x", echo=lambda _: None, **options)

    refused({"field": "--tasks", "value": "probe"}, tasks=("probe",))
    refused({"field": "--suite", "value": "nothing.json", "hint": "paper27, poster"}, name="nothing.json")
    refused({"field": "--suite", "value": "paper27", "reason": "--data"}, name="paper27")
    refused({"field": "--suite", "value": "paper27", "reason": "none of its 27"}, name="paper27", data=str(tmp_path))
    bad = tmp_path / "bad.json"
    of_set = {"source": f"{bad}: set 'a'"}
    for change, attributes in (
        ({"sets": [{"name": "a", "path": "a", "metrics": "x"}]}, of_set | {"field": "metrics"}),
        ({"sets": [{"name": "a", "path": "a", "kind": "audio"}]}, of_set | {"field": "kind", "value": "audio"}),
        ({"sets": [{"name": "a", "path": "a", "metric": "f1"}]}, of_set | {"field": "metric", "value": "f1"}),
        ({"sets": [{"name": "a", "path": "a"}, {"name": "a", "path": "b"}]}, {"field": bad, "reason": "name"}),
        ({"sets": [{"name": "a"}]}, {"field": bad, "reason": "not a suite"}),
        (
            {"sets": [{"name": "a", "path": "a", "only": ["zeroshot_retrieval"]}]},
            of_set | {"field": "only", "value": "zeroshot_retrieval"},
        ),
        ({"sets": [], "speed": 1}, {"source": bad, "field": "speed"}),
    ):
        bad.write_text(json.dumps(change))
        refused(attributes, name=str(bad))


def test_benchmark_metrics_follow_the_paper():
    scores = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    labels = np.array([1, 0, 0])
    assert results.benchmark_metrics(scores, labels, "roc_auc")["roc_auc"] == 1.0
    many = np.eye(8) + 0.1 * np.arange(8)[None]
    accuracies = results.benchmark_metrics(many, np.array([1, 0, 2, 3, 4, 5, 6, 7]), "mean_top1_top5")
    assert accuracies["mean_acc1_acc5"] == pytest.approx((accuracies["acc1"] + accuracies["acc5"]) / 2)
    never = results.benchmark_metrics(np.arange(7.0)[None].repeat(2, axis=0), np.array([0, 1]), "mean_top1_top5")
    assert (never["acc5"], never["mean_acc1_acc5"]) == (0.0, 0.0)
    assert results.benchmark_metrics(np.eye(5), np.arange(5))["acc5"] == 1.0  # CLIP_benchmark leaves it out below five
    precision = results.benchmark_metrics(scores, labels, "11point_map")
    assert precision["mean_average_precision_11point"] == pytest.approx(1.0)
    assert precision["acc1"] == pytest.approx(2 / 3)


def folders_of(root, names):
    for name in names:
        (root / "test" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / "test" / name / "0.png")
    return root


EUROSAT = {
    "AnnualCrop": "annual crop land", "Forest": "forest", "HerbaceousVegetation": "brushland or shrubland",
    "Highway": "highway or road", "Industrial": "industrial buildings or commercial buildings",
    "Pasture": "pasture land", "PermanentCrop": "permanent crop land",
    "Residential": "residential buildings or homes or apartments", "River": "river", "SeaLake": "lake or sea",
}  # fmt: skip


def test_class_prompts_pair_folders_by_name(tmp_path):
    data = open_labeled(folders_of(tmp_path / "eurosat", EUROSAT))
    prompts, metric = transfer.class_prompts(
        transfer.BenchmarkSet("e", str(tmp_path / "eurosat"), prompts="eurosat"), data
    )
    assert metric == "accuracy"
    assert [p[0] for p in prompts] == [f"a centered satellite photo of {name}." for name in EUROSAT.values()]


def test_class_prompts_pair_folders_that_lack_a_slash(tmp_path):
    classes = transfer.prompts.prompt_set("stanford_cars").classes
    data = open_labeled(folders_of(tmp_path / "cars", [c.replace("/", "-") for c in classes]))
    prompts, _ = transfer.class_prompts(
        transfer.BenchmarkSet("c", str(tmp_path / "cars"), prompts="stanford_cars"), data
    )
    for class_name, of_class in zip(data.class_names, prompts, strict=True):
        assert class_name.replace("C-V", "C/V") in of_class[0]


def test_class_prompts_numbered_folders_are_matched_by_number_and_reported(tmp_path):
    published, lines = transfer.prompts.prompt_set("gtsrb"), []
    data = open_labeled(folders_of(tmp_path / "gtsrb", map(str, range(43))))
    prompts, _ = transfer.class_prompts(
        transfer.BenchmarkSet("g", str(tmp_path / "gtsrb"), prompts="gtsrb"), data, lines.append
    )
    assert [p[0] for p in prompts] == [published.prompts()[int(n)][0] for n in data.class_names]
    assert len(lines) == 1
    assert "gtsrb" in lines[0]


def test_class_prompts_unmatched_classes_are_refused_unless_paired_by_place(tmp_path):
    data = open_labeled(folders_of(tmp_path / "s", ["negative", "good"]))
    entry = transfer.BenchmarkSet("s", str(tmp_path / "s"), prompts="rendered_sst2")
    with raises_user_error(field="pair", value="name", reason="good"):
        transfer.class_prompts(entry, data)
    asked = dataclasses.replace(entry, pair="place")
    assert len(transfer.class_prompts(asked, data)[0]) == 2
    suite = tmp_path / "suite.json"
    suite.write_text(json.dumps({"sets": [{"name": "s", "path": "s", "pair": "luck"}]}))
    with raises_user_error(source=f"{suite}: set 's'", field="pair", value="luck"):
        transfer.read_suite(str(suite), None)


def test_class_prompts_unnamed_class_keeps_its_number_and_is_reported(tmp_path):
    write_tar(
        tmp_path / "s" / "test" / "0.tar", [("a.png", picture((0, 0, 0), np.random.default_rng(0))), ("a.cls", b"4")]
    )
    (tmp_path / "s" / "classnames.txt").write_text("near\nby\n\nfar\nvery far\n")
    data, lines = open_labeled(tmp_path / "s"), []
    prompts, _ = transfer.class_prompts(transfer.BenchmarkSet("s", str(tmp_path / "s")), data, lines.append)
    assert data.split("test").labels.tolist() == [4]
    assert [p[0] for p in prompts][2:4] == ["a photo of a .", "a photo of a far."]
    assert lines == ["s: classes without a name: 2"]


@pytest.mark.thorough
def test_run_suite_multi_label_set_gives_mean_average_precision(tmp_path):
    rng, root = np.random.default_rng(0), tmp_path / "voc"
    for split, count in (("train", 24), ("val", 8), ("test", 12)):
        members = []
        for i in range(count):
            truth = np.array([i % 2, i % 3 == 0, i % 4 < 2])
            color = np.where(truth, 200, 10)
            out = io.BytesIO()
            np.save(out, truth.astype(np.int64))
            members += [(f"{split}{i}.png", picture(color, rng)), (f"{split}{i}.npy", out.getvalue())]
        write_tar(root / split / "0.tar", members)
    (root / "classnames.txt").write_text("\n".join(COLORS))
    (root / "dataset_type.txt").write_text("multilabel\n")
    suite = tmp_path / "suite.json"
    entry = {"name": "voc", "path": "voc", "metric": "11point_map", "val_split": "val"}
    suite.write_text(json.dumps({"sets": [entry]}))
    lines, model = [], Colors()
    rows = transfer.run_suite(model, str(suite), tmp_path / "out", echo=lines.append)
    by_task = {r["task"]: r["metrics"] for r in rows}
    assert set(by_task) == {"zeroshot_classification", "linear_probe", "knn"}
    assert lines == ["voc: multi-label, so no few_shot"]
    assert by_task["linear_probe"]["lp_mean_average_precision_11point"] == pytest.approx(1.0)
    assert by_task["knn"]["knn_mean_average_precision"] > 0.75  # 20 of 24 vote
    assert 0.7 < by_task["zeroshot_classification"]["mean_average_precision"] <= 1.0
    assert "acc1" not in by_task["zeroshot_classification"]
    assert model.seen == 24 + 8 + 12  # the set's own validation split is read for the probe
    assert "lp_mean_average_precision_11point" in results.table(rows)


def test_run_suite_a_bad_caption_of_a_retrieval_set_is_named(suite, tmp_path):
    rng = np.random.default_rng(0)
    members = [("s0.png", picture((9, 9, 9), rng)), ("s0.txt", b"one"), ("s1.png", picture((9, 9, 9), rng))]
    write_tar(tmp_path / "sets" / "pairs" / "test" / "0.tar", [*members, ("s1.txt", b" \n")])
    with raises_user_error(field=f"{tmp_path}/sets/pairs/test/0.tar:s1"):
        transfer.run_suite(Colors(), str(suite), tmp_path / "out", tasks=("zeroshot_retrieval",))


def test_run_suite_a_damaged_cache_of_features_is_made_again(suite, tmp_path):
    def measured():
        return transfer.run_suite(Colors(), str(suite), tmp_path / "out", tasks=("zeroshot_retrieval",))

    first = measured()
    for file in (tmp_path / "out" / "features").iterdir():
        file.write_bytes(file.read_bytes()[:-30])
    (tmp_path / "out" / "pairs_zeroshot_retrieval.json").unlink()
    assert measured() == first


@pytest.mark.parametrize("split", ["train", "test"])
def test_read_suite_val_split_equal_to_another_split_is_refused(suite, tmp_path, split):
    values = json.loads(suite.read_text())
    values["sets"][0]["val_split"] = split
    suite.write_text(json.dumps(values))
    with raises_user_error(field="val_split", value=split):
        transfer.read_suite(str(suite), None)


def test_run_suite_no_probe_of_the_split_it_was_trained_on(suite, tmp_path):
    values, lines = json.loads(suite.read_text()), []
    values["sets"][0]["train_split"] = "test"
    suite.write_text(json.dumps(values))
    rows = transfer.run_suite(Colors(), str(suite), tmp_path / "out", tasks=("knn",), echo=lines.append)
    assert rows == []
    assert [line for line in lines if line.endswith("no knn")]


class Broken(Colors):
    """Embeds one picture, or every text, as what is no number."""

    def __init__(self, what):
        self.what = what

    def embed_and_features(self, images):
        outputs = super().embed_and_features(images)
        if self.what in ("embedding", "features"):
            outputs[self.what == "features"][4] = np.nan
        return outputs

    def embed_texts(self, texts):
        return super().embed_texts(texts) * (np.inf if self.what == "texts" else 1)


@pytest.mark.parametrize(
    ("what", "field", "value"),
    [("embedding", "embedding", "0.tar:test4"), ("features", "features", "0.tar:test4"),
     ("texts", "embedding", "a photo of a red.")],
)  # fmt: skip
def test_run_suite_non_finite_embedding_names_the_image(suite, tmp_path, what, field, value):
    with raises_user_error(field=field) as error:
        transfer.run_suite(Broken(what), str(suite), tmp_path / "out", tasks=TASKS, echo=lambda _: None)
    assert value in error.value.source
    assert not list((tmp_path / "out").glob("colors_*.json"))


def test_run_suite_cached_non_finite_features_are_refused(suite, tmp_path):
    out = tmp_path / "out"
    transfer.run_suite(Colors(), str(suite), out, tasks=TASKS, echo=lambda _: None)
    for file in (out / "features").glob("*.npz"):
        values = dict(np.load(file))
        values["embeddings"][0] = np.nan
        np.savez(file, **values)
    for file in out.glob("*_*.json"):
        file.unlink()
    with raises_user_error(field="embeddings"):
        transfer.run_suite(Colors(), str(suite), out, tasks=TASKS, echo=lambda _: None)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "../../../escaped/evil"}, "name"), ({"name": "/tmp/evil"}, "name"), ({"name": 3}, "name"),
        ({"train_split": "../other"}, "train_split"), ({"test_split": "a/b"}, "test_split"), ({"kind": []}, "kind"),
    ],
)  # fmt: skip
def test_read_suite_names_that_leave_their_folder_are_refused(tmp_path, change, field):
    path = tmp_path / "suite.json"
    path.write_text(json.dumps({"sets": [{"name": "a", "path": "a"} | change]}))
    with raises_user_error(field=re.compile(f"{field}$")):
        transfer.read_suite(str(path), str(tmp_path))


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[]", '{"sets": 3}', '{"sets": [3]}', '{"sets": [{"path": [], "name": "a"}]}']
)
def test_read_suite_damaged_is_one_line(tmp_path, text):
    (tmp_path / "suite.json").write_text(text)
    with raises_user_error(field=tmp_path / "suite.json"):
        transfer.read_suite(str(tmp_path / "suite.json"), str(tmp_path))
