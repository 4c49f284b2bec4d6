"""Chapter 2, the game on codes: losses, divergences, the penalty, the spiral."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from tutor.checks.grading import Formula, Mistake
from tutor.models.adversarial import discriminator_loss, generator_loss, r1_penalty

F64 = torch.float64


def _draw(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


LOGIT = Formula(
    signature="optimal_logit(log_p, log_q)",
    truth=lambda log_p, log_q: log_p - log_q,
    inputs=[(torch.tensor([-1.0], dtype=F64), torch.tensor([-3.0], dtype=F64)),
            (_draw(6, seed=0), _draw(6, seed=1))],
    mistakes=[
        Mistake(lambda p, q: q - p,
                "Real and fake are swapped: label 1 belongs to draws of the prior."),
        Mistake(lambda p, q: torch.sigmoid(p - q),
                "This is D, a number between 0 and 1; the logit is log D / (1 - D)."),
        Mistake(lambda p, q: torch.sigmoid(q - p),
                "This is 1 - D, and the logit was asked for."),
        Mistake(lambda p, q: p - torch.logaddexp(p, q),
                "This is log D; the logit is log D - log(1 - D)."),
        Mistake(lambda p, q: (p - q).exp(),
                "This is the density ratio itself; the logit is its logarithm."),
        Mistake(lambda p, q: p - torch.logaddexp(p, q) + math.log(2),
                "This is log p - log m with m the average of p and q; the logit is log p - log q."),
    ],
)  # fmt: skip

FAR = torch.tensor([200.0, -200.0], dtype=torch.float32)

DISCRIMINATOR = Formula(
    signature="discriminator_loss(prior_logits, code_logits)",
    truth=lambda real, fake: discriminator_loss(real, fake).mean(),
    inputs=[(torch.tensor([2.0], dtype=F64), torch.tensor([0.5], dtype=F64)),
            (_draw(8, seed=2), _draw(8, seed=3)),
            (_draw(5, seed=4, scale=3), _draw(5, seed=5))],
    mistakes=[
        Mistake(lambda r, f: discriminator_loss(f, r).mean(),
                "Real and fake are swapped: this loss is low when codes are called real."),
        Mistake(lambda r, f: discriminator_loss(r, f).mean() / 2,
                "This is the mean of the two terms; the value of the game is their sum. (Halving "
                "a loss moves no minimum, but 2 JS - log 4 no longer holds.)"),
        Mistake(lambda r, f: -discriminator_loss(r, f).mean(),
                "This is the value of the game, which the discriminator raises; the loss is minus "
                "that."),
        Mistake(lambda r, f: discriminator_loss(r, f).sum(),
                "You summed over the batch; the mean is taken last."),
        Mistake(lambda r, f: discriminator_loss(r, f),
                "One value an example; the loss is their mean."),
        Mistake(lambda r, f: softplus(-r).mean(),
                "The codes are missing: the discriminator must also learn to call them fake."),
        Mistake(lambda r, f: softplus(f).mean(),
                "The prior samples are missing."),
        Mistake(lambda r, f: (softplus(-r) + softplus(-f)).mean(),
                "Both terms ask for the label 1; codes have the label 0."),
    ],
    extremes=[((FAR, FAR), "Right, but a logit of 200 gives an infinite loss: do not take the "
                           "logarithm of a sigmoid; use softplus or logsigmoid.")],
)  # fmt: skip

ENCODER = Formula(
    signature="encoder_loss(code_logits)",
    truth=lambda fake: generator_loss(fake).mean(),
    inputs=[(torch.tensor([-2.0], dtype=F64),), (_draw(8, seed=6),), (_draw(5, seed=7, scale=3),)],
    mistakes=[
        Mistake(lambda f: -softplus(f).mean(),
                "This is the saturating loss, E log(1 - D): flat where D is sure."),
        Mistake(lambda f: softplus(f).mean(),
                "With this loss the encoder helps the discriminator: it lowers -log(1 - D)."),
        Mistake(lambda f: generator_loss(f).sum(),
                "You summed over the batch; the mean is taken last."),
        Mistake(lambda f: generator_loss(f), "One value an example; the loss is their mean."),
        Mistake(lambda f: -f.mean(),
                "This is a critic's loss without the logarithm, as for a Wasserstein distance."),
        Mistake(lambda f: -torch.sigmoid(f).mean(), "The logarithm of D is missing."),
    ],
    extremes=[((FAR,), "Right, but a logit of -200 gives an infinite loss: do not take the "
                       "logarithm of a sigmoid; use softplus or logsigmoid.")],
)  # fmt: skip


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum()


def _js(p: Tensor, q: Tensor) -> Tensor:
    m = (p + q) / 2
    return (_kl(p, m) + _kl(q, m)) / 2


def _shares(n: int, seed: int) -> Tensor:
    return torch.softmax(_draw(n, seed=seed), 0)


SHANNON = Formula(
    signature="jensen_shannon(p, q)",
    truth=_js,
    inputs=[(torch.tensor([0.5, 0.5], dtype=F64), torch.tensor([0.9, 0.1], dtype=F64)),
            (_shares(6, 8), _shares(6, 9))],
    instance=(torch.tensor([0.5, 0.5], dtype=F64), torch.tensor([0.9, 0.1], dtype=F64)),
    mistakes=[
        Mistake(lambda p, q: _js(p, q) / math.log(2), "This is in bits; the book counts in nats."),
        Mistake(lambda p, q: 2 * _js(p, q),
                "Twice too large: JS is the mean of the two divergences, not their sum."),
        Mistake(lambda p, q: _js(p, q).sqrt(),
                "This is the Jensen-Shannon distance, the root of the divergence."),
        Mistake(_kl, "This is KL(p || q); compare each with the average of both."),
        Mistake(lambda p, q: _kl(q, p), "This is KL(q || p); compare each with the average."),
        Mistake(lambda p, q: (_kl(p, q) + _kl(q, p)) / 2,
                "This is the symmetric KL divergence (half of Jeffreys'); compare each with the "
                "average of both."),
        Mistake(lambda p, q: (_kl((p + q) / 2, p) + _kl((p + q) / 2, q)) / 2,
                "The average belongs in the second place: KL(p || m) and KL(q || m)."),
        Mistake(lambda p, q: 2 * _js(p, q) - math.log(4),
                "This is the value of the game; JS is (value + log 4) / 2."),
    ],
    extremes=[((torch.tensor([1.0, 0.0], dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)),
               "Right where both are positive; where one is zero use 0 log 0 = 0, for example by "
               "torch.special.xlogy.")],
)  # fmt: skip


def _soft(share: float) -> float:
    return (1 + share) * math.log((1 + share) / (2 * share)) - (1 - share) * math.log(2)


MISSED = Formula(
    signature="missed_prior(share)",
    truth=_soft,
    inputs=[(0.3,), (0.5,), (0.75,), (0.95,)],
    instance=(0.5,),
    mistakes=[
        Mistake(lambda a: -math.log(a), "This is KL(q || p); the average m is asked for."),
        Mistake(lambda a: _soft(a) / 2, "This is KL(m || p); the loss descends twice that."),
        Mistake(lambda a: (1 + a) * math.log((1 + a) / (2 * a)),
                "The region that codes miss is left out: there m = p / 2, and it adds "
                "-(1 - a) log 2."),
        Mistake(lambda a: _soft(1 - a), "The share a is the one that codes fill, not the empty "
                                        "one."),
        Mistake(lambda a: _js(torch.tensor([1.0, 0.0], dtype=F64),
                              torch.tensor([a, 1 - a], dtype=F64)).item(),
                "This is the Jensen-Shannon divergence."),
    ],
)  # fmt: skip


def _round(rate: float, damping: float) -> Tensor:
    """One round of the linearised game, the discriminator first."""
    judge = torch.tensor([[1.0, 0.0], [-rate / 2, 1 - rate * damping]], dtype=F64)
    encoder = torch.tensor([[1.0, rate / 2], [0.0, 1.0]], dtype=F64)
    return encoder @ judge


def _modulus(rate: float, damping: float) -> Tensor:
    return torch.linalg.eigvals(_round(rate, damping)).abs().max()


SPIRAL = Formula(
    signature="growth(rate, damping)",
    truth=_modulus,
    inputs=[(0.1, 0.3), (0.5, 0.0), (0.4, 0.9), (1.0, 0.1)],
    instance=(0.1, 0.3),
    tolerance=1e-6,
    mistakes=[
        Mistake(lambda h, k: math.sqrt(1 - h * k + h**2 / 4),
                "This is the growth when both players move at the same time; here the encoder "
                "answers the discriminator that has just moved."),
        Mistake(lambda h, k: 1 - h * k,
                "This is the determinant, the product of the two eigenvalues; each has the root "
                "of it as its modulus."),
        Mistake(lambda h, k: math.sqrt(1 + h**2 / 4),
                "This is the growth without damping, and with simultaneous moves."),
        Mistake(lambda h, k: math.exp(-h * k / 2),
                "This is the flow in continuous time; a step of length h loses a little more."),
        Mistake(lambda h, k: 1 - h * k / 2,
                "This is the first-order approximation of the modulus."),
    ],
)  # fmt: skip


def _bowl(z: Tensor) -> Tensor:
    return z.square().sum(1) / 2 + z[:, 0]


def _slope_norm(judge: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    return (2 * r1_penalty(judge, z)).sqrt().detach()


PENALTY = Formula(
    signature="gradient_penalty(discriminator, z)",
    truth=lambda judge, z: r1_penalty(judge, z).detach(),
    inputs=[(_bowl, torch.tensor([[1.0, 2.0]], dtype=F64)), (_bowl, _draw(5, 3, seed=10)),
            (_bowl, _draw(7, 2, seed=11))],
    mistakes=[
        Mistake(lambda t, z: 2 * r1_penalty(t, z).detach(),
                "Twice too large: the book's R1 has the factor 1/2."),
        Mistake(_slope_norm, "This is the length of the gradient; its square, halved, is wanted."),
        Mistake(lambda t, z: (_slope_norm(t, z) - 1).square(),
                "This draws the slope to 1, as for a Wasserstein critic; R1 draws it to 0."),
        Mistake(lambda t, z: (_slope_norm(t, z) - 1).square() / 2,
                "This draws the slope to 1, as for a Wasserstein critic; R1 draws it to 0."),
        Mistake(lambda t, z: r1_penalty(t, z).detach() * 2 / z.shape[1] / 2,
                "You averaged over the dimensions of the code; the square of a length is a sum."),
        Mistake(lambda t, z: r1_penalty(t, z).detach().mean(),
                "One value a code, please; the mean over the batch is taken later."),
        Mistake(lambda t, z: r1_penalty(t, z).detach().sum(),
                "One value a code, please; the mean over the batch is taken later."),
    ],
)  # fmt: skip


def grade_gradient_penalty(answer: Any) -> str | None:
    """The right numbers, and a graph that leads back to the discriminator's weights."""
    complaint = PENALTY(answer)
    if complaint:
        return complaint
    weights = torch.ones(2, dtype=F64, requires_grad=True)
    found = answer(lambda z: z @ weights, _draw(4, 2, seed=12))
    if not found.requires_grad:
        return (
            "The numbers are right, but no gradient of the penalty reaches the discriminator's "
            "weights: pass create_graph=True to torch.autograd.grad, and do not detach."
        )
    return None


GAME = {
    "optimal-logit": LOGIT,
    "discriminator-loss": DISCRIMINATOR,
    "encoder-loss": ENCODER,
    "jensen-shannon": SHANNON,
    "missed-prior": MISSED,
    "spiral": SPIRAL,
}
