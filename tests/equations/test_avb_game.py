"""Chapter 3: the critic, its gradient, the game's equilibria, and what a sample teaches it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from tutor.models import AVB

F64 = torch.float64
ROUNDING = "the same number by another route, in float64"
SMOOTH = "the trapezoid rule converges exponentially for smooth densities that vanish at both ends"
LBFGS = "L-BFGS stops where the value is flat to rounding: square root of 1e-16, on this scale"


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal_log_prob(z: Tensor, mean: Tensor | float = 0.0, std: Tensor | float = 1.0) -> Tensor:
    std = torch.as_tensor(std, dtype=z.dtype)
    return -0.5 * ((z - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)


# -- two worlds whose every integral is known -------------------------------------------------


class FiniteWorld:
    """Six images and five codes; every expectation is a sum."""

    def __init__(self) -> None:
        g = generator(3)

        def rows(n: int, m: int) -> Tensor:
            return (2 * torch.randn(n, m, generator=g, dtype=F64)).softmax(1)

        self.data, self.prior = rows(1, 6)[0], rows(1, 5)[0]
        self.encoder, self.decoder = rows(6, 5), rows(5, 6)  # q(z|x), p(x|z)

    def joint(self, decoder: Tensor) -> Tensor:
        return (self.prior[:, None] * decoder).T  # p(x, z), (6, 5)

    def mean_elbo(self, decoder: Tensor, encoder: Tensor) -> Tensor:
        """By the other route: the evidence minus the divergence to the exact posterior."""
        joint = self.joint(decoder)
        posterior = joint / joint.sum(1, keepdim=True)
        gap = (encoder * (encoder / posterior).log()).sum(1)
        return (self.data * (joint.sum(1).log() - gap)).sum()

    def payoff(self, decoder: Tensor, encoder: Tensor, critic: Tensor) -> Tensor:
        return (self.data[:, None] * encoder * (decoder.T.log() - critic)).sum()

    def random_encoders(self, n: int) -> Tensor:
        return (3 * torch.randn(n, 6, 5, generator=generator(4), dtype=F64)).softmax(-1)

    def random_decoders(self, n: int) -> Tensor:
        return (3 * torch.randn(n, 5, 6, generator=generator(5), dtype=F64)).softmax(-1)


class Line:
    """Two images, x = -1 and 1, with p(x|z) = N(x; z, 1/2) and posteriors with two peaks."""

    def __init__(self) -> None:
        self.z = torch.linspace(-11, 11, 4401, dtype=F64)
        self.step = self.z[1] - self.z[0]
        self.log_p = normal_log_prob(self.z)
        self.x = torch.tensor([[-1.0], [1.0]], dtype=F64)
        self.share = torch.tensor([0.3, 0.7], dtype=F64)  # p_d
        peaks = torch.tensor([[-1.4, 0.2], [0.3, 1.9]], dtype=F64)
        parts = normal_log_prob(self.z, peaks[..., None], 0.35)  # (image, peak, grid)
        self.log_q = (parts + torch.tensor([[0.8], [0.2]], dtype=F64).log()).logsumexp(1)
        self.log_likelihood = normal_log_prob(self.x, self.z, math.sqrt(0.5))

    def mean(self, f: Tensor) -> Tensor:
        """E_q f for each image: ``(2, grid)`` to ``(2,)``."""
        return (self.log_q.exp() * f).sum(1) * self.step

    @property
    def elbo(self) -> Tensor:
        """Evidence minus KL to the exact posterior; both are Gaussian facts, (2,)."""
        evidence = normal_log_prob(self.x[:, 0], 0.0, math.sqrt(1.5))
        posterior = normal_log_prob(self.z, self.x / 1.5, math.sqrt(1 / 3))
        return evidence - self.mean(self.log_q - posterior)


@pytest.fixture(scope="module")
def finite() -> FiniteWorld:
    return FiniteWorld()


@pytest.fixture(scope="module")
def line() -> Line:
    return Line()


# -- an encoder fed with noise whose density is known ------------------------------------------


class SinhEncoder(nn.Module):
    """``z = m(x) + s sinh(k asinh(noise))``, one dimension: implicit in use, known in truth."""

    noise_dim = 1

    def __init__(self) -> None:
        super().__init__()
        values = torch.tensor([0.4, 0.3, -0.5, 0.45], dtype=F64)  # slope, shift, log s, log k
        self.values = nn.Parameter(values)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        slope, shift, log_s, log_k = self.values
        return slope * x + shift + log_s.exp() * (log_k.exp() * noise.asinh()).sinh()

    def log_prob(self, x: Tensor, z: Tensor, values: Tensor | None = None) -> Tensor:
        """log q(z|x) by change of variables: noise = sinh(asinh((z - m) / s) / k)."""
        slope, shift, log_s, log_k = self.values if values is None else values
        w = ((z - slope * x - shift) / log_s.exp()).asinh()
        noise = (w / log_k.exp()).sinh()
        slopes = (w / log_k.exp()).cosh().log() - log_k - w.cosh().log() - log_s
        return normal_log_prob(noise) + slopes


def noise_nodes() -> tuple[Tensor, Tensor]:
    """Trapezoid rule for the standard normal: nodes (m, 1) and weights (m,)."""
    noise = torch.linspace(-9, 9, 3601, dtype=F64)
    return noise[:, None], normal_log_prob(noise).exp() * (noise[1] - noise[0])


def on_nodes(x: float = 0.7) -> tuple[SinhEncoder, Tensor, Tensor, Tensor]:
    encoder, (noise, weights) = SinhEncoder(), noise_nodes()
    images = torch.full_like(noise, x)
    return encoder, images, encoder(images, noise), weights


@pytest.mark.equation("implicit-posterior")
def test_expectations_are_expectations_over_the_noise(compare):
    """E_q f by quadrature over z with the true density, against quadrature over the noise."""
    encoder, images, z, weights = on_nodes()
    z = z.detach()[:, 0]
    axis = torch.linspace(-60, 60, 240_001, dtype=F64)
    density = encoder.log_prob(torch.tensor(0.7, dtype=F64), axis).exp().detach()
    for f in (torch.ones_like, torch.cos, lambda v: v / (1 + v.square())):
        over_z = (density * f(axis)).sum() * (axis[1] - axis[0])
        compare(weights @ f(z), over_z, atol=1e-9, why=SMOOTH)
    # The package draws in the same way: the encoder applied to standard normal noise.
    model = AVB(1, image_shape=(1,), encoder=encoder, decoder=nn.Linear(1, 1)).double()
    drawn = model.encode(images[:5]).sample((3,), generator=generator(0))
    noise = torch.randn(3, 5, 1, generator=generator(0), dtype=F64)
    compare(drawn, encoder(images[:5], noise).detach(), atol=1e-15, why=ROUNDING)


@pytest.mark.equation("avb-elbo", "avb-objective")
def test_the_bound_needs_only_the_mean_log_ratio(line, compare):
    """E_q [log p(x|z) - T*] by quadrature against evidence minus KL to the exact posterior."""
    log_ratio = line.log_q - line.log_p
    by_terms = line.mean(line.log_likelihood - log_ratio)
    compare(by_terms, line.elbo, atol=1e-11, why=SMOOTH)
    averaged = (line.share * by_terms).sum()
    compare(averaged, (line.share * line.elbo).sum(), atol=1e-11, why=SMOOTH)
    # E_q T* is the divergence; for a Gaussian q it has a closed form.
    mean, std = 0.8, 0.4
    log_q = normal_log_prob(line.z, mean, std)
    divergence = (log_q.exp() * (log_q - line.log_p)).sum() * line.step
    closed = 0.5 * (mean**2 + std**2 - 1 - math.log(std**2))
    compare(divergence, closed, atol=1e-12, why=SMOOTH)


def value(critic: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """V of a table of logits; first has label 1, second label 0."""
    log_sigmoid = nn.functional.logsigmoid
    return (first * log_sigmoid(critic)).sum() + (second * log_sigmoid(-critic)).sum()


def best_table(first: Tensor, second: Tensor) -> Tensor:
    """The table of logits that L-BFGS finds, started at zero."""
    critic = torch.zeros_like(first, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [critic],
        max_iter=3000,
        history_size=50,
        tolerance_grad=1e-13,
        tolerance_change=1e-18,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        result = -value(critic, first, second)
        result.backward()
        return result

    optimiser.step(loss)
    return critic.detach()


@pytest.mark.equation("avb-optimal-critic", "avb-log-ratio")
def test_the_best_critic_is_the_log_ratio(finite, compare):
    """The table T that maximises V, found numerically, against log q(z|x) - log p(z)."""
    first = finite.data[:, None] * finite.encoder
    second = finite.data[:, None] * finite.prior
    log_ratio = finite.encoder.log() - finite.prior.log()
    compare(best_table(first, second), log_ratio, atol=1e-4, why=LBFGS)
    rivals = log_ratio + 0.3 * torch.randn(200, 6, 5, generator=generator(0), dtype=F64)
    values = torch.stack([value(rival, first, second) for rival in rivals])
    top = value(log_ratio, first, second)
    compare.at_most(values, top.expand(200), why="no other critic has a larger value")
    middle = 0.5 * (finite.encoder + finite.prior)
    js = 0.5 * (finite.encoder * (finite.encoder / middle).log()).sum(1)
    js = js + 0.5 * (finite.prior * (finite.prior / middle).log()).sum(1)
    compare(top, 2 * (finite.data * js).sum() - math.log(4), atol=1e-12, why=ROUNDING)


def tiny_avb(**options) -> tuple[AVB, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AVB(2, noise_dim=3, image_shape=(1, 2, 2), **options).double()
    return model, torch.eye(4, dtype=F64).view(4, 1, 2, 2)


@pytest.mark.equation("avb-value", "avb-payoff")
def test_the_packages_losses_are_the_two_objectives(compare):
    """The two losses of AVB.step against V and U written with probabilities, on equal draws."""
    model, x = tiny_avb()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        autoencoder, critic = model.step(x)
        torch.manual_seed(1)  # the same draws, in the same order
        z = model.encoder(x, torch.randn(4, 3, dtype=F64))
        prior = torch.randn(4, 2, dtype=F64)
    y = model.decoder(z).sigmoid()
    log_likelihood = torch.where(x == 1, y, 1 - y).log().sum((1, 2, 3))
    payoff = (log_likelihood - model.critic_value(x, z)).mean()
    compare(-autoencoder.loss, payoff, atol=1e-12, why=ROUNDING)
    inside, outside = (torch.sigmoid(model.critic_value(x, code)) for code in (z, prior))
    by_hand = inside.log().mean() + (1 - outside).log().mean()
    compare(-critic.loss, by_hand, atol=1e-12, why=ROUNDING)


@pytest.mark.equation("critic-on-codes", "critic-on-codes-objective")
def test_a_critic_that_sees_only_codes_drops_the_information(finite, compare):
    """The best T(z), found numerically, and its objective against mean ELBO plus I(x; z)."""
    aggregate = finite.data @ finite.encoder
    log_ratio = aggregate.log() - finite.prior.log()
    compare(best_table(aggregate, finite.prior), log_ratio, atol=1e-4, why=LBFGS)
    mismatch = (aggregate * log_ratio).sum()
    under_q = (finite.data[:, None] * finite.encoder * log_ratio).sum()
    compare(under_q, mismatch, atol=1e-12, why=ROUNDING)
    objective = finite.payoff(finite.decoder, finite.encoder, log_ratio.expand(6, 5))
    shared = finite.data[:, None] * finite.encoder * (finite.encoder / aggregate).log()
    bound = finite.mean_elbo(finite.decoder, finite.encoder)
    compare(objective, bound + shared.sum(), atol=1e-12, why=ROUNDING)


@pytest.mark.equation("avb-score-identity", "score-is-centred")
def test_the_critics_own_gradient_has_mean_zero(compare):
    """E_q of grad_phi T* at fixed codes, by quadrature over the noise, for all four parameters."""
    encoder, images, z, weights = on_nodes()
    log_ratio = encoder.log_prob(images, z.detach()) - normal_log_prob(z.detach())
    centred = torch.autograd.grad(weights @ log_ratio[:, 0], encoder.values)[0]
    compare(centred, torch.zeros(4, dtype=F64), atol=1e-9, why=SMOOTH)
    # Not because every term is zero: the same means without their signs.
    each = torch.autograd.functional.jacobian(
        lambda v: encoder.log_prob(images, z.detach(), v)[:, 0], encoder.values.detach()
    )
    compare.at_most(0.1, (weights @ each.abs()).min(), why="single draws are far from zero")


@pytest.mark.equation("avb-path-gradient")
def test_the_gradient_of_the_divergence_goes_through_the_codes(compare):
    """The gradient with a frozen T* against finite differences of KL(q || p) by quadrature."""
    encoder, images, z, weights = on_nodes()
    frozen = encoder.values.detach().clone()
    log_ratio = encoder.log_prob(images, z, frozen) - normal_log_prob(z)
    path = torch.autograd.grad(weights @ log_ratio[:, 0], encoder.values)[0]

    noise, _ = noise_nodes()

    def divergence(values: Tensor) -> Tensor:
        slope, shift, log_s, log_k = values
        z = slope * images + shift + log_s.exp() * (log_k.exp() * noise.asinh()).sinh()
        return weights @ (encoder.log_prob(images, z, values) - normal_log_prob(z))[:, 0]

    h = 1e-5
    slopes = []
    for i in range(4):
        move = torch.zeros(4, dtype=F64)
        move[i] = h
        slopes.append((divergence(frozen + move) - divergence(frozen - move)) / (2 * h))
    why = "central differences: error of order h^2 = 1e-10 times a third derivative of size 10"
    compare(path, torch.stack(slopes).detach(), atol=1e-7, why=why)


@pytest.mark.equation("avb-equilibrium")
def test_equilibria_of_the_game(finite, compare):
    """The theorem's three parts by enumeration: payoffs, best responses, EM's fixed point."""
    # Part 1: ELBO(theta, phi) = U(theta, phi, T*) - KL(q_phi || q_phi*), for any theta and phi.
    critic = finite.encoder.log() - finite.prior.log()  # best for finite.encoder
    pairs = zip(finite.random_decoders(50), finite.random_encoders(50), strict=True)
    for decoder, encoder in pairs:
        apart = (finite.data[:, None] * encoder * (encoder / finite.encoder).log()).sum()
        through = finite.payoff(decoder, encoder, critic) - apart
        compare(finite.mean_elbo(decoder, encoder), through, atol=1e-11, why=ROUNDING)
    # Parts 2 and 3: exact posterior and the best decoder for it, iterated to a fixed point.
    decoder = finite.decoder
    for _ in range(5_000):
        joint = finite.joint(decoder)
        posterior = joint / joint.sum(1, keepdim=True)
        weighted = finite.data[:, None] * posterior
        decoder = (weighted / weighted.sum(0)).T
    critic = posterior.log() - finite.prior.log()
    here = finite.payoff(decoder, posterior, critic)
    largest = (finite.data * finite.data.log()).sum()
    compare(here, largest, atol=1e-9, why="EM converges linearly; 5000 steps reach this")
    evidence = finite.joint(decoder).sum(1)
    compare(critic, decoder.T.log() - evidence.log()[:, None], atol=1e-6,
            why="T* by Bayes' rule; small probabilities converge last")  # fmt: skip
    rivals = finite.random_encoders(200)
    payoffs = torch.stack([finite.payoff(decoder, rival, critic) for rival in rivals])
    compare(payoffs, here.expand(200), atol=1e-6, why="indifferent; as the line before")
    others = torch.stack(
        [finite.payoff(rival, posterior, critic) for rival in finite.random_decoders(200)]
    )
    compare.at_most(others, here.expand(200), why="no decoder gains by moving alone")
    # Together they gain: code 0 for the most probable image, and a decoder that says so.
    encoder = torch.eye(5, dtype=F64)[[0, 1, 2, 3, 4, 4]]
    cheat = torch.eye(6, dtype=F64)[:5].clamp(min=1e-300)
    cheat[4, 4:] = 0.5
    compare.at_most(here + 0.1, finite.payoff(cheat, encoder, critic), why="a joint move pays")


@pytest.mark.equation("prior-in-critic", "entropy-critic")
def test_with_the_prior_built_in_only_the_entropy_is_left(line, compare):
    """The package's critic with a silent network against -log p(z), and the ELBO with H(q)."""
    model, x = tiny_avb(critic=Silent())
    z = torch.randn(4, 2, generator=generator(0), dtype=F64)
    compare(model.critic_value(x, z), 0.5 * z.square().sum(1) + math.log(2 * math.pi),
            atol=1e-14, why=ROUNDING)  # fmt: skip
    entropy = line.mean(-line.log_q)
    by_joint = line.mean(line.log_likelihood + line.log_p) + entropy
    compare(by_joint, line.elbo, atol=1e-11, why=SMOOTH)


