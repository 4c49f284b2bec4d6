"""What the priors share: where they live, what they draw from, what they refuse."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tutor.devices import may_look


class Prior(nn.Module):
    """A place on a device, a number of dimensions and of classes; the subclass has the density."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim is {dim}; a prior needs at least one dimension")
        if classes < 1:
            raise ValueError(f"given {classes} classes; a prior needs at least one")
        self.dim = dim
        self.classes = classes
        # Follows the model to its device, so that samples are made there; no parameter to save.
        self.register_buffer("origin", torch.zeros(dim), persistent=False)
        self._sent: dict[tuple[str, torch.device, torch.dtype], Any] = {}

    def _uniform(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        """Numbers in [0, 1) on the prior's device, in its precision."""
        return torch.rand(
            shape, generator=generator, device=self.origin.device, dtype=self.origin.dtype
        )

    def _normal(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        """Standard normal numbers on the prior's device, in its precision."""
        return torch.randn(
            shape, generator=generator, device=self.origin.device, dtype=self.origin.dtype
        )

    def _like(self, z: Tensor, name: str) -> Any:
        """The prior's own tables of that name, on the device of z and in its precision.

        They are kept: to send them to a GPU in every step would keep the host waiting.
        """
        key = (name, z.device, z.dtype)
        if key not in self._sent:
            table = getattr(self, name)
            several = isinstance(table, tuple)
            self._sent[key] = tuple(t.to(z) for t in table) if several else table.to(z)
        return self._sent[key]

    def _check_codes(self, z: Tensor, labels: Tensor | None = None) -> None:
        """Refuses codes of another dimension, and labels that are not one for each code."""
        if z.dim() == 0 or z.shape[-1] != self.dim:
            raise ValueError(
                f"z has {z.shape[-1] if z.dim() else 'no'} dimensions in its last axis, "
                f"this prior has {self.dim}; "
                "give the encoder and the prior the same number of dimensions"
            )
        if not z.is_floating_point():
            raise TypeError(f"z is {z.dtype}; codes are real numbers: give z.float()")
        if labels is not None and z.shape[:-1] != labels.shape:
            raise ValueError(
                f"z has shape {tuple(z.shape)} and labels {tuple(labels.shape)}; "
                f"expected (n, {self.dim}) and (n,), one label for each code"
            )

    def _check_plane(self) -> None:
        """Refuses classes where there is no plane to cut into parts."""
        if self.dim != 2:
            raise ValueError(
                f"this prior has dim={self.dim}, and only the plane is cut into classes; "
                f"use {type(self).__name__}(2), or draw without labels: sample((n,))"
            )

    def _check_labels(self, labels: Tensor) -> Tensor:
        """The labels on the prior's device; refuses what is not the number of a class."""
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
            given = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
            raise TypeError(
                f"labels are {given}; expected a tensor of whole numbers, torch.int64: "
                "give torch.as_tensor(labels).long()"
            )
        if labels.dim() != 1:
            raise ValueError(
                f"labels have shape {tuple(labels.shape)}; expected (n,), one class each: "
                "flatten them, or take argmax(1) of one-hot rows"
            )
        if not may_look(labels):
            return labels.to(self.origin.device)
        outside = labels[(labels < 0) | (labels >= self.classes)]
        if len(outside):
            raise ValueError(
                f"labels hold {outside[0].item()}, and this prior's classes are 0 to "
                f"{self.classes - 1}; build it with a class for each label, or leave out the "
                "images that have none"
            )
        return labels.to(self.origin.device)
