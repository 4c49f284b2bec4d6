"""Frames made from models: exact posteriors against the metrics, and what each model believes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tutor.data import four_points
from tutor.metrics import exact_elbo, exact_posterior, quadrature
from tutor.models import AVB, VAE
from tutor.posteriors import Deterministic
from tutor.widgets import PosteriorFrames, posterior_frames

X = four_points()[:]


def trained(model: VAE | AVB, moments: int = 3, every: int = 100) -> list[nn.Module]:
    """The model at some moments of a training of some seconds on the four points."""
    kept = [copy.deepcopy(model)]
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for step in range(1, every * (moments - 1) + 1):
        for turn in model.step(X.repeat(8, 1, 1, 1)):
            optimizer.zero_grad()
            turn.loss.backward()
            optimizer.step()
        if step % every == 0:
            kept.append(copy.deepcopy(model))
    return kept


@pytest.fixture(scope="module")
def vaes() -> list[nn.Module]:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return trained(VAE(latent_dim=2, image_shape=(1, 2, 2)))


@pytest.fixture(scope="module")
def avb() -> AVB:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = AVB(latent_dim=2, image_shape=(1, 2, 2))
    with torch.no_grad():
        for layer in model.decoder.modules():
            if isinstance(layer, nn.Linear):
                layer.weight *= 2  # a decoder that varies over the plane
    return model


@pytest.fixture(scope="module")
def frames(vaes) -> PosteriorFrames:
    return posterior_frames(vaes, X, [0, 100, 200], points=40)


def test_the_exact_posterior_is_that_of_the_metrics(frames, vaes):
    assert frames.name == "VAE"
    assert frames.steps.tolist() == [0, 100, 200]
    assert frames.bounds.tolist() == [-4, 4, -4, 4]
    for t, model in enumerate(vaes):
        exact = exact_posterior(model, X, bounds=(-4.0, 4.0), points=40)
        # the same float32 sums, in batches of another size
        difference = frames.log_density[t] - exact.log_density.view(4, 40, 40)
        assert difference.abs().max() < 1e-4
        assert (frames.log_evidence[t] - quadrature(model, X)).abs().max() < 1e-4
    # training has moved the posteriors away from each other
    assert (frames.log_density[2, 0] - frames.log_density[2, 1]).abs().max() > 1


def test_the_gaussian_and_its_distance_to_the_exact_posterior(frames, vaes):
    assert frames.samples is None
    for t, model in enumerate(vaes):
        q = model.encode(X)
        assert torch.allclose(frames.mean[t], q.mean, atol=1e-6)
        assert torch.allclose(frames.log_var[t], q.log_var, atol=1e-6)
        # the definition, as a sum over the cells of a finer grid
        exact = exact_posterior(model, X, bounds=(-6.0, 6.0), points=240)
        log_q = q.log_prob(exact.z.unsqueeze(1)).T
        direct = (log_q.exp() * (log_q - exact.log_density)).sum(1) * (12 / 240) ** 2
        # the quadratures over decoders with ReLU agree to some 1e-3 nats
        assert (frames.kl[t] - direct).abs().max() < 5e-3
        assert torch.allclose(frames.kl[t], quadrature(model, X) - exact_elbo(model, X), atol=1e-4)


def test_samples_come_where_there_is_no_density(avb):
    frames = posterior_frames([avb, avb], X, [0, 1], samples=50, points=8)
    assert frames.name == "AVB"
    assert frames.mean is frames.log_var is frames.kl is None
    assert frames.samples.shape == (2, 4, 50, 2)
    wanted = avb.encode(X).sample((50,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(frames.samples[0], wanted.transpose(0, 1))


def test_a_dot_is_one_noise_followed_through_training(avb):
    """The same model twice gives the same dots; the caller's generator decides which."""

    def draw(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return posterior_frames([avb, avb], X, [0, 1], points=8, generator=generator).samples

    first = draw(1)
    assert torch.equal(first[0], first[1])
    assert torch.equal(first, draw(1))
    assert not torch.equal(first, draw(2))
    state = torch.random.get_rng_state()
    posterior_frames([avb], X, [0], points=8)
    assert torch.equal(state, torch.random.get_rng_state())  # the global stream is left alone


def test_a_generator_moves_on_by_one_frame_of_noise(avb):
    generator = torch.Generator().manual_seed(1)
    first = posterior_frames([avb, avb], X, [0, 1], points=8, generator=generator).samples
    second = posterior_frames([avb], X, [0], points=8, generator=generator).samples
    assert not torch.equal(first[:1], second)


def test_a_measure_of_the_distance_may_be_given(avb):
    frames = posterior_frames(
        [avb], X, [0], points=8, kl=lambda model, x: x.flatten(1) @ torch.arange(4.0)
    )
    assert frames.kl.tolist() == [[0, 1, 2, 3]]


def test_models_may_be_loaded_one_after_the_other_into_one(vaes, frames):
    model = VAE(latent_dim=2, image_shape=(1, 2, 2))

    def loaded():
        for recorded in vaes:
            model.load_state_dict(recorded.state_dict())
            yield model

    again = posterior_frames(loaded(), X, [0, 100, 200], points=40)
    assert torch.equal(again.log_density, frames.log_density)


class Linear(nn.Module):
    """x given z is N(W z, std^2 I): its posterior is a Gaussian in closed form."""

    latent_dim, image_shape = 2, (1, 2, 2)

    def __init__(self, std: float, at: float = 0.0) -> None:
        super().__init__()
        self.inner = VAE(
            latent_dim=2, image_shape=(1, 2, 2), likelihood="gaussian", decoder_std=std,
            decoder=nn.Sequential(nn.Linear(2, 4), nn.Unflatten(1, (1, 2, 2))),
        )  # fmt: skip
        weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, -0.5], [0.0, 0.3]])
        self.inner.decoder[0].weight.data = weight
        nn.init.zeros_(self.inner.decoder[0].bias)
        self.precision = torch.eye(2) + weight.T @ weight / std**2
        self.weight, self.std, self.at = weight, std, at
        self.prior = self.inner.prior

    def encode(self, x):
        return Deterministic(self.mean(x) + self.at)

    def decode(self, z):
        return self.inner.decode(z)

    def mean(self, x):
        return x.flatten(1) @ self.weight / self.std**2 @ torch.linalg.inv(self.precision)


