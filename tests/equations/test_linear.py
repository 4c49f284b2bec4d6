"""Equations of the exact toy worlds: probabilistic PCA, beta in it, and the four points."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor, nn

from tutor import ppca
from tutor.divergences import gaussian_kl, gaussian_kl_per_dimension
from tutor.models import VAE, BetaVAE

F64 = torch.float64
ROUNDING = "float64 rounding in sums of a few hundred terms"
EIGENVALUES = torch.tensor([6.0, 2.5, 0.9, 0.4], dtype=F64)
VARIANCE = 0.5


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rotation(size: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=generator(seed), dtype=F64)).Q


def data_with_exact_moments(n: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """n points whose mean and covariance (divided by n) are exactly the ones returned."""
    x = torch.randn(n, 4, generator=generator(1), dtype=F64)
    x = x - x.mean(0)
    white = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / n)).T
    basis = rotation(4, seed=2)
    mean = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=F64)
    return white * EIGENVALUES.sqrt() @ basis.T + mean, mean, (basis * EIGENVALUES) @ basis.T


def some_model() -> ppca.PPCA:
    weights = torch.randn(3, 2, generator=generator(3), dtype=F64)
    return ppca.PPCA(weights, torch.tensor([0.3, -1.0, 2.0], dtype=F64), 0.4)


def grid(radius: float = 9.0, points: int = 601) -> tuple[Tensor, float]:
    """Points of the plane and the area of a cell: the trapezoid rule, exact to rounding here."""
    axis = torch.linspace(-radius, radius, points, dtype=F64)
    return torch.cartesian_prod(axis, axis), (axis[1] - axis[0]).item() ** 2


def log_joint(model: ppca.PPCA, x: Tensor, z: Tensor) -> Tensor:
    """log p(x|z) + log p(z) from their definitions, for one x and many z."""
    misfit = (x - model.mean - z @ model.weights.T).square().sum(-1)
    log_likelihood = -0.5 * (
        misfit / model.variance + len(x) * math.log(2 * math.pi * model.variance)
    )
    return log_likelihood - 0.5 * (z.square().sum(-1) + z.shape[1] * math.log(2 * math.pi))


@pytest.mark.equation("ppca-evidence")
def test_ppca_evidence(compare):
    """log p(x) in closed form against quadrature over the 2-D latent space, and against SciPy."""
    model = some_model()
    x = model.sample(6, generator=generator(4))
    z, area = grid()
    by_quadrature = torch.stack([log_joint(model, row, z).logsumexp(0) for row in x])
    compare(
        model.log_prob(x),
        by_quadrature + math.log(area),
        atol=1e-10,
        why="the trapezoid rule converges faster than any power for a Gaussian; rounding is left",
    )
    reference = multivariate_normal(model.mean.numpy(), model.covariance.numpy()).logpdf(x.numpy())
    compare(model.log_prob(x), reference, atol=1e-11, why=ROUNDING)


@pytest.mark.equation("ppca-posterior")
def test_ppca_posterior(compare):
    """Posterior mean and covariance against moments of p(x, z) on a grid, and Bayes' rule."""
    model = some_model()
    x = model.sample(3, generator=generator(5))
    means, covariance = model.posterior(x)
    z, _ = grid()
    for row, mean in zip(x, means, strict=True):
        weights = log_joint(model, row, z).softmax(0)
        on_grid = weights @ z
        spread = (weights[:, None] * (z - on_grid)).T @ (z - on_grid)
        compare(mean, on_grid, atol=1e-10, why="trapezoid rule for a Gaussian; rounding is left")
        compare(covariance, spread, atol=1e-10, why="as for the mean")
    z = torch.randn(3, 2, generator=generator(6), dtype=F64)
    bayes = torch.stack([log_joint(model, *pair[:2]) for pair in zip(x, z[:, None], strict=True)])
    posterior = [
        multivariate_normal(m, covariance).logpdf(v) for m, v in zip(means, z, strict=True)
    ]
    compare(bayes[:, 0] - model.log_prob(x), posterior, atol=1e-11, why=ROUNDING)


