"""The page on units: what other people's losses are in nats, and which model they describe."""

from __future__ import annotations

import heapq
import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, optimize
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from tutor.divergences import gaussian_kl
from tutor.likelihoods import BernoulliLikelihood, GaussianLikelihood
from tutor.models import VAE, BetaVAE

ROUNDING = 1e-12  # float64, a few hundred operations
SHAPE = (1, 3, 4)
D = math.prod(SHAPE)


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(5, *SHAPE, generator=generator, dtype=torch.float64)


def small(model_class: type[VAE] = VAE, latent_dim: int = 3, **arguments) -> VAE:
    """A model in float64 whose weights are the same in every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return model_class(
            latent_dim,
            image_shape=SHAPE,
            encoder=nn.Sequential(nn.Flatten(), nn.Linear(D, 2 * latent_dim)),
            decoder=nn.Sequential(nn.Linear(latent_dim, D), nn.Tanh(), nn.Unflatten(1, SHAPE)),
            **arguments,
        ).double()


def gradient(loss: Tensor, model: nn.Module) -> np.ndarray:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, model.parameters())]).numpy()


def own_loss(model: VAE, x: Tensor) -> Tensor:
    """The loss that the package itself minimises."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        (turn,) = model.step(x)
    return turn.loss


def noisy_code(model: VAE, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same code that `own_loss` decodes, with the parameters of its posterior."""
    q = model.encode(x)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return q.rsample(), q.mean, q.log_var


def huffman_lengths(probabilities: list[float]) -> list[int]:
    """Lengths of the words of an optimal binary code."""
    heap = [(p, i, [i]) for i, p in enumerate(probabilities)]
    lengths = [0] * len(probabilities)
    heapq.heapify(heap)
    for order in itertools.count(len(heap)):
        if len(heap) == 1:
            return lengths
        (p, _, left), (q, _, right) = heapq.heappop(heap), heapq.heappop(heap)
        for symbol in left + right:
            lengths[symbol] += 1
        heapq.heappush(heap, (p + q, order, left + right))
    raise AssertionError("the heap always empties")


@pytest.mark.equation("nats-to-bits")
def test_bits_per_dimension_is_the_length_of_the_best_code(compare):
    """The formula, against the code words of a Huffman code for grey values with dyadic odds."""
    odds = [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 16]
    lengths = huffman_lengths(odds)
    generator = np.random.default_rng(0)
    images = generator.choice(len(odds), p=odds, size=(20, D))
    log_p = np.log(np.take(odds, images)).sum(1)
    got = -log_p / (D * math.log(2))
    want = np.take(lengths, images).sum(1) / D
    compare(got, want, atol=ROUNDING, why="dyadic odds: the Huffman code is exactly optimal")


@pytest.mark.equation("dequantised-density")
def test_a_density_bounds_the_probability_of_its_cell(compare):
    """Mean log-density over each cell of side 1/256, against the log of the cell's probability."""

    def mixture(t: np.ndarray) -> np.ndarray:
        bumps = [(0.2, 0.01), (0.6, 0.15), (0.61, 0.002)]
        return sum(np.exp(-(((t - m) / s) ** 2) / 2) / s for m, s in bumps) / math.sqrt(
            18 * math.pi
        )

    nodes, weights = np.polynomial.legendre.leggauss(40)
    inside = (nodes + 1) / 2 / 256  # nodes of one cell
    density = mixture(np.arange(256)[:, None] / 256 + inside)  # (cells, nodes)
    log_probability = np.log(density @ weights / 2 / 256)
    bound = np.log(density) @ weights / 2 - math.log(256)
    compare.at_most(
        bound, log_probability, slack=ROUNDING, why="Jensen's inequality, with equality allowed"
    )
    steps = np.random.default_rng(0).dirichlet(np.ones(256)) * 256  # constant in each cell
    compare(
        np.log(steps) - math.log(256),
        np.log(steps / 256),
        atol=ROUNDING,
        why="equal where the density is constant inside a cell",
    )


@pytest.mark.equation("mean-reduction-beta")
@pytest.mark.parametrize("latent_mean", [False, True], ids=["sum", "mean"])
@pytest.mark.parametrize("weight", [1.0, 0.01])
def test_mean_reduced_loss_is_a_beta_vae(compare, images, weight, latent_mean):
    """Gradient of mean cross-entropy + w KL, times D, against BetaVAE's with beta = b / a."""
    d = 3
    a, b = 1 / D, weight / (d if latent_mean else 1)
    theirs = small(latent_dim=d)
    z, mean, log_var = noisy_code(theirs, images)
    kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var)
    kl = kl.mean() if latent_mean else kl.sum(1).mean()
    loss = binary_cross_entropy_with_logits(theirs.decoder(z), images) + weight * kl
    ours = small(BetaVAE, latent_dim=d, beta=b / a)
    compare(
        gradient(loss / a, theirs),
        gradient(own_loss(ours, images), ours),
        atol=1e-11,
        why="float64 rounding; gradients of size up to a hundred",
    )


@pytest.mark.equation("beta-normalised")
@pytest.mark.parametrize("latent_dim", [2, 7])
def test_normalised_beta_is_the_weight_between_two_means(compare, images, latent_dim):
    """Gradient of R / D + beta_norm KL / d, times D, against BetaVAE's with beta."""
    beta = 4.0
    normalised = beta * latent_dim / D
    theirs = small(latent_dim=latent_dim)
    z, mean, log_var = noisy_code(theirs, images)
    per_latent = (0.5 * (mean**2 + log_var.exp() - 1 - log_var)).mean()
    loss = binary_cross_entropy_with_logits(theirs.decoder(z), images) + normalised * per_latent
    ours = small(BetaVAE, latent_dim=latent_dim, beta=beta)
    compare(
        gradient(D * loss, theirs),
        gradient(own_loss(ours, images), ours),
        atol=1e-11,
        why="float64 rounding; gradients of size up to a hundred",
    )


