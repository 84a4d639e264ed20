"""Resized positions against open_clip's."""

import numpy as np
import pytest

from clip_jax.models.positions import resize_image_positions, resize_text_positions


@pytest.fixture
def gold(golden):
    return dict(np.load(golden / "pos_embed_resize.npz"))


def test_resize_image_positions_equals_the_reference(gold):
    for i in range(4):
        height, width = gold[f"vision_{i}/grid"].tolist()
        first = len(gold[f"vision_{i}/out"]) - height * width
        resized = resize_image_positions(gold[f"vision_{i}/in"], (height, width), first)
        np.testing.assert_allclose(resized, gold[f"vision_{i}/out"], atol=2e-6)


def test_resize_text_positions_equals_the_reference(gold):
    for i in range(3):
        want = gold[f"text_{i}/out"]
        np.testing.assert_allclose(resize_text_positions(gold[f"text_{i}/in"], len(want)), want, atol=2e-6)


def test_resize_image_positions_of_no_square_is_refused():
    with pytest.raises(ValueError, match="no square"):
        resize_image_positions(np.zeros((8, 4)), (5, 5), 1)
