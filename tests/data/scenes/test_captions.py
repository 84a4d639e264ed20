"""Names and grammar."""

import re

from hypothesis import given
from hypothesis import strategies as st

from clip_jax.data.scenes import captions as t

NAMES, FAMILIES = t.made_up_names(32, 0, 3), t.made_up_names(4, 0, 2)


def test_made_up_names_differ_and_are_independent_of_the_count():
    assert len(set(NAMES)) == 32
    assert t.made_up_names(8, 0, 3) == NAMES[:8]
    assert t.made_up_names(8, 1, 3) != NAMES[:8]


facts = st.builds(
    t.Facts, object=st.integers(0, 31), color=st.integers(0, 9), texture=st.integers(0, 5), size=st.integers(0, 1),
    count=st.integers(0, 3), corner=st.integers(0, 3), background=st.integers(0, 5), other=st.just(-1),
    other_color=st.integers(0, 9), relation=st.integers(0, 3),
)  # fmt: skip
choices = st.builds(
    t.Choices, name=st.integers(0, 2), color=st.booleans(), texture=st.booleans(), size=st.booleans(),
    corner=st.booleans(), background=st.booleans(), opening=st.integers(0, 7), closing=st.integers(0, 3),
    noun=st.integers(0, 3),
)  # fmt: skip


@given(facts, choices)
def test_caption_says_only_what_it_mentions(f, c):
    words = re.findall(r"[a-z]+", t.caption(f, c, NAMES, FAMILIES))
    for mentioned, names, value in (
        (c.color, t.COLORS, f.color), (c.texture, t.TEXTURES, f.texture), (c.size, t.SIZES, f.size),
        (c.background, t.BACKGROUNDS, f.background),
    ):  # fmt: skip
        assert [w for w in words if w in names] == ([names[value]] if mentioned else [])
    assert [w for w in words if w in t.NUMBERS] == ([t.NUMBERS[f.count]] if f.count else [])
    named = {NAMES[f.object], FAMILIES[f.object // 8], *t.NOUNS}
    assert sum(w in named or w.removesuffix("s") in named for w in words) == 1


def test_caption_of_a_relation_names_both_objects():
    f = t.Facts(1, 0, 0, 0, 0, 0, 0, other=9, other_color=2, relation=2)
    say = t.Choices(0, True, False, False, True, False, 0, 0, 0)
    assert t.caption(f, say, NAMES, FAMILIES) == f"a red {NAMES[1]} above a blue {NAMES[9]}"


def test_article_depends_on_the_first_letter():
    assert (t.article("orange"), t.article("red")) == ("an", "a")
