"""The Wasserstein autoencoder: both algorithm boxes, who moves, and the AAE in it."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch
from torch import nn

import tutor
from tutor.data import four_points
from tutor.game import Turn
from tutor.kernels import imq, mmd, prior_scales, rbf
from tutor.metrics import energy_distance, quadrature
from tutor.models import AAE, WAE
from tutor.models.wae import l1_cost, squared_cost
from tutor.priors import Gaussian, UniformBox
from tutor.training import decay_after

SHAPE = (1, 2, 2)


def small(**options) -> WAE:
    torch.manual_seed(0)
    return WAE(2, image_shape=SHAPE, **options)


def turns(model, batch, seed: int = 3) -> dict[str, Turn]:
    """The turns of one round, by player, with that seed's prior samples; nobody moves."""
    torch.manual_seed(seed)
    return {turn.player: turn for turn in model.step(batch)}


def drawn(model: WAE, n: int, seed: int = 3) -> torch.Tensor:
    """The prior samples of that round."""
    torch.manual_seed(seed)
    return model.prior.sample((n,))


def gradients(loss: torch.Tensor, module: nn.Module) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, list(module.parameters()), retain_graph=True))


# -- costs ----------------------------------------------------------------------------------------


def test_costs_are_sums_over_pixels_one_number_an_image():
    x, y = torch.randn(2, 3, 2, 4, 5, generator=torch.Generator().manual_seed(0)).double()
    square, absolute = torch.zeros(2, 3).double()
    for i, c, h, w in itertools.product(range(3), range(2), range(4), range(5)):
        square[i] += (x[i, c, h, w] - y[i, c, h, w]) ** 2
        absolute[i] += abs(x[i, c, h, w] - y[i, c, h, w])
    # float64, 40 terms in another order
    assert torch.allclose(squared_cost(x, y), square, atol=1e-12)
    assert torch.allclose(l1_cost(x, y), absolute, atol=1e-12)


@pytest.mark.parametrize(("cost", "best"), [("squared", 0.25), ("l1", 0.0)])
def test_the_best_constant_image_is_the_mean_or_the_median(cost, best):
    """Pixels that are 1 in one image of four: a decoder that ignores its code shows which."""

    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.pixel = nn.Parameter(torch.tensor(0.6))

        def forward(self, z):
            return self.pixel.expand(len(z), *SHAPE)

    model = small(cost=cost, decoder=Constant(), penalty_weight=0.0)
    options = {"batch_size": 4, "device": "cpu", "progress": False}
    tutor.fit(
        model,
        four_points(),
        steps=200,
        optimizer=partial(torch.optim.Adam, lr=0.02),
        schedule=decay_after(0.3),
        **options,
    )
    # the rate falls to 0; at the median the gradient of l1 only changes sign
    assert model.decoder.pixel.item() == pytest.approx(best, abs=5e-3)


def test_any_function_is_a_cost():
    def worst_pixel(x, y):
        return (x - y).abs().flatten(1).amax(1)

    model, x = small(cost=worst_pixel), four_points()[:]
    want = (model.reconstruct(x) - x).abs().flatten(1).amax(1).mean()
    assert torch.allclose(turns(model, x)["autoencoder"].terms["cost"], want)
    assert "worst_pixel" in repr(model)  # and no address: a resumed run prints the same
    assert " at 0x" not in repr(model)


# -- the algorithm boxes --------------------------------------------------------------------------


def test_algorithm_2_written_out():
    """Sums over pairs, with C / (C + |z - z'|^2) at the authors' seven scales of C = 2 d."""
    model, x = small(penalty_weight=30.0), torch.rand(5, *SHAPE)
    with torch.no_grad():
        codes, z = model.encode(x).mean, drawn(model, 5)
        images = model.decode(codes).mean

    def k(a, b):
        square = (a - b).square().sum().item()
        scales = [s * 2 * 2 for s in (0.1, 0.2, 0.5, 1, 2, 5, 10)]
        return sum(c / (c + square) for c in scales)

    n = 5
    others = [(i, j) for i in range(n) for j in range(n) if i != j]
    within = sum(k(z[i], z[j]) + k(codes[i], codes[j]) for i, j in others) / (n * (n - 1))
    between = 2 * sum(k(z[i], codes[j]) for i in range(n) for j in range(n)) / n**2
    cost = (x - images).square().sum().item() / n
    (turn,) = turns(model, x).values()
    # float32: seven kernels near 1, times 30
    assert turn.terms["penalty"].item() == pytest.approx(within - between, abs=1e-5)
    assert turn.terms["cost"].item() == pytest.approx(cost, rel=1e-5)
    assert turn.loss.item() == pytest.approx(cost + 30 * (within - between), abs=1e-4)


