"""The adversarial autoencoder: who moves, on which samples, and what its losses are."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import tutor
from tutor.data import four_points
from tutor.game import Turn
from tutor.metrics import energy_distance, noise_floor
from tutor.models import AAE
from tutor.models.adversarial import discriminator_loss, generator_loss, r1_penalty
from tutor.noise_encoders import NoiseEncoder
from tutor.priors import Gaussian, GaussianMixture, SwissRoll, UniformBox
from tutor.training import decay_after

SHAPE = (1, 2, 2)


def small(**options) -> AAE:
    torch.manual_seed(0)
    return AAE(2, image_shape=SHAPE, **options)


def turns(model: AAE, batch) -> dict[str, Turn]:
    return {turn.player: turn for turn in model.step(batch)}


# -- losses ---------------------------------------------------------------------------------------


def test_the_losses_are_the_cross_entropies_of_their_labels():
    logits = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bce = nn.functional.binary_cross_entropy
    d = logits.sigmoid()
    both = bce(d, torch.ones(50).double(), reduction="none") + bce(
        d.flip(0), torch.zeros(50).double(), reduction="none"
    )
    # Float64; the direct formula loses a few digits where D is near 0 or 1.
    assert torch.allclose(discriminator_loss(logits, logits.flip(0)), both, atol=1e-12)
    assert torch.allclose(generator_loss(logits), -d.log(), atol=1e-12)


def test_the_losses_stay_finite_where_the_probabilities_round_to_0_or_1():
    far = torch.tensor([-1000.0, 1000.0])
    assert torch.equal(generator_loss(far), torch.tensor([1000.0, 0.0]))
    assert torch.equal(discriminator_loss(far, far), torch.tensor([1000.0, 1000.0]))


def test_the_penalty_is_half_the_squared_slope():
    weight = torch.tensor([3.0, 4.0])
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(r1_penalty(lambda z: z @ weight, z), torch.full((5,), 12.5))
    quadratic = r1_penalty(lambda z: 0.5 * z.square().sum(-1), z)  # slope z
    assert torch.allclose(quadratic, 0.5 * z.square().sum(-1))


def test_the_penalty_s_gradient_reaches_the_discriminator_and_not_the_codes():
    net = nn.Linear(2, 1)
    z = torch.ones(3, 2, requires_grad=True)
    r1_penalty(lambda z: net(z).squeeze(-1), z).sum().backward()
    assert z.grad is None
    # d/dw of 3 * 1/2 |w|^2
    assert torch.allclose(net.weight.grad, 3 * net.weight.detach())


# -- the game -------------------------------------------------------------------------------------


def test_three_players_of_whom_two_share_the_encoder():
    model = small()
    assert model.players["autoencoder"][0] is model.encoder
    assert model.players["generator"] == [model.encoder]
    assert model.players["discriminator"] == [model.discriminator]


def test_each_loss_depends_on_what_it_should():
    model, x = small(), four_points()[:]
    parts = {"encoder": model.encoder, "decoder": model.decoder, "D": model.discriminator}
    depends = {
        name: {
            part: any(
                g is not None
                for g in torch.autograd.grad(
                    turn.loss, list(module.parameters()), allow_unused=True, retain_graph=True
                )
            )
            for part, module in parts.items()
        }
        for name, turn in turns(model, x).items()
    }
    assert depends["autoencoder"] == {"encoder": True, "decoder": True, "D": False}
    # The commonest bug in public code: the discriminator's loss reaches the encoder.
    assert depends["discriminator"] == {"encoder": False, "decoder": False, "D": True}
    assert depends["generator"] == {"encoder": True, "decoder": False, "D": True}


def test_the_generator_s_turn_moves_the_encoder_alone():
    model = small()
    before = {k: v.clone() for k, v in model.state_dict().items()}

    class OnlyGenerator(type(model)):
        def step(self, x):
            yield [*super().step(x)][-1]

    model.__class__ = OnlyGenerator
    tutor.fit(model, four_points(), steps=1, batch_size=4, device="cpu", progress=False)
    moved = {
        k.split(".")[0] for k, v in model.state_dict().items() if not torch.equal(v, before[k])
    }
    assert moved == {"encoder"}


def test_prior_samples_are_real_and_codes_are_fake():
    """A discriminator that knows: its logit is high right of 50, where only the prior lives."""

    class Knows(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.0))

        def forward(self, z):
            return self.scale * (z[:, :1] - 50)

    class Far(Gaussian):
        def sample(self, shape, *, generator=None):
            return super().sample(shape, generator=generator) + 100

    model = small(prior=Far(2), discriminator=Knows(), gradient_penalty=0)
    played = turns(model, four_points()[:])
    assert played["discriminator"].terms["real"] > 0.99
    assert played["discriminator"].terms["fake"] < 0.01
    assert played["discriminator"].loss < 1e-6  # it is right about both
    assert played["generator"].loss > 20  # and the encoder fools nobody


def test_the_reconstruction_is_half_the_squared_error_and_a_constant():
    model, x = small(), four_points()[:]
    error = (model.reconstruct(x) - x).square().flatten(1).sum(1).mean()
    wanted = 0.5 * error + 4 * 0.5 * math.log(2 * math.pi)
    assert torch.allclose(turns(model, x)["autoencoder"].loss, wanted, atol=1e-5)


@pytest.mark.parametrize("turns_a_round", [1, 3])
def test_the_discriminator_moves_as_often_as_asked(turns_a_round):
    model = small(discriminator_turns=turns_a_round)
    players = [turn.player for turn in model.step(four_points()[:])]
    assert players == ["autoencoder", *["discriminator"] * turns_a_round, "generator"]


# -- posteriors -----------------------------------------------------------------------------------


def test_the_three_posteriors():
    x = four_points()[:]
    fixed = small().encode(x)
    assert torch.equal(fixed.rsample(), fixed.rsample())
    spread = small(posterior="gaussian").encode(x)
    assert spread.log_prob(spread.mean).shape == (4,)
    free = small(posterior="universal", noise_dim=3).encode(x)
    assert free.rsample((7,)).shape == (7, 4, 2)
    assert not torch.equal(free.rsample(), free.rsample())


@pytest.mark.parametrize("posterior", ["deterministic", "gaussian", "universal"])
def test_every_posterior_trains_and_reconstructs(posterior):
    model = small(posterior=posterior)
    history = tutor.fit(model, four_points(), steps=300, batch_size=4, device="cpu", progress=False)
    constant = 4 * 0.5 * math.log(2 * math.pi)
    error = 2 * (history["autoencoder/loss"] - constant)
    # The best constant image has an error of 3/4; a code that tells the points apart is far below.
    assert error.iloc[-1] < 0.25


# -- labels ---------------------------------------------------------------------------------------


def test_the_discriminator_sees_the_label_in_a_slot_of_its_own():
    seen = []

    class Spy(nn.Linear):
        def forward(self, z):
            seen.append(z.detach())
            return super().forward(z)

    model = small(prior=GaussianMixture(4), supervised=True, discriminator=Spy(7, 1))
    model.discriminate(torch.zeros(3, 2), torch.tensor([0, 3, -1]))
    assert seen[0][:, 2:].tolist() == [[1, 0, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]


def test_labelled_prior_samples_come_from_the_label_s_component():
    prior = GaussianMixture(10)
    model = small(prior=prior, supervised=True)
    torch.manual_seed(0)
    labels = torch.arange(10).repeat(200)
    z = model.draw_prior(2000, labels)
    each = torch.stack([prior.log_prob_class(z, torch.full_like(labels, k)) for k in range(10)], 1)
    # Components overlap a little near the centre: the exact agreement of draws is above 0.99.
    assert (each.argmax(1) == labels).float().mean() > 0.98


def test_unlabelled_prior_samples_come_from_the_whole_prior():
    model = small(prior=GaussianMixture(10), supervised=True)
    torch.manual_seed(0)
    z = model.draw_prior(1000, torch.full((1000,), -1))
    other = model.prior.sample((1000,))
    floor = noise_floor(
        energy_distance, lambda n, g: model.prior.sample((n,), generator=g), 1000, repeats=20
    )
    assert energy_distance(z, other) < 5 * floor.std  # five deviations of the null distribution


# -- training -------------------------------------------------------------------------------------


def test_codes_travel_to_the_prior_and_stay():
    """A flat square as images of shape (1, 1, 2): codes start far off and end near N(0, I)."""
    x = torch.rand(4000, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = AAE(
        2,
        image_shape=(1, 1, 2),
        encoder=nn.Sequential(nn.Flatten(), nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 2)),
        decoder=nn.Sequential(
            nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 2), nn.Unflatten(1, (1, 1, 2))
        ),
        discriminator=nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 1)),
    )

    with torch.no_grad():
        model.encoder[-1].bias += 5

    def distance():
        z = model.encode(x[:1000]).mean.detach()
        return energy_distance(z, Gaussian(2).sample((1000,), generator=torch.Generator()))

    before = distance()
    tutor.fit(model, x, steps=600, device="cpu", schedule=decay_after(0.5), progress=False)
    # Fiftyfold, where this run gains some 150: a game that runs away gains nothing.
    assert distance() < before / 50


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: AAE(2, prior=Gaussian(3)), "dim=3"),
        (lambda: AAE(2, posterior="normal"), "deterministic, gaussian, universal"),
        (lambda: AAE(2, posterior="universal", noise_dim=0), "noise"),
        (lambda: AAE(2, gradient_penalty=-1), "gradient_penalty"),
        (lambda: AAE(2, discriminator_turns=0), "discriminator_turns"),
        (lambda: AAE(2, prior=nn.Identity()), "dim"),
        (lambda: AAE(2, noise_dim=8), "a deterministic encoder takes no noise"),
        (
            lambda: AAE(
                2, posterior="universal", noise_dim=8, encoder=NoiseEncoder(SHAPE, 2, noise_dim=3)
            ),
            "noise_dim is 8, the encoder takes 3",
        ),
        (
            lambda: AAE(2, posterior="universal", encoder=NoiseEncoder(SHAPE, 3, noise_dim=3)),
            "codes of 3 dimensions, the prior has 2",
        ),
    ],
)
def test_bad_settings_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_a_prior_without_classes_is_refused_where_labels_are_used():
    class Plain(nn.Module):
        dim = 2

    with pytest.raises(ValueError, match="sample_class"):
        AAE(2, prior=Plain(), supervised=True)
    model = AAE(3, prior=UniformBox(3), supervised=True, image_shape=SHAPE)
    with pytest.raises(ValueError, match="plane"):
        list(model.step((four_points()[:], torch.arange(4))))


def test_wrong_labels_and_codes_are_refused():
    model = small(prior=SwissRoll(), supervised=True)
    with pytest.raises(ValueError, match="labels hold 10"):
        model.discriminate(torch.zeros(2, 2), torch.tensor([0, 10]))
    with pytest.raises(ValueError, match="labels hold -2"):
        model.discriminate(torch.zeros(2, 2), torch.tensor([0, -2]))
    with pytest.raises(ValueError, match="needs labels"):
        model.discriminate(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="supervised=True"):
        small().discriminate(torch.zeros(2, 2), torch.zeros(2).long())
    with pytest.raises(ValueError, match="needs \\(n, 2\\)"):
        small(encoder=nn.Sequential(nn.Flatten(), nn.Linear(4, 3))).encode(four_points()[:])


@pytest.mark.parametrize(
    ("batch", "error", "says"),
    [
        (four_points()[:], TypeError, "the batch has images alone; expected \\(images, labels"),
        ((four_points()[:], torch.zeros(4)), TypeError, "labels are torch.float32"),
        ((four_points()[:], torch.zeros(4).int()), TypeError, "labels are torch.int32"),
        ((four_points()[:], torch.tensor([1])), ValueError, "4 images have 1 labels"),
        ((four_points()[:], torch.tensor([0, 1, 2, 4])), ValueError, "labels hold 4"),
    ],
)
def test_a_batch_without_proper_labels_is_refused(batch, error, says):
    model = small(prior=GaussianMixture(4), supervised=True)
    with pytest.raises(error, match=says):
        next(model.step(batch))


def test_one_label_is_not_stretched_over_all_codes():
    model = small(prior=GaussianMixture(4), supervised=True)
    with pytest.raises(ValueError, match="4 codes have 1 labels"):
        model.discriminate(torch.zeros(4, 2), torch.tensor([1]))


def test_an_encoder_without_noise_makes_no_universal_posterior():
    with pytest.raises(TypeError, match="Sequential without noise_dim"):
        small(posterior="universal", encoder=nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))


def test_a_discriminator_says_one_number_a_code():
    model = small(discriminator=nn.Linear(2, 4))
    with pytest.raises(ValueError, match=r"returned shape \(4, 4\) for 4 codes; expected \(4, 1\)"):
        model.discriminate(torch.zeros(4, 2))
    flat = small(discriminator=nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)))
    assert flat.discriminate(torch.zeros(4, 2)).shape == (4,)


def test_prior_samples_follow_the_generator():
    model = small(prior=SwissRoll(), supervised=True)
    labels = torch.tensor([0, 3, -1])
    state = torch.get_rng_state()
    once, again = (
        model.draw_prior(3, labels, generator=torch.Generator().manual_seed(0)) for _ in range(2)
    )
    assert torch.equal(once, again)
    assert torch.equal(torch.get_rng_state(), state)
