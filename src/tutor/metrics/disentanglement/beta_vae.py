"""The Higgins score: which factor do two images share, by a linear classifier."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tutor.data import Dataset
from tutor.metrics._evaluate import at_least_one
from tutor.metrics.disentanglement._factors import Groups, checked, group

_ROWS = 32_768  # pairs at once


class BetaVAEScore(NamedTuple):
    """Accuracy of the classifier on batches that it was not trained on.

    Attributes:
        score: share of right guesses.
        confusion: ``(K, K)``; how often factor k (row) was taken for another (column).
    """

    score: float
    confusion: Tensor


def beta_vae_score(
    codes: Tensor,
    factors: Tensor | Dataset,
    *,
    train: int = 10_000,
    test: int = 5_000,
    batch_size: int = 64,
    generator: torch.Generator | None = None,
) -> BetaVAEScore:
    """Accuracy of guessing the shared factor from differences of codes.

    ``b_j = 1/L sum_l |z_j^(l) - z'_j^(l)|`` over L pairs of images that share factor k (each pair
    its own value of it); a linear classifier guesses k from b.

    Book equation: higgins-feature.  The classifier is scikit-learn's ``LogisticRegression``
    (softmax, quadratic penalty with C = 1), on features divided by their standard deviations so
    that the penalty does not depend on the scale of the codes.  The optimum is unique, so nothing
    but the pairs is random.  The numbers of batches and pairs are the library's; the first paper
    trained the same classifier by gradient steps.  A perfect score does not mean that each
    coordinate follows a factor: combinations pass, and so does a code without one of the factors;
    see ``example_codes(factors, "higgins-failure")``.  Source: Higgins et al. (ICLR 2017);
    Locatello et al. (arXiv 1811.12359) for the settings.

    Args:
        codes: mean codes ``(N, dim)``, see `encode_all`.
        factors: whole numbers ``(N, K)``, K at least 2, or the data set.
        train: batches to train on.
        test: batches to count right guesses on.
        batch_size: pairs a batch, L.
        generator: source of factors and pairs, on the CPU.

    Returns:
        `BetaVAEScore`; chance is ``1/K``.

    Raises:
        TypeError: if codes are no floats or factors no whole numbers.
        ValueError: for a data set without factors, unequal lengths, codes that are not finite, a
            factor with one value, or a value that only one image has.

    Example:
        >>> from tutor.metrics import example_codes
        >>> factors = torch.cartesian_prod(*[torch.arange(10)] * 3)
        >>> g = torch.Generator().manual_seed(0)
        >>> codes = example_codes(factors, "higgins-failure")
        >>> beta_vae_score(codes, factors, train=500, test=500, generator=g).score
        1.0
    """
    at_least_one(train=train, test=test, batch_size=batch_size)
    found = checked(codes, factors)
    k = len(found.sizes)
    if k < 2:
        raise ValueError("there is one factor only; nothing is left to guess")
    groups = group(found.values, found.sizes, at_least=2, why="a pair takes two")
    shared = torch.randint(k, (train + test,), generator=generator)
    features = _features(found.codes, found.values, groups, shared, batch_size, generator)
    guess = _classify(features[:train], shared[:train], features[train:])
    confusion = torch.bincount(shared[train:] * k + guess, minlength=k * k).view(k, k)
    return BetaVAEScore(confusion.trace().item() / test, confusion)


def _features(
    codes: Tensor,
    values: Tensor,
    groups: Groups,
    shared: Tensor,
    batch_size: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Mean absolute differences ``(B, dim)`` over pairs that share a factor."""
    parts = []
    for factor in shared.split(max(1, _ROWS // batch_size)):
        factor = factor[:, None].expand(-1, batch_size)  # (b, L)
        one = torch.randint(values.shape[1], factor.shape, generator=generator)
        other = groups.draw(factor, values[factor, one], generator)
        pairs = [codes.index_select(0, index.reshape(-1)) for index in (one, other)]
        gap = pairs[0].sub_(pairs[1]).abs_()
        parts.append(gap.view(*factor.shape, -1).mean(1))
    return torch.cat(parts)


def _classify(features: Tensor, labels: Tensor, others: Tensor) -> Tensor:
    """Guesses for other features, by a softmax regression."""
    from sklearn.linear_model import LogisticRegression

    if len(labels.unique()) < 2:
        raise ValueError("all batches to train on share one factor; raise train")
    std, mean = torch.std_mean(features.double(), 0, correction=0)
    std = torch.where(std > 0, std, 1)
    classifier = LogisticRegression(max_iter=2_000)
    classifier.fit(((features - mean) / std).numpy(), labels.numpy())
    return torch.from_numpy(classifier.predict(((others - mean) / std).numpy()))
