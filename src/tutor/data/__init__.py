"""Data sets in memory: ``load(name)`` gives a :class:`Dataset`, one tensor of images.

=================  =================================================================================
``digits``         1 797 real digits that come with scikit-learn, enlarged to 28x28; no download
``mnist``          70 000 handwritten digits, 28x28; downloaded once, or found in ``TUTOR_DATA``
``fashion_mnist``  70 000 pieces of clothing, 28x28; likewise
``dsprites``       737 280 sprites, 64x64, drawn from their factors: shape, size, orientation, x, y
``shapes3d``       480 000 rooms in colour, 64x64, drawn from six factors: see `render_shapes3d`
``celeba``         202 599 faces in colour, 64x64, from the archive that the reader has
``chairs3d``       86 366 views of 1 393 chairs in colour, 64x64; likewise
``faces3d``        grey faces, 64x64; likewise
``four_points``    the four 2x2 images on which AVB shows what a posterior can do
=================  =================================================================================

Two environment variables matter. ``TUTOR_DATA`` names a folder of the reader's with ``mnist/``,
``celeba/`` and the like in it, which is only read. ``TUTOR_CACHE`` moves the folder for downloads
and for what is drawn or read once.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path

from tutor.data.dataset import Dataset
from tutor.data.digits import digits
from tutor.data.download import DamagedFileError, cache_folder
from tutor.data.labelled import UNKNOWN, Labelled, SemiSupervised, few_labels
from tutor.data.mnist import FASHION_MNIST, MNIST, idx_dataset
from tutor.data.official import official_dsprites, official_shapes3d
from tutor.data.packed import PackedDataset
from tutor.data.pictures import CELEBA, CHAIRS3D, FACES3D, picture_dataset
from tutor.data.rendered import RenderedDataset
from tutor.data.rooms import render_shapes3d, shapes3d
from tutor.data.sprites import dsprites, render_dsprites
from tutor.data.toys import four_points, ring, ring_centres, ring_log_prob

__all__ = [
    "UNKNOWN",
    "DamagedFileError",
    "Dataset",
    "Labelled",
    "PackedDataset",
    "RenderedDataset",
    "SemiSupervised",
    "cache_folder",
    "few_labels",
    "four_points",
    "load",
    "names",
    "render_dsprites",
    "render_shapes3d",
    "ring",
    "ring_centres",
    "ring_log_prob",
]

SPLITS = ("train", "test", "all")


def _four_points(split: str, *, root: Path | None, download: bool) -> Dataset:
    dataset = four_points()
    dataset.split = split  # four points are the whole population: every split is all of them
    return dataset


_LOADERS: dict[str, Callable[..., Dataset]] = {
    "digits": lambda split, *, root, download: digits(split),
    "mnist": lambda split, **where: idx_dataset(MNIST, split, **where),
    "fashion_mnist": lambda split, **where: idx_dataset(FASHION_MNIST, split, **where),
    "dsprites": lambda split, *, root, download: dsprites(split),
    "shapes3d": lambda split, *, root, download: shapes3d(split),
    "celeba": lambda split, *, root, download: picture_dataset(CELEBA, split, root),
    "chairs3d": lambda split, *, root, download: picture_dataset(CHAIRS3D, split, root),
    "faces3d": lambda split, *, root, download: picture_dataset(FACES3D, split, root),
    "four_points": _four_points,
}

# Data sets that are drawn here, and whose original files can be read instead.
_OFFICIAL: dict[str, Callable[[str, Path | None], Dataset]] = {
    "dsprites": official_dsprites,
    "shapes3d": official_shapes3d,
}


def names() -> tuple[str, ...]:
    """The names that :func:`load` knows.

    Example:
        >>> from tutor.data import names
        >>> names()  # doctest: +NORMALIZE_WHITESPACE
        ('digits', 'mnist', 'fashion_mnist', 'dsprites', 'shapes3d', 'celeba', 'chairs3d',
         'faces3d', 'four_points')
    """
    return tuple(_LOADERS)


def load(
    name: str,
    *,
    split: str = "train",
    source: str | None = None,
    fallback: str | None = None,
    root: str | os.PathLike[str] | None = None,
    download: bool = True,
) -> Dataset:
    """Load a data set by name.

    Args:
        name: one of :func:`names`.
        split: ``"train"``, ``"test"``, or ``"all"`` for everything.
        source: for ``"dsprites"`` and ``"shapes3d"``, ``"drawn"`` (by us, as without it) or
            ``"official"``, for the original's file, which the reader has.
        fallback: the data set to take instead when ``name`` is neither on this machine nor within
            reach. One printed line says so, and the result's ``.name`` is what it really is, its
            ``.requested`` what was asked for.
        root: a folder with the files, or with a subfolder ``name`` that has them. It is looked at
            first, then ``TUTOR_DATA``, then the cache, then the network.
        download: whether to use the network.

    Raises:
        ValueError: an unknown name or split, a ``source`` where there is only one, a ``root`` that
            is no folder, or a damaged file in ``root`` or ``TUTOR_DATA`` (a
            :class:`DamagedFileError`).
        FileNotFoundError: the files are nowhere; the message says what was tried and how to go on.
        OSError: the cache can't be written.

    Example:
        >>> from tutor.data import load
        >>> ds = load("digits")
        >>> ds
        Dataset('digits', split='train', 1500 images of shape (1, 28, 28), labels 0..9)
        >>> ds[:3].shape, ds.labels[:3]
        (torch.Size([3, 1, 28, 28]), tensor([0, 1, 2]))
    """
    _check_name(name, "name")
    if fallback is not None:
        _check_name(fallback, "fallback")
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(map(repr, SPLITS))}, not {split!r}")
    _check_source(name, source)
    folder = None if root is None else Path(root).expanduser()
    if folder is not None and not folder.is_dir():
        raise ValueError(f"root={str(root)!r} is not a folder")
    try:
        if source == "official":
            return _OFFICIAL[name](split, folder)
        return _LOADERS[name](split, root=folder, download=download)
    except OSError as error:
        if fallback is None or (fallback == name and source != "official"):
            raise
        dataset = load(fallback, split=split, root=root, download=download)
        reason = str(error).splitlines()[0].rstrip(".")
        print(f"tutor.data: {reason}. Using {fallback!r} instead ({len(dataset)} images).")
        dataset.requested = name
        return dataset


def _check_source(name: str, source: str | None) -> None:
    if source is None:
        return
    if name not in _OFFICIAL:
        raise ValueError(
            f"source={source!r} was given for {name!r}, which has one source only; leave it out. "
            f"It is for {' and '.join(map(repr, _OFFICIAL))}"
        )
    if source not in ("drawn", "official"):
        raise ValueError(f"source must be 'drawn' or 'official', not {source!r}")


def _check_name(name: str, what: str) -> None:
    if name in _LOADERS:
        return
    message = f"{what}={name!r} is not a data set of tutor; there are {', '.join(_LOADERS)}"
    normal = str(name).lower().replace("-", "_")
    if near := difflib.get_close_matches(normal, _LOADERS, n=1):
        message += f". Did you mean {near[0]!r}?"
    raise ValueError(message)
