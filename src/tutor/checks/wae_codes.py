"""Chapter 4, codes: the discrepancy, its noise, the weight of the penalty, linear decoders."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tutor.checks.grading import Formula, Mistake
from tutor.kernels import imq, mmd, rbf

F64 = torch.float64


def _draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def _truth(x: Tensor, y: Tensor, scale: float) -> Tensor:
    return mmd(x, y, kernel=imq(scale))


def _tables(x: Tensor, y: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    k = imq(scale)
    return k(x, x), k(y, y), k(x, y)


def _with_pairs(x: Tensor, y: Tensor, scale: float) -> Tensor:
    xx, yy, xy = _tables(x, y, scale)
    return xx.mean() + yy.mean() - 2 * xy.mean()


def _mixed(x: Tensor, y: Tensor, scale: float) -> Tensor:
    """Sums with the diagonal over n (n - 1)."""
    xx, yy, xy = _tables(x, y, scale)
    n, m = len(x), len(y)
    return xx.sum() / (n * (n - 1)) + yy.sum() / (m * (m - 1)) - 2 * xy.mean()


def _twice(x: Tensor, y: Tensor, scale: float) -> Tensor:
    xx, yy, xy = _tables(x, y, scale)
    n, m = len(x), len(y)
    return xx.mean() / (n * (n - 1)) + yy.mean() / (m * (m - 1)) - 2 * xy.mean() / (n * m)


def _cross(x: Tensor, y: Tensor, scale: float, factor: float) -> Tensor:
    return _truth(x, y, scale) + (2 - factor) * _tables(x, y, scale)[2].mean()


def _folded(x: Tensor, y: Tensor, scale: float) -> Tensor:
    """Coordinates added up before anything is squared."""
    return mmd(x.sum(1, keepdim=True), y.sum(1, keepdim=True), kernel=imq(scale))


MMD_INSTANCE = (torch.tensor([[0.0], [1.0]], dtype=F64),
                torch.tensor([[2.0], [3.0]], dtype=F64), 2.0)  # fmt: skip

MMD = Formula(
    signature="mmd(x, y, scale)",
    truth=_truth,
    inputs=[MMD_INSTANCE, (_draw(6, 3, seed=0), _draw(4, 3, seed=1) + 0.5, 3.0)],
    instance=MMD_INSTANCE,
    mistakes=[
        Mistake(_with_pairs,
                "Each point is paired with itself: k = 1 there, and the result is too large by "
                "about 1/n. Leave the diagonal out and divide by n (n - 1)."),
        Mistake(_mixed, "Divided by n (n - 1), but the diagonal is still in the sum."),
        Mistake(_twice, "Divided twice: a mean over all pairs, and then by n (n - 1) again."),
        Mistake(lambda x, y, c: _cross(x, y, c, 1.0),
                "The cross term enters twice: -2 E k(x, y)."),
        Mistake(lambda x, y, c: _cross(x, y, c, -2.0),
                "The sign of the cross term: likeness of x to y LOWERS the discrepancy."),
        Mistake(lambda x, y, c: _cross(x, y, c, 0.0), "The cross term is missing."),
        Mistake(lambda x, y, c: mmd(x, y, kernel=lambda a, b: c / (c + torch.cdist(a, b))),
                "The distance is not squared in the kernel."),
        Mistake(_folded, "The coordinates were added up before squaring: square each difference, "
                         "then add over the dimensions."),
        Mistake(lambda x, y, c: mmd(x, y, kernel=rbf(c)), "This is the Gaussian kernel."),
        Mistake(lambda x, y, c: _truth(x, y, c).abs().sqrt(),
                "This is its root; the squared discrepancy is asked for (and may be negative)."),
        Mistake(lambda x, y, c: -_truth(x, y, c), "The sign is flipped."),
    ],
)  # fmt: skip


def _null(zeta: float, n: int, m: int) -> float:
    return math.sqrt(zeta * (2 / (n * (n - 1)) + 2 / (m * (m - 1)) + 4 / (n * m)))


NULL_INSTANCE = (0.02, 100, 50)

NULL = Formula(
    signature="null_std(zeta, n, m)",
    truth=_null,
    inputs=[NULL_INSTANCE, (0.3, 20, 10), (0.3, 10, 10)],
    instance=NULL_INSTANCE,
    mistakes=[
        Mistake(lambda z, n, m: _null(z, n, m) ** 2, "This is the variance."),
        Mistake(lambda z, n, m: math.sqrt(z * (2 / (n * (n - 1)) + 2 / (m * (m - 1)))),
                "The cross term has noise, too: 4 zeta / (n m)."),
        Mistake(lambda z, n, m: math.sqrt(z * (1 / (n * (n - 1)) + 1 / (m * (m - 1))
                                               + 4 / (n * m))),
                "Pairs (i, j) and (j, i) are the same number: a sum over n (n - 1) ordered pairs "
                "has variance 2 n (n - 1) zeta."),
        Mistake(lambda z, n, m: math.sqrt(z * (2 / (n * (n - 1)) + 2 / (m * (m - 1))
                                               + 2 / (n * m))),
                "The cross term stands with a factor 2, and its variance with 4."),
        Mistake(lambda z, n, m: math.sqrt(z * (1 / n + 1 / m)),
                "That would be a mean of single points. Under the null the terms of single points "
                "cancel, and only pairs remain."),
    ],
    tolerance=1e-6,
)  # fmt: skip


def _weight(written: float, factor: float) -> float:
    return written / factor


WEIGHT_INSTANCE = (10.0, 0.05)

WEIGHT = Formula(
    signature="true_lambda(written, factor)",
    truth=_weight,
    inputs=[WEIGHT_INSTANCE, (10.0, 1 / 784), (3.0, 0.5)],
    instance=WEIGHT_INSTANCE,
    mistakes=[
        Mistake(lambda w, f: w * f, "Divide the whole loss by the factor of the cost: a small cost "
                                    "makes the penalty weigh MORE."),
        Mistake(lambda w, f: w, "The factor changes the balance of the two terms."),
        Mistake(lambda w, f: w / f**2, "The factor counts once."),
    ],
)  # fmt: skip


def _left(eigenvalues: Tensor, dim: int) -> Tensor:
    return eigenvalues.sort(descending=True).values[dim:].sum()


LINEAR_INSTANCE = (torch.tensor([4.0, 2.5, 1.0, 0.3, 0.2], dtype=F64), 2)

LINEAR = Formula(
    signature="linear_cost(eigenvalues, dim)",
    truth=_left,
    inputs=[LINEAR_INSTANCE, (torch.tensor([0.5, 3.0, 1.5, 2.0], dtype=F64), 3)],
    instance=LINEAR_INSTANCE,
    mistakes=[
        Mistake(lambda e, d: e.sort(descending=True).values[:d].sum(),
                "This is the variance that is kept; the cost is what is left."),
        Mistake(lambda e, d: e.sort(descending=True).values[d:].sqrt().sum(),
                "Eigenvalues are variances: their sum is the squared error, no root."),
        Mistake(lambda e, d: e.sort(descending=True).values[d:].mean(),
                "This is the mean of the others: s^2 of probabilistic PCA."),
        Mistake(lambda e, d: e.sort(descending=True).values[d:].sum() / 2,
                "Half of it is the Gaussian log-likelihood's share; the cost is |x - y|^2."),
        Mistake(lambda e, d: e[d:].sum(), "The eigenvalues come in any order; sort them."),
        Mistake(lambda e, d: e.sort().values[d:].sum(), "You dropped the smallest ones."),
    ],
)  # fmt: skip

CODES = {
    "mmd": MMD,
    "null-std": NULL,
    "true-lambda": WEIGHT,
    "linear-cost": LINEAR,
}
