"""The Frechet distance against closed forms and scipy; sharpness, features of digits, FID."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn

import tutor
from tests.metrics.worlds import generator
from tutor import metrics, pretrained
from tutor.metrics import digit_features, fid, frechet_bias, frechet_distance, sharpness
from tutor.metrics.frechet import gaussian_frechet

INCEPTION = "pt_inception-2015-12-05-6726825d.pth"


def normal(n: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, dim, generator=generator(seed), dtype=torch.float64)


def covariance(dim: int, seed: int) -> torch.Tensor:
    a = normal(dim, dim, seed)
    return a @ a.T / dim


def by_scipy(mean_x, cov_x, mean_y, cov_y) -> float:
    root = sqrtm((cov_x @ cov_y).numpy()).real
    spread = cov_x.trace() + cov_y.trace() - 2 * root.trace()
    return ((mean_x - mean_y).square().sum() + spread).item()


# -- the distance of two Gaussians ----------------------------------------------------------------


def test_covariances_that_commute_have_a_closed_form():
    """Shared eigenvectors: the squared difference of the standard deviations, summed."""
    turn = torch.linalg.qr(normal(5, 5)).Q
    a, b = torch.rand(2, 5, generator=generator(1), dtype=torch.float64)
    shift = normal(1, 5, seed=2)[0]
    zero = torch.zeros(5)
    got = gaussian_frechet(zero, turn @ a.diag() @ turn.T, shift, turn @ b.diag() @ turn.T)
    want = shift.square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    # float64, eigenvalues of order 1; a root of a small one costs a few digits
    assert got.item() == pytest.approx(want.item(), abs=1e-12)


@pytest.mark.parametrize("dim", [1, 3, 20])
def test_against_scipy_s_matrix_root(dim):
    cov_x, cov_y = covariance(dim, 1) + 0.01 * torch.eye(dim), covariance(dim, 2)
    mean_x, mean_y = normal(2, dim, seed=3)
    got = gaussian_frechet(mean_x, cov_x, mean_y, cov_y)
    # scipy's root of a product that is not symmetric: some 1e-8 where eigenvalues near 0
    assert got.item() == pytest.approx(by_scipy(mean_x, cov_x, mean_y, cov_y), abs=1e-6)


def test_it_is_a_squared_metric():
    """Symmetric, zero on itself, and its root obeys the triangle inequality."""
    points = [(normal(1, 4, s)[0], covariance(4, s + 10)) for s in range(3)]

    def distance(i, j):
        return gaussian_frechet(*points[i], *points[j]).item()

    assert distance(0, 1) == pytest.approx(distance(1, 0), abs=1e-12)
    assert distance(0, 0) == pytest.approx(0, abs=1e-12)
    assert distance(0, 2) ** 0.5 < distance(0, 1) ** 0.5 + distance(1, 2) ** 0.5


def test_it_is_the_cost_of_the_optimal_map_between_gaussians():
    """T = S_x^(-1/2) (S_x^(1/2) S_y S_x^(1/2))^(1/2) S_x^(-1/2) carries N(0, S_x) to N(0, S_y)."""
    cov_x, cov_y = covariance(3, 1), covariance(3, 2)
    values, vectors = torch.linalg.eigh(cov_x)
    root, inverse = ((vectors * values**p) @ vectors.T for p in (0.5, -0.5))
    middle = torch.from_numpy(sqrtm((root @ cov_y @ root).numpy()).real)
    carry = inverse @ middle @ inverse
    assert torch.allclose(carry @ cov_x @ carry.T, cov_y, atol=1e-10)
    stay = torch.eye(3) - carry
    cost = (stay @ cov_x @ stay.T).trace()  # E|z - Tz|^2
    got = gaussian_frechet(torch.zeros(3), cov_x, torch.zeros(3), cov_y)
    assert got.item() == pytest.approx(cost.item(), abs=1e-9)


# -- from features --------------------------------------------------------------------------------


def test_moments_of_the_features():
    x, y = normal(50, 4), 2 * normal(70, 4, seed=1) + 3
    want = by_scipy(x.mean(0), x.T.cov(), y.mean(0), y.T.cov())
    assert frechet_distance(x, y).item() == pytest.approx(want, abs=1e-9)


def test_a_shift_costs_its_square_and_a_scale_the_spread():
    x = normal(100, 6)
    assert frechet_distance(x, x + 2).item() == pytest.approx(6 * 4, abs=1e-9)
    centred = x - x.mean(0)
    want = x.T.cov().trace() * (3 - 1) ** 2
    assert frechet_distance(centred, 3 * centred).item() == pytest.approx(want.item(), abs=1e-9)


def test_a_rotation_of_both_changes_nothing():
    x, y = normal(40, 5), normal(40, 5, seed=1) * torch.arange(1, 6)
    turn = torch.linalg.qr(normal(5, 5, seed=2)).Q
    once, again = frechet_distance(x, y), frechet_distance(x @ turn, y @ turn)
    assert once.item() == pytest.approx(again.item(), abs=1e-9)


def test_fewer_points_than_dimensions_and_features_that_never_move():
    """Covariances without full rank: scipy's root of the product may be complex or infinite."""
    x, y = normal(5, 30), normal(6, 30, seed=1)
    x[:, 20:], y[:, 20:] = 0, 0
    got = frechet_distance(x, y)
    # Only span(x, y) counts: the same in coordinates of that span, 20 of them, all in use.
    want = frechet_distance(x[:, :20], y[:, :20])
    assert torch.isfinite(got)
    assert got.item() == pytest.approx(want.item(), abs=1e-6)
    # Rank one against rank one along axes at a right angle: no overlap, variances add up.
    line = torch.zeros(4, 2, dtype=torch.float64)
    a, b = line.clone(), line.clone()
    a[:, 0] = b[:, 1] = torch.tensor([-1.0, 1.0, -1.0, 1.0])
    assert frechet_distance(a, b).item() == pytest.approx(8 / 3, abs=1e-12)


