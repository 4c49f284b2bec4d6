"""beta-TCVAE: three weights, two estimators, and values that carry no offset."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import tutor
from tutor.game import Turn
from tutor.metrics import stratified_log_weights, surgery_monte_carlo
from tutor.models import VAE, BetaTCVAE, BetaVAE
from tutor.nets import mlp_decoder, mlp_encoder

SHAPE, N = (1, 4, 4), 1000


def images(n: int = 6) -> Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(0)).round()


def small(kind=BetaTCVAE, latent_dim: int = 3, **options):
    torch.manual_seed(0)
    parts = {
        "encoder": mlp_encoder(SHAPE, 2 * latent_dim, hidden=(16,)),
        "decoder": mlp_decoder(latent_dim, SHAPE, hidden=(16,)),
    }
    if kind is BetaTCVAE:
        options = {"data_size": N} | options
    return kind(latent_dim, image_shape=SHAPE, **parts, **options)


def play(model, x: Tensor) -> Turn:
    torch.manual_seed(1)
    (turn,) = model.step(x)
    return turn


def written_out(model: BetaTCVAE, x: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """The parts by loops over codes i, posteriors j and dimensions, for given weights W_ij."""
    torch.manual_seed(1)
    mean, log_var = model.encoder(x).chunk(2, 1)
    z = mean + (0.5 * log_var).exp() * torch.randn(mean.shape)
    normal = torch.distributions.Normal(mean, (0.5 * log_var).exp())
    prior = torch.distributions.Normal(0.0, 1.0)
    information, correlation, rest = [], [], []
    for i in range(len(x)):
        each = normal.log_prob(z[i]).exp()  # q(z_i|x_j) by dimension: (n, dim)
        joint = sum(weights[i, j] * each[j].prod() for j in range(len(x))).log()
        marginals = [
            sum(weights[i, j] * each[j, k] for j in range(len(x))).log() for k in range(z.shape[1])
        ]
        information.append(each[i].log().sum() - joint)
        correlation.append(joint - sum(marginals))
        rest.append(sum(marginals) - prior.log_prob(z[i]).sum())
    parts = {"mutual_information": information, "total_correlation": correlation}
    parts["dimension_kl"] = rest
    return {name: torch.stack(values).mean() for name, values in parts.items()}


@pytest.mark.parametrize("sampling", ["stratified", "weighted"])
def test_the_loss_written_out(sampling):
    """Three weights on three parts, each by loops; float32 sums of a few terms."""
    alpha, beta, gamma, x = 0.5, 6.0, 2.0, images()
    model = small(alpha=alpha, beta=beta, gamma=gamma, sampling=sampling)
    turn = play(model, x)
    weights = torch.full((6, 6), 1 / (N * 6))
    if sampling == "stratified":
        weights = stratified_log_weights(6, N).exp().float()
    parts = written_out(model, x, weights)
    vae = play(small(VAE), x)
    loss = vae.loss + (alpha - 1) * parts["mutual_information"]
    loss = loss + (beta - 1) * parts["total_correlation"] + (gamma - 1) * parts["dimension_kl"]
    assert turn.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    recorded = written_out(model, x, stratified_log_weights(6, N).exp().float())
    for name, value in recorded.items():  # the same for both estimators
        assert turn.terms[name].item() == pytest.approx(value.item(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("sampling", ["stratified", "weighted"])
def test_three_ones_are_the_vae(sampling):
    turn = play(small(alpha=1.0, beta=1.0, gamma=1.0, sampling=sampling), images())
    assert torch.equal(turn.loss, play(small(VAE), images()).loss)


def test_three_equal_weights_are_the_beta_vae_on_average():
    """The parts sum to log q(z|x) - log p(z), whose mean over z is the KL term."""
    x, weight = images(), 4.0
    model = small(alpha=weight, beta=weight, gamma=weight)
    beta_vae = small(BetaVAE, beta=weight)
    torch.manual_seed(2)
    losses = []
    for _ in range(500):
        with torch.no_grad():
            (turn,), (other,) = model.step(x), beta_vae.step(x)
        losses.append((turn.loss.item(), other.loss.item()))
    gap = torch.tensor(losses).diff(dim=1)
    assert gap.mean().abs() < 4 * gap.std() / math.sqrt(500)  # four standard errors


def encoder_slope(model: BetaTCVAE, loss: Tensor) -> Tensor:
    gradient = torch.autograd.grad(loss, list(model.encoder.parameters()))
    return torch.cat([g.flatten() for g in gradient])


@pytest.mark.parametrize("sampling", ["stratified", "weighted"])
def test_the_gradient_is_that_of_the_loops(sampling):
    x, model = images(), small(beta=6.0, sampling=sampling)
    weights = torch.full((6, 6), 1 / (N * 6))
    if sampling == "stratified":
        weights = stratified_log_weights(6, N).exp().float()
    vae = VAE(3, image_shape=SHAPE, encoder=model.encoder, decoder=model.decoder)
    loss = play(vae, x).loss + 5 * written_out(model, x, weights)["total_correlation"]
    got, truth = (encoder_slope(model, value) for value in (play(model, x).loss, loss))
    # float32, densities multiplied in the loops and logarithms added in the model
    assert torch.allclose(got, truth, rtol=1e-4, atol=1e-4)


def test_the_offset_of_the_weighted_loss_has_no_slope():
    """Ten times the images: the loss moves by (beta - 1)(d - 1) log 10, the encoder not at all."""
    x = images()
    few = small(beta=6.0, sampling="weighted")
    many = small(beta=6.0, sampling="weighted", data_size=10 * N)
    a, b = play(few, x).loss, play(many, x).loss
    assert (b - a).item() == pytest.approx(5 * 2 * math.log(10), rel=1e-4)
    assert torch.allclose(encoder_slope(few, a), encoder_slope(many, b), atol=1e-5)


def test_the_recorded_correlation_has_no_offset():
    """A data set whose codes are known: both samplings record values near the truth."""
    torch.manual_seed(0)
    x = torch.rand(500, *SHAPE, generator=torch.Generator().manual_seed(5)).round()
    model = small(data_size=500, sampling="weighted", latent_dim=4)
    with torch.no_grad():
        model.encoder[-1].weight[:4] *= 6  # codes of different images apart
        model.encoder[-1].bias[4:] -= 3.0
        truth = torch.tensor(correlation(model, x))
        turn = play(model, x[:256])
    # the estimate of one batch of half the data set; the weighted one is over ten nats too high
    assert turn.terms["total_correlation"].item() == pytest.approx(truth.item(), abs=0.5)
    with torch.no_grad():  # with beta = 2 the loss is the VAE's and one total correlation
        too_high = model_like(model, beta=2.0)(x[:256]) - model_like(model, beta=1.0)(x[:256])
    assert too_high > truth + 8


def model_like(model: BetaTCVAE, beta: float):
    """The loss of a model with the same weights and another beta."""
    other = small(
        data_size=model.data_size, sampling=model.sampling, beta=beta, latent_dim=model.latent_dim
    )
    other.load_state_dict(model.state_dict())
    return lambda x: play(other, x).loss


def test_the_paper_s_headline_is_the_default():
    model = BetaTCVAE(data_size=737_280)
    assert (model.alpha, model.beta, model.gamma) == (1.0, 6.0, 1.0)
    assert (model.latent_dim, model.image_shape) == (10, (1, 64, 64))
    for setting in ("beta=6.0", "data_size=737280", "sampling='stratified'"):
        assert setting in repr(model)


def test_training_lowers_what_beta_weighs():
    """Eight images to tell apart: total correlation by the exact mixture, for two betas."""
    x, after = images(8).repeat(8, 1, 1, 1), {}
    for beta in (1.0, 20.0):
        model = small(data_size=64, beta=beta)
        tutor.fit(model, x, steps=300, batch_size=32, device="cpu", progress=False)
        after[beta] = correlation(model, x)
    assert after[20.0] < 0.5 * after[1.0]


def correlation(model: BetaTCVAE, x: Tensor) -> float:
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        found = surgery_monte_carlo(model.encode(x), samples=4000, generator=g)
    return found.value.total_correlation.item()


def test_bad_input():
    with pytest.raises(TypeError, match="data_size"):
        BetaTCVAE(10)
    for name in ("alpha", "beta", "gamma"):
        with pytest.raises(ValueError, match=f"{name} is -0.5; a weight must not be negative"):
            small(**{name: -0.5})
    with pytest.raises(ValueError, match="sampling is 'mws'"):
        small(sampling="mws")
    with pytest.raises(ValueError, match="data_size is 1"):
        small(data_size=1)
    with pytest.raises(ValueError, match="the batch has 1 codes and data_size is 1000"):
        play(small(), images(1))
    with pytest.raises(ValueError, match="the batch has 6 codes and data_size is 5"):
        play(small(data_size=5), images(6))
    with pytest.raises(ValueError, match=r"image_shape is \(1, 28, 28\); the default networks"):
        BetaTCVAE(10, data_size=N, image_shape=(1, 28, 28))
    with pytest.raises(ValueError, match="latent_dim is 0"):
        BetaTCVAE(0, data_size=N)
