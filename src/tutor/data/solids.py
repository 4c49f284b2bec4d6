"""Where straight rays meet a cube, a cylinder, a sphere or a capsule on the plane y = 0.

Each stands upright with its axis on the y axis.  A ray lies within a slab between two planes, an
endless pipe or a ball from one distance to another; the solids are made of those.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

SHAPES = ("cube", "cylinder", "sphere", "capsule")

Vector = tuple[Tensor, Tensor, Tensor]  # x, y and z, of shapes that broadcast


def solid_distance(shape: str, radius: float, height: float, eye: Vector, ray: Vector) -> Tensor:
    """How far rays go to a solid, in multiples of their length; infinity if they miss it.

    Args:
        shape: one of `SHAPES`.
        radius: of the round ones; of the cube, half of its side.
        height: of the solid, from the plane y = 0 up.
        eye, ray: where each ray starts, and its direction, of any length.

    Returns:
        One distance a ray.  A ray that starts on the solid and leaves it misses it.

    Example:
        >>> eye = tuple(map(torch.tensor, (0.0, 1.0, -5.0)))
        >>> ray = tuple(map(torch.tensor, (0.0, 0.0, 1.0)))
        >>> solid_distance("sphere", 1.0, 2.0, eye, ray)
        tensor(4.)
    """
    if shape == "cube":
        low, high = (-radius, 0.0, -radius), (radius, height, radius)
        spans = [_slab(eye[i], ray[i], low[i], high[i]) for i in range(3)]
    elif shape == "cylinder":
        spans = [_round(eye, ray, radius, None), _slab(eye[1], ray[1], 0.0, height)]
    else:
        # A capsule is a pipe between two balls: the ray enters the first of the three.
        pipe = [_round(eye, ray, radius, None), _slab(eye[1], ray[1], radius, height - radius)]
        balls = [_round(eye, ray, radius, y) for y in (radius, height - radius)]
        if shape == "sphere":
            return _first(balls[:1])
        return torch.stack([_first(pipe), _first(balls[:1]), _first(balls[1:])]).amin(0)
    return _first(spans)


def solid_normal(shape: str, radius: float, height: float, at: Vector) -> Vector:
    """Outward unit normals at points of a solid's surface."""
    x, y, z = at
    if shape == "cube":
        # On the face whose plane is nearest, from the inside or by rounding.
        q = torch.stack([x / radius, y * 2 / height - 1, z / radius])
        face = q.abs().argmax(0)
        return tuple(torch.where(face == i, q[i].sign(), torch.zeros_like(x)) for i in range(3))
    if shape == "cylinder":
        lid = x.square() + z.square() < (radius * (1 - 1e-4)) ** 2
        zero = torch.zeros_like(x)
        aside = tuple(torch.where(lid, zero, length / radius) for length in (x, z))
        return aside[0], torch.where(lid, (y - height / 2).sign(), zero), aside[1]
    middle = y.clamp(radius, height - radius) if shape == "capsule" else radius
    return x / radius, (y - middle) / radius, z / radius


def _slab(start: Tensor, step: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """From where to where a ray lies between two parallel planes."""
    step = torch.where(step == 0, 1e-20, step)
    a, b = (low - start) / step, (high - start) / step
    return torch.minimum(a, b), torch.maximum(a, b)


def _round(eye: Vector, ray: Vector, radius: float, centre: float | None) -> tuple[Tensor, Tensor]:
    """From where to where a ray lies in a ball on the axis, or in the pipe around the axis."""
    square = ray[0].square() + ray[2].square()
    half = eye[0] * ray[0] + eye[2] * ray[2]
    rest = eye[0].square() + eye[2].square() - radius**2
    if centre is not None:
        up = eye[1] - centre
        square, half, rest = square + ray[1].square(), half + up * ray[1], rest + up.square()
    square = square.clamp_min(1e-20)  # straight up, within the pipe for ever
    root = (half.square() - square * rest).sqrt()  # not a number where the ray passes by
    return (-half - root) / square, (-half + root) / square


def _first(spans: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Where a ray enters what the spans have in common, if it does so ahead of its start."""
    enter = functools.reduce(torch.maximum, (span[0] for span in spans))
    leave = functools.reduce(torch.minimum, (span[1] for span in spans))
    return torch.where((enter <= leave) & (enter > 0), enter, math.inf)
