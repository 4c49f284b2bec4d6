"""The page "Start here": the game of two distributions, and the ring of Gaussians."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from tutor import Model, Turn
from tutor.data import ring_log_prob
from tutor.nets import mlp

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "00_start.ipynb"
X = torch.linspace(-14, 14, 20_001, dtype=torch.float64)  # beyond, both densities are below 1e-20
DX = (X[1] - X[0]).item()
P = torch.distributions.Normal(torch.tensor(-1.0).double(), torch.tensor(1.0).double())
Q = torch.distributions.Normal(torch.tensor(1.5).double(), torch.tensor(0.6).double())
LOG_P, LOG_Q = P.log_prob(X), Q.log_prob(X)


def value(logit: Tensor) -> float:
    """V(D) of the game between P and Q by quadrature, D given by its logit at the points X."""
    terms = LOG_P.exp() * logsigmoid(logit) + LOG_Q.exp() * logsigmoid(-logit)
    return DX * terms.sum().item()


def run_cell(defines: str) -> dict[str, Any]:
    """The names that one cell of the notebook defines: the code that the reader sees."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    (source,) = [s for s in ("".join(cell["source"]) for cell in cells) if defines in s]
    scope = {"Model": Model, "Turn": Turn, "Tensor": Tensor, "nn": nn, "mlp": mlp}
    scope |= {"torch": torch, "softplus": softplus}
    exec(source, scope)
    return scope


@pytest.mark.equation("gan-value")
def test_the_loss_in_the_notebook_is_minus_the_value(compare):
    """Mean loss of the notebook's Judge over many points, against minus the integral V(D)."""
    torch.manual_seed(0)
    cell = run_cell("class Judge(Model)")
    judge = cell["Judge"]().double()
    with torch.no_grad():
        exact = value(judge.logit(X[:, None])[:, 0])
        n = 100_000
        quantile = (torch.arange(n).double() + 0.5) / n  # even draws instead of random ones
        real, fake = P.icdf(quantile)[:, None], Q.icdf(quantile)[:, None]
        cell["q"] = _Stub(fake)
        (turn,) = judge.step(real)
    compare(-turn.loss, exact, atol=1e-5, why="midpoint rule on 100 000 quantiles of each")


class _Stub:
    """Stands where the notebook's second distribution stood, and returns these points."""

    def __init__(self, points: Tensor) -> None:
        self.points = points

    def sample(self, shape: tuple[int, ...]) -> Tensor:
        assert tuple(shape) == tuple(self.points.shape)
        return self.points


@pytest.mark.equation("gan-optimal-discriminator")
def test_no_discriminator_beats_the_density_ratio(compare):
    """Value of 200 other discriminators, against that of the one whose logit is log p/q."""
    best = LOG_P - LOG_Q
    generator = torch.Generator().manual_seed(0)
    others = []
    for _ in range(200):
        size, wave, shift = torch.rand(3, generator=generator, dtype=torch.float64)
        others.append(value(best + size * torch.sin(10 * wave * X + 6 * shift)))
    compare.at_most(
        np.array(others), np.full(200, value(best)), slack=1e-12, why="quadrature rounding"
    )
    found = _maximise_pointwise()
    compare(
        found,
        torch.sigmoid(best)[::500].numpy(),
        atol=1e-6,
        why="golden section by values finds a maximum to the root of the rounding",
    )


def _maximise_pointwise() -> np.ndarray:
    """The D that maximises p log D + q log(1 - D), searched for at every 500th point."""

    def best(log_p: float, log_q: float) -> float:
        scale = max(log_p, log_q)  # a common factor does not move the maximum
        p, q = math.exp(log_p - scale), math.exp(log_q - scale)
        found = minimize_scalar(
            lambda t: p * np.logaddexp(0, -t) + q * np.logaddexp(0, t), bracket=(-1.0, 1.0)
        )
        return 1 / (1 + math.exp(-found.x))

    return np.array([best(p, q) for p, q in zip(LOG_P[::500], LOG_Q[::500], strict=True)])


