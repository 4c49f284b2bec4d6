"""Small models whose evidence and posterior are known without the code under test."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from tutor.models import VAE

SHAPE = (1, 2, 3)
PIXELS = math.prod(SHAPE)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear_vae(dim: int, std: float = 0.5, seed: int = 0) -> VAE:
    """x = W z + b + std * noise, with an encoder that is linear and wrong; in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 2 * dim))
        decoder = nn.Sequential(nn.Linear(dim, PIXELS), nn.Unflatten(1, SHAPE))
        return VAE(
            dim,
            image_shape=SHAPE,
            likelihood="gaussian",
            decoder_std=std,
            encoder=encoder,
            decoder=decoder,
        ).double()


def evidence(model: VAE) -> MultivariateNormal:
    """p(x) = N(b, W W' + std^2 I) of a linear model, over flattened images."""
    weight, bias = model.decoder[0].weight.detach(), model.decoder[0].bias.detach()
    noise = model.decoder_std**2 * torch.eye(PIXELS, dtype=weight.dtype)
    return MultivariateNormal(bias, weight @ weight.T + noise)


def linear_images(model: VAE, n: int, seed: int = 1) -> Tensor:
    """Draws from the model's own p(x), from a generator of their own."""
    p = evidence(model)
    noise = torch.randn(n, PIXELS, generator=generator(seed), dtype=torch.float64)
    return (p.mean + noise @ p.scale_tril.T).view(n, *SHAPE)


def log_evidence(model: VAE, x: Tensor) -> Tensor:
    return evidence(model).log_prob(x.flatten(1))


def posterior(model: VAE, x: Tensor) -> MultivariateNormal:
    """p(z|x) = N(C W'(x - b) / std^2, C) with C = (I + W'W / std^2)^-1, one for each image."""
    weight, bias = model.decoder[0].weight.detach(), model.decoder[0].bias.detach()
    precision = torch.eye(weight.shape[1]).to(weight) + weight.T @ weight / model.decoder_std**2
    mean = torch.linalg.solve(precision, weight.T @ (x.flatten(1) - bias).T / model.decoder_std**2)
    return MultivariateNormal(mean.T, precision_matrix=precision.expand(len(x), -1, -1))


def linear_elbo(model: VAE, x: Tensor) -> Tensor:
    """The ELBO of a linear model, term by term in closed form."""
    with torch.no_grad():
        q = model.encode(x)
        weight, bias = model.decoder[0].weight, model.decoder[0].bias
        variance = model.decoder_std**2
        miss = (x.flatten(1) - q.mean @ weight.T - bias).square().sum(1)
        spread = q.log_var.exp() @ weight.square().sum(0)
        constant = 0.5 * PIXELS * math.log(2 * math.pi * variance)
        kl = 0.5 * (q.mean.square() + q.log_var.exp() - 1 - q.log_var).sum(1)
        return -0.5 * (miss + spread) / variance - constant - kl


def bernoulli_vae(dim: int = 2, scale: float = 4.0, activation: type[nn.Module] = nn.Tanh) -> VAE:
    """A random nonlinear decoder of binary pixels; ``scale`` makes its posteriors narrow."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 2 * dim))
        decoder = nn.Sequential(
            nn.Linear(dim, 16), activation(), nn.Linear(16, PIXELS), nn.Unflatten(1, SHAPE)
        )
        model = VAE(dim, image_shape=SHAPE, encoder=encoder, decoder=decoder).double()
        with torch.no_grad():
            for parameter in model.decoder.parameters():
                parameter *= scale
            model.encoder[1].bias[dim:] -= 3  # posteriors of deviation about 0.2
        return model


def all_binary_images() -> Tensor:
    """Every image of six binary pixels: 64 of them."""
    bits = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * PIXELS)
    return bits.view(-1, *SHAPE)


def plane(points: int, half_width: float = 7.0) -> tuple[Tensor, float]:
    """A plain square grid over the plane and the area of a cell: brute force for the tests."""
    axis = torch.linspace(-half_width, half_width, points, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis), (2 * half_width / (points - 1)) ** 2


def brute_force_joint(model: VAE, x: Tensor, z: Tensor) -> Tensor:
    """log p(x, z) of every image at every z, pixel by pixel from the definition: (n, points)."""
    with torch.no_grad():
        white = torch.sigmoid(model.decoder(z).flatten(1))  # (points, pixels)
    pixels = x.flatten(1).unsqueeze(1)  # (n, 1, pixels)
    log_likelihood = (pixels * white + (1 - pixels) * (1 - white)).log().sum(-1)
    return log_likelihood - 0.5 * z.square().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi)
