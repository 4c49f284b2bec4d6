"""The figures show what they say: positions, classes, mass of the prior, tiles of the manifold."""

import math
import subprocess
import sys

import matplotlib
import pandas as pd
import pytest
import torch

matplotlib.use("agg")
from matplotlib import pyplot as plt

from tutor import palette, plots
from tutor.models import AAE, AVB, VAE
from tutor.priors import Gaussian, SwissRoll, UniformBox

# Simulated dichromacy in linear RGB: Machado, Oliveira & Fernandes (2009), severity 1.
VIEWS = {
    "usual": [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.fixture(autouse=True)
def _close_figures():
    with matplotlib.rc_context():
        yield
    plt.close("all")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear_rgb(colour: str) -> torch.Tensor:
    rgb = torch.tensor([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def cielab(rgb: torch.Tensor) -> torch.Tensor:
    matrix = torch.tensor(
        [[0.41246, 0.35758, 0.18044], [0.21267, 0.71515, 0.07218], [0.01933, 0.11919, 0.95030]]
    )
    xyz = (rgb @ matrix.T) / torch.tensor([0.95047, 1.0, 1.08883])
    f = torch.where(xyz > 216 / 24389, xyz.clamp(min=0) ** (1 / 3), (24389 / 27 * xyz + 16) / 116)
    return torch.stack(
        [116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1
    )


def luminance(colour: str) -> float:
    return (linear_rgb(colour) @ torch.tensor([0.2126, 0.7152, 0.0722])).item()


def contrast(a: str, b: str) -> float:
    high, low = sorted([luminance(a), luminance(b)], reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("view", VIEWS)
def test_palette_keeps_every_pair_apart_in_every_view(view):
    rgb = torch.stack([linear_rgb(c) for c in palette.PALETTE])
    seen = cielab((rgb @ torch.tensor(VIEWS[view]).T).clamp(0, 1))
    # The docstring's promise. seaborn's "colorblind" palette of ten reaches 10.8 by this measure.
    assert torch.pdist(seen).min() >= 26


def test_lines_and_text_have_enough_contrast_on_the_card():
    assert min(contrast(c, palette.CARD) for c in palette.PALETTE[:4]) >= 3  # WCAG 1.4.11
    assert contrast(palette.INK, palette.CARD) >= 7  # WCAG 1.4.6, AAA text


def test_importing_plots_loads_no_matplotlib():
    code = "import sys, tutor.plots; assert not {'matplotlib', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_style_puts_ink_on_the_card():
    plots.use_style()
    figure = plots.image_grid(torch.zeros(1, 1, 4, 4)).figure
    assert matplotlib.colors.to_hex(figure.get_facecolor()) == palette.CARD
    assert matplotlib.rcParams["figure.dpi"] == 110


def test_latent_scatter_draws_every_code_and_names_every_class():
    codes, labels = torch.randn(50, 2, generator=generator()), torch.arange(50) % 10
    ax = plots.latent_scatter(codes, labels)
    drawn = torch.cat([torch.tensor(c.get_offsets().data) for c in ax.collections]).float()
    assert torch.equal(drawn, codes[labels.argsort(stable=True)])
    assert sorted(t.get_text() for t in ax.texts) == [str(k) for k in range(10)]
    looks = {
        (tuple(c.get_facecolor()[0]), c.get_paths()[0].vertices.tobytes()) for c in ax.collections
    }
    assert len(looks) == 10
    assert len({shape for _, shape in looks}) == 10  # ten markers, without looking at colour


def test_class_name_stands_at_the_centre_of_its_class():
    codes = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [50.0, 50.0]])
    ax = plots.latent_scatter(codes, torch.zeros(4, dtype=torch.long))
    assert ax.texts[0].xy == (1.0, 2.0)  # the outlier does not move it


def test_prior_contours_hold_the_mass_they_name():
    ax = plots.latent_scatter(
        torch.zeros(1, 2), torch.zeros(1, dtype=torch.long), prior=Gaussian(2)
    )
    contours = next(c for c in ax.collections if hasattr(c, "levels"))
    radii = [p.vertices.__abs__().max() for p in contours.get_paths()]
    # |z|^2 is chi-squared with 2 degrees of freedom: mass m lies inside sqrt(-2 log(1 - m)).
    exact = [math.sqrt(-2 * math.log(1 - mass)) for mass in (0.99, 0.9, 0.5)]
    # Tolerance: one cell of the 301-point grid, 7 / 300, and the tail beyond the box.
    assert radii == pytest.approx(exact, abs=0.06)


def test_posterior_ellipse_has_half_axes_of_one_standard_deviation():
    means, log_vars = torch.tensor([[1.0, -1.0]]), torch.tensor([[0.25, 4.0]]).log()
    ellipse = plots.posterior_ellipses(means, log_vars, torch.tensor([3])).patches[0]
    assert list(ellipse.center) == [1.0, -1.0]
    assert (ellipse.width, ellipse.height) == pytest.approx((2 * 0.5, 2 * 2.0), rel=1e-6)
    assert ellipse.get_edgecolor() == matplotlib.colors.to_rgba(palette.PALETTE[3])


class Coordinates(torch.nn.Module):
    """A decoder whose image is the code: pixel 0 is the CDF of z_1, pixel 1 that of z_2."""

    latent_dim = 2

    def decode(self, z):
        return type("Likelihood", (), {"mean": torch.special.ndtr(z).reshape(-1, 1, 1, 2)})

    def sample(self, n, *, generator=None):
        return torch.rand(n, 1, 1, 2, generator=generator)

    def encode(self, x):
        return type("Posterior", (), {"mean": torch.special.ndtri(x.reshape(-1, 2))})


def test_manifold_tiles_are_equal_shares_of_the_prior():
    picture = plots.manifold(Coordinates(), n=4).images[0].get_array()
    # Row 0 is the top: largest z_2. Every tile shows the CDF at its own middle.
    expected = [[(j + 0.5) / 4 if k == 0 else (3.5 - i) / 4 for j in range(4) for k in (0, 1)]
                for i in range(4)]  # fmt: skip
    assert torch.allclose(torch.tensor(picture), torch.tensor(expected), atol=1e-5)


def test_interpolation_runs_straight_between_the_codes():
    a, b = torch.full((1, 1, 1, 2), 0.2), torch.full((1, 1, 1, 2), 0.8)
    picture = plots.interpolations(Coordinates(), a, b, steps=3).images[0].get_array()
    tiles = picture[0][[0, 3, 6, 9, 12]]  # image a, three decoded points, image b
    assert tiles.tolist() == pytest.approx([0.2, 0.2, 0.5, 0.8, 0.8], abs=1e-6)


def test_a_traversal_moves_one_coordinate_and_holds_the_others():
    x = torch.tensor([0.3, 0.6]).reshape(1, 1, 2)  # the two grey values are the two coordinates
    ax = plots.traversals(Coordinates(), x, steps=3, reach=1.0, dimensions=[1, 0])
    picture = torch.tensor(ax.images[0].get_array())
    moved = torch.special.ndtr(torch.tensor([-1.0, 0.0, 1.0])).tolist()
    first, second = ([picture[row][3 * i : 3 * i + 2] for i in range(4)] for row in (0, 2))
    assert torch.stack(first)[:, 0].tolist() == pytest.approx([0.3] * 4, abs=1e-6)  # held
    assert torch.stack(first)[:, 1].tolist() == pytest.approx([0.6, *moved], abs=1e-6)
    assert torch.stack(second)[:, 0].tolist() == pytest.approx([0.3, *moved], abs=1e-6)
    assert torch.stack(second)[:, 1].tolist() == pytest.approx([0.6] * 4, abs=1e-6)
    assert [text.get_text() for text in ax.texts] == ["$z_{2}$", "$z_{1}$"]


def test_image_grid_places_images_row_by_row():
    images = torch.arange(6).reshape(6, 1, 1, 1) / 6
    picture = plots.image_grid(images, columns=3, gap=0).images[0].get_array()
    assert torch.allclose(torch.tensor(picture), images.reshape(2, 3))


def test_colour_images_keep_their_channels():
    images = torch.rand(2, 3, 4, 4, generator=generator())
    picture = plots.image_grid(images, columns=2, gap=0).images[0].get_array()
    assert torch.equal(torch.tensor(picture), torch.cat([*images], -1).permute(1, 2, 0))


def test_reconstructions_stand_under_their_images_and_leave_the_mode_alone():
    model = VAE(image_shape=(1, 4, 4)).train()
    x = torch.rand(3, 1, 4, 4, generator=generator())
    picture = torch.tensor(plots.reconstructions(model, x).images[0].get_array())
    assert torch.equal(picture[:4, :4], x[0, 0])
    assert torch.allclose(picture[5:, 5:9], model.reconstruct(x)[1, 0], atol=1e-6)
    assert model.training


def test_samples_follow_the_generator():
    model = VAE()
    first, again, other = (
        plots.samples(model, 4, generator=generator(s)).images[0].get_array().tolist()
        for s in (0, 0, 1)
    )
    assert first == again != other


def test_curves_skip_gaps_and_average_backwards():
    table = pd.DataFrame(
        {"critic/loss": [4.0, None, 2.0, 0.0], "autoencoder/kl": [0.0, 1.0, 2.0, 3.0]},
        index=pd.Index([1, 2, 3, 4], name="step"),
    )
    figure = plots.curves(table, smooth=2)
    raw, mean = figure.axes[0].lines
    assert raw.get_xdata().tolist() == [1, 3, 4]
    assert mean.get_ydata().tolist() == [4.0, 3.0, 1.0]
    assert figure.axes[0].get_ylabel() == "nats"
    assert figure.axes[0].get_xlabel() == "step"


def test_everything_draws_on_the_axes_it_is_given():
    _, axes = plt.subplots(1, 3)
    model, x = VAE(), torch.rand(2, 1, 28, 28)
    assert plots.manifold(model, 2, ax=axes[0]) is axes[0]
    assert plots.reconstructions(model, x, ax=axes[1]) is axes[1]
    assert plots.latent_scatter(torch.zeros(1, 2), torch.tensor([0]), ax=axes[2]) is axes[2]
    assert len(plt.get_fignums()) == 1


LABEL = torch.tensor([0])


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.latent_scatter(torch.zeros(1, 3), LABEL), "needs \\(n, 2\\)"),
        (lambda: plots.latent_scatter(torch.zeros(0, 2), LABEL[:0]), "n > 0"),
        (lambda: plots.latent_scatter(torch.full((1, 2), torch.nan), LABEL), "NaN"),
        (lambda: plots.latent_scatter(torch.zeros(2, 2), LABEL), "expected 2 whole numbers"),
        (lambda: plots.latent_scatter(torch.zeros(1, 2), LABEL.float()), "whole numbers"),
        (
            lambda: plots.posterior_ellipses(torch.zeros(1, 2), torch.zeros(2, 2), LABEL),
            "one of each",
        ),
        (lambda: plots.manifold(VAE(latent_dim=3)), "3 latent dimensions"),
        (lambda: plots.manifold(VAE(), n=1), "at least 2"),
        (lambda: plots.image_grid(torch.zeros(2, 4, 4)), "expected \\(n, 1, H, W\\)"),
        (lambda: plots.image_grid(torch.full((1, 1, 2, 2), 1.5)), "not its logits"),
        (lambda: plots.image_grid(torch.zeros(4, 1, 2, 2), row_labels=["a"]), "1 row labels"),
        (lambda: plots.samples(VAE(), 0), "at least one"),
        (lambda: plots.curves(pd.DataFrame()), "empty"),
        (
            lambda: plots.interpolations(VAE(), torch.rand(1, 1, 28, 28), torch.rand(2, 1, 28, 28)),
            "must be pairs",
        ),
        (lambda: plots.traversals(VAE(), torch.rand(1, 1, 28, 28)), "one image"),
        (lambda: plots.traversals(VAE(), torch.rand(1, 28, 28), 1), "at least 2"),
        (lambda: plots.traversals(VAE(), torch.rand(1, 28, 28), dimensions=[2]), "0 to 1"),
        (lambda: plots.traversals(VAE(), torch.rand(1, 28, 28), dimensions=[]), "0 to 1"),
    ],
)
def test_bad_input_is_named(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_axes_are_in_standard_deviations_only_where_the_prior_has_one():
    codes, labels = torch.randn(20, 2), torch.arange(20) % 10
    for prior, unit in (
        (None, "prior standard deviations"),
        (Gaussian(2), "prior standard deviations"),
        (SwissRoll(), "units of the prior"),
    ):
        ax = plots.latent_scatter(codes, labels, prior=prior)
        assert unit in ax.get_xlabel()
        assert unit in ax.get_ylabel()


def test_the_manifold_of_a_flat_prior_is_an_even_grid():
    seen = []

    class Spy(torch.nn.Module):
        latent_dim, prior, image_shape = 2, UniformBox(2), (1, 1, 1)

        def decode(self, z):
            seen.append(z)
            return torch.distributions.Normal(z.new_zeros(len(z), 1, 1, 1), 1.0)

    plots.manifold(Spy(), n=4)
    assert seen[0][:, 0].unique().tolist() == pytest.approx([-0.75, -0.25, 0.25, 0.75])


def test_a_prior_with_dependent_coordinates_has_no_manifold_grid():
    model = VAE(2)
    model.prior = SwissRoll()
    with pytest.raises(ValueError, match="SwissRoll are not independent"):
        plots.manifold(model)


def test_means_of_a_gaussian_likelihood_beyond_the_interval_get_the_nearest_ink():
    torch.manual_seed(0)
    model, x = AAE(2, image_shape=(1, 3, 3)), torch.rand(2, 1, 3, 3)
    assert model.sample(4).min() < 0  # an untrained decoder's outputs lie about zero
    picture = plots.samples(model, 4, generator=torch.Generator().manual_seed(0))
    means = model.sample(4, generator=torch.Generator().manual_seed(0))
    drawn = torch.as_tensor(picture.images[0].get_array())
    assert torch.equal(drawn[:3, :3], means[0, 0].clamp(0, 1))
    for draw in (plots.reconstructions, plots.interpolations):
        plots_of = draw(model, x) if draw is plots.reconstructions else draw(model, x, x)
        assert plots_of.images[0].get_array().min() == 0


def test_the_manifold_of_a_model_in_double_precision():
    torch.manual_seed(0)
    model = VAE(2, image_shape=(1, 2, 2))
    single = plots.manifold(model, 3).images[0].get_array()
    double = plots.manifold(model.double(), 3).images[0].get_array()
    assert abs(single - double).max() < 1e-6  # float32 against float64


def test_no_line_runs_between_means_that_nobody_knows():
    model, x = AVB(2, image_shape=(1, 2, 2)), torch.rand(2, 1, 2, 2)
    with pytest.raises(TypeError, match="implicit and has no mean"):
        plots.interpolations(model, x, x)
    with pytest.raises(TypeError, match="implicit and has no mean"):
        plots.traversals(model, x[0])
