"""What `fit` reads its batches from, and in which order."""

from __future__ import annotations

import functools
import hashlib
import random
from typing import Protocol

import torch
from torch import Tensor


class DataSource(Protocol):
    """What `fit` needs of a data set: `tutor.data.Dataset` has it."""

    def __len__(self) -> int: ...
    def take(self, index: Tensor) -> Tensor: ...
    def to(self, device: torch.device) -> DataSource: ...


class BatchOrder:
    """Which examples make up the batch of a given step.

    Step t takes places ``t * batch_size`` onward in an endless line of shuffled copies of the data
    set.  The order is a function of the step and the seed alone, so a resumed run needs no state.
    It is made on the CPU, and lies on ``device``.

    Example:
        >>> order = BatchOrder(examples=4, batch_size=3, seed=0)
        >>> sorted(torch.cat([order(t) for t in range(4)]).tolist())
        [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    """

    def __init__(
        self, examples: int, batch_size: int, seed: int, device: torch.device | str = "cpu"
    ) -> None:
        self.examples, self.batch_size = examples, batch_size

        def shuffled(epoch: int) -> Tensor:  # a whole copy goes to the device, then it is cut there
            return _shuffle(examples, seed, epoch).to(device)

        self._shuffled = functools.lru_cache(maxsize=2)(shuffled)

    def __call__(self, step: int) -> Tensor:
        return self.rows(step, step + 1)[0]

    def rows(self, first: int, last: int) -> Tensor:
        """The batches of the steps ``first .. last - 1``, ``(last - first, batch_size)``."""
        place, end = first * self.batch_size, last * self.batch_size
        pieces = []
        while place < end:  # the line may run over into the next copy
            epoch, at = divmod(place, self.examples)
            pieces.append(self._shuffled(epoch)[at : at + end - place])
            place += len(pieces[-1])
        line = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        return line.view(last - first, self.batch_size)


def _shuffle(examples: int, seed: int, epoch: int) -> Tensor:
    # torch's CPU generator reads 32 bits of its seed, so both numbers are mixed into 32.
    mixed = random.Random(f"{seed}/{epoch}").getrandbits(32)
    generator = torch.Generator().manual_seed(mixed)
    return torch.randperm(examples, generator=generator)


class Rows:
    """A float tensor as a data source: each row is an example."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: Tensor) -> Tensor:
        return self.rows.index_select(0, index)

    def fingerprint(self) -> str:
        content = self.rows.detach().cpu().contiguous()
        digest = hashlib.sha256(f"{content.dtype} {tuple(content.shape)}".encode())
        digest.update(content.view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def to(self, device: torch.device) -> Rows:
        return Rows(self.rows.to(device))


def as_source(dataset: DataSource | Tensor) -> DataSource:
    """The data set itself, or a float tensor wrapped as one.

    Raises:
        TypeError: for anything else, or a tensor that is not floating point.
        ValueError: where there is no example.

    Example:
        >>> len(as_source(torch.zeros(5, 2)))
        5
    """
    if isinstance(dataset, Tensor):
        if dataset.dim() == 0 or len(dataset) == 0:
            raise ValueError(
                f"the data tensor has shape {tuple(dataset.shape)}; its rows are the examples, "
                "and there must be at least one"
            )
        if not dataset.is_floating_point():
            raise TypeError(
                f"the data are {dataset.dtype}; expected floats (for uint8 images in a tensor "
                "use tutor.data.Dataset, or images.float() / 255)"
            )
        return Rows(dataset)
    if not all(hasattr(dataset, name) for name in ("take", "to", "__len__")):
        raise TypeError(
            f"dataset is a {type(dataset).__name__}; expected a tutor.data.Dataset or a float "
            "tensor whose rows are the examples (for an array: torch.from_numpy(x).float())"
        )
    if len(dataset) == 0:
        raise ValueError("the data set is empty; there is nothing to learn from")
    return dataset


def fingerprint(data: DataSource) -> str | None:
    """The fingerprint of the data, where they have one."""
    own = getattr(data, "fingerprint", None)
    return own() if callable(own) else None
