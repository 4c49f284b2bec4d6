"""What every score does first: look at codes and factors, and group the images by a factor."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tutor.data import Dataset
from tutor.metrics._evaluate import at_least_one

_SMALL = 65_536  # factor values in a smaller range are counted, others sorted


class Checked(NamedTuple):
    """Codes and factors that fit each other.

    Attributes:
        codes: ``(N, dim)``, float32 or float64, on the CPU.
        values: ``(K, N)`` int64: the values of each factor, numbered from 0 without gaps.
        sizes: number of values of each factor.
    """

    codes: Tensor
    values: Tensor
    sizes: tuple[int, ...]


class Groups(NamedTuple):
    """The images of each value of each factor, one after the other.

    Attributes:
        order: ``(K, N)``; row k lists all images, those of a value together.
        start: ``(K, largest size)``; where in the row a value begins.
        count: ``(K, largest size)``; how many images have it.
    """

    order: Tensor
    start: Tensor
    count: Tensor

    def draw(self, factor: Tensor, value: Tensor, generator: torch.Generator | None) -> Tensor:
        """An image that has the value of the factor, at random; all shapes are broadcast."""
        factor, value = torch.broadcast_tensors(factor, value)
        count = self.count[factor, value]
        # Of 2^62 numbers the remainder is uniform to 13 digits.
        within = torch.randint(2**62, factor.shape, generator=generator).remainder_(count)
        position = within.add_(self.start[factor, value]).add_(factor * self.order.shape[1])
        return self.order.view(-1)[position]


def checked(codes: Tensor, factors: Tensor | Dataset | None, *, least: int = 1) -> Checked:
    """Codes with at least ``least`` coordinates, and factors with at least two values each.

    Raises:
        TypeError: if codes are no floats or factors no whole numbers.
        ValueError: for a data set without factors, other shapes, different lengths, codes that
            are not finite, or a factor with one value only.
    """
    names: tuple[str, ...] = ()
    if isinstance(factors, Dataset):
        if factors.factors is None:
            raise ValueError(
                f"the data set {factors.name!r} has no factors of variation, and this score "
                "compares codes with them; it takes data that are drawn from known factors, such "
                'as tutor.data.load("dsprites")'
            )
        factors, names = factors.factors, factors.factor_names
    codes = _checked_codes(codes, least)
    _check_shape(factors, len(codes))
    columns, sizes = [], []
    for k, column in enumerate(factors.detach().cpu().T.contiguous().to(torch.int64)):
        column, size = _numbered(column)
        if size < 2:
            called = f"factor {k}" + (f" ({names[k]})" if k < len(names) else "")
            raise ValueError(
                f"{called} has one value only, so no code can follow it; leave that column out "
                "of the factors"
            )
        columns.append(column)
        sizes.append(size)
    return Checked(codes, torch.stack(columns), tuple(sizes))


def group(values: Tensor, sizes: tuple[int, ...], *, at_least: int, why: str) -> Groups:
    """Group the images by each factor's value.

    Raises:
        ValueError: if a value has fewer than ``at_least`` images.
    """
    start, count = torch.zeros(2, len(sizes), max(sizes), dtype=torch.int64)
    order = torch.empty_like(values)
    for k, (column, size) in enumerate(zip(values, sizes, strict=True)):
        # NumPy sorts 16 bits by counting, some twenty times faster than 64 by comparing.
        narrow = column.numpy() if size > _SMALL else column.numpy().astype(np.uint16)
        order[k] = torch.from_numpy(np.argsort(narrow, kind="stable"))
        count[k, :size] = torch.bincount(column, minlength=size)
        fewest, value = count[k, :size].min(0)
        if fewest < at_least:
            raise ValueError(
                f"factor {k} has only {fewest.item()} images with its value number {value.item()}, "
                f"and {why}"
            )
        start[k, 1:size] = count[k, : size - 1].cumsum(0)
    return Groups(order, start, count)


def _checked_codes(codes: Tensor, least: int) -> Tensor:
    if not isinstance(codes, Tensor) or not codes.is_floating_point():
        given = codes.dtype if isinstance(codes, Tensor) else type(codes).__name__
        raise TypeError(
            f"codes are {given}; expected a tensor of floats (N, dim), from "
            "tutor.metrics.encode_all(model, dataset)"
        )
    if codes.dim() != 2 or len(codes) == 0:
        raise ValueError(f"codes have shape {tuple(codes.shape)}; expected (N, dim)")
    if codes.shape[1] < least:
        raise ValueError(
            f"codes have {codes.shape[1]} coordinates; this score compares coordinates, and "
            f"needs at least {least}"
        )
    if bad := (~codes.isfinite()).any(1).sum().item():
        raise ValueError(
            f"{bad} of {len(codes)} codes are not finite (NaN or infinite); look for a training "
            "that diverged"
        )
    return codes.detach().cpu().to(torch.promote_types(codes.dtype, torch.float32))


def _check_shape(factors: object, n: int) -> None:
    if factors is None:
        raise ValueError(
            "factors are None: the data set has no factors of variation, and this score compares "
            'codes with them; it takes data such as tutor.data.load("dsprites")'
        )
    if not isinstance(factors, Tensor) or factors.is_floating_point() or factors.is_complex():
        given = factors.dtype if isinstance(factors, Tensor) else type(factors).__name__
        raise TypeError(
            f"factors are {given}; expected whole numbers, a LongTensor (N, K) such as "
            "dataset.factors: give a continuous factor as the number of its bin"
        )
    if factors.dim() != 2 or factors.shape[1] == 0:
        raise ValueError(f"factors have shape {tuple(factors.shape)}; expected (N, K)")
    if len(factors) != n:
        raise ValueError(
            f"there are {n} codes and {len(factors)} rows of factors; expected one row a code, "
            "in the same order"
        )


def _numbered(column: Tensor) -> tuple[Tensor, int]:
    """The values of a factor numbered 0, 1, ... in their order, and how many there are."""
    lowest, highest = column.aminmax()
    if highest - lowest >= _SMALL:
        values, numbers = column.unique(return_inverse=True)
        return numbers, len(values)
    column = column - lowest
    present = torch.bincount(column) > 0
    if present.all():
        return column, len(present)
    return (present.cumsum(0) - 1)[column], int(present.sum())


def split(
    found: Checked, train: int, test: int, generator: torch.Generator | None
) -> tuple[Checked, Checked]:
    """Images to learn from and others to be tested on, drawn without replacement.

    Raises:
        ValueError: if there are fewer images, or the first part lacks a factor's value.
    """
    at_least_one(train=train, test=test)
    n = len(found.codes)
    if train + test > n:
        raise ValueError(
            f"train + test is {train + test} and there are {n} codes; lower them, for example "
            f"to train={2 * n // 3}, test={n - 2 * n // 3}"
        )
    chosen = torch.randperm(n, generator=generator)[: train + test].split([train, test])
    first, second = (
        Checked(found.codes[index], found.values[:, index], found.sizes) for index in chosen
    )
    for k, values in enumerate(first.values):
        if len(values.unique()) < 2:
            raise ValueError(
                f"all {train} images to learn from have the same value of factor {k}; raise train"
            )
    return first, second
