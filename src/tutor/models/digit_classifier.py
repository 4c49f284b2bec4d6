"""A small classifier of 28x28 digits, whose features serve to compare sets of digits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tutor.game import Model, Turn
from tutor.models.labels import images_and_labels


class DigitClassifier(Model):
    """Two convolutions, 64 features, one linear layer to the classes.

    What it is for are the features, the layer before the last: they stand to digits as those of
    the Inception network stand to photographs (`tutor.metrics.digit_features`).  The trained one
    is ``tutor.pretrained.load("mnist_classifier")``.

    Args:
        classes: number of classes.
        dropout: share of features dropped while training.

    Raises:
        ValueError: for fewer than two classes, or a dropout outside [0, 1).

    Example:
        >>> import torch
        >>> classifier = DigitClassifier()
        >>> x = torch.rand(5, 1, 28, 28)
        >>> classifier(x).shape, classifier.features(x).shape
        (torch.Size([5, 10]), torch.Size([5, 64]))
    """

    image_shape = (1, 28, 28)

    def __init__(self, classes: int = 10, *, dropout: float = 0.5) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"classes is {classes}; a classifier needs at least 2 to choose from")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}; it is the share of units dropped, in [0, 1)")
        self.classes = classes
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 7 * 7, 64),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(64, classes))

    @property
    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        return {"classifier": [self.body, self.head]}

    def step(self, batch: tuple[Tensor, Tensor]) -> Iterator[Turn]:
        """Lower the cross-entropy of ``(images, labels)``.

        Raises:
            TypeError: for a batch without labels.
            ValueError: for a label that is not the number of a class.
        """
        x, labels = images_and_labels(batch, self.classes)
        logits = self(x)
        right = (logits.argmax(1) == labels).float()  # (n,)
        loss = cross_entropy(logits, labels, reduction="none")  # (n,)
        yield Turn("classifier", loss.mean(), accuracy=right.mean())

    def features(self, x: Tensor) -> Tensor:
        """The features of images ``(n, 1, 28, 28)`` in [0, 1]: ``(n, 64)``, none below 0.

        Raises:
            TypeError: if the images are no tensor of floats.
            ValueError: if they have another shape.
        """
        if not isinstance(x, Tensor) or not x.is_floating_point():
            given = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(
                f"images are {given}; expected a tensor of floats in [0, 1], such as dataset[:]"
            )
        if tuple(x.shape[1:]) != self.image_shape:
            raise ValueError(f"images have shape {tuple(x.shape)}; expected (n, 1, 28, 28)")
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, classes)``."""
        return self.head(self.features(x))

    def extra_repr(self) -> str:
        return f"classes={self.classes}"
