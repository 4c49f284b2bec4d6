"""The 480 000 rooms of 3D Shapes, drawn by ray casting: an object on a floor between walls.

The original's images show one object in a corner of a room, 64x64 in colour, one for every
combination of six factors: the hues of floor, wall and object (10 each), 8 sizes of the object, its
shape (cube, cylinder, sphere, capsule) and 15 places of the camera on an arc of 60 degrees around
it.  Lengths, colours and lamps below were fitted to 53 frames of the original.

Where rays end and how they are lit depends on size, shape and orientation alone: 480 drawings
without colour, made once on each device (63 MB, about two seconds of one core).  An image is one of
them, dyed with three hues.
"""

from __future__ import annotations

import functools
import hashlib
import math

import torch
from torch import Tensor

from tutor.data.factors import checked_factors
from tutor.data.rendered import RenderedDataset
from tutor.data.solids import SHAPES, Vector, solid_distance, solid_normal

SIDE = 64
NAMES = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")
SIZES = (10, 10, 10, 8, 4, 15)

# Lengths in a room whose x goes right, y up and z away from the camera in its middle place; the
# object stands on the floor at the origin.
_CAMERA = (10.0, 2.69, 77.7)  # distance from the object's axis, height, focal length in pixels
_WALLS = (13.4, 14.06, 7.15)  # distance of the side walls, of the back wall; their height
_SOLIDS = ((1.26, 2.53), (1.355, 2.645), (1.515, 3.03), (1.152, 4.61))  # radius, height at scale 1
_SCALES = (0.75, 1.25)
_TURNS = (-30.0, 30.0)  # degrees

_SKY = (0.600, 0.886, 0.976)
_FINISH = (1.0, 1.23, 1.71)  # how much of their light floor, walls and object send back
_AMBIENT = 0.25
_HEAD = 0.316  # the lamp on the camera
_LAMP = 0.77  # the lamp in the room
_LAMP_AT = (-5.27, 25.96, 1.22)
_LAMP_TO = (-5.04, 3.61)  # x and z of the point of the floor that it is aimed at
_LAMP_CONE = 4.3  # how fast its light falls away from its axis: the exponent of a cosine
_LAMP_WIDTH = 0.57  # the side of a square, which makes the shadow's edge soft
_GLOSS = (0.083, 0.15)  # of the object in that lamp: strength, and exponent of a cosine
_POINTS = 3  # sample points along each side of a pixel


def render_shapes3d(factors: Tensor) -> Tensor:
    """Rooms with the given factors.

    Args:
        factors: whole numbers ``(n, 6)``: floor hue, wall hue and object hue below 10, scale below
            8, shape below 4, orientation below 15.

    Returns:
        Images ``(n, 3, 64, 64)``, float32 in [0, 1], on the factors' device.

    Raises:
        TypeError: if factors are no tensor of whole numbers.
        ValueError: if they are not ``(n, 6)`` or out of range.

    Example:
        >>> images = render_shapes3d(torch.tensor([[0, 6, 3, 7, 2, 7]]))
        >>> images.shape
        torch.Size([1, 3, 64, 64])
        >>> images[0, :, 45, 32]  # green, in the middle of the sphere: hue 3 of 10
        tensor([0.1796, 0.8981, 0.0000])
    """
    factors = checked_factors(factors, NAMES, SIZES)
    covers, lights = _drawings(factors.device)
    hues = _hues(factors.device)
    sky = _sky(factors.device)
    images = covers.new_empty(len(factors), 3, SIDE * SIDE)
    # Pieces that stay in a processor's cache; a GPU is the faster the fewer there are.
    piece = 16 if factors.device.type == "cpu" else 1024
    for out, rows in zip(images.split(piece), factors.split(piece), strict=True):
        scale, shape, orientation = rows[:, 3:].T
        number = (scale * SIZES[4] + shape) * SIZES[5] + orientation
        cover, light = covers[number], lights[number]  # (rows, 4, pixels)
        torch.mul(cover[:, 3:], sky, out=out)
        out += light[:, 3:]  # gloss is white
        for part in range(3):  # floor, wall, object; no part gives more than white light
            dyed = light[:, part, None] * hues[rows[:, part], :, None]
            out += torch.minimum(dyed, cover[:, part, None], out=dyed)
    return images.clamp_(0, 1).view(-1, 3, SIDE, SIDE)


