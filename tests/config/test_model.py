"""A setting that an objective or an encoder lacks is an error that names it."""

import pytest

from clip_jax.config import ModelConfig, RunConfig
from clip_jax.config.io import from_dict
from clip_jax.errors import ConfigError


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"objective": "words"}, r"model.objective='words': must be one of contrastive, caption, bag_of_words"),
        ({"prefix_tokens": 2}, "model.prefix_tokens=2: ignored with model.objective='contrastive'"),
        ({"objective": "bag_of_words", "prefix_tokens": 2}, "model.prefix_tokens=2: ignored with .*'bag_of_words'"),
        ({"vocab_chunk": 9}, "model.vocab_chunk=9: ignored with model.objective='contrastive'"),
        ({"objective": "caption", "logit_bias": True}, "model.logit_bias=True: ignored with model.objective='caption'"),
        ({"objective": "caption", "init_temperature": 0.1}, "model.init_temperature=0.1: ignored"),
        ({"objective": "caption", "text": {"pool": "last"}}, "model.text.pool='last': ignored with .*'caption'"),
        ({"objective": "caption", "text": {"encoder": "bag_of_words"}}, "model.text.encoder='bag_of_words': ignored"),
        ({"objective": "caption", "decoder": {"depth": 1}, "embed_dim": 64,
          "image": {"pool": "attentional", "pool_heads": 2, "pool_queries": 3}}, "model.decoder.depth=1: ignored"),
        ({"objective": "bag_of_words", "text": {"depth": 3}}, "model.text.depth=3: ignored with .*'bag_of_words'"),
        ({"text": {"encoder": "bag_of_words", "depth": 3}}, "model.text.depth=3: ignored with model.text.encoder="),
        ({"text": {"encoder": "words"}}, "model.text.encoder='words': must be one of transformer, bag_of_words"),
    ],
)  # fmt: skip
def test_a_setting_without_effect_is_named(fields, said):
    with pytest.raises(ConfigError, match=said):
        from_dict(ModelConfig, fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"evals": {"predictive_score": "raw"}}, "evals.predictive_score='raw': ignored with .*'contrastive'"),
        ({"evals": {"prior_images": 9}}, "evals.prior_images=9: ignored"),
        ({"evals": {"predictive_score": "best"}}, "evals.predictive_score='best': must be one of raw, prior"),
        ({"evals": {"retrieval_images": 9}, "model": {"objective": "caption"}}, "evals.retrieval_images=9: ignored"),
        (
            {"loss": {"chunk_size": 9}, "model": {"objective": "caption"}},
            "loss: ignored with model.objective='caption'",
        ),
        ({"microbatch_size": 64, "model": {"objective": "caption"}}, "microbatch_size=64: not with .*vocab_chunk"),
        (
            {"model": {"objective": "caption"}, "init_from": {"source": "x", "freeze_tower": "text"}},
            "only the image tower",
        ),
    ],
)
def test_a_run_knows_what_its_objective_measures(fields, said):
    with pytest.raises(ConfigError, match=said):
        from_dict(RunConfig, fields)


def test_a_bag_of_words_needs_no_heads():
    assert from_dict(ModelConfig, {"text": {"encoder": "bag_of_words", "width": 30}}).text.width == 30
