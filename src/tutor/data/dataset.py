"""A data set as one tensor: nothing is loaded, decoded or copied image by image."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tutor.data.arrays import checked_images, checked_labels, is_whole
from tutor.devices import may_look

if TYPE_CHECKING:
    from tutor.data.labelled import Labelled

Index = int | slice | Sequence[int] | np.ndarray | Tensor


class Dataset:
    """Images in one tensor, stored as ``uint8``, handed out as ``float32`` grey values in [0, 1].

    A batch is a gather from that tensor, on whatever device it lives; there is no loader.

    Args:
        images: ``(N, C, H, W)`` or ``(N, H, W)``; ``uint8`` in 0..255, or floating point in [0, 1]
            (then kept as ``float32``). A tensor or a NumPy array; not copied without need.
        labels: ``N`` whole numbers, or ``None``.
        name: what to call the data set, for instance on a plot.
        split: ``"train"``, ``"test"``, ``"all"`` or ``None``.
        classes: the name of each label, if labels have names.

    Attributes:
        images: the storage, ``(N, C, H, W)``, ``uint8`` or ``float32``.
        labels: LongTensor ``(N,)`` or ``None``.
        factors, factor_names, factor_sizes: the true factors of variation ``(N, K)``, for data sets
            that are drawn from such factors; ``None``, ``()`` and ``()`` for all others.
        name, requested: what the data are, and what was asked for. They differ only when
            :func:`tutor.data.load` fell back to another data set.

    Raises:
        TypeError: images or labels of a type that has no agreed meaning as grey values or classes.
        ValueError: wrong number of dimensions, no images, values outside [0, 1], not one label
            per image.

    Example:
        >>> import torch
        >>> from tutor.data import Dataset
        >>> ds = Dataset(torch.rand(5, 28, 28), labels=[3, 1, 4, 1, 5], name="mine")
        >>> ds
        Dataset('mine', 5 images of shape (1, 28, 28), labels 1..5)
        >>> ds[0].shape, ds[1:3].shape, ds[torch.tensor([0, -1])].shape
        (torch.Size([1, 28, 28]), torch.Size([2, 1, 28, 28]), torch.Size([2, 1, 28, 28]))
    """

    def __init__(
        self,
        images: Tensor | np.ndarray,
        labels: Tensor | np.ndarray | Sequence[int] | None = None,
        *,
        name: str = "custom",
        split: str | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.images = checked_images(images)
        self.labels = None if labels is None else checked_labels(labels, len(self.images))
        if self.labels is not None:
            self.labels = self.labels.to(self.images.device)
        self.name = name
        self.requested = name
        self.split = split
        self.classes = None if classes is None else tuple(classes)
        self.factors: Tensor | None = None
        self.factor_names: tuple[str, ...] = ()
        self.factor_sizes: tuple[int, ...] = ()
        self._draws_each_time = False

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape ``(C, H, W)`` of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def __getitem__(self, index: Index) -> Tensor:
        """Images as ``float32`` in [0, 1]: ``(C, H, W)`` for an integer, else ``(n, C, H, W)``.

        Takes what a list takes (integers, negative ones too, and slices of any step), and what a
        tensor takes (whole numbers in a list, array or tensor; a mask of ``N`` truth values).

        Raises:
            IndexError: an index beyond the data, or a mask of another length.
            TypeError: an index of any other type.
        """
        if _is_integer(index):
            return self.take(torch.tensor([operator.index(index)]))[0]
        return self.take(self._positions(index))

    def take(self, index: Tensor) -> Tensor:
        """The batch ``images[index]``: float32 ``(n, C, H, W)`` in [0, 1], on the storage's device.

        This is the training loop's way in: one gather of ``uint8`` and one conversion.

        Args:
            index: LongTensor ``(n,)``; negative entries count from the end.

        Raises:
            IndexError: an entry beyond the data.
            TypeError, ValueError: not a one-dimensional tensor of int64.

        Example:
            >>> import torch
            >>> from tutor.data import four_points
            >>> four_points().take(torch.tensor([2])).flatten()
            tensor([0., 0., 1., 0.])
        """
        batch = self.images.index_select(0, self._checked(index).to(self.images.device))
        if self._draws_each_time:
            return _bernoulli(batch, generator=None).to(torch.float32)
        return batch.to(torch.float32) / 255 if batch.dtype == torch.uint8 else batch

    def subset(self, index: Index) -> Dataset:
        """The data set of these images only, with their labels and factors.

        Example:
            >>> from tutor.data import load
            >>> ds = load("digits")
            >>> ds.subset(ds.labels == 3)
            Dataset('digits', split='train', 153 images of shape (1, 28, 28), labels 3..3)
        """
        positions = self._positions([index] if _is_integer(index) else index)
        if len(positions) == 0:
            raise ValueError("this subset holds no image; a data set needs at least one")
        return self._map(lambda values: values.index_select(0, positions.to(values.device)))

    def to(self, device: torch.device | str) -> Dataset:
        """The same data on another device (images, labels and factors)."""
        return self._map(lambda values: values.to(device))

    def binarized(self, seed: int = 0) -> Dataset:
        """Black-and-white images: every pixel drawn once, white with probability its grey value.

        The draw depends on ``seed`` alone (it is made on the CPU whatever the device), so that the
        result is one fixed data set. See :meth:`binarized_each_time` for fresh draws.

        Example:
            >>> from tutor.data import load
            >>> ds = load("digits").binarized(seed=0)
            >>> ds[:].unique()
            tensor([0., 1.])
        """
        generator = torch.Generator().manual_seed(seed)
        device = self.images.device
        # In pieces: the random numbers for all of MNIST at once would fill memory for nothing.
        pieces = self.images.cpu().split(4096)
        drawn = torch.cat([_bernoulli(piece, generator).to(torch.uint8) for piece in pieces])
        other = self._map(lambda values: values)
        other.images = (drawn * 255).to(device)
        other._draws_each_time = False
        return other

    def binarized_each_time(self) -> Dataset:
        """Images drawn anew as Bernoulli(grey) whenever they are asked for.

        This is how AVB trains and evaluates on MNIST: the grey images define a distribution over
        black-and-white ones, and no two epochs see the same sample. The noise comes from torch's
        default generator of the storage's device, which :func:`tutor.fit` seeds.

        Source: Mescheder, Nowozin and Geiger (2017), "Adversarial Variational Bayes".
        """
        other = self._map(lambda values: values)
        other._draws_each_time = True
        return other

    def labelled(self, known: Tensor | None = None) -> Labelled:
        """A source of ``(images, labels)`` batches; labels of rows not in ``known`` are -1.

        See `tutor.data.Labelled`.
        """
        from tutor.data.labelled import Labelled

        return Labelled(self, known)

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of a SHA-256 over pixels, labels and the way of drawing.

        Two data sets with the same fingerprint train a model in the same way, whatever their name
        and device. It reads all pixels (about a tenth of a second for MNIST): ask once.

        Example:
            >>> from tutor.data import four_points
            >>> four_points().fingerprint() == four_points().fingerprint()
            True
            >>> four_points().fingerprint() == four_points().binarized_each_time().fingerprint()
            False
        """
        digest = hashlib.sha256(f"each time: {self._draws_each_time}".encode())
        for values in (self.images, self.labels, self.factors):
            if values is None:
                digest.update(b"none")
            else:
                digest.update(f"{values.dtype} {tuple(values.shape)}".encode())
                digest.update(values.cpu().contiguous().numpy())  # no copy: it may be gigabytes
        return digest.hexdigest()[:16]

    def __repr__(self) -> str:
        parts = [repr(self.name)]
        if self.requested != self.name:
            parts.append(f"requested={self.requested!r}")
        if self.split is not None:
            parts.append(f"split={self.split!r}")
        plural = "image" if len(self) == 1 else "images"
        parts.append(f"{len(self)} {plural} of shape {self.shape}")
        if self.labels is not None:
            parts.append(f"labels {int(self.labels.min())}..{int(self.labels.max())}")
        if self._draws_each_time:
            parts.append("binarized each time")
        if self.images.device.type != "cpu":
            parts.append(f"on {self.images.device}")
        return f"Dataset({', '.join(parts)})"

    def _map(self, change: Callable[[Tensor], Tensor]) -> Dataset:
        """A copy whose tensors went through ``change``; everything else stays."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        for key in ("images", "labels", "factors"):
            values = getattr(self, key)
            setattr(other, key, None if values is None else change(values))
        return other

    def _checked(self, index: Tensor) -> Tensor:
        """The positions that `take` was given, as ones from 0 up."""
        if not isinstance(index, Tensor) or index.dtype != torch.int64:
            given = index.dtype if isinstance(index, Tensor) else type(index).__name__
            raise TypeError(
                f"take() needs a LongTensor of positions, not {given}; for slices, lists and masks "
                "write ds[...]"
            )
        if index.ndim != 1:
            raise ValueError(f"take() needs positions of shape (n,), not {tuple(index.shape)}")
        return self._in_range(index)

    def _in_range(self, index: Tensor) -> Tensor:
        """Negative positions made positive; IndexError for those beyond the data."""
        n = len(self)
        # Where nobody may look, index_select itself stops the programme at a wrong position.
        if may_look(index):
            wrong = (index < -n) | (index >= n)
            if wrong.any():
                raise IndexError(
                    f"index {int(index[wrong][0])} is out of range for a data set of {n} images"
                )
        return torch.where(index < 0, index + n, index)

    def _positions(self, index: Any) -> Tensor:
        """Any index but an integer, as a LongTensor of positions ``(n,)``."""
        n = len(self)
        if isinstance(index, slice):
            start, stop, step = index.indices(n)  # torch itself takes no negative step
            return torch.tensor(range(start, stop, step), dtype=torch.int64)
        if isinstance(index, (list, range)) and len(index) == 0:
            return torch.empty(0, dtype=torch.int64)
        # A tuple is left out: ds[0, 1] would read as one position in two dimensions.
        if not isinstance(index, (list, range, np.ndarray, Tensor)):
            raise TypeError(
                f"a data set is indexed by an integer, a slice, whole numbers or a mask, "
                f"not by {type(index).__name__}"
            )
        if isinstance(index, np.ndarray):
            index = np.ascontiguousarray(index)  # torch refuses arrays that run backwards
        positions = torch.as_tensor(index)
        if positions.dtype == torch.bool:
            if positions.shape != (n,):
                raise IndexError(
                    f"a mask needs one truth value per image: got shape {tuple(positions.shape)} "
                    f"for {n} images"
                )
            return positions.nonzero().squeeze(1)
        # torch reads a uint8 index as a mask, NumPy as positions: refuse rather than guess.
        if positions.dtype == torch.uint8 or not is_whole(positions):
            raise TypeError(
                f"an index of type {positions.dtype} is not a position; use .long() for positions "
                "or .bool() for a mask"
            )
        if positions.ndim != 1:
            raise IndexError(f"an index has shape (n,), not {tuple(positions.shape)}")
        return self._in_range(positions.to(torch.int64))


def _is_integer(index: Any) -> bool:
    # A truth value is an int to Python; ds[True] is a mistake (ds[mask] with a scalar mask).
    if isinstance(index, (bool, np.bool_)) or (isinstance(index, Tensor) and index.ndim > 0):
        return False
    if isinstance(index, Tensor) and (index.dtype == torch.bool or index.is_floating_point()):
        return False
    return hasattr(index, "__index__") and not isinstance(index, np.ndarray)


def _bernoulli(grey: Tensor, generator: torch.Generator | None) -> Tensor:
    """Truth values, each true with probability its grey value, exactly.

    For stored bytes g this compares with a whole number u, uniform on 0..254: of those 255 values
    exactly g lie below g, so P(u < g) = g / 255 with no rounding. Black stays black, white white.
    """
    if grey.dtype == torch.uint8:
        u = torch.randint(
            0, 255, grey.shape, generator=generator, dtype=torch.uint8, device=grey.device
        )
        return u < grey
    return torch.rand(grey.shape, generator=generator, device=grey.device) < grey
