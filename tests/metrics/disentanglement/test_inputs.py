"""What every score refuses, and what must not matter to any: numbering, order, precision."""

from __future__ import annotations

import math

import pytest
import torch

from tests.metrics.disentanglement.grids import grid
from tests.metrics.worlds import generator
from tutor.data import Dataset
from tutor.metrics import (
    VoteProtocol,
    beta_vae_score,
    dci,
    example_codes,
    factor_vae_score,
    mig,
    sap,
)
from tutor.metrics.disentanglement._factors import checked

FACTORS = grid(4, 5, 10, 10)  # 2000 images
SCORES = {
    "factor_vae_score": lambda z, v: factor_vae_score(
        z, v, protocol=VoteProtocol(200, 100, 50), generator=generator()
    ),
    "beta_vae_score": lambda z, v: beta_vae_score(
        z, v, train=200, test=100, batch_size=20, generator=generator()
    ),
    "mig": mig,
    "sap": lambda z, v: sap(z, v, train=500, test=200, generator=generator()),
    "dci": lambda z, v: dci(z, v, train=500, test=200, trees=3, generator=generator()),
}


@pytest.fixture(params=list(SCORES))
def score(request):
    return SCORES[request.param]


def noisy() -> torch.Tensor:
    codes = example_codes(FACTORS, "rotated", generator=generator(1))
    return codes + 0.3 * torch.randn(codes.shape, generator=generator(2))


def with_nan() -> torch.Tensor:
    codes = noisy()
    codes[3, 1] = math.nan
    codes[5, 0] = math.inf
    return codes


def constant(column: int) -> torch.Tensor:
    factors = FACTORS.clone()
    factors[:, column] = 4
    return factors


@pytest.mark.parametrize(
    ("codes", "factors", "error", "message"),
    [
        (noisy(), Dataset(torch.rand(2000, 2, 2), name="mine"), ValueError,
         "data set 'mine' has no factors of variation"),
        (noisy(), None, ValueError, "factors are None"),
        (noisy()[:-1], FACTORS, ValueError, "1999 codes and 2000 rows of factors"),
        (noisy(), FACTORS + 0.5, TypeError, "factors are torch.float32; expected whole numbers"),
        (noisy(), FACTORS.double(), TypeError, "factors are torch.float64"),
        (noisy(), FACTORS.tolist(), TypeError, "factors are list"),
        (noisy(), FACTORS[:, 0], ValueError, r"factors have shape \(2000,\)"),
        (noisy(), constant(2), ValueError, "factor 2 has one value only"),
        (with_nan(), FACTORS, ValueError, "2 of 2000 codes are not finite"),
        (FACTORS, FACTORS, TypeError, "codes are torch.int64"),
        (noisy()[:, 0], FACTORS, ValueError, r"codes have shape \(2000,\)"),
        (noisy()[:0], FACTORS[:0], ValueError, r"codes have shape \(0, 4\)"),
    ],
)  # fmt: skip
def test_what_no_score_takes(score, codes, factors, error, message):
    with pytest.raises(error, match=message):
        score(codes, factors)


@pytest.mark.parametrize("name", ["mig", "sap", "dci"])
def test_a_gap_needs_two_coordinates(name):
    with pytest.raises(ValueError, match="codes have 1 coordinates"):
        SCORES[name](noisy()[:, :1], FACTORS)


@pytest.mark.parametrize("name", ["beta_vae_score", "dci"])
def test_one_factor_alone_cannot_be_told_apart(name):
    with pytest.raises(ValueError, match="one factor only"):
        SCORES[name](noisy(), FACTORS[:, :1])


def test_a_data_set_may_stand_for_its_factors(score):
    data = Dataset(torch.zeros(2000, 1, 1))
    data.factors = FACTORS
    assert score(noisy(), data).__repr__() == score(noisy(), FACTORS).__repr__()


def test_a_factor_with_one_value_is_called_by_its_name():
    data = Dataset(torch.zeros(2000, 1, 1))
    data.factors, data.factor_names = constant(1), ("shape", "colour", "x", "y")
    with pytest.raises(ValueError, match=r"factor 1 \(colour\) has one value only"):
        mig(noisy(), data)


@pytest.mark.parametrize("step", [7, 100_000])  # small numbers are counted, large ones sorted
def test_values_are_names_only(score, step):
    renamed = step * FACTORS - 3
    assert score(noisy(), renamed).__repr__() == score(noisy(), FACTORS).__repr__()


def test_values_are_numbered_without_gaps():
    found = checked(torch.zeros(4, 1), torch.tensor([[-5], [9], [2], [9]]))
    assert found.values.tolist() == [[0, 2, 1, 2]]
    assert found.sizes == (3,)


def test_the_generator_decides_and_no_global_seed(score):
    torch.manual_seed(1)
    before, state = score(noisy(), FACTORS), torch.get_rng_state()
    torch.manual_seed(2)
    after = score(noisy(), FACTORS)
    assert before.__repr__() == after.__repr__()
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)  # nothing was drawn from it


def test_codes_are_left_alone_and_precision_hardly_matters(score):
    codes = noisy()
    kept = codes.clone()
    first = score(codes, FACTORS)[0]
    assert torch.equal(codes, kept)
    assert isinstance(first, float)
    # Codes exact in float32 give the same votes, bins and pairs but for ties of rounding.
    assert score(codes.double(), FACTORS)[0] == pytest.approx(first, abs=0.02)


def test_chosen_images_must_be_enough():
    for name, call in {"sap": sap, "dci": dci}.items():
        with pytest.raises(ValueError, match="train \\+ test is 15000 and there are 2000 codes"):
            call(noisy(), FACTORS)
        with pytest.raises(ValueError, match="raise train"):
            call(noisy(), FACTORS, train=1, test=10, generator=generator())
        assert name
