"""Clusters of MNIST by k-means on the pixels: what `experiments.aae_clusters` has to beat.

The same images, the same numbers of clusters, the same errors.  For the paper's protocol q(y|x) is
taken in proportion to ``exp(-distance^2)`` from the centres.

    python -m experiments.kmeans_clusters
"""

from __future__ import annotations

import torch

from experiments.aae_clusters import CLUSTERS, SEEDS, errors
from experiments.categorical import splits
from experiments.runs import do_all


def run(clusters: int, seed: int) -> dict[str, float | int]:
    from sklearn.cluster import MiniBatchKMeans

    train, _, test = splits()
    found = MiniBatchKMeans(clusters, batch_size=4_096, n_init=3, random_state=seed)
    found.fit(train[:].flatten(1).numpy())
    distances = torch.from_numpy(found.transform(test[:].flatten(1).numpy()))
    row = errors(-distances.square(), test.labels)
    del row["mean_confidence"]  # k-means itself has no q(y|x)
    return row


def main() -> None:
    settings = [{"clusters": count, "seed": seed} for seed in SEEDS for count in CLUSTERS]
    do_all("kmeans_clusters", settings, run, training_images=50_000)


if __name__ == "__main__":
    main()