@pytest.mark.equation("ppca-optimum")
def test_ppca_optimum_is_stationary_for_every_rotation(compare):
    """The gradient of the mean evidence at U (Lambda - s^2)^(1/2) R, with s^2 fitted too, is 0."""
    _, mean, covariance = data_with_exact_moments()
    best = ppca.fit(mean, covariance, 2)
    compare(best.variance, EIGENVALUES[2:].mean(), atol=1e-12, why=ROUNDING)
    for seed in range(3):
        weights = (best.weights @ rotation(2, seed)).requires_grad_()
        centre = mean.clone().requires_grad_()
        log_variance = torch.tensor(math.log(best.variance), dtype=F64, requires_grad=True)
        noise = log_variance.exp() * torch.eye(4, dtype=F64)
        model_covariance = weights @ weights.T + noise
        second = covariance + torch.outer(mean - centre, mean - centre)
        evidence = -0.5 * (
            torch.logdet(model_covariance) + torch.linalg.solve(model_covariance, second).trace()
        )
        for slope in torch.autograd.grad(evidence, [weights, centre, log_variance]):
            compare(slope, torch.zeros_like(slope), atol=1e-12, why=ROUNDING)


@pytest.mark.equation("ppca-optimum")
def test_ppca_optimum_beats_everything_else(compare):
    """Mean evidence: nearby weights, far weights and other eigenvectors never beat the optimum."""
    _, mean, covariance = data_with_exact_moments()
    best = ppca.fit(mean, covariance, 2, variance=VARIANCE)
    top = ppca.mean_log_evidence(best, mean, covariance)
    values = []
    for seed, size in itertools.product(range(50), [1e-3, 0.1, 1.0, 10.0]):
        step = size * torch.randn(4, 2, generator=generator(seed), dtype=F64)
        other = ppca.PPCA(best.weights + step, mean, VARIANCE)
        values.append(ppca.mean_log_evidence(other, mean, covariance))
    _, vectors = ppca.principal_directions(covariance)
    for pair in itertools.combinations(range(4), 2):  # the other stationary points: saddles
        lengths = (EIGENVALUES[list(pair)] - VARIANCE).clamp(min=0).sqrt()
        other = ppca.PPCA(vectors[:, list(pair)] * lengths, mean, VARIANCE)
        values.append(ppca.mean_log_evidence(other, mean, covariance))
    values = torch.stack(values)
    compare.at_most(values, top.expand_as(values), slack=1e-12, why=ROUNDING)


@pytest.mark.equation("ppca-elbo-tight")
def test_elbo_of_the_optimum_is_the_evidence(compare):
    """At orthogonal columns of W the best diagonal q gives ELBO = log p(x), for every x."""
    x, mean, covariance = data_with_exact_moments()
    best = ppca.fit(mean, covariance, 3, variance=VARIANCE)
    elbo = best.elbo(x, *best.best_diagonal_posterior(x))
    compare(elbo, best.log_prob(x), atol=1e-11, why=ROUNDING)


@pytest.mark.equation("ppca-elbo-tight")
def test_a_rotation_opens_a_gap(compare):
    """ELBO gap of a rotated W against 1/2 (sum log M_jj - log det M), and its best diagonal q."""
    x, mean, covariance = data_with_exact_moments()
    best = ppca.fit(mean, covariance, 2, variance=VARIANCE)
    eighth = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=F64) / math.sqrt(2)
    rotated = ppca.PPCA(best.weights @ eighth, mean, VARIANCE)
    compare(rotated.log_prob(x), best.log_prob(x), atol=1e-11, why="the evidence has no rotation")
    precision = rotated.weights.T @ rotated.weights / VARIANCE + torch.eye(2, dtype=F64)
    gap = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    compare.at_most(0.05, gap, why="a gap that could hide in rounding would show nothing")
    z_mean, log_var = (t.clone().requires_grad_() for t in rotated.best_diagonal_posterior(x))
    elbo = rotated.elbo(x, z_mean, log_var)
    compare(rotated.log_prob(x) - elbo, gap.expand(len(x)), atol=1e-11, why=ROUNDING)
    for slope in torch.autograd.grad(elbo.sum(), [z_mean, log_var]):
        compare(slope, torch.zeros_like(slope), atol=1e-11, why="the best q has no slope")


