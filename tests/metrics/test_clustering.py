"""Clustering errors on clusterings whose error is known, and against enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tests.metrics.worlds import generator
from tutor.metrics import clustering_error, majority_error, matched_error

LABELS = torch.arange(60) % 4


def sure(clusters: torch.Tensor, count: int, confidence: float = 0.9) -> torch.Tensor:
    """q(y|x) that is certain of these clusters, the first point of each a little more so."""
    rest = (1 - confidence) / max(count - 1, 1)
    q = torch.full((len(clusters), count), rest, dtype=torch.float64)
    q[torch.arange(len(clusters)), clusters] = confidence
    for k in range(count):
        first = (clusters == k).nonzero()[:1, 0]
        q[first, k] += 0.05
    return q / q.sum(1, keepdim=True)


@pytest.mark.parametrize("names", [[0, 1, 2, 3], [2, 0, 3, 1]])
def test_a_perfect_clustering_whatever_the_clusters_are_called(names):
    clusters = torch.tensor(names)[LABELS]
    assert clustering_error(sure(clusters, 4), LABELS) == 0
    assert majority_error(clusters, LABELS) == 0
    assert matched_error(clusters, LABELS) == 0


def test_a_class_cut_in_two_costs_only_in_a_matching():
    clusters = LABELS.clone()
    clusters[(LABELS == 3).nonzero()[:5, 0]] = 4  # 5 of the 15 points of class 3
    assert clustering_error(sure(clusters, 5), LABELS) == 0
    assert majority_error(clusters, LABELS) == 0
    assert matched_error(clusters, LABELS).item() == pytest.approx(5 / 60)


def test_one_cluster_gets_one_class_right():
    clusters, q = torch.zeros(60).long(), torch.ones(60, 1)
    assert clustering_error(q, LABELS).item() == 0.75
    assert majority_error(clusters, LABELS).item() == 0.75
    assert matched_error(clusters, LABELS).item() == 0.75
    uneven = torch.tensor([1] * 7 + [0] * 3)  # the cluster is named after its first, a 1
    assert clustering_error(sure(torch.zeros(10).long(), 1), uneven).item() == pytest.approx(0.3)
    assert majority_error(torch.zeros(10).long(), uneven).item() == pytest.approx(0.3)


def test_the_purest_member_names_the_cluster_even_against_the_majority():
    q = torch.tensor([[0.99, 0.01], [0.8, 0.2], [0.7, 0.3], [0.1, 0.9]])
    labels = torch.tensor([5, 6, 6, 5])
    assert clustering_error(q, labels).item() == 0.5  # both 6s are called 5
    assert clustering_error(q.log(), labels).item() == 0.5
    assert majority_error(q.argmax(1), labels).item() == 0.25


def test_the_purest_point_may_lie_in_another_cluster():
    """Cluster 1 has no member more certain of it than a point of cluster 0 is."""
    q = torch.tensor([[0.5, 0.45, 0.05], [0.0, 0.4, 0.6], [0.36, 0.38, 0.26], [0.2, 0.0, 0.8]])
    labels = torch.tensor([3, 9, 4, 9])
    assert clustering_error(q, labels).item() == 0.25  # the third is called a 3


def test_sure_points_are_told_apart_by_logarithms_in_double_precision():
    """The surest point is the second; float32 rounds both to 1 and takes the first."""
    logits = torch.tensor([[20.0, 0.0], [30.0, 0.0], [25.0, 0.0], [0.0, 20.0]])
    labels = torch.tensor([7, 5, 5, 7])
    assert (logits.softmax(1)[:3, 0] == 1).all()
    assert clustering_error(logits.double().log_softmax(1), labels).item() == 0.25  # the 7 is wrong
    assert clustering_error(logits.softmax(1), labels).item() == 0.5  # named after the first


def test_chance_by_the_papers_protocol():
    """Labels shuffled over fixed clusters: a representative is right, others by chance.

    With m points a class, another point of a cluster has the representative's class with
    probability (m - 1) / (n - 1): expected accuracy (K + (n - K) (m - 1) / (n - 1)) / n.
    """
    n, k, m = 60, 6, 15
    q, g = sure(torch.arange(n) % k, k), generator()
    trials = torch.stack(
        [clustering_error(q, LABELS[torch.randperm(n, generator=g)]) for _ in range(1_000)]
    )
    expected = 1 - (k + (n - k) * (m - 1) / (n - 1)) / n
    assert trials.mean().item() == pytest.approx(expected, abs=5 * trials.std().item() / 1_000**0.5)


def test_chance_of_two_clusters_by_enumeration():
    """All ways to share 4 + 4 points between two clusters of 4: the overlap is hypergeometric.

    With h points of class 0 in cluster 0, both measures get max(2 h, 8 - 2 h) points right.
    """
    ways = list(itertools.combinations(range(8), 4))
    clusters = torch.arange(8) // 4
    majority, matched = [], []
    for chosen in ways:
        labels = torch.ones(8).long()
        labels[list(chosen)] = 0
        majority.append(majority_error(clusters, labels))
        matched.append(matched_error(clusters, labels))
    right = sum(math.comb(4, h) ** 2 * max(2 * h, 8 - 2 * h) for h in range(5)) / len(ways)
    assert torch.stack(majority).mean().item() == pytest.approx(1 - right / 8, rel=1e-12)
    assert torch.stack(matched).mean().item() == pytest.approx(1 - right / 8, rel=1e-12)


def test_the_matching_is_the_best_of_all():
    g = generator(3)
    clusters, labels = (torch.randint(k, (40,), generator=g) for k in (5, 4))
    best = max(
        sum((clusters == k) & (labels == c) for c, k in enumerate(chosen)).sum().item()
        for chosen in itertools.permutations(range(5), 4)
    )
    assert matched_error(clusters, labels).item() == pytest.approx(1 - best / 40)
    assert majority_error(clusters, labels) <= matched_error(clusters, labels)


def test_one_cluster_a_point_flatters_the_majority_only():
    clusters = torch.arange(60)
    assert majority_error(clusters, LABELS) == 0
    assert matched_error(clusters, LABELS).item() == pytest.approx(56 / 60)


def test_the_papers_error_is_at_least_the_majoritys():
    g = generator(1)
    for _ in range(20):
        q = torch.randn(50, 7, generator=g).softmax(1)
        labels = torch.randint(3, (50,), generator=g)
        assert clustering_error(q, labels) >= majority_error(q.argmax(1), labels)


@pytest.mark.parametrize(
    ("scores", "labels", "error", "message"),
    [
        (torch.zeros(3).long(), torch.zeros(3).long(), TypeError, r"scores are torch\.int64"),
        (torch.zeros(3), torch.zeros(3).long(), ValueError, r"scores have shape \(3,\)"),
        (torch.randn(3, 2) * 9, torch.zeros(3).long(), ValueError, r"logits\.softmax\(1\)"),
        (torch.ones(3, 1), torch.zeros(2).long(), ValueError, r"labels have shape \(2,\)"),
        (torch.ones(3, 1), torch.zeros(3), TypeError, r"labels are torch\.float32"),
        (torch.ones(0, 1), torch.zeros(0).long(), ValueError, r"labels have shape \(0,\)"),
    ],
)
def test_bad_scores(scores, labels, error, message):
    with pytest.raises(error, match=message):
        clustering_error(scores, labels)


@pytest.mark.parametrize("measure", [majority_error, matched_error])
def test_bad_clusters(measure):
    with pytest.raises(TypeError, match=r"clusters are torch\.float32.*q\.argmax\(1\)"):
        measure(torch.zeros(3), torch.zeros(3).long())
    with pytest.raises(ValueError, match=r"labels have shape \(2,\); expected \(3,\), one a point"):
        measure(torch.zeros(3).long(), torch.zeros(2).long())
    with pytest.raises(ValueError, match=r"clusters have shape \(0,\)"):
        measure(torch.zeros(0).long(), torch.zeros(0).long())
