"""The 737 280 sprites of dSprites, drawn by formula: shape, size, orientation and two positions.

The original's images are white shapes on black, 64x64, one for every combination of five factors:
3 shapes (square, ellipse, heart), 6 sizes, 40 orientations, 32 by 32 positions.  The last
orientation is the first one again, since the original divides the full turn by 39.

The numbers below were fitted to 127 images of the original: of 4096 pixels 3 differ on average, 17
at most (`tests/data/test_sprites.py` counts them).  A pixel is white if at least half of its four
sample points lie inside the shape.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tutor.data.download import cache_folder
from tutor.data.factors import checked_factors
from tutor.data.local import mapped
from tutor.data.packed import PackedDataset

SIDE = 64
NAMES = ("shape", "scale", "orientation", "x", "y")
SIZES = (3, 6, 40, 32, 32)
SHAPES = ("square", "ellipse", "heart")

_HALF_SIDE = 9.48  # of the largest square, in pixels
_AXES = (12.6, 7.1)  # of the largest ellipse: half of its width and half of its height
# Distance of the largest heart's outline from the point it turns about, by the angle from its
# notch: Chebyshev polynomials on [0, pi].  One side; the other is its mirror image.
_HEART = (7.96882, -0.65553, -0.52539, 2.31403, -0.22788, -0.09652, 0.20353, 0.01564, 0.03484,
          -0.02565, 0.06476)  # fmt: skip
_BOX = 30  # every shape fits into so many pixels around its centre
_POINTS = 2  # sample points along each side of a pixel


def render_dsprites(factors: Tensor) -> Tensor:
    """Sprites with the given factors.

    Args:
        factors: whole numbers ``(n, 5)``: shape below 3, scale below 6, orientation below 40, x and
            y below 32.

    Returns:
        Images ``(n, 1, 64, 64)``, float32, each pixel 0 or 1.

    Raises:
        TypeError: if factors are no tensor of whole numbers.
        ValueError: if they are not ``(n, 5)`` or out of range.

    Example:
        >>> images = render_dsprites(torch.tensor([[0, 5, 0, 0, 0], [2, 5, 0, 31, 31]]))
        >>> images.shape, images.flatten(1).sum(1)  # how many pixels are white
        (torch.Size([2, 1, 64, 64]), tensor([396., 224.]))
    """
    factors = checked_factors(factors, NAMES, SIZES)
    images = torch.zeros(len(factors), SIDE, SIDE, device=factors.device)
    for rows in torch.arange(len(factors), device=factors.device).split(256):
        shape, scale, orientation, x, y = factors[rows].T
        box = _inside(shape, scale, orientation, x, y)  # (rows, box, box)
        steps = torch.arange(_BOX, device=factors.device)
        down, across = 1 + y[:, None, None] + steps[:, None], 1 + x[:, None, None] + steps
        images[rows[:, None, None], down, across] = box.float()
    return images.unsqueeze(1)


def dsprites(split: str) -> PackedDataset:
    """All sprites with their factors; every split is the whole, since nothing else exists.

    They are drawn once, which takes about a minute, and kept as bits in the cache folder, in a file
    that is mapped.
    """
    return PackedDataset(
        _stored(cache_folder() / "dsprites" / f"sprites-{_recipe()}.bits"),
        (1, SIDE, SIDE),
        factors=all_factors(),
        factor_names=NAMES,
        factor_sizes=SIZES,
        name="dsprites",
        split=split,
    )


def _stored(path: Path) -> Tensor:
    """The bits, mapped from a file of the cache; drawn, and written, where none is whole."""
    news = f"drawing {math.prod(SIZES):,} sprites, once; this takes about a minute"
    drawn: list[Tensor] = []

    def pieces() -> Iterator[np.ndarray]:
        drawn.append(pack_all())
        yield drawn[0].numpy()

    try:
        return mapped(path, (SIDE * SIDE // 8,), pieces(), news=news)
    except OSError as error:  # the sprites can do without the cache
        reason = " ".join(str(error).split())
        print(f"tutor.data: the sprites were not kept: {reason}.")
        return drawn[0] if drawn else pack_all()


def _recipe() -> str:
    """Names the file by what it was drawn from, so that other numbers make another file."""
    numbers = (SIZES, _HALF_SIDE, _AXES, _HEART, _BOX, _POINTS)
    return hashlib.sha256(repr(numbers).encode()).hexdigest()[:12]


def all_factors() -> Tensor:
    """Every combination, ``(737280, 5)``, in the original's order: y changes fastest."""
    return torch.cartesian_prod(*map(torch.arange, SIZES))