def train_linear_vae(x: Tensor, beta: float) -> tuple[ppca.PPCA, Tensor, Tensor]:
    """A linear encoder, decoder and free variances, from a random start, to machine precision."""
    g = generator(8)
    decoder = torch.randn(4, 3, generator=g, dtype=F64).requires_grad_()
    encoder = torch.randn(3, 4, generator=g, dtype=F64).requires_grad_()
    log_var = torch.zeros(3, dtype=F64, requires_grad=True)
    mean = x.mean(0)
    optimiser = torch.optim.LBFGS(
        [decoder, encoder, log_var],
        max_iter=3000,
        max_eval=6000,
        tolerance_grad=1e-11,
        tolerance_change=1e-16,
        history_size=30,
        line_search_fn="strong_wolfe",
    )

    def codes() -> tuple[Tensor, Tensor]:
        return (x - mean) @ encoder.T, log_var.expand(len(x), 3)

    def loss() -> Tensor:
        optimiser.zero_grad()
        # PPCA.elbo weighs both terms with one; (beta - 1) more of the KL makes the beta-VAE.
        elbo = ppca.PPCA(decoder, mean, VARIANCE).elbo(x, *codes())
        value = -(elbo - (beta - 1) * gaussian_kl(*codes())).mean()
        value.backward()
        return value

    optimiser.step(loss)
    with torch.no_grad():
        return ppca.PPCA(decoder.detach(), mean, VARIANCE), *codes()


@pytest.mark.equation("collapse-threshold", "ppca-optimum", "beta-is-variance")
@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_training_finds_the_closed_form(beta, compare):
    """A linear beta-VAE trained from a random start against W W^T and the rates in closed form."""
    x, mean, covariance = data_with_exact_moments()
    trained, z_mean, log_var = train_linear_vae(x, beta)
    best = ppca.fit(mean, covariance, 3, variance=VARIANCE, beta=beta)
    compare(
        trained.weights @ trained.weights.T,
        best.weights @ best.weights.T,
        atol=1e-5,
        why="L-BFGS stops where the loss is flat to rounding: the square root of 1e-16, with room",
    )
    per_direction = gaussian_kl_per_dimension(z_mean, log_var).mean(0).sort(descending=True).values
    expected = ppca.rates(EIGENVALUES[:3], VARIANCE, beta=beta)
    compare(per_direction, expected, atol=1e-5, why="as for the weights")
    alive = (per_direction > 1e-4).sum()
    compare(alive, (EIGENVALUES[:3] > beta * VARIANCE).sum(), atol=0, why="a count of directions")


def tiny(kind: type[VAE], std: float, **options: float) -> VAE:
    """The same weights for every kind: they come from a fixed generator."""
    nets = (
        nn.Sequential(nn.Flatten(), nn.Linear(4, 4)),
        nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Unflatten(1, (1, 2, 2))),
    )
    model = kind(
        2,
        image_shape=(1, 2, 2),
        likelihood="gaussian",
        decoder_std=std,
        encoder=nets[0],
        decoder=nets[1],
        **options,
    ).double()
    with torch.no_grad():
        g = generator(9)
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=F64))
    return model


def turn_of(model: VAE, x: Tensor):
    with torch.random.fork_rng():
        torch.manual_seed(10)
        return next(iter(model.step(x)))


@pytest.mark.equation("beta-vae")
@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
def test_beta_vae_objective(beta, compare):
    """BetaVAE's loss against -log p(x|z) + beta KL written out with the same noise."""
    model, std = tiny(BetaVAE, 0.3, beta=beta), 0.3
    x = torch.rand(7, 1, 2, 2, generator=generator(11), dtype=F64)
    loss = turn_of(model, x).loss
    with torch.random.fork_rng():
        torch.manual_seed(10)
        noise = torch.randn(7, 2, dtype=F64)
    mean, log_var = (x.flatten(1) @ model.encoder[1].weight.T + model.encoder[1].bias).chunk(2, 1)
    z = mean + (0.5 * log_var).exp() * noise
    image = torch.tanh(z @ model.decoder[0].weight.T + model.decoder[0].bias)
    error = (x.flatten(1) - image).square().sum(1)
    negative_log_likelihood = error / (2 * std**2) + 2 * math.log(2 * math.pi * std**2)
    kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum(1)
    compare(loss, (negative_log_likelihood + beta * kl).mean(), atol=1e-10, why=ROUNDING)


@pytest.mark.equation("beta-is-variance")
@pytest.mark.parametrize("beta", [0.5, 4.0])
def test_beta_is_a_decoder_variance(beta, compare):
    """Gradients of beta-VAE at variance s^2 against beta times those of the VAE at beta s^2."""
    std = 0.3
    heavy, plain = tiny(BetaVAE, std, beta=beta), tiny(VAE, std * math.sqrt(beta))
    x = torch.rand(7, 1, 2, 2, generator=generator(12), dtype=F64)
    losses = turn_of(heavy, x).loss, turn_of(plain, x).loss
    slopes = [
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
        for loss, model in zip(losses, (heavy, plain), strict=True)
    ]
    compare(slopes[0], beta * slopes[1], atol=1e-10, why=ROUNDING)
    constant = 2 * math.log(2 * math.pi * std**2) - beta * 2 * math.log(2 * math.pi * beta * std**2)
    compare(losses[0], beta * losses[1] + constant, atol=1e-10, why=ROUNDING)


