"""Chapter 3: adaptive contrast, its moments, the encoders, and what a critic can prove."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from tests.equations.test_avb_game import (
    LBFGS,
    ROUNDING,
    SMOOTH,
    Line,
    SinhEncoder,
    best_table,
    generator,
    normal_log_prob,
)
from tutor.models import AVB
from tutor.noise_encoders import FactoredNoiseEncoder

F64 = torch.float64
MOMENTS = [(0.0, 1.0), (-0.6, 0.4), (1.5, 2.5)]  # of r, from the prior's to far off


@pytest.fixture(scope="module")
def line() -> Line:
    return Line()


def moments(line: Line) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each posterior of the line, (2,) each."""
    mean = line.mean(line.z)
    return mean, (line.mean(line.z.square()) - mean.square()).sqrt()


@pytest.mark.equation("avb-contrast-bound")
@pytest.mark.parametrize(("mean", "std"), MOMENTS)
def test_the_bound_is_the_same_for_every_contrast(line, mean, std, compare):
    """E_q [log p(x, z) - log r] - KL(q || r) by quadrature against the ELBO, for three r."""
    log_r = normal_log_prob(line.z, mean, std)
    first = line.mean(line.log_likelihood + line.log_p - log_r)
    compare(first - line.mean(line.log_q - log_r), line.elbo, atol=1e-10, why=SMOOTH)


@pytest.mark.equation("normalised-code", "kl-affine-invariance", "contrast-critic")
@pytest.mark.parametrize(("mean", "std"), MOMENTS)
def test_a_change_of_units_changes_no_divergence(line, mean, std, compare):
    """KL(q || r) in z against KL of the normalised code to N(0, 1), each on a grid of its own."""
    z = line.z
    log_r = normal_log_prob(z, mean, std)
    in_z = line.mean(line.log_q - log_r)
    z_hat = torch.linspace(-32, 32, 64_001, dtype=F64)
    step = z_hat[1] - z_hat[0]
    peaks = torch.tensor([[-1.4, 0.2], [0.3, 1.9]], dtype=F64)
    share = torch.tensor([[0.8], [0.2]], dtype=F64).log()
    parts = normal_log_prob(mean + std * z_hat, peaks[..., None], 0.35)
    log_q_hat = (parts + share).logsumexp(1) + math.log(std)
    compare((log_q_hat.exp() * step).sum(1), torch.ones(2, dtype=F64), atol=1e-10, why=SMOOTH)
    ratio = log_q_hat - normal_log_prob(z_hat)
    compare((log_q_hat.exp() * ratio * step).sum(1), in_z, atol=1e-9, why=SMOOTH)
    # The best critic on normalised codes, found numerically on a coarse grid, is that ratio.
    some = slice(30_000, 34_001, 400)
    first, second = log_q_hat[:, some].exp(), normal_log_prob(z_hat[some]).exp().expand(2, -1)
    seen = (first > 0.01) & (second > 0.01)  # elsewhere the value hardly depends on T
    compare(best_table(first[seen], second[seen]), ratio[:, some][seen], atol=1e-4, why=LBFGS)


class KnownMoments(SinhEncoder):
    """The encoder with a known density; the moments it reports may be wrong, like any r."""

    latent_dim = 1

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.reported = torch.tensor([mean], dtype=F64), torch.tensor([std], dtype=F64)

    def moments(self, x: Tensor, samples: int, *, generator=None) -> tuple[Tensor, Tensor]:
        mean, std = self.reported
        # contrast() adds 1e-4 to the variance, so that it is never zero.
        return mean.expand(len(x), 1), (std.square() - 1e-4).sqrt().expand(len(x), 1)


