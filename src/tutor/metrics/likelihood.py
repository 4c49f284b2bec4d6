"""log p(x) and its lower bounds: ELBO, IWAE; and one door to all estimators of log p(x)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from tutor.divergences import gaussian_kl
from tutor.metrics._evaluate import at_least_one, evaluating, on_model, refuse_grey, require
from tutor.metrics._grid import gauss_hermite
from tutor.metrics.ais import ais
from tutor.metrics.quadrature import quadrature
from tutor.posteriors import DiagonalGaussian
from tutor.priors import Gaussian

_DECODED = 16_000_000  # pixels decoded at once


def elbo(
    model: nn.Module, x: Tensor, *, samples: int = 1, generator: torch.Generator | None = None
) -> Tensor:
    """``ELBO(x) = E_q(z|x) log p(x|z) - KL(q(z|x) || p(z)) <= log p(x)``, estimated.

    Book equation: elbo.  The mean of log p(x|z) over draws from q(z|x), minus the KL term: in
    closed form for a diagonal Gaussian and the standard normal prior, else the mean of
    log q(z|x) - log p(z) over the same draws.  Unbiased.  Source: Kingma & Welling
    (arXiv 1312.6114), equation 7 (and 6).

    Args:
        model: has ``encode``, ``decode`` and ``prior``.
        x: images ``(n, C, H, W)``; binary, if the likelihood is Bernoulli.
        samples: draws an image, at least 1.
        generator: source of the draws, on the model's device.

    Returns:
        Shape ``(n,)``, in nats.

    Raises:
        TypeError: if the model or the images are of the wrong kind.
        ValueError: for ``samples`` below 1, a wrong shape, or grey images under a Bernoulli
            likelihood.

    Example:
        >>> from tutor.models import VAE
        >>> x = torch.ones(3, 1, 28, 28)
        >>> elbo(VAE(latent_dim=2), x, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([3])
    """

    def bound(q: Distribution, z: Tensor, log_likelihoods: Tensor) -> Tensor:
        if isinstance(q, DiagonalGaussian) and isinstance(model.prior, Gaussian):
            kl = gaussian_kl(q.mean, q.log_var)
        else:
            kl = (q.log_prob(z) - model.prior.log_prob(z)).mean(0)
        return log_likelihoods.mean(0) - kl

    return _from_draws(bound, model, x, samples, generator)


def exact_elbo(model: nn.Module, x: Tensor, *, nodes: int = 32) -> Tensor:
    """The ELBO with its expectation by Gauss-Hermite quadrature: no draws, the same every time.

    Book equation: elbo.  ``nodes ** dim`` decoded points an image: meant for one or two latent
    dimensions.  Exact when log p(x|z) is a polynomial of degree below ``2 nodes`` around the
    posterior, as in a linear-Gaussian model.  A decoder with ReLU has kinks, which a smooth rule
    feels: on MNIST, 32 nodes and 64 differ by up to some 0.005 nats.

    Args:
        model: has ``encode`` (a `DiagonalGaussian`), ``decode`` and ``prior`` (`Gaussian`).
        x: images ``(n, C, H, W)``.
        nodes: nodes along an axis.

    Returns:
        Shape ``(n,)``, in nats.

    Raises:
        TypeError: if the posterior or the prior is not Gaussian.
        ValueError: for more than two latent dimensions; also all that `elbo` raises.

    Example:
        >>> from tutor.models import VAE
        >>> model, x = VAE(latent_dim=2), torch.ones(2, 1, 28, 28)
        >>> bool((exact_elbo(model, x) == exact_elbo(model, x)).all())
        True
    """
    require(model, "encode", "decode", "prior")
    at_least_one(nodes=nodes)
    x = on_model(model, x)
    with evaluating(model):
        q = model.encode(x)
        kl = closed_form_kl(model, q)  # first, for it refuses what is not Gaussian
        return expected_log_likelihood(model, x, q, nodes) - kl


def expected_log_likelihood(model: nn.Module, x: Tensor, q: DiagonalGaussian, nodes: int) -> Tensor:
    """``E_q log p(x|z)`` by Gauss-Hermite quadrature, shape ``(n,)``; q may be any Gaussians."""
    if q.mean.shape[1] > 2:
        raise ValueError(
            f"a product rule over {q.mean.shape[1]} latent dimensions is out of reach; "
            "use elbo(model, x, samples=...)"
        )
    noise, weights = gauss_hermite(nodes, q.mean.shape[1])
    noise, weights = noise.to(q.mean), weights.to(q.mean)
    z = q.mean + q.stddev * noise.unsqueeze(1)  # (nodes ** dim, n, dim)
    return weights @ log_likelihood_at(model, x, z)


def iwae(
    model: nn.Module, x: Tensor, *, samples: int = 50, generator: torch.Generator | None = None
) -> Tensor:
    """``log 1/K sum_k p(x, z_k) / q(z_k|x)`` with ``z_k ~ q(z|x)``: the importance-weighted bound.

    Book equation: iwae-bound.  Its expectation lies between the ELBO (K = 1) and log p(x), rises
    with K and tends to log p(x).  Source: Burda, Grosse & Salakhutdinov (arXiv 1509.00519).

    Args:
        model: has ``encode``, ``decode`` and ``prior``.
        x: images ``(n, C, H, W)``; binary, if the likelihood is Bernoulli.
        samples: K, draws an image, at least 1.
        generator: source of the draws, on the model's device.

    Returns:
        Shape ``(n,)``, in nats.

    Raises:
        TypeError: if the model or the images are of the wrong kind.
        ValueError: for ``samples`` below 1, a wrong shape, or grey images under a Bernoulli
            likelihood.

    Example:
        >>> from tutor.models import VAE
        >>> x = torch.ones(3, 1, 28, 28)
        >>> iwae(VAE(latent_dim=2), x, samples=5, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([3])
    """

    def bound(q: Distribution, z: Tensor, log_likelihoods: Tensor) -> Tensor:
        log_weights = log_likelihoods + model.prior.log_prob(z) - q.log_prob(z)  # (samples, n)
        return log_weights.logsumexp(0) - math.log(samples)

    return _from_draws(bound, model, x, samples, generator)


def log_likelihood(
    model: nn.Module,
    x: Tensor,
    method: Literal["quadrature", "iwae", "ais"] = "quadrature",
    *,
    generator: torch.Generator | None = None,
    **settings: Any,
) -> Tensor:
    """``log p(x)`` of each image by one of three methods.

    ============== =========================== ======================= ==========================
    method         error                       latent dimensions       settings
    ============== =========================== ======================= ==========================
    ``quadrature`` below 1e-3 nats, checked    1 or 2                  those of `quadrature`
    ``iwae``       too low in expectation      any                     ``samples`` (default 5000)
    ``ais``        too low in expectation      any                     those of `ais`
    ============== =========================== ======================= ==========================

    Book equations: evidence, iwae-bound, ais-weights.  The two estimators are unbiased for p(x),
    so, by Jensen's inequality, their logarithm is too low in expectation.

    Args:
        model: has ``decode`` and ``prior``, and for ``iwae`` also ``encode``.
        x: images ``(n, C, H, W)``; binary, if the likelihood is Bernoulli.
        method: ``"quadrature"``, ``"iwae"`` or ``"ais"``.
        generator: source of the draws; quadrature draws nothing.
        **settings: passed to the method.

    Returns:
        Shape ``(n,)``, in nats.

    Raises:
        ValueError: for an unknown method; also all that the method raises.

    Example:
        >>> from tutor.models import VAE
        >>> model = VAE(latent_dim=2, image_shape=(1, 2, 2))
        >>> g = torch.Generator().manual_seed(0)
        >>> x = torch.ones(1, 1, 2, 2)
        >>> exact = log_likelihood(model, x)
        >>> estimate = log_likelihood(model, x, "iwae", samples=2000, generator=g)
        >>> abs(exact - estimate).item() < 0.05
        True
    """
    if method == "quadrature":
        return quadrature(model, x, **settings)
    if method == "iwae":
        return iwae(model, x, generator=generator, **{"samples": 5000, **settings})
    if method == "ais":
        return ais(model, x, generator=generator, **settings).log_likelihood
    raise ValueError(f'method is {method!r}; choose "quadrature", "iwae" or "ais"')


def _from_draws(
    bound: Callable[[Distribution, Tensor, Tensor], Tensor],
    model: nn.Module,
    x: Tensor,
    samples: int,
    generator: torch.Generator | None,
) -> Tensor:
    """``bound`` of q(z|x), z ``(samples, n, dim)`` and log p(x|z) ``(samples, n)``, in blocks."""
    require(model, "encode", "decode", "prior")
    at_least_one(samples=samples)
    parts = []
    with evaluating(model):
        for block in on_model(model, x).split(256):
            q = model.encode(block)
            if not (hasattr(q, "rsample") and hasattr(q, "log_prob")):
                raise TypeError(
                    f"encode returns a {type(q).__name__}; a bound on log p(x) needs a posterior "
                    'with a density; use method="quadrature" or method="ais"'
                )
            z = q.rsample((samples,), generator=generator)
            parts.append(bound(q, z, log_likelihood_at(model, block, z)))
    return torch.cat(parts)


def log_likelihood_at(model: nn.Module, x: Tensor, z: Tensor) -> Tensor:
    """``log p(x_i|z_ki)`` of codes ``(k, n, dim)``, each for its own image: shape ``(k, n)``."""
    rows = []
    for some in z.split(max(1, _DECODED // x.numel())):
        likelihood = model.decode(some.flatten(0, 1))
        refuse_grey(likelihood, x)
        rows.append(likelihood.log_prob(x.repeat(len(some), *[1] * (x.dim() - 1))))
    return torch.cat(rows).unflatten(0, z.shape[:2])


def closed_form_kl(model: nn.Module, q: object) -> Tensor:
    if not isinstance(q, DiagonalGaussian) or not isinstance(model.prior, Gaussian):
        raise TypeError(
            f"the posterior is a {type(q).__name__} and the prior a {type(model.prior).__name__}; "
            "the exact ELBO needs a DiagonalGaussian and a Gaussian; use elbo(model, x)"
        )
    return gaussian_kl(q.mean, q.log_var)
