"""DCI: does each coordinate serve one factor, each factor have one coordinate, and is all there."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tutor.data import Dataset
from tutor.metrics._evaluate import at_least_one
from tutor.metrics.disentanglement._factors import checked, split


class DCI(NamedTuple):
    """Three scores between 0 and 1, and the table behind two of them.

    Attributes:
        disentanglement: a coordinate matters to one factor only.
        completeness: a factor is told by one coordinate only.
        informativeness: accuracy of the predictions, the mean over factors.
        importance: ``(dim, K)``; importance of coordinate j for factor k; a factor's column sums
            to 1, or to 0 where nothing predicts it.
        accuracy: ``(K,)``; of each factor's prediction, on images not trained on.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    importance: Tensor
    accuracy: Tensor


def dci(
    codes: Tensor,
    factors: Tensor | Dataset,
    *,
    train: int = 10_000,
    test: int = 5_000,
    trees: int = 20,
    generator: torch.Generator | None = None,
) -> DCI:
    """Disentanglement, completeness and informativeness of a code.

    ``sum_j rho_j (1 + sum_k P_jk log_K P_jk)`` is the disentanglement, with R the table of
    importances, ``P_jk = R_jk / sum_k' R_jk'`` and rho_j coordinate j's share of R; completeness
    is the same along columns, ``1 + sum_j R_jk log_dim R_jk`` averaged over factors.

    Book equation: dci-disentanglement.  A predictor of each factor is trained on the whole code.
    Which one is not part of the definition: the paper has lasso and random forests, the library
    gradient-boosted trees, which take minutes for factors with many values.  Here it is
    scikit-learn's ``ExtraTreesClassifier`` with all coordinates considered at every split, and
    importance is the decrease of Gini impurity.  So numbers compare within this package only.
    Source: Eastwood & Williams (ICLR 2018).

    Args:
        codes: mean codes ``(N, dim)``, dim at least 2, see `encode_all`.
        factors: whole numbers ``(N, K)``, K at least 2, or the data set.
        train: images to train on (the library's number).
        test: images to count right predictions on (the library's number).
        trees: of each predictor.
        generator: source of the choice of images and of the trees, on the CPU.

    Returns:
        `DCI`, tensors in float64.  Where a code predicts nothing, importances come from
        overfitting; read the first two scores only beside the third.

    Raises:
        TypeError: if codes are no floats or factors no whole numbers.
        ValueError: for a data set without factors, unequal lengths, codes that are not finite, one
            coordinate or one factor only, a factor with one value, or too few images.

    Example:
        >>> from tutor.metrics import example_codes
        >>> factors = torch.cartesian_prod(*[torch.arange(10)] * 3)
        >>> codes = example_codes(factors, "perfect")
        >>> result = dci(codes, factors, train=700, test=300)
        >>> round(result.disentanglement, 2), round(result.completeness, 2)
        (1.0, 1.0)
    """
    at_least_one(trees=trees)
    found = checked(codes, factors, least=2)
    if len(found.sizes) < 2:
        raise ValueError("there is one factor only; every coordinate serves it alone")
    first, second = split(found, train, test, generator)
    from sklearn.ensemble import ExtraTreesClassifier

    seed = torch.randint(2**31, (), generator=generator).item()
    importance, accuracy = [], []
    for known, truth in zip(first.values, second.values, strict=True):
        predictor = ExtraTreesClassifier(trees, max_features=None, random_state=seed)
        predictor.fit(first.codes.numpy(), known.numpy())
        importance.append(torch.from_numpy(predictor.feature_importances_))
        accuracy.append(predictor.score(second.codes.numpy(), truth.numpy()))
    table, right = torch.stack(importance, 1), torch.tensor(accuracy, dtype=torch.float64)
    return DCI(*concentration(table), right.mean().item(), table, right)


def concentration(importance: Tensor) -> tuple[float, float]:
    """Disentanglement and completeness of a table of importances ``(dim, K)``.

    Book equation: dci-disentanglement.  A row or column of zeros has no weight; a table of zeros
    scores 0.

    Example:
        >>> concentration(torch.tensor([[1.0, 0.0], [0.0, 0.5], [0.0, 0.5]]))
        (1.0, 0.6845)
    """
    importance = importance.double()
    rows, columns = importance.sum(1), importance.sum(0)
    total = importance.sum()
    if total == 0:
        return 0.0, 0.0
    dim, k = importance.shape
    of_rows = 1 - _entropy(importance / rows.clamp(min=1e-300)[:, None], 1) / math.log(k)
    of_columns = 1 - _entropy(importance / columns.clamp(min=1e-300), 0) / math.log(dim)
    return (
        (rows / total * of_rows).sum().item(),
        (columns / total * of_columns).sum().item(),
    )


def _entropy(shares: Tensor, dim: int) -> Tensor:
    return torch.special.entr(shares).sum(dim)
