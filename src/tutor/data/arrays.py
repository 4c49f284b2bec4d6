"""What a reader's own arrays must look like, and what to tell the reader when they don't."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def is_whole(values: Tensor) -> bool:
    """Whether the values are of an integer type (or truth values)."""
    return not (values.is_floating_point() or values.is_complex())


def _as_tensor(values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach()
    array = np.asarray(values)
    # torch cannot share memory with an array that is read-only or runs backwards.
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    return torch.from_numpy(array)


def checked_images(images: Any) -> Tensor:
    """``images`` as ``(N, C, H, W)``, ``uint8`` or ``float32`` in [0, 1]; else an exception."""
    if not isinstance(images, (Tensor, np.ndarray)):
        raise TypeError(
            f"images must be a tensor or a NumPy array, not {type(images).__name__}; stack a list "
            "of images with torch.stack(...)"
        )
    images = _as_tensor(images)
    if images.ndim == 3:
        images = images.unsqueeze(1)  # (N, H, W) -> (N, 1, H, W)
    if images.ndim != 4:
        raise ValueError(
            f"images must have shape (N, C, H, W) or (N, H, W), not {tuple(images.shape)}; "
            "reshape flat pixels with images.reshape(-1, 1, height, width)"
        )
    if images.numel() == 0:
        raise ValueError(f"there is no pixel in images of shape {tuple(images.shape)}")
    if images.shape[1] > 4 and images.shape[3] <= 4:
        raise ValueError(
            f"images of shape {tuple(images.shape)} seem to have their channels last; the order "
            "here is (N, C, H, W): use images.permute(0, 3, 1, 2)"
        )
    if images.dtype == torch.uint8:
        # In pieces: most data sets show in the first that they are not zeros and ones, and large
        # ones are mapped from a file.
        bright = any(piece.max() > 1 for piece in images.split(4096))
        if not bright and images.max() == 1:
            raise ValueError(
                "uint8 images must use the range 0..255, but their largest value is 1: they would "
                "be read as almost black; pass images.float(), or images * 255"
            )
        return images
    if not images.is_floating_point():
        raise TypeError(
            f"images of type {images.dtype} have no agreed range; pass uint8 in 0..255 "
            "(images.to(torch.uint8)) or floating point in [0, 1] (images.float() / 255)"
        )
    low, high = images.min().item(), images.max().item()
    if not (low >= 0 and high <= 1):  # written so that NaN fails too
        raise ValueError(
            f"floating-point images must lie in [0, 1], but these range from {low} to "
            f"{high}; divide by 255 if they are 0..255, or map [-1, 1] with (x + 1) / 2"
        )
    return images.to(torch.float32)


def checked_labels(labels: Any, n: int) -> Tensor:
    """``labels`` as a LongTensor ``(n,)``; else an exception."""
    labels = _as_tensor(labels)
    if labels.dtype == torch.bool or not is_whole(labels):
        raise TypeError(
            f"labels must be whole numbers, not {labels.dtype}; convert with labels.long()"
        )
    if labels.ndim != 1 or len(labels) != n:
        raise ValueError(
            f"labels must have shape ({n},), one per image, not {tuple(labels.shape)}; one-hot "
            "labels become numbers with labels.argmax(1)"
        )
    return labels.to(torch.int64)
