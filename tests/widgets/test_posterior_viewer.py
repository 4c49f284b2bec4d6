"""PosteriorViewer in Python: what travels, what is shown without a browser, and bad input."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
import traitlets

from tests.widgets.posteriors import CENTRES, gaussian_frames, viewer
from tutor.data import four_points
from tutor.priors import Gaussian, UniformBox
from tutor.widgets import PosteriorViewer
from tutor.widgets._live import VIEW, source

X = four_points()[:]


@pytest.fixture(scope="module")
def widget() -> PosteriorViewer:
    return viewer()


def tiles(widget: PosteriorViewer) -> np.ndarray:
    """The levels of all tiles, ``(methods, T, n, G, G)``, rows from above."""
    from PIL import Image

    sheet = np.asarray(Image.open(io.BytesIO(widget.densities)).convert("L"))
    side, across = widget.spec["grid"], sheet.shape[1] // widget.spec["grid"]
    parts = sheet.reshape(-1, side, across, side).swapaxes(1, 2).reshape(-1, side, side)
    shape = (len(widget.spec["methods"]), len(widget.spec["steps"]), 4, side, side)
    return parts[: math.prod(shape[:3])].reshape(shape)


# -- what travels -----------------------------------------------------------------------------


def test_shades_are_roots_of_densities_by_their_peaks(widget):
    frames = gaussian_frames()
    density = frames.log_density.exp()
    wanted = (density / density.amax((2, 3), keepdim=True)).sqrt()
    wanted = wanted.transpose(2, 3).flip(2).numpy()  # rows are z2 from above, columns z1
    # half a level of 127, and half a level of 255
    assert np.abs(tiles(widget)[0] / 255 - wanted).max() <= 0.5 / 127 + 0.5 / 255


def test_the_densest_place_of_a_tile_is_where_it_belongs(widget):
    for i, (a, b) in enumerate(CENTRES.tolist()):
        row, column = np.unravel_index(tiles(widget)[0, -1, i].argmax(), (48, 48))
        cell = 8 / 48
        assert -4 + (column + 0.5) * cell == pytest.approx(a, abs=cell)
        assert 4 - (row + 0.5) * cell == pytest.approx(b, abs=cell)


def test_draws_travel_in_small_steps(widget):
    frames = gaussian_frames("AVB", draws=200)
    method = widget.spec["methods"][1]
    assert method["draws"] == 200
    back = np.frombuffer(widget.samples, "<i2").reshape(5, 4, 200, 2) * method["scale"]
    assert method["scale"] < 2e-4  # less than a hundredth of a pixel of 300 over 8 units
    assert np.abs(back - frames.samples.numpy()).max() <= 0.51 * method["scale"]


def test_gaussians_numbers_and_windows_travel_exactly(widget):
    vae = gaussian_frames()
    sent = np.frombuffer(widget.gaussians, "<f4").reshape(5, 4, 4)
    np.testing.assert_array_equal(sent[..., :2], vae.mean)
    np.testing.assert_allclose(sent[..., 2:], (0.5 * vae.log_var).exp(), rtol=1e-6)
    numbers = np.frombuffer(widget.numbers, "<f4").reshape(2, 2, 5, 4)
    np.testing.assert_array_equal(numbers[0, 0], vae.log_evidence)
    np.testing.assert_array_equal(numbers[0, 1], vae.kl)
    assert np.isnan(numbers[1, 1]).all()  # nobody measured it
    windows = np.frombuffer(widget.windows, "<f4").reshape(2, 5, 4, 4)
    assert (windows == [-4, 4, -4, 4]).all()


def test_windows_of_their_own(widget):
    narrow = viewer(narrow=True)
    frames = gaussian_frames(narrow=True)
    windows = np.frombuffer(narrow.windows, "<f4").reshape(2, 5, 4, 4)
    np.testing.assert_allclose(windows[0], frames.bounds, rtol=1e-6)
    one_a_point = frames._replace(bounds=frames.bounds[-1])
    again = PosteriorViewer(X, one_a_point)
    windows = np.frombuffer(again.windows, "<f4").reshape(1, 5, 4, 4)
    np.testing.assert_allclose(windows[0, 0], frames.bounds[-1], rtol=1e-6)
    # the plane holds the prior's contours, here a circle of radius 3.03, whatever the windows
    low, high, bottom, top = narrow.bounds
    assert low < -3.04
    assert 3.04 < high < 3.3
    assert high - low == pytest.approx(top - bottom)


def test_twenty_frames_of_two_methods_stay_small(capsys):
    size = len(viewer(moments=20, grid=64).to_html())
    with capsys.disabled():
        print(f"\n20 frames, 4 points, 64 x 64 cells, 2 methods, 200 draws: {size / 1000:.0f} kB")
    assert size < 350_000


def test_one_method_is_enough():
    widget = PosteriorViewer(X, gaussian_frames())
    assert widget.contours == []
    assert widget.bounds == [-4, 4, -4, 4]
    assert "prior" not in widget.alt
    assert widget.to_png().startswith(b"\x89PNG")


def test_minus_infinity_is_an_empty_cell():
    frames = gaussian_frames()
    density = frames.log_density.clone()
    density[:, :, :10] = -torch.inf
    widget = PosteriorViewer(X, frames._replace(log_density=density))
    assert (tiles(widget)[..., :10] == 0).all()
    assert (tiles(widget)[..., 10:].max((-1, -2)) == 255).all()


def test_names_are_kept_and_cannot_end_the_script():
    nasty = ["</script><!--", "two", "three", "four"]
    widget = PosteriorViewer(X, gaussian_frames(), names=nasty)
    assert widget.spec["names"] == nasty
    assert "<!--" not in widget.to_html()
    assert "</script" not in source("posterior_viewer.js").lower()
    assert "<!--" not in source("posterior_viewer.js")


# -- how it is displayed ----------------------------------------------------------------------


def test_it_starts_with_all_points_at_the_last_frame(widget):
    assert (widget.frame, widget.point) == (4, None)
    assert widget.alt == (
        "Exact posteriors of 4 images as shaded patches of the latent plane after 4000 training "
        "steps, over contours of the prior: under the decoder of VAE, with its Gaussian q(z|x) as "
        "ellipses; beside it under the decoder of AVB, with 200 draws of its q(z|x) as dots."
    )


def test_display(widget, monkeypatch):
    monkeypatch.delenv("TUTOR_STATIC_WIDGETS", raising=False)
    data, metadata = widget._repr_mimebundle_()
    assert data["text/plain"] == repr(widget) == "PosteriorViewer(VAE and AVB, images=4, frames=5)"
    assert metadata["image/png"]["alt"] == widget.alt
    assert VIEW in data
    monkeypatch.setenv("TUTOR_STATIC_WIDGETS", "1")
    data, _ = widget._repr_mimebundle_()
    assert VIEW not in data
    assert f'alt="{widget.alt}"' in data["text/html"]


def test_the_same_figure_gives_the_same_bytes(widget):
    again = viewer.__wrapped__()
    assert again.to_png() == widget.to_png()
    assert again.to_html() == widget.to_html()


def test_the_picture_shows_both_methods(widget):
    """Ellipses and dots in the places of the last frame, over three contours."""
    figure = widget.picture()
    vae, avb = figure.axes
    assert (vae.get_title(), avb.get_title()) == ("VAE", "AVB")
    assert len(vae.patches) == 8  # four points, one and two standard deviations
    middles = [patch.center for patch in vae.patches[::2]]
    np.testing.assert_allclose(middles, CENTRES, atol=1e-6)
    assert [round(vae.patches[k].width, 4) for k in (0, 1)] == [1.0, 2.0]  # 2 x 0.5, 4 x 0.5
    dots = [path.get_offsets() for path in avb.collections]
    np.testing.assert_allclose(dots, gaussian_frames("AVB", draws=200).samples[-1], atol=1e-5)
    assert len(vae.lines) == len(avb.lines) == 3


def test_frame_and_point_are_checked():
    widget = viewer.__wrapped__()
    widget.frame, widget.point = 0, 3
    widget.point = None
    for frame in (-1, 5):
        with pytest.raises(traitlets.TraitError, match=f"frame is {frame}; expected 0 to 4"):
            widget.frame = frame
    with pytest.raises(traitlets.TraitError, match="point is 4; expected 0 to 3, or None for all"):
        widget.point = 4


# -- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (X[0], r"images are \(1, 2, 2\); expected a tensor \(n, 1 or 3, H, W\)"),
        (X.repeat(1, 2, 1, 1), r"images are \(4, 2, 2, 2\)"),
        (X.numpy(), "images are ndarray"),
        (X.repeat(6, 1, 1, 1), "given 24 images; the figure tells 1 to 20 apart"),
        (X[:0], "given 0 images"),
        (2 * X, r"values outside \[0, 1\]"),
        (X * torch.nan, r"values outside \[0, 1\]"),
    ],
)
def test_images_that_do_not_fit(images, said):
    with pytest.raises(ValueError, match=said):
        PosteriorViewer(images, gaussian_frames())


def with_nan(values: torch.Tensor) -> torch.Tensor:
    values = values.clone()
    values.view(-1)[-1] = torch.nan
    return values


GOOD, SAMPLED = gaussian_frames(grid=8), gaussian_frames("AVB", draws=5, grid=8)


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        (GOOD._replace(steps=torch.zeros(5, dtype=torch.long)), "whole numbers that rise"),
        (GOOD._replace(steps=torch.arange(5.0)), "whole numbers that rise"),
        (GOOD._replace(steps=torch.arange(4)), r"shape \(5, 4, 8, 8\); expected \(4, 4, G, G\)"),
        (GOOD._replace(log_density=GOOD.log_density[:, :3]), r"expected \(5, 4, G, G\)"),
        (GOOD._replace(log_density=GOOD.log_density[..., :7]), r"expected \(5, 4, G, G\)"),
        (GOOD._replace(log_density=with_nan(GOOD.log_density)), "NaN or .inf, or nothing but -inf"),
        (GOOD._replace(log_density=GOOD.log_density - torch.inf), "nothing but -inf in a window"),
        (GOOD._replace(bounds=torch.zeros(5, 4)), r"expected \(4,\), \(4, 4\) or \(5, 4, 4\)"),
        (GOOD._replace(bounds=torch.tensor([4.0, -4, -4, 4])), "left < right and bottom < top"),
        (GOOD._replace(log_var=None), "either mean and log_var of q.z.x., or samples"),
        (GOOD._replace(mean=None, log_var=None), "either mean and log_var"),
        (GOOD._replace(samples=SAMPLED.samples), "either mean and log_var"),
        (GOOD._replace(mean=GOOD.mean[:, :3]), r"VAE: mean has shape \(5, 3, 2\); expected"),
        (GOOD._replace(log_var=with_nan(GOOD.log_var)), "VAE: log_var has NaN or infinite values"),
        (GOOD._replace(kl=GOOD.kl[0]), r"VAE: kl has shape \(4,\); expected \(5, 4\)"),
        (GOOD._replace(log_evidence=with_nan(GOOD.log_evidence)), "log_evidence has NaN"),
        (SAMPLED._replace(samples=SAMPLED.samples[:, :2]), r"expected \(5, 4, draws, 2\)"),
        (SAMPLED._replace(samples=SAMPLED.samples[:, :, :0]), r"expected \(5, 4, draws, 2\)"),
        (SAMPLED._replace(samples=SAMPLED.samples[0]), "samples has shape"),
    ],
)
def test_frames_that_do_not_fit(frames, said):
    with pytest.raises(ValueError, match=said):
        PosteriorViewer(X, frames)


def test_methods_that_do_not_fit_together():
    with pytest.raises(TypeError, match="frames are a tuple; expected PosteriorFrames"):
        PosteriorViewer(X, tuple(GOOD))
    with pytest.raises(ValueError, match="given 0 methods' frames; the figure shows one or two"):
        PosteriorViewer(X)
    with pytest.raises(ValueError, match="given 3 methods' frames"):
        PosteriorViewer(X, GOOD, SAMPLED, GOOD)
    with pytest.raises(ValueError, match="both methods are called VAE"):
        PosteriorViewer(X, GOOD, GOOD)
    with pytest.raises(ValueError, match=r"AVB at .*; record both at the same steps"):
        PosteriorViewer(X, GOOD, SAMPLED._replace(steps=SAMPLED.steps + 1))
    with pytest.raises(ValueError, match="grid of 8 cells, AVB of 9; use the same points="):
        PosteriorViewer(X, GOOD, gaussian_frames("AVB", draws=5, grid=9))
    with pytest.raises(ValueError, match="3 names for 4 images"):
        PosteriorViewer(X, GOOD, names=["a", "b", "c"])
    with pytest.raises(ValueError, match="grid cells in all are more than"):
        PosteriorViewer(X, gaussian_frames(moments=70, grid=256))


def test_the_prior_may_be_of_any_shape():
    contours = PosteriorViewer(X, GOOD, prior=UniformBox(2)).contours
    assert [contour["mass"] for contour in contours] == [1.0]
    assert len(PosteriorViewer(X, GOOD, prior=Gaussian(2)).contours) == 3
