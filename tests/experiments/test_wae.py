"""The WAE experiments: recipe, schedules and measurements on small made data."""

from __future__ import annotations

import dataclasses
import io
import math
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

import tutor
from experiments import wae_celeba, wae_dimension, wae_mnist, wae_mnist_2d, wae_recipe
from tutor.data import Dataset
from tutor.kernel_theory import gaussian_mmd
from tutor.kernels import mmd
from tutor.metrics import frechet_distance, sharpness
from tutor.models import VAE, WAE
from tutor.priors import Gaussian


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def faces(n: int) -> Dataset:
    pixels = torch.randint(256, (n, 3, 64, 64), generator=generator(n), dtype=torch.uint8)
    return Dataset(pixels, name="celeba")


@pytest.fixture
def small_celeba(monkeypatch):
    """Made faces in place of CelebA, and the paper's networks two channels wide."""
    sets = {"train": faces(24), "test": faces(20)}
    monkeypatch.setattr(tutor.data, "load", lambda name, split="train": sets[split])
    for name, value in {"WIDTH": 2, "CRITIC_WIDTH": 8, "EPOCHS": 1, "BATCH": 8}.items():
        monkeypatch.setattr(wae_celeba, name, value)
    monkeypatch.setattr(wae_celeba, "PRETRAIN_BATCH", 16)
    monkeypatch.setattr(wae_celeba, "BLOCK", 10)
    return sets


def test_the_schedules():
    assert [wae_recipe.schedule(t) for t in (0, 0.29, 0.3, 0.49, 0.5, 1)] == [
        1,
        1,
        0.5,
        0.5,
        0.2,
        0.2,
    ]
    assert wae_celeba.schedule(0) == 1
    assert wae_celeba.schedule(1) == pytest.approx(0.01)


def test_the_moment_loss_is_zero_for_equal_moments_and_written_out_for_others():
    z = torch.randn(50, 3, generator=generator(), dtype=torch.float64)
    # the same points in another order: the same moments
    assert wae_recipe.moment_loss(z.flip(0), z).item() == pytest.approx(0, abs=1e-20)
    got = wae_recipe.moment_loss(2 * z + 1, z)
    want = (z.mean(0) + 1).square().mean() + (3 * z.T.cov()).square().mean()
    assert got.item() == pytest.approx(want.item(), rel=1e-10)


def test_pretraining_brings_the_codes_moments_to_the_prior_s_and_leaves_the_decoder():
    x = torch.rand(400, 1, 2, 2, generator=generator())
    torch.manual_seed(0)
    model = WAE(2, image_shape=(1, 2, 2))
    with torch.no_grad():
        model.encoder[-1].bias += 3
    decoder = [p.clone() for p in model.decoder.parameters()]
    z = Gaussian(2).sample((400,), generator=generator())
    assert wae_recipe.moment_loss(model.encode(x).mean, z) > 5
    taken = wae_recipe.pretrain(model, Dataset(x), batch_size=200, rate=1e-2)
    assert 0 < taken < 200
    # it stops below 0.1 on a batch of 200; another batch has other moments
    assert wae_recipe.moment_loss(model.encode(x).mean, z) < 0.3
    assert all(torch.equal(a, b) for a, b in zip(decoder, model.decoder.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())


def test_codes_from_the_prior_match_it_and_others_do_not():
    prior = Gaussian(4)
    codes = prior.sample((600,), generator=generator(5))
    match = wae_recipe.code_match(codes, prior, seed=1, block=200)
    # three blocks: the mean within four standard deviations of one; the ratio is about 1
    assert abs(match["mmd"]) < 4 * match["mmd_null_std"]
    assert 0.6 < match["energy_ratio"] < 1.6
    half = wae_recipe.code_match(0.5 * codes, prior, seed=1, block=200)
    exact = gaussian_mmd(torch.zeros(4), torch.full((4,), 0.5)).item()
    assert half["mmd"] == pytest.approx(exact, abs=6 * match["mmd_null_std"])
    assert half["energy_ratio"] > 5


class Grey(nn.Module):
    """Codes to images of one grey value each, sigmoid(z_0)."""

    def forward(self, z):
        return z[:, :1].sigmoid()[..., None, None].expand(-1, 1, 28, 28)


def test_the_figures_of_a_row_are_what_they_are_called(monkeypatch):
    test = tutor.data.load("digits")
    monkeypatch.setattr(tutor.data, "load", lambda name, split="train": test)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 2))
    model = WAE(2, encoder=encoder, decoder=Grey()).eval()
    monkeypatch.setattr(wae_recipe, "code_match", lambda codes, prior, seed: {"codes": len(codes)})
    row = wae_recipe.measure_digits(model, 0, n=60)
    x = test[:60]
    with torch.no_grad():
        back = model.decode(model.encode(x).mean).mean
        samples = model.sample(60, generator=generator())
    assert row["codes"] == row["images"] == 60
    want = (back - x).square().flatten(1).sum(1).mean().item()
    assert row["squared_error"] == pytest.approx(want, rel=1e-5)
    assert row["sharpness_samples"] == pytest.approx(0, abs=1e-6)  # flat images
    features = [tutor.metrics.digit_features(i) for i in (samples, x)]
    want = frechet_distance(*features).item()
    assert row["frechet_samples"] == pytest.approx(want, rel=1e-4)


