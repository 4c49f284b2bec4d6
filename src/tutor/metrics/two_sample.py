"""Are two samples from one distribution?  Three distances, each beside what chance alone gives.

They need points and no density, so they compare codes with a prior, or one approximate posterior
with another.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tutor.metrics._evaluate import at_least_one

_ENTRIES = 4_000_000  # entries of a table at once


class ClassifierTest(NamedTuple):
    """``accuracy`` on held-out points and its ``standard_error`` if the samples were alike."""

    accuracy: Tensor
    standard_error: Tensor


class NoiseFloor(NamedTuple):
    """``mean`` and ``std`` of a distance between samples of one distribution."""

    mean: Tensor
    std: Tensor


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """The squared energy distance of two distributions, estimated without bias.

    ``D^2 = 2 E|X - Y| - E|X - X'| - E|Y - Y'|``

    with Euclidean norms.  Where means are finite it is zero only for equal distributions; in one
    dimension it is twice the integral of the squared difference of the distribution functions.
    A point is not paired with itself (a U-statistic), so the mean over samples is exact.  Between
    equal distributions that mean is 0 and most estimates are slightly negative: the floor to
    compare with is the ``std`` of `noise_floor`, not its ``mean``.  (With the pairs of a point
    and itself left in, n points against n, the estimate would be higher by the sum of the two
    average distances within a sample, over n.)  Book equations: energy-distance, energy-bias.
    Source: Székely & Rizzo (2013), Energy statistics: a class of statistics based on distances.

    Args:
        x: points ``(n, dim)``, one a row.
        y: points ``(m, dim)``.

    Returns:
        A scalar in float64, in the unit of the points (a squared distance in name only);
        without gradient.

    Raises:
        TypeError: if x or y is not a tensor of floats.
        ValueError: for other shapes, fewer than two points, or points that are not finite.

    Example:
        >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[5.0], [6.0]])
        >>> energy_distance(x, y)  # 2 * 5 - 1 - 1
        tensor(8., dtype=torch.float64)
    """
    x, y = _pair(x, y)
    n, m = len(x), len(y)
    between = _sum_of_distances(x, y) / (n * m)
    within_x = _sum_of_distances(x, x) / (n * (n - 1))
    within_y = _sum_of_distances(y, y) / (m * (m - 1))
    return 2 * between - within_x - within_y


def sliced_wasserstein(
    x: Tensor,
    y: Tensor,
    *,
    directions: int = 500,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The sliced Wasserstein-1 distance of two samples of equal size.

    ``SW_1 = E_theta W_1(<theta, x>, <theta, y>)`` with theta uniform on the unit sphere

    In one dimension optimal transport moves the i-th smallest point to the i-th smallest:
    ``W_1 = 1/n sum_i |a_(i) - b_(i)|``.  The expectation is a mean over random directions.  It is
    positive even between samples of one distribution; see `noise_floor`.  A shift by v gives
    ``E|<theta, v>| = |v| Gamma(d/2) / (sqrt(pi) Gamma((d+1)/2))``, less than the ``|v|`` of
    unsliced transport.  Book equation: sliced-wasserstein.  Source: Rabin, Peyré, Delon & Bernot
    (2011) and Bonneel, Rabin, Peyré & Pfister (2015), Sliced and Radon Wasserstein barycenters of
    measures, who take W_2.

    Args:
        x: points ``(n, dim)``, one a row.
        y: points ``(n, dim)``.
        directions: random directions to average over.
        generator: source of the directions, on the points' device.

    Returns:
        A scalar in float64, in the unit of the points; without gradient.

    Raises:
        TypeError: if x or y is not a tensor of floats.
        ValueError: if x and y differ in size; also as `energy_distance`.

    Example:
        >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[6.0], [5.0]])
        >>> sliced_wasserstein(x, y)
        tensor(5., dtype=torch.float64)
    """
    at_least_one(directions=directions)
    x, y = _pair(x, y, equal=True)
    theta = torch.randn(directions, x.shape[1], generator=generator, device=x.device, dtype=x.dtype)
    theta = theta / theta.norm(dim=1, keepdim=True)
    total = x.new_zeros(())
    for some in theta.split(max(1, _ENTRIES // len(x))):
        a, b = (x @ some.T).sort(0).values, (y @ some.T).sort(0).values  # (n, directions)
        total = total + (a - b).abs().mean(0).sum()
    return total / directions


def classifier_two_sample(
    x: Tensor, y: Tensor, *, generator: torch.Generator | None = None
) -> ClassifierTest:
    """The classifier two-sample test: can nearest neighbours tell x from y?

    ``accuracy = 1/N_test sum_i [majority label of the k nearest training points = label_i]``

    Half of each sample, taken at random, is the training set; the rest is classified, with k the
    largest odd number up to the square root of the number of training points.  0.5 means that
    the classifier cannot tell them apart, 1 that it always can.  Both halves hold as many points
    of x as of y, so the expected accuracy between equal distributions is exactly 0.5; its
    standard error is then ``0.5 / sqrt(N_test)``.  x and y must be independent: a point that is
    in both pulls the accuracy below 0.5.  Distances are Euclidean in the units given.
    Book equation: best-accuracy.  Source: Lopez-Paz & Oquab (arXiv 1610.06545).

    Args:
        x: points ``(n, dim)``, one a row.
        y: points ``(n, dim)``.
        generator: source of the split, on the points' device.

    Returns:
        `ClassifierTest`, two scalars in float64.

    Raises:
        TypeError: if x or y is not a tensor of floats.
        ValueError: if x and y differ in size; also as `energy_distance`.

    Example:
        >>> x = torch.arange(50.0).unsqueeze(1)
        >>> classifier_two_sample(x, x + 1000)
        ClassifierTest(accuracy=tensor(1., dtype=...), standard_error=tensor(0.0707, dtype=...))
    """
    x, y = _pair(x, y, equal=True)
    half = len(x) // 2
    train, test = [], []
    for points in (x, y):
        order = torch.randperm(len(points), generator=generator, device=points.device)
        train.append(points[order[:half]])
        test.append(points[order[half:]])
    k = (math.isqrt(2 * half) - 1) // 2 * 2 + 1  # odd: a vote is never tied
    known = torch.cat(train)
    correct = 0
    for label, points in enumerate(test):
        for some in points.split(max(1, _ENTRIES // len(known))):
            neighbours = _distances(some, known).topk(k, largest=False).indices
            votes = (neighbours >= half).sum(1)  # rows of y come second
            correct += ((votes > k // 2) == bool(label)).sum()
    count = 2 * (len(x) - half)
    return ClassifierTest(correct / x.new_tensor(count), x.new_tensor(0.5 / math.sqrt(count)))


def noise_floor(
    distance: Callable[[Tensor, Tensor], Tensor],
    draw: Callable[[int, torch.Generator | None], Tensor],
    n: int,
    *,
    repeats: int,
    generator: torch.Generator | None = None,
) -> NoiseFloor:
    """What a distance gives between two independent samples of one distribution.

    ``mean`` and ``std`` of ``distance(X, X')``, where X and X' are n draws each

    This is what a perfect match gives at n points, so print it beside every value.  A distance
    that is never negative has a floor in ``mean``; one without bias, such as `energy_distance`,
    has mean 0 and its floor in ``std``.

    Args:
        distance: of two samples ``(n, dim)``, a scalar.
        draw: ``draw(n, generator)`` gives n new points, ``(n, dim)``.
        n: points in a sample, the same as in the comparison it is put beside.
        repeats: pairs of samples, at least 2.
        generator: handed to ``draw``, on the device it draws on.

    Returns:
        `NoiseFloor`, two scalars in float64; ``std`` is of one value, divided by
        ``sqrt(repeats)`` it is the standard error of ``mean``.

    Raises:
        TypeError: if ``distance`` does not give one number.
        ValueError: if ``draw`` does not give n points, or repeats is below 2.

    Example:
        >>> from tutor.priors import Gaussian
        >>> g = torch.Generator().manual_seed(0)
        >>> def draw(n, generator):
        ...     return Gaussian(2).sample((n,), generator=generator)
        >>> floor = noise_floor(energy_distance, draw, 200, repeats=20, generator=g)
        >>> far = energy_distance(draw(200, g), draw(200, g) + 1)
        >>> bool(far > 20 * floor.std), bool(floor.mean.abs() < floor.std)
        (True, True)
    """
    at_least_one(n=n, repeats=repeats)
    if repeats < 2:
        raise ValueError(f"repeats is {repeats}; a standard deviation needs at least 2")
    values = []
    for _ in range(repeats):
        samples = draw(n, generator), draw(n, generator)
        if any(len(sample) != n for sample in samples):
            raise ValueError(
                f"draw gave {' and '.join(str(len(s)) for s in samples)} points; expected n = {n}"
            )
        values.append(_number(distance(*samples)))
    std, mean = torch.std_mean(torch.tensor(values, dtype=torch.float64))
    return NoiseFloor(mean, std)


def _number(value: object) -> float:
    if not isinstance(value, (int, float)) and not (isinstance(value, Tensor) and value.dim() == 0):
        raise TypeError(
            f"distance gave a {type(value).__name__}; expected one number, for example by "
            "lambda x, y: classifier_two_sample(x, y).accuracy"
        )
    return float(value)


def _distances(x: Tensor, y: Tensor) -> Tensor:
    # Not by a matrix product: its squares cancel, and close points would get a wrong distance.
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _sum_of_distances(x: Tensor, y: Tensor) -> Tensor:
    blocks = x.split(max(1, _ENTRIES // len(y)))
    return torch.stack([_distances(some, y).sum() for some in blocks]).sum()


def _pair(x: Tensor, y: Tensor, *, equal: bool = False) -> tuple[Tensor, Tensor]:
    for name, points in (("x", x), ("y", y)):
        if not isinstance(points, Tensor) or not points.is_floating_point():
            given = points.dtype if isinstance(points, Tensor) else type(points).__name__
            raise TypeError(f"{name} is {given}; expected a tensor of floats (n, dim)")
        if points.dim() != 2 or points.shape[1] == 0:
            raise ValueError(
                f"{name} has shape {tuple(points.shape)}; expected (n, dim), one point a row "
                "(for images: images.flatten(1))"
            )
        if len(points) < 2:
            raise ValueError(f"{name} has {len(points)} points; expected at least 2")
        if bad := (~points.isfinite()).any(1).sum().item():
            raise ValueError(
                f"{bad} of {len(points)} points of {name} are not finite (NaN or infinite); "
                "look for a training that diverged"
            )
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x has {x.shape[1]} dimensions and y {y.shape[1]}; expected the same")
    if equal and len(x) != len(y):
        raise ValueError(
            f"x has {len(x)} points and y {len(y)}; expected as many: take the first "
            f"{min(len(x), len(y))} of both, if their order is random"
        )
    return x.detach().double(), y.detach().double()
