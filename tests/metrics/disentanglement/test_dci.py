"""DCI: the two formulas by loops, and codes whose three numbers are known."""

from __future__ import annotations

import math

import pytest
import torch

from tests.metrics.disentanglement.grids import scattered
from tests.metrics.worlds import generator
from tutor.metrics import dci, example_codes
from tutor.metrics.disentanglement.dci import concentration

FACTORS = scattered(5_000, 3, 4, 8)
SETTINGS = {"train": 3_000, "test": 1_500}


def plain(table: list[list[float]]) -> tuple[float, float]:
    """Both scores from their definitions, one entry at a time."""
    dim, k = len(table), len(table[0])
    total = sum(map(sum, table))
    disentanglement = 0.0
    for row in table:
        shares = [entry / sum(row) for entry in row if entry > 0]
        disentanglement += sum(row) / total * (1 + sum(p * math.log(p, k) for p in shares))
    completeness = 0.0
    for column in zip(*table, strict=True):
        shares = [entry / sum(column) for entry in column if entry > 0]
        completeness += sum(column) / total * (1 + sum(p * math.log(p, dim) for p in shares))
    return disentanglement, completeness


def test_the_formulas_by_loops():
    table = torch.rand(5, 3, generator=generator(), dtype=torch.float64)
    table[2, 1] = 0
    table /= table.sum(0)
    assert concentration(table) == pytest.approx(plain(table.tolist()), abs=1e-12)


@pytest.mark.parametrize(
    ("table", "truth"),
    [
        (torch.eye(4), (1.0, 1.0)),
        (torch.ones(6, 3) / 6, (0.0, 0.0)),
        (torch.eye(3).repeat(2, 1) / 2, (1.0, 1 - math.log(2) / math.log(6))),  # copies
        (torch.cat([torch.eye(2), torch.zeros(3, 2)]), (1.0, 1.0)),  # coordinates without use
        (torch.tensor([[1.0, 0.0], [0.0, 0.0]]), (1.0, 1.0)),  # a factor that nothing tells
        (torch.zeros(4, 3), (0.0, 0.0)),
    ],
)
def test_known_tables(table, truth):
    assert concentration(table) == pytest.approx(truth, abs=1e-6)


def measured(kind: str, dim: int, factors=FACTORS):
    codes = example_codes(factors, kind, dim=dim, generator=generator())
    return dci(codes, factors, **SETTINGS, generator=generator())


def test_a_perfect_code():
    result = measured("perfect", 6)
    assert result[:3] == pytest.approx((1, 1, 1), abs=0.01)
    torch.testing.assert_close(result.importance[:3], torch.eye(3).double(), atol=0.01, rtol=0)
    torch.testing.assert_close(result.importance.sum(0), torch.ones(3).double())


def test_copies_cost_completeness_only():
    result = measured("duplicated", 6)
    assert result.disentanglement == pytest.approx(1, abs=0.01)
    assert result.informativeness == pytest.approx(1, abs=0.01)
    # Trees split on either copy by chance, not quite half and half with 20 of them.
    assert result.completeness == pytest.approx(1 - math.log(2) / math.log(6), abs=0.05)


def test_noise():
    result = measured("random", 6)
    assert result.disentanglement < 0.02
    assert result.completeness < 0.02
    chance = torch.tensor([1 / 3, 1 / 4, 1 / 8], dtype=torch.float64)
    error = (chance * (1 - chance) / 1_500).sqrt()
    assert ((result.accuracy - chance).abs() < 4 * error).all()
    assert result.informativeness == pytest.approx(result.accuracy.mean().item())


def test_a_rotation_informs_and_does_not_disentangle():
    result = measured("rotated", 3)
    assert result.informativeness > 0.9
    assert result.disentanglement < 0.5
    assert result.completeness < 0.5


def test_a_code_that_never_moves():
    result = dci(torch.zeros(5_000, 3), FACTORS, **SETTINGS, generator=generator())
    assert result[:2] == (0.0, 0.0)
    assert (result.importance == 0).all()


def test_the_missing_factor_is_not_informed():
    result = measured("higgins-failure", 6)
    assert result.accuracy[:2].tolist() == [1.0, 1.0]
    assert result.accuracy[2].item() == pytest.approx(1 / 8, abs=4 * 0.0085)
    assert result.disentanglement < 0.9  # the useless importances of the third count


def test_the_number_of_trees():
    with pytest.raises(ValueError, match="trees is 0"):
        dci(torch.randn(5_000, 3), FACTORS, trees=0)
