"""Zero-shot scores of predictive models, against a plain twin."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from flax import nnx

from clip_jax import flops
from clip_jax.config import MeshConfig
from clip_jax.data.images.train_transforms import normalize
from clip_jax.data.labeled.classification import ClassificationSet
from clip_jax.data.open import open_source
from clip_jax.data.pipeline.loader import learn_tokenizer
from clip_jax.distributed.mesh import make_mesh
from clip_jax.evals import in_training as suite
from clip_jax.evals.predictive import PredictiveEvaluation, spelled_words, word_weights
from clip_jax.models.clip import build, init_params

MESH = MeshConfig()


def task_of(names, templates, count=5):
    images = np.random.default_rng(1).integers(0, 255, (count, 32, 32, 3), np.uint8)
    return ClassificationSet("t", images, np.arange(count, dtype=np.int32) % len(names), names, templates)


TASK = task_of(("red", "dark blue", "qqzzj"), ("a {c} thing", "this is {c}."))


@functools.cache
def prepared(run, mesh_config):
    mesh = make_mesh(mesh_config)
    built = build(run.model, mesh)
    params = jax.jit(lambda: init_params(run.model, 0), out_shardings=built.shardings)()
    # a fresh model says nearly the same of everything; make it opinionated
    params = jax.tree.map(lambda x: x * 3, params)
    tokenizer = learn_tokenizer(run, open_source(run.data, "train", 32))
    held_out = open_source(run.data, "val", 32)
    return PredictiveEvaluation(run, built, mesh, held_out, tokenizer, [TASK]), params, built, tokenizer


def log_softmax(logits):
    wide = np.asarray(logits, np.float64)
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))


@pytest.mark.thorough
def test_caption_scores_are_log_likelihoods_of_whole_prompts(run_of):
    evaluation, params, built, tokenizer = prepared(run_of("caption"), MESH)
    logits = jax.jit(lambda image, tokens: nnx.merge(built.graphdef, params).logits(normalize(image), tokens))

    def by_hand(images):  # one picture, one class, one template at a time, at the full context length
        scores = np.zeros((len(images), 3))
        for n, image in enumerate(images):
            for c, name in enumerate(TASK.class_names):
                for template in TASK.templates:
                    tokens = tokenizer.encode([template.replace("{c}", name)])
                    logs = log_softmax(logits(image[None], tokens))[0]
                    logs_of_text = [logs[t, token] for t, token in enumerate(tokens[0, 1:]) if token]
                    scores[n, c] += sum(logs_of_text) / len(TASK.templates)
        return scores

    scores = evaluation.caption_scores(params)(TASK, evaluation.texts[0])
    raw = by_hand(TASK.images)
    np.testing.assert_allclose(scores["raw"], raw, rtol=1e-4)
    np.testing.assert_allclose(scores["prior"], raw - by_hand(evaluation.unlabeled).mean(axis=0), rtol=1e-3, atol=1e-3)
    assert np.ptp(raw) > 1
    assert evaluation.texts[0].shape[1] < 16, "no place after the last end of text is computed"


@pytest.mark.thorough
def test_bag_of_words_scores_average_known_words(run_of):
    evaluation, params, built, tokenizer = prepared(run_of("bag_of_words"), MESH)
    model = nnx.merge(built.graphdef, params)

    def logs(images):
        return log_softmax(model.logits(normalize(images), np.zeros((len(images), 16), np.int32)))[:, 0]

    seen, prior = logs(TASK.images), np.log(np.exp(logs(evaluation.unlabeled)).mean(axis=0))
    words = {w: [i for i in tokenizer.encode([w])[0, 1:] if 0 < i < 399] for w in ("red", "blue")}
    scores = evaluation.word_scores(params)(TASK, evaluation.texts[0])
    for variant, table in (("raw", seen), ("prior", seen - prior)):
        for c, word in enumerate(("red", "blue")):  # "dark" is in no caption, so its class is its other word
            np.testing.assert_allclose(scores[variant][:, c], table[:, words[word]].mean(axis=1), rtol=1e-4, atol=1e-5)
        assert np.isneginf(scores[variant][:, 2]).all(), "a class without a known word is never predicted"


def test_word_weights_average_over_words_and_tokens(tiny_run):
    tokenizer = learn_tokenizer(tiny_run, open_source(tiny_run.data, "train", 32))
    known = spelled_words(["A large red, red thing.", "a small object"], tokenizer)
    assert len(known) == 6
    one, two = ([i for i in tokenizer.encode([w])[0, 1:] if 0 < i < 399] for w in ("red", "small"))
    weights = word_weights(("red (small)", "Red dark", "dark", "", "redred"), tokenizer, known)
    np.testing.assert_allclose(weights.sum(axis=1), [1, 1, 0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose([weights[0, one].sum(), weights[0, two].sum(), weights[1, one].sum()], [0.5, 0.5, 1])


@pytest.mark.thorough
@pytest.mark.parametrize("objective", ["caption", "bag_of_words"])
def test_predictive_evaluation_reports_both_variants_and_its_loss(run_of, objective):
    run = run_of(objective)
    evaluation, params, built, _ = prepared(run, MESH)
    rows, other = evaluation(params)
    value = {r["metric"]: r["value"] for r in rows}
    assert set(value) >= {"top1", "mean_per_class", "top1_raw", "top1_prior"}
    assert value["top1"] == value["top1_prior"], "the default"
    assert value.get("uncovered_classes") == (1.0 if objective == "bag_of_words" else None)
    (loss,) = other
    assert (loss["task"], loss["metric"], loss["examples"]) == ("validation", f"{objective}_loss", 32)
    model, pairs = (
        nnx.merge(built.graphdef, params),
        (normalize(evaluation.pairs["images"]), evaluation.pairs["tokens"]),
    )
    prediction, logs = model(*pairs), log_softmax(model.logits(*pairs))
    picked, weights = np.take_along_axis(logs, np.asarray(prediction.labels), axis=-1), np.asarray(prediction.weights)
    assert loss["value"] == pytest.approx(-(picked * weights).sum() / weights.sum(), rel=1e-4)
    summary = suite.summary_rows(rows, [TASK])
    assert [r["metric"] for r in summary] == ["error", "error_raw", "error_prior"]
    assert summary[0]["value"] == 1 - value["top1_prior"]
    raw = dataclasses.replace(run, evals=dataclasses.replace(run.evals, predictive_score="raw"))
    rows, _ = prepared(raw, MESH)[0](params)
    value = {r["metric"]: r["value"] for r in rows}
    assert value["top1"] == value["top1_raw"]


@pytest.mark.thorough
@pytest.mark.parametrize("objective", ["caption", "bag_of_words"])
def test_predictive_scores_are_equal_on_any_mesh(run_of, objective):
    run = run_of(objective)
    evaluation, params, *_ = prepared(run, MESH)
    other, spread, *_ = prepared(run, MeshConfig(data=2, fsdp=4))
    name = "caption_scores" if objective == "caption" else "word_scores"
    a, b = (getattr(e, name)(p)(TASK, e.texts[0]) for e, p in ((evaluation, params), (other, spread)))
    for variant in ("raw", "prior"):
        np.testing.assert_allclose(a[variant], b[variant], rtol=1e-4, atol=1e-4)


def test_predictive_evaluation_flops_count_every_forward_pass(run_of):
    run = run_of("caption")
    evaluation, *_ = prepared(run, MESH)
    model, per_pair = run.model, flops.flops_per_sample(run.model)
    length = evaluation.texts[0].shape[1]
    head = flops.caption_flops(model, length)
    alone = per_pair.total - flops.caption_flops(model, 16)  # image tower and prefix
    assert evaluation.flops == 32 * per_pair.total + (5 + 4) * alone + (5 + 4) * 6 * head
    assert flops.caption_flops(model, 16) > head
    bag = run_of("bag_of_words")
    assert prepared(bag, MESH)[0].flops == (32 + 5 + 4) * flops.flops_per_sample(bag.model).total
