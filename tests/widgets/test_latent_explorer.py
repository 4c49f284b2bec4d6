"""LatentExplorer in Python: what travels, what is shown without a browser, and bad input."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from tests.widgets.figures import blobs, vae
from tutor.data import Dataset
from tutor.models import VAE
from tutor.palette import PALETTE
from tutor.priors import Gaussian
from tutor.widgets import LatentExplorer, LiveFigure
from tutor.widgets._live import PALETTE_ON_DARK, VIEW, source
from tutor.widgets.contours import prior_contours


@pytest.fixture(scope="module")
def model() -> VAE:
    return vae()


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return blobs()


@pytest.fixture(scope="module")
def widget(model, dataset) -> LatentExplorer:
    return LatentExplorer(model, dataset, points=120)


def unpacked(images: bytes) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(images)).convert("L"))


def test_codes_are_posterior_means_and_spreads_their_deviations(model, dataset, widget):
    q = model.encode(dataset[:120])
    codes = np.frombuffer(widget.codes, "<f4").reshape(-1, 2)
    spreads = np.frombuffer(widget.spreads, "<f4").reshape(-1, 2)
    # the same float32 numbers but for the order of sums in another batch size
    np.testing.assert_allclose(codes, q.mean.detach(), atol=1e-5)
    np.testing.assert_allclose(spreads, q.stddev.detach(), atol=1e-5)


def test_images_travel_without_loss(dataset, widget):
    sheet = unpacked(widget.images)
    across = sheet.shape[1] // 28
    for i in (0, 57, 119):
        row, column = divmod(i, across)
        tile = sheet[28 * row : 28 * (row + 1), 28 * column : 28 * (column + 1)]
        np.testing.assert_array_equal(tile, dataset.images[i, 0])


def test_binary_images_take_a_bit_a_pixel(model, dataset):
    noise = torch.randint(2, (120, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    widget = LatentExplorer(model, Dataset(noise.float()), points=120)
    # noise can't be compressed: a bit a pixel, and the file's frame
    assert len(widget.images) < 120 * 28 * 28 / 8 + 1000
    np.testing.assert_array_equal(unpacked(widget.images)[:28, :28] > 0, noise[0, 0] > 0)


def test_labels_and_class_names(dataset, widget):
    assert widget.classes == ["0", "10", "20", "30"]
    labels = [int(widget.classes[k]) for k in widget.labels]
    assert labels == dataset.labels[:120].tolist()


def test_named_classes(model):
    named = Dataset(torch.rand(4, 28, 28), [0, 1, 1, 0], classes=["shirt", "shoe"])
    assert LatentExplorer(model, named, points=4).classes == ["shirt", "shoe"]


def test_without_labels_all_points_are_of_one_kind(model):
    widget = LatentExplorer(model, blobs(labelled=False), points=10)
    assert widget.classes == []
    assert widget.labels == b""
    assert "coloured" not in widget.alt


def test_a_generator_draws_the_points(model, dataset):
    def rows(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        widget = LatentExplorer(model, dataset, points=20, generator=generator)
        return np.frombuffer(widget.indices, "<i4").tolist()

    assert rows(0) == rows(0) != rows(1)
    assert len(set(rows(0))) == 20
    first = LatentExplorer(model, dataset, points=20)
    assert np.frombuffer(first.indices, "<i4").tolist() == list(range(20))


def test_everything_lies_within_the_plane(widget):
    low, high, bottom, top = widget.bounds
    assert high - low == pytest.approx(top - bottom, abs=2e-3)  # square; ends rounded to 1e-3
    x, y = np.frombuffer(widget.codes, "<f4").reshape(-1, 2).T
    assert low < x.min() <= x.max() < high
    assert bottom < y.min() <= y.max() < top


def test_prior_contours_of_the_standard_normal_are_circles():
    for contour in prior_contours(Gaussian(2)):
        (line,) = contour["lines"]
        radius = np.hypot(*np.transpose(line))
        # the mass is counted in grid cells of about 0.08: radii come out within half a cell
        np.testing.assert_allclose(radius, math.sqrt(-2 * math.log(1 - contour["mass"])), atol=0.03)


def test_prior_contours_of_two_far_humps_are_two_lines():
    class Humps:
        def sample(self, shape, *, generator=None):
            side = 8 * torch.randint(2, (*shape, 1), generator=generator).float() - 4
            return torch.randn((*shape, 2), generator=generator) + side

        def log_prob(self, z):
            parts = [-0.5 * (z - c).square().sum(-1) for c in (-4.0, 4.0)]
            return torch.stack(parts).logsumexp(0)

    assert [len(contour["lines"]) for contour in prior_contours(Humps())] == [2, 2, 2]


def test_a_model_without_prior_or_spread_works(dataset):
    class Plain(nn.Module):
        latent_dim, image_shape = 2, (1, 28, 28)

        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 2))
            self.decoder = nn.Sequential(nn.Linear(2, 784), nn.Unflatten(1, (1, 28, 28)))

        def encode(self, x):
            return self.encoder(x)

        def decode(self, z):
            return torch.distributions.Normal(self.decoder(z), 1.0)

    widget = LatentExplorer(Plain(), dataset, points=5)
    assert (widget.spreads, widget.contours) == (b"", [])
    assert widget.to_png().startswith(b"\x89PNG")


def test_training_mode_is_left_as_it_was(dataset):
    model = vae().train()
    LatentExplorer(model, dataset, points=5)
    assert model.training


# -- how it is displayed -------------------------------------------------------------------------


def test_display_has_picture_and_view(widget, monkeypatch):
    monkeypatch.delenv("TUTOR_STATIC_WIDGETS", raising=False)
    data, metadata = widget._repr_mimebundle_()
    assert VIEW in data
    assert "text/html" not in data
    assert data["text/plain"] == "LatentExplorer(VAE, blobs, points=120)" == repr(widget)
    assert metadata["image/png"]["alt"] == widget.alt
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")


def test_display_for_the_book_has_html_and_no_dead_view(widget, monkeypatch):
    monkeypatch.setenv("TUTOR_STATIC_WIDGETS", "1")
    data, _ = widget._repr_mimebundle_()
    assert VIEW not in data
    assert f'alt="{widget.alt}"' in data["text/html"]


def test_the_same_figure_gives_the_same_bytes(model, dataset, widget):
    again = LatentExplorer(model, dataset, points=120)
    assert again.to_png() == widget.to_png()
    assert again.to_html() == widget.to_html()


def test_two_figures_have_different_names(model, dataset, widget):
    other = LatentExplorer(model, dataset, points=119)
    keys = [re.findall(r'data-tutor-live="(\w+)"', w.to_html())[0] for w in (widget, other)]
    assert keys[0] != keys[1]


def test_no_text_of_the_data_can_end_the_script(model):
    nasty = "</script><!--<script>"
    named = Dataset(torch.rand(4, 28, 28), [0, 1, 1, 0], classes=[nasty, "shoe"])
    page = LatentExplorer(model, named, points=4).to_html()
    payload = re.search(r'data-tutor-state="\w+">(.*?)</script>', page, re.DOTALL)[1]
    assert json.loads(payload)["state"]["classes"] == [nasty, "shoe"]
    assert "<!--" not in page
    assert page.count("</script>") == 2


def test_the_modules_have_nothing_that_ends_a_script():
    for name in ("page.js", "runtime.js", "plane.js", "latent_explorer.js", "mount.js"):
        assert "</script" not in source(name).lower()
        assert "<!--" not in source(name)


def test_a_thousand_mnist_sized_images_stay_under_a_megabyte(model):
    binary = (blobs(1000).images > 127).float()
    widget = LatentExplorer(model, Dataset(binary), points=1000)
    assert len(widget.to_html()) < 1_000_000


def test_every_figure_must_say_what_it_shows():
    with pytest.raises(ValueError, match="alt is empty"):
        LiveFigure(alt=" ")


def test_importing_the_widgets_does_not_load_matplotlib():
    code = "import sys, tutor.widgets; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- colours for the dark page -------------------------------------------------------------------

# Machado, Oliveira & Fernandes (2009), severity 1: protanopia, deuteranopia, tritanopia.
SIGHT = {
    "usual": np.eye(3),
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
XYZ = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]


def linear(colours) -> np.ndarray:
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in colours])
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    x, y, z = (rgb.clip(0, 1) @ np.transpose(XYZ) / [0.9505, 1, 1.089]).T
    x, y, z = (np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116) for t in (x, y, z))
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


@pytest.mark.parametrize("sight", SIGHT)
def test_dark_class_colours_are_apart(sight):
    colours = lab(linear(PALETTE_ON_DARK) @ np.transpose(SIGHT[sight]))
    apart = np.linalg.norm(colours[:, None] - colours[None], axis=-1)[np.triu_indices(10, 1)]
    assert len(PALETTE_ON_DARK) == len(PALETTE)
    assert apart.min() >= 24  # the same bound as the light palette's


def test_dark_class_colours_stand_out():
    ground = re.search(r'"dark"\].*?--tutor-paper: (#\w+)', source("live.css"), re.DOTALL)[1]
    light = linear([ground, *PALETTE_ON_DARK]) @ [0.2126, 0.7152, 0.0722] + 0.05
    assert (light[1:] / light[0]).min() >= 2.9


# -- bad input -----------------------------------------------------------------------------------


def test_a_plane_needs_two_dimensions(dataset):
    with pytest.raises(ValueError, match=r"latent_dim=5; .* needs latent_dim=2"):
        LatentExplorer(VAE(latent_dim=5), dataset)


@pytest.mark.parametrize("points", [0, -3, 301])
def test_more_points_than_images(model, dataset, points):
    with pytest.raises(ValueError, match=rf"points is {points}, .* between 1 and 300"):
        LatentExplorer(model, dataset, points=points)


def test_a_decoder_the_page_cannot_run(dataset):
    decoder = nn.Sequential(nn.Linear(2, 784), nn.GELU(), nn.Unflatten(1, (1, 28, 28)))
    with pytest.raises(TypeError, match=r"decoder layer 1 is GELU"):
        LatentExplorer(VAE(latent_dim=2, decoder=decoder), dataset, points=5)


def test_a_decode_that_is_not_the_decoder(dataset):
    class Brighter(VAE):
        def decode(self, z):
            likelihood = super().decode(z)
            return type(likelihood)(likelihood.logits + 1)

    with pytest.raises(ValueError, match=r"differs from model.decode\(z\).mean by up to"):
        LatentExplorer(Brighter(latent_dim=2), dataset, points=5)


def test_too_many_classes(model):
    many = Dataset(torch.rand(11, 28, 28), torch.arange(11))
    with pytest.raises(ValueError, match="11 classes; at most 10"):
        LatentExplorer(model, many, points=5)


def test_images_of_another_shape(model):
    with pytest.raises(ValueError, match=r"image_shape="):
        LatentExplorer(model, Dataset(torch.rand(6, 8, 8)), points=5)


def test_codes_that_are_not_finite(dataset):
    broken = vae()
    nn.init.constant_(broken.encoder[-1].bias, float("nan"))
    with pytest.raises(ValueError, match="returns NaN or infinite codes"):
        LatentExplorer(broken, dataset, points=5)


def test_a_choice_must_be_one_of_the_points(widget):
    from traitlets import TraitError

    with pytest.raises(TraitError, match=r"selected is 120; .* among the 120 that"):
        widget.selected = 120
    with pytest.raises(TraitError, match="two finite numbers"):
        widget.z = [0.0, float("nan")]


def test_a_model_left_in_training_mode_is_looked_at_in_evaluation_mode(dataset):
    torch.manual_seed(0)
    decoder = nn.Sequential(
        nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 784), nn.Unflatten(1, (1, 28, 28))
    )
    model = VAE(2, decoder=decoder).train()
    before = decoder[1].running_mean.clone()
    with pytest.raises(TypeError, match="BatchNorm1d"):
        LatentExplorer(model, dataset, points=10)
    assert torch.equal(decoder[1].running_mean, before)
    assert model.training
