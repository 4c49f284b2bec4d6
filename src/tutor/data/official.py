"""The original files of dSprites and 3D Shapes, read in pieces: neither is ever whole in memory.

Both were made from a full grid of factors, in the order that our drawings have too.  The files say
which factors each image has; an order other than that is refused.
"""

from __future__ import annotations

import contextlib
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from tutor.data import rooms, sprites
from tutor.data.dataset import Dataset
from tutor.data.download import DamagedFileError
from tutor.data.local import blocks, find_own, kept, room_for
from tutor.data.packed import PackedDataset

DSPRITES_FILE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
SHAPES3D_FILE = "3dshapes.h5"

_DSPRITES_FROM = f"get {DSPRITES_FILE} from https://github.com/google-deepmind/dsprites-dataset"
_SHAPES3D_FROM = f"get {SHAPES3D_FILE} by https://github.com/google-deepmind/3d-shapes"
_TOGETHER = 512  # images read at a time


def official_dsprites(split: str, root: Path | None) -> PackedDataset:
    """The original's sprites, as bits; every split is the whole."""
    path = find_own([DSPRITES_FILE], dataset="dsprites", how=_DSPRITES_FROM, root=root)
    return read_dsprites(path, split=split)


def official_shapes3d(split: str, root: Path | None) -> Dataset:
    """The original's rooms, mapped from the cache; every split is the whole."""
    path = find_own([SHAPES3D_FILE], dataset="shapes3d", how=_SHAPES3D_FROM, root=root)
    return read_shapes3d(path, split=split)


