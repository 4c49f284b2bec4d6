"""Chapter 5: penalties on covariances, votes and gaps; and permuting columns, which is random."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tutor.checks.grading import Formula, Mistake, as_tensor

F64 = torch.float64


def _symmetric(dim: int, seed: int) -> Tensor:
    factor = torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return factor @ factor.T / dim


def _off(cov: Tensor) -> Tensor:
    return cov - torch.diag(cov.diagonal())


def _penalty(cov: Tensor, off: float, diag: float) -> Tensor:
    return off * _off(cov).square().sum() + diag * (cov.diagonal() - 1).square().sum()


PENALTY = Formula(
    signature="covariance_penalty(cov, lambda_off, lambda_diag)",
    truth=_penalty,
    inputs=[(torch.tensor([[1.5, -0.5], [-0.5, 0.5]], dtype=F64), 2.0, 3.0),
            (_symmetric(4, 0), 5.0, 0.5)],
    mistakes=[
        Mistake(lambda c, a, b: a * _off(c).sum() + b * (c.diagonal() - 1).square().sum(),
                "The off-diagonal entries are not squared: negative ones would be rewarded."),
        Mistake(lambda c, a, b: a * _off(c).square().sum() / 2
                + b * (c.diagonal() - 1).square().sum(),
                "Each pair was counted once; the sum over i != j has it twice."),
        Mistake(lambda c, a, b: a * c.square().sum() + b * (c.diagonal() - 1).square().sum(),
                "The diagonal is in the first sum as well."),
        Mistake(lambda c, a, b: a * _off(c).square().sum() + b * c.diagonal().square().sum(),
                "The diagonal is drawn to 0; it should be drawn to 1, the prior's variance."),
        Mistake(lambda c, a, b: a * _off(c).square().mean()
                + b * (c.diagonal() - 1).square().mean(),
                "These are means over entries; the penalty is a sum."),
        Mistake(lambda c, a, b: -_penalty(c, a, b), "This is subtracted from the objective, so as "
                                                    "part of a loss it is positive."),
    ],
)  # fmt: skip


def _score(votes: Tensor) -> Tensor:
    return votes.max(1).values.sum() / votes.sum()


VOTES = Formula(
    signature="majority_score(votes)",
    truth=_score,
    inputs=[(torch.tensor([[8.0, 1.0], [3.0, 4.0], [0.0, 4.0]], dtype=F64),),
            (torch.tensor([[5.0, 0.0, 1.0], [0.0, 7.0, 7.0]], dtype=F64),)],
    instance=(torch.tensor([[8.0, 1.0], [3.0, 4.0], [0.0, 4.0]], dtype=F64),),
    mistakes=[
        Mistake(lambda v: v.max(0).values.sum() / v.sum(),
                "You asked each factor for its favourite coordinate; the classifier asks each "
                "coordinate for its favourite factor."),
        Mistake(lambda v: 1 - _score(v), "This is the error rate; the score is the accuracy."),
        Mistake(lambda v: (v.max(1).values / v.sum(1)).mean(),
                "Coordinates with few votes count as much as those with many: average over votes, "
                "not over coordinates."),
        Mistake(lambda v: v.max(1).values.sum(), "This counts the right votes; divide by all."),
    ],
)  # fmt: skip


def _mig(information: Tensor, entropies: Tensor) -> Tensor:
    first, second = information.topk(2, 0).values
    return ((first - second) / entropies).mean()


TABLE = (torch.tensor([[1.0, 0.1], [0.2, 0.5], [0.0, 0.4]], dtype=F64),
         torch.tensor([1.25, 0.8], dtype=F64))  # fmt: skip

MIG = Formula(
    signature="mig(information, entropies)",
    truth=_mig,
    inputs=[TABLE, (torch.tensor([[0.3, 0.9, 0.2], [0.7, 0.1, 0.6], [0.1, 0.2, 0.5]], dtype=F64),
                    torch.tensor([1.0, 1.1, 0.7], dtype=F64))],
    instance=TABLE,
    mistakes=[
        Mistake(lambda i, h: (i.topk(2, 0).values[0] / h).mean(),
                "The second-best coordinate is not subtracted: copies of a knob would cost "
                "nothing."),
        Mistake(lambda i, h: (i.topk(2, 0).values[0] - i.topk(2, 0).values[1]).mean(),
                "Divide each gap by its factor's entropy; factors with many values would weigh "
                "more."),
        Mistake(lambda i, h: (i.topk(2, 1).values[:, 0] - i.topk(2, 1).values[:, 1]).mean(),
                "The gap is taken between factors, for each coordinate; it should be taken between "
                "coordinates, for each factor. (The table is transposed.)"),
        Mistake(lambda i, h: (i.topk(2, 0).values[0] - i.topk(2, 0).values[1]).sum() / h.sum(),
                "A ratio of sums; the score is the mean of the ratios."),
    ],
)  # fmt: skip


SIGNATURE = "permute_dims(z)"


def grade_permute(answer: Any) -> str | None:
    """Each column keeps its values, every column has an order of its own, and all orders occur."""
    if not callable(answer):
        return f"Pass the function {SIGNATURE} itself, without calling it."
    z = torch.arange(12.0, dtype=F64).view(4, 3)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    try:
        results = []
        for _ in range(200):
            given = z.clone()
            try:
                found = as_tensor(answer(given))
            except NotImplementedError:
                return f"{SIGNATURE} is not written yet."
            except Exception as error:  # whatever a reader's function raises is the reader's to see
                return f"{SIGNATURE} raised {type(error).__name__}: {error} (z of shape (4, 3))."
            if not torch.equal(given, z):
                return f"{SIGNATURE} changes its argument; work on a new tensor."
            results.append(found)
    finally:
        torch.set_rng_state(state)
    if results[0].shape != z.shape:
        return f"For z of shape (4, 3) the result should have that shape, not {tuple(found.shape)}."
    many = torch.stack(results)  # (200, 4, 3)
    if not torch.equal(many.sort(1).values, z.sort(0).values.expand_as(many)):
        if torch.equal(many.sort(2).values, z.expand_as(many)):
            return (
                "You permuted within each row, the coordinates of one code among themselves. Each "
                "COLUMN must keep its values: permute it across the batch."
            )
        return "A column has lost its values: sorted, it must be what it was."
    origin = (many - torch.arange(3, dtype=F64)) / 3  # which row each entry comes from
    if (origin[..., 0] == origin[..., 1]).all() and (origin[..., 1] == origin[..., 2]).all():
        return (
            "All columns have the same order: rows are shuffled as wholes, and what belonged "
            "together still does. Draw a permutation for each column."
        )
    if (origin == origin[0]).all():
        return "Every call gives the same order; draw new permutations each time."
    moved = [torch.unique(origin[:, :, j], dim=0).shape[0] for j in range(3)]
    if min(moved) == 1:
        return f"Column {moved.index(1)} is never permuted. One column may stay, but it is easy " \
               "to get the others wrong then; permute all, as the book does."  # fmt: skip
    if max(moved) <= 4:
        return (
            "The columns are only shifted by a number of rows. That tears codes apart, too, but "
            "only 4 of 24 orders occur; draw permutations."
        )
    return None


SCORES = {"covariance-penalty": PENALTY, "majority-score": VOTES, "mig": MIG}
