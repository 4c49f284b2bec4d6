"""Sprites against real images of dSprites, and against what a drawing must satisfy."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import tutor
from tutor.data import PackedDataset, render_dsprites
from tutor.data import sprites as module
from tutor.data.sprites import SIZES, all_factors

REFERENCE = Path(os.environ.get("TUTOR_DATA") or "nowhere") / "reference" / "dsprites_frames.npz"


def every(shape: int, scale: int, positions: torch.Tensor) -> torch.Tensor:
    """All 40 orientations at the given positions ``(n, 2)``: factors ``(40 n, 5)``."""
    turn = torch.arange(40).repeat(len(positions))
    place = positions.repeat_interleave(40, 0)
    fixed = torch.tensor([shape, scale]).expand(len(turn), 2)
    return torch.cat([fixed, turn[:, None], place], 1)


def nearest(frame: torch.Tensor, shape: int) -> tuple[int, list[int]]:
    """Pixels in which a frame differs from the most similar drawing, and that drawing's factors.

    It is compared with the drawings whose centre of mass is where its own is: all orientations and
    nearby positions.
    """
    rows, columns = frame.nonzero().float().mean(0)
    # A heart's centre of mass lies up to 2 pixels from the point it turns about.
    reach = 2.3 if shape == 2 else 0.6
    steps = torch.arange(32)
    centres = 15.5 + 32 * steps / 31
    x = steps[(centres - columns).abs() <= reach]
    y = steps[(centres - rows).abs() <= reach]
    share = frame.sum() / {0: 368.0, 1: 289.0, 2: 225.0}[shape]
    scale = int(((share.sqrt() - 0.5) * 10).round().clamp(0, 5))
    factors = every(shape, scale, torch.cartesian_prod(x, y))
    differences = (render_dsprites(factors).squeeze(1) != frame).sum((1, 2))
    best = differences.argmin()
    return int(differences[best]), factors[best].tolist()


def real_frames() -> torch.Tensor:
    return torch.from_numpy(np.load(REFERENCE)["frames"]).float()


@pytest.mark.skipif(not REFERENCE.exists(), reason="the real images are not on this machine")
def test_every_real_image_is_among_the_drawn_ones():
    """At most 41 of 4096 pixels differ, one per cent; the mean is below 0.2 per cent.

    The frames are of hearts, then ellipses, then squares.
    """
    differences = [
        nearest(frame, 2 if i < 84 else 1 if i < 106 else 0)[0]
        for i, frame in enumerate(real_frames())
    ]
    found = torch.tensor(differences, dtype=torch.float32)
    print(f"pixels that differ: mean {found.mean():.1f}, median {found.median():.0f}, "
          f"worst {found.max():.0f} of 4096")  # fmt: skip
    assert len(found) == 127
    assert found.max() <= 41
    assert found.mean() < 0.002 * 4096


@pytest.mark.skipif(not REFERENCE.exists(), reason="the real images are not on this machine")
def test_orientations_turn_the_way_of_the_original():
    """Frames 2 to 21 are a heart that the original's orientation turns, every other step of it."""
    turns = [nearest(frame, 2)[1][2] for frame in real_frames()[2:22]]
    assert turns == [0, *range(1, 39, 2)]


def test_sizes_and_orientations():
    """A shape's area grows with the square of its size; the last orientation is the first."""
    for shape in range(3):
        factors = every(shape, 5, torch.tensor([[3, 8]]))
        drawn = render_dsprites(factors)
        assert torch.equal(drawn[0], drawn[39])
        areas = drawn.flatten(1).sum(1)
        # A turn changes which pixels a shape touches, not its area: an outline of about 60 pixels,
        # each half in and half out at random, gives about sqrt(60) / 2 either way.
        assert areas.max() - areas.min() < 40
        half = render_dsprites(factors - torch.tensor([0, 5, 0, 0, 0])).flatten(1).sum(1)
        assert abs(half.mean() / areas.mean() - 0.25) < 0.02


def test_symmetries():
    """Half a turn leaves squares and ellipses as they are; a mirror turns hearts the other way."""
    for shape in (0, 1):
        whole = render_dsprites(every(shape, 5, torch.tensor([[0, 0]])))
        drawn = whole[:39:3, :, :32, :32]  # the centre at 16 is the middle of these
        assert drawn.sum() == whole[:39:3].sum()
        assert (drawn != drawn.flip(-1).flip(-2)).flatten(1).sum(1).max() <= 4  # rounding
    heart = render_dsprites(every(2, 5, torch.tensor([[0, 0]])))
    for o in (1, 7, 19):  # about the centre at 16: columns 0..31
        left, right = heart[o][..., :32], heart[39 - o][..., :32]
        assert (left != right.flip(-1)).sum() <= 4  # sample points on the outline, up to rounding


