"""Chapter 2, codes: slots for labels, distances to the prior, clusters, Parzen windows."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from tutor.checks.grading import Formula, Mistake
from tutor.metrics.two_sample import energy_distance

F64 = torch.float64


def _draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def _slots(labels: Tensor, classes: int) -> Tensor:
    return one_hot(labels % (classes + 1), classes + 1).double()


def _rows(labels: Tensor, classes: int) -> Tensor:
    """K places; an unknown label gives an empty row."""
    return _slots(labels, classes)[:, :classes]


def _wrapped(labels: Tensor, classes: int) -> Tensor:
    return one_hot(labels % classes, classes + 1).double()


SLOTS = Formula(
    signature="label_slots(labels, classes)",
    truth=_slots,
    inputs=[(torch.tensor([0, -1]), 3), (torch.tensor([2, -1, 0, 3, -1, 1]), 4)],
    mistakes=[
        Mistake(_rows, "The last place is missing: with K places, 'unknown' is a row of zeros "
                       "(and K of K + 1 places are wanted)."),
        Mistake(lambda y, k: torch.cat([_rows(y, k), torch.zeros(len(y), 1)], 1),
                "Unknown labels have no mark: the last place must be 1 for them."),
        Mistake(_wrapped, "-1 counts from the end and marks the last CLASS; it must mark the "
                          "place after it."),
        Mistake(lambda y, k: torch.cat([(y < 0).double()[:, None], _rows(y, k)], 1),
                "'Unknown' stands first here; the book puts it last, after the classes."),
        Mistake(lambda y, k: torch.where((y < 0)[:, None], 1 / (k + 1), _slots(y, k)),
                "A flat row says 'any class'; the discriminator has a place of its own for "
                "'unknown'."),
        Mistake(lambda y, k: _slots(y, k).argmax(1),
                "These are the numbers of the places; one-hot rows are wanted."),
    ],
)  # fmt: skip


def _parts(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.cdist(x, y), torch.cdist(x, x), torch.cdist(y, y)


def _with_pairs(x: Tensor, y: Tensor) -> Tensor:
    between, within_x, within_y = _parts(x, y)
    return 2 * between.mean() - within_x.mean() - within_y.mean()


def _squared(x: Tensor, y: Tensor) -> Tensor:
    between, within_x, within_y = (d.square() for d in _parts(x, y))
    n, m = len(x), len(y)
    return 2 * between.mean() - within_x.sum() / (n * (n - 1)) - within_y.sum() / (m * (m - 1))


ENERGY_INSTANCE = (torch.tensor([[0.0], [1.0], [2.0]], dtype=F64),
                   torch.tensor([[4.0], [6.0]], dtype=F64))  # fmt: skip

ENERGY = Formula(
    signature="energy_distance(x, y)",
    truth=energy_distance,
    inputs=[ENERGY_INSTANCE, (_draw(6, 2, seed=0), _draw(4, 2, seed=1) + 1)],
    instance=ENERGY_INSTANCE,
    mistakes=[
        Mistake(_with_pairs,
                "Each point is paired with itself: that distance of 0 makes the means within a "
                "sample too small and the result too large. Divide by n (n - 1)."),
        Mistake(lambda x, y: energy_distance(x, y).abs().sqrt(),
                "This is its root; the book uses the squared distance."),
        Mistake(lambda x, y: energy_distance(x, y) / 2,
                "Half of it: the distance between the samples enters twice."),
        Mistake(_squared,
                "You squared the distances. Then the means are all that is compared: twice the "
                "squared distance of the two means."),
        Mistake(lambda x, y: torch.cdist(x, y).mean(),
                "This is the mean distance between the samples; those within are missing."),
        Mistake(lambda x, y: -energy_distance(x, y), "The sign is flipped."),
    ],
)  # fmt: skip


def _by_test_point(probabilities: Tensor, labels: Tensor) -> Tensor:
    """The paper's protocol: each cluster takes the label of its surest image."""
    name = labels[probabilities.argmax(0)]
    return (name[probabilities.argmax(1)] != labels).double().mean()


def _by_majority(probabilities: Tensor, labels: Tensor) -> Tensor:
    cluster = probabilities.argmax(1)
    wrong = 0
    for k in cluster.unique():
        own = labels[cluster == k]
        wrong += len(own) - int(own.bincount().max())
    return torch.tensor(wrong / len(labels))