def read_dsprites(
    path: Path, sizes: Sequence[int] = sprites.SIZES, split: str = "all"
) -> PackedDataset:
    """Read the npz file of dSprites: ``imgs`` ``(N, 64, 64)`` and ``latents_classes`` ``(N, 6)``.

    Args:
        path: the file.
        sizes: numbers of values of shape, scale, orientation, x and y.
        split: only a name here.

    Raises:
        DamagedFileError: not such a file, cut short, of another shape or order, or with a pixel
            that is neither 0 nor 1.
        OSError: the cache can't be written.
    """
    bits = kept(path, "dsprites official", (sprites.SIDE**2 // 8,), _sprite_bits(path, sizes))
    return PackedDataset(
        bits,
        (1, sprites.SIDE, sprites.SIDE),
        factors=_grid(sizes),
        factor_names=sprites.NAMES,
        factor_sizes=sizes,
        name="dsprites",
        split=split,
    )


def read_shapes3d(path: Path, sizes: Sequence[int] = rooms.SIZES, split: str = "all") -> Dataset:
    """Read the HDF5 file of 3D Shapes: ``images`` ``(N, 64, 64, 3)`` and ``labels`` ``(N, 6)``.

    Needs h5py.

    Args:
        path: the file.
        sizes: numbers of values of floor, wall and object hue, scale, shape and orientation.
        split: only a name here.

    Raises:
        DamagedFileError: not such a file, cut short, or of another shape or order.
        ModuleNotFoundError: h5py is not installed; the message says how to install it.
        OSError: the cache can't be written.
    """
    shape = (3, rooms.SIDE, rooms.SIDE)
    images = kept(path, "shapes3d official", shape, _room_pixels(path, sizes))
    dataset = Dataset(images, name="shapes3d", split=split)
    dataset.factors = _grid(sizes)
    dataset.factor_names, dataset.factor_sizes = rooms.NAMES, tuple(sizes)
    return dataset


def _grid(sizes: Sequence[int]) -> Tensor:
    return torch.cartesian_prod(*map(torch.arange, sizes))


@contextlib.contextmanager
def _damage_named(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Turn what a reader raises on bad bytes into an error that names the file."""
    try:
        yield
    except DamagedFileError:
        raise
    except errors as error:
        raise DamagedFileError(
            f"{path} can't be read: {' '.join(str(error).split()) or type(error).__name__}. Get it "
            "again; it was left untouched"
        ) from error


def _sprite_bits(path: Path, sizes: Sequence[int]) -> Iterator[np.ndarray]:
    """The images of the npz file, 512 bytes each."""
    count, side = math.prod(sizes), sprites.SIDE
    room_for(count, (side**2 // 8,))
    # What Python raises on a broken directory, stream or header of the archive.
    errors = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, RuntimeError)
    with _damage_named(path, *errors), zipfile.ZipFile(path) as archive:
        with archive.open("latents_classes.npy") as stream:
            shape = _npy_shape(stream, path, "latents_classes", np.int64)
            if shape != (count, 6):
                raise DamagedFileError(
                    f"{path} has latents_classes of shape {shape}; expected {(count, 6)}"
                )
            table = np.concatenate(list(blocks(stream, count, 6 * 8, 1 << 16, path)))
        classes = torch.from_numpy(table.view("<i8"))
        wanted = torch.cat([torch.zeros(count, 1, dtype=torch.int64), _grid(sizes)], 1)
        _check_order(classes, wanted, path)
        with archive.open("imgs.npy") as stream:
            shape = _npy_shape(stream, path, "imgs", np.uint8)
            if shape != (count, side, side):
                raise DamagedFileError(
                    f"{path} has imgs of shape {shape}; expected {(count, side, side)}"
                )
            for pixels in blocks(stream, count, side**2, _TOGETHER, path):
                if pixels.max() > 1:
                    raise DamagedFileError(
                        f"{path} has a pixel of {pixels.max()}; those of dSprites are 0 or 1"
                    )
                yield np.packbits(pixels, axis=1)


def _npy_shape(stream: Any, path: Path, name: str, dtype: type) -> tuple[int, ...]:
    """The shape that an npy stream announces; its values come next."""
    version = npy.read_magic(stream)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise DamagedFileError(f"{path} has {name} in version {version} of the npy format")
    shape, by_column, found = read(stream)
    if found != np.dtype(dtype) or by_column:
        raise DamagedFileError(
            f"{path} has {name} of type {found}{', by columns' if by_column else ''}; expected "
            f"{np.dtype(dtype)}, by rows"
        )
    return shape


def _check_order(found: Tensor, wanted: Tensor, path: Path) -> None:
    wrong = (found != wanted).any(1).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise DamagedFileError(
            f"{path} has factors {found[row].tolist()} in row {row}; the original has "
            f"{wanted[row].tolist()} there"
        )


def _room_pixels(path: Path, sizes: Sequence[int]) -> Iterator[np.ndarray]:
    """The images of the HDF5 file, ``(n, 3, 64, 64)`` at a time."""
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path} is an HDF5 file, and h5py, which reads those, is not installed: "
            "pip install 'autoencoder-tutor[data]', or pip install h5py. load('shapes3d') without "
            "source= needs neither"
        ) from error
    count, side = math.prod(sizes), rooms.SIDE
    room_for(count, (3, side, side))
    with _damage_named(path, OSError, RuntimeError, KeyError), h5py.File(path, "r") as file:
        for name, wanted in (("images", (count, side, side, 3)), ("labels", (count, 6))):
            shape = getattr(file[name], "shape", None)  # a group has none
            if shape != wanted:
                raise DamagedFileError(f"{path} has {name} of shape {shape}; expected {wanted}")
        if file["images"].dtype != np.uint8:
            raise DamagedFileError(f"{path} has images of {file['images'].dtype}; expected uint8")
        _check_order(_ranks(file["labels"][:], sizes, path), _grid(sizes), path)
        for first in range(0, count, _TOGETHER):
            yield file["images"][first : first + _TOGETHER].transpose(0, 3, 1, 2)


def _ranks(values: np.ndarray, sizes: Sequence[int], path: Path) -> Tensor:
    """Which of its factor's values each label is, counted from the smallest."""
    columns = []
    for name, size, column in zip(rooms.NAMES, sizes, values.T, strict=True):
        known, rank = np.unique(column, return_inverse=True)
        if len(known) != size:
            raise DamagedFileError(f"{path} has {len(known)} values of {name}; expected {size}")
        columns.append(torch.from_numpy(rank.astype(np.int64)))
    return torch.stack(columns, 1)
