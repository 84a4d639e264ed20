"""The procedural world: deterministic, long-tailed, and never wrong about itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_jax.config import ScenesConfig
from clip_jax.data.scenes.scenes import FAMILIES, ScenesSource, render, sample, uniform, world
from clip_jax.errors import ConfigError

from ...user_errors import raises_user_error

CONFIG = ScenesConfig()


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=8), st.integers(0, 3))
def test_render_depends_on_the_index_alone(indices, stream):
    together = render(CONFIG, sample(CONFIG, stream, np.array(indices)))
    for i, index in enumerate(indices):
        assert np.array_equal(render(CONFIG, sample(CONFIG, stream, np.array([index])))[0], together[i])


def test_uniform_has_uniform_moments_and_independent_streams():
    index = np.arange(20_000)
    (a, c), (b,) = uniform(0, 0, index, (3, 4)), uniform(0, 1, index, (3,))
    assert abs(a.mean() - 0.5) < 0.01
    assert abs(a.var() - 1 / 12) < 0.005
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.03
    assert abs(np.corrcoef(a, c)[0, 1]) < 0.03


def test_sample_objects_follow_the_zipf_law():
    counts = np.bincount(world(CONFIG).rank_of[sample(CONFIG, 0, np.arange(60_000)).object], minlength=256)
    weights = np.arange(1, 257) ** -1.2
    expected = 60_000 * weights / weights.sum()
    np.testing.assert_allclose(counts[:5], expected[:5], rtol=0.05)
    assert counts[128:].sum() == pytest.approx(expected[128:].sum(), rel=0.1)


def test_sample_of_training_holds_no_withheld_pair():
    w = world(CONFIG)
    assert w.withheld.sum() == 2 * FAMILIES
    s = sample(CONFIG, 0, np.arange(50_000))
    assert not w.withheld[s.object // w.per_family, s.color].any()
    pair = s.other >= 0
    assert not w.withheld[s.other[pair] // w.per_family, s.other_color[pair]].any()


def test_world_glyphs_all_differ():
    sprites = world(CONFIG).sprites[:, 1, 0]
    assert len({x.tobytes() for x in sprites}) == CONFIG.objects


def test_world_depends_on_its_seed_and_repeats():
    assert world(ScenesConfig(world_seed=1)).names != world(CONFIG).names
    assert np.array_equal(world(ScenesConfig(objects=32)).sprites, world(ScenesConfig(objects=32)).sprites)


@pytest.mark.parametrize("count", range(4))
def test_render_draws_as_many_objects_as_counted(count):
    s = sample(CONFIG, 0, np.arange(64))
    s.count[:], s.other[:], s.texture[:] = count, -1, 0
    image = render(CONFIG, s)
    cells = image.reshape(64, 2, 16, 2, 16, 3).transpose(0, 1, 3, 2, 4, 5).reshape(64, 4, -1, 3)
    plain = (cells == cells[:, :, :1]).all(axis=(2, 3)).sum(axis=1)
    assert (plain == 3 - count).all()


def test_render_places_objects_by_their_relation():
    s = sample(CONFIG, 0, np.arange(64))
    s.other[:] = (s.object + 20) % CONFIG.objects
    s.count[:], s.texture[:], s.background[:] = 0, 0, 0
    s.color[:], s.other_color[:] = 0, 2  # red and blue on black
    s.relation[:] = np.arange(64) % 4
    image = render(CONFIG, s).astype(int)
    y, x = np.mgrid[:32, :32]
    red, blue = image[..., 0] > 200, image[..., 2] > 200
    for i, name in enumerate(s.relation):
        first, second = [(v[red[i]].mean(), v[blue[i]].mean()) for v in (x, y)]
        delta = (first[0] - first[1], second[0] - second[1])
        expected = [(-1, 0), (1, 0), (0, -1), (0, 1)][name]  # left of, right of, above, below
        assert np.sign(np.round(np.array(delta) / 10)).tolist() == list(expected)


def test_render_shifted_style_changes_every_image():
    s = sample(CONFIG, 0, np.arange(16))
    assert (render(CONFIG, s) != render(CONFIG, s, shifted=True)).any(axis=(1, 2, 3)).all()


def test_scenes_source_size_must_be_a_multiple_of_32():
    assert ScenesSource(CONFIG, "val", 64)[3].image.shape == (64, 64, 3)
    with raises_user_error(ConfigError, field="model.image.image_size", value=48):
        ScenesSource(CONFIG, "train", 48)


def test_scenes_source_splits_differ():
    index = np.arange(8)
    train, held_out = (ScenesSource(CONFIG, split, 32) for split in ("train", "val"))
    assert not np.array_equal(train.batch(index)[0], held_out.batch(index)[0])
    record = train[5]
    assert np.array_equal(record.image, train.batch(np.array([5]))[0][0])
    assert record.captions == train.captions(5) == tuple(train.batch(np.array([4, 5]))[1][1:])
