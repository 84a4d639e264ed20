"""Captions: several, in order, none twice, with what the set says of an icon."""

import json

from clip_jax.datasets.icons.captions import captions, category_words, members
from clip_jax.datasets.icons.names import Names


def test_captions_of_an_icon_name_style_and_category(make_set):
    icons = make_set(
        "pen", "MIT", dict.fromkeys(("arrow-left-circle-outline", "arrow-left", "arrow-left-24"), "<g/>"),
        suffixes={"24": "24"}, aliases={"arrow2x": {"parent": "arrow-left-circle-outline"},
                 "back-circle-outline": {"parent": "arrow-left-circle-outline"},
                 "forward": {"parent": "arrow-left-circle-outline", "hFlip": True}},
        categories={"ArrowsDiagrams": ["arrow-left-circle-outline"], "Misc": ["arrow-left"]},
    )  # fmt: skip
    names = Names(icons)
    assert captions(icons, names, "arrow-left-circle-outline") == (
        "outline arrow left in a circle",
        "a black outline icon of arrow left in a circle",
        "outline arrow left in a circle icon",
        "outline arrow pointing left in a circle",
        "back circle",
        "arrow left in a circle, arrows diagrams",
        "outline arrow left in a circle, Pen",
        "arrow left circle outline",
    )
    assert "arrow left, 24 pixels" in captions(icons, names, "arrow-left-24")
    plain = captions(icons, names, "arrow-left")
    assert len(set(plain)) == len(plain)
    assert not any("misc" in line for line in plain)


def test_captions_of_color_icons_flags_and_emoji(make_set):
    paint = make_set("paint", "MIT", {"cat": "<g/>"}, palette=True)
    assert "a colourful icon of cat" in captions(paint, Names(paint), "cat")
    flags = make_set("f", "MIT", {"fr": "<g/>", "zz": "<g/>"}, category="Flags / Maps")
    assert (
        captions(flags, Names(make_set("g", "MIT", {"fr": "<g/>"}, category="Flags / Maps")), "fr")[0]
        == "flag of France"
    )
    emoji = make_set("e", "MIT", {"cat": "<g/>"}, category="Emoji")
    assert captions(emoji, Names(emoji), "cat")[:3] == ("cat", "an emoji of cat", "cat emoji")


def test_members_of_an_unknown_country_code_is_none(make_set):
    flags = make_set("f", "MIT", {"fr": "<g/>", "it": "<g/>", "zz": "<g/>"}, category="Flags / Maps")
    assert members(flags, Names(flags), "zz") is None


def test_members_carry_license_and_attribution(make_set):
    icons = make_set("pen", "CC-BY-4.0", {"cat": "<g/>"})
    text, about = members(icons, Names(icons), "cat")
    assert text.decode().splitlines()[0] == "cat"
    record = json.loads(about)
    assert (record["set"], record["icon"], record["licence"]) == ("pen", "cat", "CC-BY-4.0")
    assert record["attribution"] == "Pen by The pen author (https://pen.example), CC-BY-4.0 (https://license.example)"


def test_category_words_splits_camel_case():
    assert category_words("ComputerDevices") == "computer devices"
    assert category_words("Food & Drink") == "food and drink"
    assert category_words("General") == ""
