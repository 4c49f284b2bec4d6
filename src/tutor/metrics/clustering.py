"""How wrong is a clustering?  Three ways to give clusters the names of classes.

They differ in what they may look at, so their errors can't be compared with each other: the
paper's protocol looks at one label a cluster, the other two at all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def clustering_error(scores: Tensor, labels: Tensor) -> Tensor:
    """Share of points with a wrong class, by the protocol of the adversarial autoencoder's paper.

    For cluster i the point with the largest q(y_i|x) gives its label to all points of the
    cluster; a point is in the cluster where its q(y|x) is largest.  One label a cluster is looked
    at, so a cluster is named after its purest member, not after most of its members: the error
    is at least that of `majority_error`.  Where several points have the largest score the first of
    them counts.  In float32 sure points all round to 1, so give probabilities in float64, or better
    their logarithms: ``logits.double().log_softmax(1)``.
    Book equation: clustering-error.  Source: Makhzani et al. (arXiv 1511.05644), the section on
    unsupervised clustering.

    Args:
        scores: q(y|x), ``(n, clusters)``; log-probabilities will do, but raw logits won't: they
            lack a constant for each point, which decides whose q is the largest.
        labels: classes of the same points, LongTensor ``(n,)``.

    Returns:
        A scalar in float64, between 0 and 1.

    Raises:
        TypeError: if scores are not floats or labels not whole numbers.
        ValueError: for other shapes, no points, or scores that are no (log-)probabilities.

    Example:
        >>> q = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
        >>> clustering_error(q, torch.tensor([7, 5, 5]))  # the second point is called a 7
        tensor(0.3333, dtype=torch.float64)
    """
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        given = scores.dtype if isinstance(scores, Tensor) else type(scores).__name__
        raise TypeError(f"scores are {given}; expected floats (n, clusters), the rows of q(y|x)")
    if scores.dim() != 2:
        raise ValueError(f"scores have shape {tuple(scores.shape)}; expected (n, clusters)")
    total = scores.double().sum(1) if (scores >= 0).all() else scores.double().exp().sum(1)
    if not torch.allclose(total, torch.ones_like(total), atol=1e-3):
        raise ValueError(
            "the rows of scores are neither probabilities nor their logarithms; for logits give "
            "logits.softmax(1)"
        )
    labels = _whole("labels", labels, len(scores)).to(scores.device)
    purest = scores.argmax(0)  # (clusters,)
    named = labels[purest][scores.argmax(1)]  # (n,)
    return (named != labels).double().mean()


def majority_error(clusters: Tensor, labels: Tensor) -> Tensor:
    """Share of points that are not of their cluster's commonest class (one minus purity).

    It looks at every label and can only fall when a cluster is split: with one cluster a point it
    is zero.  Compare it only between clusterings with the same number of clusters.

    Args:
        clusters: the cluster of each point, LongTensor ``(n,)``.
        labels: the class of each point, LongTensor ``(n,)``.

    Returns:
        A scalar in float64, between 0 and 1.

    Raises:
        TypeError: if clusters or labels are not whole numbers, ``torch.int64``.
        ValueError: for other shapes, or no points.

    Example:
        >>> majority_error(torch.tensor([0, 0, 0, 1]), torch.tensor([5, 5, 3, 3]))
        tensor(0.2500, dtype=torch.float64)
    """
    table = _table(clusters, labels)
    return 1 - table.max(1).values.sum() / table.sum()


def matched_error(clusters: Tensor, labels: Tensor) -> Tensor:
    """Share of points outside the best one-to-one matching of clusters with classes.

    The matching is found by the Hungarian method.  Each class gets at most one cluster, so the
    points of the clusters left over, where there are more clusters than classes, all count as
    wrong.  It is the usual measure for as many clusters as classes.  Source: Kuhn (1955), The
    Hungarian method for the assignment problem.

    Args:
        clusters: the cluster of each point, LongTensor ``(n,)``.
        labels: the class of each point, LongTensor ``(n,)``.

    Returns:
        A scalar in float64, between 0 and 1.

    Raises:
        TypeError: if clusters or labels are not whole numbers, ``torch.int64``.
        ValueError: for other shapes, or no points.

    Example:
        >>> matched_error(torch.tensor([0, 0, 1, 1, 2]), torch.tensor([8, 8, 4, 4, 4]))
        tensor(0.2000, dtype=torch.float64)
    """
    from scipy.optimize import linear_sum_assignment

    table = _table(clusters, labels)
    rows, columns = linear_sum_assignment(table.numpy(), maximize=True)
    return 1 - table[rows, columns].sum() / table.sum()


def _table(clusters: Tensor, labels: Tensor) -> Tensor:
    """Points of each cluster (row) and class (column) that occur; float64, on the CPU."""
    clusters = _whole("clusters", clusters, None)
    labels = _whole("labels", labels, len(clusters))
    _, row = clusters.cpu().unique(return_inverse=True)
    _, column = labels.cpu().unique(return_inverse=True)
    rows, columns = int(row.max()) + 1, int(column.max()) + 1
    counts = torch.bincount(row * columns + column, minlength=rows * columns)
    return counts.view(rows, columns).double()


def _whole(name: str, values: Tensor, n: int | None) -> Tensor:
    if not isinstance(values, Tensor) or values.dtype != torch.int64:
        given = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(
            f"{name} are {given}; expected a tensor of whole numbers, torch.int64"
            + ("; for q(y|x) give q.argmax(1)" if name == "clusters" else "")
        )
    if values.dim() != 1 or len(values) == 0 or (n is not None and len(values) != n):
        want = "(n,)" if n is None else f"({n},), one a point"
        raise ValueError(f"{name} have shape {tuple(values.shape)}; expected {want}")
    return values