def pack_all() -> Tensor:
    """All 737 280 sprites as bits, eight pixels a byte: uint8 ``(737280, 512)``.

    The first pixel of a byte is its highest bit, as in `numpy.packbits`.
    """
    shape, scale, orientation = torch.cartesian_prod(*map(torch.arange, SIZES[:3])).T
    packed = torch.zeros(len(shape), 32, 32, SIDE * SIDE // 8, dtype=torch.uint8)
    weights = 2 ** torch.arange(7, -1, -1, dtype=torch.uint8)
    for x in range(32):
        for y in range(32):
            place = torch.full_like(shape, x), torch.full_like(shape, y)
            canvas = torch.zeros(len(shape), SIDE, SIDE, dtype=torch.uint8)
            box = _inside(shape, scale, orientation, *place)
            canvas[:, 1 + y : 1 + y + _BOX, 1 + x : 1 + x + _BOX] = box
            bits = canvas.view(len(shape), -1, 8) * weights
            packed[:, x, y] = bits.sum(2, dtype=torch.uint8)
    return packed.view(-1, SIDE * SIDE // 8)


def _inside(shape: Tensor, scale: Tensor, orientation: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Which pixels of the box around each sprite's centre are white, ``(n, box, box)``.

    The centre of position i is at 16 + 32 i / 31 pixels: i whole ones from the box's first, and
    the fraction i / 31 of another.
    """
    size = 0.5 + scale / 10
    turn = 2 * math.pi * orientation / 39
    points = (torch.arange(_BOX * _POINTS, device=shape.device) + 0.5) / _POINTS - _BOX / 2
    right = (points - x[:, None] / 31) / size[:, None]  # (n, points)
    down = (points - y[:, None] / 31) / size[:, None]
    cos, sin = turn.cos()[:, None, None], turn.sin()[:, None, None]
    u = cos * right[:, None, :] - sin * down[:, :, None]  # (n, points, points)
    v = sin * right[:, None, :] + cos * down[:, :, None]
    white = torch.empty_like(u, dtype=torch.bool)
    for number, inside in enumerate((_in_square, _in_ellipse, _in_heart)):
        chosen = shape == number
        white[chosen] = inside(u[chosen], v[chosen])
    cells = white.view(len(shape), _BOX, _POINTS, _BOX, _POINTS).sum((2, 4))
    return cells * 2 >= _POINTS**2


def _in_square(u: Tensor, v: Tensor) -> Tensor:
    return (u.abs() <= _HALF_SIDE) & (v.abs() <= _HALF_SIDE)


def _in_ellipse(u: Tensor, v: Tensor) -> Tensor:
    return (u / _AXES[0]).square() + (v / _AXES[1]).square() <= 1


def _in_heart(u: Tensor, v: Tensor) -> Tensor:
    t = torch.atan2(u.abs(), -v) * (2 / math.pi) - 1  # -1 at the notch, 1 at the tip
    before, radius = torch.zeros_like(t), torch.zeros_like(t)
    for coefficient in reversed(_HEART[1:]):  # Clenshaw's recursion
        before, radius = radius, coefficient + 2 * t * radius - before
    radius = _HEART[0] + t * radius - before
    return u.square() + v.square() <= radius.square()
