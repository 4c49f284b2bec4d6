"""Rooms against rays followed step by step and real images, and what each factor may change."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import tutor
from tutor.data import RenderedDataset, render_shapes3d
from tutor.data import rooms as module
from tutor.data.rooms import NAMES, SIZES
from tutor.data.solids import SHAPES, solid_distance, solid_normal

REFERENCE = Path(os.environ.get("TUTOR_DATA") or "nowhere") / "reference" / "3dshapes.gif"
FLOOR, WALL, OBJECT, SCALE, SHAPE, TURN = range(6)
BASE = torch.tensor([0, 6, 3, 4, 0, 3])


def varied(base: torch.Tensor, column: int) -> torch.Tensor:
    """Factors with every value of one factor, the others fixed."""
    factors = base.repeat(SIZES[column], 1)
    factors[:, column] = torch.arange(SIZES[column])
    return factors


def changed(base: torch.Tensor, column: int) -> torch.Tensor:
    """Pixels that differ between the hue of ``base`` and the opposite one."""
    other = base.clone()
    other[column] = (other[column] + 5) % 10
    a, b = render_shapes3d(torch.stack([base, other]))
    return (a != b).any(0)


# --- Truth: solids as signed distances, rays followed in small steps ---------------------------


def signed_distance(shape: str, radius: float, height: float, p: np.ndarray) -> np.ndarray:
    """Of points ``(..., 3)`` to the solid's surface, negative inside."""
    aside = np.hypot(p[..., 0], p[..., 2])
    up = p[..., 1]
    if shape == "sphere":
        return np.sqrt(aside**2 + (up - radius) ** 2) - radius
    if shape == "capsule":
        return np.sqrt(aside**2 + (up - up.clip(radius, height - radius)) ** 2) - radius
    lid = np.abs(up - height / 2) - height / 2
    if shape == "cylinder":
        return np.maximum(aside - radius, lid)
    return np.maximum(np.maximum(np.abs(p[..., 0]), np.abs(p[..., 2])) - radius, lid)


def marched(inside, eye: np.ndarray, ray: np.ndarray, limit: float, step: float) -> np.ndarray:
    """The first distance at which ``inside(points)`` holds: small steps, then bisection.

    Infinite where it holds nowhere up to the limit.
    """
    found = np.full(len(ray), np.inf)
    for t in np.arange(step, limit, step):
        open_ = np.isinf(found)
        if not open_.any():
            break
        points = eye[open_] + t * ray[open_]
        found[np.flatnonzero(open_)[inside(points)]] = t
    low, high = found - step, found.copy()
    hit = np.isfinite(found)
    for _ in range(30):
        middle = (low[hit] + high[hit]) / 2
        there = inside(eye[hit] + middle[:, None] * ray[hit])
        high[hit] = np.where(there, middle, high[hit])
        low[hit] = np.where(there, low[hit], middle)
    return high