def test_it_is_never_negative_and_computed_in_float64():
    x = 1e3 + normal(50, 8)
    got = frechet_distance(x, x.clone())
    assert got.dtype == torch.float64
    # The root of an eigenvalue near 0 has an error of 1e-8 of the largest at most.
    assert 0 <= got.item() < 1e-7
    # float32 features far from 0: in float32 their variance would lose all its digits
    far = (1e4 + normal(200, 2)).float()
    near = far.double() - 1e4
    assert frechet_distance(far, far + 1).item() == pytest.approx(2, abs=1e-9)
    assert frechet_distance(far - 1e4, near.float()).item() == pytest.approx(0, abs=1e-6)


def test_the_bias_is_the_stated_one_for_gaussian_features():
    dim, n = 6, 400
    scale = torch.arange(1, dim + 1, dtype=torch.float64)
    s = scale.square()
    want = (2.5 * s.sum() + (s.outer(s) / (s[:, None] + s)).sum()) / n
    x = normal(200 * 2 * n, dim) * scale
    values = torch.stack([frechet_distance(*pair.split(n)) for pair in x.split(2 * n)])
    error = values.std() / len(values) ** 0.5
    # three standard errors, and a 1/n^2 term of some percent
    assert abs(values.mean() - want) < 3 * error + 0.02 * want
    some = frechet_bias(x[: 20 * n], n, repeats=20, generator=generator())
    assert abs(some - want) < 5 * values.std() / 20**0.5


def test_the_bias_follows_the_generator():
    x = normal(100, 3)
    once, again = (frechet_bias(x, 40, repeats=2, generator=generator()) for _ in range(2))
    assert torch.equal(once, again)


