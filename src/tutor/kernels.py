"""Kernels, and the maximum mean discrepancy: a distance between samples that needs no training.

A kernel ``k(x, y)`` is a measure of likeness.  Two distributions are alike when points of one are
as like points of the other as they are like one another.  What `mmd` estimates is computed
exactly, for Gaussians, by `tutor.kernel_theory`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tutor.devices import may_look

PAPER_FACTORS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""The seven factors of the authors' code, applied to ``C = 2 d sigma^2``."""

FAMILIES = ("imq", "rbf")
_ENTRIES = 4_000_000  # entries of a table at once


@dataclass(frozen=True)
class Kernel:
    """A sum of kernels of one family, one for each scale; made by `imq` or `rbf`.

    Called with points ``(n, dim)`` and ``(m, dim)`` it gives the table ``k(x_i, y_j)``,
    ``(n, m)``.

    Example:
        >>> imq(4.0)(torch.zeros(1, 2), torch.tensor([[0.0, 0.0], [2.0, 0.0]]))
        tensor([[1.0000, 0.5000]])
    """

    family: Literal["imq", "rbf"]
    scales: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"family is {self.family!r}; choose one of {', '.join(FAMILIES)}")
        if not self.scales or not all(0 < c < math.inf for c in self.scales):
            raise ValueError(
                f"scales are {self.scales}; expected at least one, each a positive number in the "
                "unit of a squared distance"
            )

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return self.of_squares(squared_distances(x, y))

    def of_squares(self, squares: Tensor) -> Tensor:
        """The kernel as a function of the squared distance, same shape."""
        if self.family == "imq":
            return sum(c / (c + squares) for c in self.scales)
        return sum(torch.exp(-squares / c) for c in self.scales)


def imq(scales: float | Sequence[float]) -> Kernel:
    """The inverse multiquadric kernel, ``sum_C C / (C + |x - y|^2)``.

    It falls like ``C / |x - y|^2``, so that a code far from all others still feels them.
    Book equation: imq-kernel.  Source: Tolstikhin et al. (arXiv 1711.01558), section 4.

    Args:
        scales: the C, one or several, in the unit of a squared distance; `prior_scales` has the
            paper's.

    Raises:
        ValueError: for no scale, or one that is not positive.

    Example:
        >>> imq(prior_scales(8)).scales
        (1.6, 3.2, 8.0, 16.0, 32.0, 80.0, 160.0)
    """
    return Kernel("imq", _tuple(scales))


def rbf(scales: float | Sequence[float]) -> Kernel:
    """The Gaussian kernel, ``sum_C exp(-|x - y|^2 / C)``.

    A width of sigma in ``exp(-|x - y|^2 / (2 sigma^2))`` is the scale ``C = 2 sigma^2``.
    Book equation: rbf-kernel.

    Args:
        scales: the C, one or several, in the unit of a squared distance.

    Raises:
        ValueError: for no scale, or one that is not positive.

    Example:
        >>> rbf(4.0)(torch.zeros(1, 2), torch.tensor([[2.0, 0.0]]))  # exp(-1)
        tensor([[0.3679]])
    """
    return Kernel("rbf", _tuple(scales))


def prior_scales(
    dim: int, std: float = 1.0, factors: Sequence[float] = PAPER_FACTORS
) -> tuple[float, ...]:
    """``C = 2 d sigma^2`` times each factor; C is the mean squared distance of two prior samples.

    Book equation: prior-distance.  Source: Tolstikhin et al. (arXiv 1711.01558), section 4; the
    factors are those of the authors' code.

    Args:
        dim: d, number of latent dimensions.
        std: sigma, standard deviation of a coordinate of the prior.
        factors: what C is multiplied by; one scale each.

    Raises:
        ValueError: for no dimension, or a std that is not positive.

    Example:
        >>> prior_scales(8, factors=[1.0])
        (16.0,)
    """
    if dim < 1 or not std > 0:
        raise ValueError(f"dim is {dim} and std {std}; expected at least 1, and a positive number")
    return tuple(factor * 2 * dim * std**2 for factor in factors)


