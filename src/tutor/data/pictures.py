"""CelebA, 3D Chairs and 3D Faces, from the files that a reader has: cropped, scaled, kept.

The first use decodes every picture, which takes some minutes, and keeps 64x64 pixels as bytes in
the cache folder; later uses map that file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from tutor.data.archives import opened, picture, picture_size
from tutor.data.dataset import Dataset
from tutor.data.download import DamagedFileError
from tutor.data.local import find_own, kept, room_for

SIDE = 64
_TOGETHER = 256  # images written at a time


@dataclass(frozen=True)
class PictureSet:
    """What the pictures of a data set are called, how many there are, and what is made of them.

    Attributes:
        places: names of the archive or folder that holds them; any will do.
        how: where to get it.
        pattern: of a picture's path in there; other files are passed over.  Pictures are in the
            order of their paths.
        channels: 1 or 3.
        size: width and height of every picture; None for squares, all as large as the first.
        crop: left, upper, right, lower edge of the part that is kept; None for all of it.
        count: how many pictures there must be; None for any number.
        splits: first row, and the one after the last, of a split; each is the whole without it.
        per_label: consecutive pictures that share a label; None without labels.
    """

    name: str
    places: tuple[str, ...]
    how: str
    pattern: str
    channels: int
    size: tuple[int, int] | None = None
    crop: tuple[int, int, int, int] | None = None
    count: int | None = None
    splits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    per_label: int | None = None


# The middle 140x140 pixels, as in the authors' code of the WAE (datahandler.py, "closecrop").  They
# keep 20 000 images at random for tests; these are the splits of the data set's own partition.
CELEBA = PictureSet(
    name="celeba",
    places=("img_align_celeba.zip", "img_align_celeba"),
    how="get img_align_celeba.zip (Align&Cropped Images) from "
    "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html; it need not be unpacked",
    pattern=r"(?:.*/)?\d{6}\.jpg",
    channels=3,
    size=(178, 218),
    crop=(19, 39, 159, 179),
    count=202_599,
    splits={"train": (0, 162_770), "test": (182_637, 202_599)},
)

# Labels are the models.  A picture is scaled whole, its margin included.
CHAIRS3D = PictureSet(
    name="chairs3d",
    places=("rendered_chairs.tar", "rendered_chairs"),
    how="get rendered_chairs.tar from https://www.di.ens.fr/willow/research/seeing3Dchairs/; it "
    "need not be unpacked",
    pattern=r"(?:.*/)?[^/]+/renders/image_\d{3}_[^/]+\.png",
    channels=3,
    count=1393 * 62,
    per_label=62,
)

FACES3D = PictureSet(
    name="faces3d",
    places=("faces3d.zip", "faces3d.tar", "faces3d"),
    how="these renderings of the Basel Face Model (https://faces.dmi.unibas.ch/bfm/) are not "
    "public; render your own, as square grey PNG or JPEG pictures",
    pattern=r"(?:.*/)?[^/.][^/]*\.(?:png|jpg|jpeg)",
    channels=1,
)


def picture_dataset(source: PictureSet, split: str, root: Path | None) -> Dataset:
    """Read a data set of pictures.

    Raises:
        FileNotFoundError: the files are not on this machine; the message says where to get them.
        DamagedFileError: an archive that is not whole, climbs out of itself or holds links; another
            number of pictures, or a picture that is damaged or of another size.
        OSError: the cache can't be written.
    """
    path = find_own(source.places, dataset=source.name, how=source.how, root=root)
    recipe = f"{source.name} {source.crop} {source.pattern} {source.count}"
    images = kept(path, recipe, (source.channels, SIDE, SIDE), _pixels(source, path))
    labels = None
    if source.per_label is not None:
        labels = torch.arange(len(images)) // source.per_label
    first, end = source.splits.get(split, (0, len(images)))
    return Dataset(
        images[first:end],
        None if labels is None else labels[first:end],
        name=source.name,
        split=split,
    )


def _pixels(source: PictureSet, path: Path) -> Iterator[np.ndarray]:
    """All pictures, ``(n, C, 64, 64)`` at a time."""
    with opened(path) as (files, read):
        names = [name for name in files if re.fullmatch(source.pattern, name, re.IGNORECASE)]
        _check_count(source, names, path)
        room_for(len(names), (source.channels, SIDE, SIDE))
        size = source.size
        for first in range(0, len(names), _TOGETHER):
            together = names[first : first + _TOGETHER]
            piece = np.empty((len(together), source.channels, SIDE, SIDE), np.uint8)
            for row, name in zip(piece, together, strict=True):
                content = read(name)
                if size is None:
                    size = _square(content, f"{name} in {path}")
                row[:] = picture(content, f"{name} in {path}", channels=source.channels, side=SIDE,
                                 size=size, crop=source.crop)  # fmt: skip
            yield piece


def _square(content: bytes, name: str) -> tuple[int, int]:
    """The size of the first picture, which all others must have."""
    width, height = picture_size(content, name)
    if width != height:
        raise DamagedFileError(f"{name} has {width}x{height} pixels; expected a square")
    return width, height


def _check_count(source: PictureSet, names: list[str], path: Path) -> None:
    if not names or len(names) != (source.count or len(names)):
        wanted = "at least one" if source.count is None else source.count
        raise DamagedFileError(
            f"{path} holds {len(names)} pictures of {source.name!r}; expected {wanted}. For other "
            "pictures, or a part of these, stack them yourself: tutor.data.Dataset(images)"
        )
    if source.per_label is None:
        return
    for folder, number in Counter(name.rpartition("/")[0] for name in names).items():
        if number != source.per_label:
            raise DamagedFileError(
                f"{path} holds {number} pictures in {folder}; expected {source.per_label}"
            )