@pytest.mark.parametrize(
    ("x", "y", "error", "says"),
    [
        (torch.zeros(5, 2).long(), torch.zeros(5, 2), TypeError, "x is torch.int64"),
        (torch.zeros(5, 2), [1.0], TypeError, "y is list"),
        (torch.zeros(5, 1, 2, 2), torch.zeros(5, 2), ValueError, r"shape \(5, 1, 2, 2\)"),
        (torch.zeros(1, 2), torch.zeros(5, 2), ValueError, "x has 1 examples"),
        (torch.zeros(5, 2), torch.zeros(5, 3), ValueError, "x has 2 features and y 3"),
        (torch.full((5, 2), torch.nan), torch.zeros(5, 2), ValueError, "5 of 5 rows of x"),
    ],
)
def test_features_that_are_none(x, y, error, says):
    with pytest.raises(error, match=says):
        frechet_distance(x, y)


def test_too_few_examples_for_the_bias_and_moments_of_other_shapes():
    with pytest.raises(ValueError, match="two sets of 6 need 12"):
        frechet_bias(torch.zeros(11, 2), 6)
    with pytest.raises(ValueError, match=r"cov_y has shape \(3, 3\); expected \(2, 2\)"):
        gaussian_frechet(torch.zeros(2), torch.eye(2), torch.zeros(2), torch.eye(3))


# -- sharpness ------------------------------------------------------------------------------------


def test_sharpness_written_out():
    x = torch.rand(3, 1, 6, 7, generator=generator(), dtype=torch.float64)
    grey = x[:, 0]
    inside = grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    want = (around - 4 * inside).flatten(1).var(1, correction=0)
    assert torch.allclose(sharpness(x), want, atol=1e-12)


def test_planes_are_not_sharp_and_noise_has_twenty_times_its_variance():
    ramp = torch.linspace(0, 1, 16).expand(1, 1, 16, 16)
    assert sharpness(ramp).item() == pytest.approx(0, abs=1e-12)
    noise = torch.rand(50, 1, 64, 64, generator=generator(), dtype=torch.float64)
    # 16 + 4 = 20 times the variance 1/12 of a uniform pixel; 192 200 places in all
    assert sharpness(noise).mean().item() == pytest.approx(20 / 12, rel=0.02)


def test_blur_makes_less_sharp_and_contrast_counts_squared():
    x = torch.rand(4, 1, 20, 20, generator=generator())
    blurred = nn.functional.avg_pool2d(x, 3, stride=1, padding=1)
    assert (sharpness(blurred) < sharpness(x) / 10).all()
    assert torch.allclose(sharpness(0.5 * x), 0.25 * sharpness(x))


def test_colours_are_averaged():
    x = torch.rand(2, 3, 8, 8, generator=generator())
    # float32 rounding
    assert torch.allclose(sharpness(x), sharpness(x.mean(1, keepdim=True)), atol=1e-6)


# -- features of digits ---------------------------------------------------------------------------


def test_features_are_those_of_the_shipped_classifier_in_any_batch():
    x = tutor.data.load("digits")[:23]
    classifier = pretrained.load("mnist_classifier")
    with torch.no_grad():
        want = classifier.body(x)
    # another batch size may add in another order
    assert torch.allclose(digit_features(x, batch_size=7), want, atol=1e-5)
    assert digit_features(x).shape == (23, 64)
    assert (want >= 0).all()
    assert not digit_features(x.requires_grad_()).requires_grad


def test_noise_and_blur_are_farther_from_digits_than_digits_are():
    x = tutor.data.load("digits")[:]
    order = torch.randperm(len(x), generator=generator())
    one, two = x[order[:700]], x[order[700:1400]]
    floor = frechet_distance(digit_features(one), digit_features(two))
    blurred = nn.functional.avg_pool2d(two, 5, stride=1, padding=2)
    noise = torch.rand(700, 1, 28, 28, generator=generator())
    for other in (blurred, noise):
        assert frechet_distance(digit_features(one), digit_features(other)) > 5 * floor