@pytest.mark.equation("mse-decoder-variance")
@pytest.mark.parametrize("weight", [0.00025, 0.1, 3.0])
def test_squared_error_is_a_gaussian_decoder(compare, images, weight):
    """Value and slope of mean squared error + w KL, over b, against the VAE of variance b / 2a."""
    a, b = 1 / D, weight
    std = math.sqrt(b / (2 * a))
    theirs = small()
    z, mean, log_var = noisy_code(theirs, images)
    loss = mse_loss(theirs.decoder(z), images) + weight * gaussian_kl(mean, log_var).mean()
    ours = small(likelihood="gaussian", decoder_std=std)
    expected = own_loss(ours, images)
    constant = D / 2 * math.log(2 * math.pi * std**2)
    compare(
        loss.item() / b / (expected.item() - constant),
        1.0,
        atol=ROUNDING,
        why="values, as a ratio: equal up to the constant named in the equation",
    )
    slopes = gradient(loss / b, theirs), gradient(expected, ours)
    size = np.abs(slopes[1]).max()
    compare(
        slopes[0] / size,
        slopes[1] / size,
        atol=ROUNDING,
        why="gradients, as a part of the largest: equal, so the same minimum",
    )


@pytest.mark.equation("optimal-decoder-variance")
def test_the_best_variance_is_the_mean_squared_error(compare, images):
    """The standard deviation found by a numerical search, against the root of the mean square."""
    mean = small().decoder(torch.randn(5, 3, generator=torch.Generator().manual_seed(3)).double())
    mean = mean.detach()

    def negative(log_std: float) -> float:
        return -GaussianLikelihood(mean, math.exp(log_std)).log_prob(images).mean().item()

    found = optimize.minimize_scalar(
        negative, bounds=(-6, 3), method="bounded", options={"xatol": 1e-10}
    )
    error = (images - mean).square().flatten(1).sum(1).mean() / D
    compare(
        math.exp(found.x),
        error.sqrt().item(),
        atol=1e-6,
        why="a search by values finds a minimum to the root of the rounding",
    )


@pytest.mark.equation("grey-bce-expectation")
def test_grey_cross_entropy_is_a_mean_over_binary_images(compare):
    """Cross-entropy of a grey image, against the mean over all 2^12 binary images."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, *SHAPE, generator=generator, dtype=torch.float64)
    likelihood = BernoulliLikelihood(3 * torch.randn(x.shape, generator=generator).double())
    binary, probability = every_binary_image(x)
    mean = (probability * likelihood.log_prob(binary)).sum()
    compare(likelihood.log_prob(x)[0], mean, atol=1e-11, why="float64 rounding of 4096 terms")


def every_binary_image(x: Tensor) -> tuple[Tensor, Tensor]:
    """All binary images of the shape of x, and the probability of each when x is binarised."""
    bits = torch.tensor(list(itertools.product([0.0, 1.0], repeat=x.numel())), dtype=x.dtype)
    flat = x.flatten()
    return bits.reshape(-1, *x.shape[1:]), (bits * flat + (1 - bits) * (1 - flat)).prod(1)


@pytest.mark.equation("grey-elbo-bound")
def test_grey_elbo_bounds_binarised_data(compare, images):
    """ELBO of grey images, against the mean exact log-likelihood of their 2^12 binary versions."""
    model = small(latent_dim=1)
    nodes = torch.linspace(-9, 9, 2001, dtype=torch.float64)[:, None]
    log_weight = model.prior.log_prob(nodes) + math.log(18 / 2000)
    for image in images.split(1):
        with torch.no_grad():
            binary, probability = every_binary_image(image)
            logits = model.decoder(nodes).flatten(1)  # (nodes, D)
            log_joint = binary.flatten(1) @ logits.T + nn.functional.logsigmoid(-logits).sum(1)
            exact = torch.logsumexp(log_joint + log_weight, 1)  # (4096,)
            q = model.encode(image)
            inner = q.log_prob(nodes).exp() * (18 / 2000)
            grey = image.flatten(1) @ logits.T + nn.functional.logsigmoid(-logits).sum(1)
            elbo = (inner * grey).sum() - gaussian_kl(q.mean, q.log_var).sum()
        compare.at_most(
            elbo,
            (probability * exact).sum(),
            slack=1e-9,
            why="both sides by quadrature on the same 2001 nodes",
        )


@pytest.mark.equation("continuous-bernoulli-normaliser")
@pytest.mark.parametrize("y", [1e-6, 0.1, 0.4999, 0.5001, 0.9, 0.999])
def test_cross_entropy_is_not_a_density(compare, y):
    """The closed form of the integral over grey values, against adaptive quadrature."""
    area, _ = integrate.quad(lambda x: y**x * (1 - y) ** (1 - x), 0, 1, epsabs=1e-13)
    closed = (2 * y - 1) / (math.log(y) - math.log1p(-y))
    compare(closed, area, atol=1e-10, why="near y = 1/2 the closed form loses digits")
    compare.at_most(closed, 0.5, slack=1e-10, why="largest in the limit y = 1/2; same rounding")
