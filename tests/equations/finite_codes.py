"""A finite world: five images, codes of three coordinates, every expectation a sum."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tests.metrics.worlds import generator

F64 = torch.float64
SIZES = (2, 3, 2)  # values of the three coordinates of a code


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum()


def entropy(p: Tensor) -> Tensor:
    return -torch.special.xlogy(p, p).sum()


def marginal(q: Tensor, kept: tuple[int, ...]) -> Tensor:
    """The table of the kept coordinates, with places of size one for the others."""
    gone = tuple(j for j in range(q.dim()) if j not in kept)
    return q.sum(gone, keepdim=True) if gone else q


def product_of_marginals(q: Tensor) -> Tensor:
    table = torch.ones_like(q)
    for j in range(q.dim()):
        table = table * marginal(q, (j,))
    return table


class FiniteWorld:
    """Five images, codes of three coordinates; every expectation is a sum."""

    def __init__(self, seed: int = 0) -> None:
        g = generator(seed)

        def table(rows: int, columns: int) -> Tensor:
            return (1.5 * torch.randn(rows, columns, generator=g, dtype=F64)).softmax(1)

        codes = math.prod(SIZES)
        self.data = table(1, 5)[0]
        self.encoder = table(5, codes)  # q(z|x)
        self.decoder = table(codes, 5)  # p(x|z)
        self.parts = [table(1, size)[0] for size in SIZES]  # p(z_j)
        p = torch.ones(SIZES, dtype=F64)
        for j, part in enumerate(self.parts):
            p = p * part.view([-1 if i == j else 1 for i in range(3)])
        self.prior = p.flatten()

    @property
    def q(self) -> Tensor:
        return (self.data @ self.encoder).view(SIZES)

    @property
    def log_likelihood_of_codes(self) -> Tensor:
        """E_p_d E_q(z|x) log p(x|z)."""
        return (self.data[:, None] * self.encoder * self.decoder.T.log()).sum()

    @property
    def rate(self) -> Tensor:
        return (self.data * torch.stack([kl(row, self.prior) for row in self.encoder])).sum()

    @property
    def information(self) -> Tensor:
        joint = self.data[:, None] * self.encoder
        return entropy(self.data) + entropy(joint.sum(0)) - entropy(joint)

    @property
    def total_correlation(self) -> Tensor:
        return kl(self.q, product_of_marginals(self.q))
