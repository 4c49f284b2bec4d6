"""AVB: who moves whom, what the critic's number means, and which term carries which gradient."""

from __future__ import annotations

import math
import pickle
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim import SGD

import tutor
from tutor.divergences import gaussian_kl
from tutor.metrics._grid import gauss_hermite
from tutor.models import AVB
from tutor.noise_encoders import FactoredNoiseEncoder, NoiseEncoder
from tutor.posteriors import DiagonalGaussian
from tutor.priors import Gaussian, UniformBox

SHAPE = (1, 2, 2)


def images() -> Tensor:
    return torch.eye(4).reshape(4, *SHAPE)


def build(**arguments) -> AVB:
    torch.manual_seed(0)
    arguments = {"encoder": NoiseEncoder(SHAPE, 2, noise_dim=3, hidden=(16,))} | arguments
    return AVB(2, image_shape=SHAPE, **arguments)


class KnownEncoder(nn.Module):
    """q(z|x) = N(A x, diag(std^2)), drawn with noise; states a std ``spread`` times too large."""

    latent_dim = noise_dim = 2

    def __init__(self, spread: float = 1.0) -> None:
        super().__init__()
        centres = torch.tensor([[1.0, 0.5], [-1.0, 0.5], [0.0, -1.5], [2.0, 0.0]])
        self.centres = nn.Parameter(centres)
        self.log_std = nn.Parameter(torch.tensor([-0.5, 0.3]))
        self.spread = spread

    def mean(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.centres

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return self.mean(x) + self.log_std.exp() * noise

    def density(self, x: Tensor) -> DiagonalGaussian:
        return DiagonalGaussian(self.mean(x), (2 * self.log_std).expand(len(x), 2))


class StatesItsMoments(KnownEncoder):
    def moments(self, x: Tensor, samples: int, *, generator=None) -> tuple[Tensor, Tensor]:
        return self.mean(x) + 0.1, self.spread * self.log_std.exp().expand(len(x), 2)


class Truth(nn.Module):
    """The best critic for a `KnownEncoder`; a function of the code it is shown."""

    def __init__(
        self, encoder: KnownEncoder, prior_in_critic: bool, shift=None, scale=None
    ) -> None:
        super().__init__()
        self.encoder = [encoder]  # in a list: the critic does not own the encoder
        self.prior_in_critic, self.shift, self.scale = prior_in_critic, shift, scale
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        with torch.no_grad():
            q = self.encoder[0].density(x)
            if self.scale is not None:  # z is normalised with the stated moments
                shift, scale = (t.repeat(len(x) // 4, 1) for t in (self.shift, self.scale))
                mean, std = (q.mean - shift) / scale, q.stddev / scale
                q = DiagonalGaussian(mean, 2 * std.log())
        ratio = q.log_prob(z) + 0 * self.unused
        return ratio if self.prior_in_critic else ratio - Gaussian(2).log_prob(z).to(z)


def known(prior_in_critic: bool = True, contrast: bool = False) -> AVB:
    encoder = StatesItsMoments(spread=1.5) if contrast else KnownEncoder()
    critic = Truth(encoder, prior_in_critic)
    model = build(
        encoder=encoder,
        critic=critic,
        prior_in_critic=prior_in_critic,
        adaptive_contrast=contrast,
    ).double()
    if contrast:
        with torch.no_grad():
            mean, std = encoder.moments(wide(images()), 2)
        critic.shift, critic.scale = mean, (std.square() + 1e-4).sqrt()
    return model


def wide(x: Tensor) -> Tensor:
    return x.double()


def estimates(model: AVB, x: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """The four posteriors' draws ``(samples, 4, 2)`` and their estimates ``(samples, 4)``."""
    many = x.repeat(samples, 1, 1, 1)
    with torch.no_grad():
        z = model.encode(many).sample(generator=torch.Generator().manual_seed(0))
        return z.unflatten(0, (samples, 4)), model.kl_estimate(many, z).unflatten(0, (samples, 4))


@pytest.mark.parametrize("contrast", [False, True])
@pytest.mark.parametrize("prior_in_critic", [False, True])
def test_with_the_best_critic_the_estimate_is_the_kl(prior_in_critic, contrast):
    model, x = known(prior_in_critic, contrast), wide(images())
    q = model.encoder.density(x)
    draws, values = estimates(model, x, 20_000)
    exact = gaussian_kl(q.mean, q.log_var)
    # five standard errors of the mean over 20 000 draws
    error = 5 * values.std(0) / math.sqrt(len(draws))
    assert ((values.mean(0) - exact).abs() < error).all()
    # and draw by draw it is the log-ratio: nothing is lost by the detour over r(z|x)
    ratio = q.log_prob(draws[0]) - Gaussian(2).log_prob(draws[0])
    torch.testing.assert_close(values[0], ratio.detach(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("contrast", [False, True])
def test_the_gradient_through_the_codes_is_the_gradient_of_the_kl(contrast):
    """E_q of dT/dz dz/dphi = d KL / d phi: the derivative of T at a fixed code has mean zero."""
    model, x = known(contrast=contrast), wide(images())
    nodes, weights = gauss_hermite(16, 2)  # exact: the integrand is a polynomial of degree 2
    encoder = model.encoder
    per_node = [model.kl_estimate(x, encoder(x, node.expand(4, 2))).sum() for node in nodes]
    through_codes = torch.autograd.grad(
        weights @ torch.stack(per_node), [encoder.centres, encoder.log_std]
    )
    q = encoder.density(x)
    exact = torch.autograd.grad(
        gaussian_kl(q.mean, q.log_var).sum(), [encoder.centres, encoder.log_std]
    )
    for got, want in zip(through_codes, exact, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)


def test_the_mean_derivative_of_the_best_critic_at_fixed_codes_vanishes():
    encoder, x = KnownEncoder().double(), wide(images())
    nodes, weights = gauss_hermite(8, 2)
    z = encoder(x, nodes.unsqueeze(1).expand(-1, 4, -1)).detach()  # (nodes, n, 2)
    best = encoder.density(x).log_prob(z) - Gaussian(2).log_prob(z)
    loss = (weights @ best).sum()
    for gradient in torch.autograd.grad(loss, [encoder.centres, encoder.log_std]):
        assert gradient.abs().max() < 1e-12  # an exact rule for polynomials, in float64


def test_no_gradient_goes_through_the_moments():
    torch.manual_seed(0)
    critic = nn.Bilinear(4, 2, 1)  # any critic, far from the best one
    critic.forward = lambda x, z: nn.Bilinear.forward(critic, x.flatten(1), z).squeeze(1)
    encoder = StatesItsMoments(spread=1.5)
    model = build(encoder=encoder, critic=critic, adaptive_contrast=True).double()
    x, noise = wide(images()), torch.randn(4, 2, dtype=torch.float64)
    start, step = encoder.log_std.detach().clone(), 1e-6

    def value(at: Tensor, moments_at: Tensor) -> Tensor:
        """The estimate with the code drawn at one std and the moments taken at another."""
        with torch.no_grad():
            encoder.log_std.copy_(moments_at)
            r = model.contrast(x)
            encoder.log_std.copy_(at)
            z = encoder(x, noise)
            ratio = model.critic_value(x, (z - r.mean) / r.stddev)
            return (ratio + r.log_prob(z) - model.prior.log_prob(z)).sum()

    slopes = {"fixed": [], "moving": []}
    for direction in step * torch.eye(2, dtype=torch.float64):
        up, down = start + direction, start - direction
        slopes["fixed"].append((value(up, start) - value(down, start)) / (2 * step))
        slopes["moving"].append((value(up, up) - value(down, down)) / (2 * step))
    with torch.no_grad():
        encoder.log_std.copy_(start)
    estimate = model.kl_estimate(x, encoder(x, noise)).sum()
    (gradient,) = torch.autograd.grad(estimate, [encoder.log_std])
    fixed, moving = torch.stack(slopes["fixed"]), torch.stack(slopes["moving"])
    # central differences with step 1e-6 in float64: about 1e-8
    torch.testing.assert_close(gradient, fixed, rtol=0, atol=1e-6)
    assert (gradient - moving).abs().max() > 0.1


@pytest.mark.parametrize("contrast", [False, True])
def test_gradients_reach_exactly_the_player_whose_turn_it_is(contrast):
    model = build(adaptive_contrast=contrast, critic_turns=2)
    ours = [*model.encoder.parameters(), *model.decoder.parameters()]
    turns = list(model.step(images()))
    assert [turn.player for turn in turns] == ["autoencoder", "critic", "critic"]
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(turns[0].loss, ours))
    for turn in turns[1:]:
        leaked = torch.autograd.grad(turn.loss, ours, allow_unused=True, retain_graph=True)
        assert all(gradient is None for gradient in leaked)
        own = torch.autograd.grad(turn.loss, list(model.critic.parameters()))
        assert all(gradient.abs().sum() > 0 for gradient in own)


@pytest.mark.parametrize("still", ["autoencoder", "critic"])
def test_in_training_each_player_moves_only_in_its_own_turn(still):
    model = build()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    rates = {player: 0.0 if player == still else 0.1 for player in model.players}
    tutor.fit(
        model,
        images(),
        steps=2,
        batch_size=4,
        device="cpu",
        optimizer={player: partial(SGD, lr=rate) for player, rate in rates.items()},
        progress=False,
    )
    for key, value in model.state_dict().items():
        owner = "critic" if key.startswith("critic") else "autoencoder"
        assert torch.equal(value, before[key]) == (owner == still), key


@pytest.mark.parametrize("contrast", [False, True])
def test_the_losses_written_out(contrast):
    encoder = FactoredNoiseEncoder(SHAPE, 2, bases=2, noise_dim=3, hidden=(16,))
    model = build(encoder=encoder, adaptive_contrast=contrast, contrast_samples=50, critic_turns=2)
    x = images()
    torch.manual_seed(5)
    primal, *duals = model.step(x)

    torch.manual_seed(5)

    def see(z: Tensor) -> tuple[Tensor, Tensor]:
        """The code as the critic sees it, and what the estimate needs besides T."""
        if not contrast:
            return z, torch.zeros(4)
        mean, std = encoder.moments(x, 50)
        std = (std**2 + 1e-4).sqrt()
        seen = (z - mean) / std
        log_r = (-0.5 * seen**2 - std.log() - 0.5 * math.log(2 * math.pi)).sum(1)
        log_p = (-0.5 * z**2 - 0.5 * math.log(2 * math.pi)).sum(1)
        return seen, log_r - log_p

    def t(z: Tensor) -> Tensor:
        return model.critic(x, z) + 0.5 * z.square().sum(1) + math.log(2 * math.pi)

    z = encoder(x, torch.randn(4, encoder.noise_dim))
    seen, rest = see(z)
    pixels = binary_cross_entropy_with_logits(model.decoder(z), x, reduction="none")
    kl = (t(seen) + rest).mean().item()
    reconstruction = pixels.sum((1, 2, 3)).mean().item()
    assert primal.terms["kl"].item() == pytest.approx(kl, rel=1e-5)
    assert primal.terms["reconstruction"].item() == pytest.approx(reconstruction, rel=1e-5)
    # one weight for both terms, no division by the number of pixels
    assert primal.loss.item() == pytest.approx(kl + reconstruction, rel=1e-5)

    # the first turn of the critic sees the codes of the autoencoder's, the second new ones
    labels = torch.tensor([1.0] * 4 + [0.0] * 4)  # posterior 1, prior 0
    for turn, dual in enumerate(duals):
        if turn > 0:
            z = encoder(x, torch.randn(4, encoder.noise_dim))
            seen, _ = see(z)
        logits = torch.cat([t(seen), t(torch.randn(4, 2))])
        want = 2 * binary_cross_entropy_with_logits(logits, labels).item()  # both means, added
        assert dual.loss.item() == pytest.approx(want, rel=1e-5)


def test_swapped_labels_give_minus_the_log_ratio():
    """The logistic loss minimised over quadratics, its expectations by quadrature."""
    nodes, weights = gauss_hermite(60, 1)
    mean, std = 1.0, 0.5
    posterior, drawn = mean + std * nodes, nodes
    z = torch.linspace(-1, 2, 7, dtype=torch.float64)
    exact = torch.distributions.Normal(mean, std).log_prob(z) - Gaussian(1).log_prob(z[:, None])

    def best(label_of_posterior: int) -> Tensor:
        coefficients = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [coefficients], max_iter=500, tolerance_change=1e-15, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            total = 0.0
            for at, label in ((posterior, label_of_posterior), (drawn, 1 - label_of_posterior)):
                logits = torch.cat([at**0, at, at**2], 1) @ coefficients
                wanted = torch.full_like(logits, float(label))
                total = total + weights @ binary_cross_entropy_with_logits(
                    logits, wanted, reduction="none"
                )
            total.backward()
            return total

        optimizer.step(loss)
        return torch.stack([z**0, z, z**2], 1) @ coefficients.detach()

    # 60 nodes leave 1e-5 in the integrals of log sigmoid, whose tails are not polynomial
    torch.testing.assert_close(best(1), exact, rtol=0, atol=1e-3)
    torch.testing.assert_close(best(0), -exact, rtol=0, atol=1e-3)


def test_a_critic_that_sees_only_the_code_misses_the_mutual_information():
    encoder, x = KnownEncoder().double(), wide(images())

    class SeesOnlyTheCode(nn.Module):
        """The best critic that ignores x: log q(z) - log p(z) of the aggregate posterior."""

        def forward(self, _: Tensor, z: Tensor) -> Tensor:
            with torch.no_grad():
                table = encoder.density(x).log_prob(z.unsqueeze(1))
            return table.logsumexp(1) - math.log(4)

    right = build(encoder=encoder, critic=Truth(encoder, True)).double()
    wrong = build(encoder=encoder, critic=SeesOnlyTheCode()).double()
    true = estimates(right, x, 20_000)[1].mean().item()
    blind = estimates(wrong, x, 20_000)[1].mean().item()

    axis = torch.linspace(-9, 9, 400, dtype=torch.float64)
    grid, cell = torch.cartesian_prod(axis, axis), (axis[1] - axis[0]).item() ** 2
    with torch.no_grad():
        log_q = encoder.density(x).log_prob(grid.unsqueeze(1)).logsumexp(1) - math.log(4)
    marginal = (log_q.exp() * (log_q - Gaussian(2).log_prob(grid))).sum().item() * cell
    q = encoder.density(x)
    rate = gaussian_kl(q.mean, q.log_var).mean().item()
    # 80 000 draws of a log-ratio with deviation near 1: four standard errors are 0.015
    assert true == pytest.approx(rate, abs=0.015)
    assert blind == pytest.approx(marginal, abs=0.015)
    assert rate - marginal > 0.3  # the mutual information that a blind critic does not charge


def test_the_default_critic_sees_image_and_code():
    model, x = build(), images()
    z = torch.zeros(4, 2)
    assert len(model.critic_value(x, z).unique()) == 4
    assert not torch.equal(model.critic_value(x, z + 1), model.critic_value(x, z))


def test_a_trained_critic_finds_the_kl():
    """Logistic regression on draws, with a critic that can hold the truth; only it moves."""

    class Quadratic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(4, 5))

        def forward(self, x: Tensor, z: Tensor) -> Tensor:
            return (x.flatten(1) @ self.weight * torch.cat([z[:, :1] ** 0, z, z**2], 1)).sum(1)

    encoder = KnownEncoder()
    model = build(encoder=encoder, critic=Quadratic(), decoder=nn.Linear(2, 4))
    model.decoder = nn.Sequential(model.decoder, nn.Unflatten(1, SHAPE))
    x = images().repeat(256, 1, 1, 1)
    before = estimates(model, images(), 2_000)[1].mean().item()
    tutor.fit(
        model,
        x,
        steps=300,
        batch_size=1024,
        device="cpu",
        optimizer={
            "autoencoder": partial(SGD, lr=0.0),
            "critic": partial(torch.optim.Adam, lr=0.2),
        },
        schedule=tutor.training.decay_after(0.5),
        progress=False,
    )
    got = estimates(model, images(), 2_000)[1].mean().item()
    best = build(encoder=encoder, critic=Truth(encoder, True))
    truth = estimates(best, images(), 2_000)[1].mean().item()  # the same draws
    # seen over five seeds: within 0.08; untrained it is off by 2.7
    assert got == pytest.approx(truth, abs=0.15)
    assert abs(before - truth) > 1


def test_annealing_raises_the_weight_and_survives_a_checkpoint(tmp_path):
    def fit(model: AVB, steps: int, folder=None) -> AVB:
        tutor.fit(
            model,
            images(),
            steps=steps,
            batch_size=4,
            device="cpu",
            checkpoint=folder,
            progress=False,
        )
        return model

    model = build(annealing_steps=4)
    weights = []
    for _ in range(6):
        weights.append(float(model.kl_weight))
        for turn in model.step(images()):
            if turn.player == "autoencoder":
                want = turn.terms["reconstruction"] + weights[-1] * turn.terms["kl"]
                assert turn.loss.item() == pytest.approx(want.item(), rel=1e-6)
    assert weights == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert pickle.loads(pickle.dumps(model)).kl_weight == 1.0

    fit(build(annealing_steps=10), 3, tmp_path)
    resumed = fit(build(annealing_steps=10), 6, tmp_path)
    whole = fit(build(annealing_steps=10), 6)
    assert resumed.steps_taken.item() == whole.steps_taken.item() == 6
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key
    assert build().kl_weight == 1.0
    assert "steps_taken" not in build().state_dict()


def test_samples_codes_and_reconstructions():
    model, x = build(), images()
    draw = torch.Generator().manual_seed(0)
    assert model.sample(3, generator=draw).shape == (3, *SHAPE)
    q = model.encode(x)
    assert q.rsample((7,)).shape == (7, 4, 2)
    with pytest.raises(TypeError, match=r"q\(z\|x\) is implicit"):
        q.log_prob(torch.zeros(4, 2))
    once = model.reconstruct(x, generator=torch.Generator().manual_seed(1))
    z = q.sample(generator=torch.Generator().manual_seed(1))
    assert torch.equal(once, model.decoder(z).sigmoid())
    claims = model.claimed_elbo(x, samples=3, generator=torch.Generator().manual_seed(1))
    again = model.claimed_elbo(x, samples=3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(claims, again)
    assert claims.shape == (4,)


def test_contrast_from_draws_and_from_the_encoder_agree():
    encoder = FactoredNoiseEncoder(SHAPE, 2, bases=3, noise_dim=2, hidden=(16,))
    model = build(encoder=encoder, adaptive_contrast=True, contrast_samples=50_000)
    r = model.contrast(images(), generator=torch.Generator().manual_seed(0))
    mean, std = model.encode(images()).moments(50_000)
    # five standard errors of a mean and of a deviation over 50 000 draws, twice
    assert ((r.mean - mean).abs() < 2 * 5 * std / math.sqrt(50_000)).all()
    want = (std.square() + 1e-4).sqrt()
    assert ((r.stddev / want - 1).abs() < 2 * 5 / math.sqrt(2 * 50_000)).all()
    assert not r.mean.requires_grad
    assert not r.log_var.requires_grad
    z = model.encode(images()).sample()
    assert torch.equal(model.normalise(z, r), (z - r.mean) / r.stddev)
    assert build().contrast(images()) is None
    assert build().normalise(z, None) is z


class SamplesOnly(nn.Module):
    dim = 2

    def sample(self, shape, *, generator=None):
        return torch.randn(*shape, 2, generator=generator)


def test_a_prior_without_density_serves_where_samples_are_enough():
    model = build(prior=SamplesOnly(), prior_in_critic=False)
    assert [turn.player for turn in model.step(images())] == ["autoencoder", "critic"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"prior": Gaussian(3)}, ValueError, "prior has dim=3, the codes have latent_dim=2"),
        (
            {"encoder": NoiseEncoder(SHAPE, 3, noise_dim=4)},
            ValueError,
            "codes of 3 dimensions, the prior has 2",
        ),
        ({"prior": SamplesOnly()}, TypeError, "without log_prob, and prior_in_critic=True needs"),
        (
            {"prior": SamplesOnly(), "prior_in_critic": False, "adaptive_contrast": True},
            TypeError,
            "without log_prob, and adaptive contrast needs",
        ),
        ({"encoder": None, "noise_dim": 0}, ValueError, "noise_dim is 0; without noise"),
        ({"noise_dim": 7}, ValueError, "noise_dim is 7, the encoder takes 3"),
        (
            {"adaptive_contrast": True, "contrast_samples": 1},
            ValueError,
            "contrast_samples is 1; .* single noise sample",
        ),
        ({"encoder": nn.Linear(4, 2)}, TypeError, "Linear without noise_dim"),
        ({"critic_turns": 0}, ValueError, "critic_turns is 0"),
        ({"annealing_steps": -1}, ValueError, "annealing_steps is -1"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        build(**arguments)


def test_bad_input_while_training():
    class TwoNumbers(nn.Module):
        def forward(self, x, z):
            return z

    with pytest.raises(ValueError, match=r"critic returned shape \(4, 2\); expected \(4,\)"):
        next(build(critic=TwoNumbers()).step(images()))
    encoder = KnownEncoder()
    model = build(encoder=encoder, prior=UniformBox(2))
    with pytest.raises(ValueError, match="codes lie where the prior's density is zero"):
        next(model.step(images()))
    model = build(encoder=encoder, prior=UniformBox(2), adaptive_contrast=True)
    with pytest.raises(ValueError, match="codes lie where the prior's density is zero"):
        next(model.step(images()))
    with pytest.raises(ValueError, match="samples is 0"):
        model.claimed_elbo(images(), samples=0)
    with pytest.raises(TypeError, match=r"torch\.uint8"):
        model.encode(images().byte())
