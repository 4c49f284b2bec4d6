"""Chapter 5: total correlation, the discriminator's losses, permuted rows, weights, scores."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from tutor.checks.grading import Formula, Mistake
from tutor.metrics.minibatch import stratified_log_weights

F64 = torch.float64


def _draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def _covariance(dim: int, seed: int) -> Tensor:
    factor = _draw(dim, dim, seed=seed)
    return factor @ factor.T + 0.3 * torch.eye(dim, dtype=F64)


def _gaussian_tc(cov: Tensor) -> Tensor:
    return 0.5 * (cov.diagonal().log().sum() - torch.logdet(cov))


def _kl_to_standard(cov: Tensor) -> Tensor:
    return 0.5 * (cov.trace() - len(cov) - torch.logdet(cov))


GAUSSIAN_TC = Formula(
    signature="gaussian_tc(cov)",
    truth=_gaussian_tc,
    inputs=[(_covariance(2, 0),), (_covariance(5, 1),)],
    instance=(torch.tensor([[1.0, 0.6], [0.6, 1.0]], dtype=F64),),
    mistakes=[
        Mistake(lambda c: 2 * _gaussian_tc(c), "Twice too large: entropies of Gaussians have the "
                                               "factor 1/2."),
        Mistake(lambda c: -_gaussian_tc(c), "The sign is flipped: a total correlation is never "
                                            "negative."),
        Mistake(lambda c: -0.5 * torch.logdet(c),
                "The variances are missing: this is right for unit variances only."),
        Mistake(_kl_to_standard, "This is KL(q || N(0, I)): it charges for the variances too. "
                                 "Compare with the product of q's own marginals."),
        Mistake(lambda c: _gaussian_tc(c) / math.log(2), "These are bits; the book uses nats."),
    ],
)  # fmt: skip


def _discriminator(t_codes: Tensor, t_permuted: Tensor) -> Tensor:
    return (softplus(-t_codes) + softplus(t_permuted)).mean()


DISCRIMINATOR = Formula(
    signature="discriminator_loss(t_codes, t_permuted)",
    truth=_discriminator,
    inputs=[(_draw(6, seed=2), _draw(6, seed=3)), (3 * _draw(9, seed=4), 3 * _draw(9, seed=5))],
    extremes=[((torch.tensor([-200.0], dtype=F64), torch.tensor([200.0], dtype=F64)),
               "Right for moderate logits; for logits of 200 the sigmoid is rounded to 0 or 1. "
               "Use softplus.")],
    mistakes=[
        Mistake(lambda a, b: _discriminator(-a, -b),
                "The labels are exchanged: codes have label 1, permuted codes label 0. (Then the "
                "logit is minus the log-ratio, and the encoder must be told.)"),
        Mistake(lambda a, b: -_discriminator(a, b), "This is the value of the game, to be raised; "
                                                    "its negative is lowered."),
        Mistake(lambda a, b: _discriminator(a, b) / 2,
                "Half of it, the mean over both halves together. It moves no optimum, but the "
                "number is no longer log 4 at chance."),
        Mistake(lambda a, b: (a - b).mean(), "This is a Wasserstein critic's payoff; the book's "
                                             "discriminator is a logistic regression."),
    ],
)  # fmt: skip


TC_ESTIMATE = Formula(
    signature="tc_estimate(t_codes)",
    truth=lambda t: t.mean(),
    inputs=[(_draw(8, seed=6),), (2 + 3 * _draw(20, seed=7),)],
    mistakes=[
        Mistake(lambda t: t.sigmoid().log().mean(),
                "This is the mean of log D. The log-ratio is log D - log(1 - D): the logit "
                "itself."),
        Mistake(lambda t: -(1 - t.sigmoid()).log().mean(),
                "This is -log(1 - D), half of the logit."),
        Mistake(lambda t: t.sigmoid().mean(), "This is the mean confidence D, not a divergence."),
        Mistake(lambda t: t.clamp(min=0).mean(),
                "You cut off negative logits. A log-ratio is negative in places, and cutting it "
                "there makes every estimate too large."),
        Mistake(lambda t: t.mean().clamp(min=0),
                "You cut off negative estimates. The total correlation is not negative, but an "
                "estimate of it may be; cut off, its mean over batches is too large."),
        Mistake(lambda t: -t.mean(), "The sign is flipped."),
    ],
)  # fmt: skip


def _kept(n: int, dim: int) -> float:
    return float(n) ** (1 - dim)


KEPT = Formula(
    signature="kept_together(n, dim)",
    truth=_kept,
    inputs=[(2, 2), (5, 3), (8, 2), (3, 4)],
    instance=(8, 3),
    tolerance=1e-6,
    mistakes=[
        Mistake(lambda n, d: float(n) ** -d,
                "This is the chance that all entries come from one given code; any of the n codes "
                "will do."),
        Mistake(lambda n, d: 1 / n,
                "Right for two coordinates. Each further column must pick the same code as well."),
        Mistake(lambda n, d: 1 - _kept(n, d), "This is the chance that something was torn apart."),
        Mistake(lambda n, d: math.perm(n, d) / n**d if d <= n else 0.0,
                "This is the chance that all entries come from different codes."),
    ],
)  # fmt: skip


def _weights(batch_size: int, data_size: int) -> Tensor:
    return stratified_log_weights(batch_size, data_size).exp()


def _first_column(batch_size: int, data_size: int) -> Tensor:
    """The weights rolled so that each row's own weight stands in column 0."""
    rows = _weights(batch_size, data_size)
    return torch.stack([row.roll(-i) for i, row in enumerate(rows)])


OWN_WEIGHT = Formula(
    signature="stratified_weights(batch_size, data_size)",
    truth=_weights,
    inputs=[(2, 10), (3, 10), (5, 100), (4, 4)],
    mistakes=[
        Mistake(_first_column,
                "Each row's own image must have the weight 1/N, and row i belongs to code i: own "
                "is the diagonal, not column 0."),
        Mistake(lambda b, n: torch.full((b, b), 1 / (n * b), dtype=F64),
                "These are the weights of minibatch-weighted sampling."),
        Mistake(lambda b, n: torch.full((b, b), 1 / b, dtype=F64),
                "A plain mean over the batch gives the code's own image the weight of B images' "
                "share; in the data set it is one of N."),
        Mistake(lambda b, n: torch.eye(b, dtype=F64) / n
                + (1 - torch.eye(b, dtype=F64)) / (b - 1),
                "The rows add up to more than one: one of the others has the weight "
                "(N - M) / (N M)."),
        Mistake(lambda b, n: stratified_log_weights(b, n),
                "These are the logarithms; the weights themselves are wanted."),
    ],
)  # fmt: skip

TERMS = {
    "gaussian-tc": GAUSSIAN_TC,
    "discriminator-loss": DISCRIMINATOR,
    "tc-estimate": TC_ESTIMATE,
    "kept-together": KEPT,
    "stratified-weights": OWN_WEIGHT,
}
