"""The metrics as a user meets them: clear refusals, no side effects, the same draws twice."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.metrics.worlds import (
    SHAPE,
    all_binary_images,
    bernoulli_vae,
    brute_force_joint,
    generator,
    linear_elbo,
    linear_images,
    linear_vae,
    log_evidence,
    plane,
)
from tutor.data import Dataset
from tutor.metrics import (
    active_units,
    aggregate_log_prob,
    ais,
    best_gaussian,
    elbo,
    exact_elbo,
    exact_posterior,
    gaps,
    iwae,
    log_likelihood,
    minibatch_stratified,
    minibatch_surgery,
    minibatch_weighted,
    quadrature,
    stratified_log_weights,
    surgery,
    surgery_monte_carlo,
)
from tutor.models import AAE, VAE
from tutor.posteriors import DiagonalGaussian
from tutor.priors import UniformBox

BOUNDS = [elbo, exact_elbo, iwae, quadrature]


# -- values beyond those of tests/equations ------------------------------------------------


def test_quadrature_against_brute_force_with_relu():
    model = bernoulli_vae(scale=3.0, activation=nn.ReLU)
    x = all_binary_images()[::8]
    z, area = plane(501)
    parts = [brute_force_joint(model, x, some).logsumexp(1) for some in z.split(20_000)]
    truth = torch.stack(parts).logsumexp(0) + math.log(area)
    # The default tolerance; the brute-force grid has spacing 0.028 and kinks of its own.
    assert (quadrature(model, x) - truth).abs().max() < 1e-3
    # Asked for more, it gives more; the rest is what the kinks cost the brute-force grid.
    assert (quadrature(model, x, tolerance=1e-5) - truth).abs().max() < 1e-4


@pytest.mark.parametrize("std", [0.1, 0.02])
def test_quadrature_finds_narrow_posteriors(std):
    model = linear_vae(2, std=std)  # deviations down to 0.01 where std is 0.02
    x = linear_images(model, 300)
    # 300 places relative to the grid; patches of less than e^-16 are left out.
    assert (quadrature(model, x) - log_evidence(model, x)).abs().max() < 1e-5


def test_quadrature_in_float32_is_good_to_a_thousandth():
    model = linear_vae(2, std=0.1)
    x = linear_images(model, 100)
    got = quadrature(model.float(), x.float())
    assert got.dtype == torch.float32
    assert (got - log_evidence(model.double(), x)).abs().max() < 1e-3  # default tolerance


def test_three_methods_agree_on_one_door():
    model, x = bernoulli_vae(), all_binary_images()[:20]
    with torch.no_grad():
        model.encoder[1].bias[2:] += 4  # wide proposals: narrow ones miss the posterior
    exact = log_likelihood(model, x)
    assert torch.equal(exact, quadrature(model, x))
    weighted = log_likelihood(model, x, "iwae", generator=generator(1))
    # 5000 draws from a proposal over the whole plane: few hundred land in the posterior.
    assert (weighted - exact).abs().max() < 0.2
    annealed = log_likelihood(model, x, "ais", temperatures=30, chains=40, generator=generator(1))
    result = ais(model, x, temperatures=30, chains=40, generator=generator(1))
    assert torch.equal(annealed, result.log_likelihood)
    assert ((annealed - exact).abs() < 4.5 * result.standard_error).all()
    # The pilots aim at 0.65; a lag of 0.1 is what 30 temperatures leave.
    assert (result.acceptance.mean() - 0.65).abs() < 0.1


def test_elbo_with_a_prior_or_posterior_without_closed_form():
    model = linear_vae(2)
    x = linear_images(model, 1).expand(4000, -1, -1, -1)
    truth = linear_elbo(model, x[:1])

    class Other(nn.Module):  # the same density, but not the class that has a closed form
        dim = 2
        log_prob = model.prior.log_prob

    model.prior = Other()
    draws = elbo(model, x, generator=generator(0))
    assert abs(draws.mean() - truth) < 4 * draws.std() / math.sqrt(len(draws))  # standard errors


def test_best_gaussian_recovers_an_exact_posterior():
    model = linear_vae(1)  # in one dimension every posterior is a diagonal Gaussian
    x = linear_images(model, 20)
    _, bound = best_gaussian(model, x)
    assert (bound - log_evidence(model, x)).abs().max() < 1e-5  # the last gain allowed


def test_surgery_takes_a_data_set_as_it_takes_images():
    images = (torch.rand(70, *SHAPE, generator=generator()) * 255).round() / 255
    model = VAE(2, image_shape=SHAPE)
    from_images, from_data = surgery(model, images), surgery(model, Dataset(images))
    for a, b in zip(from_images, from_data, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(active_units(model, images).variance, model.encode(images).mean.var(0))


def test_sampled_surgery_adds_up_in_five_dimensions():
    g = generator(3)
    q = DiagonalGaussian(torch.randn(60, 5, generator=g), torch.randn(60, 5, generator=g) - 1)
    parts = surgery_monte_carlo(q, samples=500, generator=g).value
    # Identities between means of the same draws: rounding only.
    assert abs(parts.rate - parts.mutual_information - parts.marginal_kl) < 1e-10
    total = parts.total_correlation + parts.dimension_kl.sum()
    assert abs(parts.marginal_kl - total) < 1e-10


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.floats(-3, 3), st.floats(-3, 3), st.floats(-5, 1.5), st.floats(-5, 1.5)),
        min_size=1,
        max_size=12,
    )
)
def test_surgery_of_any_posteriors(rows):
    table = torch.tensor(rows, dtype=torch.float64)
    parts = surgery(DiagonalGaussian(table[:, :2], table[:, 2:]))
    # Equality of the sums is algebra; signs hold up to the integrals' tolerance of 1e-3.
    assert abs(parts.rate - parts.mutual_information - parts.marginal_kl) < 1e-10
    for part in parts:
        assert part.min() > -1e-3
    assert parts.mutual_information < math.log(len(rows)) + 1e-3


def test_minibatch_surgery_adds_up():
    g = generator(6)
    q = DiagonalGaussian(torch.randn(30, 2, generator=g), torch.randn(30, 2, generator=g) - 2)
    z = q.sample(generator=g)
    seen = minibatch_surgery(q, z, data_size=30).value
    assert abs(seen.rate - seen.mutual_information - seen.marginal_kl) < 1e-5  # float32


# -- no side effects -----------------------------------------------------------------------


def every_metric(model: VAE, x: torch.Tensor) -> None:
    for bound in BOUNDS:
        bound(model, x)
    ais(model, x, temperatures=2, chains=2)
    gaps(model, x)
    exact_posterior(model, x, points=20)
    surgery(model, x)
    surgery_monte_carlo(model, x, samples=10)
    active_units(model, x)


def test_the_model_is_left_as_it_was():
    model = bernoulli_vae()
    model.decoder.insert(2, nn.Dropout(0.5))
    model.encoder.eval()  # a mixture of modes must survive
    modes = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.random.fork_rng():
        every_metric(model, all_binary_images()[:4])
    assert [module.training for module in model.modules()] == modes
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_dropout_is_off():
    model, x = bernoulli_vae(), all_binary_images()[:4]
    plain = quadrature(model, x)
    model.decoder.insert(2, nn.Dropout(0.5))
    assert torch.equal(quadrature(model.train(), x), plain)


def test_the_mode_comes_back_after_an_error():
    model = bernoulli_vae().train()
    with pytest.raises(ValueError, match="neither 0 nor 1"):
        elbo(model, all_binary_images() * 0.5)
    assert model.training
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    "draw",
    [
        lambda m, x, g: elbo(m, x, samples=3, generator=g),
        lambda m, x, g: iwae(m, x, samples=3, generator=g),
        lambda m, x, g: ais(m, x, temperatures=3, chains=2, generator=g).log_likelihood,
        lambda m, x, g: surgery_monte_carlo(m, x, samples=9, generator=g).value.rate,
    ],
)
def test_draws_follow_the_generator_alone(draw):
    model, x = bernoulli_vae(), all_binary_images()[:5]
    before = torch.random.get_rng_state()
    first, again, other = (draw(model, x, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


# -- refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", [*BOUNDS, gaps, exact_posterior, ais])
def test_wrong_images(metric):
    model, x = bernoulli_vae(), all_binary_images()
    with pytest.raises(TypeError, match="list; expected a float tensor"):
        metric(model, [1, 2])
    with pytest.raises(TypeError, match=r"torch.uint8.*x.float\(\) / 255"):
        metric(model, x.to(torch.uint8))
    with pytest.raises(ValueError, match=r"\(64, 6\); expected \(n, 1, 2, 3\)"):
        metric(model, x.flatten(1))
    with pytest.raises(ValueError, match="at least one image"):
        metric(model, x[:0])
    with pytest.raises(ValueError, match=r"384 pixels.*dataset.binarized\(\)"):
        metric(model, torch.full_like(x, 0.5))


@pytest.mark.parametrize("metric", [*BOUNDS, gaps, exact_posterior, ais])
def test_something_that_is_no_model(metric):
    with pytest.raises(TypeError, match=r"Linear has no .*decode"):
        metric(nn.Linear(2, 2), all_binary_images())


def test_counts_below_one():
    model, x = bernoulli_vae(), all_binary_images()
    with pytest.raises(ValueError, match="samples is 0; expected at least 1"):
        elbo(model, x, samples=0)
    with pytest.raises(ValueError, match="samples is -1"):
        iwae(model, x, samples=-1)
    with pytest.raises(TypeError, match=r"samples is 2.5; expected a whole number"):
        iwae(model, x, samples=2.5)
    with pytest.raises(ValueError, match="temperatures is 0"):
        ais(model, x, temperatures=0)
    with pytest.raises(ValueError, match="chains is 1"):
        ais(model, x, chains=1)
    with pytest.raises(ValueError, match="nodes is 0"):
        exact_elbo(model, x, nodes=0)
    with pytest.raises(ValueError, match="samples is 1; the standard error"):
        surgery_monte_carlo(model, x, samples=1)


def test_unknown_names_and_bad_tolerances():
    model, x = bernoulli_vae(), all_binary_images()
    with pytest.raises(ValueError, match=r"'exact'; choose \"quadrature\", \"iwae\" or \"ais\""):
        log_likelihood(model, x, "exact")
    with pytest.raises(ValueError, match=r"'cosine'; choose \"sigmoid\" or \"linear\""):
        ais(model, x, schedule="cosine")
    for metric in (quadrature, surgery):
        with pytest.raises(ValueError, match="tolerance is 0"):
            metric(model, x, tolerance=0)
    with pytest.raises(ValueError, match=r"bounds are \(1, -1\)"):
        exact_posterior(model, x, bounds=(1, -1))
    with pytest.raises(ValueError, match="threshold is -1"):
        active_units(model, x, threshold=-1)


def test_three_latent_dimensions_are_too_many_for_a_grid():
    model, x = VAE(3, image_shape=SHAPE), all_binary_images()
    for metric in (quadrature, exact_posterior, gaps):
        with pytest.raises(ValueError, match=r"3 latent dimensions.*\"iwae\""):
            metric(model, x)
    with pytest.raises(ValueError, match=r"3 latent dimensions.*elbo\(model"):
        exact_elbo(model, x)
    with pytest.raises(ValueError, match=r"3 dimensions.*surgery_monte_carlo"):
        surgery(model, x)


def test_a_posterior_too_narrow_for_the_grid():
    model = linear_vae(1, std=1e-4)
    with pytest.raises(RuntimeError, match=r"did not reach tolerance=0.001.*\"ais\""):
        quadrature(model, linear_images(model, 5))


def test_a_posterior_beyond_the_grid():
    model = linear_vae(1, std=0.05)
    with torch.no_grad():
        far = model.decode(torch.tensor([[30.0]], dtype=torch.float64)).mean
    with pytest.raises(RuntimeError, match="at the border"):
        quadrature(model, far)


def test_a_decoder_that_returns_nan():
    model = bernoulli_vae()
    with torch.no_grad():
        model.decoder[0].weight.fill_(math.nan)
    x = all_binary_images()[:2]
    with pytest.raises(RuntimeError, match="not finite"):
        quadrature(model, x)
    with pytest.raises(RuntimeError, match="not finite"):
        ais(model, x, temperatures=2, chains=2)


def test_an_encoder_without_a_density():
    class Autoencoder(VAE):
        def encode(self, x):
            return super().encode(x).mean

    model, x = Autoencoder(2, image_shape=SHAPE), all_binary_images()[:2]
    with pytest.raises(TypeError, match="encode returns a Tensor"):
        elbo(model, x)
    with pytest.raises(TypeError, match="encode returns a Tensor"):
        surgery(model, x)
    with pytest.raises(TypeError, match="the posterior is a Tensor"):
        exact_elbo(model, x)
    assert quadrature(model, x).isfinite().all()  # needs no encoder


def test_what_surgery_and_minibatches_refuse():
    q = DiagonalGaussian(torch.zeros(4, 2), torch.zeros(4, 2))
    with pytest.raises(TypeError, match="expected a model and its images"):
        surgery(bernoulli_vae())
    with pytest.raises(TypeError, match="posteriors need no images"):
        surgery(q, all_binary_images())
    with pytest.raises(ValueError, match=r"z \(4, 3\)"):
        aggregate_log_prob(q.mean, q.log_var, torch.zeros(4, 3))
    for estimator in (minibatch_weighted, minibatch_stratified):
        with pytest.raises(ValueError, match="4 codes and data_size is 3"):
            estimator(q, q.mean, 3)
        with pytest.raises(ValueError, match=r"z has shape \(2, 2\)"):
            estimator(q, q.mean[:2], 100)
    with pytest.raises(ValueError, match=r"'both'; choose \"weighted\" or \"stratified\""):
        minibatch_surgery(q, q.mean, 100, method="both")
    with pytest.raises(ValueError, match="batch_size is 1"):
        stratified_log_weights(1, 10)
    with pytest.raises(ValueError, match="at least two images"):
        active_units(DiagonalGaussian(q.mean[:1], q.log_var[:1]))
    needle = DiagonalGaussian(
        torch.tensor([[0.0], [9.0], [3.0]]), torch.tensor([[-40.0], [1.0], [1.0]])
    )
    with pytest.raises(RuntimeError, match="did not settle"):
        surgery(needle)


@pytest.mark.parametrize("metric", [elbo, iwae, quadrature, ais, exact_posterior, gaps])
def test_a_prior_without_density(metric):
    class Draws(nn.Module):
        dim = 2

        def sample(self, shape, *, generator=None):
            return torch.randn(*shape, 2, generator=generator)

    model = AAE(2, image_shape=SHAPE, likelihood="bernoulli", posterior="gaussian", prior=Draws())
    with pytest.raises(TypeError, match="prior is a Draws without log_prob, and this metric needs"):
        metric(model, torch.zeros(2, *SHAPE))


def test_a_prior_with_an_edge_has_no_quadrature():
    model = AAE(2, image_shape=SHAPE, likelihood="bernoulli", prior=UniformBox(2))
    with pytest.raises(ValueError, match="UniformBox, is zero on part of the plane"):
        quadrature(model, torch.zeros(2, *SHAPE))