def test_the_shipped_classifier_is_the_one_that_was_measured():
    test = tutor.data.load("mnist", split="test", fallback="digits")
    if test.name != "mnist":
        pytest.skip("MNIST is not at hand")
    classifier = pretrained.load("mnist_classifier")
    with torch.no_grad():
        said = torch.cat([classifier(x).argmax(1) for x in test[:].split(1_000)])
    percent = 100 * (said == test.labels).double().mean().item()
    measured = pretrained.provenance("mnist_classifier")["measured"]["test_accuracy_percent"]
    assert measured > 99
    # five images of 10 000 may fall on the other side on another processor
    assert percent == pytest.approx(measured, abs=0.05)


@pytest.mark.parametrize("measure", [digit_features, sharpness])
@pytest.mark.parametrize(
    ("x", "error", "says"),
    [
        (torch.zeros(2, 1, 28, 28).byte(), TypeError, "torch.uint8"),
        (torch.zeros(1, 28, 28), ValueError, r"shape \(1, 28, 28\)"),
        (torch.zeros(0, 1, 28, 28), ValueError, "n > 0"),
        (torch.full((2, 1, 28, 28), 255.0), ValueError, "range from 255 to 255"),
        (torch.full((2, 1, 28, 28), torch.nan), ValueError, "range from nan"),
    ],
)
def test_what_is_no_image_is_refused(measure, x, error, says):
    with pytest.raises(error, match=says):
        measure(x)


def test_images_of_another_size():
    with pytest.raises(ValueError, match=r"expected \(n, 1, 28, 28\)"):
        digit_features(torch.zeros(2, 1, 32, 32))
    with pytest.raises(ValueError, match="2x9; the Laplacian needs 3x3"):
        sharpness(torch.zeros(2, 1, 2, 9))


# -- FID ------------------------------------------------------------------------------------------


def stand_in(monkeypatch) -> None:
    """A package of that name whose network returns the mean of each channel, as (n, 3, 1, 1)."""

    class Means(nn.Module):
        BLOCK_INDEX_BY_DIM = types.MappingProxyType({2048: 3})

        def __init__(self, blocks):
            super().__init__()
            assert blocks == [3]

        def forward(self, x):
            assert x.shape[1] == 3
            return [x.mean((2, 3), keepdim=True)]

    package, module = types.ModuleType("pytorch_fid"), types.ModuleType("pytorch_fid.inception")
    module.InceptionV3 = Means
    monkeypatch.setitem(sys.modules, "pytorch_fid", package)
    monkeypatch.setitem(sys.modules, "pytorch_fid.inception", module)


def test_the_fid_is_the_frechet_distance_of_the_network_s_features(monkeypatch, tmp_path):
    stand_in(monkeypatch)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / INCEPTION).touch()
    x, y = torch.rand(2, 12, 3, 8, 8, generator=generator())
    want = frechet_distance(x.mean((2, 3)), y.mean((2, 3)))
    # float32 features in batches of 5
    assert fid(x, y, batch_size=5).item() == pytest.approx(want.item(), abs=1e-6)
    grey = x[:, :1]
    want = frechet_distance(grey.mean((2, 3)).expand(-1, 3), y.mean((2, 3)))
    assert fid(grey, y).item() == pytest.approx(want.item(), abs=1e-6)


def test_the_fid_says_what_is_missing_and_downloads_nothing(monkeypatch, tmp_path):
    x = torch.rand(4, 3, 8, 8)
    monkeypatch.setitem(sys.modules, "pytorch_fid", None)  # not installed
    with pytest.raises(ModuleNotFoundError, match="pip install pytorch-fid"):
        fid(x, x)
    stand_in(monkeypatch)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=INCEPTION):
        fid(x, x)
    with pytest.raises(ValueError, match="2 channels"):
        fid(x[:, :2], x)


def test_the_names_are_those_of_tutor_metrics():
    assert {"digit_features", "fid", "frechet_bias", "frechet_distance", "sharpness"} <= set(
        metrics.__all__
    )
