"""The scripts of chapter 1, with few steps on few digits, store what its pages read."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import tutor
from experiments import vae_beta_grid, vae_figure2, vae_figure3, vae_mnist_2d
from tutor.metrics.ais import ais

QUICK_AIS = partial(ais, temperatures=3, chains=2)


def test_the_grid_of_beta(script):
    grid = script(vae_beta_grid)
    grid("1", STEPS=2, IMAGES=20)
    (row,) = grid.stored()["rows"]
    assert row["beta"] == 0.1
    grid()
    grid.is_like_the_shipped_one("beta")
    assert grid.stored()["rows"][0] == row  # it is not made again
    for row in grid.stored()["rows"]:
        parts = row["mutual_information"] + row["marginal_kl"]
        # of six digits each, as stored
        assert parts == pytest.approx(row["rate"], rel=1e-4, abs=1e-4)
        assert row["elbo"] == pytest.approx(row["reconstruction"] - row["rate"], abs=1e-2)


def test_the_vae_in_the_plane_and_its_weights(script):
    plane = script(vae_mnist_2d)
    small = {"STEPS": ((1e-3, 2), (1e-4, 1)), "AIS_IMAGES": 2, "TOLERANCE": 1.0}
    plane(**small, ais=QUICK_AIS)
    plane.is_like_the_shipped_one("seed")
    rows = plane.stored()["rows"]
    assert len({row["elbo"] for row in rows}) == 3  # a model of its own for each seed
    # seed 0 is shipped, as it was measured
    model = tutor.pretrained.load("vae_mnist_2d")
    measured = tutor.pretrained.provenance("vae_mnist_2d")["measured"]
    x = tutor.data.load("mnist", split="test").binarized(seed=0)[:]
    bound = tutor.metrics.elbo(model, x, samples=10, generator=torch.Generator().manual_seed(0))
    assert measured["elbo"] == pytest.approx(bound.mean().item(), rel=1e-5)
    assert rows[0]["elbo"] == pytest.approx(measured["elbo"], rel=1e-5)


def test_figure_2_takes_the_best_of_three_rates(script):
    figure = script(vae_figure2)
    figure(TRIAL=1, STEPS=2, IMAGES=20)
    figure.is_like_the_shipped_one("latent_dim")
    assert {row["learning_rate"] for row in figure.stored()["rows"]} <= set(vae_figure2.RATES)


def test_figure_3_measures_one_model_on_two_sets(script):
    figure = script(vae_figure3)
    few = {"IMAGES": 10, "AIS_IMAGES": 2, "TRAIN_SIZES": (100, 200)}
    figure(STEPS=2, ais=QUICK_AIS, **few)
    rows = figure.stored()["rows"]
    assert [(row["train_size"], row["split"]) for row in rows] == [
        (size, split) for size in (100, 200) for split in ("train", "test")
    ]
    figure.is_like_the_shipped_one("split")
    trained = [
        torch.cat([v.flatten() for v in weights(figure.folder / "runs" / f"{size}-{split}")])
        for size in (100, 200)
        for split in ("train", "test")
    ]
    assert torch.equal(trained[0], trained[1])
    assert torch.equal(trained[2], trained[3])
    assert not torch.equal(trained[0], trained[2])


def weights(folder):
    from safetensors.torch import load_file

    (state,) = folder.glob("state-*.safetensors")
    return [v for k, v in sorted(load_file(state).items()) if k.startswith("model/")]
