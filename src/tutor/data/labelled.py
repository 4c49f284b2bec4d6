"""Images with labels, for models that learn from both: all labels, a few, or none.

`tutor.fit` hands a model whatever its data source's ``take`` returns.  A `Dataset` returns images;
the two sources here return tuples.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from tutor.data.dataset import Dataset

UNKNOWN = -1
"""The label of an image whose class the model is not told."""


class Labelled:
    """A data set whose batches are ``(images, labels)``; labels not known are -1.

    Args:
        dataset: images with labels.
        known: rows whose label the model may see, LongTensor ``(k,)``; all rows without it.

    Raises:
        ValueError: if the data set has no labels, or a row is beyond it.
        TypeError: if ``known`` is not a LongTensor.

    Example:
        >>> from tutor.data import four_points
        >>> images, labels = Labelled(four_points(), known=torch.tensor([2])).take(torch.arange(4))
        >>> images.shape, labels
        (torch.Size([4, 1, 2, 2]), tensor([-1, -1,  2, -1]))
    """

    def __init__(self, dataset: Dataset, known: Tensor | None = None) -> None:
        labels = _labels_of(dataset)
        self.dataset = dataset
        self.labels = labels
        if known is not None:
            known = _rows(known, len(dataset)).to(labels.device)
            self.labels = torch.full_like(labels, UNKNOWN)
            self.labels[known] = labels[known]

    def __len__(self) -> int:
        return len(self.dataset)

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``(n, C, H, W)`` and labels ``(n,)`` of these rows."""
        return self.dataset.take(index), self.labels[index.to(self.labels.device)]

    def to(self, device: torch.device) -> Labelled:
        other = object.__new__(type(self))
        other.dataset, other.labels = self.dataset.to(device), self.labels.to(device)
        return other

    def fingerprint(self) -> str:
        return _digest(self.dataset.fingerprint(), self.labels.cpu().numpy().tobytes())

    def __repr__(self) -> str:
        known = int((self.labels != UNKNOWN).sum())
        return f"Labelled({self.dataset!r}, {known} labels known)"


class SemiSupervised:
    """Batches of unlabelled images, each beside a batch drawn from the few labelled ones.

    ``take(index)`` returns ``(images, labelled_images, labels)``.  The images are the rows asked
    for, without their labels; the labelled batch is drawn with replacement from ``known``, with
    torch's default generator, which `tutor.fit` seeds.

    Args:
        dataset: images with labels.
        known: rows whose label the model may see, LongTensor ``(k,)``.
        batch_size: labelled images in a batch.

    Raises:
        ValueError: if the data set has no labels, a row is beyond it, ``known`` is empty or lacks
            a class of the data set, or ``batch_size`` is below 1.
        TypeError: if ``known`` is not a LongTensor.

    Example:
        >>> from tutor.data import four_points
        >>> source = SemiSupervised(four_points(), known=torch.arange(4), batch_size=8)
        >>> [part.shape[0] for part in source.take(torch.tensor([0, 1, 2]))]
        [3, 8, 8]
    """

    def __init__(self, dataset: Dataset, known: Tensor, batch_size: int = 100) -> None:
        labels = _labels_of(dataset)
        known = _rows(known, len(dataset)).to(labels.device)
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; a labelled batch needs an image")
        missing = sorted(set(labels.unique().tolist()) - set(labels[known].unique().tolist()))
        if missing:
            raise ValueError(
                f"{len(known)} labelled rows hold no example of class {missing[0]}; every class "
                "needs at least one: tutor.data.few_labels draws equally many of each"
            )
        self.dataset, self.known, self.batch_size = dataset, known, batch_size

    def __len__(self) -> int:
        return len(self.dataset)

    def take(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        where = self.known.device
        rows = self.known[torch.randint(len(self.known), (self.batch_size,), device=where)]
        return self.dataset.take(index), self.dataset.take(rows), self.dataset.labels[rows]

    def to(self, device: torch.device) -> SemiSupervised:
        other = object.__new__(type(self))
        other.dataset, other.known = self.dataset.to(device), self.known.to(device)
        other.batch_size = self.batch_size
        return other

    def fingerprint(self) -> str:
        rows = self.known.cpu().numpy().tobytes()
        return _digest(self.dataset.fingerprint(), rows + f"|{self.batch_size}".encode())

    def __repr__(self) -> str:
        return f"SemiSupervised({self.dataset!r}, {len(self.known)} labels known)"


def few_labels(dataset: Dataset, n: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw n rows, equally many of each class: those whose labels a model may see.

    Args:
        dataset: images with labels.
        n: number of rows, a multiple of the number of classes.
        generator: source of the draw, on the CPU.

    Returns:
        LongTensor ``(n,)``, sorted.

    Raises:
        ValueError: if there are no labels, n is not a positive multiple of the number of classes,
            or a class has too few images.

    Example:
        >>> from tutor.data import load
        >>> ds = load("digits")
        >>> rows = few_labels(ds, 100, generator=torch.Generator().manual_seed(0))
        >>> ds.labels[rows].bincount()
        tensor([10, 10, 10, 10, 10, 10, 10, 10, 10, 10])
    """
    labels = _labels_of(dataset).cpu()
    classes = labels.unique()
    if n < len(classes) or n % len(classes):
        raise ValueError(
            f"n is {n}; expected a multiple of the {len(classes)} classes, so that every class has "
            "equally many labels"
        )
    each = n // len(classes)
    rows = []
    for k in classes:
        of_class = (labels == k).nonzero().squeeze(1)
        if len(of_class) < each:
            raise ValueError(
                f"class {int(k)} has {len(of_class)} images, fewer than the {each} asked for; "
                "ask for fewer labels"
            )
        rows.append(of_class[torch.randperm(len(of_class), generator=generator)[:each]])
    return torch.cat(rows).sort().values


def _labels_of(dataset: Dataset) -> Tensor:
    labels = getattr(dataset, "labels", None)
    if labels is None:
        raise ValueError(f"{dataset!r} has no labels; give a data set that has them")
    return labels


def _rows(known: Tensor, n: int) -> Tensor:
    if not isinstance(known, Tensor) or known.dtype != torch.int64 or known.dim() != 1:
        given = known.dtype if isinstance(known, Tensor) else type(known).__name__
        raise TypeError(
            f"known is {given}; expected the rows as a LongTensor (k,), such as "
            "tutor.data.few_labels gives"
        )
    if len(known) == 0:
        raise ValueError("known is empty; give at least one row whose label is known")
    beyond = known[(known < 0) | (known >= n)]
    if len(beyond):
        raise ValueError(f"known holds row {int(beyond[0])}; the data set has rows 0 to {n - 1}")
    return known


def _digest(images: str, seen: bytes) -> str:
    return hashlib.sha256(images.encode() + b"|" + seen).hexdigest()[:16]