def test_algorithm_1_written_out():
    model, x = small(penalty="gan", penalty_weight=7.0), torch.rand(5, *SHAPE)
    with torch.no_grad():
        codes, z = model.encode(x).mean, drawn(model, 5)
        d_real, d_fake = model.discriminator(z).sigmoid(), model.discriminator(codes).sigmoid()
        images = model.decode(codes).mean
    played = turns(model, x)
    assert list(played) == ["discriminator", "autoencoder"]
    ascends = 7 / 5 * (d_real.log().sum() + (1 - d_fake).log().sum())
    assert torch.allclose(played["discriminator"].loss, -ascends, rtol=1e-5)
    descends = ((x - images).square().sum() - 7 * d_fake.log().sum()) / 5
    assert torch.allclose(played["autoencoder"].loss, descends, rtol=1e-5)
    assert torch.allclose(played["discriminator"].terms["real"], d_real.mean())
    assert torch.allclose(played["discriminator"].terms["fake"], d_fake.mean())


def test_the_autoencoder_meets_the_discriminator_after_its_move():
    model, x = small(penalty="gan"), torch.rand(4, *SHAPE)
    torch.manual_seed(3)
    playing = model.step(x)
    next(playing)
    with torch.no_grad():
        for p in model.discriminator.parameters():
            p.zero_()  # it no longer tells anything from anything
    turn = next(playing)
    assert turn.terms["penalty"].item() == pytest.approx(math.log(2), abs=1e-6)


def test_the_penalty_is_0_on_average_where_codes_are_prior_samples():
    """Unbiased, so about half of the estimates are negative, which is no mistake."""
    model = WAE(
        2,
        image_shape=(1, 1, 2),
        encoder=nn.Sequential(nn.Flatten(), nn.Linear(2, 2)),
        decoder=nn.Sequential(nn.Linear(2, 2), nn.Unflatten(1, (1, 1, 2))),
    )
    with torch.no_grad():
        model.encoder[1].weight.copy_(torch.eye(2))
        model.encoder[1].bias.zero_()
    torch.manual_seed(0)
    with torch.no_grad():
        values = torch.stack(
            [next(model.step(torch.randn(50, 1, 1, 2))).terms["penalty"] for _ in range(400)]
        )
    assert abs(values.mean()) < 4 * values.std() / 20  # four standard errors
    assert 0.3 < (values < 0).double().mean() < 0.8


# -- who moves ------------------------------------------------------------------------------------


def test_the_players():
    model = small(penalty="gan")
    assert model.players["autoencoder"] == [model.encoder, model.decoder]
    assert model.players["discriminator"] == [model.discriminator]
    assert list(small().players) == ["autoencoder"]
    assert not hasattr(small(), "discriminator")


@pytest.mark.parametrize("posterior", ["deterministic", "gaussian"])
@pytest.mark.parametrize("penalty", ["mmd", "gan"])
def test_each_loss_depends_on_what_it_should(penalty, posterior):
    model = small(penalty=penalty, posterior=posterior)
    parts = {"encoder": model.encoder, "decoder": model.decoder}
    if penalty == "gan":
        parts["D"] = model.discriminator
    for player, turn in turns(model, torch.rand(6, *SHAPE)).items():
        depends = {
            part: any(
                g is not None
                for g in torch.autograd.grad(
                    turn.loss, list(module.parameters()), allow_unused=True, retain_graph=True
                )
            )
            for part, module in parts.items()
        }
        if player == "discriminator":  # its loss must not reach the encoder
            assert depends == {"encoder": False, "decoder": False, "D": True}
        else:
            assert all(depends.values())


def test_the_autoencoder_s_turn_leaves_the_discriminator_alone():
    model = small(penalty="gan")

    class OnlyAutoencoder(type(model)):
        def step(self, x):
            yield [*super().step(x)][-1]

    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.__class__ = OnlyAutoencoder
    tutor.fit(model, four_points(), steps=1, batch_size=4, device="cpu", progress=False)
    moved = {
        k.split(".")[0] for k, v in model.state_dict().items() if not torch.equal(v, before[k])
    }
    assert moved == {"encoder", "decoder"}


def test_the_penalty_moves_the_encoder_and_not_the_decoder():
    model, x = small(penalty_weight=5.0), torch.rand(6, *SHAPE)
    (turn,) = turns(model, x).values()
    cost = model.reconstruction_cost(x, model.encode(x).mean).mean()
    for with_penalty, alone in zip(
        gradients(turn.loss, model.decoder), gradients(cost, model.decoder), strict=True
    ):
        assert torch.allclose(with_penalty, alone, atol=1e-7)
    penalty = mmd(model.encode(x).mean, drawn(model, 6))
    whole, c, p = (gradients(loss, model.encoder) for loss in (turn.loss, cost, penalty))
    for a, b, d in zip(whole, c, p, strict=True):
        assert torch.allclose(a, b + 5 * d, atol=1e-5)  # float32 sums


