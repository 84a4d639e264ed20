"""A setting that an objective or an encoder lacks is an error that names it."""

import pytest

from clip_jax.config import ModelConfig, RunConfig
from clip_jax.config.io import from_dict
from clip_jax.errors import ConfigError

from ..user_errors import raises_user_error


@pytest.mark.parametrize(
    ("fields", "attributes"),
    [
        ({"objective": "words"}, {"field": "model.objective", "value": "words"}),
        ({"prefix_tokens": 2}, {"field": "model.prefix_tokens", "value": 2}),
        ({"objective": "bag_of_words", "prefix_tokens": 2}, {"field": "model.prefix_tokens", "value": 2}),
        ({"vocab_chunk": 9}, {"field": "model.vocab_chunk", "value": 9}),
        ({"objective": "caption", "logit_bias": True}, {"field": "model.logit_bias", "value": True}),
        ({"objective": "caption", "init_temperature": 0.1}, {"field": "model.init_temperature", "value": 0.1}),
        ({"objective": "caption", "text": {"pool": "last"}}, {"field": "model.text.pool", "value": "last"}),
        (
            {"objective": "caption", "text": {"encoder": "bag_of_words"}},
            {"field": "model.text.encoder", "value": "bag_of_words"},
        ),
        (
            {
                "objective": "caption",
                "decoder": {"depth": 1},
                "embed_dim": 64,
                "image": {"pool": "attentional", "pool_heads": 2, "pool_queries": 3},
            },
            {"field": "model.decoder.depth", "value": 1},
        ),
        ({"objective": "bag_of_words", "text": {"depth": 3}}, {"field": "model.text.depth", "value": 3}),
        ({"text": {"encoder": "bag_of_words", "depth": 3}}, {"field": "model.text.depth", "value": 3}),
        ({"text": {"encoder": "words"}}, {"field": "model.text.encoder", "value": "words"}),
    ],
)
def test_model_config_setting_without_effect_is_refused(fields, attributes):
    with raises_user_error(ConfigError, **attributes):
        from_dict(ModelConfig, fields)


@pytest.mark.parametrize(
    ("fields", "attributes"),
    [
        ({"evals": {"predictive_score": "raw"}}, {"field": "evals.predictive_score", "value": "raw"}),
        ({"evals": {"prior_images": 9}}, {"field": "evals.prior_images", "value": 9}),
        ({"evals": {"predictive_score": "best"}}, {"field": "evals.predictive_score", "value": "best"}),
        (
            {"evals": {"retrieval_images": 9}, "model": {"objective": "caption"}},
            {"field": "evals.retrieval_images", "value": 9},
        ),
        (
            {"loss": {"chunk_size": 9}, "model": {"objective": "caption"}},
            {"field": "loss", "reason": "ignored with"},
        ),
        ({"microbatch_size": 64, "model": {"objective": "caption"}}, {"field": "microbatch_size", "value": 64}),
        (
            {"model": {"objective": "caption"}, "init_from": {"source": "x", "freeze_tower": "text"}},
            {"field": "init_from.freeze_tower", "value": "text"},
        ),
    ],
)
def test_run_config_setting_foreign_to_the_objective_is_refused(fields, attributes):
    with raises_user_error(ConfigError, **attributes):
        from_dict(RunConfig, fields)


def test_model_config_bag_of_words_accepts_any_width():
    assert from_dict(ModelConfig, {"text": {"encoder": "bag_of_words", "width": 30}}).text.width == 30
