"""`tutor.check`: right answers pass, every usual mistake is named, near misses fail."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tutor
from tutor.checking import Verdict, check
from tutor.checks import EXERCISES
from tutor.checks.grading import Formula
from tutor.checks.vae_sampling import EXPONENTIAL

FORMULAS = {name: e.grade for name, e in EXERCISES.items() if isinstance(e.grade, Formula)}
FORMULAS["vae.exponential"] = EXPONENTIAL
CHAPTER_1 = [name for name in EXERCISES if name.startswith("vae.")]  # others: own files
MISTAKES = [(name, i) for name, f in FORMULAS.items() for i in range(len(f.mistakes))]


# -- answers as a reader would write them, independent of the package ------------------------


def gaussian_kl(mean, log_var):
    q = torch.distributions.Normal(mean, torch.exp(log_var / 2))
    p = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    return torch.distributions.kl_divergence(q, p).sum(dim=1)


def bernoulli_log_likelihood(x, logits):
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(dim=(1, 2, 3))


def gaussian_log_likelihood(x, mean, std):
    return torch.distributions.Normal(mean, std).log_prob(x).sum(dim=(1, 2, 3))


def best_variance(x, mean):
    return F.mse_loss(x, mean)


def iwae(log_weights):
    return torch.logsumexp(log_weights, dim=0) - math.log(log_weights.shape[0])


def monte_carlo_kl(mean, log_var, noise):
    std = torch.exp(log_var / 2)
    z = mean + std * noise
    log_q = torch.distributions.Normal(mean, std).log_prob(z)
    log_p = torch.distributions.Normal(0.0, 1.0).log_prob(z)
    return (log_q - log_p).sum(dim=2).mean(dim=0)


def mutual_information(q, prior):
    terms = torch.special.xlogy(q, q) - torch.special.xlogy(q, q.mean(dim=0))
    return terms.sum(dim=1).mean()


def score_variance(mean, std):
    nodes = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    weights = torch.exp(-(nodes**2) / 2)
    z = mean + std * nodes
    g = z**2 * (z - mean) / std**2
    first, second = ((weights * g**k).sum() / weights.sum() for k in (1, 2))
    return second - first**2


def log_evidence(x, weights, mean, variance):
    covariance = weights @ weights.T + variance * torch.eye(len(mean), dtype=x.dtype)
    return torch.distributions.MultivariateNormal(mean, covariance).log_prob(x)


def collapsed(eigenvalues, variance, beta):
    return eigenvalues <= beta * variance


def sample_exponential(rate, uniform):
    return -torch.log(1 - uniform) / rate


def reparameterise(mean, log_var, generator=None):
    noise = torch.randn(mean.shape, generator=generator)
    return mean + torch.exp(log_var / 2) * noise


RIGHT = {
    "vae.gaussian-kl": gaussian_kl,
    "vae.bernoulli-log-likelihood": bernoulli_log_likelihood,
    "vae.gaussian-log-likelihood": gaussian_log_likelihood,
    "vae.best-variance": best_variance,
    "vae.mean-reduction-beta": 784,
    "vae.iwae": iwae,
    "vae.monte-carlo-kl": monte_carlo_kl,
    "vae.surgery": mutual_information,
    "vae.gradient-variance": score_variance,
    "vae.midpoint": 0.7071,
    "vae.ppca-evidence": log_evidence,
    "vae.collapse-threshold": collapsed,
    "vae.reparameterise": reparameterise,
    "vae.exponential": sample_exponential,
}


@pytest.mark.parametrize("name", [n for n in CHAPTER_1 if n != "vae.own-game"])
def test_a_right_answer_passes(name, capsys):
    verdict = check(name, RIGHT[name])
    assert verdict, verdict.message
    assert capsys.readouterr().out == f"✓ {name}: right.\n"


def xlogx(*shares):
    return sum(p * math.log(p) for p in shares)


NUMBERS = {
    # By hand, so that neither side is the package's: see the comments.
    "vae.mean-reduction-beta": 784,
    "vae.midpoint": math.sqrt(0.5),
    # mean 1, std 1/2: mean^4/std^2 = 4, 14 mean^2 = 14, 15 std^2 = 15/4
    "vae.gradient-variance": 4 + 14 + 3.75,
    # C = [[4.5, 2], [2, 1.5]], det 2.75, x = (3, 1): quadratic form (1.5*9 - 2*2*3 + 4.5)/2.75
    "vae.ppca-evidence": -0.5 * (6 / 2.75 + math.log(2.75) + 2 * math.log(2 * math.pi)),
    # H(q(z)) minus the mean entropy of the rows
    "vae.surgery": xlogx(0.7, 0.1, 0.1, 0.1) / 3
    + xlogx(0.1, 0.8, 0.05, 0.05) / 3
    + xlogx(0.1, 0.1, 0.4, 0.4) / 3
    - xlogx(0.3, 1 / 3, 0.55 / 3, 0.55 / 3),
    "vae.collapse-threshold": [False, False, False, True, True],  # beta s^2 = 1.96
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_will_do(name):
    answer = NUMBERS[name]
    assert check(name, [answer] if name == "vae.ppca-evidence" else answer)


def test_numbers_cover_every_exercise_that_takes_one():
    assert set(NUMBERS) == {n for n in CHAPTER_1 if n in FORMULAS and FORMULAS[n].instance}


# -- mistakes --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "i"), MISTAKES)
def test_every_listed_mistake_gets_its_own_message(name, i):
    mistake = FORMULAS[name].mistakes[i]
    verdict = check(name, mistake.formula)
    assert not verdict
    assert verdict.message == mistake.message


@pytest.mark.parametrize("name", [n for n, f in FORMULAS.items() if f.instance is not None])
def test_wrong_numbers_get_the_message_of_their_mistake(name):
    formula = FORMULAS[name]
    truth = torch.as_tensor(formula.truth(*formula.instance)).double()
    for mistake in formula.mistakes:
        value = torch.as_tensor(mistake.formula(*formula.instance)).double()
        if value.shape == truth.shape and torch.allclose(value, truth, rtol=1e-3):
            continue  # this mistake makes no difference on the instance
        assert check(name, value).message == mistake.message


def kl(mean, var, log_var):
    return 0.5 * (mean**2 + var - 1 - log_var)


@pytest.mark.parametrize(
    ("name", "answer", "says"),
    [
        ("gaussian-kl", lambda m, lv: (m**2 + lv.exp() - 1 - lv).sum(1), "factor 1/2"),
        ("gaussian-kl", lambda m, s: kl(m, s**2, torch.log(s**2)).sum(1), "standard deviation"),
        ("gaussian-kl", lambda m, v: kl(m, v, v.log()).sum(1), "took it for the variance"),
        ("gaussian-kl", lambda m, lv: kl(m, lv.exp(), lv).mean(1), "mean over the latent"),
        ("gaussian-kl", lambda m, lv: kl(m, lv.exp(), lv).sum(), "over the batch as well"),
        ("gaussian-kl", lambda m, lv: -kl(m, lv.exp(), lv).sum(1), "sign is flipped"),
        ("gaussian-kl", lambda m, lv: kl(m, (2 * lv).exp(), 2 * lv).sum(1), "used it as the st"),
        ("gaussian-kl", lambda m, lv: kl(m, lv.exp(), lv).sum(1, keepdim=True), r"shape \(1,\)"),
        ("bernoulli-log-likelihood", lambda x, y: (x * y.log() + (1 - x) * (1 - y).log())
         .sum((1, 2, 3)), "logits for probabilities"),
        ("bernoulli-log-likelihood", lambda x, a: -F.binary_cross_entropy_with_logits(a, x),
         "mean over everything"),
        ("bernoulli-log-likelihood", lambda x, a: (x * a.sigmoid().log() + (1 - x)
         * (1 - a.sigmoid()).log()).sum((1, 2, 3)), "logits of 200"),
        ("gaussian-log-likelihood", lambda x, m, s: -((x - m) ** 2).sum((1, 2, 3)) / (2 * s**2),
         "constant"),
        ("gaussian-log-likelihood", lambda x, m, v: torch.distributions.Normal(m, v**0.5)
         .log_prob(x).sum((1, 2, 3)), "took it for the variance"),
        ("iwae", lambda w: w.mean(0), "the ELBO"),
        ("iwae", lambda w: w.exp().mean(0).log(), "logsumexp"),
        ("monte-carlo-kl", lambda m, lv, e: kl(m, lv.exp(), lv).sum(1), "closed form"),
        ("ppca-evidence", -3.0, "not it"),
        ("mean-reduction-beta", 1 / 784, "Upside down"),
        ("collapse-threshold", lambda e, v, b: e <= v, "beta is left out"),
        ("collapse-threshold", lambda e, v, b: e <= b * v**0.5, "standard deviation"),
        ("surgery", lambda q, p: (q * (q / p).log()).sum(1).mean(), "whole KL term"),
        ("surgery", lambda q, p: (q * (q / q.mean(0)).log()).sum(1).mean(), "0 log 0"),
    ],
)  # fmt: skip
def test_usual_mistakes_as_readers_write_them(name, answer, says):
    verdict = check(f"vae.{name}", answer)
    assert not verdict
    with pytest.raises(ValueError, match=says):
        raise ValueError(verdict.message)


@pytest.mark.parametrize("name", FORMULAS)
def test_near_misses_fail_without_a_wrong_accusation(name):
    formula = FORMULAS[name]
    if name == "vae.collapse-threshold":
        verdict = check(name, lambda e, v, b: e <= 1.1 * b * v)
    else:
        verdict = check(name, lambda *a: 1.02 * torch.as_tensor(formula.truth(*a)) + 0.01)
    assert not verdict
    assert verdict.message not in {m.message for m in formula.mistakes}


def test_a_wrong_answer_shows_the_smallest_case():
    verdict = check("vae.iwae", lambda w: iwae(w) + 1)
    right = math.log((math.exp(-1) + math.exp(-3) + math.exp(-2)) / 3)
    assert f"gives {[float(f'{right + 1:.4g}')]}; right is {[float(f'{right:.4g}')]}" in (
        verdict.message
    )


# -- answers that break ----------------------------------------------------------------------


def unfinished(mean, log_var):
    raise NotImplementedError


def in_place(mean, log_var):
    return gaussian_kl(mean.mul_(2), log_var)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda mean: mean, "TypeError"),
        (lambda mean, log_var: mean @ log_var, "RuntimeError"),
        (lambda mean, log_var: None, "return"),
        (lambda mean, log_var: "0.5", "str"),
        (unfinished, "not written yet"),
        (in_place, "changes its arguments"),
        (0.5, "without calling it"),
    ],
)
def test_a_broken_answer_is_reported_kindly(answer, says):
    verdict = check("vae.gaussian-kl", answer)
    assert not verdict
    assert says in verdict.message


def test_an_exceptions_own_text_is_shown():
    def answer(mean, log_var):
        raise KeyError("sigma")

    message = check("vae.gaussian-kl", answer).message
    assert "KeyError: 'sigma'" in message
    assert "(1, 2), (1, 2)" in message  # the shapes it was called with


def test_text_where_a_number_belongs():
    assert "'784'" in check("vae.mean-reduction-beta", "784").message


def test_unknown_exercise_names_the_nearest_and_all():
    with pytest.raises(ValueError, match=r"did you mean 'vae\.gaussian-kl'") as caught:
        tutor.check("vae.gausian-kl", gaussian_kl)
    assert all(name in str(caught.value) for name in EXERCISES)
    with pytest.raises(ValueError, match="no exercise is called 'zzz'; The exercises are"):
        check("zzz", 1)


def test_verdict_is_a_truth_value_and_reads_well():
    assert Verdict("a.b", True, "right.")
    assert not Verdict("a.b", False, "no.")
    assert str(Verdict("a.b", False, "no.")) == "✗ a.b: no."


def test_checking_leaves_the_global_stream_alone():
    model = TwoPlayers()  # layers draw their weights from the global stream
    state = torch.get_rng_state()
    for name, answer in RIGHT.items():
        check(name, answer)
    check("vae.own-game", (model, BATCH))
    assert torch.equal(torch.get_rng_state(), state)


# -- samplers --------------------------------------------------------------------------------


def noise_like(mean, generator, shape=None):
    return torch.randn(shape or mean.shape, generator=generator)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda m, lv, g: m + lv.exp() * noise_like(m, g), "exp(log_var) is the variance;"),
        (lambda m, lv, g: m + lv * noise_like(m, g), "log_var itself for the standard"),
        (lambda m, lv, g: m + lv.abs().sqrt() * noise_like(m, g), "log_var for the variance"),
        (lambda m, lv, g: m + lv.sqrt() * noise_like(m, g), "NaN"),
        (lambda m, lv, g: m + (-0.5 * lv).exp() * noise_like(m, g), "sign in the exponent"),
        (lambda m, lv, g: m + (2 * lv).exp() * noise_like(m, g), "squared"),
        (lambda m, lv, g: m + (0.25 * lv).exp() * noise_like(m, g), "one square root too many"),
        (lambda m, lv, g: m + noise_like(m, g), "not scaled"),
        (lambda m, lv, g: m.clone(), "no noise"),
        (lambda m, lv, g: m + (0.5 * lv).exp() * noise_like(m, g, m.shape[1:]), "(n, dim), not (d"),
        (lambda m, lv, g: m + (0.5 * lv).exp() * noise_like(m, g, (len(m), 1)), "not (n, 1)"),
        (lambda m, lv, g: m + (0.5 * lv).exp() * torch.rand(m.shape, generator=g), "torch.rand"),
        (lambda m, lv, g: m + (0.5 * lv).exp() * 12**0.5
         * (torch.rand(m.shape, generator=g) - 0.5), "not Gaussian"),
        (lambda m, lv, g: (0.5 * lv).exp() * noise_like(m, g), "centre on the mean"),
        (lambda m, lv, g: m + 1.2 * (0.5 * lv).exp() * noise_like(m, g), "standard deviations"),
        (lambda m, lv, g: reparameterise(m, lv, torch.Generator().manual_seed(0)), "Another seed"),
        (lambda m, lv, g: reparameterise(m.detach(), lv, g), "no gradient reaches mean:"),
        (lambda m, lv, g: reparameterise(m, lv, g).detach(), "mean and log_var"),
        (lambda m, lv, g: reparameterise(m, lv, g)[0], "shape"),
        (torch.zeros(3), "without calling it"),
    ],
)  # fmt: skip
def test_mistakes_of_sampling_are_named(answer, says):
    verdict = check("vae.reparameterise", answer)
    assert not verdict
    assert says in verdict.message


def test_a_sampler_that_ignores_the_generator_is_named():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        verdict = check("vae.reparameterise", lambda m, lv, g: reparameterise(m, lv))
    assert "same generator state differ" in verdict.message


def test_both_inverses_of_the_exponential_are_right():
    assert check("vae.exponential", lambda rate, u: -torch.log(u) / rate)
    assert (
        "no gradient"
        in check("vae.exponential", lambda rate, u: -torch.log(u) / rate.detach()).message
    )


# -- a game of one's own ---------------------------------------------------------------------


class TwoPlayers(tutor.Model):
    """A small GAN on the plane: right."""

    def __init__(self):
        super().__init__()
        self.generator, self.critic = (nn.Linear(2, n) for n in (2, 1))
        with torch.no_grad():
            for i, p in enumerate(self.parameters()):
                p.copy_(torch.linspace(-0.5 - 0.1 * i, 0.7, p.numel()).reshape(p.shape))

    @property
    def players(self):
        return {"critic": [self.critic], "generator": [self.generator]}

    def fake(self, x):
        return self.generator(torch.randn_like(x))

    def step(self, x):
        fake = self.fake(x)
        real, false = self.critic(x), self.critic(fake.detach())
        yield tutor.Turn("critic", (F.softplus(-real) + F.softplus(false)).mean())
        yield tutor.Turn("generator", F.softplus(-self.critic(fake)).mean())


class Returns(TwoPlayers):
    def step(self, x):
        return tutor.Turn("critic", self.critic(x).mean())


class WrongPlayer(TwoPlayers):
    def step(self, x):
        yield tutor.Turn("generator", self.critic(x).mean())


class DetachedFake(TwoPlayers):
    def step(self, x):
        fake = self.fake(x).detach()
        yield tutor.Turn("critic", (self.critic(x) - self.critic(fake)).square().mean())
        yield tutor.Turn("generator", F.softplus(-self.critic(fake)).mean())


class NoGradient(TwoPlayers):
    def step(self, x):
        yield tutor.Turn("critic", self.critic(x).mean().detach())


class Stale(TwoPlayers):
    def step(self, x):
        score = self.critic(self.fake(x))
        yield tutor.Turn("critic", F.softplus(score).mean())
        yield tutor.Turn("generator", F.softplus(-score).mean())


class Backward(TwoPlayers):
    def step(self, x):
        loss = F.softplus(self.critic(self.fake(x))).mean()
        loss.backward(retain_graph=True)
        yield tutor.Turn("critic", loss)


class MovesItself(TwoPlayers):
    def step(self, x):
        with torch.no_grad():
            self.generator.weight.mul_(0.9)
        yield tutor.Turn("critic", self.critic(x).mean())


class UnknownPlayer(TwoPlayers):
    def step(self, x):
        yield tutor.Turn("discriminator", self.critic(x).mean())


class OneIdle(TwoPlayers):
    def step(self, x):
        yield tutor.Turn("critic", F.softplus(self.critic(x)).mean())


class Infinite(TwoPlayers):
    def step(self, x):
        yield tutor.Turn("critic", (self.critic(x).mean() * 1e30).square())


class YieldsTensor(TwoPlayers):
    def step(self, x):
        yield self.critic(x).mean()


class Orphan(TwoPlayers):
    @property
    def players(self):
        return {"critic": [self.critic]}


class VectorLoss(TwoPlayers):
    def step(self, x):
        yield tutor.Turn("critic", self.critic(x))


BATCH = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))


def test_a_right_game_passes_and_is_not_changed():
    model = TwoPlayers()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert check("vae.own-game", (model, BATCH))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_the_books_own_models_are_right_games():
    images = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert check("vae.own-game", (tutor.models.VAE(), images))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (Returns, "generator, with `yield"),
        (WrongPlayer, "only those of 'critic'"),
        (DetachedFake, "'generator' does not depend on its own"),
        (NoGradient, "no gradient at all"),
        (Stale, "compute it again after the `yield`"),
        (Backward, "backward() itself"),
        (MovesItself, "changed the parameters of 'generator'"),
        (UnknownPlayer, "A turn of 'discriminator'"),
        (OneIdle, "generator never had a turn"),
        (Infinite, "is inf"),
        (YieldsTensor, "yield Turn(player, loss)"),
        (Orphan, "no player owns generator.weight"),
        (VectorLoss, "scalar tensor"),
        (nn.Linear, "players"),
    ],
)
def test_mistakes_in_a_game_are_named(model, says):
    made = nn.Linear(2, 2) if model is nn.Linear else model()
    verdict = check("vae.own-game", (made, BATCH))
    assert not verdict
    assert says in verdict.message


@pytest.mark.parametrize("answer", [TwoPlayers(), (TwoPlayers(),), (3, BATCH)])
def test_something_else_than_a_game_and_a_batch(answer):
    assert not check("vae.own-game", answer)