def test_all_methods_share_their_networks_sizes():
    for d in ("encoder", "decoder"):
        widths = {wae_mnist.networks(m)[d][1]["width"] for m in wae_recipe.METHODS}
        assert widths == {wae_mnist.WIDTH}
    vae, mmd_model, gan = (
        tutor.pretrained.build(
            "VAE" if m == "vae" else "WAE", wae_mnist.arguments(m), wae_mnist.networks(m)
        )
        for m in wae_recipe.METHODS
    )
    # the VAE's encoder has a second head, nothing else differs
    extra = 8 * (8 * wae_mnist.WIDTH * 4 + 1)
    count = [sum(p.numel() for p in m.encoder.parameters()) for m in (vae, mmd_model, gan)]
    assert count[0] - extra == count[1] == count[2]
    assert mmd_model.penalty_weight == gan.penalty_weight == 200
    x = torch.rand(2, 1, 28, 28)
    for model in (vae, mmd_model, gan):
        assert model.reconstruct(x).shape == x.shape


def test_overlap_of_posteriors_is_counted_right(monkeypatch):
    data = Dataset(torch.rand(200, 1, 2, 2, generator=generator()))
    monkeypatch.setattr(tutor.data, "load", lambda name, split="train": data)
    model = VAE(2, image_shape=(1, 2, 2))
    torch.manual_seed(0)
    with torch.no_grad():
        model.encoder[-1].weight[:2] *= 50
        model.encoder[-1].weight[2:] = 0
        model.encoder[-1].bias[2:] = math.log(1e-12)  # standard deviation 1e-6
    narrow = wae_mnist_2d.posteriors(model, 0, n=200)
    assert narrow["posterior_std"] == pytest.approx(1e-6, rel=1e-3)
    assert narrow["own_image_percent"] == 100
    with torch.no_grad():
        model.encoder[-1].weight.zero_()  # every posterior is the same one: ties go to the first
        model.encoder[-1].bias[2:] = 0
    wide = wae_mnist_2d.posteriors(model, 0, n=200)
    assert wide == {"posterior_std": 1.0, "own_image_percent": 0.5}


def test_effective_dimensions_of_known_codes(monkeypatch):
    """An encoder that copies pixels: two that vary equally, one a little, one not at all."""
    pixels = torch.rand(4_000, 1, 2, 2, generator=generator())
    pixels[:, 0, 1, 0] *= 0.1
    pixels[:, 0, 1, 1] = 0.5
    monkeypatch.setattr(tutor.data, "load", lambda name, split="train": Dataset(pixels))
    model = WAE(4, image_shape=(1, 2, 2), encoder=nn.Sequential(nn.Flatten(), nn.Linear(4, 4)))
    with torch.no_grad():
        model.encoder[1].weight.copy_(torch.eye(4))
    found = wae_dimension.spread(model, n=4_000)
    assert found["posterior_std"] == 0
    assert found["smallest_variance"] == pytest.approx(0, abs=1e-9)
    assert found["largest_variance"] == pytest.approx(1 / 12, rel=0.1)
    assert found["effective_dimensions"] == pytest.approx(2.01**2 / 2.0001, rel=0.02)


# -- CelebA ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", wae_recipe.METHODS)
def test_celeba_from_end_to_end_on_made_faces(small_celeba, monkeypatch, method):
    monkeypatch.setattr(wae_celeba, "fid", lambda a, b: frechet_distance(*means(a, b)))
    row = wae_celeba.run(method, 0)
    assert row["images"] == 20
    assert all(math.isfinite(v) for v in row.values())
    # uniform noise: 20 times its variance of 1/12, over three channels averaged
    assert row["sharpness_data"] == pytest.approx(20 / 12 / 3, rel=0.05)
    # an untrained decoder is near grey 0.5: |x - 0.5|^2 of 12 288 uniform pixels is 1024
    assert 900 < row["squared_error"] < 1_400
    assert row["fid"] >= 0


