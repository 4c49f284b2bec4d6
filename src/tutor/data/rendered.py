"""Images that are drawn when they are asked for: the data set keeps what they show."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tutor.data.dataset import Dataset
from tutor.data.factors import checked_factors


class RenderedDataset(Dataset):
    """A `Dataset` whose storage is the factors of its images, one byte each.

    ``images`` holds them, ``(N, K)``; a batch is a gather of rows and a drawing.  All 480 000 rooms
    take 3 MB this way, where pixels as bytes would take 5.9 GB.

    Args:
        factors: whole numbers ``(N, K)``, what each image shows.
        render: takes factors ``(n, K)``, int64, and gives images ``(n, C, H, W)`` on their device,
            float32 in [0, 1]; the same factors always give the same image.
        shape: ``(C, H, W)``.
        recipe: names what `render` draws; it enters the fingerprint in the place of the pixels.
        factor_names, factor_sizes: K names, and K numbers of values, at most 256.
        name, split: as in `Dataset`.

    Raises:
        TypeError: if factors are no tensor of whole numbers.
        ValueError: if they are not ``(N, K)``, none at all or out of range, or a factor has more
            than 256 values.

    Example:
        >>> def grey(factors):  # an image of one pixel
        ...     return (factors / 9).view(-1, 1, 1, 1)
        >>> shades = torch.tensor([[0], [9]])
        >>> ds = RenderedDataset(shades, grey, (1, 1, 1), recipe="grey", factor_names=["shade"],
        ...                      factor_sizes=[10], name="shades")
        >>> ds, ds[1]
        (Dataset('shades', 2 images of shape (1, 1, 1)), tensor([[[1.]]]))
    """

    def __init__(
        self,
        factors: Tensor,
        render: Callable[[Tensor], Tensor],
        shape: tuple[int, int, int],
        *,
        recipe: str,
        factor_names: Sequence[str],
        factor_sizes: Sequence[int],
        name: str = "custom",
        split: str | None = None,
    ) -> None:
        if max(factor_sizes) > 256:
            raise ValueError(f"factors have {tuple(factor_sizes)} values; expected 256 at most")
        checked = checked_factors(factors, factor_names, factor_sizes)
        if len(checked) == 0:
            raise ValueError("there is no image; a data set needs at least one")
        self.images, self.factors = checked.to(torch.uint8), checked
        self.labels = None
        self.name = self.requested = name
        self.split = split
        self.classes = None
        self.factor_names, self.factor_sizes = tuple(factor_names), tuple(factor_sizes)
        self._draws_each_time = False
        self._render, self._shape, self._recipe = render, tuple(shape), recipe

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape ``(C, H, W)`` of one image."""
        return self._shape

    def take(self, index: Tensor) -> Tensor:
        """The batch ``(n, C, H, W)``, drawn; as `Dataset.take`."""
        rows = self.images.index_select(0, self._checked(index).to(self.images.device))
        return self._render(rows.long())

    def binarized(self, seed: int = 0) -> Dataset:
        """Not for colours: raises a TypeError."""
        raise self._not_binary()

    def binarized_each_time(self) -> Dataset:
        """Not for colours: raises a TypeError."""
        raise self._not_binary()

    def fingerprint(self) -> str:
        """As `Dataset.fingerprint`, over the factors and the recipe: nothing is drawn."""
        digest = hashlib.sha256(f"rendered: {self._recipe} {self._shape}".encode())
        digest.update(f"{tuple(self.images.shape)}".encode())
        digest.update(self.images.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _not_binary(self) -> TypeError:
        return TypeError(
            f"the images of {self.name!r} are drawn in colours when they are asked for; a channel "
            "of a colour is no probability of white, so there is nothing to binarize. Train on "
            "them as they are"
        )
