"""Captions of the procedural scenes: vocabularies, made-up names, and the grammar."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

COLORS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "pink", "brown", "lime")
BACKGROUNDS = ("black", "white", "grey", "navy", "maroon", "olive")
TEXTURES = ("solid", "striped", "banded", "checkered", "dotted", "hatched")
SIZES = ("small", "large")
NUMBERS = ("one", "two", "three", "four")
CORNERS = ("top left", "top right", "bottom left", "bottom right")
RELATIONS = ("left of", "right of", "above", "below")
NOUNS = ("object", "thing", "item", "shape")

OPENINGS = ("", "", "a picture of ", "a drawing of ", "this is ", "here we see ", "an image with ", "there is ")
CLOSINGS = ("", "", "", ".")
_ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "sh", "ch", "tr", "gl")
_VOWELS = ("a", "e", "i", "o", "u", "ai", "oo")
_CODAS = ("", "", "n", "r", "k", "l", "sh", "m")


def made_up_names(count: int, seed: int, syllables: int) -> tuple[str, ...]:
    """Return ``count`` different pronounceable names; the first n do not depend on ``count``."""
    rng = np.random.default_rng([seed, syllables])
    names: dict[str, None] = {}
    while len(names) < count:
        parts = [_ONSETS[rng.integers(len(_ONSETS))] + _VOWELS[rng.integers(len(_VOWELS))] for _ in range(syllables)]
        names["".join(parts) + _CODAS[rng.integers(len(_CODAS))]] = None
    return tuple(names)


def article(word: str) -> str:
    """Return ``a`` or ``an`` as fits before ``word``."""
    return "an" if word[0] in "aeiou" else "a"


@dataclass(frozen=True)
class Facts:
    """The content of one scene, as indices into the vocabularies; ``other`` is -1 unless two objects are related."""

    object: int
    color: int
    texture: int
    size: int
    count: int  # number of objects - 1
    corner: int  # of a single object; related ones are in its row or column
    background: int
    other: int
    other_color: int
    relation: int


@dataclass(frozen=True)
class Choices:
    """Content of one caption, and its form."""

    name: int  # 0 its own name, 1 its family's, 2 a general noun
    color: bool
    texture: bool
    size: bool
    corner: bool
    background: bool
    opening: int
    closing: int
    noun: int


def caption(facts: Facts, say: Choices, names: tuple[str, ...], families: tuple[str, ...]) -> str:
    """Return one sentence about a scene. It may omit facts; it states none that is false."""
    per_family = len(names) // len(families)

    def noun(of: int) -> str:
        if say.name == 0:
            return names[of]
        return families[of // per_family] if say.name == 1 else NOUNS[say.noun]

    words = []
    if say.size:
        words.append(SIZES[facts.size])
    if say.color:
        words.append(COLORS[facts.color])
    if say.texture:
        words.append(TEXTURES[facts.texture])
    words.append(noun(facts.object) + ("s" if facts.count else ""))
    phrase = " ".join(words)
    phrase = f"{NUMBERS[facts.count]} {phrase}" if facts.count else f"{article(phrase)} {phrase}"
    if facts.other >= 0:
        second = f"{COLORS[facts.other_color]} {noun(facts.other)}" if say.color else noun(facts.other)
        phrase += f" {RELATIONS[facts.relation]} {article(second)} {second}"
    elif say.corner and facts.count == 0:
        phrase += f" in the {CORNERS[facts.corner]}"
    if say.background:
        phrase += f" on {BACKGROUNDS[facts.background]}"
    return OPENINGS[say.opening] + phrase + CLOSINGS[say.closing]
