"""Black-and-white images as bits: eight pixels a byte, unpacked batch by batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tutor.data.dataset import Dataset


class PackedDataset(Dataset):
    """A `Dataset` of binary images whose storage is an eighth of a byte a pixel.

    ``images`` holds the bytes, ``(N, H W / 8)``; a batch is a gather of rows and a shift.  All 737
    280 sprites take 360 MiB this way, where float images would take 11.5 GiB.

    Args:
        packed: uint8 ``(N, H W / 8)``, rows of pixels from the top, the first pixel of a byte in
            its highest bit (as `numpy.packbits`).
        shape: ``(1, H, W)``.
        factors: whole numbers ``(N, K)``, what each image shows.
        factor_names, factor_sizes: K names, and K numbers of values.
        name: of the data set.
        split: as in `Dataset`.

    Raises:
        TypeError: if the bytes are not uint8.
        ValueError: if their number is not that of the shape, or of the factors.

    Example:
        >>> ds = PackedDataset(torch.tensor([[0b10000001]], dtype=torch.uint8), (1, 2, 4))
        >>> ds[0]
        tensor([[[1., 0., 0., 0.],
                 [0., 0., 0., 1.]]])
    """

    def __init__(
        self,
        packed: Tensor,
        shape: tuple[int, int, int],
        *,
        factors: Tensor | None = None,
        factor_names: Sequence[str] = (),
        factor_sizes: Sequence[int] = (),
        name: str = "custom",
        split: str | None = None,
    ) -> None:
        if packed.dtype != torch.uint8:
            raise TypeError(f"packed images are {packed.dtype}; expected uint8, eight pixels each")
        channels, height, width = shape
        if channels != 1 or packed.dim() != 2 or packed.shape[1] * 8 != height * width:
            raise ValueError(
                f"packed images have shape {tuple(packed.shape)} for images {tuple(shape)}; "
                f"expected (N, {height * width // 8}) and one channel"
            )
        if len(packed) == 0:
            raise ValueError("there is no image; a data set needs at least one")
        if factors is not None and factors.shape != (len(packed), len(factor_names)):
            raise ValueError(
                f"factors have shape {tuple(factors.shape)} for {len(packed)} images and "
                f"{len(factor_names)} names"
            )
        self.images = packed
        self.labels = None
        self.name = self.requested = name
        self.split = split
        self.classes = None
        self.factors = factors
        self.factor_names, self.factor_sizes = tuple(factor_names), tuple(factor_sizes)
        self._draws_each_time = False
        self._shape = tuple(shape)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape ``(1, H, W)`` of one image."""
        return self._shape

    def take(self, index: Tensor) -> Tensor:
        """The batch ``(n, 1, H, W)`` of zeros and ones, float32; as `Dataset.take`."""
        rows = self.images.index_select(0, self._checked(index).to(self.images.device))
        shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=rows.device)
        bits = (rows.unsqueeze(2) >> shifts) & 1  # (n, bytes, 8)
        return bits.view(len(rows), *self._shape).to(torch.float32)

    def binarized(self, seed: int = 0) -> Dataset:
        """The data set itself: its pixels are 0 or 1 with certainty."""
        return self._map(lambda values: values)

    def binarized_each_time(self) -> Dataset:
        """The data set itself: every draw would be the same."""
        return self._map(lambda values: values)
