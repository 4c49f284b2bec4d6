"""The semi-supervised adversarial autoencoder (Makhzani et al., arXiv 1511.05644)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tutor.game import Turn
from tutor.models.clustering_aae import ClusteringAAE
from tutor.models.labels import checked_labels


class SemiSupervisedAAE(ClusteringAAE):
    """The net of `ClusteringAAE`, told the classes of a few images: the clusters become classes.

    A round has three phases, each with optimisers of its own.  *Reconstruction*: encoder and
    decoder lower the error.  *Regularisation*: two discriminators learn to tell draws of the
    priors (real) from codes (fake), of the class y and of the style z; then the encoder moves its
    codes to where they look real.  *Classification*: the encoder raises log q(y|x) of labelled
    images.  The first two see many images without labels; they are why few labels are enough.

    A batch is ``(images, labelled_images, labels)``, as `tutor.data.SemiSupervised` gives.
    Source: Makhzani et al. (arXiv 1511.05644), the section on semi-supervised learning.

    Args:
        latent_dim: dimensions of the style z.
        classes: number of classes.
        **arguments: as `ClusteringAAE`.

    Raises:
        ValueError: as `ClusteringAAE`.

    Example:
        >>> import torch, tutor
        >>> digits = tutor.data.load("digits")
        >>> rows = tutor.data.few_labels(digits, 100, generator=torch.Generator().manual_seed(0))
        >>> data = tutor.data.SemiSupervised(digits, rows)
        >>> model = SemiSupervisedAAE()
        >>> [turn.player for turn in model.step(data.take(torch.arange(50)))][-1]
        'classifier'
    """

    def __init__(self, latent_dim: int = 10, *, classes: int = 10, **arguments: Any) -> None:
        super().__init__(latent_dim, clusters=classes, **arguments)

    @property
    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        return {**super().players, "classifier": [self.encoder]}

    def step(self, batch: tuple[Tensor, Tensor, Tensor]) -> Iterator[Turn]:
        x, labelled_x, labels = self._checked(batch)
        # Reconstruction and regularisation phases, without labels.
        yield from super().step(x)
        # Classification phase.
        logits = self.encode(labelled_x).logits  # (labelled, classes)
        error = cross_entropy(logits, labels, reduction="none")  # (labelled,)
        right = (logits.argmax(1) == labels).to(logits.dtype)
        yield Turn("classifier", error.mean(), accuracy=right.mean())

    def _checked(self, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        if not isinstance(batch, (tuple, list)) or len(batch) != 3:
            given = f"{len(batch)} parts" if isinstance(batch, (tuple, list)) else "images alone"
            raise TypeError(
                f"the batch has {given}; expected (images, labelled_images, labels): train on "
                "tutor.data.SemiSupervised(dataset, known), or use ClusteringAAE without labels"
            )
        x, labelled_x, labels = batch
        if len(labelled_x) != len(labels):
            raise ValueError(
                f"{len(labelled_x)} labelled images have {len(labels)} labels; expected one each"
            )
        return x, labelled_x, checked_labels(labels, self.classes)