def mmd(
    x: Tensor, y: Tensor, *, kernel: Kernel | Callable[[Tensor, Tensor], Tensor] | str = "imq"
) -> Tensor:
    """The squared maximum mean discrepancy of two distributions, estimated without bias.

    ``1/(n(n-1)) sum_{i != j} k(x_i, x_j) + 1/(m(m-1)) sum_{i != j} k(y_i, y_j)
    - 2/(nm) sum_{i,j} k(x_i, y_j)``

    No point is paired with itself (a U-statistic), so the mean over samples is exact, and between
    equal distributions it is 0: **about every other value is negative**.  With those pairs left
    in (a V-statistic) the estimate is never negative, and too large by
    ``(E k(x, x) - E k(x, x')) / n`` and the same for y.  `tutor.kernel_theory.mmd_null_std` says
    how far a value is from 0 by chance.  Book equations: mmd-estimate, mmd-bias.
    Source: Gretton et al. (2012), A kernel two-sample test, lemma 6; Tolstikhin et al.
    (arXiv 1711.01558), algorithm 2.

    Args:
        x: points ``(n, dim)``, one a row; gradients flow to it.
        y: points ``(m, dim)``, likewise.
        kernel: of `imq` or `rbf`; a function of points ``(n, dim)`` and ``(m, dim)`` that gives
            ``(n, m)``; or a name, ``"imq"`` (the paper's seven scales for N(0, I)) or ``"rbf"``
            (one scale, ``C = 2 dim``).

    Returns:
        A scalar, in the dtype of the points.

    Raises:
        TypeError: if x or y is not a tensor of floats, or the kernel neither name nor function.
        ValueError: for other shapes, fewer than two points, points that are not finite, an
            unknown name, or a kernel that gives another shape.

    Example:
        >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])
        >>> mmd(x, y, kernel=rbf(1.0))  # 2 exp(-1) - (exp(-1) + 2 exp(-4) + exp(-9)) / 2
        tensor(0.5334)
    """
    _check(x, y)
    k = as_kernel(kernel, x.shape[1])
    n, m = len(x), len(y)
    within_x = _sum(k, x, x, diagonal=False) / (n * (n - 1))
    within_y = _sum(k, y, y, diagonal=False) / (m * (m - 1))
    return within_x + within_y - 2 * _sum(k, x, y) / (n * m)


def as_kernel(
    kernel: Kernel | Callable[[Tensor, Tensor], Tensor] | str, dim: int, std: float = 1.0
) -> Callable[[Tensor, Tensor], Tensor]:
    """A kernel by its name, at the scales of a prior with ``dim`` coordinates; or as it is.

    Raises:
        TypeError: if it is neither a name nor a function.
        ValueError: for an unknown name.

    Example:
        >>> as_kernel("rbf", 2)
        Kernel(family='rbf', scales=(4.0,))
    """
    if kernel == "imq":
        return imq(prior_scales(dim, std))
    if kernel == "rbf":
        return rbf(prior_scales(dim, std, factors=[1.0]))
    if isinstance(kernel, str):
        raise ValueError(f"kernel is {kernel!r}; choose one of {', '.join(FAMILIES)}, or give one")
    if not callable(kernel):
        raise TypeError(
            f"kernel is a {type(kernel).__name__}; expected a name, tutor.kernels.imq(...), "
            "tutor.kernels.rbf(...), or a function k(x, y) that gives a table (n, m)"
        )
    return kernel


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """``|x_i - y_j|^2``, shape ``(n, m)``; exactly 0 for equal points, and never negative.

    Example:
        >>> squared_distances(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
        tensor([[25.]])
    """
    # Not |x|^2 + |y|^2 - 2 x.y: its terms cancel, and close points would get a wrong distance.
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()


def _sum(k: Callable, x: Tensor, y: Tensor, *, diagonal: bool = True) -> Tensor:
    """Sum of the table, a block of rows at a time; without the pairs (i, i) if so wished."""
    total, start = x.new_zeros(()), 0
    for rows in x.split(max(1, _ENTRIES // len(y))):
        table = k(rows, y)
        if table.shape != (len(rows), len(y)):
            raise ValueError(
                f"the kernel gave shape {tuple(table.shape)} for {len(rows)} and {len(y)} points; "
                f"expected ({len(rows)}, {len(y)}), one value a pair"
            )
        total = total + table.sum()
        if not diagonal:
            total = total - table.diagonal(offset=start).sum()
        start += len(rows)
    return total


def _check(x: Tensor, y: Tensor) -> None:
    for name, points in (("x", x), ("y", y)):
        if not isinstance(points, Tensor) or not points.is_floating_point():
            given = points.dtype if isinstance(points, Tensor) else type(points).__name__
            raise TypeError(f"{name} is {given}; expected a tensor of floats (n, dim)")
        if points.dim() != 2 or len(points) < 2 or points.shape[1] < 1:
            raise ValueError(
                f"{name} has shape {tuple(points.shape)}; expected (n, dim) with n of at least 2: "
                "the MMD compares the points of a sample with one another, and one point (a "
                "batch of one) has no other"
            )
        if may_look(points) and (bad := (~points.isfinite()).any(1).sum().item()):
            raise ValueError(
                f"{bad} of {len(points)} points of {name} are not finite (NaN or infinite); "
                "look for a training that diverged"
            )
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x has {x.shape[1]} dimensions and y {y.shape[1]}; expected the same")
    if x.dtype != y.dtype or x.device != y.device:
        raise TypeError(
            f"x is {x.dtype} on {x.device}, y {y.dtype} on {y.device}; convert one with y.to(x)"
        )


def _tuple(scales: float | Sequence[float]) -> tuple[float, ...]:
    return (float(scales),) if isinstance(scales, int | float) else tuple(map(float, scales))