@pytest.mark.equation("gan-js")
def test_best_value_is_a_jensen_shannon_divergence(compare):
    """The value at the best discriminator, against 2 JS - log 4, both by quadrature."""
    log_m = torch.logaddexp(LOG_P, LOG_Q) - math.log(2)
    kl_p = DX * (LOG_P.exp() * (LOG_P - log_m)).sum().item()
    kl_q = DX * (LOG_Q.exp() * (LOG_Q - log_m)).sum().item()
    want = (kl_p + kl_q) - math.log(4)  # 2 JS is the sum of the two halves
    compare(value(LOG_P - LOG_Q), want, atol=1e-10, why="float64 rounding over 20 001 points")
    compare.at_most((kl_p + kl_q) / 2, math.log(2), slack=0.0, why="JS is at most log 2")


@pytest.mark.equation("gan-non-saturating")
def test_both_generator_losses_push_the_same_way(compare):
    """The generator's slopes through the logit, against -(1 - D) and -D."""
    logit = torch.linspace(-20, 20, 401, dtype=torch.float64, requires_grad=True)
    confidence = torch.sigmoid(logit).detach()
    (used,) = torch.autograd.grad(softplus(-logit).sum(), logit)
    (saturating,) = torch.autograd.grad(-softplus(logit).sum(), logit)
    compare(used, -(1 - confidence), atol=1e-12, why="float64 rounding")
    compare(saturating, -confidence, atol=1e-12, why="float64 rounding")
    torch.manual_seed(0)
    gan = run_cell("class GAN(Model)")["GAN"]()
    torch.manual_seed(1)
    _, turn = gan.step(torch.randn(500, 2))
    torch.manual_seed(1)
    torch.randn(500, 2)
    gan.sample(500)  # the discriminator's turn comes first and draws its own
    want = -torch.sigmoid(gan.discriminator(gan.sample(500))).log().mean()
    compare(turn.loss, want, atol=1e-6, why="float32 rounding; the notebook's own second turn")


@pytest.mark.equation("ring-entropy")
def test_entropy_of_the_ring(compare):
    """Negative entropy of eight Gaussians by quadrature in the plane, against the closed form."""
    axis = torch.linspace(-3, 3, 601, dtype=torch.float64)
    plane = torch.cartesian_prod(axis, axis)
    log_p = ring_log_prob(plane)
    got = ((axis[1] - axis[0]) ** 2 * (log_p.exp() * log_p).sum()).item()
    want = -math.log(8) - 1 - math.log(2 * math.pi * 0.1**2)
    compare(got, want, atol=1e-6, why="spacing of s/10; centres computed in float32")
    compare(want, -0.312, atol=5e-4, why="the three digits that the page prints")


@pytest.mark.equation("likelihood-gap")
def test_a_likelihood_falls_short_by_a_divergence(compare):
    """Mean log-density under another ring, against negative entropy minus the KL between them."""
    axis = torch.linspace(-4, 4, 401, dtype=torch.float64)
    plane = torch.cartesian_prod(axis, axis)
    cell = (axis[1] - axis[0]) ** 2
    log_p = ring_log_prob(plane, std=0.2)
    log_model = ring_log_prob(plane, radius=1.9, std=0.25)
    weight = cell * log_p.exp()
    # KL of mixtures whose parts don't overlap: that of the matching Gaussians, in closed form.
    gap = 2 * math.log(0.25 / 0.2) + (2 * 0.2**2 + 0.1**2) / (2 * 0.25**2) - 1
    compare(
        (weight * log_model).sum(),
        (weight * log_p).sum() - gap,
        atol=2e-3,
        why="the matching of modes is exact only up to their overlap, 4 sd from the middle",
    )
    noise = torch.distributions.Normal(0.0, 1.0)
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    other = noise.log_prob(x - 1)
    got = ((x[1] - x[0]) * noise.log_prob(x).exp() * other).sum()
    want = -0.5 - 0.5 * math.log(2 * math.pi) - 0.5
    compare(got, want, atol=1e-6, why="N(0, 1) under N(1, 1): entropy and KL 1/2; float32 density")