def rate_and_distortion(mean: Tensor, covariance: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Mean KL and mean -log p(x|z), from the optimum's own posterior moments.

    The beta-VAE's encoder is the exact posterior of the model with variance beta s^2, not s^2.
    """
    model = ppca.fit(mean, covariance, 4, variance=VARIANCE, beta=beta)
    encoder = ppca.PPCA(model.weights, mean, beta * VARIANCE)
    gain, spread = encoder.posterior(mean + torch.eye(4, dtype=F64))  # rows: response to each axis
    second = gain.T @ covariance @ gain  # E m m^T
    rate = 0.5 * (second.trace() + spread.trace() - 4 - torch.logdet(spread))
    residual = torch.eye(4, dtype=F64) - model.weights @ gain.T
    error = (residual @ covariance @ residual.T).trace()
    error = error + (model.weights @ spread @ model.weights.T).trace()
    return rate, 0.5 * (error / VARIANCE + 4 * math.log(2 * math.pi * VARIANCE))


@pytest.mark.equation("beta-rate", "collapse-threshold")
def test_rate_of_the_optimum_falls_with_beta(compare):
    """Rate of the linear beta-VAE's optimum against 1/2 sum log(lambda / (beta s^2)), falling."""
    _, mean, covariance = data_with_exact_moments()
    betas = [0.25, 0.5, 1.0, 1.5, 3.0, 7.0, 20.0]
    measured = torch.stack([rate_and_distortion(mean, covariance, b)[0] for b in betas])
    expected = [
        sum(0.5 * math.log(v / (b * VARIANCE)) for v in EIGENVALUES.tolist() if v > b * VARIANCE)
        for b in betas
    ]
    compare(measured, expected, atol=1e-11, why=ROUNDING)
    compare.at_most(measured[1:], measured[:-1], why="more beta never buys more rate")


@pytest.mark.equation("beta-rate")
@pytest.mark.parametrize("beta", [0.3, 1.2, 4.0])
def test_beta_is_the_price_of_a_nat(beta, compare):
    """Slope of distortion over rate along the optima, by central differences, against -beta."""
    _, mean, covariance = data_with_exact_moments()
    step = 1e-4 * beta
    left, right = (rate_and_distortion(mean, covariance, beta + h) for h in (-step, step))
    slope = (right[1] - left[1]) / (right[0] - left[0])
    compare(
        slope, -beta, atol=1e-6, why="central differences: error of order step^2, plus rounding"
    )


@pytest.mark.equation("four-points-optimum")
def test_four_points_optimum(compare):
    """Mean log-likelihood of the four points: -log 4 against a grid of models and random ones."""
    shares = [
        torch.tensor(s, dtype=F64) / 40
        for s in itertools.product(range(2, 38, 2), repeat=4)
        if sum(s) <= 40
    ]
    grid_values = torch.stack(shares).log().mean(1)
    best = -math.log(4)
    compare(grid_values.max(), best, atol=1e-12, why=ROUNDING)
    compare.at_most(grid_values, torch.full_like(grid_values, best), slack=1e-12, why=ROUNDING)
    # Mixtures of Bernoulli decoders, all 16 binary images enumerated: proper models, none better.
    images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)), dtype=F64)
    points = torch.eye(4, dtype=F64)
    values = []
    for seed in range(200):
        logits = 4 * torch.randn(6, 4, generator=generator(seed), dtype=F64)
        mixture = torch.randn(6, generator=generator(seed + 1000), dtype=F64).log_softmax(0)

        def log_p(x, logits=logits, mixture=mixture):
            per_part = nn.functional.logsigmoid((2 * x[:, None] - 1) * logits).sum(-1)
            return (mixture + per_part).logsumexp(1)

        compare(log_p(images).logsumexp(0), 0.0, atol=1e-12, why="probabilities of 16 images")
        values.append(log_p(points).mean())
    values = torch.stack(values)
    compare.at_most(values, torch.full_like(values, best), why="no model beats the entropy")
    # A decoder that maps four equal parts of the prior to the four points comes arbitrarily near.
    logits = 40.0 * (2 * points - 1)
    reached = nn.functional.logsigmoid((2 * points[:, None] - 1) * logits).sum(-1).logsumexp(1)
    compare(reached.mean() - math.log(4), best, atol=1e-12, why="logits of 40 miss by exp(-40)")