# -- WAE-GAN with squared cost is AAE -------------------------------------------------------------


@pytest.mark.parametrize("std", [1.0, 0.5])
def test_wae_gan_with_squared_cost_is_an_adversarial_autoencoder(std):
    """Same weights, same prior samples; AAE's terms come out times the factor 2 std^2.

    AAE's reconstruction is a Gaussian negative log-likelihood, |x - G|^2 / (2 std^2) and a
    constant; it counts as much as the generator's -log D.  So c = |x - G|^2 with lambda = 2 std^2
    is 2 std^2 times AAE's two losses.  What differs is that WAE takes both in one turn.
    """
    factor = 2 * std**2
    aae = AAE(2, image_shape=SHAPE, decoder_std=std, gradient_penalty=0.0)
    parts = {"encoder": aae.encoder, "decoder": aae.decoder, "discriminator": aae.discriminator}
    wae = small(penalty="gan", penalty_weight=factor, **parts)
    x = torch.rand(6, *SHAPE)
    of_aae, of_wae = turns(aae, x), turns(wae, x)
    constant = 4 * (0.5 * math.log(2 * math.pi) + math.log(std))  # of the density, 4 pixels
    both = of_aae["autoencoder"].loss - constant + of_aae["generator"].loss
    assert torch.allclose(of_wae["autoencoder"].loss, factor * both, rtol=1e-5)
    for player in ("discriminator",):
        assert torch.allclose(of_wae[player].loss, factor * of_aae[player].loss, rtol=1e-5)
    # And so are the gradients: the encoder's is the sum over AAE's two turns.
    one, two = of_aae["autoencoder"].loss, of_aae["generator"].loss
    for a, b, c in zip(
        gradients(of_wae["autoencoder"].loss, wae.encoder),
        gradients(one, wae.encoder),
        gradients(two, wae.encoder),
        strict=True,
    ):
        assert torch.allclose(a, factor * (b + c), atol=1e-6)
    for a, b in zip(
        gradients(of_wae["autoencoder"].loss, wae.decoder), gradients(one, wae.decoder), strict=True
    ):
        assert torch.allclose(a, factor * b, atol=1e-6)


# -- kernels, posteriors, decoder -----------------------------------------------------------------


def test_kernels_by_name_are_scaled_by_the_prior():
    assert small().kernel == imq(prior_scales(2))
    assert small(prior_std=3.0).kernel == imq(prior_scales(2, 3.0))
    assert small(kernel="rbf").kernel == rbf(4.0)  # C = 2 d
    own = rbf([1.0, 2.0])
    assert small(kernel=own).kernel is own
    x = torch.rand(6, *SHAPE)
    model = small(kernel=own)
    want = mmd(model.encode(x).mean, drawn(model, 6), kernel=own)
    assert torch.allclose(turns(model, x)["autoencoder"].terms["penalty"], want)
    assert "rbf" in repr(model)


def test_the_posteriors():
    x = four_points()[:]
    fixed = small().encode(x)
    assert torch.equal(fixed.rsample(), fixed.rsample())
    spread = small(posterior="gaussian").encode(x)
    assert spread.mean.shape == spread.stddev.shape == (4, 2)
    assert spread.log_prob(spread.mean).shape == (4,)


def test_a_gaussian_posterior_is_punished_for_its_mixture_not_for_each_image():
    """Codes drawn from q(z|x) go into the penalty; no term asks a single q(z|x) to be the prior."""
    model, x = small(posterior="gaussian"), torch.rand(6, *SHAPE)
    torch.manual_seed(3)
    z, q = model.prior.sample((6,)), model.encode(x)
    codes = q.rsample()
    want = mmd(codes, z)
    turn = turns(model, x)["autoencoder"]
    assert torch.allclose(turn.terms["penalty"], want)
    assert torch.allclose(turn.loss, turn.terms["cost"] + 200 * want, rtol=1e-5)


def test_the_decoder_is_a_function_without_density():
    model, x = small(), four_points()[:]
    z = torch.randn(3, 2)
    assert torch.equal(model.decode(z).mean, model.decoder(z))
    with pytest.raises(TypeError, match="a point mass without a density"):
        model.decode(z).log_prob(x[:3])
    with pytest.raises(TypeError, match="a point mass without a density"):
        quadrature(model, x)
    assert model.sample(5).shape == (5, *SHAPE)


