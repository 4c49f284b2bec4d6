"""Variational inference without data: GaussianVB and EnergyAVB against Gaussians that are known."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

import tutor
from tutor.energies import Banana, EightSchools, Ring
from tutor.models import EnergyAVB, GaussianVB
from tutor.nets import mlp
from tutor.training import decay_after

MEAN = torch.tensor([1.0, -0.5])
COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 0.7]])


class Correlated:
    """A known Gaussian, unnormalised: log_prob is off by the constant ``shift``."""

    dim = 2
    shift = 0.7

    def __init__(self) -> None:
        self.exact = MultivariateNormal(MEAN, COVARIANCE)

    def log_prob(self, z: Tensor) -> Tensor:
        exact = MultivariateNormal(MEAN.to(z), COVARIANCE.to(z), validate_args=False)
        return exact.log_prob(z) + self.shift


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fit(model: nn.Module, steps: int, rate: float, batch: int = 256, **arguments) -> None:
    tutor.fit(
        model,
        torch.zeros(batch, 1),
        batch_size=batch,
        steps=steps,
        device="cpu",
        optimizer=partial(torch.optim.Adam, lr=rate, **arguments),
        schedule=decay_after(0.3),
        progress=False,
    )


# -- Gaussian variational Bayes ------------------------------------------------------------


def random_gaussian(full_rank: bool, energy=None) -> GaussianVB:
    model = GaussianVB(EightSchools() if energy is None else energy, full_rank=full_rank)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=seeded(1)))
    return model


@pytest.mark.parametrize("full_rank", [False, True])
def test_density_entropy_and_draws_are_torchs(full_rank):
    model = random_gaussian(full_rank)
    scale = model.scale.detach()
    exact = MultivariateNormal(model.mean.detach(), scale_tril=scale)
    z = model.sample(50_000, generator=seeded())
    # float32 sums of ten terms
    torch.testing.assert_close(model.log_prob(z), exact.log_prob(z), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.entropy(), exact.entropy(), rtol=1e-5, atol=1e-5)
    # four and a half standard errors; the covariance's is at most sqrt(2) s_i s_j / sqrt(n)
    std = exact.covariance_matrix.diagonal().sqrt()
    assert ((z.mean(0) - exact.mean).abs() < 4.5 * std / math.sqrt(len(z))).all()
    allowed = 4.5 * math.sqrt(2 / len(z)) * std[:, None] * std
    assert ((z.T.cov() - exact.covariance_matrix).abs() < allowed).all()
    assert (full_rank is False) == bool((scale == scale.diagonal().diag()).all())


@pytest.mark.parametrize("full_rank", [False, True])
def test_the_loss_is_the_negative_elbo_in_closed_form(full_rank):
    """For a Gaussian target E_q log p is known: the mean of one step's loss over seeds."""
    energy = Correlated()
    model = random_gaussian(full_rank, energy)
    scale, precision = model.scale.detach(), torch.linalg.inv(COVARIANCE)
    away = model.mean.detach() - MEAN
    expected = (
        energy.exact.log_prob(MEAN)
        + energy.shift
        - 0.5 * (away @ precision @ away + (precision @ scale @ scale.T).trace())
        + model.entropy()
    )
    torch.manual_seed(0)
    losses = [next(model.step(torch.zeros(2000, 1))).loss.item() for _ in range(50)]
    error = torch.tensor(losses).std() / math.sqrt(50)
    assert abs(-expected.item() - torch.tensor(losses).mean()) < 4 * error
    assert abs(model.elbo(100_000, generator=seeded()) - expected) < 4 * error


def test_mean_field_reaches_the_known_optimum():
    """Its variances are the inverse of the precision's diagonal: smaller than the true ones.

    The gap of the ELBO is then KL(q || p) = 1/2 (log det S - sum log s_i^2).
    """
    model = GaussianVB(Correlated())
    fit(model, 1500, 0.03)
    precision = torch.linalg.inv(COVARIANCE)
    # The last rates are small, but each gradient is noisy: a few thousandths.
    torch.testing.assert_close(model.mean.detach(), MEAN, atol=0.01, rtol=0)
    variances = (2 * model.log_std.detach()).exp()
    torch.testing.assert_close(variances, 1 / precision.diagonal(), atol=0, rtol=0.02)
    gap = 0.5 * (COVARIANCE.logdet() + precision.diagonal().log().sum())
    got = model.elbo(100_000, generator=seeded())
    # standard error: log_prob has a spread of 1.2 at most, over sqrt(100 000)
    assert got.item() == pytest.approx(Correlated.shift - gap.abs().item(), abs=0.013)


