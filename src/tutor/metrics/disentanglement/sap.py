"""SAP: how much better does the best single coordinate predict a factor than the second best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tutor.data import Dataset
from tutor.metrics.disentanglement._factors import Checked, checked, split


class SAP(NamedTuple):
    """Separated attribute predictability.

    Attributes:
        score: mean of the gaps.
        gaps: ``(K,)``; best minus second best of each factor.
        predictability: ``(dim, K)``; accuracy or squared correlation, one row a coordinate.
    """

    score: float
    gaps: Tensor
    predictability: Tensor


def sap(
    codes: Tensor,
    factors: Tensor | Dataset,
    *,
    protocol: str = "library",
    categorical: Sequence[int] | None = None,
    train: int = 10_000,
    test: int = 5_000,
    generator: torch.Generator | None = None,
) -> SAP:
    """The gap between the two coordinates that predict a factor best, each by itself.

    ``1/K sum_k (S_(j(k), k) - max_(j != j(k)) S_jk)`` with S_jk the predictability of factor k
    from coordinate j.

    Two protocols.  ``"library"`` calls every factor a class: S is the accuracy, on images not
    trained on, of scikit-learn's ``LinearSVC`` (C = 0.01, classes balanced).  A linear classifier
    on one coordinate can't tell many ordered values apart, so even a perfect code scores low for
    such factors.  ``"paper"`` takes the squared correlation of coordinate and factor over all
    images, the R^2 of a linear regression, for a factor whose values have an order; for one
    without (``categorical``), the balanced accuracy of as many intervals as it has values, found
    by scikit-learn's ``DecisionTreeClassifier``.  The two don't give the same numbers.
    Source: Kumar, Sattigeri & Balakrishnan (arXiv 1711.00848); Locatello et al. (arXiv
    1811.12359) for the library.

    Args:
        codes: mean codes ``(N, dim)``, dim at least 2, see `encode_all`.
        factors: whole numbers ``(N, K)``, or the data set.
        protocol: ``"library"`` or ``"paper"``.
        categorical: for ``"paper"`` only, and needed there: the factors without an order, ``[0]``
            for the shape of dSprites, ``[]`` for none.
        train: images to train a classifier on.
        test: images to count its right guesses on.
        generator: source of the choice of images, on the CPU.

    Returns:
        `SAP`, tensors in float64.

    Raises:
        TypeError: if codes are no floats or factors no whole numbers.
        ValueError: for a data set without factors, unequal lengths, codes that are not finite, one
            coordinate only, a factor with one value, too few images, an unknown protocol, or
            ``categorical`` missing, out of range or out of place.

    Example:
        >>> from tutor.metrics import example_codes
        >>> factors = torch.cartesian_prod(*[torch.arange(10)] * 3)
        >>> codes = example_codes(factors, "perfect")
        >>> sap(codes, factors, protocol="paper", categorical=[]).score
        1.0
    """
    if protocol not in ("library", "paper"):
        raise ValueError(f'protocol is {protocol!r}; choose "library" or "paper"')
    found = checked(codes, factors, least=2)
    k = len(found.sizes)
    if protocol == "paper":
        chosen = _categorical(categorical, k)
    elif categorical is not None:
        raise ValueError('categorical is for protocol="paper"; the library\'s has classes only')
    else:
        chosen = set(range(k))
    table = _squared_correlation(found)
    if chosen:
        parts = split(found, train, test, generator)
        for factor in sorted(chosen):
            table[:, factor] = _accuracies(*parts, factor, protocol)
    first, second = table.topk(2, dim=0).values
    gaps = first - second
    return SAP(gaps.mean().item(), gaps, table)


def _categorical(categorical: Sequence[int] | None, k: int) -> set[int]:
    if categorical is None:
        raise ValueError(
            "say which factors have values without an order: categorical=[0] for the shape of "
            "dSprites, categorical=[] for none"
        )
    if wrong := [i for i in categorical if i not in range(k)]:
        raise ValueError(f"categorical has {wrong[0]!r}; there are factors 0 to {k - 1}")
    return set(categorical)


def _squared_correlation(found: Checked) -> Tensor:
    """``Cov(z_j, v_k)^2 / (Var z_j Var v_k)``, ``(dim, K)``; 0 where a coordinate stands still."""
    codes, values = found.codes.double(), found.values.T.double()
    codes, values = codes - codes.mean(0), values - values.mean(0)
    covariance = codes.T @ values
    scale = codes.square().sum(0)[:, None] * values.square().sum(0)
    return torch.where(scale > 0, covariance.square() / torch.where(scale > 0, scale, 1), 0)


def _accuracies(train: Checked, test: Checked, factor: int, protocol: str) -> Tensor:
    """Of one classifier for each coordinate, on images that it has not seen."""
    from sklearn.metrics import accuracy_score, balanced_accuracy_score
    from sklearn.svm import LinearSVC
    from sklearn.tree import DecisionTreeClassifier

    known, truth = train.values[factor].numpy(), test.values[factor].numpy()
    results = []
    for j in range(train.codes.shape[1]):
        if protocol == "library":
            # The primal problem has two unknowns a class; its solution is the dual's.
            classifier = LinearSVC(C=0.01, class_weight="balanced", dual=False)
            accuracy = accuracy_score
        else:
            classifier = DecisionTreeClassifier(
                max_leaf_nodes=train.sizes[factor], class_weight="balanced", random_state=0
            )
            accuracy = balanced_accuracy_score
        classifier.fit(train.codes[:, j : j + 1].numpy(), known)
        results.append(accuracy(truth, classifier.predict(test.codes[:, j : j + 1].numpy())))
    return torch.tensor(results, dtype=torch.float64)