def shapes3d(split: str) -> RenderedDataset:
    """All rooms with their factors; every split is the whole, since nothing else exists."""
    return RenderedDataset(
        all_factors(),
        render_shapes3d,
        (3, SIDE, SIDE),
        recipe=_recipe(),
        factor_names=NAMES,
        factor_sizes=SIZES,
        name="shapes3d",
        split=split,
    )


def all_factors() -> Tensor:
    """Every combination, ``(480000, 6)``, in the original's order: orientation changes fastest."""
    return torch.cartesian_prod(*map(torch.arange, SIZES))


def _recipe() -> str:
    """Names what is drawn by the numbers it is drawn from."""
    numbers = (SIZES, _CAMERA, _WALLS, _SOLIDS, _SCALES, _TURNS, _SKY, _FINISH, _AMBIENT, _HEAD,
               _LAMP, _LAMP_AT, _LAMP_TO, _LAMP_CONE, _LAMP_WIDTH, _GLOSS, _POINTS)  # fmt: skip
    return "shapes3d " + hashlib.sha256(repr(numbers).encode()).hexdigest()[:12]


@functools.cache
def _sky(device: torch.device) -> Tensor:
    """The colour of the sky, ``(3, 1)``."""
    return torch.tensor(_SKY, dtype=torch.float32, device=device)[:, None]


@functools.cache
def _hues(device: torch.device) -> Tensor:
    """Ten pure colours around the wheel from red, ``(10, 3)``."""
    places = torch.arange(SIZES[0], dtype=torch.float32) * 6 / SIZES[0]
    distance = torch.stack([places, places - 2, places - 4], 1).remainder(6)  # from red, and so on
    return (2 - torch.minimum(distance, 6 - distance)).clamp(0, 1).to(device)


@functools.cache
def _drawings(device: torch.device) -> tuple[Tensor, Tensor]:
    """Every room without its colours, by scale, shape and orientation: two ``(480, 4, 4096)``.

    The first holds the share of each pixel that floor, wall, object and sky cover.  The second
    holds the light that floor, wall and object send from there, white where they are white, and the
    object's gloss.
    """
    turns = torch.linspace(*_TURNS, SIZES[5], dtype=torch.float64).deg2rad().float().to(device)
    covers = turns.new_empty(SIZES[3] * SIZES[4], SIZES[5], 4, SIDE * SIDE)
    lights = torch.empty_like(covers)
    scales = torch.linspace(*_SCALES, SIZES[3], dtype=torch.float64).tolist()
    for i, scale in enumerate(scales):
        for shape in range(SIZES[4]):
            cover, light = draw(shape, scale, turns)
            covers[i * SIZES[4] + shape], lights[i * SIZES[4] + shape] = cover, light
    return covers.flatten(0, 1), lights.flatten(0, 1)