def test_positions_cover_the_middle_half():
    """The first centre is at 16 pixels, the last at 48, in equal steps; x goes right, y down."""
    for axis in (0, 1):
        places = torch.zeros(32, 2, dtype=torch.long)
        places[:, axis] = torch.arange(32)
        factors = torch.cat([torch.tensor([[1, 5, 0]]).expand(32, 3), places], 1)
        drawn = render_dsprites(factors).squeeze(1)
        mass = drawn.sum(1 + axis).mul(torch.arange(64)).sum(1) / drawn.sum((1, 2))
        line = 15.5 + 32 * torch.arange(32) / 31
        assert (mass - line).abs().max() < 0.3  # white pixels are whole, centres are not


def test_bad_factors_are_refused():
    good = torch.tensor([[0, 0, 0, 0, 0]])
    for column, name in enumerate(("shape", "scale", "orientation", "x", "y")):
        for value in (-1, SIZES[column]):
            bad = good.clone()
            bad[0, column] = value
            with pytest.raises(ValueError, match=rf"^{name} is {value}; expected 0 to"):
                render_dsprites(bad)
    with pytest.raises(TypeError, match="whole numbers"):
        render_dsprites(good.float())
    with pytest.raises(ValueError, match=r"\(n, 5\): shape, scale"):
        render_dsprites(good[:, :4])
    with pytest.raises(ValueError, match="bool"):
        render_dsprites(good.bool())


def test_packed_images_are_data_sets_like_others(tmp_path):
    factors = all_factors()[torch.tensor([0, 5_000, 300_000, 737_279])]
    images = render_dsprites(factors)
    bits = torch.from_numpy(np.packbits(images.numpy().astype(np.uint8).reshape(4, -1), axis=1))
    data = PackedDataset(bits, (1, 64, 64), factors=factors, factor_names=module.NAMES,
                         factor_sizes=SIZES)  # fmt: skip
    assert torch.equal(data[:], images)
    assert torch.equal(data[[2, 0]], images[[2, 0]])
    assert data[-1].shape == data.shape == (1, 64, 64)
    part = data.subset([1, 3])
    assert torch.equal(part[:], images[[1, 3]])
    assert torch.equal(part.factors, factors[[1, 3]])
    assert torch.equal(data.binarized()[:], images)
    assert data.fingerprint() == data.binarized_each_time().fingerprint() != part.fingerprint()
    with pytest.raises(IndexError, match="out of range"):
        data[4]
    with pytest.raises(ValueError, match="512"):
        PackedDataset(bits[:, 1:], (1, 64, 64))
    with pytest.raises(TypeError, match="uint8"):
        PackedDataset(bits.float(), (1, 64, 64))


def test_the_cache_is_verified(tmp_path, monkeypatch, capsys):
    """A few sprites in the place of all: drawn once, read after that, drawn again if damaged."""
    monkeypatch.setattr(module, "SIZES", (3, 1, 1, 2, 2))
    made = []

    def few():
        made.append(1)
        return torch.arange(12 * 512).remainder(251).to(torch.uint8).view(12, 512)

    monkeypatch.setattr(module, "pack_all", few)
    path = tmp_path / "deep" / "sprites.bits"
    first = module._stored(path).clone()  # the file is written over below
    assert torch.equal(module._stored(path), first)
    assert len(made) == 1
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    assert torch.equal(module._stored(path), first)
    assert len(made) == 2
    assert "is damaged" in capsys.readouterr().out
    path.write_bytes(content[:1000])
    assert torch.equal(module._stored(path), first)
    assert len(made) == 3
    # A cache that can't be written costs a drawing each time, and says so.
    capsys.readouterr()
    (tmp_path / "file").touch()
    assert torch.equal(module._stored(tmp_path / "file" / "sprites.bits"), first)
    assert "were not kept" in capsys.readouterr().out


@pytest.mark.slow
def test_all_sprites(monkeypatch, tmp_path):
    """The whole set, drawn: 360 MiB, and each of 2000 at random as it is drawn by itself."""
    monkeypatch.setenv("TUTOR_CACHE", str(tmp_path))
    data = tutor.data.load("dsprites")
    assert len(data) == 737_280
    assert data.images.numel() == 737_280 * 512 < 400e6
    assert data.factor_sizes == SIZES
    chosen = torch.randint(len(data), (2_000,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(data[chosen], render_dsprites(data.factors[chosen]))
    again = tutor.data.load("dsprites")
    assert torch.equal(again.images, data.images)
