"""AAEs with a class in the code: who moves when, what is real, closed forms, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import tutor
from tutor.game import player_parameters
from tutor.models import ClusterHeadsAAE, ClusteringAAE, ConditionalAAE, SemiSupervisedAAE
from tutor.priors import Gaussian, SwissRoll

SHAPE = (1, 4, 4)
CLASSES = 3
LABELS = torch.tensor([0, 1, 2, 1, 0])
LABEL_GAME = ("label_discriminator", "style_discriminator")


def images(n: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


def semi_batch() -> tuple[torch.Tensor, ...]:
    return images(), images(5, seed=1), LABELS


def build(kind, **arguments):
    torch.manual_seed(0)
    count = "clusters" if kind is ClusteringAAE else "classes"
    return kind(2, image_shape=SHAPE, **{count: CLASSES}, **arguments)


EVERY = [
    (ClusteringAAE, images()),
    (SemiSupervisedAAE, semi_batch()),
    (ClusterHeadsAAE, semi_batch()),
    (ClusterHeadsAAE, images()),
    (ConditionalAAE, (images(), LABELS)),
]
IDS = ["clustering", "semi-supervised", "heads", "heads without labels", "conditional"]


def constant(values: list[float]) -> nn.Module:
    """A network that gives these numbers whatever it sees."""
    layer = nn.Linear(math.prod(SHAPE), len(values))
    nn.init.zeros_(layer.weight)
    layer.bias.data = torch.tensor(values)
    return nn.Sequential(nn.Flatten(), layer)


class Recorder(nn.Module):
    """A linear discriminator that keeps what it was shown."""

    def __init__(self, weight: list[float]) -> None:
        super().__init__()
        self.linear = nn.Linear(len(weight), 1, bias=False)
        self.linear.weight.data = torch.tensor([weight])
        self.seen: list[torch.Tensor] = []

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        self.seen.append(z.detach().clone())
        return self.linear(z)


def softplus(t: float) -> float:
    return math.log1p(math.exp(t))


# -- whose turn it is ----------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "batch"), EVERY, ids=IDS)
def test_the_phases_come_in_the_papers_order(kind, batch):
    regularisation = ["discriminator"] if kind is ConditionalAAE else list(LABEL_GAME)
    expected = ["autoencoder", *regularisation, "generator"]
    if isinstance(batch, tuple) and kind is not ConditionalAAE:
        expected.append("classifier")
    if kind is ClusterHeadsAAE:
        expected.append("heads")
    assert [turn.player for turn in build(kind).step(batch)] == expected


@pytest.mark.parametrize(("kind", "batch"), EVERY, ids=IDS)
def test_a_turn_moves_its_player_and_nobody_else(kind, batch):
    """Every weight of the player moves in its turn, and all others keep theirs bit for bit."""
    model = build(kind)
    if kind is ClusterHeadsAAE:  # heads far apart would have nothing to do
        nn.init.normal_(model.heads.weight, std=0.1)
    owned = player_parameters(model)
    optimizers = {name: torch.optim.SGD(own, lr=1.0) for name, own in owned.items()}
    for turn in model.step(batch):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        gradients = torch.autograd.grad(turn.loss, owned[turn.player], allow_unused=True)
        for parameter, gradient in zip(owned[turn.player], gradients, strict=True):
            parameter.grad = gradient
        optimizers[turn.player].step()
        mine = {id(p) for p in owned[turn.player]}
        moved = set()
        for name, p in model.named_parameters():
            p.grad = None
            if not torch.equal(p, before[name]):
                assert id(p) in mine, f"{name} moved in the turn of {turn.player}"
                moved.add(id(p))
        assert moved, f"nothing of {turn.player} moved"


@pytest.mark.parametrize(("kind", "batch"), EVERY, ids=IDS)
def test_no_loss_of_a_discriminator_reaches_the_encoder(kind, batch):
    """Not only is the step not taken: the graph itself does not lead there."""
    model = build(kind)
    for turn in model.step(batch):
        gradients = torch.autograd.grad(
            turn.loss, list(model.encoder.parameters()), allow_unused=True, retain_graph=True
        )
        reached = any(g is not None for g in gradients)
        assert reached == ("discriminator" not in turn.player and turn.player != "heads")


def test_the_classifier_moves_the_logits_and_not_the_style():
    model = build(SemiSupervisedAAE)
    *_, turn = model.step(semi_batch())
    last = model.encoder[-1]
    (slope,) = torch.autograd.grad(turn.loss, [last.bias])
    assert (slope[:CLASSES] != 0).all()
    assert (slope[CLASSES:] == 0).all()


# -- what is real and what is fake ---------------------------------------------------------


def test_real_is_the_prior_and_fake_is_the_code():
    """Both discriminators are shown draws of their prior, then codes, then codes again."""
    logits, style = [0.0, math.log(2), math.log(5)], [7.0, -3.0]
    judges = Recorder([1.0, 0.0, 0.0]), Recorder([1.0, 0.0])
    model = build(
        ClusteringAAE,
        encoder=constant(logits + style),
        label_discriminator=judges[0],
        style_discriminator=judges[1],
        gradient_penalty=0.0,
    )
    turns = {turn.player: turn for turn in model.step(images(400))}
    real_y, fake_y, again_y = judges[0].seen
    real_z, fake_z, again_z = judges[1].seen
    # one-hot rows, each class about a third of 400: sd of a count is sqrt(400 * 2 / 9) = 9.4
    assert torch.equal(real_y.sort(1).values, torch.tensor([[0.0, 0.0, 1.0]]).expand(400, 3))
    assert (real_y.sum(0) - 400 / 3).abs().max() < 5 * 9.5
    for fake in (fake_y, again_y):
        assert fake.allclose(torch.tensor([[1 / 8, 2 / 8, 5 / 8]]).expand(400, 3))
    # a standard normal: mean within 5 sd of 1 / sqrt(400), and no image in it
    assert real_z.mean(0).abs().max() < 5 / 20
    assert real_z.std(0).allclose(torch.ones(2), atol=5 / math.sqrt(800))
    for fake in (fake_z, again_z):
        assert torch.equal(fake, torch.tensor([style]).expand(400, 2))
    # the recorded guesses carry the names of what was shown
    assert turns["label_discriminator"].terms["fake"].item() == pytest.approx(
        torch.sigmoid(torch.tensor(1 / 8)).item()
    )
    assert turns["style_discriminator"].terms["fake"].item() == pytest.approx(
        torch.sigmoid(torch.tensor(7.0)).item()
    )


def test_another_prior_of_the_style_is_used():
    judge = Recorder([1.0, 0.0])
    model = build(ClusteringAAE, prior=SwissRoll(), style_discriminator=judge, gradient_penalty=0.0)
    for _ in model.step(images(200)):
        pass
    assert SwissRoll().log_prob(judge.seen[0]).isfinite().all()
    assert judge.seen[0].norm(dim=1).max() > 2  # far from what N(0, I) or a new encoder gives


# -- closed forms --------------------------------------------------------------------------


def test_losses_of_the_label_game_in_closed_form():
    """Discriminators y -> a y_0 and z -> b z_0, one code (1/8, 2/8, 5/8) and (7, -3)."""
    a, b, penalty = 1.5, -0.4, 0.3
    judges = Recorder([a, 0.0, 0.0]), Recorder([b, 0.0])
    model = build(
        ClusteringAAE,
        encoder=constant([0.0, math.log(2), math.log(5), 7.0, -3.0]),
        label_discriminator=judges[0],
        style_discriminator=judges[1],
        gradient_penalty=penalty,
        label_weight=3.0,
    )
    turns = {turn.player: turn for turn in model.step(images(50))}
    first = judges[0].seen[0][:, 0].mean().item()  # share of real rows of class 0
    real_y = first * softplus(-a) + (1 - first) * softplus(0.0)
    # half the squared slope, at prior samples and at codes: it is the same everywhere
    want_y = real_y + softplus(a / 8) + penalty * a**2
    assert turns["label_discriminator"].loss.item() == pytest.approx(want_y, rel=1e-5)
    drawn = judges[1].seen[0][:, 0].double()
    real_z = torch.nn.functional.softplus(-b * drawn).mean().item()
    want_z = real_z + softplus(7 * b) + penalty * b**2
    assert turns["style_discriminator"].loss.item() == pytest.approx(want_z, rel=1e-5)
    generator = turns["generator"]
    assert generator.terms["label"].item() == pytest.approx(softplus(-a / 8), rel=1e-5)
    assert generator.terms["style"].item() == pytest.approx(softplus(-7 * b), rel=1e-5)
    want = 3 * softplus(-a / 8) + softplus(-7 * b)
    assert generator.loss.item() == pytest.approx(want, rel=1e-5)


def test_the_reconstruction_is_half_the_squared_error_and_a_constant():
    decoder = nn.Sequential(nn.Linear(CLASSES + 2, 16), nn.Unflatten(1, SHAPE))
    model, x = build(ClusteringAAE, decoder=decoder), images()
    turn = next(model.step(x))
    code = model.encode(x)
    out = decoder(torch.cat([code.logits.softmax(1), code.z], 1))
    squares = (x - out).square().sum((1, 2, 3)).mean().item()
    assert turn.loss.item() == pytest.approx(squares / 2 + 8 * math.log(2 * math.pi), rel=1e-5)


def test_the_classifiers_loss_is_the_cross_entropy():
    model = build(SemiSupervisedAAE, encoder=constant([0.0, math.log(2), math.log(5), 0.0, 0.0]))
    *_, turn = model.step(semi_batch())
    q = torch.tensor([1 / 8, 2 / 8, 5 / 8])[LABELS]
    assert turn.loss.item() == pytest.approx(-q.log().mean().item(), rel=1e-5)
    assert turn.terms["accuracy"].item() == pytest.approx(1 / 5)  # class 2 is right once


def test_heads_are_pushed_apart_linearly_and_then_left_alone():
    model = build(ClusterHeadsAAE, threshold=2.0)
    model.heads.weight.data = torch.tensor([[0.0, 1.0, 5.0], [0.0, 0.0, 0.0]])
    assert model.crowding().item() == pytest.approx(1.0)  # one pair, at distance 1
    (slope,) = torch.autograd.grad(model.crowding(), [model.heads.weight])
    assert slope.tolist() == [[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]]
    model.heads.weight.data *= 2
    assert model.crowding().item() == 0.0


def test_the_decoder_of_the_heads_sees_the_sum_alone():
    model = build(ClusterHeadsAAE)
    heads = torch.tensor([[0.0, 4.0, 8.0], [1.0, 1.0, 3.0]])
    model.heads.weight.data = heads
    z, y = torch.tensor([[0.5, -0.5]]), torch.tensor([[0.0, 0.25, 0.75]])
    assert torch.equal(model.representation(z, y), torch.tensor([[7.5, 2.0]]))
    moved = model.decode(z + heads[:, 1] - heads[:, 0], model.one_hot(torch.tensor([0]))).mean
    assert moved.allclose(model.decode(z, model.one_hot(torch.tensor([1]))).mean, atol=1e-6)
    x = images()
    code = model.encode(x)
    assert model.map(x).allclose(code.y @ heads.T + code.z)


def test_the_label_reaches_the_conditional_decoder():
    decoder = nn.Sequential(nn.Linear(CLASSES + 2, 16, bias=False), nn.Unflatten(1, SHAPE))
    model = build(ConditionalAAE, decoder=decoder)
    weight = decoder[0].weight
    out = model.decode(torch.tensor([[2.0, 0.0]]), torch.tensor([1])).mean.flatten()
    assert out.allclose(weight[:, 1] + 2 * weight[:, CLASSES])


@pytest.mark.parametrize("by_class", [False, True])
def test_the_label_reaches_the_discriminator_only_by_class(by_class):
    """With a discriminator that is the sum of all it sees, the label adds exactly one."""
    seen = 2 + CLASSES * by_class
    judge = Recorder([1.0] * seen)
    encoder = constant([7.0, -3.0])
    model = build(ConditionalAAE, by_class=by_class, encoder=encoder, discriminator=judge)
    *_, generator = model.step((images(), LABELS))
    want = softplus(-(7.0 - 3.0 + by_class))
    assert generator.loss.item() == pytest.approx(want, rel=1e-5)
    shown = judge.seen[-1]
    assert shown.shape == (5, seen)
    assert torch.equal(shown[:, -2:], torch.tensor([[7.0, -3.0]]).expand(5, 2))
    if by_class:
        assert torch.equal(shown[:, :CLASSES], torch.eye(3)[LABELS])


# -- what one does with a trained model ----------------------------------------------------


def test_predict_ignores_dropout_and_keeps_the_mode():
    encoder = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, CLASSES + 2))
    model, x = build(SemiSupervisedAAE, encoder=encoder), images(200)
    assert model.training
    first = model.predict(x)
    assert torch.equal(first, model.predict(x))
    assert model.training
    model.eval()
    assert torch.equal(first, model.encode(x).y.argmax(1))


@pytest.mark.parametrize("kind", [ClusteringAAE, SemiSupervisedAAE, ClusterHeadsAAE])
def test_a_sample_of_a_class_is_the_decoder_at_that_class(kind):
    model, labels = build(kind), torch.tensor([2, 0, 2])
    drawn = model.sample(3, labels=labels, generator=torch.Generator().manual_seed(4))
    z = Gaussian(2).sample((3,), generator=torch.Generator().manual_seed(4))
    want = model.decode(z, torch.eye(3)[labels]).mean
    assert torch.equal(drawn, want)
    assert not drawn.requires_grad
    assert model.sample(7).shape == (7, *SHAPE)
    assert model.reconstruct(images()).shape == (5, *SHAPE)


def test_style_and_content_of_the_conditional_model():
    model, labels, x = build(ConditionalAAE), torch.tensor([2, 0, 2]), images(3)
    drawn = model.sample(3, labels=labels, generator=torch.Generator().manual_seed(4))
    z = Gaussian(2).sample((3,), generator=torch.Generator().manual_seed(4))
    assert torch.equal(drawn, model.decode(z, labels).mean)
    assert torch.equal(
        model.reconstruct(x, labels), model.decode(model.encode(x).mean, labels).mean
    )
    assert model.sample(4).shape == (4, *SHAPE)


def test_two_labels_a_class_are_learnt_while_both_games_stay_open():
    """On digits, 20 labels: far above chance on new images, and no discriminator has won."""
    digits = tutor.data.load("digits")
    rows = tutor.data.few_labels(digits, 20, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = SemiSupervisedAAE(5, gradient_penalty=1.0)
    history = tutor.fit(
        model,
        tutor.data.SemiSupervised(digits, rows, batch_size=20),
        steps=150,
        batch_size=100,
        device="cpu",
        progress=False,
    )
    test = tutor.data.load("digits", split="test")
    accuracy = (model.predict(test[:]) == test.labels).double().mean().item()
    assert accuracy > 0.5  # chance is 0.1; 0.59 to 0.75 over four seeds
    assert history["classifier/accuracy"].iloc[-1] == 1.0
    # a discriminator that had won would guess 0 for the codes
    assert history["style_discriminator/fake"].iloc[-1] > 0.2


# -- bad input -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [ClusteringAAE, SemiSupervisedAAE, ClusterHeadsAAE, ConditionalAAE]
)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prior": Gaussian(3)}, "the prior has dim=3, the codes have latent_dim=2"),
        ({"gradient_penalty": -0.1}, r"gradient_penalty is -0\.1; expected a weight of 0 or more"),
        ({"gradient_penalty": float("nan")}, "gradient_penalty is nan"),
        ({"likelihood": "poisson"}, "likelihood is 'poisson'; choose"),
        ({"likelihood": "bernoulli", "decoder_std": 1.0}, "no meaning for a Bernoulli"),
    ],
)
def test_bad_arguments(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(2, **arguments)


def test_bad_arguments_of_one_model():
    with pytest.raises(ValueError, match="asked for 1 classes; a choice needs at least two"):
        ClusteringAAE(clusters=1)
    with pytest.raises(ValueError, match="asked for 1 classes"):
        SemiSupervisedAAE(classes=1)
    with pytest.raises(ValueError, match="asked for 0 classes"):
        ConditionalAAE(classes=0)
    with pytest.raises(ValueError, match=r"label_weight is -1\.0"):
        ClusteringAAE(label_weight=-1.0)
    with pytest.raises(ValueError, match=r"threshold is 0\.0; a distance between heads"):
        ClusterHeadsAAE(threshold=0.0)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (torch.tensor([0, 1, 2, 3, 0]), ValueError, "labels hold 3; this model's classes are 0 to"),
        (torch.tensor([0, 1, -1, 0, 0]), ValueError, "labels hold -1"),
        (torch.tensor([0, 1]), ValueError, "5 (labelled )?images have 2 labels"),
        (torch.zeros(5), TypeError, r"labels are torch\.float32"),
        (torch.zeros(5, 1).long(), ValueError, r"labels have shape \(5, 1\)"),
    ],
)
def test_bad_labels(labels, error, message):
    with pytest.raises(error, match=message):
        next(build(SemiSupervisedAAE).step((images(), images(), labels)))
    with pytest.raises(error, match=message):
        next(build(ConditionalAAE).step((images(), labels)))


def test_a_batch_without_labels():
    with pytest.raises(TypeError, match=r"the batch has images alone.*use ClusteringAAE"):
        next(build(SemiSupervisedAAE).step(images()))
    with pytest.raises(TypeError, match=r"the batch has images alone.*dataset\.labelled\(\)"):
        next(build(ConditionalAAE).step(images()))
    with pytest.raises(TypeError, match="the batch has 2 parts"):
        next(build(SemiSupervisedAAE).step((images(), LABELS)))


@pytest.mark.parametrize("kind", [ClusteringAAE, ConditionalAAE])
def test_an_encoder_of_another_size(kind):
    model = build(kind, encoder=constant([0.0] * 9))
    with pytest.raises(ValueError, match=r"the encoder returned shape \(5, 9\)"):
        model.encode(images())


def test_bad_codes():
    model = build(ClusteringAAE)
    with pytest.raises(ValueError, match=r"z has shape \(3, 5\); expected \(3, 2\)"):
        model.decode(torch.zeros(3, 5), torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"y has shape \(3,\); expected \(3, 3\).*one_hot\(labels"):
        model.decode(torch.zeros(3, 2), torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match=r"y has shape \(2, 3\); expected \(3, 3\)"):
        model.decode(torch.zeros(3, 2), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"z has shape \(3, 4\); expected \(n, 2\)"):
        build(ConditionalAAE).decode(torch.zeros(3, 4), torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="3 codes have 1 labels"):
        build(ConditionalAAE).decode(torch.zeros(3, 2), torch.tensor([0]))


def test_bad_images():
    with pytest.raises(TypeError, match=r"torch\.uint8.*x\.float\(\) / 255"):
        build(ClusteringAAE).encode(images().to(torch.uint8))
    with pytest.raises(ValueError, match=r"images have shape \(5, 1, 8, 8\)"):
        build(ConditionalAAE).encode(torch.zeros(5, 1, 8, 8))
