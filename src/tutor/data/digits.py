"""The 1 797 handwritten digits that come with scikit-learn, enlarged from 8x8 to 28x28."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tutor.data.dataset import Dataset

TEST_SIZE = 297


def digits(split: str) -> Dataset:
    """Real digits that need no download, in the shape of MNIST.

    The source stores grey levels 0..16 on an 8x8 grid. They are enlarged bilinearly (pixel centres
    aligned as in ``align_corners=False``): each new pixel is a weighted mean of old ones, so values
    stay within the range without clipping, which bicubic interpolation would need.

    The split is fixed and needs no random numbers: images are ordered by class (within a class, in
    the order of the source) and 297 evenly spaced ones are the test set. So both parts hold the
    ten classes in equal shares. Writers are not kept apart: the source does not name them.

    Source: scikit-learn's ``load_digits``, the test part of the UCI set "Optical Recognition of
    Handwritten Digits" (Alpaydin and Kaynak, 1998).
    """
    from sklearn.datasets import load_digits  # a slow import, needed only here

    bunch = load_digits()
    images = enlarge(torch.from_numpy(bunch.images).long())
    labels = torch.from_numpy(bunch.target).long()
    if split != "all":
        in_test = test_mask(labels)
        part = in_test if split == "test" else ~in_test
        images, labels = images[part], labels[part]
    classes = [str(digit) for digit in range(10)]
    return Dataset(images, labels, name="digits", split=split, classes=classes)


def enlarge(levels: Tensor) -> Tensor:
    """Grey levels 0..16 ``(N, 8, 8)`` to bytes ``(N, 1, 28, 28)``, bilinearly.

    All weights of 8 -> 28 are multiples of 1/14 in each direction. So whole-number arithmetic gives
    the exact result: the same bytes on every machine and with every version of torch.
    """
    one_axis = F.interpolate(torch.eye(8)[None], size=28, mode="linear", align_corners=False)[0]
    weights = (one_axis.T * 14).round().long()  # (28, 8), rows sum to 14
    scaled = weights @ levels @ weights.T  # (N, 28, 28), 14 * 14 times too large
    white = 14 * 14 * 16
    return ((scaled * 255 + white // 2) // white).to(torch.uint8).unsqueeze(1)


def test_mask(labels: Tensor) -> Tensor:
    """Which of the images are the test set: truth values ``(N,)``, ``TEST_SIZE`` of them true."""
    rank = torch.empty_like(labels)
    rank[labels.argsort(stable=True)] = torch.arange(len(labels))
    # The k-th image is taken when k * TEST_SIZE / N passes a whole number: evenly spaced picks.
    return (rank + 1) * TEST_SIZE // len(labels) > rank * TEST_SIZE // len(labels)
