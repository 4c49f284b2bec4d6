"""Chapter 4, through the codes: the theorem, its relaxation, linear worlds, the AAE."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn
from torch.nn.functional import one_hot

from tests.metrics.worlds import generator
from tutor.kernels import imq, mmd
from tutor.metrics.frechet import gaussian_frechet
from tutor.models import AAE, WAE
from tutor.transport import distance_table, exact_plan, wae_theorem

F64 = torch.float64
ROUNDING = "the same finite sums in another order, float64"
SOLVER = "two linear programmes, each solved to 1e-9 or better"


def masses(n: int, seed: int) -> Tensor:
    raw = torch.rand(n, generator=generator(seed), dtype=F64) + 0.05
    return raw / raw.sum()


def points(n: int, dim: int, seed: int) -> Tensor:
    return torch.randn(n, dim, generator=generator(seed), dtype=F64)


def world(seed: int, n: int = 5, images: int = 4, codes: int = 7):
    """Cost (n, images), p_d, p(z), and which image each code gives: several codes may agree."""
    cost = distance_table(points(n, 2, seed), points(images, 2, seed + 1), power=2)
    decoder = torch.randint(images, (codes,), generator=generator(seed + 2))
    return cost, masses(n, seed + 3), masses(codes, seed + 4), decoder


@pytest.mark.equation("latent-transport", "wae-theorem")
def test_both_sides_of_the_theorem(compare):
    """Couplings of images against encoders, two programmes each in a world of its own, 40 times."""
    for seed in range(40):
        cost, p_x, p_z, decoder = world(seed, codes=3 + seed % 8)
        both = wae_theorem(cost, p_x, p_z, decoder)
        compare(both.latent, both.transport, atol=1e-9, why=SOLVER)
        # the encoder is feasible, and its own cost is the value
        compare(p_x @ both.encoder, p_z, atol=1e-9, why="constraints of the programme")
        spent = (p_x[:, None] * both.encoder * cost[:, decoder]).sum()
        compare(spent, both.transport, atol=1e-9, why=SOLVER)


@pytest.mark.equation("wae-theorem")
def test_the_encoder_of_the_proof(compare):
    """An encoder made from the best coupling by the proof's recipe: feasible, and as cheap."""
    for seed in range(20):
        cost, p_x, p_z, decoder = world(100 + seed)
        likelihood = one_hot(decoder, 4).double()
        p_y = p_z @ likelihood
        coupling = exact_plan(cost, p_x, p_y)
        posterior = p_z[:, None] * likelihood / p_y.clamp(min=1e-300)  # p(z|y), (codes, images)
        encoder = coupling.plan @ posterior.T / p_x[:, None]
        compare(p_x @ encoder, p_z, atol=1e-9, why="constraints of the programme")
        spent = (p_x[:, None] * encoder * cost[:, decoder]).sum()
        compare(spent, coupling.value, atol=1e-9, why=SOLVER)


@pytest.mark.equation("noisy-decoder")
def test_a_decoder_with_noise(compare):
    """The first half of the proof survives; with squared cost the excess is the variance."""
    for seed in range(20):
        y = points(4, 2, 300 + seed)
        x = points(5, 2, 400 + seed)
        p_x, p_z = masses(5, seed), masses(6, 50 + seed)
        noisy = torch.stack([masses(4, 500 + 10 * seed + z) for z in range(6)])
        cost = distance_table(x, y, power=2)
        both = wae_theorem(cost, p_x, p_z, noisy)
        compare.at_most(both.transport, both.latent, slack=1e-9, why="solver")
        mean = noisy @ y  # G(z) = E y, and the spread around it
        spread = (noisy @ y.square().sum(1) - mean.square().sum(1)) @ p_z
        plain = exact_plan(distance_table(x, mean, power=2), p_x, p_z).value
        compare(both.latent, plain + spread, atol=1e-9, why=SOLVER)


# -- relaxation ---------------------------------------------------------------------------------


def relaxed(price: Tensor, p_x: Tensor, p_z: Tensor, weight: float) -> tuple[float, float, float]:
    """min E c + weight TV(q(z), p(z)) as a programme: value, cost, mismatch."""
    n, codes = price.shape
    rows = torch.kron(torch.eye(n, dtype=F64), torch.ones(1, codes, dtype=F64))
    columns = torch.kron(torch.ones(1, n, dtype=F64), torch.eye(codes, dtype=F64))
    eye, zero = torch.eye(codes, dtype=F64), torch.zeros(n, 2 * codes, dtype=F64)
    sums = torch.cat([torch.cat([rows, zero], 1), torch.cat([columns, eye, -eye], 1)])
    objective = torch.cat([price.flatten(), torch.full((2 * codes,), weight / 2, dtype=F64)])
    answer = linprog(objective.numpy(), A_eq=sums.numpy(), b_eq=torch.cat([p_x, p_z]).numpy())
    plan = torch.from_numpy(answer.x[: n * codes]).reshape(n, codes)
    mismatch = 0.5 * (plan.sum(0) - p_z).abs().sum().item()
    return answer.fun, (plan * price).sum().item(), mismatch


