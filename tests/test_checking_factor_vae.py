"""`tutor.check` on chapter 5: right answers as a reader writes them pass, wrong ones are named."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from tutor.checking import check
from tutor.checks.factor_vae import EXERCISES
from tutor.checks.factor_vae_scores import SCORES
from tutor.checks.factor_vae_terms import TERMS


def gaussian_tc(cov):
    """From the correlation matrix and its eigenvalues."""
    scale = cov.diagonal().sqrt()
    correlation = cov / scale[:, None] / scale
    return -0.5 * torch.linalg.eigvalsh(correlation).log().sum()


def kept_together(n, dim):
    """By counting which codes the entries come from."""
    origins = itertools.product(range(n), repeat=dim)
    return sum(len(set(origin)) == 1 for origin in origins) / n**dim


def stratified_weights(batch_size, data_size):
    m = batch_size - 1
    rows = []
    for i in range(batch_size):
        row = [1 / m] * batch_size
        row[i] = 1 / data_size
        row[(i + 1) % batch_size] = (data_size - m) / (data_size * m)
        rows.append(row)
    return torch.tensor(rows)


def covariance_penalty(cov, lambda_off, lambda_diag):
    total = 0.0
    for i in range(len(cov)):
        for j in range(len(cov)):
            total += lambda_diag * (cov[i, i] - 1) ** 2 if i == j else lambda_off * cov[i, j] ** 2
    return total


def majority_score(votes):
    return sum(max(row) for row in votes.tolist()) / votes.sum()


def mig(information, entropies):
    ordered = information.sort(0, descending=True).values
    return ((ordered[0] - ordered[1]) / entropies).mean()


def permute_dims(z):
    return torch.stack([column[torch.randperm(len(z))] for column in z.T], 1)


RIGHT = {
    "factor-vae.gaussian-tc": gaussian_tc,
    "factor-vae.discriminator-loss": lambda a, b: -(F.logsigmoid(a) + F.logsigmoid(-b)).mean(),
    "factor-vae.tc-estimate": lambda t: (F.logsigmoid(t) - F.logsigmoid(-t)).mean(),
    "factor-vae.kept-together": kept_together,
    "factor-vae.stratified-weights": stratified_weights,
    "factor-vae.covariance-penalty": covariance_penalty,
    "factor-vae.majority-score": majority_score,
    "factor-vae.mig": mig,
    "factor-vae.permute-dims": permute_dims,
}

NUMBERS = {
    "factor-vae.gaussian-tc": -0.5 * math.log(1 - 0.36),
    "factor-vae.kept-together": 8 / 512,
    "factor-vae.majority-score": 16 / 20,
    # gaps 0.8 / 1.25 = 0.64 and 0.1 / 0.8 = 0.125
    "factor-vae.mig": (0.64 + 0.125) / 2,
}


@pytest.mark.parametrize("name", [e.name for e in EXERCISES])
def test_a_right_answer_passes(name, capsys):
    verdict = check(name, RIGHT[name])
    assert verdict, verdict.message
    assert capsys.readouterr().out == f"✓ {name}: right.\n"


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_will_do(name):
    assert check(name, NUMBERS[name])


def test_numbers_cover_every_exercise_that_takes_one():
    takes = {f"factor-vae.{n}" for n, f in {**TERMS, **SCORES}.items() if f.instance is not None}
    assert set(NUMBERS) == takes


FORMULAS = [(n, i) for n, f in {**TERMS, **SCORES}.items() for i in range(len(f.mistakes))]


@pytest.mark.parametrize(("name", "i"), FORMULAS)
def test_every_listed_mistake_gets_its_message(name, i):
    mistake = {**TERMS, **SCORES}[name].mistakes[i]
    verdict = check(f"factor-vae.{name}", mistake.formula)
    assert not verdict
    assert verdict.message == mistake.message


@pytest.mark.parametrize(
    ("name", "answer", "says"),
    [
        ("gaussian-tc", -math.log(0.64), "Twice too large"),
        ("discriminator-loss", lambda a, b: -(a.sigmoid().log() + (1 - b.sigmoid()).log()).mean(),
         "logits of 200"),
        ("tc-estimate", lambda t: torch.log(t.sigmoid()).mean(), "mean of log D"),
        ("permute-dims", lambda z: z[torch.randperm(len(z))], "same order"),
        ("permute-dims", lambda z: torch.stack([r[torch.randperm(3)] for r in z]),
         "within each row"),
        ("permute-dims", lambda z: torch.stack([z[:, j].roll(j + 1) for j in range(3)], 1),
         "Every call gives the same order"),
        ("permute-dims", lambda z: torch.stack(
            [z[:, j].roll(int(torch.randint(4, ()))) for j in range(3)], 1), "only shifted"),
        ("permute-dims", lambda z: torch.cat([z[:, :1], permute_dims(z[:, 1:])], 1),
         "Column 0 is never permuted"),
        ("permute-dims", lambda z: z[:3], "should have that shape"),
        ("permute-dims", lambda z: z[torch.randint(4, (4, 3)), torch.arange(3)], "lost its values"),
        ("permute-dims", permute_dims(torch.zeros(4, 3)), "Pass the function"),
    ],
)  # fmt: skip
def test_usual_mistakes_as_readers_write_them(name, answer, says):
    verdict = check(f"factor-vae.{name}", answer)
    assert not verdict
    assert says in verdict.message


def test_checking_leaves_the_global_stream_alone():
    state = torch.get_rng_state()
    for name, answer in RIGHT.items():
        check(name, answer)
    assert torch.equal(torch.get_rng_state(), state)
