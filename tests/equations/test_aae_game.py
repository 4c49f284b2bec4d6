"""Chapter 2, the game on codes: what the objective drops, what each player descends, stability."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn.functional import logsigmoid, softplus

from tests.metrics.worlds import generator
from tutor.metrics import aggregate_log_prob
from tutor.posteriors import DiagonalGaussian

F64 = torch.float64
Z = torch.linspace(-16, 16, 8001, dtype=F64)
DZ = (Z[1] - Z[0]).item()
ROUNDING = "the same finite sums in another order, float64"
QUADRATURE = "trapezoid rule of smooth densities in float64, spacing 0.004"


def normal(z: Tensor, mean: Tensor | float, std: Tensor | float) -> Tensor:
    """Log-density, differentiable in z, mean and std."""
    std = torch.as_tensor(std, dtype=F64)
    return -0.5 * ((z - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)


def kl(log_p: Tensor, log_q: Tensor, cell: float = DZ) -> Tensor:
    return cell * (log_p.exp() * (log_p - log_q)).sum()


def js(log_p: Tensor, log_q: Tensor, cell: float = DZ) -> Tensor:
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return (kl(log_p, log_m, cell) + kl(log_q, log_m, cell)) / 2


# -- a world of finitely many images and codes ---------------------------------------------------


def small_world(images: int = 5, codes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """q(z|x) as rows, p(x|z) as columns, p(z): every sum below can be carried out."""
    g = generator(seed)
    encoder = torch.rand(images, codes, generator=g, dtype=F64)
    decoder = torch.rand(images, codes, generator=g, dtype=F64)
    prior = torch.rand(codes, generator=g, dtype=F64)
    return encoder / encoder.sum(1, keepdim=True), decoder / decoder.sum(0), prior / prior.sum()


@pytest.mark.equation("rate-entropy")
def test_the_rate_is_cross_entropy_minus_entropy(compare):
    """The mean KL term by its definition, against cross-entropy of q(z) minus mean entropy."""
    encoder, _, prior = small_world()
    rate = (encoder * (encoder / prior).log()).sum(1).mean()
    entropy = -(encoder * encoder.log()).sum(1).mean()
    cross_entropy = -(encoder.mean(0) * prior.log()).sum()
    compare(rate, cross_entropy - entropy, atol=1e-14, why=ROUNDING)


@pytest.mark.equation("dropped-information")
def test_the_aae_objective_with_a_kl_lacks_the_mutual_information(compare):
    """Reconstruction plus KL(q(z) || p(z)), against minus ELBO minus I(x; z), by enumeration."""
    for seed in range(5):
        encoder, decoder, prior = small_world(seed=seed)
        aggregate = encoder.mean(0)
        reconstruction = -(encoder * decoder.log()).sum(1).mean()
        elbo = (encoder * (decoder * prior / encoder).log()).sum(1).mean()
        information = (encoder * (encoder / aggregate).log()).sum(1).mean()
        marginal = (aggregate * (aggregate / prior).log()).sum()
        compare(reconstruction + marginal, -elbo - information, atol=1e-13, why=ROUNDING)


@pytest.mark.equation("aae-no-bound")
def test_the_objective_falls_below_the_truth_by_log_n(compare):
    """Value of the perfect pairing of N images with N codes, against -E log p(x) minus log N."""
    for n in (2, 4, 50):
        encoder = decoder = torch.eye(n, dtype=F64)
        prior = torch.full((n,), 1 / n, dtype=F64)
        reconstruction = -torch.special.xlogy(encoder, decoder).sum(1).mean()
        marginal = kl(encoder.mean(0).log(), prior.log(), cell=1.0)
        truth = -(decoder @ prior).log().mean()
        compare(truth, math.log(n), atol=1e-13, why=ROUNDING)
        compare(reconstruction + marginal, truth - math.log(n), atol=1e-13, why=ROUNDING)


@pytest.mark.equation("aae-objective")
def test_the_objective_is_zero_only_where_codes_fill_the_prior(compare):
    """The best of all pairings of 4 images with 4 codes, and its value, against zero."""
    prior = torch.full((4,), 0.25, dtype=F64)
    values = {}
    for code in torch.cartesian_prod(*[torch.arange(4)] * 4):  # every deterministic encoder
        encoder = torch.eye(4, dtype=F64)[code]
        share = encoder.sum(0).clamp(min=1)  # the best decoder: the images of a code, evenly
        reconstruction = share[code].log().mean()
        both = torch.stack([encoder.mean(0), prior])
        divergence = torch.special.xlogy(both, both / both.mean(0)).sum() / 2
        values[tuple(code.tolist())] = (reconstruction + 10 * divergence).item()
    best = [code for code, value in values.items() if value < 1e-12]
    compare(min(values.values()), 0.0, atol=1e-14, why=ROUNDING)
    compare(len(best), math.factorial(4), atol=0, why="one for each order of four codes")
    compare.at_most(1.0, min(v for c, v in values.items() if c not in best), why="the rest share")


# -- the discriminator's best answer ------------------------------------------------------------


AXIS = torch.arange(-7, 7, 0.05, dtype=F64)
PLANE = torch.cartesian_prod(AXIS, AXIS)
CELL = 0.05**2


def codes_and_prior() -> tuple[Tensor, Tensor]:
    """log q(z) of an aggregate posterior of 30 images and log p(z), on the plane."""
    g = generator(1)
    means = 1.2 * torch.randn(30, 2, generator=g, dtype=F64)
    q = DiagonalGaussian(means, torch.full_like(means, math.log(0.35**2)))
    prior = Normal(torch.tensor(0.0, dtype=F64), 1.0).log_prob(PLANE).sum(1)
    return aggregate_log_prob(q.mean, q.log_var, PLANE), prior


def value(logit: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
    return CELL * (log_p.exp() * logsigmoid(logit) + log_q.exp() * logsigmoid(-logit)).sum()


@pytest.mark.equation("code-discriminator", "code-js")
def test_the_best_logit_on_codes_and_its_value(compare):
    """Slope of the value at log p - log q against zero; its value against 2 JS - log 4; rivals."""
    log_q, log_p = codes_and_prior()
    best = (log_p - log_q).requires_grad_()
    v = value(best, log_p, log_q)
    (slope,) = torch.autograd.grad(v, best)
    compare(slope, torch.zeros_like(slope), atol=1e-15, why=ROUNDING)
    want = 2 * js(log_p, log_q, CELL) - math.log(4)
    compare(v, want, atol=1e-6, why="2 JS - log 4 uses that both densities integrate to one")
    for size, wave in ((0.1, 1.0), (0.5, 3.0), (2.0, 0.2)):
        rival = best.detach() + size * torch.sin(wave * PLANE.sum(1))
        compare.at_most(value(rival, log_p, log_q), v.detach(), why="no other logit does better")


# -- what the encoder descends ------------------------------------------------------------------


def pathwise(loss: Callable[[Tensor], Tensor], mean: float, std: float) -> Tensor:
    """Gradient in (mean, std) of E_q loss(z), z = mean + std * noise, loss held fixed."""
    noise = Z
    weight = DZ * normal(noise, 0.0, 1.0).exp()
    parameters = torch.tensor([mean, std], dtype=F64, requires_grad=True)
    z = parameters[0] + parameters[1] * noise
    (gradient,) = torch.autograd.grad((weight * loss(z)).sum(), parameters)
    return gradient


def gradient_of(divergence: Callable[[Tensor], Tensor], mean: float, std: float) -> Tensor:
    parameters = torch.tensor([mean, std], dtype=F64, requires_grad=True)
    log_q = normal(Z, parameters[0], parameters[1])
    (gradient,) = torch.autograd.grad(divergence(log_q), parameters)
    return gradient


PRIOR = normal(Z, 0.0, 1.0)
PLACES = [(0.7, 0.6), (-2.0, 1.5), (3.0, 0.8)]


def best_logit(mean: float, std: float) -> Callable[[Tensor], Tensor]:
    """The best discriminator for codes N(mean, std^2) as they are now; it does not follow them."""
    return lambda z: normal(z, 0.0, 1.0) - normal(z, mean, std)


@pytest.mark.equation("saturating-gradient")
def test_the_saturating_loss_descends_twice_the_js(compare):
    """Gradient of E log(1 - D*) with D* fixed, against that of 2 JS, both by quadrature."""
    for mean, std in PLACES:
        t = best_logit(mean, std)
        got = pathwise(lambda z, t=t: logsigmoid(-t(z)), mean, std)
        want = gradient_of(lambda log_q: 2 * js(PRIOR, log_q), mean, std)
        compare(got, want, atol=1e-10, why=QUADRATURE)


@pytest.mark.equation("non-saturating-gradient", "forgiving-divergence")
def test_the_non_saturating_loss_descends_a_kl_of_the_average(compare):
    """Gradient of -E log D* with D* fixed, against 2 KL(m || p) and against KL(q || p) - 2 JS."""

    def average(log_q: Tensor) -> Tensor:
        return 2 * kl(torch.logaddexp(PRIOR, log_q) - math.log(2), PRIOR)

    def difference(log_q: Tensor) -> Tensor:
        return kl(log_q, PRIOR) - 2 * js(PRIOR, log_q)

    for mean, std in PLACES:
        t = best_logit(mean, std)
        got = pathwise(lambda z, t=t: -logsigmoid(t(z)), mean, std)
        compare(got, gradient_of(average, mean, std), atol=1e-8, why=QUADRATURE)
        compare(got, gradient_of(difference, mean, std), atol=1e-8, why=QUADRATURE)
        log_q = normal(Z, mean, std)
        compare(average(log_q), difference(log_q), atol=1e-10, why="equal, not only in slope")


@pytest.mark.equation("missed-prior")
def test_what_it_costs_to_leave_a_share_of_the_prior_empty(compare):
    """KL(q || p) and 2 KL(m || p) for codes that fill a share a of the prior, by quadrature."""
    edges = torch.tensor([0.5, 0.8, 0.95, 0.99], dtype=F64)
    inside_share = []
    for a in edges.tolist():
        cells = 10_000
        p = torch.full((cells,), 1 / cells, dtype=F64)
        q = torch.zeros(cells, dtype=F64)
        q[: round(a * cells)] = 1 / round(a * cells)
        m = (p + q) / 2
        forward = torch.special.xlogy(q, q / p).sum()
        soft = 2 * torch.special.xlogy(m, m / p).sum()
        compare(forward, -math.log(a), atol=1e-12, why=ROUNDING)
        want = (1 + a) * math.log((1 + a) / (2 * a)) - (1 - a) * math.log(2)
        compare(soft, want, atol=1e-12, why=ROUNDING)
        inside_share.append(soft / (1 - a))
    compare(inside_share[-1], 1 - math.log(2), atol=0.01, why="the limit for a small missing share")


@pytest.mark.equation("gaussian-slope")
def test_the_slope_of_the_best_logit_between_gaussians(compare):
    """Derivative of log p - log q by autograd, against (z - mean)/std^2 - z."""
    for mean, std in [*PLACES, (0.1, 0.01)]:
        z = torch.linspace(-4, 4, 101, dtype=F64, requires_grad=True)
        (slope,) = torch.autograd.grad(best_logit(mean, std)(z).sum(), z)
        want = (z.detach() - mean) / std**2 - z.detach()
        scale = want.abs().max()
        compare(slope / scale, want / scale, atol=1e-13, why="float64 rounding")


# -- the game near its end ----------------------------------------------------------------------


def linear_game(theta: Tensor, psi: Tensor, spread: float, weight: float) -> tuple[Tensor, Tensor]:
    """Losses (discriminator, encoder) of the game with logit psi z, by quadrature.

    Prior N(0, spread^2), codes N(theta, spread^2); spread 0 is a single point each.
    """
    noise, mass = (Z, DZ * normal(Z, 0.0, 1.0).exp()) if spread else (Z[:1] * 0, torch.ones(1))
    real, fake = spread * noise, theta + spread * noise
    penalty = weight / 2 * (psi.square() + psi.square())  # |dt/dz|^2 on prior and on codes
    judge = (mass * (softplus(-psi * real) + softplus(psi * fake))).sum() + penalty
    return judge, (mass * softplus(-psi * fake)).sum()


def velocity(place: Tensor, spread: float, weight: float) -> Tensor:
    """(d theta, d psi): each player down its own loss."""
    theta, psi = place
    judge, encoder = linear_game(theta, psi, spread, weight)
    (d_theta,) = torch.autograd.grad(encoder, theta, create_graph=True)
    (d_psi,) = torch.autograd.grad(judge, psi, create_graph=True)
    return -torch.stack([d_theta, d_psi])


def jacobian(spread: float, weight: float) -> Tensor:
    place = torch.zeros(2, dtype=F64, requires_grad=True)
    v = velocity(place, spread, weight)
    return torch.stack([torch.autograd.grad(v[i], place, retain_graph=True)[0] for i in (0, 1)])


CASES = [(0.0, 0.0), (0.0, 0.3), (0.0, 2.0), (0.1, 0.1), (1.0, 0.0), (1.0, 0.5)]


@pytest.mark.equation("dirac-game")
def test_the_velocities_of_two_points(compare):
    """Autograd of the two losses for point masses, against the written velocities."""
    for theta, psi, weight in [(0.5, -1.0, 0.0), (-2.0, 0.3, 0.7), (1.5, 2.0, 0.1)]:
        place = torch.tensor([theta, psi], dtype=F64, requires_grad=True)
        got = velocity(place, 0.0, weight).detach()
        s = torch.sigmoid(torch.tensor(psi * theta, dtype=F64))
        want = torch.stack([(1 - s) * psi, -s * theta - 2 * weight * psi])
        compare(got, want, atol=1e-14, why="float64 rounding")


@pytest.mark.equation("game-eigenvalues")
def test_eigenvalues_of_the_game_at_its_end(compare):
    """Eigenvalues of the Jacobian by autograd and LAPACK, against (-k +- sqrt(k^2 - 1)) / 2."""
    for spread, weight in CASES:
        got = torch.linalg.eigvals(jacobian(spread, weight))
        k = torch.tensor(spread**2 / 2 + 2 * weight, dtype=torch.complex128)
        root = (k * k - 1).sqrt()
        want = torch.stack([(-k - root) / 2, (-k + root) / 2])
        order = [torch.view_as_real(e[(e.real * 100 + e.imag).argsort()]) for e in (got, want)]
        why = "a double root at k = 1 doubles the digits lost" if k.real == 1 else QUADRATURE
        compare(*order, atol=1e-6 if k.real == 1 else 1e-9, why=why)


def play(rate: float, damping: float, rounds: int, *, alternate: bool) -> Tensor:
    """The linearised game, step by step: the growth of the state a round."""
    theta, psi, sizes = 1.0, 0.5, []
    for _ in range(rounds):
        new_psi = psi - rate * (theta / 2 + damping * psi)
        theta = theta + rate * (new_psi if alternate else psi) / 2
        psi = new_psi
        sizes.append(math.hypot(theta, psi))
    return torch.tensor(sizes, dtype=F64)


@pytest.mark.equation("simultaneous-steps", "alternating-steps")
def test_growth_of_the_game_in_steps(compare):
    """Growth a round in a simulated game, against the moduli of the eigenvalues."""
    rounds = 4000
    for rate in (0.1, 0.5):
        together = play(rate, 0.0, rounds, alternate=False)
        got = ((together[-1] / together[rounds // 2 - 1]).log() / (rounds / 2)).exp()
        compare(got, math.sqrt(1 + rate**2 / 4), atol=1e-12, why=ROUNDING)
        in_turn = play(rate, 0.0, rounds, alternate=True)
        compare.at_most(in_turn.max(), 2.0, why="in turn, without damping: neither grows")
        compare.at_most(0.5, in_turn[-200:].max(), why="nor shrinks")
        for damping in (0.02, 0.3):
            matrix = torch.tensor([[1.0, 0.0], [-rate / 2, 1 - rate * damping]], dtype=F64)
            matrix = torch.tensor([[1.0, rate / 2], [0.0, 1.0]], dtype=F64) @ matrix
            largest = torch.linalg.eigvals(matrix).abs().max()
            compare(largest, math.sqrt(1 - rate * damping), atol=1e-12, why=ROUNDING)
            sizes = play(rate, damping, 400, alternate=True)
            bound = sizes[0] * 3 * (1 - rate * damping) ** (torch.arange(400) / 2)
            compare.at_most(sizes, bound, why="the spiral shrinks at that rate, turning on the way")


@pytest.mark.equation("damped-slope")
def test_the_best_slope_with_the_penalty(compare):
    """Slope of the best linear logit, found by Newton, against -theta / (s^2 + 4 weight)."""
    for spread, weight in [(1.0, 0.0), (1.0, 0.1), (0.1, 0.1), (0.0, 0.1), (0.5, 3.0)]:
        theta = 1e-3 * max(spread, 0.1)
        ratio = _best_slope(theta, spread, weight) / theta
        want = torch.tensor(-1 / (spread**2 + 4 * weight), dtype=F64)
        compare(ratio / want, 1.0, atol=1e-3, why="relative error of order theta^2 / s^2")


def _best_slope(theta: float, spread: float, weight: float) -> Tensor:
    """Newton's method for the logit psi z + b at codes N(theta, spread^2), prior N(0, spread^2)."""
    noise, mass = (Z, DZ * normal(Z, 0.0, 1.0).exp()) if spread else (Z[:1] * 0, torch.ones(1))
    real, fake = spread * noise, theta + spread * noise

    def loss(s: Tensor) -> Tensor:
        judge = softplus(-s[0] * real - s[1]) + softplus(s[0] * fake + s[1])
        return (mass * judge).sum() + weight * s[0] ** 2

    state = torch.zeros(2, dtype=F64)
    for _ in range(8):
        gradient = torch.autograd.functional.jacobian(loss, state)
        hessian = torch.autograd.functional.hessian(loss, state)
        state = state - torch.linalg.solve(hessian, gradient)
    return state[0]