def gradient(function, p: np.ndarray) -> np.ndarray:
    e = 1e-5 * np.eye(3)
    g = np.stack([function(p + e[i]) - function(p - e[i]) for i in range(3)], -1)
    return g / np.linalg.norm(g, axis=-1, keepdims=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_rays_meet_solids_where_small_steps_meet_them(shape):
    """Distances to 1e-9, normals to 1e-4: rays from all around, some of which miss.

    Rays that pass within a step, 0.004, of only grazing the solid are left out: there the steps
    themselves can't tell.
    """
    rng = np.random.default_rng(3)
    radius, height = (1.1, 2.2) if shape in ("sphere", "cube") else (0.9, 3.1)
    eye = rng.normal(size=(300, 3))
    eye = 4 * eye / np.linalg.norm(eye, axis=1, keepdims=True) + [0, height / 2, 0]
    to = rng.uniform([-1.6, -0.3, -1.6], [1.6, height + 0.3, 1.6], (300, 3))
    ray = (to - eye) / np.linalg.norm(to - eye, axis=1, keepdims=True)
    along = eye[:, None] + np.arange(0, 8, 0.004)[:, None] * ray[:, None]
    deepest = signed_distance(shape, radius, height, along).min(1)
    clear = np.abs(deepest) > 0.004
    assert clear.sum() > 285
    eye, ray = eye[clear], ray[clear]
    truth = marched(
        lambda p: signed_distance(shape, radius, height, p) < 0, eye, ray, limit=8, step=0.004
    )
    as_tensors = [tuple(torch.from_numpy(x.T.copy())) for x in (eye, ray)]
    found = solid_distance(shape, radius, height, *as_tensors).numpy()
    hit = np.isfinite(truth)
    assert 100 < hit.sum() < 280
    assert np.array_equal(np.isfinite(found), hit)
    # Twice the length of the ray, half the distance.
    half = solid_distance(shape, radius, height, as_tensors[0],
                          tuple(2 * x for x in as_tensors[1])).numpy()  # fmt: skip
    np.testing.assert_allclose(found[hit], truth[hit], atol=1e-9)
    np.testing.assert_allclose(half[hit], truth[hit] / 2, atol=1e-9)
    points = eye[hit] + found[hit, None] * ray[hit]
    normal = solid_normal(shape, radius, height, tuple(torch.from_numpy(points.T.copy())))
    expected = gradient(lambda p: signed_distance(shape, radius, height, p), points)
    np.testing.assert_allclose(torch.stack(normal, 1).numpy(), expected, atol=1e-4)


def test_rays_that_leave_or_pass_a_solid_miss_it():
    up = tuple(torch.tensor(x) for x in (0.0, 1.0, 0.0))
    for shape in SHAPES:
        for start in (2.0, 7.0):  # on the top, above it
            eye = tuple(torch.tensor(x) for x in (0.0, start, 0.0))
            assert solid_distance(shape, 1.0, 2.0, eye, up).isinf()
        below = tuple(torch.tensor(x) for x in (0.0, -3.0, 0.0))  # along the axis
        assert solid_distance(shape, 1.0, 2.0, below, up) == 3
        aside = tuple(torch.tensor(x) for x in (1.5, -3.0, 0.0))
        assert solid_distance(shape, 1.0, 2.0, aside, up).isinf()


@pytest.mark.parametrize(("number", "shape"), list(enumerate(SHAPES)))
def test_pixels_are_the_mean_of_rays_followed_step_by_step(number, shape):
    """Forty pixels of two rooms, each the mean of nine rays: room, object, light and shadow.

    Tolerance 0.01: a ray that grazes an edge between two steps is one of nine in its pixel, so up
    to two pixels may differ by more.
    """
    rng = np.random.default_rng(number)
    factors = torch.tensor([[1, 6, 3, 7, number, 12], [4, 9, 8, 1, number, 2]])
    images = render_shapes3d(factors).double().numpy()
    off = 0
    for image, row in zip(images, factors.tolist(), strict=True):
        # Half of the pixels anywhere, half where object and shadow are.
        anywhere, near = rng.integers(0, 64, (20, 2)), rng.integers([14, 18], [60, 54], (20, 2))
        pixels = np.concatenate([anywhere, near])
        error = np.abs(followed(shape, row, pixels) - image[:, pixels[:, 0], pixels[:, 1]].T).max(1)
        off += (error > 0.01).sum()
    assert off <= 2


def followed(shape: str, factors: list[int], pixels: np.ndarray) -> np.ndarray:
    """Colours ``(k, 3)`` of pixels, from nine rays each; nothing but the constants is shared."""
    scale = 0.75 + 0.5 * factors[SCALE] / 7
    turn = np.deg2rad(-30 + 60 * factors[TURN] / 14)
    radius, height = (scale * x for x in module._SOLIDS[SHAPES.index(shape)])
    distance, high, focal = module._CAMERA
    aside, behind, top = module._WALLS
    parts = np.array([(i + 0.5) / 3 for i in range(3)])
    v = (pixels[:, :1] + parts.repeat(3)).ravel()
    u = (pixels[:, 1:] + np.tile(parts, 3)).ravel()
    zero = np.zeros_like(u)
    ray = np.stack([(u - 32) / focal, (32 - v) / focal, zero + 1], 1)
    # The camera turns about the y axis together with what it sees.
    c, s = np.cos(turn), np.sin(turn)
    about = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    ray = ray @ about.T
    eye = np.tile(about @ [0, high, -distance], (len(u), 1))

    def solid(p):
        return signed_distance(shape, radius, height, p)

    def wall(p):
        return ((np.abs(p[:, 0]) > aside) | (p[:, 2] > behind)) & (p[:, 1] < top)

    ends = [marched(lambda p: solid(p) < 0, eye, ray, 20, 0.02),
            marched(lambda p: p[:, 1] < 0, eye, ray, 70, 0.1),
            marched(wall, eye, ray, 70, 0.1)]  # fmt: skip
    near = np.argmin(ends, 0)
    reach = np.min(ends, 0)
    sky = np.isinf(reach)
    hit = eye + np.where(sky, 0, reach)[:, None] * ray
    normal = np.tile([0.0, 1.0, 0.0], (len(u), 1))
    on_side = np.abs(hit[:, 0]) > aside - 1e-6
    to_side = np.stack([-np.sign(hit[:, 0]), zero, zero], 1)
    normal[near == 2] = np.where(on_side[:, None], to_side, [0.0, 0.0, -1.0])[near == 2]
    normal[near == 0] = gradient(solid, hit)[near == 0]

    at, to = np.array(module._LAMP_AT), np.array([module._LAMP_TO[0], 0, module._LAMP_TO[1]])
    shift = np.stack([u % 1 - 0.5, zero, v % 1 - 0.5], 1) * module._LAMP_WIDTH
    light = at + shift - hit
    light /= np.linalg.norm(light, axis=1, keepdims=True)
    lamp = (light @ ((at - to) / np.linalg.norm(at - to))) ** module._LAMP_CONE
    dark = np.isfinite(marched(lambda p: solid(p) < 0, hit, light, 12, 0.02))
    lamp[dark & (near == 1)] = 0
    view = -ray / np.linalg.norm(ray, axis=1, keepdims=True)
    facing = (normal * light).sum(1).clip(0)
    shade = module._AMBIENT + module._HEAD * (normal * view).sum(1).clip(0)
    shade += module._LAMP * lamp * facing
    middle = view + light
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    strength, exponent = module._GLOSS
    gloss = strength * lamp * (facing > 0) * (normal * middle).sum(1).clip(0) ** exponent
    gloss[(near != 0) | sky] = 0

    def pixel(values):
        return values.reshape(-1, 9).mean(1)[:, None]

    colour = pixel(sky) * np.array(module._SKY) + pixel(gloss)
    for kind, hue in ((1, FLOOR), (2, WALL), (0, OBJECT)):
        chosen = (near == kind) & ~sky
        dye = np.array(pure_colour(factors[hue] / 10))
        colour += np.minimum(pixel(module._FINISH[hue] * shade * chosen) * dye, pixel(chosen))
    return colour.clip(0, 1)


def pure_colour(hue: float) -> tuple[float, float, float]:
    import colorsys

    return colorsys.hsv_to_rgb(hue, 1, 1)


# --- What each factor changes -------------------------------------------------------------------


@pytest.mark.parametrize("shape", range(4))
def test_a_hue_changes_its_own_pixels_and_no_others(shape):
    base = BASE.clone()
    base[SHAPE] = shape
    cover, _ = module.draw(shape, 0.75 + 0.5 * 4 / 7, torch.tensor([-30 + 60 * 3 / 14]).deg2rad())
    floor, wall, thing, sky = cover[0].view(4, 64, 64)
    assert torch.allclose(floor + wall + thing + sky, torch.ones(64, 64), atol=1e-5)
    for column, part in ((FLOOR, floor), (WALL, wall), (OBJECT, thing)):
        seen = changed(base, column)
        assert torch.equal(seen, part > 0)
        assert 100 < seen.sum() < 2500
    # Two parts share a pixel on their common edge only: thin lines, of at most 64 pixels or so.
    pairs = [changed(base, a) & changed(base, b) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert all(both.sum() < 100 for both in pairs)


def test_ten_hues_are_evenly_spaced_pure_colours():
    for column, (row, right) in ((FLOOR, (60, 5)), (WALL, (30, 5)), (OBJECT, (42, 31))):
        colours = render_shapes3d(varied(BASE, column))[:, :, row, right]
        hues = [pure_colour(i / 10) for i in range(10)]
        for colour, pure in zip(colours.tolist(), hues, strict=True):
            gain = max(colour)
            assert gain > 0.7
            # Where a part is overexposed the colour is paler; these pixels hardly are.
            np.testing.assert_allclose(np.array(colour) / gain, pure, atol=0.2)
            assert np.argmax(colour) == np.argmax(pure)


@pytest.mark.parametrize("shape", range(4))
@pytest.mark.parametrize("turn", [0, 7, 14])
def test_a_larger_scale_shows_more_of_the_object(shape, turn):
    base = BASE.clone()
    base[SHAPE], base[TURN] = shape, turn
    sizes = [changed(row, OBJECT) for row in varied(base, SCALE)]
    counts = torch.tensor([int(seen.sum()) for seen in sizes])
    assert (counts.diff() > 0).all()
    # Lengths grow by 5/3; what comes nearer to the camera grows a little more.
    assert 25 / 9 * 0.9 < counts[-1] / counts[0] < 25 / 9 * 1.4


def test_shapes_have_their_outlines():
    """How much of the rectangle around it an object fills, seen from the middle.

    Exact for flat outlines; the camera sees a little of each from above: tolerance 0.05.
    """
    base = BASE.clone()
    base[SCALE], base[TURN] = 7, 7
    images = render_shapes3d(varied(base, SHAPE))
    radius, height = module._SOLIDS[3]
    capsule = 1 - (4 - np.pi) * radius**2 / (2 * radius * height)
    for shape, share in enumerate((1.0, 1.0, np.pi / 4, capsule)):
        base[SHAPE] = shape
        rows, columns = changed(base, OBJECT).nonzero().T
        box = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
        assert abs(len(rows) / box - share) < 0.07
        for other in range(shape):
            assert (images[shape] - images[other]).abs().amax(0).gt(0.05).sum() > 50


def test_orientation_moves_the_camera_around_the_object():
    """Round objects look the same from all sides, cubes do not, the room never does."""
    turns = torch.linspace(-30, 30, 15).deg2rad()
    for shape in range(4):
        cover, _ = module.draw(shape, 1.0, turns)
        floor, _, thing, sky = cover.view(15, 4, 64, 64).unbind(1)
        # A sample point on the outline may fall on either side by rounding: one of nine.
        moved = (thing - thing[7]).abs().flatten(1).gt(0.01).sum(1)
        assert (moved[[0, 3, 11, 14]] > 15).all() if shape == 0 else (moved <= 8).all()
        assert all((sky[i] - sky[i + 1]).abs().sum() > 10 for i in range(14))
        # The room has a mirror plane, so that the arc has one.
        assert (sky - sky.flip(0).flip(2)).abs().gt(0.01).sum() <= 15
        assert (floor - floor.flip(0).flip(2)).abs().gt(0.01).sum() <= 60
    # The lamp is on the left: the images themselves are not each other's mirror image.
    images = render_shapes3d(varied(BASE, TURN))
    assert (images[0] - images[14].flip(2)).abs().max() > 0.3


def test_images_of_a_batch_are_those_of_each_room():
    generator = torch.Generator().manual_seed(0)
    factors = torch.stack([torch.randint(s, (150,), generator=generator) for s in SIZES], 1)
    images = render_shapes3d(factors)
    assert images.shape == (150, 3, 64, 64)
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1
    for i in (0, 63, 64, 149):
        assert torch.equal(render_shapes3d(factors[i : i + 1])[0], images[i])
    assert torch.equal(render_shapes3d(factors.to(torch.uint8)), images)
    assert render_shapes3d(factors[:0]).shape == (0, 3, 64, 64)


def test_bad_factors_are_refused():
    good = torch.zeros(1, 6, dtype=torch.long)
    for column, name in enumerate(NAMES):
        for value in (-1, SIZES[column]):
            bad = good.clone()
            bad[0, column] = value
            with pytest.raises(ValueError, match=rf"^{name} is {value}; expected 0 to"):
                render_shapes3d(bad)
    with pytest.raises(TypeError, match="whole numbers"):
        render_shapes3d(good.float())
    with pytest.raises(ValueError, match=r"\(n, 6\): floor_hue, wall_hue"):
        render_shapes3d(good[:, :5])


# --- The data set -------------------------------------------------------------------------------


def test_load_gives_all_rooms():
    data = tutor.data.load("shapes3d")
    assert isinstance(data, RenderedDataset)
    assert len(data) == 480_000
    assert data.shape == (3, 64, 64)
    assert (data.factor_names, data.factor_sizes) == (NAMES, SIZES)
    assert data.factors.dtype == torch.int64
    assert data.images.dtype == torch.uint8
    # The place of a room among all: the last factor changes fastest.
    row = [3, 1, 4, 1, 2, 6]
    place = int(np.ravel_multi_index(row, SIZES))
    assert data.factors[place].tolist() == row
    assert torch.equal(data[place], render_shapes3d(torch.tensor([row]))[0])
    assert torch.equal(data[[-1, place]][1], data[place])
    test = tutor.data.load("shapes3d", split="test")
    assert (len(test), test.split) == (len(data), "test")
    assert test.fingerprint() == data.fingerprint()


def test_rendered_data_sets_are_data_sets_like_others(monkeypatch):
    data = tutor.data.load("shapes3d").subset([0, 70_000, 240_001, 479_999])
    assert repr(data) == "Dataset('shapes3d', split='train', 4 images of shape (3, 64, 64))"
    part = data.subset(torch.tensor([False, True, False, True]))
    assert torch.equal(part[:], data[[1, 3]])
    assert torch.equal(part.factors, data.factors[[1, 3]])
    assert torch.equal(data.to("cpu")[:], data[:])
    assert data[::2].shape == (2, 3, 64, 64)
    assert data.fingerprint() == data.subset([0, 1, 2, 3]).fingerprint() != part.fingerprint()
    with pytest.raises(IndexError, match="out of range"):
        data[4]
    for refuse in (data.binarized, data.binarized_each_time):
        with pytest.raises(TypeError, match="'shapes3d' are drawn in colours when they are asked"):
            refuse()
    # Other constants draw other images, and say so.
    before = data.fingerprint()
    monkeypatch.setattr(module, "_LAMP", 0.5)
    assert module.shapes3d("train").subset([0, 70_000, 240_001, 479_999]).fingerprint() != before


def test_bad_storage_is_refused():
    def build(factors, sizes=(2, 3)):
        return RenderedDataset(
            factors, lambda f: f, (1, 1, 1), recipe="", factor_names=("a", "b"), factor_sizes=sizes
        )

    with pytest.raises(ValueError, match="b is 3; expected 0 to 2"):
        build(torch.tensor([[0, 3]]))
    with pytest.raises(ValueError, match="at least one"):
        build(torch.zeros(0, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="256 at most"):
        build(torch.tensor([[0, 3]]), sizes=(2, 300))


# --- Real images --------------------------------------------------------------------------------


def labels_of_real_frames() -> torch.Tensor:
    """What the 53 frames show, read off them: the factors change one after the other."""
    rows = [[0, 6, 3, 0, 0, i] for i in range(15)]
    rows += [[0, 6, 3, 0, shape, 14] for shape in (1, 2, 3)]
    rows += [[0, 6, 3, scale, 3, 14] for scale in range(1, 8)]
    rows += [[0, 6, hue % 10, 7, 3, 14] for hue in range(4, 13)]
    rows += [[0, hue % 10, 2, 7, 3, 14] for hue in (7, 8, 9, 10, 11, 15)]
    rows += [[hue, 5, 2, 7, 3, 14] for hue in (1, 2, 3)]
    rows += [[0, hue, 2, 7, 3, 14] for hue in (2, 3, 4, 5)]
    rows += [[hue, 5, 2, 7, 3, 14] for hue in range(4, 10)]
    return torch.tensor(rows)


@pytest.mark.skipif(not REFERENCE.exists(), reason="the real images are not on this machine")
def test_rooms_look_like_real_ones():
    """Mean difference of a grey value below 0.03 in every frame, 0.02 over all (of a range of 1).

    The frames were enlarged, dithered and framed by a grey line, which alone costs about 0.01.
    """
    image_module = pytest.importorskip("PIL.Image")
    drawn = render_shapes3d(labels_of_real_frames()).permute(0, 2, 3, 1).numpy()
    with image_module.open(REFERENCE) as film:
        assert film.n_frames == len(drawn) == 53
        real = []
        for i in range(53):
            film.seek(i)
            small = film.convert("RGB").resize((64, 64), image_module.Resampling.BOX,
                                               box=(1.06, 0, 226, 224.9))  # fmt: skip
            real.append(np.asarray(small) / 255)
    error = np.abs(np.stack(real) - drawn)[:, 2:62, 1:63].mean((1, 2, 3))
    print(f"mean difference {error.mean():.4f}, worst frame {error.max():.4f}")
    assert error.max() < 0.03
    assert error.mean() < 0.02
    # Drawn with the factors of another frame, the difference is at least three times as large.
    shifted = np.abs(np.stack(real) - np.roll(drawn, 20, 0))[:, 2:62, 1:63].mean((1, 2, 3))
    assert shifted.min() > 3 * error.mean()