@pytest.mark.equation("wae-objective", "relaxation-order", "exact-penalty")
def test_what_the_weight_of_the_penalty_does(compare):
    """Programmes with a penalty on the total variation, over seven weights, in ten worlds."""
    for seed in range(10):
        cost, p_x, p_z, decoder = world(600 + seed)
        price = cost[:, decoder]
        truth = wae_theorem(cost, p_x, p_z, decoder).transport.item()
        enough = (price.max() - price.min()).item()
        weights = [0.0, 0.05, 0.2, 0.5, 1.0, enough, 3 * enough]
        found = [relaxed(price, p_x, p_z, weight) for weight in weights]
        values, costs, mismatches = torch.tensor(found, dtype=F64).T
        why = "solver"
        compare.at_most(values, torch.full_like(values, truth), slack=1e-9, why=why)
        compare.at_most(values[:-1], values[1:], slack=1e-9, why=why)
        compare.at_most(costs[:-1], costs[1:], slack=1e-9, why=why)
        compare.at_most(mismatches[1:], mismatches[:-1], slack=1e-9, why=why)
        nearest = (p_x @ price.min(1).values).item()
        compare(values[0].item(), nearest, atol=1e-9, why=SOLVER)  # no penalty: the nearest image
        compare(values[-2:], torch.full((2,), truth, dtype=F64), atol=1e-9, why=SOLVER)


@pytest.mark.equation("wae-objective")
def test_the_model_s_loss(compare):
    """The loss of WAE.step against cost and penalty written out, with the same draws."""
    torch.manual_seed(0)
    x = torch.rand(30, 1, 28, 28, dtype=F64)
    model = WAE(3, penalty_weight=7.0, kernel=imq([1.0, 5.0])).double()
    torch.manual_seed(1)
    (turn,) = model.step(x)
    torch.manual_seed(1)
    z, codes = model.prior.sample((30,)), model.encoder(x)
    cost = (x - model.decoder(codes)).square().flatten(1).sum(1).mean()
    penalty = mmd(codes, z, kernel=imq([1.0, 5.0]))
    compare(turn.loss, cost + 7 * penalty, atol=1e-10, why=ROUNDING)


@pytest.mark.equation("collapsed-cost")
def test_codes_without_information_cost_the_variance(compare):
    """The best images for codes independent of x, by least squares, against tr Cov."""
    x, p_x, p_z = points(6, 3, 0), masses(6, 1), masses(4, 2)
    weights = (p_x[:, None] * p_z).flatten().sqrt()  # every pair (x, z), independent
    design = weights[:, None] * torch.eye(4, dtype=F64).repeat(6, 1)
    wanted = weights[:, None] * x.repeat_interleave(4, 0)
    images = torch.linalg.lstsq(design, wanted).solution
    cost = (design @ images - wanted).square().sum()
    mean = p_x @ x
    compare(cost, p_x @ (x - mean).square().sum(1), atol=1e-12, why=ROUNDING)
    compare(images, mean.expand(4, 3), atol=1e-12, why=ROUNDING)


# -- linear and adversarial ---------------------------------------------------------------------


@pytest.mark.equation("linear-wae")
def test_the_best_linear_decoder(compare):
    """Transport to N(0, W W') over many W of rank 2: never below the eigenvalues left."""
    values = torch.tensor([4.0, 2.5, 1.0, 0.3, 0.1], dtype=F64)
    turn = torch.linalg.qr(points(5, 5, 0)).Q
    covariance, zero = turn @ values.diag() @ turn.T, torch.zeros(5)
    best = turn[:, :2] * values[:2].sqrt()

    def cost(weights: Tensor) -> Tensor:
        return gaussian_frechet(zero, covariance, zero, weights @ weights.T)

    least = values[2:].sum()
    compare(cost(best), least, atol=1e-7, why="root of a singular matrix, float64")
    encoder = (turn[:, :2] / values[:2].sqrt()).T
    compare(encoder @ covariance @ encoder.T, torch.eye(2), atol=1e-12, why=ROUNDING)
    rest = torch.eye(5, dtype=F64) - best @ encoder
    compare((rest @ covariance @ rest.T).trace(), least, atol=1e-12, why=ROUNDING)
    for seed in range(50):
        near = best + 0.1 * points(5, 2, seed)
        for other in (near, 2 * points(5, 2, 100 + seed)):
            compare.at_most(least, cost(other), slack=1e-7, why="root of a singular matrix")


@pytest.mark.equation("wae-gan-aae")
def test_equal_losses_on_equal_weights(compare):
    """Turns of WAE-GAN and of an AAE with the same networks, the same images and the same draws."""
    std, weight, x = 0.3, 2.5, torch.rand(20, 1, 28, 28, dtype=F64, generator=generator())
    torch.manual_seed(0)
    wae = WAE(4, penalty="gan", penalty_weight=weight).double()
    parts = {"encoder": wae.encoder, "decoder": wae.decoder, "discriminator": wae.discriminator}
    aae = AAE(4, decoder_std=std, gradient_penalty=0.0, **parts).double()
    torch.manual_seed(1)
    ours = {turn.player: turn for turn in wae.step(x)}
    theirs = {}
    torch.manual_seed(1)
    for turn in aae.step(x):
        theirs[turn.player] = turn.loss
    pixels = 784
    constant = std**2 * pixels * torch.log(torch.tensor(2 * torch.pi * std**2, dtype=F64))
    cost = 2 * std**2 * theirs["autoencoder"] - constant
    got = torch.stack([ours["discriminator"].loss, ours["autoencoder"].loss])
    want = torch.stack([weight * theirs["discriminator"], cost + weight * theirs["generator"]])
    compare(got, want, atol=1e-9, why=ROUNDING)
    encoder = next(p for p in wae.encoder.parameters() if p.dim() > 1)
    slope = torch.autograd.grad(ours["autoencoder"].loss, encoder, retain_graph=True)[0]
    sum_of_both = torch.autograd.grad(cost + weight * theirs["generator"], encoder)[0]
    compare(slope, sum_of_both, atol=1e-9, why=ROUNDING)
    assert isinstance(wae.encoder, nn.Module)
