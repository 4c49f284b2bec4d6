"""Labels that come with a batch: refused where they are not the numbers of classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tutor.data import UNKNOWN
from tutor.devices import may_look


def checked_labels(labels: Tensor, classes: int, *, unknown: bool = False) -> Tensor:
    """The labels, if each is the number of a class.

    Args:
        labels: ``(n,)``.
        classes: their number.
        unknown: whether -1, "label unknown", is allowed too.

    Raises:
        TypeError: if labels are not whole numbers, ``torch.int64``.
        ValueError: if labels are not ``(n,)``, or one is outside 0 .. classes - 1.

    Example:
        >>> checked_labels(torch.tensor([2, -1]), 3, unknown=True)
        tensor([ 2, -1])
    """
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        given = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(
            f"labels are {given}; expected a tensor of whole numbers, torch.int64: "
            "give torch.as_tensor(labels).long()"
        )
    if labels.dim() != 1:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}; expected (n,), the number of a class each"
        )
    if not may_look(labels):
        return labels
    outside = labels[(labels < (UNKNOWN if unknown else 0)) | (labels >= classes)]
    if len(outside):
        instead = "give -1 for images" if unknown else "leave out images"
        raise ValueError(
            f"labels hold {outside[0].item()}; this model's classes are 0 to {classes - 1}: "
            f"{instead} without a class, or build the model (or its prior) with one for each label"
        )
    return labels


def images_and_labels(batch: Any, classes: int, *, unknown: bool = False) -> tuple[Tensor, Tensor]:
    """The two parts of a labelled batch, checked.

    Raises:
        TypeError: if the batch is no pair, or as `checked_labels`.
        ValueError: if there is not one label an image, or as `checked_labels`.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        given = f"{len(batch)} parts" if isinstance(batch, (tuple, list)) else "images alone"
        raise TypeError(
            f"the batch has {given}; expected (images, labels): train on dataset.labelled()"
        )
    x, labels = batch
    if len(x) != len(labels):
        raise ValueError(f"{len(x)} images have {len(labels)} labels; expected one each")
    return x, checked_labels(labels, classes, unknown=unknown)