def test_full_rank_reaches_the_target():
    model = GaussianVB(Correlated(), full_rank=True)
    fit(model, 1500, 0.03)
    covariance = (model.scale @ model.scale.T).detach()
    torch.testing.assert_close(model.mean.detach(), MEAN, atol=0.01, rtol=0)
    torch.testing.assert_close(covariance, COVARIANCE, atol=0.02, rtol=0)
    # standard error: log_prob has a spread of 1 (half a chi-squared of 2), over sqrt(100 000)
    assert model.elbo(100_000, generator=seeded()).item() == pytest.approx(0.7, abs=0.013)


def test_elbo_of_the_gaussian_stays_below_the_evidence():
    energy = EightSchools()
    model = GaussianVB(energy, full_rank=True)
    before = model.elbo(20_000, generator=seeded())
    fit(model, 500, 0.03)
    after = model.elbo(20_000, generator=seeded())
    assert before < after < energy.log_evidence


# -- adversarial variational Bayes ---------------------------------------------------------


class Bias(nn.Module):
    """A critic that knows nothing of z."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, z: Tensor) -> Tensor:
        return self.value.expand(len(z), 1)


def affine(scale: Tensor) -> nn.Linear:
    """A sampler whose q is the Gaussian N(MEAN, scale scale^T)."""
    sampler = nn.Linear(2, 2)
    with torch.no_grad():
        sampler.weight.copy_(scale)
        sampler.bias.copy_(MEAN)
    return sampler


@pytest.mark.parametrize("adaptive", [False, True])
def test_with_the_optimal_critic_the_elbo_is_exact(adaptive):
    """Put T* = log q - log r in place of the critic: the estimate is the ELBO of that Gaussian."""
    energy = Correlated()
    factor = torch.tensor([[0.8, 0.0], [0.3, 0.5]])
    q = MultivariateNormal(MEAN, scale_tril=factor)

    class Optimal(nn.Module):
        def forward(self, z_hat: Tensor) -> Tensor:
            z, log_r = z_hat, -0.5 * z_hat.square().sum(1) - math.log(2 * math.pi)
            if adaptive:
                z, log_r = MEAN + std * z_hat, log_r - std.log().sum()
            return (q.log_prob(z) - log_r).unsqueeze(1)

    std = q.covariance_matrix.diagonal().sqrt()
    model = EnergyAVB(
        energy,
        noise_dim=2,
        adaptive_contrast=adaptive,
        sampler=affine(factor),
        critic=Optimal(),
    )
    z = model.sample(100_000, generator=seeded())
    got = model.elbo_terms(z).mean()
    precision = torch.linalg.inv(COVARIANCE)
    cross = energy.exact.log_prob(MEAN) - 0.5 * (precision @ factor @ factor.T).trace()
    exact = energy.shift + cross + q.entropy()
    # spread of log_prob - log q about 1.3, over sqrt(100 000), three times; moments add less
    assert got.item() == pytest.approx(exact.item(), abs=0.015)


def test_the_contrast_has_the_moments_of_q_and_lets_no_gradient_through_them():
    model = EnergyAVB(Ring(), critic=Bias(0.0))
    z = (3 + 2 * torch.randn(400, 2, generator=seeded())).requires_grad_()
    z_hat, log_r = model.contrast(z)
    torch.testing.assert_close(z_hat.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(z_hat.std(0), torch.ones(2))
    normal = torch.distributions.Normal(z.mean(0), z.std(0))
    torch.testing.assert_close(log_r, normal.log_prob(z).sum(1))
    (slope,) = torch.autograd.grad(z_hat.sum(), z, retain_graph=True)
    # With gradient through the mean, the sum of z_hat would be constant and its slope zero.
    torch.testing.assert_close(slope, (1 / z.std(0)).expand(400, 2).detach())
    (slope,) = torch.autograd.grad(log_r.sum(), z)
    torch.testing.assert_close(slope, -(z_hat / z.std(0)).detach())


def test_without_adaptive_contrast_the_contrast_is_the_standard_normal():
    model = EnergyAVB(Ring(), adaptive_contrast=False)
    z = torch.randn(1, 2, generator=seeded())
    z_hat, log_r = model.contrast(z)
    assert torch.equal(z_hat, z)
    torch.testing.assert_close(log_r, tutor.priors.Gaussian(2).log_prob(z))


def test_it_begins_as_a_gaussian_approximation():
    """An untrained critic says T = 0; the sampler's loss is that of the contrast alone."""
    model, z = EnergyAVB(Banana()), torch.randn(50, 2, generator=seeded())
    assert torch.equal(model.critic_value(z), torch.zeros(50))
    torch.testing.assert_close(model.elbo_terms(z), model.energy.log_prob(z) - model.contrast(z)[1])