@pytest.mark.parametrize("std", [1.0, 0.1, 0.02])
def test_windows_follow_narrow_posteriors(std):
    model = Linear(std)
    frames = posterior_frames([model], X, [0], window=None, points=96)
    left, right, bottom, top = frames.bounds[0].T
    wide = torch.linalg.inv(model.precision).diagonal().sqrt().max().item()
    mean = model.mean(X)
    assert torch.allclose(right - left, top - bottom, rtol=1e-4)
    for low, high, middle in ((left, right, mean[:, 0]), (bottom, top, mean[:, 1])):
        assert (middle - low > 3.5 * wide).all()
        assert (high - middle > 3.5 * wide).all()
        assert (high - low < 12 * wide).all()
    cell = ((right - left) * (top - bottom) / 96**2)[:, None, None]
    # four standard deviations to each side leave out some 1e-4; float32 and quadrature the rest
    mass = (frames.log_density[0].exp() * cell).sum((1, 2))
    assert (mass - 1).abs().max() < 2e-3


def test_windows_hold_what_is_believed_however_wrong():
    frames = posterior_frames([Linear(0.1, at=0.8)], X, [0], window=None, points=16)
    codes = frames.samples[0, :, 0]
    low, high = frames.bounds[0, :, 0::2], frames.bounds[0, :, 1::2]
    assert ((low <= codes) & (codes <= high)).all()


def test_bad_input(vaes):
    with pytest.raises(ValueError, match="2 models and 3 steps; give one of each"):
        posterior_frames(vaes[:2], X, [0, 1, 2], points=8)
    with pytest.raises(ValueError, match="more models than the 2 steps"):
        posterior_frames(vaes, X, [0, 1], points=8)
    with pytest.raises(ValueError, match="0 models and 0 steps"):
        posterior_frames([], X, [])
    with pytest.raises(ValueError, match=r"window is \(4.0, -4.0\); expected \(low, high\)"):
        posterior_frames(vaes[:1], X, [0], window=(4.0, -4.0))
    with pytest.raises(ValueError, match="prior has 3 dimensions; a plane has two"):
        posterior_frames([VAE(latent_dim=3, image_shape=(1, 2, 2))], X, [0])
    with pytest.raises(ValueError, match="points is 0; expected at least 1"):
        posterior_frames(vaes[:1], X, [0], points=0)
    with pytest.raises(TypeError, match="no encode"):
        posterior_frames([nn.Linear(2, 2)], X, [0])
    with pytest.raises(ValueError, match="neither 0 nor 1"):
        posterior_frames(vaes[:1], 0.5 * X, [0])