def draw(shape: int, scale: float, turns: Tensor) -> tuple[Tensor, Tensor]:
    """One object seen from several places: what covers each pixel, and how it is lit.

    Args:
        shape: number of the shape.
        scale: size of the object, 1 in the middle of the range.
        turns: where the camera stands, in radians, ``(n,)``.

    Returns:
        Two tensors ``(n, 4, 4096)``, as the table of drawings has them.
    """
    radius, height = (scale * length for length in _SOLIDS[shape])
    eye, ray = camera_rays(turns)
    reach, sort = room_distance(eye, ray)  # sort: 0 floor, 1 side wall, 2 back wall, 3 sky
    near = solid_distance(SHAPES[shape], radius, height, eye, ray)
    on_object = near < reach
    hit = _along(eye, ray, torch.minimum(near, reach))

    nothing = torch.zeros_like(reach)
    side = torch.where(sort == 1, -ray[0].sign(), nothing)
    normal = (side, (sort == 0).to(side.dtype), -(sort == 2).to(side.dtype))
    of_object = solid_normal(SHAPES[shape], radius, height, hit)
    normal = tuple(torch.where(on_object, a, b) for a, b in zip(of_object, normal, strict=True))

    # The lamp has a width: sample points of one pixel see it in different places.
    apart = (sample_points(turns) % 1 - 0.5) * _LAMP_WIDTH
    lamp_at = (_LAMP_AT[0] + apart, _LAMP_AT[1], _LAMP_AT[2] + apart[:, None])
    to_lamp = _unit(tuple(at - x for at, x in zip(lamp_at, hit, strict=True)))
    aim = (_LAMP_AT[0] - _LAMP_TO[0], _LAMP_AT[1], _LAMP_AT[2] - _LAMP_TO[1])
    aim = tuple(x / math.hypot(*aim) for x in aim)
    shadow = (sort == 0) & solid_distance(SHAPES[shape], radius, height, hit, to_lamp).isfinite()
    lamp = _dot(to_lamp, aim).clamp_min(0) ** _LAMP_CONE * (on_object | ~shadow)
    to_eye = _unit(tuple(-x for x in ray))
    facing = _dot(normal, to_lamp).clamp_min(0)
    shade = _AMBIENT + _HEAD * _dot(normal, to_eye).clamp_min(0) + _LAMP * lamp * facing
    between = _unit(tuple(a + b for a, b in zip(to_eye, to_lamp, strict=True)))
    gloss = _GLOSS[0] * lamp * (facing > 0) * _dot(normal, between).clamp_min(0) ** _GLOSS[1]

    floor, wall = ~on_object & (sort == 0), ~on_object & ((sort == 1) | (sort == 2))
    parts = torch.stack([floor, wall, on_object, ~on_object & (sort == 3)], 1).to(shade.dtype)
    cover = _pixels(parts)
    light = _pixels(parts * torch.stack([gain * shade for gain in (*_FINISH, 0)], 1))
    light[:, 3] = _pixels((gloss * on_object)[:, None])[:, 0]
    return cover, light


def sample_points(like: Tensor) -> Tensor:
    """Where rays cross the picture, in pixels from its left or upper edge: ``(64 p,)``."""
    steps = torch.arange(SIDE * _POINTS, dtype=like.dtype, device=like.device)
    return (steps + 0.5) / _POINTS


def camera_rays(turns: Tensor) -> tuple[Vector, Vector]:
    """Where the camera stands, ``(n, 1, 1)`` each, and its rays, ``(n, 64 p, 64 p)`` each."""
    distance, height, focal = _CAMERA
    points = (sample_points(turns) - SIDE / 2) / focal
    right, down = points, points[:, None]
    sin, cos = turns.sin()[:, None, None], turns.cos()[:, None, None]
    eye = (distance * sin, torch.full_like(sin, height), -distance * cos)
    ray = (cos * right - sin, -down.expand(len(turns), -1, len(points)), sin * right + cos)
    return eye, ray


def room_distance(eye: Vector, ray: Vector) -> tuple[Tensor, Tensor]:
    """How far rays go to floor (0), side walls (1), back wall (2) or past them to the sky (3).

    Distances are multiples of the ray's own length.
    """
    aside, behind, high = _WALLS
    far = torch.full_like(eye[0], math.inf)
    down = torch.where(ray[1] < 0, -eye[1] / ray[1], far)
    across = torch.where(ray[0] != 0, (aside * ray[0].sign() - eye[0]) / ray[0], far)
    ahead = torch.where(ray[2] > 0, (behind - eye[2]) / ray[2], far)
    reach, sort = torch.stack(torch.broadcast_tensors(down, across, ahead)).min(0)
    over = (sort > 0) & (eye[1] + reach * ray[1] > high)
    return reach.masked_fill(over, math.inf), sort.masked_fill(over, 3)


def _along(start: Vector, step: Vector, distance: Tensor) -> Vector:
    distance = distance.nan_to_num(posinf=0.0)  # in the sky there is no point to be lit
    return tuple(a + distance * b for a, b in zip(start, step, strict=True))


def _dot(a: Vector, b: Vector) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _unit(a: Vector) -> Vector:
    scale = _dot(a, a).rsqrt()
    return tuple(x * scale for x in a)


def _pixels(values: Tensor) -> Tensor:
    """The mean over each pixel's sample points: ``(n, k, 64 p, 64 p)`` to ``(n, k, 4096)``."""
    return torch.nn.functional.avg_pool2d(values, _POINTS).flatten(2)