class BestCritic(nn.Module):
    """T*(x, z_hat) for the encoder and the moments it reports, in closed form."""

    def __init__(self, encoder: KnownMoments) -> None:
        super().__init__()
        self.encoder = [encoder]  # in a list: its parameters are the other player's
        self.nothing = nn.Parameter(torch.zeros((), dtype=F64))

    def forward(self, x: Tensor, z_hat: Tensor) -> Tensor:
        (encoder,) = self.encoder
        mean, std = encoder.reported
        log_q_hat = encoder.log_prob(x, mean + std * z_hat) + std.log()
        return (log_q_hat - normal_log_prob(z_hat))[:, 0] + self.nothing


@pytest.mark.equation("avb-contrast-objective")
@pytest.mark.parametrize(("mean", "std"), MOMENTS)
def test_the_packages_estimate_with_the_best_critic_is_exact(mean, std, compare):
    """AVB.kl_estimate with T* built in, against log q - log p at every draw; and its loss."""
    encoder = KnownMoments(mean, std)
    model = AVB(1, image_shape=(1,), encoder=encoder, decoder=nn.Linear(1, 1).double(),
                critic=BestCritic(encoder), adaptive_contrast=True,
                prior_in_critic=False)  # fmt: skip
    x = torch.tensor([[0.0], [1.0], [1.0]], dtype=F64)
    z = model.encode(x).sample(generator=generator(0))
    exact = (encoder.log_prob(x, z) - normal_log_prob(z))[:, 0].detach()
    compare(model.kl_estimate(x, z).detach(), exact, atol=1e-10, why=ROUNDING)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        turn = next(iter(model.step(x)))
        torch.manual_seed(0)
        z = encoder(x, torch.randn(3, 1, dtype=F64)).detach()
    exact = (encoder.log_prob(x, z) - normal_log_prob(z))[:, 0].detach()
    bound = model.decode(z).log_prob(x) - exact
    compare(turn.loss.detach(), -bound.mean().detach(), atol=1e-10, why=ROUNDING)


@pytest.mark.equation("moment-matching")
def test_the_best_gaussian_has_the_moments_of_q(line, compare):
    """The mean and width that minimise KL(q || r), found by L-BFGS, against q's moments."""
    for n, (mean, std) in enumerate(zip(*moments(line), strict=True)):
        found = torch.zeros(2, dtype=F64, requires_grad=True)
        optimiser = torch.optim.LBFGS(
            [found],
            max_iter=200,
            tolerance_grad=1e-12,
            tolerance_change=1e-16,
            line_search_fn="strong_wolfe",
        )

        def loss(n: int = n, found: Tensor = found, optimiser=optimiser) -> Tensor:
            optimiser.zero_grad()
            log_r = normal_log_prob(line.z, found[0], found[1].exp())
            result = line.mean(line.log_q - log_r)[n]
            result.backward()
            return result

        optimiser.step(loss)
        got = torch.stack([found[0], found[1].exp()]).detach()
        compare(got, torch.stack([mean, std]), atol=1e-6, why="L-BFGS: root of rounding")


@pytest.mark.equation("contrast-pythagoras")
def test_the_divergence_splits_at_the_matching_gaussian(compare):
    """KL(q || p) against KL(r || p) + KL(q || r) for a correlated mixture in the plane."""
    axis = torch.linspace(-9, 9, 721, dtype=F64)
    z = torch.cartesian_prod(axis, axis)
    cell = (axis[1] - axis[0]) ** 2
    centres = torch.tensor([[1.2, 0.8], [-0.3, -1.0], [2.0, 1.7]], dtype=F64)
    parts = normal_log_prob(z[:, None], centres, torch.tensor([0.5, 0.3], dtype=F64)).sum(-1)
    log_q = parts.logsumexp(1) - math.log(3)
    weight = log_q.exp() * cell
    mean = weight @ z
    std = (weight @ z.square() - mean.square()).sqrt()
    log_p, log_r = normal_log_prob(z).sum(-1), normal_log_prob(z, mean, std).sum(-1)
    closed = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).sum()
    left = (weight * (log_q - log_r)).sum()
    compare((weight * (log_q - log_p)).sum(), closed + left, atol=1e-10, why=SMOOTH)
    compare.at_most(0.1, left, why="something is left: the mixture is not Gaussian")


