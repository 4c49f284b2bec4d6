"""The Frechet distance of two sets of features, as in the FID, and how sharp images are.

A set of features is summed up by its mean and covariance, which is all that is compared.  Which
features are taken decides what is seen: `digit_features` are those of a classifier of digits that
comes with the package; `fid` takes those of the Inception network, where its weights are at hand.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor, nn

from tutor.game import evaluating
from tutor.metrics._evaluate import at_least_one

_LAPLACIAN = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
_INCEPTION = "pt_inception-2015-12-05-6726825d.pth"


def frechet_distance(x: Tensor, y: Tensor) -> Tensor:
    """The squared 2-Wasserstein distance of the Gaussians fitted to two sets of features.

    ``|m_x - m_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2))``

    with means m and covariances S (divided by n - 1).  The trace of the root is the sum of the
    singular values of ``S_x^(1/2) S_y^(1/2)``; with symmetric roots nothing becomes complex or
    infinite where a covariance has no full rank (fewer points than dimensions, features that are
    always zero).  The value falls with the number of points: compare sets of equal size only, and
    beside a floor (`frechet_bias`, or two sets of real images).  Book equation: frechet-distance.
    Source: Heusel et al. (arXiv 1706.08500), who compare Inception features in this way.

    Args:
        x: features ``(n, dim)``, one example a row.
        y: features ``(m, dim)``.

    Returns:
        A scalar in float64, never negative; without gradient.

    Raises:
        TypeError: if x or y is not a tensor of floats.
        ValueError: for other shapes, fewer than two examples, or features that are not finite.

    Example:
        >>> x = torch.tensor([[0.0], [2.0]], dtype=torch.float64)  # variance 2
        >>> frechet_distance(x, 2 * x + 5)  # means 1 and 7, variances 2 and 8
        tensor(38.0000, dtype=torch.float64)
    """
    moments = [_moments(name, features) for name, features in (("x", x), ("y", y))]
    (mean_x, cov_x), (mean_y, cov_y) = moments
    if len(mean_x) != len(mean_y):
        raise ValueError(
            f"x has {len(mean_x)} features and y {len(mean_y)}; take both from one network"
        )
    return gaussian_frechet(mean_x, cov_x, mean_y, cov_y)


def gaussian_frechet(mean_x: Tensor, cov_x: Tensor, mean_y: Tensor, cov_y: Tensor) -> Tensor:
    """The squared 2-Wasserstein distance of N(mean_x, cov_x) and N(mean_y, cov_y).

    See `frechet_distance`; here the moments are given, as exact ones are where they are known.

    Args:
        mean_x, mean_y: ``(dim,)``.
        cov_x, cov_y: symmetric, no eigenvalue below 0, ``(dim, dim)``.

    Returns:
        A scalar in float64, never negative.

    Raises:
        ValueError: if the shapes do not agree.

    Example:
        >>> one = torch.eye(3)
        >>> gaussian_frechet(torch.zeros(3), one, torch.ones(3), 4 * one)  # 3 + 3 (2 - 1)^2
        tensor(6., dtype=torch.float64)
    """
    dim = len(mean_x)
    for name, value, shape in (
        ("mean_x", mean_x, (dim,)),
        ("mean_y", mean_y, (dim,)),
        ("cov_x", cov_x, (dim, dim)),
        ("cov_y", cov_y, (dim, dim)),
    ):
        if tuple(value.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}; expected {shape}")
    mean_x, cov_x, mean_y, cov_y = (v.detach().double() for v in (mean_x, cov_x, mean_y, cov_y))
    overlap = torch.linalg.svdvals(_root(cov_x) @ _root(cov_y)).sum()
    spread = cov_x.trace() + cov_y.trace() - 2 * overlap
    # The spread is a difference of equal numbers for equal covariances: rounding may leave -1e-15.
    return (mean_x - mean_y).square().sum() + spread.clamp(min=0)


def frechet_bias(
    x: Tensor, n: int, *, repeats: int = 5, generator: torch.Generator | None = None
) -> Tensor:
    """What `frechet_distance` gives between two sets of n from one distribution, on average.

    It is 0 for endless data only.  For Gaussian features with covariance eigenvalues s_i it is

    ``1/n (5/2 sum_i s_i + sum_ij s_i s_j / (s_i + s_j))``

    and terms in 1/n^2: it grows with the square of the number of features.  So a distance is read
    beside this number, and two distances are compared at the same n only.  Here it is measured on
    disjoint sets drawn at random from x, whatever the distribution.  Book equation: frechet-bias.

    Args:
        x: features ``(N, dim)`` of one distribution, N at least ``2 n``.
        n: examples in a set.
        repeats: pairs of sets to average over.
        generator: source of the choice, on the features' device.

    Raises:
        ValueError: if x has fewer than ``2 n`` rows; also as `frechet_distance`.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> x = torch.randn(2_000, 8, generator=g)
        >>> few, many = (frechet_bias(x, n, generator=g) for n in (50, 1_000))
        >>> bool(few > 10 * many > 0)
        True
    """
    at_least_one(n=n, repeats=repeats)
    if len(x) < 2 * n:
        raise ValueError(
            f"x has {len(x)} examples, two sets of {n} need {2 * n}; give more, or a smaller n"
        )
    values = []
    for _ in range(repeats):
        order = torch.randperm(len(x), generator=generator, device=x.device)
        values.append(frechet_distance(x[order[:n]], x[order[n : 2 * n]]))
    return torch.stack(values).mean()


def digit_features(images: Tensor, *, batch_size: int = 500) -> Tensor:
    """The 64 features of images of digits in the classifier that comes with the package.

    What the Inception network is to photographs, this classifier of MNIST is to digits: its last
    layer but one says what matters for telling digits apart, and little else.  Its weights are
    fixed (``tutor.pretrained.load("mnist_classifier")``), so distances can be compared between
    runs and readers.

    Args:
        images: ``(n, 1, 28, 28)`` in [0, 1].
        batch_size: images at once.

    Returns:
        ``(n, 64)``, none below 0; on the CPU, without gradient.

    Raises:
        TypeError: if the images are no tensor of floats.
        ValueError: for another shape, no images, or values outside [0, 1].

    Example:
        >>> digit_features(torch.zeros(3, 1, 28, 28)).shape
        torch.Size([3, 64])
    """
    at_least_one(batch_size=batch_size)
    classifier = _classifier()
    images = _in_unit_interval(images).cpu().float()
    with evaluating(classifier):
        return torch.cat([classifier.features(some) for some in images.split(batch_size)])


def sharpness(images: Tensor) -> Tensor:
    """How much images vary from pixel to pixel: the variance of their Laplacian, one an image.

    The image (grey: the mean of its channels) is filtered with
    ``[[0, 1, 0], [1, -4, 1], [0, 1, 0]]`` where the filter fits inside; the value is the variance
    over all places.  Blur lowers it, and so does a low contrast; noise raises it.  So compare it
    with that of the data, neither lower nor higher is better in itself.  Book equation: sharpness.
    Source: Tolstikhin et al. (arXiv 1711.01558), section 4.

    Args:
        images: ``(n, C, H, W)`` in [0, 1], H and W at least 3.

    Returns:
        Shape ``(n,)``, in squared units of grey value; the paper reports the mean.

    Raises:
        TypeError: if the images are no tensor of floats.
        ValueError: for another shape, no images, images below 3x3, or values outside [0, 1].

    Example:
        >>> edge = torch.zeros(1, 1, 4, 4)
        >>> edge[..., 2:] = 1  # the filter gives 1 left of the edge and -1 right of it
        >>> sharpness(edge)
        tensor([1.])
    """
    images = _in_unit_interval(images).detach()
    if min(images.shape[2:]) < 3:
        raise ValueError(
            f"images are {images.shape[2]}x{images.shape[3]}; the Laplacian needs 3x3 pixels"
        )
    grey = images.mean(1, keepdim=True)
    response = nn.functional.conv2d(grey, _LAPLACIAN[None, None].to(grey))
    return response.flatten(1).var(1, correction=0)


def fid(images: Tensor, others: Tensor, *, batch_size: int = 50) -> Tensor:
    """The Frechet inception distance: `frechet_distance` in the features of the Inception network.

    The network and its weights are those of the package ``pytorch_fid``, converted from the file
    that the published distances were computed with.  This function downloads nothing: where the
    package or its weights are missing it says what to do.

    Args:
        images: ``(n, 1 or 3, H, W)`` in [0, 1]; grey ones are shown in three equal channels.
        others: ``(m, 1 or 3, H, W)``, usually real images; published values take 10 000 or 50 000.
        batch_size: images at once.

    Raises:
        ModuleNotFoundError: if ``pytorch_fid`` is not installed.
        FileNotFoundError: if the weights are not on this machine.
        TypeError, ValueError: for images that are no floats in [0, 1], or have 2 or more than
            3 channels.
    """
    at_least_one(batch_size=batch_size)
    sets = [_in_unit_interval(each) for each in (images, others)]
    for each in sets:
        if each.shape[1] not in (1, 3):
            raise ValueError(
                f"images have {each.shape[1]} channels; Inception takes colour (3) or grey (1)"
            )
    network = _inception()
    with evaluating(network):
        features = [
            torch.cat(
                [network(some.expand(-1, 3, -1, -1))[0].flatten(1) for some in e.split(batch_size)]
            )
            for e in sets
        ]
    return frechet_distance(*features)


@functools.cache
def _classifier() -> nn.Module:
    from tutor.pretrained import load

    return load("mnist_classifier")


def _inception() -> nn.Module:
    try:
        from pytorch_fid.inception import InceptionV3
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the FID needs the Inception network of the package pytorch_fid, which is not "
            "installed: pip install pytorch-fid; for digits, tutor.metrics.digit_features with "
            "frechet_distance needs nothing more"
        ) from error
    weights = Path(torch.hub.get_dir()) / "checkpoints" / _INCEPTION
    if not weights.exists():
        raise FileNotFoundError(
            f"the weights of the Inception network are not at {weights}; load them once with "
            "network access, by `from pytorch_fid.inception import InceptionV3; InceptionV3()`"
        )
    return InceptionV3([InceptionV3.BLOCK_INDEX_BY_DIM[2048]])


def _root(cov: Tensor) -> Tensor:
    """The symmetric square root; rounding may leave eigenvalues just below 0."""
    values, vectors = torch.linalg.eigh(cov)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def _moments(name: str, features: Tensor) -> tuple[Tensor, Tensor]:
    if not isinstance(features, Tensor) or not features.is_floating_point():
        given = features.dtype if isinstance(features, Tensor) else type(features).__name__
        raise TypeError(f"{name} is {given}; expected features (n, dim), a tensor of floats")
    if features.dim() != 2 or features.shape[1] == 0:
        raise ValueError(
            f"{name} has shape {tuple(features.shape)}; expected features (n, dim), one example a "
            "row (for digits: digit_features(images))"
        )
    if len(features) < 2:
        raise ValueError(f"{name} has {len(features)} examples; a covariance needs at least 2")
    if bad := (~features.isfinite()).any(1).sum().item():
        raise ValueError(f"{bad} of {len(features)} rows of {name} are not finite")
    features = features.detach().double()
    mean = features.mean(0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


def _in_unit_interval(images: Tensor) -> Tensor:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        given = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images are {given}; expected a tensor of floats in [0, 1]")
    if images.dim() != 4 or len(images) == 0:
        raise ValueError(f"images have shape {tuple(images.shape)}; expected (n, C, H, W), n > 0")
    low, high = (v.item() for v in torch.aminmax(images.detach()))
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"images range from {low:.4g} to {high:.4g}; expected [0, 1]: divide bytes by 255, "
            "clamp the means of a Gaussian decoder with .clamp(0, 1)"
        )
    return images
