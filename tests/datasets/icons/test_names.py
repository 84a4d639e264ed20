"""Names are taken apart by what the set itself says of its words."""

import pytest

from clip_jax.datasets.icons.names import STYLE_CLASSES, STYLES, Names, countries, pointing, with_article

SHOWN = {
    "arrow-left-circle-outline": "outline arrow left in a circle",
    "circle-arrow-left": "arrow left in a circle",
    "arrow-left": "arrow left",
    "arrow-circle-left": "arrow left in a circle",
    "half-circle": "half circle",  # there is no "half"
    "user-plus": "user with a plus sign",
    "user-off": "user crossed out",
    "toggle-off": "toggle off",
    "user-2": "user",
    "number-2": "number 2",
    "tree-02": "tree",
    "user2": "user",
    "drawer-2": "drawer",
    "drawer-1": "drawer",
    "mp3": "mp3",
    "brand-acorn": "acorn logo",
    "user-24-filled": "filled user",
    "format-bold": "format bold",  # a letter's weight, no style
    "user-bold": "bold user",
    "traffic-light": "traffic light",
}


@pytest.fixture(scope="module")
def names(make_set):
    more = [*SHOWN, "user", "toggle", "number", *(f"thing{i}-{s}" for i in range(4) for s in ("bold", "24"))]
    return Names(make_set("mine", "MIT", dict.fromkeys(more, "<g/>")))


@pytest.mark.parametrize("name", SHOWN)
def test_read_splits_a_name_into_styles_and_words(names, name):
    parsed = names.read(name)
    assert " ".join((*parsed.styles, parsed.shown)) == SHOWN[name]


def test_read_gives_size_and_style_class(names):
    parsed = names.read("user-24-filled")
    assert (parsed.base, parsed.size, parsed.style_class) == ("user", "24", "filled")
    assert names.read("user").style_class == ""


def test_read_takes_a_word_as_style_only_where_the_set_does(make_set):
    few = Names(make_set("few", "MIT", dict.fromkeys(("sun-light", "moon", *(f"a{i}" for i in range(99))), "<g/>")))
    assert few.read("sun-light").shown == "sun light"
    declared = Names(make_set("some", "MIT", {"sun-light": "<g/>", "sun": "<g/>"}, suffixes={"light": "Light"}))
    assert declared.read("sun-light").styles == ("light",)


def test_read_takes_the_style_from_the_set_name(make_set):
    names = Names(make_set("pen-solid", "MIT", {"sun": "<g/>"}))
    assert names.read("sun").styles == ("solid",)


def test_names_recognize_flags_and_emoji(make_set):
    flags = Names(make_set("f", "MIT", dict.fromkeys(("fr", "it-1x1", "us-ca", "pirate"), "<g/>"), category="Flags"))
    assert flags.kind == "flag"
    assert (flags.read("fr").country, flags.read("it-1x1").country) == ("France", "Italy")
    assert flags.read("it-1x1").styles == ("square",)
    assert (flags.read("us-ca").shown, flags.read("pirate").shown) == ("", "pirate flag")
    faces = dict.fromkeys(
        ("flag-for-cote-divoire", "flag-for-white-flag", "hand", "hand-dark", "ear-medium-light-skin-tone"), "<g/>"
    )
    emoji = Names(make_set("e", "MIT", faces, category="Emoji"))
    assert emoji.read("flag-for-cote-divoire").country == "Côte d'Ivoire"
    assert emoji.read("flag-for-white-flag").shown == "white flag"
    assert emoji.read("hand-dark").shown == "hand, dark skin"
    assert emoji.read("ear-medium-light-skin-tone").skin == "medium light"


def test_countries_have_distinct_names():
    assert len(set(countries().values())) == len(countries()) > 250
    assert countries()["tr"] == "Türkiye"


def test_style_classes_are_known_styles():
    assert set(STYLE_CLASSES) <= set(STYLES.values())


@pytest.mark.parametrize(
    ("shown", "turned"),
    [("arrow left", "arrow pointing left"), ("chevron up in a circle", "chevron pointing up in a circle"),
     ("arrow", ""), ("turn left", ""), ("arrow bend left", "")],
)  # fmt: skip
def test_pointing_gives_the_direction(shown, turned):
    assert pointing(shown) == turned


def test_with_article_depends_on_the_sound():
    assert [with_article(w) for w in ("circle", "octagon", "umbrella", "user")] == [
        "a circle", "an octagon", "an umbrella", "a user",
    ]  # fmt: skip
