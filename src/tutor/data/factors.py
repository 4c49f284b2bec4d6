"""Factors of variation: whole numbers that say what is in an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tutor.devices import may_look


def checked_factors(factors: Tensor, names: Sequence[str], sizes: Sequence[int]) -> Tensor:
    """The factors as int64, one row an image.

    Raises:
        TypeError: if they are no tensor of whole numbers.
        ValueError: if they are not ``(n, K)``, or a factor is out of its range; the message names
            the factor.

    Example:
        >>> checked_factors(torch.tensor([[1, 5]]), ("shape", "scale"), (3, 6))
        tensor([[1, 5]])
    """
    if not isinstance(factors, Tensor) or factors.is_floating_point() or factors.is_complex():
        given = factors.dtype if isinstance(factors, Tensor) else type(factors).__name__
        raise TypeError(
            f"factors are {given}; expected a tensor of whole numbers, one row an image"
        )
    if factors.dtype == torch.bool or factors.dim() != 2 or factors.shape[1] != len(sizes):
        raise ValueError(
            f"factors are {factors.dtype} of shape {tuple(factors.shape)}; expected whole numbers "
            f"(n, {len(sizes)}): {', '.join(names)}"
        )
    factors = factors.long()
    if not may_look(factors):
        return factors
    for name, size, column in zip(names, sizes, factors.T, strict=True):
        wrong = column[(column < 0) | (column >= size)]
        if len(wrong):
            raise ValueError(f"{name} is {int(wrong[0])}; expected 0 to {size - 1}")
    return factors