def test_celeba_is_read_from_the_archive_that_the_reader_has(tmp_path, monkeypatch):
    """Made pictures of the original's size and names, through the real loader."""
    from PIL import Image

    (tmp_path / "celeba").mkdir()
    draw = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "celeba" / "img_align_celeba.zip", "w") as archive:
        for i in range(1, 29):
            content = io.BytesIO()
            shade = draw.integers(256, size=3, dtype=np.uint8)
            Image.fromarray(np.broadcast_to(shade, (218, 178, 3))).save(content, "JPEG")
            archive.writestr(f"img_align_celeba/{i:06}.jpg", content.getvalue())
    few = dataclasses.replace(tutor.data.CELEBA, count=28, splits={"train": (0, 18)})
    few.splits["test"] = (18, 28)
    monkeypatch.setattr(tutor.data, "CELEBA", few)
    monkeypatch.setenv("TUTOR_DATA", str(tmp_path))
    monkeypatch.setenv("TUTOR_CACHE", str(tmp_path / "cache"))
    small = {"WIDTH": 2, "EPOCHS": 1, "BATCH": 9, "PRETRAIN_BATCH": 8, "BLOCK": 10}
    for name, value in small.items():
        monkeypatch.setattr(wae_celeba, name, value)
    row = wae_celeba.run("wae_mmd", 0)
    assert row["images"] == 10
    # pictures of one colour each have no edges
    assert row["sharpness_data"] == pytest.approx(0, abs=1e-6)
    assert row["fid"] is None or row["fid"] >= 0
    assert ("fid_not_run" in row) == (row["fid"] is None)


def means(*sets):
    return [images.mean((2, 3)) for images in sets]


def test_celeba_without_inception_says_so_in_the_row(small_celeba, monkeypatch):
    def missing(a, b):
        raise FileNotFoundError("the weights are not here")

    monkeypatch.setattr(wae_celeba, "fid", missing)
    found = wae_celeba.fid_or_reason(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4))
    assert found == {"fid": None, "fid_not_run": "the weights are not here"}


def test_celeba_without_the_data_asks_for_them(monkeypatch):
    def nowhere(name, split="train"):
        raise FileNotFoundError("CelebA: put img_align_celeba.zip into ...")

    monkeypatch.setattr(tutor.data, "load", nowhere)
    for name, value in {"WIDTH": 2, "CRITIC_WIDTH": 8}.items():
        monkeypatch.setattr(wae_celeba, name, value)
    with pytest.raises(FileNotFoundError, match="img_align_celeba"):
        wae_celeba.run("wae_gan", 0)


def test_the_discriminator_of_faces_knows_the_prior(small_celeba):
    model = wae_celeba.make("wae_gan")
    z = torch.randn(3, 64, generator=generator())
    learnt = model.discriminator.network(z).squeeze(1)
    assert torch.allclose(model.discriminate(z), Gaussian(64).log_prob(z) - learnt)
    assert wae_celeba.make("wae_mmd").penalty_weight == 10 * model.penalty_weight == 500


@pytest.mark.parametrize(("start", "std"), [("narrow", math.exp(-2)), ("wide", 1.0)])
def test_posteriors_start_as_wide_as_said(start, std):
    torch.manual_seed(0)
    model = tutor.pretrained.build(
        "WAE", wae_mnist_2d.arguments("wae_mmd", None), wae_mnist_2d.NETWORKS
    )
    mean = model.encode(torch.zeros(1, 1, 28, 28)).mean
    wae_recipe.start_posteriors(model, start)
    q = model.encode(torch.zeros(1, 1, 28, 28))
    assert torch.equal(q.mean, mean)
    # the last layer's weights add a little to its bias
    assert q.stddev.mean().item() == pytest.approx(std, rel=0.1)


SHIPPED = [*wae_mnist.NAMES.values(), *wae_mnist_2d.NAMES.values()]


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_models_are_the_ones_that_were_measured(name):
    test = tutor.data.load("mnist", split="test", fallback="digits")
    if test.name != "mnist":
        pytest.skip("MNIST is not at hand")
    model = tutor.pretrained.load(name)
    measured = tutor.pretrained.provenance(name)["measured"]
    # at random: the two halves of the test set come from different groups of writers
    x = test[torch.randperm(len(test), generator=generator())[:2_000]]
    back = model.reconstruct(x).clamp(0, 1)
    error = (back - x).square().flatten(1).sum(1)
    # 2 000 of the 10 000 images that were measured: five standard errors
    assert abs(error.mean().item() - measured["squared_error"]) < 5 * error.std() / 2_000**0.5
    # sharpness, relative to that of the same images, differs little between sets of images
    blurred = sharpness(back).mean() / sharpness(x).mean()
    assert blurred.item() == pytest.approx(
        measured["sharpness_reconstructions"] / sharpness(test[:]).mean().item(), rel=0.1
    )
    with torch.no_grad():
        codes = model.encode(x).sample(generator=generator(1))
    z = model.prior.sample((2_000,), generator=generator())
    # five standard deviations of a block of 1 000 codes
    allowed = 5 * measured["mmd_null_std"]
    assert mmd(codes, z).item() == pytest.approx(measured["mmd"], abs=allowed)
