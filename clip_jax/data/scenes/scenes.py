"""Procedural scenes: images and captions rendered on the fly, a pure function of (world seed, index).

A scene is one to four equal objects, or two related ones, in the corners of a plain background. An object is a glyph of
5×5 cells: its family's glyph with some cells flipped. Object frequencies follow a Zipf law, so there is always a rarer
object to learn; attributes (color, texture, size, count, position, background) are shared by all objects, so there is
always something easy. Some pairs of color and family never occur in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from clip_jax.config import ScenesConfig
from clip_jax.data.scenes import captions as text
from clip_jax.data.scenes.captions import Choices, Facts
from clip_jax.data.sources.base import Record, Source
from clip_jax.errors import ConfigError

SIDE = 32  # pixels per side as rendered; larger sizes are upscaled
CELL = 16  # pixels per side of a corner
FAMILIES = 16
JITTERS = 1  # positions of an object within its corner
TRAIN_RECORDS = 1 << 40
VAL_RECORDS = 1 << 20
_RGB = np.array(
    [(230, 40, 40), (40, 190, 60), (50, 90, 240), (240, 220, 40), (150, 50, 200), (250, 140, 30), (40, 210, 220),
     (250, 140, 190), (140, 85, 40), (160, 240, 80)], np.uint8)  # fmt: skip
_GROUND = np.array(
    [(10, 10, 10), (245, 245, 245), (128, 128, 128), (15, 20, 90), (95, 10, 25), (95, 100, 20)], np.uint8
)
# each field of the hash gives an independent stream of numbers
(_OBJECT, _COLOR, _TEXTURE, _SIZE, _COUNT, _CORNER, _GROUND_F, _RELATED, _OTHER, _OTHER_COLOR, _RELATION, _JITTER,
 _NAME, _S_COLOR, _S_TEXTURE, _S_SIZE, _S_CORNER, _S_GROUND, _OPENING, _CLOSING, _NOUN) = range(21)  # fmt: skip


def uniform(seed: int, stream: int, index: np.ndarray, fields: Sequence[int]) -> np.ndarray:
    """Return hashed numbers in [0, 1), float64 [fields, B] (splitmix64; Steele et al., 2014).

    Each is a function of seed, stream, index and field.
    """
    start = seed * 0x100000001B3 + stream * 0x632BE59BD9B4E019
    offsets = [(start + field * 0xD1342543DE82EF95) % (1 << 64) for field in fields]
    with np.errstate(over="ignore"):
        z = index.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.array(offsets, np.uint64)[:, None]
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
        return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53


@dataclass(frozen=True)
class World:
    """Everything that a `ScenesConfig` determines: names, glyphs, frequencies."""

    names: tuple[str, ...]
    families: tuple[str, ...]
    rank_of: np.ndarray  # int [objects]: frequency rank of each object, 0 the most frequent
    object_of_rank: np.ndarray  # its inverse
    cumulative: np.ndarray  # float [objects]: cumulative frequency by rank
    sprites: np.ndarray  # bool [objects, sizes, jitters, CELL, CELL]
    textures: np.ndarray  # bool [textures, CELL, CELL]
    withheld: np.ndarray  # bool [families, colors]: pairs that training never shows

    @property
    def per_family(self) -> int:
        """Number of objects per family."""
        return len(self.names) // FAMILIES


def _packed(rgb: np.ndarray) -> np.ndarray:
    """Pack colors uint8 [N, 3] into one uint32 each, whose first three bytes in memory they are."""
    return np.concatenate([rgb, np.zeros_like(rgb[:, :1])], axis=1).view(np.uint32)[:, 0]


def _pale(rgb: np.ndarray) -> np.ndarray:
    return (rgb // 2 + 100).astype(np.uint8)


def _textures() -> np.ndarray:
    y, x = np.mgrid[:CELL, :CELL]
    on = [np.ones_like(x, bool), x % 2 == 0, y % 2 == 0, (x // 2 + y // 2) % 2 == 0,
          (x % 4 > 0) | (y % 4 > 0), (x + y) % 4 < 2]  # fmt: skip
    return np.stack(on)


def _glyphs(objects: int, rng: np.random.Generator) -> np.ndarray:
    """Return distinct glyphs, bool [objects, 5, 5]: a family's 13 cells with 2 to 4 of them exchanged for others."""
    seen: set[bytes] = set()
    glyphs = []
    for _ in range(FAMILIES):
        family = np.zeros(25, bool)
        family[rng.permutation(25)[:13]] = True
        for _ in range(objects // FAMILIES):
            glyph = family.copy()
            while glyph.tobytes() in seen or not seen:
                glyph = family.copy()
                swaps = int(rng.integers(2, 5))
                glyph[rng.permutation(np.flatnonzero(family))[:swaps]] = False
                glyph[rng.permutation(np.flatnonzero(~family))[:swaps]] = True
                if not seen:
                    break
            seen.add(glyph.tobytes())
            glyphs.append(glyph.reshape(5, 5))
    return np.stack(glyphs)


@lru_cache(maxsize=4)
def world(config: ScenesConfig) -> World:
    """Build everything that the config determines. Cached; takes about a second for 4,096 objects."""
    rng = np.random.default_rng([config.world_seed, 7])
    glyphs = _glyphs(config.objects, rng)
    sprites = np.zeros((config.objects, 2, JITTERS, CELL, CELL), bool)
    for size, zoom in enumerate((2, 3)):
        big = glyphs.repeat(zoom, 1).repeat(zoom, 2)
        start = (CELL - 5 * zoom) // 2
        for jitter in range(JITTERS):
            y, x = start + jitter // 2, start + jitter % 2
            sprites[:, size, jitter, y : y + 5 * zoom, x : x + 5 * zoom] = big
    order = rng.permutation(config.objects)
    weights = np.arange(1, config.objects + 1, dtype=np.float64) ** -config.zipf
    withheld = np.zeros((FAMILIES, len(text.COLORS)), bool)
    for family in range(FAMILIES):
        withheld[family, rng.permutation(len(text.COLORS))[:2]] = True
    return World(
        names=text.made_up_names(config.objects, config.world_seed, 3),
        families=text.made_up_names(FAMILIES, config.world_seed, 2),
        rank_of=np.argsort(order),
        object_of_rank=order,
        cumulative=np.cumsum(weights) / weights.sum(),
        sprites=sprites,
        textures=_textures(),
        withheld=withheld,
    )


@dataclass
class Scenes:
    """A batch of scenes as arrays of indices, int64 [B] each (see `captions.Facts`)."""

    object: np.ndarray
    color: np.ndarray
    texture: np.ndarray
    size: np.ndarray
    count: np.ndarray
    corner: np.ndarray
    background: np.ndarray
    other: np.ndarray
    other_color: np.ndarray
    relation: np.ndarray
    jitter: np.ndarray


def _pick(u: np.ndarray, weights: tuple[float, ...]) -> np.ndarray:
    edges = np.cumsum(weights) / sum(weights)
    return np.minimum(np.searchsorted(edges, u, side="right"), len(weights) - 1)


def sample(config: ScenesConfig, stream: int, index: np.ndarray) -> Scenes:
    """Return the scenes of ``index``, int [B], in a stream (0: train, 1: held out, 2 and up: zero-shot tasks)."""
    w = world(config)
    hashed = uniform(config.world_seed, stream, index, range(_NAME))

    def u(field: int) -> np.ndarray:
        return hashed[field]

    def draw_object(field: int) -> np.ndarray:
        rank = np.minimum(np.searchsorted(w.cumulative, u(field), side="right"), config.objects - 1)
        return w.object_of_rank[rank]

    related = u(_RELATED) < 0.2
    first, second = draw_object(_OBJECT), draw_object(_OTHER)
    second = np.where(second == first, (second + 1) % config.objects, second)
    colors = len(text.COLORS)
    return Scenes(
        object=first,
        color=allowed_color(w, first, (u(_COLOR) * colors).astype(np.int64)),
        texture=_pick(u(_TEXTURE), (10, 1, 1, 1, 1, 1)),
        size=(u(_SIZE) < 0.6).astype(np.int64),
        count=np.where(related, 0, _pick(u(_COUNT), (6, 2, 1, 1))),
        corner=(u(_CORNER) * 4).astype(np.int64),
        background=_pick(u(_GROUND_F), (4, 2, 2, 1, 1, 1)),
        other=np.where(related, second, -1),
        other_color=allowed_color(w, second, (u(_OTHER_COLOR) * colors).astype(np.int64)),
        relation=(u(_RELATION) * 4).astype(np.int64),
        jitter=(u(_JITTER) * JITTERS).astype(np.int64),
    )


def allowed_color(w: World, objects: np.ndarray, color: np.ndarray) -> np.ndarray:
    """Shift each color, int [B], to the next one that training shows with the family of its object."""
    family = objects // w.per_family
    for _ in range(2):
        color = np.where(w.withheld[family, color], (color + 1) % len(text.COLORS), color)
    return color


def render(config: ScenesConfig, scenes: Scenes, image_size: int = SIDE, *, shifted: bool = False) -> np.ndarray:
    """Render scenes: uint8 [B, image_size, image_size, 3].

    ``shifted`` renders in a style that never occurs in training: paler colors and a speckled background. Raises
    ConfigError unless ``image_size`` is a multiple of 32.
    """
    if image_size % SIDE:
        reason = f"must be a multiple of {SIDE}, which the scenes source draws"
        raise ConfigError(field="model.image.image_size", value=image_size, reason=reason)
    w, n = world(config), len(scenes.object)
    corner, related = scenes.corner, scenes.other >= 0
    # related objects are side by side in the row or column of ``corner``
    row, column = corner // 2, corner % 2
    horizontal = scenes.relation < 2
    far = (scenes.relation % 2).astype(np.int64)  # 1: the first object is the right or the lower one
    first = np.where(horizontal, 2 * row + far, 2 * far + column)
    second = np.where(horizontal, 2 * row + 1 - far, 2 * (1 - far) + column)
    corner = np.where(related, first, corner)
    ground = _packed(_GROUND)[scenes.background]
    colors = [_packed(_pale(_RGB) if shifted else _RGB)[c] for c in (scenes.color, scenes.other_color)]
    canvas = np.repeat(ground, 4 * CELL * CELL).reshape(n, 4, CELL, CELL)

    def draw(take: np.ndarray, objects: np.ndarray, color: np.ndarray) -> np.ndarray:
        mask = w.sprites[objects[take], scenes.size[take], scenes.jitter[take]] & w.textures[scenes.texture[take]]
        return np.where(mask, color[take, None, None], ground[take, None, None])

    drawn = draw(np.arange(n), scenes.object, colors[0])
    for k in range(4):
        take = np.flatnonzero(scenes.count >= k)
        canvas[take, (corner[take] + k) % 4] = drawn[take]
    take = np.flatnonzero(related)
    canvas[take, second[take]] = draw(take, scenes.other, colors[1])
    pixels = canvas.reshape(n, 2, 2, CELL, CELL).transpose(0, 1, 3, 2, 4).reshape(n, SIDE, SIDE, 1)
    images = np.empty((n, SIDE, SIDE, 3), np.uint8)
    for channel in range(3):  # three long copies, where one of the whole would copy three bytes at a time
        images[..., channel] = pixels.view(np.uint8)[..., channel]
    if shifted:
        y, x = np.mgrid[:SIDE, :SIDE]
        images = np.where((((3 * x + 5 * y) % 7) == 0)[None, :, :, None], 255 - (255 - images) // 2, images)
    zoom = image_size // SIDE
    return images if zoom == 1 else images.repeat(zoom, 1).repeat(zoom, 2)


class ScenesSource(Source):
    """Procedural scenes as a source, infinite for training. Raises ConfigError unless the size is a multiple of 32."""

    infinite = True

    def __init__(self, config: ScenesConfig, split: str, image_size: int) -> None:
        self.config, self.image_size = config, image_size
        self.stream = 0 if split == "train" else 1
        render(config, sample(config, 0, np.arange(0)), image_size)  # fail now, not in a worker

    def __len__(self) -> int:
        return TRAIN_RECORDS if self.stream == 0 else VAL_RECORDS

    def batch_captions(self, index: np.ndarray, scenes: Scenes | None = None) -> list[str]:
        """Return one caption per index.

        Args:
          index: int [B].
          scenes: the scenes of ``index``, if they are sampled already.
        """
        s = scenes or sample(self.config, self.stream, index)
        w, n = world(self.config), len(s.object)

        hashed = uniform(self.config.world_seed, self.stream, index, range(_NAME, _NOUN + 1))

        def u(field: int) -> np.ndarray:
            return hashed[field - _NAME]

        facts = zip(*(getattr(s, f).tolist() for f in Facts.__dataclass_fields__), strict=True)
        columns = (
            _pick(u(_NAME), (6, 2, 2)),
            u(_S_COLOR) < 0.6,
            (u(_S_TEXTURE) < 0.5) & ((s.texture > 0) | (u(_S_TEXTURE) < 0.2)),
            u(_S_SIZE) < 0.4,
            u(_S_CORNER) < 0.85,
            u(_S_GROUND) < 0.35,
            (u(_OPENING) * len(text.OPENINGS)).astype(np.int64),
            (u(_CLOSING) * len(text.CLOSINGS)).astype(np.int64),
            (u(_NOUN) * len(text.NOUNS)).astype(np.int64),
        )
        choices = zip(*(c.tolist() for c in columns), strict=True)
        out = [text.caption(Facts(*f), Choices(*c), w.names, w.families) for f, c in zip(facts, choices, strict=True)]
        assert len(out) == n
        return out

    def batch(self, index: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """Return images uint8 [B, H, W, 3] and one caption each for ``index``, int [B]."""
        scenes = sample(self.config, self.stream, index)
        return render(self.config, scenes, self.image_size), self.batch_captions(index, scenes)

    def captions(self, i: int) -> tuple[str, ...]:
        """Return the caption of record ``i``."""
        return tuple(self.batch_captions(np.array([i])))

    def name(self, i: int) -> str:
        return f"scene {self.stream}/{i}"

    def __getitem__(self, i: int) -> Record:
        images, captions = self.batch(np.array([i]))
        return Record(images[0], tuple(captions))
