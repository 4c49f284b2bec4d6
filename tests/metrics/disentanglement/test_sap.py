"""SAP in both protocols: correlations, intervals, classifiers; known codes; what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.metrics.disentanglement.grids import grid, scattered
from tests.metrics.worlds import generator
from tutor.metrics import example_codes, sap

FACTORS = scattered(6_000, 3, 4, 12)


def paper(codes, factors=FACTORS, categorical=(), **more):
    return sap(codes, factors, protocol="paper", categorical=categorical, generator=generator(),
               **more)  # fmt: skip


def test_squared_correlations():
    codes = torch.randn(6_000, 4, generator=generator()) + FACTORS[:, [0, 1, 1, 2]]
    codes = torch.cat([codes, torch.full((6_000, 1), 2.0)], 1)  # and one that stands still
    result = paper(codes)
    for j in range(4):
        for k in range(3):
            truth = np.corrcoef(codes[:, j].double(), FACTORS[:, k])[0, 1] ** 2
            assert result.predictability[j, k].item() == pytest.approx(truth, abs=1e-10)
    assert (result.predictability[4] == 0).all()
    first, second = result.predictability[:, 1].sort(descending=True).values[:2]
    assert result.gaps[1] == first - second
    assert result.score == pytest.approx(result.gaps.mean().item())


def test_intervals_for_values_without_order():
    """Values 0, 1, 2 in the order 1, 2, 0 along the coordinate: no line, but two thresholds."""
    place = torch.tensor([2.0, 0.0, 1.0])[FACTORS[:, 0]]
    codes = torch.stack([place, torch.randn(6_000, generator=generator())], 1)
    result = paper(codes, categorical=[0], train=3_000, test=2_000)
    assert result.predictability[0, 0] == 1.0
    assert paper(codes).predictability[0, 0] < 0.3  # the squared correlation is 1/4
    # Balanced accuracy of a guess at three values: 1/3, with 2 000 images within 0.04.
    assert result.predictability[1, 0].item() == pytest.approx(1 / 3, abs=0.04)


def test_accuracy_is_balanced_for_the_paper():
    """A value with 90 per cent of the images gives no free score."""
    rare = (torch.rand(6_000, generator=generator()) < 0.1).long()[:, None]
    codes = torch.randn(6_000, 2, generator=generator(1))
    result = paper(codes, rare, categorical=[0], train=3_000, test=3_000)
    assert (result.predictability - 0.5).abs().max() < 0.06  # 300 rare images: 4 errors of 0.014


def test_known_codes_in_the_papers_protocol():
    scores = {
        kind: paper(example_codes(FACTORS, kind, dim=6, generator=generator())).score
        for kind in ("perfect", "duplicated", "random")
    }
    assert scores["perfect"] == pytest.approx(1, abs=0.005)  # second best: noise, about 3 / 6000
    assert scores["duplicated"] == pytest.approx(0, abs=1e-9)
    assert scores["random"] < 0.005


def test_known_codes_in_the_librarys_protocol():
    """Two values: a threshold tells them, so 1 against a guess.  Many: no line tells them all."""
    factors = scattered(6_000, 2, 2, 30)
    perfect, copies = (
        example_codes(factors, kind, dim=6, generator=generator())
        for kind in ("perfect", "duplicated")
    )
    result = sap(perfect, factors, train=3_000, test=3_000, generator=generator())
    assert (result.predictability[[0, 1], [0, 1]] == 1).all()
    # Guesses at two values on 3 000 images: 0.5 within 0.04, the best of five a little above.
    torch.testing.assert_close(result.gaps[:2], torch.full((2,), 0.48).double(), atol=0.04, rtol=0)
    assert result.gaps[2] < 0.3
    again = sap(copies, factors, train=3_000, test=3_000, generator=generator())
    assert again.score == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"protocol": "dlib"}, 'choose "library" or "paper"'),
        ({"protocol": "paper"}, r"categorical=\[0\] for the shape"),
        ({"protocol": "paper", "categorical": [3]}, "categorical has 3; there are factors 0 to 2"),
        ({"categorical": [0]}, "the library's has classes only"),
        ({"train": 5_999}, "train \\+ test is 10999"),
        ({"train": 0}, "train is 0"),
    ],
)
def test_what_it_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        sap(torch.randn(6_000, 3), FACTORS, **arguments)


def test_images_learnt_from_are_not_tested_on():
    """A coordinate that names the image perfectly, and nothing else, must not score."""
    factors = grid(2, 500)[:, :1]
    place = torch.randperm(1_000, generator=generator()).float()
    codes = torch.stack([place, torch.zeros(1_000)], 1)
    result = paper(codes, factors, categorical=[0], train=500, test=500)
    assert abs(result.predictability[0, 0].item() - 0.5) < 0.09  # four standard errors
