"""Dimensionality reduction with cluster heads (Makhzani et al., arXiv 1511.05644)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from tutor.game import Turn, evaluating
from tutor.models.clustering_aae import ClusteringAAE
from tutor.models.semi_supervised_aae import SemiSupervisedAAE


class ClusterHeadsAAE(SemiSupervisedAAE):
    """A map of the data in few dimensions: each class has a head, the style is the way from it.

    ``r = W y + z``: column k of W is the head of class k, z is Gaussian, and the decoder sees r
    alone

    Class and style are added instead of put side by side, so the representation r has as many
    dimensions as the style.  One more turn keeps the heads apart: it lowers ``sum_{i<j}
    max(0, threshold - |w_i - w_j|)``, which is zero when no two heads are nearer than the
    threshold.  Trains with labels, on ``(images, labelled_images, labels)``, or without, on images.
    Source: Makhzani et al. (arXiv 1511.05644), the section on dimensionality reduction.

    Args:
        latent_dim: dimensions of the style and of the representation.
        classes: number of classes, or of clusters where there are no labels.
        threshold: distance of two heads from which they are left alone.
        **arguments: as `ClusteringAAE`; the decoder takes ``(n, latent_dim)``.

    Raises:
        ValueError: for a threshold that is not positive, or as `ClusteringAAE`.

    Example:
        >>> import torch
        >>> model = ClusterHeadsAAE(2, classes=20)
        >>> x = torch.rand(4, 1, 28, 28)
        >>> [turn.player for turn in model.step(x)][-1]
        'heads'
        >>> model.map(x).shape
        torch.Size([4, 2])
    """

    def __init__(
        self, latent_dim: int = 2, *, classes: int = 10, threshold: float = 2.0, **arguments: Any
    ) -> None:
        super().__init__(latent_dim, classes=classes, **arguments)
        if not threshold > 0:
            raise ValueError(f"threshold is {threshold}; a distance between heads is positive")
        self.threshold = threshold
        self.heads = nn.Linear(classes, latent_dim, bias=False)
        # A bias-free layer starts with all heads within 1 / sqrt(classes) of the origin: there
        # they would not differ, so they start as far apart as the threshold asks.
        nn.init.normal_(self.heads.weight, std=threshold)

    @property
    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        return {
            **super().players,
            "autoencoder": [self.encoder, self.decoder, self.heads],
            "heads": [self.heads],
        }

    def step(self, batch: Tensor | tuple[Tensor, Tensor, Tensor]) -> Iterator[Turn]:
        labelled = not isinstance(batch, Tensor)
        yield from super().step(batch) if labelled else ClusteringAAE.step(self, batch)
        yield Turn("heads", self.crowding())

    def crowding(self) -> Tensor:
        """``sum_{i<j} max(0, threshold - |w_i - w_j|)`` of the heads: a scalar."""
        distances = nn.functional.pdist(self.heads.weight.T)  # (classes * (classes - 1) / 2,)
        return (self.threshold - distances).relu().sum()

    @property
    def decoder_inputs(self) -> int:
        return self.latent_dim

    def representation(self, z: Tensor, y: Tensor) -> Tensor:
        """r = W y + z, the head of the class and the way from it: ``(n, latent_dim)``."""
        return self.heads(y) + z

    def map(self, x: Tensor) -> Tensor:
        """The representation r of images, ``(n, latent_dim)``: what to draw; in evaluation mode."""
        with evaluating(self):
            code = self.encode(x)
            return self.representation(code.z, code.y)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, threshold={self.threshold}"