# -- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("posterior", ["deterministic", "gaussian"])
@pytest.mark.parametrize("penalty", ["mmd", "gan"])
def test_codes_travel_to_the_prior_and_still_say_which_image(penalty, posterior):
    """A flat square as images of shape (1, 1, 2): codes start far off and end near N(0, I)."""
    x = 4 * torch.rand(4_000, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    outputs = 4 if posterior == "gaussian" else 2
    parts = {
        "encoder": nn.Sequential(nn.Flatten(), nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, outputs)),
        "decoder": nn.Sequential(
            nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 2), nn.Unflatten(1, (1, 1, 2))
        ),
    }
    if penalty == "gan":
        parts["discriminator"] = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 1))
    options = {"penalty": penalty, "penalty_weight": 1.0, "posterior": posterior}
    model = WAE(2, image_shape=(1, 1, 2), **options, **parts)
    with torch.no_grad():
        model.encoder[-1].bias[:2] += 5
        model.encoder[-1].bias[2:] -= 4  # of the Gaussian: narrow posteriors to begin with

    def distance():
        g = torch.Generator().manual_seed(1)
        z = model.encode(x[:1_000]).sample(generator=g)
        return energy_distance(z, Gaussian(2).sample((1_000,), generator=g))

    before = distance()
    tutor.fit(model, x, steps=600, device="cpu", schedule=decay_after(0.5), progress=False)
    assert distance() < before / 50
    error = (model.reconstruct(x[:1_000]) - x[:1_000]).square().flatten(1).sum(1).mean()
    assert error < 0.3  # the best constant image has 16 * 2 / 12 = 2.7


# -- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"penalty": "kl"}, ValueError, "penalty is 'kl'; choose one of mmd, gan"),
        ({"posterior": "normal"}, ValueError, "choose one of deterministic, gaussian"),
        ({"cost": "l2"}, ValueError, "cost is 'l2'; choose one of squared, l1"),
        ({"cost": 2}, TypeError, "cost is a int"),
        ({"kernel": "linear"}, ValueError, "kernel is 'linear'; choose one of imq, rbf"),
        ({"kernel": 1.0}, TypeError, "kernel is a float"),
        ({"penalty_weight": -1.0}, ValueError, r"penalty_weight is -1\.0"),
        ({"penalty_weight": math.nan}, ValueError, "penalty_weight is nan"),
        ({"prior_std": 0.0}, ValueError, r"prior_std is 0\.0"),
        ({"prior": Gaussian(3)}, ValueError, "dim=3"),
        ({"prior": nn.Identity()}, ValueError, "dim=None"),
        ({"discriminator": nn.Linear(2, 1)}, ValueError, 'choose penalty="gan"'),
    ],
)
def test_bad_settings_are_refused(options, error, says):
    with pytest.raises(error, match=says):
        small(**options)


def test_a_batch_of_one_has_no_discrepancy():
    with pytest.raises(ValueError, match=r"the batch has 1 image; .* needs at least 2"):
        next(small().step(torch.rand(1, *SHAPE)))
    assert len(turns(small(penalty="gan"), torch.rand(1, *SHAPE))) == 2  # a discriminator manages


def test_networks_of_the_wrong_shape_are_refused():
    x = torch.rand(4, *SHAPE)
    with pytest.raises(ValueError, match=r"decoder made images of shape \(4, 4\)"):
        next(small(decoder=nn.Linear(2, 4)).step(x))
    with pytest.raises(ValueError, match=r"shape \(\) for 4 images; expected \(4,\): sum over"):
        next(small(cost=lambda x, y: (x - y).square().mean()).step(x))
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"needs \(n, 4\)"):
        next(small(posterior="gaussian", encoder=encoder).step(x))
    with pytest.raises(ValueError, match=r"returned shape \(4, 3\) for 4 codes"):
        next(small(penalty="gan", discriminator=nn.Linear(2, 3)).step(x))
    with pytest.raises(ValueError, match="has no discriminator"):
        small().discriminate(torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"z has shape \(4, 3\); expected \(n, 2\)"):
        small().decode(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="images have shape"):
        next(small().step(torch.rand(4, 1, 3, 3)))


def test_another_prior_will_do():
    model = small(prior=UniformBox(2), prior_std=3**-0.5)
    assert model.kernel == imq(prior_scales(2, 3**-0.5))
    z = drawn(model, 100)
    assert z.abs().max() <= 1
    model.encoder = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    want = mmd(model.encode(torch.ones(100, *SHAPE)).mean, z, kernel=model.kernel)
    got = turns(model, torch.ones(100, *SHAPE))["autoencoder"].terms["penalty"]
    assert torch.allclose(got, want)