def test_the_losses_are_the_papers():
    """Labels: draws of q are 1, draws of the contrast 0; T enters the sampler's loss with plus."""
    model = EnergyAVB(Ring(), critic=Bias(0.3))
    torch.manual_seed(0)
    primal, dual, _ = model.step(torch.zeros(30, 1))
    torch.manual_seed(0)
    z = model.sampler(torch.randn(30, 32))
    log_r = torch.distributions.Normal(z.mean(0), z.std(0)).log_prob(z).sum(1)
    expected = (log_r + 0.3 - Ring().log_prob(z)).mean()
    torch.testing.assert_close(primal.loss, expected)
    sigmoid = 1 / (1 + math.exp(-0.3))
    assert dual.loss.item() == pytest.approx(-math.log(sigmoid) - math.log(1 - sigmoid), rel=1e-5)
    assert dual.terms["kl_to_contrast"].item() == pytest.approx(0.3, rel=1e-6)


def test_gradients_reach_the_right_player():
    model = EnergyAVB(Ring())
    with torch.no_grad():
        model.critic[-1].weight.normal_(generator=seeded())  # at zero T would pass no gradient
    primal, dual, _ = model.step(torch.zeros(20, 1))
    for parameter in model.sampler.parameters():
        (gradient,) = torch.autograd.grad(primal.loss, parameter, retain_graph=True)
        assert gradient.abs().sum() > 0
    for parameter in list(model.critic.parameters())[:-1]:  # the loss ignores T's own offset
        (gradient,) = torch.autograd.grad(dual.loss, parameter, retain_graph=True)
        assert gradient.abs().sum() > 0
    leak = torch.autograd.grad(dual.loss, list(model.sampler.parameters()), allow_unused=True)
    assert leak == (None,) * len(leak)  # the critic's loss does not know how its draws were made


def test_avb_reaches_a_known_gaussian():
    torch.manual_seed(0)
    model = EnergyAVB(
        Correlated(),
        noise_dim=4,
        sampler=nn.Sequential(*mlp([4, 32, 2], nn.ELU)),
        critic=nn.Sequential(*mlp([2, 32, 32, 1], nn.ELU)),
    )
    fit(model, 500, 3e-3, betas=(0.5, 0.999))
    z = model.sample(20_000, generator=seeded())
    # Five hundred rounds of a game end near the answer, not on it: a tenth of a deviation.
    torch.testing.assert_close(z.mean(0), MEAN, atol=0.1, rtol=0)
    torch.testing.assert_close(z.T.cov(), COVARIANCE, atol=0.12, rtol=0)
    # Mean field gives 0.34 and 0.49 for the variances here, and no covariance at all.


@pytest.mark.slow
def test_avb_finds_both_arms_of_the_banana():
    """Where a Gaussian must choose an arm or blur both: means and spread against exact draws."""
    torch.manual_seed(0)
    model = EnergyAVB(Banana())
    fit(model, 800, 1e-3, betas=(0.5, 0.999))
    z = model.sample(20_000, generator=seeded())
    exact = Banana().exact_draws(20_000, generator=seeded(1))
    share = (z[:, 1] > 0).float().mean()
    assert 0.4 < share < 0.6  # half the mass on each side, by symmetry
    assert (z.mean(0) - exact.mean(0)).abs().max() < 0.15
    torch.testing.assert_close(z.std(0), exact.std(0), atol=0.1, rtol=0)


