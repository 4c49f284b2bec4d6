"""Chapter 3, terms of the objective: losses, log-ratios, moments, the overlap of two densities."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from tutor.checks.grading import Formula, Mistake
from tutor.divergences import gaussian_kl

F64 = torch.float64
LOG_2PI = math.log(2 * math.pi)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _pair(n: int, m: int, seed: int) -> tuple[Tensor, Tensor]:
    g = _generator(seed)
    return 2 * torch.randn(n, generator=g), 2 * torch.randn(m, generator=g) - 1


# -- the critic's loss -------------------------------------------------------------------------


def _critic_loss(t_posterior: Tensor, t_prior: Tensor) -> Tensor:
    return softplus(-t_posterior) + softplus(t_prior)


CRITIC_LOSS = Formula(
    signature="critic_loss(t_posterior, t_prior)",
    truth=_critic_loss,
    inputs=[_pair(1, 1, 0), _pair(5, 5, 1), _pair(20, 20, 2)],
    mistakes=[
        Mistake(lambda a, b: softplus(a) + softplus(-b),
                "The labels are swapped: the encoder's codes have label 1. With these two the "
                "best critic would be log p - log q."),
        Mistake(lambda a, b: -_critic_loss(a, b),
                "This is the value that the critic raises; the loss is its negative."),
        Mistake(lambda a, b: _critic_loss(a, b).mean(),
                "You took the mean over the batch already; keep one value a pair."),
        Mistake(lambda a, b: softplus(-a), "The half with the prior's codes is missing."),
        Mistake(lambda a, b: softplus(b), "The half with the encoder's codes is missing."),
        Mistake(lambda a, b: 0.5 * _critic_loss(a, b),
                "You averaged the two halves; the objective is their sum."),
        Mistake(lambda a, b: softplus(-a) - logsigmoid(b),
                "The second term is log sigmoid(T) where log(1 - sigmoid(T)) belongs."),
        Mistake(lambda a, b: b - a,
                "This is the loss of a Wasserstein critic; the logistic loss has a sigmoid."),
        Mistake(lambda a, b: softplus(-a.sigmoid()) + softplus(b.sigmoid()),
                "A sigmoid too many: the logistic loss takes the logits as they are."),
    ],
    extremes=[
        ((torch.tensor([-200.0]), torch.tensor([200.0])),
         "Right for small logits, but for logits of 200 the sigmoid rounds to 0 or 1 and its "
         "logarithm to minus infinity: use softplus or logsigmoid."),
    ],
)  # fmt: skip

# -- more draws of the one than of the other ---------------------------------------------------

UNEQUAL = Formula(
    signature="best_critic(log_q, log_p, k)",
    truth=lambda log_q, log_p, k: log_q - log_p - math.log(k),
    inputs=[
        (torch.tensor([-1.0]), torch.tensor([-2.0]), 4),
        (*_pair(6, 6, 3), 10),
        (*_pair(6, 6, 4), 2),
    ],
    mistakes=[
        Mistake(lambda q, p, k: q - p,
                "This is the best critic for equal numbers; with k times as many draws of the "
                "prior each point is k times as likely to come from it."),
        Mistake(lambda q, p, k: q - p + math.log(k),
                "log k has the wrong sign: more draws of the prior make label 0 more likely."),
        Mistake(lambda q, p, k: p - q - math.log(k),
                "The labels are swapped: the encoder's codes have label 1."),
        Mistake(lambda q, p, k: p - q + math.log(k),
                "The sign is flipped: the encoder's codes have label 1."),
        Mistake(lambda q, p, k: q - p - k, "k stands where its logarithm belongs."),
        Mistake(lambda q, p, k: q - k * p, "k multiplies the density p, not its logarithm."),
        Mistake(lambda q, p, k: (q - p) / k, "k multiplies the density p; it adds to the logit."),
        Mistake(lambda q, p, k: torch.sigmoid(q - p - math.log(k)),
                "This is the probability of label 1; the critic's value is its logit."),
    ],
)  # fmt: skip

# -- noise of the two gradients ----------------------------------------------------------------


def _variances(mean: float, std: float) -> Tensor:
    return torch.tensor([(std - 1 / std) ** 2, std**2], dtype=F64)


GRADIENT_NOISE = Formula(
    signature="gradient_variances(mean, std)",
    truth=_variances,
    inputs=[(0.7, 0.5), (-1.0, 1.6), (2.0, 0.9)],
    instance=(1.0, 0.5),
    mistakes=[
        Mistake(lambda m, s: _variances(m, s).flip(0),
                "Swapped: first the codes alone, then both parts."),
        Mistake(lambda m, s: _variances(m, s).sqrt(), "These are the standard deviations."),
        Mistake(lambda m, s: _variances(m, s) + m * m,
                "These are second moments; take the squared mean away."),
        Mistake(lambda m, s: torch.tensor([(s - 1 / s) ** 2, 1 / s**2], dtype=F64),
                "The second is the variance of the score alone, the part that AVB leaves out; "
                "wanted is that of the sum of both parts."),
        Mistake(lambda m, s: torch.tensor([0.0, s**2], dtype=F64),
                "The first is zero only for std = 1, where -log sigma and the two squares cancel."),
        Mistake(lambda m, s: torch.tensor([s**2, s**2], dtype=F64),
                "In the first the critic stands still: its mean must not be moved, so z - mean "
                "changes with z."),
    ],
)  # fmt: skip

# -- what a critic proves ----------------------------------------------------------------------


def _donsker_varadhan(t_posterior: Tensor, t_prior: Tensor) -> Tensor:
    return t_posterior.mean() - t_prior.logsumexp(0) + math.log(len(t_prior))


DONSKER_VARADHAN = Formula(
    signature="proved_kl(t_posterior, t_prior)",
    truth=_donsker_varadhan,
    inputs=[_pair(3, 2, 5), _pair(10, 7, 6), _pair(50, 80, 7)],
    mistakes=[
        Mistake(lambda a, b: a.mean(), "This is the critic's claim; the correction is missing."),
        Mistake(lambda a, b: a.mean() - b.logsumexp(0),
                "log n is missing: the correction is the logarithm of a mean, not of a sum."),
        Mistake(lambda a, b: a.mean() - b.mean(),
                "The correction is the logarithm of the mean exponential, not the mean of T."),
        Mistake(lambda a, b: a.mean() - b.exp().mean(),
                "The logarithm of the correction is missing. (With + 1 it would be another, weaker "
                "bound.)"),
        Mistake(lambda a, b: a.mean() - b.exp().mean() + 1,
                "This is a bound too, the one of Nguyen, Wainwright and Jordan, but a weaker one: "
                "log u <= u - 1. Wanted is the one with the logarithm."),
        Mistake(lambda a, b: _donsker_varadhan(b, a),
                "The two samples are swapped: the exponential is averaged under the prior."),
        Mistake(lambda a, b: -_donsker_varadhan(a, b), "The sign is flipped."),
        Mistake(lambda a, b: a.sum() - b.logsumexp(0) + math.log(len(b)),
                "The first term is a mean over the encoder's codes, not a sum."),
    ],
    extremes=[
        ((torch.tensor([900.0, 1000.0]), torch.tensor([1000.0, 999.0])),
         "Right for small logits, but exp(1000) overflows: use logsumexp."),
    ],
)  # fmt: skip

# -- the Gaussian part of a mixture --------------------------------------------------------------


def _matched(weights: Tensor, means: Tensor, stds: Tensor) -> tuple[Tensor, Tensor]:
    mean = (weights * means).sum()
    return mean, (weights * (stds.square() + means.square())).sum() - mean.square()


def _to_prior(mean: Tensor, variance: Tensor) -> Tensor:
    return gaussian_kl(mean.reshape(1, 1), variance.log().reshape(1, 1))[0]


def _gaussian_part(weights: Tensor, means: Tensor, stds: Tensor) -> Tensor:
    return _to_prior(*_matched(weights, means, stds))


def _mixture(k: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    g = _generator(seed)
    weights = torch.rand(k, generator=g, dtype=F64)
    means = 2 * torch.randn(k, generator=g, dtype=F64)
    return weights / weights.sum(), means, torch.rand(k, generator=g, dtype=F64) + 0.2


TWO_PEAKS = tuple(torch.tensor(v, dtype=F64) for v in ([0.5, 0.5], [2.5, 3.5], [0.2, 0.2]))

GAUSSIAN_PART = Formula(
    signature="gaussian_part(weights, means, stds)",
    truth=_gaussian_part,
    inputs=[TWO_PEAKS, _mixture(3, 8), _mixture(5, 9)],
    instance=TWO_PEAKS,
    mistakes=[
        Mistake(lambda w, m, s: _to_prior((w * m).sum(), (w * s.square()).sum()),
                "The variance lacks the spread of the means: it is the mean of s^2 + m^2, minus "
                "the squared mean."),
        Mistake(lambda w, m, s: _to_prior((w * m).sum(), (w * (s.square() + m.square())).sum()),
                "This is the second moment; the squared mean must be taken away."),
        Mistake(lambda w, m, s: _to_prior((w * m).sum(), _matched(w, m, s)[1].sqrt()),
                "The standard deviation stands where the variance belongs."),
        Mistake(lambda w, m, s: (w * gaussian_kl(m[:, None], 2 * s.log()[:, None])).sum(),
                "This is the mean KL of the peaks; wanted is the KL of the one Gaussian with the "
                "mixture's moments."),
        Mistake(lambda w, m, s: _to_prior(m.mean(), _matched(w, m, s)[1]),
                "The means are not weighted."),
        Mistake(lambda w, m, s: _to_prior(0 * m.sum(), _matched(w, m, s)[1]),
                "The mean's own term, half its square, is missing."),
        Mistake(lambda w, m, s: 2 * _gaussian_part(w, m, s), "The factor 1/2 is missing."),
    ],
)  # fmt: skip

# -- the KL estimate with adaptive contrast ------------------------------------------------------


def _log_normal(z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return (-0.5 * ((z - mean) / std).square() - std.log() - 0.5 * LOG_2PI).sum(-1)


def _log_p(z: Tensor) -> Tensor:
    return _log_normal(z, torch.zeros_like(z), torch.ones_like(z))


def _kl_estimate(t: Tensor, z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return t + _log_normal(z, mean, std) - _log_p(z)


def _codes(n: int, d: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = _generator(seed)
    t, z, mean, raw = (torch.randn(s, generator=g) for s in [(n,), (n, d), (n, d), (n, d)])
    return t, z, mean, (0.5 * raw).exp()


KL_ESTIMATE = Formula(
    signature="kl_estimate(t, z, mean, std)",
    truth=_kl_estimate,
    inputs=[_codes(1, 2, 10), _codes(4, 3, 11), _codes(3, 8, 12)],
    mistakes=[
        Mistake(lambda t, z, m, s: t, "T compares q with r now; the rest of the way to the prior, "
                "log r - log p, is missing."),
        Mistake(lambda t, z, m, s: t - _log_p(z), "log r is missing."),
        Mistake(lambda t, z, m, s: t + _log_normal(z, m, s), "log p(z) is missing."),
        Mistake(lambda t, z, m, s: t - _log_normal(z, m, s) + _log_p(z),
                "The signs are swapped: log q - log p = T + log r - log p."),
        Mistake(lambda t, z, m, s: -_kl_estimate(t, z, m, s), "The sign is flipped."),
        Mistake(lambda t, z, m, s: _kl_estimate(t, z, m, s) + s.log().sum(-1),
                "log r lacks its normaliser: minus the sum of log sigma."),
        Mistake(lambda t, z, m, s: t + _log_normal(z, m, s) - _log_p((z - m) / s),
                "The prior is evaluated at the normalised code; it is a density of z."),
        Mistake(lambda t, z, m, s: _kl_estimate(t, z, m, s**2),
                "The standard deviation was squared twice."),
        Mistake(lambda t, z, m, s: _kl_estimate(t, z, m, s.sqrt()),
                "std is the standard deviation; you took it for the variance."),
        Mistake(lambda t, z, m, s: t + (_kl_estimate(t, z, m, s) - t) / z.shape[1],
                "You took the mean over the latent dimensions; a log-density is their sum."),
        Mistake(lambda t, z, m, s: t + gaussian_kl(m, 2 * s.log()),
                "This is T plus the closed form of KL(r || p): right on average, if the moments "
                "match, but wanted is the value at this z."),
        Mistake(lambda t, z, m, s: _kl_estimate(t, z, m, s).mean(),
                "You took the mean over the batch already; keep one value an example."),
        Mistake(lambda t, z, m, s: _kl_estimate(t, z, m, s) - 0.5 * LOG_2PI * z.shape[1],
                "log p(z) lacks its constant while log r has it; they must cancel."),
        Mistake(lambda t, z, m, s: _kl_estimate(t, z, m, s) + 0.5 * LOG_2PI * z.shape[1],
                "log r lacks its constant while log p(z) has it; they must cancel."),
    ],
)  # fmt: skip

# -- moments of the factored encoder -------------------------------------------------------------


def _factored(offset: Tensor, a: Tensor, v: Tensor) -> Tensor:
    mean = offset + (a * v.mean(0)).sum(1)
    return torch.stack([mean, (a.square() * v.var(0, correction=0)).sum(1)])


def _with_variance(offset: Tensor, a: Tensor, v: Tensor, variance: Tensor) -> Tensor:
    return torch.stack([_factored(offset, a, v)[0], variance])


def _draws(k: int, n: int, bases: int, d: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    g = _generator(seed)
    offset, v = torch.randn(n, d, generator=g), torch.randn(k, bases, d, generator=g) + 0.5
    return offset, 2 * torch.rand(n, bases, d, generator=g), v


FACTORED_MOMENTS = Formula(
    signature="factored_moments(offset, a, v)",
    truth=_factored,
    inputs=[_draws(2, 1, 2, 1, 13), _draws(7, 3, 4, 2, 14), _draws(5, 4, 3, 4, 15)],
    mistakes=[
        Mistake(lambda o, a, v: _with_variance(o, a, v, (a * v.var(0, correction=0)).sum(1)),
                "The factors enter the variance squared."),
        Mistake(lambda o, a, v: _with_variance(
                    o, a, v, (a * v.std(0, correction=0)).sum(1).square()),
                "Standard deviations of independent parts do not add; their variances do."),
        Mistake(lambda o, a, v: _with_variance(
                    o, a, v, (a.square() * v.var(0, correction=0)).sum(1).sqrt()),
                "The second row is the standard deviation; wanted is the variance."),
        Mistake(lambda o, a, v: _with_variance(o, a, v, (a.square() * v.var(0)).sum(1)),
                "Divide by k, not by k - 1, as the exercise says."),
        Mistake(lambda o, a, v: _with_variance(o, a, v, v.var(0, correction=0).sum(0).expand_as(o)),
                "The factors a are not used in the variance."),
        Mistake(lambda o, a, v: _with_variance(o, a, v, (a.square() * v.square().mean(0)).sum(1)),
                "This is the mean square of the v_i; take the squared mean away."),
        Mistake(lambda o, a, v: _factored(0 * o, a, v), "The offset z_0 is missing in the mean."),
        Mistake(lambda o, a, v: _factored(o, a, v).flip(0), "First the mean, then the variance."),
        Mistake(lambda o, a, v: torch.stack([
                    o + (a * v.mean(0)).mean(1), (a.square() * v.var(0, correction=0)).mean(1)]),
                "The bases are summed, not averaged."),
    ],
)  # fmt: skip

# -- the overlap of two Gaussians ------------------------------------------------------------------


def _overlap(distance: float) -> Tensor:
    u = torch.linspace(-12, 12, 4801, dtype=F64)
    weight = (-0.5 * u.square()).exp() / math.sqrt(2 * math.pi) * (u[1] - u[0])
    return 0.5 * math.exp(-(distance**2) / 8) * (weight / torch.cosh(0.5 * distance * u)).sum()


def _tail(distance: float) -> float:
    return 0.5 * math.erfc(distance / 2 / math.sqrt(2))


OVERLAP = Formula(
    signature="overlap(distance)",
    truth=_overlap,
    inputs=[(0.0,), (1.0,), (2.5,), (4.0,)],
    instance=(3.0,),
    mistakes=[
        Mistake(lambda d: 0.5 * math.exp(-(d**2) / 8),
                "This is the upper bound, half of the overlap of the square roots; the factor "
                "1/cosh is still to be averaged."),
        Mistake(lambda d: math.exp(-(d**2) / 8),
                "This is the integral of sqrt(q p), the Bhattacharyya coefficient."),
        Mistake(lambda d: math.exp(-(d**2) / 4) / (2 * math.sqrt(math.pi)),
                "This is the integral of q p; divide by q + p inside the integral."),
        Mistake(lambda d: 2 * _tail(d), "This is the integral of min(q, p)."),
        Mistake(lambda d: _tail(d), "This is the error rate of the best classifier."),
        Mistake(lambda d: 2 * _overlap(d), "Twice too large: cosh has a factor 2 before it."),
        Mistake(lambda d: _overlap(d).log(), "This is the logarithm of the overlap."),
    ],
    tolerance=2e-4,
)  # fmt: skip

# -- Eight Schools -------------------------------------------------------------------------------


def _mu(weights: Tensor, y: Tensor, prior_precision: float) -> Tensor:
    precision = weights.sum() + prior_precision
    return torch.stack([(weights * y).sum() / precision, 1 / precision])


def _mu_given_tau(tau: float, y: Tensor, sigma: Tensor, prior_std: float) -> Tensor:
    return _mu(1 / (sigma.square() + tau**2), y, prior_std**-2)


SCHOOLS = (
    torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], dtype=F64),
    torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], dtype=F64),
    5.0,
)

MU_GIVEN_TAU = Formula(
    signature="mu_given_tau(tau, y, sigma, prior_std)",
    truth=_mu_given_tau,
    inputs=[
        (2.0, *SCHOOLS),
        (0.5, *SCHOOLS),
        (1.0, torch.tensor([1.0, -2.0], dtype=F64), torch.tensor([1.0, 0.5], dtype=F64), 3.0),
    ],
    instance=(10.0, *SCHOOLS),
    mistakes=[
        Mistake(lambda t, y, s, p: _mu(1 / s.square(), y, p**-2),
                "tau is missing: given mu, y_j varies by sigma_j^2 + tau^2."),
        Mistake(lambda t, y, s, p: _mu(1 / (s + t).square(), y, p**-2),
                "Variances add, not standard deviations."),
        Mistake(lambda t, y, s, p: _mu(1 / (s.square() + t**2).sqrt(), y, p**-2),
                "Precisions are inverse variances; you took inverse standard deviations."),
        Mistake(lambda t, y, s, p: _mu(1 / (s.square() + t**2), y, 0.0), "The prior is missing."),
        Mistake(lambda t, y, s, p: _mu(1 / (s.square() + t**2), y, 1 / p),
                "The prior's precision is 1 / prior_std^2."),
        Mistake(lambda t, y, s, p: torch.stack([
                    _mu_given_tau(t, y, s, p)[0], _mu_given_tau(t, y, s, p)[1].sqrt()]),
                "The second number is the standard deviation; wanted is the variance."),
        Mistake(lambda t, y, s, p: torch.stack([
                    _mu_given_tau(t, y, s, p)[0], 1 / _mu_given_tau(t, y, s, p)[1]]),
                "The second number is the precision; wanted is the variance."),
        Mistake(lambda t, y, s, p: torch.stack([y.mean(), _mu_given_tau(t, y, s, p)[1]]),
                "A plain mean of the y_j: weigh them by their precisions."),
        Mistake(lambda t, y, s, p: torch.stack([
                    _mu(1 / (s.square() + t**2), y, 0.0)[0], _mu_given_tau(t, y, s, p)[1]]),
                "The mean ignores the prior, which pulls it towards zero."),
    ],
)  # fmt: skip

TERMS = {
    "critic-loss": CRITIC_LOSS,
    "unequal-samples": UNEQUAL,
    "gradient-noise": GRADIENT_NOISE,
    "proved-kl": DONSKER_VARADHAN,
    "gaussian-part": GAUSSIAN_PART,
    "kl-estimate": KL_ESTIMATE,
    "factored-moments": FACTORED_MOMENTS,
    "overlap": OVERLAP,
    "mu-given-tau": MU_GIVEN_TAU,
}
