"""The uniform prior on a box."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tutor.priors.base import Prior


class UniformBox(Prior):
    """The uniform density on the box from -1 to 1 in every dimension.

    In the plane it has classes of equal weight: the square is cut into rows, the rows into cells,
    counted from the lower left, row by row.  Where ``classes`` is a square number this is the
    square grid.  Otherwise rows may hold one cell more or less and are that much taller or
    flatter, at most ``ceil(sqrt(classes))`` cells to a row, so that all cells have equal area and
    fill the square: ten classes give rows of 4, 3 and 3.  Public code takes the first ten cells
    of the grid of 4 by 4 instead; six cells stay empty, and codes that obey the labels cannot
    match the prior.

    Source: Makhzani et al. (arXiv 1511.05644) leave the prior free; the uniform one is from
    public code.

    Args:
        dim: number of latent dimensions, at least 1.
        classes: number of cells that `sample_class` knows, where ``dim`` is 2.

    Raises:
        ValueError: if ``dim`` or ``classes`` is less than 1.

    Example:
        >>> prior = UniformBox(2)
        >>> prior.sample((5,), generator=torch.Generator().manual_seed(0)).shape
        torch.Size([5, 2])
        >>> prior.log_prob(torch.tensor([[0.5, -0.5], [0.5, -1.5]]))  # log 1/4; outside
        tensor([-1.3863,    -inf])
    """

    def __init__(self, dim: int, *, classes: int = 10) -> None:
        super().__init__(dim, classes)
        # Kept in double precision whatever the model's, and cast to the codes' when used.
        self._low, self._high = _cells(classes)

    def sample(self, shape: tuple[int, ...], *, generator: torch.Generator | None = None) -> Tensor:
        """Draws of shape ``shape + (dim,)`` on the prior's device."""
        return 2 * self._uniform((*shape, self.dim), generator) - 1

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats, ``-inf`` outside the box; ``(..., dim)`` gives ``(...)``.

        The density is flat, so its gradient is zero everywhere: it leads no code into the box.

        Raises:
            ValueError: if the last axis of z is not ``dim``.
            TypeError: if z does not hold real numbers.
        """
        self._check_codes(z)
        return _flat(z, (z.abs() <= 1).all(-1), -self.dim * math.log(2))

    def sample_class(self, labels: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """One draw from each label's cell: ``(n,)`` gives ``(n, 2)``.

        Raises:
            TypeError: if labels are not whole numbers, ``torch.int64``.
            ValueError: if labels are not ``(n,)``, one is not the number of a cell, or ``dim`` is
                not 2.

        Example:
            >>> UniformBox(2, classes=4).sample_class(torch.arange(4)).sign()
            tensor([[-1., -1.],
                    [ 1., -1.],
                    [-1.,  1.],
                    [ 1.,  1.]])
        """
        self._check_plane()
        labels = self._check_labels(labels)
        place = self._uniform((*labels.shape, 2), generator)
        # lerp, unlike low + (high - low) * place, never rounds to a point outside the cell
        return torch.lerp(
            self._like(place, "_low")[labels], self._like(place, "_high")[labels], place
        )

    def log_prob_class(self, z: Tensor, labels: Tensor) -> Tensor:
        """Log-density of each code in its label's cell, ``-inf`` elsewhere; ``(n,)`` in nats.

        Raises:
            TypeError: as `log_prob` and `sample_class`.
            ValueError: as `log_prob` and `sample_class`.

        Example:
            >>> z = torch.tensor([[0.5, -0.5], [0.5, 0.5]])
            >>> UniformBox(2, classes=4).log_prob_class(z, torch.tensor([1, 1]))
            tensor([0.,   -inf])
        """
        self._check_plane()
        labels = self._check_labels(labels).to(z.device)
        self._check_codes(z, labels)
        low, high = self._like(z, "_low")[labels], self._like(z, "_high")[labels]
        return _flat(z, ((low <= z) & (z <= high)).all(-1), math.log(self.classes / 4))

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


def _flat(z: Tensor, inside: Tensor, log_density: float) -> Tensor:
    # The term in z is zero: it ties the result to z, so that backward finds a gradient of zero
    # rather than none, and NaN codes stay NaN instead of counting as outside.
    nothing = 0 * z.clamp(-1, 1).sum(-1)
    return torch.where(inside, 0.0, -math.inf) + nothing + log_density


def _cells(classes: int) -> tuple[Tensor, Tensor]:
    """Lower left and upper right corners of cells of equal area, both ``(classes, 2)``."""
    rows = math.ceil(classes / math.ceil(math.sqrt(classes)))
    low, high, below = [], [], 0  # how many cells lie below this row
    for row in range(rows):
        columns = classes // rows + (row < classes % rows)
        bottom, top = below / classes, (below + columns) / classes
        low += [(column / columns, bottom) for column in range(columns)]
        high += [((column + 1) / columns, top) for column in range(columns)]
        below += columns
    return tuple(2 * torch.tensor(corners, dtype=torch.float64) - 1 for corners in (low, high))
