"""How well codes match a prior: three distances, each beside that of the prior to itself."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from tutor.metrics.two_sample import (
    classifier_two_sample,
    energy_distance,
    noise_floor,
    sliced_wasserstein,
)


class PriorMatch(NamedTuple):
    """Means over blocks of n codes, each block against n new draws of the prior.

    ``energy``
        squared energy distance with the pairs of a point and itself left in (a V-statistic): it
        is never negative, so it has a floor to be divided by.
    ``energy_floor``
        its mean between two samples of the prior, n points each.
    ``unbiased``, ``unbiased_std``
        the estimate without those pairs, zero on average for equal distributions, and its
        standard deviation between two samples of the prior.
    ``sliced``, ``sliced_floor``
        sliced Wasserstein-1 distance, and its mean between two samples of the prior.
    ``accuracy``, ``accuracy_std``
        of a nearest-neighbour classifier that tells codes from draws: 0.5 if it can't; and its
        standard deviation then, for a single block.
    ``blocks``
        how many blocks the means are over.
    """

    energy: float
    energy_floor: float
    unbiased: float
    unbiased_std: float
    sliced: float
    sliced_floor: float
    accuracy: float
    accuracy_std: float
    blocks: int

    @property
    def ratio(self) -> float:
        """``energy / energy_floor``: 1 for a perfect match."""
        return self.energy / self.energy_floor


def prior_match(
    codes: Tensor,
    prior: nn.Module,
    *,
    n: int = 1000,
    repeats: int = 50,
    generator: torch.Generator | None = None,
) -> PriorMatch:
    """Compare codes with draws of a prior, n against n.

    The codes are shuffled and cut into blocks of n, so that every code counts once.  (Shuffled,
    because data sets are often sorted: the two halves of the MNIST test set come from different
    groups of writers.)

    Args:
        codes: ``(N, dim)``, N a multiple of n.
        prior: has ``sample``.
        n: points in each sample; distances between other numbers of points have other floors.
        repeats: pairs of samples of the prior for the floors.
        generator: source of all draws, on the prior's device.

    Raises:
        ValueError: if the number of codes is no multiple of n; also as `energy_distance`.

    Example:
        >>> from tutor.priors import Gaussian
        >>> g = torch.Generator().manual_seed(0)
        >>> codes = Gaussian(2).sample((2000,), generator=g)
        >>> match = prior_match(codes, Gaussian(2), n=200, generator=g)
        >>> 0.5 < match.ratio < 1.5
        True
    """
    if len(codes) == 0 or len(codes) % n:
        raise ValueError(
            f"there are {len(codes)} codes, blocks of {n} do not use them all; give a multiple of "
            "n, or choose another n"
        )

    def draw(count: int, g: torch.Generator | None) -> Tensor:
        return prior.sample((count,), generator=g)

    def sliced(x: Tensor, y: Tensor) -> Tensor:
        return sliced_wasserstein(x, y, directions=100, generator=generator)

    rows = []
    order = torch.randperm(len(codes), generator=generator, device=codes.device)
    for block in codes.detach()[order].split(n):
        z = draw(n, generator).to(block)
        test = classifier_two_sample(block, z, generator=generator)
        rows.append([_energy(block, z), energy_distance(block, z), sliced(block, z), test.accuracy])
    energy, unbiased, slices, accuracy = torch.tensor(rows, dtype=torch.float64).mean(0).tolist()
    floors = [
        noise_floor(distance, draw, n, repeats=repeats, generator=generator)
        for distance in (_energy, energy_distance, sliced)
    ]
    return PriorMatch(
        energy=energy,
        energy_floor=floors[0].mean.item(),
        unbiased=unbiased,
        unbiased_std=floors[1].std.item(),
        sliced=slices,
        sliced_floor=floors[2].mean.item(),
        accuracy=accuracy,
        accuracy_std=test.standard_error.item(),
        blocks=len(rows),
    )


def _energy(x: Tensor, y: Tensor) -> Tensor:
    """The energy distance with each point paired with itself as well, n points against n."""
    n = len(x)
    within = sum(2 * torch.pdist(z.double()).sum() / (n * (n - 1)) for z in (x, y))
    return energy_distance(x, y) + within / n