@pytest.mark.equation("moments-without-gradient")
def test_the_moments_carry_no_gradient(line, compare):
    """dF/d(mean, log std) at the critic's own moments by autograd, and F elsewhere below."""
    mean, std = (m[0] for m in moments(line))
    q = line.log_q[0].exp() * line.step
    peaks = torch.tensor([[-1.4], [0.2]], dtype=F64)
    share = torch.tensor([[0.8], [0.2]], dtype=F64).log()

    def critic(z_hat: Tensor) -> Tensor:  # best for (mean, std), and fixed
        log_q = (normal_log_prob(mean + std * z_hat, peaks, 0.35) + share).logsumexp(0)
        return log_q + std.log() - normal_log_prob(z_hat)

    def total(alpha: Tensor) -> Tensor:
        z_hat = (line.z - alpha[0]) / alpha[1].exp()
        log_r = normal_log_prob(z_hat) - alpha[1]
        return (q * (critic(z_hat) + log_r)).sum()

    at = torch.stack([mean, std.log()])
    slope = torch.autograd.functional.jacobian(total, at)
    compare(slope, torch.zeros(2, dtype=F64), atol=1e-9, why=SMOOTH)
    moved = at + 0.4 * torch.randn(100, 2, generator=generator(0), dtype=F64)
    values = torch.stack([total(alpha) for alpha in moved])
    compare.at_most(values, total(at).expand(100), slack=1e-12, why="F is largest there")

    def with_wrong_critic(alpha: Tensor) -> Tensor:
        z_hat = (line.z - alpha[0]) / alpha[1].exp()
        return total(alpha) + (q * 0.3 * z_hat).sum()  # T* with a slight slope added

    wrong = torch.autograd.functional.jacobian(with_wrong_critic, at)
    compare.at_most(0.05, wrong.abs().max(), why="with another critic the gradient is not zero")


