"""The runs on images of known factors: what is built, trained, measured and shipped."""

from __future__ import annotations

import json

import pytest
import torch
from torch.optim import Adam

import tutor
from experiments import (
    disentangled_models,
    disentangling,
    dsprites_grid,
    dsprites_tc,
    shapes3d_grid,
)
from tutor.data import Dataset, render_dsprites
from tutor.data.sprites import NAMES
from tutor.divergences import gaussian_total_correlation
from tutor.models import AAE, DIPVAE, BetaTCVAE, BetaVAE, FactorVAE


def sprites(n: int = 400) -> Dataset:
    """Squares and ellipses in two columns and two rows."""
    factors = torch.zeros(n, 5, dtype=torch.int64)
    factors[:, 0] = torch.arange(n) % 2
    factors[:, 3] = 20 * (torch.arange(n) // 2 % 2)
    factors[:, 4] = 20 * (torch.arange(n) // 4 % 2)
    shown = [0, 3, 4]
    data = Dataset((255 * render_dsprites(factors)).to(torch.uint8), name="dsprites")
    data.factors = (factors[:, shown] > 0).long()
    data.factor_names, data.factor_sizes = tuple(NAMES[i] for i in shown), (2, 2, 2)
    return data


@pytest.fixture
def short(monkeypatch):
    for name, value in {"STEPS": 2, "CRITIC_WIDTH": 8, "IMAGES": 400}.items():
        monkeypatch.setattr(disentangling, name, value)
    monkeypatch.setattr(disentangling, "PRECISION", "float32")


@pytest.mark.parametrize(
    ("method", "kind", "argument"),
    [
        ("beta-vae", BetaVAE, "beta"),
        ("factor-vae", FactorVAE, "gamma"),
        ("beta-tcvae", BetaTCVAE, "beta"),
        ("dip-vae-i", DIPVAE, "off_diagonal"),
        ("dip-vae-ii", DIPVAE, "off_diagonal"),
        ("aae", AAE, "gradient_penalty"),
    ],
)
def test_every_method_is_built_trained_and_measured(short, tmp_path, method, kind, argument):
    data = sprites()
    model, row = disentangling.run(data, "made", method, 3.0, 0, 4, tmp_path)
    assert type(model) is kind
    assert getattr(model, argument) == 3.0
    assert not model.training
    assert (row["discriminator_tc"] is not None) == (method == "factor-vae")
    assert row["images"] == 400
    assert row["reconstruction"] > 0
    assert row["factor_vae_score"] is None  # two steps: all is collapsed
    if method == "beta-tcvae":
        assert model.data_size == 400
    if kind is DIPVAE:
        assert model.variant == method[8:].upper()
    json.dumps(disentangling.about(method, 3.0, data, 4, row))  # plain values only


def test_a_method_with_two_batches_gets_twice_the_images(short, tmp_path, monkeypatch):
    """64 images for the reconstruction, whatever the method."""
    asked = {}

    def fit(model, data, **options):
        asked[type(model).__name__] = options["batch_size"]
        raise KeyboardInterrupt

    monkeypatch.setattr(tutor, "fit", fit)
    for method in ("beta-vae", "factor-vae", "aae"):
        with pytest.raises(KeyboardInterrupt):
            disentangling.run(sprites(), "made", method, 1.0, 0, 4, tmp_path)
    assert asked == {"BetaVAE": 64, "FactorVAE": 128, "AAE": 64}


def test_the_discriminator_s_optimiser_is_its_own():
    makers = disentangling.optimizers(FactorVAE(latent_dim=2))
    made = {player: make([torch.nn.Parameter(torch.ones(1))]) for player, make in makers.items()}
    assert all(isinstance(o, Adam) for o in made.values())
    assert made["discriminator"].defaults["betas"] == (0.5, 0.9)
    assert made["autoencoder"].defaults["betas"] == (0.9, 0.999)


class Reads(torch.nn.Module):
    """Shape, column and row of a made sprite, from three pixels; a narrow posterior."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        left = (x[:, 0, :, :32].sum((1, 2)) > x[:, 0, :, 32:].sum((1, 2))).float()
        top = (x[:, 0, :32].sum((1, 2)) > x[:, 0, 32:].sum((1, 2))).float()
        square = (x.sum((1, 2, 3)) > x.sum((1, 2, 3)).mean()).float()
        mean = self.scale * torch.stack([square, left, top], 1)
        return torch.cat([mean, torch.full_like(mean, -6.0)], 1)


def test_an_encoder_that_knows_the_factors_scores_one(short):
    data = sprites()
    model = BetaVAE(3, image_shape=data.shape, encoder=Reads(),
                    decoder=tutor.nets.factor_vae_decoder(3))  # fmt: skip
    row = disentangling.measure(model, data, seed=0)
    assert row["factor_vae_score"] == 1.0
    assert row["factor_vae_score_library"] == 1.0
    assert row["beta_vae_score"] > 0.99
    assert row["mig"] == pytest.approx(1.0, abs=0.01)
    assert row["active"] == 3
    with torch.no_grad():
        q = model.encode(data[:])
        at_means = -model.decode(q.mean).log_prob(data[:]).mean().item()
        kl = 0.5 * (q.mean**2 + q.log_var.exp() - 1 - q.log_var).sum(1).mean()
    assert row["kl"] == pytest.approx(kl.item(), rel=1e-4)
    # draws of deviation 0.05 through an untrained decoder, which is smooth
    assert row["reconstruction"] == pytest.approx(at_means, rel=0.01)


def test_part_of_the_images_is_drawn_without_replacement(monkeypatch):
    monkeypatch.setattr(disentangling, "IMAGES", 100)
    data = sprites()
    few = disentangling.some(data, seed=1)
    assert len(few) == len(few.factors) == 100
    assert not torch.equal(few.factors, disentangling.some(data, seed=2).factors)
    monkeypatch.setattr(disentangling, "IMAGES", 400)
    assert disentangling.some(data, seed=1) is data


@pytest.mark.parametrize("grid", [dsprites_grid, shapes3d_grid])
def test_shipped_models_have_weights_of_the_grid(grid):
    for setting in disentangled_models.SETTINGS:
        if setting["data"] in grid.__name__:
            assert setting["weight"] in grid.WEIGHTS[setting["method"]]


def test_rooms_are_kept_as_bytes(monkeypatch, tmp_path):
    """Rounded to a byte, in the order of the factors, and drawn only once."""
    drawn = tutor.data.load("shapes3d").subset(torch.tensor([5, 470_000, 17]))
    monkeypatch.setattr(tutor.data, "load", lambda name: drawn)
    monkeypatch.setattr(shapes3d_grid, "OUT", tmp_path)
    first, second = shapes3d_grid.images(), shapes3d_grid.images()
    assert torch.equal(first.factors, drawn.factors)
    assert (first[:] - drawn[:]).abs().max() <= 0.5 / 255 + 1e-6  # rounding
    assert torch.equal(first.images, second.images)
    assert len(list(tmp_path.glob("*"))) == 1


def test_the_first_rows_compare_the_methods():
    rows = disentangling.settings({"a": (1.0, 2.0, 3.0), "b": (4.0,)}, range(2))
    order = [("a", 1.0), ("b", 4.0), ("a", 2.0), ("a", 3.0)]
    assert [(s["method"], s["weight"]) for s in rows] == order * 2
    assert [s["seed"] for s in rows] == [0] * 4 + [1] * 4


def test_what_is_shipped_is_what_was_measured(short, tmp_path, monkeypatch):
    """The weights are those of the row, and load again from the two files."""
    monkeypatch.setitem(disentangled_models.LOAD, "dsprites", sprites)
    monkeypatch.setitem(disentangled_models.LATENT, "dsprites", 4)  # eight images, few dimensions
    for name, value in {"STEPS": 2, "EVALUATED": 8, "DRAWS": 64}.items():
        monkeypatch.setattr(disentangled_models, name, value)
    monkeypatch.setattr(disentangled_models, "ROOT", tmp_path)
    monkeypatch.setattr(disentangled_models, "OUT", tmp_path / "runs")
    folder = tmp_path / "src" / "tutor" / "weights"
    folder.mkdir(parents=True)
    row = disentangled_models.run("dsprites", "beta-vae", 4.0)
    monkeypatch.setattr(tutor.pretrained, "_WEIGHTS", folder)
    model = tutor.pretrained.load("beta_vae_dsprites")
    about = tutor.pretrained.provenance("beta_vae_dsprites")
    assert about["measured"]["reconstruction"] == row["reconstruction"]
    assert disentangling.measure(model, sprites(), 0)["reconstruction"] == row["reconstruction"]
    assert (about["data"], about["steps"]) == ("dsprites, 400 images", 2)
    # Jensen; draws move the two by hundredths of a nat here
    assert row["elbo"] <= row["log_likelihood"] + 0.2


# -- total correlation during training ------------------------------------------------------------


def test_part_of_the_grid_of_factors():
    data = sprites()
    assert len(dsprites_tc.part(data, (1, 1, 1))) == 400
    squares = dsprites_tc.part(data, (2, 1, 1))
    assert len(squares) == 200
    assert not squares.factors[:, 0].any()


@pytest.mark.slow
def test_the_exact_value_of_known_codes(monkeypatch):
    """Narrow posteriors at the corners of a cube that is missing its corner: against the sum."""
    data = sprites()
    data = data.subset(data.factors.sum(1) < 3)  # factors now depend on each other
    model = FactorVAE(3, image_shape=data.shape, encoder=Reads(),
                      decoder=tutor.nets.factor_vae_decoder(3))  # fmt: skip
    monkeypatch.setattr(dsprites_tc, "LATENT", 3)
    found = dsprites_tc.measure(model, data, seed=0)
    p = torch.zeros(2, 2, 2, dtype=torch.float64)
    for f in data.factors.tolist():
        p[tuple(f)] += 1 / len(data)
    product = (
        p.sum((1, 2))[:, None, None] * p.sum((0, 2))[None, :, None] * p.sum((0, 1))[None, None]
    )
    truth = torch.xlogy(p, p / product).sum()
    # clusters of deviation 0.05 at distance 1 do not overlap; three standard errors
    assert abs(found["exact"] - truth) < 3 * found["standard_error"]
    assert found["proved"] < truth + 0.05
    assert found["proved"] <= found["claimed"] + 0.1


def test_what_a_logit_proves_is_below_the_truth_and_tight_for_the_best_one(monkeypatch):
    """Codes that are one correlated Gaussian: the log-ratio in closed form as discriminator."""
    rho, dim = 0.8, 2
    cov = torch.tensor([[1.0, rho], [rho, 1.0]])
    truth = gaussian_total_correlation(cov).item()

    class Best(torch.nn.Module):
        def forward(self, z):
            joint = torch.distributions.MultivariateNormal(torch.zeros(2), cov)
            own = torch.distributions.Normal(0.0, 1.0)
            return (joint.log_prob(z) - own.log_prob(z).sum(1)).unsqueeze(1)

    spread = torch.linalg.cholesky(cov - 0.1 * torch.eye(2))
    means = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)) @ spread.T
    q = tutor.posteriors.DiagonalGaussian(means, torch.full_like(means, 0.1).log())
    model = FactorVAE(dim, discriminator=Best())
    monkeypatch.setattr(dsprites_tc, "LATENT", dim)
    monkeypatch.setattr(dsprites_tc, "encode_posteriors", lambda model, data: q)
    found = dsprites_tc.measure(model, means, seed=0)
    # 4000 posteriors, 1000 and 20 000 draws: standard errors of 0.02 and less
    for name in ("exact", "claimed", "proved"):
        assert float(found[name]) == pytest.approx(truth, abs=0.08), name
