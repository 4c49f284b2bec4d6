"""Chapter 1, bounds and estimates: IWAE, Monte-Carlo KL, mutual information, gradient variance."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tutor.checks.grading import Formula, Mistake
from tutor.divergences import gaussian_kl


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- IWAE ------------------------------------------------------------------------------------


def _iwae(log_weights: Tensor) -> Tensor:
    return log_weights.logsumexp(0) - math.log(len(log_weights))


IWAE = Formula(
    signature="iwae(log_weights)",
    truth=_iwae,
    inputs=[
        (torch.tensor([[-1.0], [-3.0], [-2.0]]),),
        (2 * torch.randn(5, 4, generator=_generator(0)) - 3,),
        (2 * torch.randn(4, 6, generator=_generator(1)),),
    ],
    mistakes=[
        Mistake(lambda w: w.mean(0),
                "This is the mean of the logarithms, the ELBO; IWAE is the logarithm of the mean."),
        Mistake(lambda w: w.logsumexp(0),
                "log K is missing: this is the logarithm of the sum, not of the mean."),
        Mistake(lambda w: w.logsumexp(0) + math.log(len(w)),
                "log K has the wrong sign: a mean divides by K."),
        Mistake(lambda w: w.logsumexp(0) / len(w),
                "Dividing by K belongs inside the logarithm; outside it is minus log K."),
        Mistake(lambda w: w.logsumexp(1) - math.log(w.shape[1]),
                "You averaged over the examples (axis 1); the samples are axis 0."),
        Mistake(lambda w: w.mean(1),
                "You averaged logarithms, and over the examples; average the weights over the "
                "samples, axis 0."),
        Mistake(lambda w: w.exp().mean(0), "The logarithm is missing: this is the mean weight."),
        Mistake(lambda w: w.amax(0), "This is the largest log-weight, not the mean of weights."),
        Mistake(lambda w: -_iwae(w), "The sign is flipped."),
        Mistake(lambda w: _iwae(w).mean(),
                "You took the mean over the batch already; keep one value an example."),
    ],
    extremes=[
        ((torch.tensor([[-1000.0], [-1001.0]]),),
         "Right for small numbers, but exp(-1000) is 0 in floating point, and log-likelihoods of "
         "images are that large: use logsumexp, which subtracts the maximum first."),
        ((torch.tensor([[1000.0], [999.0]]),),
         "Right for small numbers, but exp(1000) overflows: use logsumexp, which subtracts the "
         "maximum first."),
    ],
)  # fmt: skip

# -- KL by sampling --------------------------------------------------------------------------

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def _log_ratio(mean: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
    """log q(z|x) - log p(z) for each draw and dimension: (K, n, d)."""
    z = mean + (0.5 * log_var).exp() * noise
    return 0.5 * (z**2 - noise**2 - log_var)


def _monte_carlo_kl(mean: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
    return _log_ratio(mean, log_var, noise).sum(-1).mean(0)


def _with_wide_z(mean: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
    z = mean + log_var.exp() * noise  # the mistake: variance used as standard deviation
    log_q = -0.5 * ((z - mean) ** 2 * (-log_var).exp() + log_var)
    return (log_q + 0.5 * z**2).sum(-1).mean(0)


def _consistently_wide(mean: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
    return _monte_carlo_kl(mean, 2 * log_var, noise)


def _noise_inputs(k: int, n: int, d: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    g = _generator(seed)
    return (
        torch.randn(n, d, generator=g),
        torch.randn(n, d, generator=g),
        torch.randn(k, n, d, generator=g),
    )


MONTE_CARLO_KL = Formula(
    signature="monte_carlo_kl(mean, log_var, noise)",
    truth=_monte_carlo_kl,
    inputs=[_noise_inputs(2, 1, 1, 2), _noise_inputs(4, 5, 3, 3), _noise_inputs(3, 2, 4, 4)],
    mistakes=[
        Mistake(lambda m, lv, e: -_monte_carlo_kl(m, lv, e),
                "The sign is flipped: the mean of log p - log q is minus the KL."),
        Mistake(lambda m, lv, e: gaussian_kl(m, lv),
                "This is the closed form; the estimate must use the noise, so that it also works "
                "where no closed form exists."),
        Mistake(lambda m, lv, e: len(e) * _monte_carlo_kl(m, lv, e),
                "You summed over the samples; an expectation is their mean."),
        Mistake(lambda m, lv, e: _log_ratio(m, lv, e).mean(-1).mean(0),
                "You took the mean over the latent dimensions; a log-density is their sum."),
        Mistake(lambda m, lv, e: _log_ratio(m, lv, e).sum(-1),
                "The samples are not averaged yet: one value an example is wanted."),
        Mistake(lambda m, lv, e: _log_ratio(m, lv, e).sum(-1).mean(),
                "You took the mean over the batch already; keep one value an example."),
        Mistake(lambda m, lv, e: (_log_ratio(m, lv, e) + 0.5 * lv).sum(-1).mean(0),
                "log q lacks its normaliser: -1/2 log_var for every dimension."),
        Mistake(lambda m, lv, e: (_log_ratio(m, lv, e) - 0.5 * lv).sum(-1).mean(0),
                "log q has -log_var where -1/2 log_var belongs (the logarithm of the standard "
                "deviation)."),
        Mistake(lambda m, lv, e: (_log_ratio(m, lv, e) - HALF_LOG_2PI).sum(-1).mean(0),
                "log p(z) lacks its constant -1/2 log(2 pi) while log q has it; they must cancel."),
        Mistake(lambda m, lv, e: (_log_ratio(m, lv, e) + HALF_LOG_2PI).sum(-1).mean(0),
                "log q lacks its constant -1/2 log(2 pi) while log p(z) has it; they must cancel."),
        Mistake(_with_wide_z,
                "z is drawn with exp(log_var) as standard deviation; that is the variance."),
        Mistake(_consistently_wide,
                "exp(log_var) is the variance; you used it as the standard deviation throughout."),
    ],
)  # fmt: skip

# -- ELBO surgery on a table -----------------------------------------------------------------


def _xlogx(ratio_of: Tensor, to: Tensor) -> Tensor:
    return torch.where(ratio_of > 0, ratio_of * (ratio_of / to).log(), 0.0)


def _mutual_information(q: Tensor, prior: Tensor) -> Tensor:
    return _xlogx(q, q.mean(0)).sum(1).mean()


def _kl_to_prior(q: Tensor, prior: Tensor) -> Tensor:
    return _xlogx(q.mean(0), prior).sum()


def _average_kl(q: Tensor, prior: Tensor) -> Tensor:
    return _xlogx(q, prior).sum(1).mean()


def _tables(n: int, k: int, seed: int) -> tuple[Tensor, Tensor]:
    g = _generator(seed)
    return (
        torch.randn(n, k, generator=g, dtype=torch.float64).softmax(1),
        torch.randn(k, generator=g, dtype=torch.float64).softmax(0),
    )


SURGERY_TABLE = torch.tensor(
    [[0.7, 0.1, 0.1, 0.1], [0.1, 0.8, 0.05, 0.05], [0.1, 0.1, 0.4, 0.4]], dtype=torch.float64
)
UNIFORM = torch.full((4,), 0.25, dtype=torch.float64)

SURGERY = Formula(
    signature="mutual_information(q, prior)",
    truth=_mutual_information,
    inputs=[(SURGERY_TABLE, UNIFORM), _tables(5, 3, 5), _tables(2, 6, 6)],
    instance=(SURGERY_TABLE, UNIFORM),
    tolerance=1e-3,  # so that a number with three decimals will do
    mistakes=[
        Mistake(_average_kl,
                "This is the whole KL term of the ELBO; the mutual information is what remains "
                "after KL(q(z) || p(z)) is taken away."),
        Mistake(_kl_to_prior,
                "This is KL(q(z) || p(z)), the other part of the KL term."),
        Mistake(lambda q, p: _mutual_information(q, p) / math.log(2),
                "This is in bits (log2); the book's unit is the nat, the natural logarithm."),
        Mistake(lambda q, p: len(q) * _mutual_information(q, p),
                "You summed over the examples; they are equally likely, so take their mean."),
        Mistake(lambda q, p: -_mutual_information(q, p),
                "The sign is flipped: mutual information is never negative."),
        Mistake(lambda q, p: _mutual_information(q, p) / q.shape[1],
                "You took the mean over the codes; the expectation over z is the sum of "
                "q(z|x) times the log-ratio."),
        Mistake(lambda q, p: _xlogx(q.mean(0).expand_as(q), q).sum(1).mean(),
                "The KL runs the wrong way: KL(q(z|x) || q(z)), not KL(q(z) || q(z|x))."),
        Mistake(lambda q, p: -(q.mean(0) * q.mean(0).log()).sum(),
                "This is the entropy of q(z); subtract the mean entropy of q(z|x)."),
        Mistake(lambda q, p: _average_kl(q, p) + _kl_to_prior(q, p),
                "Subtract KL(q(z) || p(z)) from the mean KL; you added it."),
    ],
    extremes=[
        ((torch.eye(3, dtype=torch.float64), torch.full((3,), 1 / 3, dtype=torch.float64)),
         "Right where every q(z|x) is positive, but a zero must count as 0 log 0 = 0; yours gives "
         "something else (torch.special.xlogy helps)."),
    ],
)  # fmt: skip

# -- two gradient estimators -----------------------------------------------------------------


def _score_variance(mean: float, std: float) -> float:
    return mean**4 / std**2 + 14 * mean**2 + 15 * std**2


def _path_variance(mean: float, std: float) -> float:
    return 4 * std**2


GRADIENT_VARIANCES = Formula(
    signature="score_variance(mean, std)",
    truth=_score_variance,
    inputs=[(1.0, 0.5), (-2.0, 1.5), (0.3, 0.2)],
    instance=(1.0, 0.5),
    mistakes=[
        Mistake(_path_variance, "This is the variance of the reparameterised gradient, 2 z."),
        Mistake(lambda m, s: _score_variance(m, s) + 4 * m**2,
                "This is the second moment; subtract the squared mean, (2 mean)^2."),
        Mistake(lambda m, s: math.sqrt(_score_variance(m, s)),
                "This is the standard deviation; wanted is its square."),
        Mistake(lambda m, s: _score_variance(m, s) / _path_variance(m, s),
                "This is the ratio of the two variances; wanted is the score function's own."),
        Mistake(lambda m, s: s**2 * _score_variance(m, s),
                "The score of a Gaussian is (z - mean) / std^2; you divided by std."),
        Mistake(lambda m, s: m**4 / s**2 + 14 * m**2 + 11 * s**2,
                "One Gaussian moment is off: E eps^6 = 15."),
    ],
)  # fmt: skip

# -- geometry --------------------------------------------------------------------------------


def _midpoint_ratio(dim: float) -> float:
    return 1 / math.sqrt(2)


MIDPOINT = Formula(
    signature="the ratio of the two norms",
    truth=_midpoint_ratio,
    inputs=[(50.0,), (200.0,)],
    instance=(50.0,),
    tolerance=5e-3,  # 0.71 will do
    mistakes=[
        Mistake(lambda d: 0.5,
                "That is the ratio of the squared norms: E|(a + b)/2|^2 = d/2. Take the root."),
        Mistake(lambda d: 1.0,
                "The midpoint of two independent codes is shorter: their errors average out."),
        Mistake(lambda d: math.sqrt(2),
                "Upside down: the midpoint is shorter than a code, not longer."),
        Mistake(lambda d: math.sqrt(d / 2),
                "This is the midpoint's length; divide by that of a code, sqrt(50)."),
        Mistake(lambda d: 0.0,
                "The mean of the midpoint is the origin, but its length is not 0."),
    ],
)  # fmt: skip

BOUNDS = {
    "iwae": IWAE,
    "monte-carlo-kl": MONTE_CARLO_KL,
    "surgery": SURGERY,
    "gradient-variance": GRADIENT_VARIANCES,
    "midpoint": MIDPOINT,
}