def test_training_is_repeatable():
    draws = []
    for _ in range(2):
        torch.manual_seed(0)
        model = EnergyAVB(Ring(), noise_dim=3)
        fit(model, 20, 1e-3)
        draws.append(model.sample(5, generator=seeded()))
    assert torch.equal(*draws)


# -- the stored runs -----------------------------------------------------------------------


def test_stored_avb_is_closer_to_the_posterior_than_both_gaussians():
    """What the chapter says of Eight Schools, for every seed and every distance that sees it."""
    table = tutor.pretrained.results("eight_schools")
    floors = table.attrs["floors"]
    by_method = table.groupby("method")
    assert (by_method.size()[["mean field", "full rank", "AVB"]] == 3).all()
    measures = ["sliced_wasserstein", "energy_distance", "plane_sliced_wasserstein", "kl_log_tau"]
    for name in measures:
        avb = by_method.get_group("AVB")[name]
        gaussians = table[table["method"].isin(["mean field", "full rank"])][name]
        assert avb.max() < gaussians.min()
        limit = floors[name]["mean"] + 3 * floors[name]["std"]
        assert avb.max() < limit < gaussians.min()
    # A Gaussian's gap is its KL to the posterior: positive, and smaller at full rank.
    gap = by_method["gap"].mean()
    assert 0 < gap["full rank"] < gap["mean field"]


# -- the yardstick of the experiment -------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Pyro's own, about torch's newer interfaces
def test_nuts_draws_from_a_known_gaussian():
    pytest.importorskip("pyro", reason="pyro-ppl is in the extra [book]")
    from experiments.eight_schools import nuts

    state = torch.get_rng_state()
    z, cost = nuts(Correlated(), 500, warmup=200, seed=0)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's stream is left alone
    assert cost["evaluations"] > 700
    # 500 draws of a chain are worth about 200 independent ones: three standard errors
    torch.testing.assert_close(z.mean(0).float(), MEAN, atol=0.2, rtol=0)
    torch.testing.assert_close(z.T.cov().float(), COVARIANCE, atol=0.25, rtol=0)


# -- refusals ------------------------------------------------------------------------------


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"noise_dim is 0.*at least 1"):
        EnergyAVB(Ring(), noise_dim=0)
    with pytest.raises(ValueError, match="critic_turns is 0"):
        EnergyAVB(Ring(), critic_turns=0)
    for model in (GaussianVB, EnergyAVB):
        with pytest.raises(TypeError, match="without dim and log_prob"):
            model(lambda z: -z.square().sum(-1))
    with pytest.raises(ValueError, match="single draw"):
        next(EnergyAVB(Ring()).step(torch.zeros(1, 1)))


class ForgotTheSum:
    """log_prob one number a coordinate: its mean would pass for a density, twice too small."""

    dim = 2

    def log_prob(self, z: Tensor) -> Tensor:
        return -0.5 * z.square()


def test_a_density_that_is_not_one_number_a_point_is_refused():
    for model in (GaussianVB(ForgotTheSum()), EnergyAVB(ForgotTheSum())):
        with pytest.raises(ValueError, match=r"returned shape \(2, 2\).*expected \(2,\)"):
            next(model.step(torch.zeros(2, 1)))
    with pytest.raises(ValueError, match="samples is 0"):
        GaussianVB(Ring()).elbo(0)


def test_a_critic_with_two_outputs_is_refused():
    model = EnergyAVB(Ring(), critic=nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"critic returned shape \(2, 2\); expected \(2, 1\)"):
        next(model.step(torch.zeros(2, 1)))


@pytest.mark.parametrize("kind", [GaussianVB, EnergyAVB])
def test_an_energy_of_the_readers_own_prints_the_same_in_every_process(kind):
    """An address in the print would make every checkpoint another model's."""
    assert repr(kind(ForgotTheSum())) == repr(kind(ForgotTheSum()))
    assert "ForgotTheSum()" in repr(kind(ForgotTheSum()))
    assert "Ring()" in repr(kind(Ring()))