def _by_assignment(probabilities: Tensor, labels: Tensor) -> Tensor:
    from scipy.optimize import linear_sum_assignment

    cluster, classes = probabilities.argmax(1), int(labels.max()) + 1
    table = torch.zeros(probabilities.shape[1], classes)
    for k, y in zip(cluster.tolist(), labels.tolist(), strict=True):
        table[k, y] += 1
    rows, columns = linear_sum_assignment(-table.numpy())
    return torch.tensor(1 - table[rows, columns].sum().item() / len(labels))


def _clustering(n: int, clusters: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=g)
    home = torch.randint(2, (n,), generator=g) * classes + labels  # two clusters a class
    logits = 2.0 * one_hot(home % clusters, clusters) + 1.2 * torch.randn(n, clusters, generator=g)
    return logits.double().softmax(1), labels


CLUSTER_ERROR = Formula(
    signature="cluster_error(probabilities, labels)",
    truth=_by_test_point,
    inputs=[_clustering(60, 6, 3, 0), _clustering(200, 8, 4, 1), _clustering(90, 7, 4, 2)],
    mistakes=[
        Mistake(lambda p, y: 1 - _by_test_point(p, y), "This is the accuracy; the error is asked."),
        Mistake(lambda p, y: 100 * _by_test_point(p, y), "In per cent; a share is asked for."),
        Mistake(_by_majority,
                "Each cluster took the label most frequent in it. That is a kinder protocol; the "
                "paper takes the label of the one image that the cluster is surest of."),
        Mistake(_by_assignment,
                "You matched clusters and classes one to one (the Hungarian method); here several "
                "clusters may bear one label."),
        Mistake(lambda p, y: (p.argmax(1) != y).double().mean(),
                "The number of a cluster is not a class: give each cluster a label first."),
    ],
)  # fmt: skip


def _parzen(x: Tensor, samples: Tensor, bandwidth: float, constant: float = 1.0) -> Tensor:
    squares = torch.cdist(x, samples).square() / (2 * bandwidth**2)
    normaliser = x.shape[1] / 2 * math.log(2 * math.pi * bandwidth**2)
    return (-squares).logsumexp(1) - math.log(len(samples)) - constant * normaliser


def _mean_of_logs(x: Tensor, samples: Tensor, bandwidth: float) -> Tensor:
    squares = torch.cdist(x, samples).square() / (2 * bandwidth**2)
    return -squares.mean(1) - x.shape[1] / 2 * math.log(2 * math.pi * bandwidth**2)


PARZEN_INSTANCE = (torch.tensor([[0.0, 0.0]], dtype=F64),
                   torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=F64), 0.5)  # fmt: skip

PARZEN = Formula(
    signature="parzen(x, samples, bandwidth)",
    truth=_parzen,
    inputs=[PARZEN_INSTANCE, (_draw(4, 3, seed=2), _draw(7, 3, seed=3), 0.3)],
    instance=PARZEN_INSTANCE,
    mistakes=[
        Mistake(lambda x, s, h: _parzen(x, s, h, 0.0),
                "The normaliser of the kernel is missing: (D / 2) log(2 pi h^2)."),
        Mistake(lambda x, s, h: _parzen(x, s, h) + math.log(len(s)),
                "A sum over the samples instead of their mean: log S is missing."),
        Mistake(lambda x, s, h: _parzen(x, s, math.sqrt(h)),
                "The bandwidth is the standard deviation of the kernel; you took it for the "
                "variance."),
        Mistake(lambda x, s, h: _parzen(x, s, h, 1 / x.shape[1]),
                "The normaliser counts every dimension: (D / 2) log(2 pi h^2), not one half of "
                "the logarithm alone."),
        Mistake(_mean_of_logs,
                "The mean must be inside the logarithm: a mixture of kernels, not a mean of "
                "their logarithms."),
        Mistake(lambda x, s, h: _parzen(x, s, h).exp(),
                "This is the density; wanted is its logarithm."),
        Mistake(lambda x, s, h: _parzen(x, s, h).mean(),
                "One value a point, please; the mean is taken later."),
        Mistake(lambda x, s, h: -torch.cdist(x, s).square().min(1).values / (2 * h**2)
                - x.shape[1] / 2 * math.log(2 * math.pi * h**2) - math.log(len(s)),
                "This counts the nearest sample alone; the others are a part of the mixture."),
    ],
    extremes=[((torch.full((1, 2), 100.0, dtype=F64), torch.zeros(3, 2, dtype=F64), 0.5),
               "Right near the samples; far away every kernel rounds to 0 and its logarithm is "
               "-inf. Use torch.logsumexp.")],
)  # fmt: skip

CODES = {
    "label-slots": SLOTS,
    "energy-distance": ENERGY,
    "cluster-error": CLUSTER_ERROR,
    "parzen": PARZEN,
}