class Silent(nn.Module):
    """A critic that says nothing; the parameter makes it a player."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros((), dtype=F64))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return self.nothing.expand(len(z))


# -- how much a pair of samples teaches ---------------------------------------------------------


def information(distance: float) -> Tensor:
    """Integral of q p / (q + p) f f^T, p = N(0, 1), q = N(distance, 1), f = (1, z)."""
    z = torch.linspace(-13, 13 + distance, 26_001, dtype=F64)
    log_p, log_q = normal_log_prob(z), normal_log_prob(z, distance)
    weight = (log_p + log_q - torch.logaddexp(log_p, log_q)).exp()
    f = torch.stack([torch.ones_like(z), z])
    return (weight * f) @ f.T * (z[1] - z[0])


@pytest.mark.equation("critic-information")
@pytest.mark.parametrize("distance", [0.5, 2.0, 4.0])
def test_information_is_the_curvature_of_the_logistic_loss(distance, compare):
    """The Hessian of the expected loss at the best weights, by autograd, against the integral."""
    z = torch.linspace(-13, 13 + distance, 26_001, dtype=F64)
    log_p, log_q = normal_log_prob(z), normal_log_prob(z, distance)
    step = z[1] - z[0]

    def loss(w: Tensor) -> Tensor:
        logit = w[0] + w[1] * z
        softplus = nn.functional.softplus
        return (log_q.exp() * softplus(-logit) + log_p.exp() * softplus(logit)).sum() * step

    best = torch.tensor([-0.5 * distance**2, distance], dtype=F64)
    slope = torch.autograd.functional.jacobian(loss, best)
    compare(slope, torch.zeros(2, dtype=F64), atol=1e-10, why=SMOOTH)
    hessian = torch.autograd.functional.hessian(loss, best)
    compare(hessian, information(distance), atol=1e-10, why=SMOOTH)


@pytest.mark.equation("critic-overlap")
@pytest.mark.parametrize("distance", [0.0, 1.0, 3.0, 6.0, 10.0])
def test_overlap_of_two_gaussians(distance, compare):
    """The integral of q p / (q + p) against its closed form, relative; and the bound."""
    u = torch.linspace(-13, 13, 26_001, dtype=F64)
    weight = normal_log_prob(u).exp() * (u[1] - u[0])
    half = 0.5 * math.exp(-(distance**2) / 8)
    closed = half * (weight / torch.cosh(0.5 * distance * u)).sum()
    got = information(distance)[0, 0]
    compare(got / closed, 1.0, atol=1e-9, why=SMOOTH)
    compare.at_most(got, half, slack=1e-12, why="1 / cosh is at most one; rounding")


@pytest.mark.equation("critic-covariance")
def test_spread_of_fitted_critics(compare):
    """Covariance of 2 000 logistic regressions on 1 000 pairs each against the formula."""
    distance, pairs, repeats = 1.5, 1_000, 2_000
    g = generator(0)
    fits = []
    for _ in range(4):
        z_p = torch.randn(repeats // 4, pairs, generator=g, dtype=F64)
        z = torch.cat([distance + torch.randn(z_p.shape, generator=g, dtype=F64), z_p], 1)
        label = torch.cat([torch.ones_like(z_p), torch.zeros_like(z_p)], 1)
        w = torch.zeros(len(z), 2, dtype=F64)
        for _ in range(8):  # Newton's method
            s = torch.sigmoid(w[:, :1] + w[:, 1:] * z)
            r, c = label - s, s * (1 - s)
            slope = torch.stack([r.sum(1), (r * z).sum(1)], 1)
            rows = [c.sum(1), (c * z).sum(1), (c * z * z).sum(1)]
            hessian = torch.stack([rows[0], rows[1], rows[1], rows[2]], 1).view(-1, 2, 2)
            w = w + torch.linalg.solve(hessian, slope)
        fits.append(w)
    w = torch.cat(fits)
    got = pairs * w.T.cov()
    formula = torch.linalg.inv(information(distance))
    formula[0, 0] -= 2
    # A covariance of n Gaussian draws has variance (c_ij^2 + c_ii c_jj) / n.
    spread = ((formula.square() + torch.outer(formula.diag(), formula.diag())) / repeats).sqrt()
    compare((got - formula) / spread, torch.zeros(2, 2, dtype=F64), atol=5.0,
            why="four standard errors and one for the terms of order 1/n")  # fmt: skip