@pytest.mark.equation("moments-without-gradient")
def test_the_package_sends_no_gradient_through_the_moments(compare):
    """The encoder's gradient of a normalised code against one with the moments put in by hand."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AVB(2, noise_dim=3, image_shape=(1, 2, 2), adaptive_contrast=True).double()
    x = torch.eye(4, dtype=F64).view(4, 1, 2, 2)
    weight = torch.randn(4, 2, generator=generator(1), dtype=F64)
    r = model.contrast(x, generator=generator(2))
    parameters = list(model.encoder.parameters())

    z = model.encode(x).rsample(generator=generator(3))
    got = (model.normalise(z, r) * weight).sum()
    mean, std = r.mean.clone(), r.stddev.clone()
    by_hand = ((z - mean) / std * weight).sum()
    slopes = [torch.autograd.grad(v, parameters, retain_graph=True) for v in (got, by_hand)]
    flat = [torch.cat([g.flatten() for g in some]) for some in slopes]
    compare(flat[0], flat[1], atol=1e-12, why=ROUNDING)
    compare.at_most(1e-3, flat[0].abs().max(), why="the gradient through the code is there")
    turn = next(iter(model.step(x)))
    kl = model.kl_estimate(x, z.detach(), model.contrast(x))
    through_moments = torch.autograd.grad(turn.loss, parameters, retain_graph=True)
    compare.at_most(0.0, through_moments[0].abs().max(), why="the whole loss has a gradient")
    compare(float(any_path(kl, parameters)), 0.0, atol=0.0, why="with z fixed nothing is left")


def any_path(value: Tensor, parameters: list[nn.Parameter]) -> bool:
    """Whether any gradient reaches the parameters."""
    slopes = torch.autograd.grad(value.sum(), parameters, allow_unused=True)
    return any(s is not None and bool(s.any()) for s in slopes)


@pytest.mark.equation("factored-encoder", "factored-moments")
def test_moments_of_a_factored_encoder(compare):
    """Means and variances of z by quadrature over both noises against the sum formulas."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = FactoredNoiseEncoder((1, 2, 2), 2, bases=2, noise_dim=1).double()
    x = torch.rand(3, 1, 2, 2, generator=generator(0), dtype=F64)
    axis = torch.linspace(-8, 8, 81, dtype=F64)
    weight = normal_log_prob(axis).exp() * (axis[1] - axis[0])
    with torch.no_grad():
        noise = torch.cartesian_prod(axis, axis)[:, None].expand(-1, 3, 2)
        z = encoder(x, noise)  # (81^2, 3, 2)
        both = torch.outer(weight, weight).flatten()
        mean = torch.einsum("k,knd->nd", both, z)
        variance = torch.einsum("k,knd->nd", both, z.square()) - mean.square()
        # The sums: v_1 and v_2 each on its own line of noise, a_i from the image alone.
        v = encoder.from_noise(axis[:, None, None].expand(-1, 2, 1))  # (81, bases, 2)
        offset, a = encoder._coefficients(x)
        mean_v = torch.einsum("k,kbd->bd", weight, v)
        var_v = torch.einsum("k,kbd->bd", weight, v.square()) - mean_v.square()
        written = offset + (a * v[[20, 60], [0, 1]]).sum(1)
        at = torch.tensor([[axis[20], axis[60]]], dtype=F64).expand(3, 2)
        compare(encoder(x, at), written, atol=1e-12, why=ROUNDING)
    compare(mean, offset + (a * mean_v).sum(1), atol=1e-10, why=SMOOTH)
    compare(variance, (a.square() * var_v).sum(1), atol=1e-10, why=SMOOTH)
    samples = 50_000
    drawn_mean, drawn_std = encoder.moments(x, samples, generator=generator(1))
    error = (variance / samples).sqrt()
    compare((drawn_mean - mean) / error, torch.zeros_like(mean), atol=5.0, why="5 standard errors")
    compare(drawn_std.square() / variance, torch.ones_like(mean), atol=0.05,
            why="a variance of 50 000 draws has a relative error of one percent")  # fmt: skip


@pytest.mark.equation("donsker-varadhan", "critic-overestimates")
def test_what_any_critic_proves(line, compare):
    """E_q T - log E_p exp T for 200 critics against KL(q || p) - KL(q || p_T), by quadrature."""
    log_q, log_p, step = line.log_q[1], line.log_p, line.step
    best = log_q - log_p
    divergence = (log_q.exp() * best).sum() * step
    g = generator(0)
    claims, ratios = [], []
    for scale in torch.linspace(0, 3, 200, dtype=F64):
        wave = scale * torch.sin(torch.randn((), generator=g, dtype=F64) + line.z)
        critic = 0.7 * best.clamp(min=-30) + wave
        log_tilted = log_p + critic
        log_mass = log_tilted.logsumexp(0) + step.log()
        claim = (log_q.exp() * critic).sum() * step - log_mass
        rest = (log_q.exp() * (log_q - (log_tilted - log_mass))).sum() * step
        claims.append(claim)
        ratios.append(claim + rest)
    compare(torch.stack(ratios), divergence.expand(200), atol=1e-9, why=SMOOTH)
    compare.at_most(torch.stack(claims), divergence.expand(200), why="never above the divergence")
    exact = (log_q.exp() * best).sum() * step - ((log_p + best).logsumexp(0) + step.log())
    compare(exact, divergence, atol=1e-10, why=SMOOTH)
    # So the bound that a corrected critic claims is never below the ELBO.
    reconstruction = line.mean(line.log_likelihood)[1]
    claimed = reconstruction - torch.stack(claims)
    compare.at_most(line.elbo[1].expand(200), claimed, slack=1e-9, why="at least the ELBO")
