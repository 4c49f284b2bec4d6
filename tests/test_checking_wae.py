"""`tutor.check` on chapter 4: right answers as a reader writes them pass, wrong ones are named."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tutor.checking import check
from tutor.checks.wae import EXERCISES
from tutor.checks.wae_codes import CODES
from tutor.checks.wae_transport import TRANSPORT

FORMULAS = {**TRANSPORT, **CODES}


def wasserstein_1d(x, y):
    """By trying all pairings; enough for seven points."""
    best = min(
        sum(abs(a - b) for a, b in zip(x.tolist(), order, strict=True))
        for order in itertools.permutations(y.tolist())
    )
    return torch.tensor(best / len(x))


def dual_value(cost, a, b, f):
    g = [min(cost[i, j] - f[i] for i in range(len(a))) for j in range(len(b))]
    return (a * f).sum() + sum(b[j] * g[j] for j in range(len(b)))


def sinkhorn(cost, a, b, epsilon):
    kernel = torch.exp(-(cost - cost.min()) / epsilon)
    v = torch.ones_like(b)
    for _ in range(2_000):
        u = a / (kernel @ v)
        v = b / (kernel.T @ u)
    return u[:, None] * kernel * v


def proof_encoder(coupling, p_x, p_z, decoder):
    encoder = torch.zeros(len(p_x), len(p_z), dtype=coupling.dtype)
    for x, z in itertools.product(range(len(p_x)), range(len(p_z))):
        y = decoder[z]
        image_mass = p_z[decoder == y].sum()
        encoder[x, z] = coupling[x, y] / p_x[x] * p_z[z] / image_mass
    return encoder


def mmd(x, y, scale):
    def mean(a, b, same):
        values = [
            scale / (scale + ((u - v) ** 2).sum())
            for i, u in enumerate(a)
            for j, v in enumerate(b)
            if not (same and i == j)
        ]
        return sum(values) / len(values)

    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


RIGHT = {
    "wae.wasserstein-1d": wasserstein_1d,
    "wae.dual-value": dual_value,
    "wae.sinkhorn": sinkhorn,
    "wae.proof-encoder": proof_encoder,
    "wae.mmd": mmd,
    "wae.null-std": lambda z, n, m: (
        (2 * z / n / (n - 1) + 2 * z / m / (m - 1) + 4 * z / n / m) ** 0.5
    ),
    "wae.true-lambda": lambda written, factor: written / factor,
    "wae.linear-cost": lambda e, d: sum(sorted(e.tolist(), reverse=True)[d:]),
}


@pytest.mark.parametrize("name", [e.name for e in EXERCISES])
def test_a_right_answer_passes(name, capsys):
    verdict = check(name, RIGHT[name])
    assert verdict, verdict.message
    assert capsys.readouterr().out == f"✓ {name}: right.\n"


NUMBERS = {
    "wae.wasserstein-1d": (3 + 2 + 1) / 3,  # 0 1 6 against -3 3 5
    # g = min(1 - 1, 2 - 2), min(4 - 1, 3 - 2) = 0, 1
    "wae.dual-value": 0.25 * 1 + 0.75 * 2 + 0.5 * 1,
    # k(1) = 2/3 within both; between: distances 2, 3, 1, 2
    "wae.mmd": 2 * 2 / 3 - 2 * (2 / 6 + 2 / 11 + 2 / 3 + 2 / 6) / 4,
    "wae.null-std": math.sqrt(0.02 * (2 / 9_900 + 2 / 2_450 + 4 / 5_000)),
    "wae.true-lambda": 200,
    "wae.linear-cost": 1.5,
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_will_do(name):
    assert check(name, NUMBERS[name])


def test_numbers_cover_every_exercise_that_takes_one():
    takes = {f"wae.{n}" for n, f in FORMULAS.items() if f.instance is not None}
    assert set(NUMBERS) == takes


@pytest.mark.parametrize(
    ("name", "i"), [(name, i) for name, f in FORMULAS.items() for i in range(len(f.mistakes))]
)
def test_every_listed_mistake_gets_its_message(name, i):
    mistake = FORMULAS[name].mistakes[i]
    verdict = check(f"wae.{name}", mistake.formula)
    assert not verdict
    assert verdict.message == mistake.message


@pytest.mark.parametrize(
    ("name", "answer", "says"),
    [
        ("wasserstein-1d", lambda x, y: torch.cdist(x[:, None], y[:, None]).mean(), "independent"),
        ("sinkhorn", lambda c, a, b, e: sinkhorn(c + c.min(), a, b, e) if c.max() < 100 else
         torch.exp(-c / e) * float("nan"), "Work with logarithms"),
        ("mmd", lambda x, y, c: mmd(torch.cat([x, x]), torch.cat([y, y]), c), "not a mistake I"),
        ("null-std", 0.02 * (2 / 9_900 + 2 / 2_450 + 4 / 5_000), "variance"),
        ("true-lambda", 0.5, "MORE"),
        ("linear-cost", 6.5, "kept"),
    ],
)  # fmt: skip
def test_usual_mistakes_as_readers_write_them(name, answer, says):
    verdict = check(f"wae.{name}", answer)
    assert not verdict
    assert says in verdict.message


def test_checking_leaves_the_global_stream_alone():
    state = torch.get_rng_state()
    for name, answer in RIGHT.items():
        check(name, answer)
    assert torch.equal(torch.get_rng_state(), state)
