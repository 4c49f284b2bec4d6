"""Distances between samples: closed forms, enumeration, scipy; what chance gives; refusals."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.stats import norm, wasserstein_distance

from tests.metrics.worlds import generator
from tutor.metrics import (
    classifier_two_sample,
    energy_distance,
    noise_floor,
    sliced_wasserstein,
    two_sample,
)
from tutor.priors import Gaussian, SwissRoll

EQUAL_SIZES = [sliced_wasserstein, classifier_two_sample]
DISTANCES = [energy_distance, *EQUAL_SIZES]


def normal(n: int, dim: int, g: torch.Generator) -> torch.Tensor:
    return torch.randn(n, dim, generator=g, dtype=torch.float64)


def mean_distance(shift: float, std: float) -> float:
    """E|D| of D ~ N(shift, std^2)."""
    r = shift / std
    return std * math.sqrt(2 / math.pi) * math.exp(-r * r / 2) + shift * math.erf(r / math.sqrt(2))


def gaussian_energy(mean: float, std: float) -> float:
    """Squared energy distance of N(0, 1) and N(mean, std^2)."""
    between = mean_distance(mean, math.hypot(1, std))
    return 2 * between - mean_distance(0, math.sqrt(2)) - mean_distance(0, std * math.sqrt(2))


# -- energy distance -----------------------------------------------------------------------


def test_closed_form_is_twice_the_integral_over_distribution_functions():
    """The truth of the next test, by quadrature, and the second formula of the docstring."""
    t = torch.linspace(-30, 30, 60_001, dtype=torch.float64).numpy()
    squares = (norm.cdf(t) - norm.cdf(t, 0.7, 1.5)) ** 2
    # The trapezium rule converges geometrically for a smooth integrand that dies at both ends.
    assert 2 * squares.sum() * 1e-3 == pytest.approx(gaussian_energy(0.7, 1.5), abs=1e-9)


@pytest.mark.parametrize(("mean", "std"), [(0.7, 1.5), (0.0, 1.3), (2.0, 1.0)])
def test_energy_distance_of_gaussians(mean, std):
    g = generator()
    values = torch.stack(
        [
            energy_distance(normal(150, 1, g), mean + std * normal(100, 1, g))  # unequal sizes
            for _ in range(100)
        ]
    )
    # Unbiased, so off by chance alone: four standard errors of the mean over samples.
    assert (values.mean() - gaussian_energy(mean, std)).abs() < 4 * values.std() / 10


def test_energy_distance_is_unbiased_by_enumeration():
    """The mean over all samples of two points is the distance of the distributions."""
    support = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    p = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    q = torch.tensor([0.6, 0.1, 0.3], dtype=torch.float64)
    table = (support[:, None] - support).abs()
    truth = 2 * p @ table @ q - p @ table @ p - q @ table @ q
    pairs = list(itertools.product(range(3), repeat=2))
    expected = sum(
        p[list(a)].prod()
        * q[list(b)].prod()
        * energy_distance(support[list(a)].unsqueeze(1), support[list(b)].unsqueeze(1))
        for a, b in itertools.product(pairs, pairs)
    )
    assert abs(expected - truth) < 1e-12  # rounding of 81 terms below 6


def test_energy_distance_of_equal_distributions_is_zero_on_average():
    floor = noise_floor(
        energy_distance, lambda n, g: normal(n, 3, g), 60, repeats=200, generator=generator()
    )
    assert floor.mean.abs() < 4 * floor.std / math.sqrt(200)  # four standard errors
    # With each point paired with itself the mean would be 2/n E|X - X'|; that is refused here.
    biased = 2 / 60 * math.sqrt(2) * 2 * math.sqrt(2 / math.pi)  # E|Z| in 3-D is 2 sqrt(2/pi)
    assert (floor.mean - biased).abs() > 20 * floor.std / math.sqrt(200)


def test_energy_distance_by_hand_in_the_plane():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    y = torch.tensor([[3.0, 0.0], [0.0, 4.0], [3.0, 4.0]])
    # Between: 3 + 4 + 5 + 4 + 3 + 0 over 6; within x: 5; within y: (5 + 4 + 3) / 3.
    assert energy_distance(x, y).item() == pytest.approx(2 * 19 / 6 - 5 - 4, abs=1e-12)


def test_energy_distance_far_from_the_origin():
    """Distances by a matrix product would lose all digits here."""
    g = generator()
    x, y = normal(50, 2, g), normal(50, 2, g) + 0.5
    # Adding 1e6 rounds the points themselves by 1e-10.
    assert (energy_distance(x + 1e6, y + 1e6) - energy_distance(x, y)).abs() < 1e-9


# -- sliced Wasserstein --------------------------------------------------------------------


def test_sliced_wasserstein_in_one_dimension_is_scipys():
    g = generator()
    x, y = normal(40, 1, g), 2 * normal(40, 1, g) + 0.3
    truth = wasserstein_distance(x.squeeze(1).numpy(), y.squeeze(1).numpy())
    # In one dimension both directions give the same value: rounding only.
    assert sliced_wasserstein(x, y, directions=3).item() == pytest.approx(truth, abs=1e-12)


@pytest.mark.parametrize("dim", [2, 3, 10])
def test_sliced_wasserstein_of_a_shift(dim):
    g = generator()
    x, v = normal(20, dim, g), normal(1, dim, g)
    y = (x + v)[torch.randperm(20, generator=g)]
    length, directions = v.norm().item(), 20_000
    truth = length * math.exp(math.lgamma(dim / 2) - math.lgamma((dim + 1) / 2)) / math.pi**0.5
    got = sliced_wasserstein(x, y, directions=directions, generator=g)
    # E<v, theta>^2 = |v|^2 / d; four standard errors of the mean over directions.
    error = math.sqrt((length**2 / dim - truth**2) / directions)
    assert abs(got.item() - truth) < 4 * error


# -- classifier two-sample test ------------------------------------------------------------


def test_classifier_cannot_tell_equal_distributions_apart():
    g, repeats = generator(), 100
    tests = [
        classifier_two_sample(normal(100, 2, g), normal(100, 2, g), generator=g)
        for _ in range(repeats)
    ]
    assert tests[0].standard_error.item() == pytest.approx(0.05)  # 0.5 / sqrt(100 held out)
    scores = torch.stack([(t.accuracy - 0.5) / t.standard_error for t in tests])
    assert scores.abs().max() < 4  # each is within four standard errors
    assert scores.mean().abs() < 4 / math.sqrt(repeats)
    # The std of 100 standard scores is 1, give or take 0.07.
    assert 0.72 < scores.std() < 1.28


def test_classifier_tells_far_apart():
    g = generator()
    assert classifier_two_sample(normal(101, 5, g), normal(101, 5, g) + 5).accuracy > 0.95


@pytest.mark.parametrize(("n", "held_out"), [(2, 2), (3, 4), (19, 20)])
def test_classifier_of_few_points(n, held_out):
    """One neighbour for 2 and 3 points, three of the nine of each kind for 19."""
    x = torch.linspace(0, 1, n).unsqueeze(1)
    accuracy, standard_error = classifier_two_sample(x, x + 5, generator=generator())
    assert accuracy == 1  # all neighbours are of the right kind
    assert standard_error.item() == pytest.approx(0.5 / math.sqrt(held_out))


def test_classifier_nears_the_best_possible_accuracy():
    g = generator()
    got = classifier_two_sample(normal(3000, 1, g), normal(3000, 1, g) + 2, generator=g)
    best = norm.cdf(1)  # Bayes: cut half way between N(0, 1) and N(2, 1)
    # Chance: four times sqrt(0.84 * 0.16 / 3000).  Neighbours lose a few thousandths more.
    assert best - 0.027 - 0.01 < got.accuracy < best + 0.027


def test_classifier_sees_a_ring_that_has_the_moments_of_a_gaussian():
    g = generator()
    angle = 2 * math.pi * torch.rand(400, generator=g, dtype=torch.float64)
    ring = math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], 1)  # mean 0, covariance I
    test = classifier_two_sample(ring, normal(400, 2, g), generator=g)
    assert test.accuracy > 0.5 + 6 * test.standard_error


# -- noise floor ---------------------------------------------------------------------------


def test_noise_floor_of_a_difference_of_means():
    n, repeats = 50, 2000
    floor = noise_floor(
        lambda x, y: (x.mean() - y.mean()).abs(),
        lambda n, g: normal(n, 1, g),
        n,
        repeats=repeats,
        generator=generator(),
    )
    # The difference is N(0, 2/n), its absolute value half-normal.
    mean = math.sqrt(2 / n) * math.sqrt(2 / math.pi)
    std = math.sqrt(2 / n) * math.sqrt(1 - 2 / math.pi)
    assert (floor.mean - mean).abs() < 4 * std / math.sqrt(repeats)
    # The half-normal's kurtosis is 3.87: its std has a relative error of sqrt(2.87 / 4 repeats).
    assert (floor.std / std - 1).abs() < 4 * math.sqrt(2.87 / (4 * repeats))


def test_floor_and_value_of_a_prior():
    """As the chapters use it: a perfect sample lies at the floor, the wrong prior far above."""
    roll, g = SwissRoll(), generator()

    def draw(n, g):
        return roll.sample((n,), generator=g)

    for distance in (energy_distance, sliced_wasserstein):
        floor = noise_floor(distance, draw, 200, repeats=20, generator=g)
        again = distance(draw(200, g), draw(200, g))
        wrong = distance(draw(200, g), Gaussian(2).sample((200,), generator=g))
        # An energy distance has a long right tail, so 6; the wrong prior is well beyond.
        assert again < floor.mean + 6 * floor.std < wrong


# -- all three -----------------------------------------------------------------------------


@pytest.mark.parametrize("distance", [energy_distance, sliced_wasserstein])
def test_order_does_not_matter_and_x_and_y_may_change_places(distance):
    g = generator()
    x, y = normal(30, 3, g), normal(30, 3, g) * 2
    options = {} if distance is energy_distance else {"directions": 7}

    def value(a, b):
        torch.manual_seed(0)  # the same directions each time
        return distance(a, b, **options)

    with torch.random.fork_rng():
        want = value(x, y)
        shuffled = value(x[torch.randperm(30, generator=g)], y[torch.randperm(30, generator=g)])
        swapped = value(y, x)
    # Sums in another order: rounding only.
    assert (shuffled - want).abs() < 1e-12
    assert (swapped - want).abs() < 1e-12


@pytest.mark.parametrize("distance", DISTANCES)
def test_blocks_change_nothing(distance, monkeypatch):
    g = generator()
    x, y = normal(31, 2, g), normal(31, 2, g) + 1
    options = (
        [{}, {}] if distance is energy_distance else [{"generator": generator()} for _ in "ab"]
    )
    want = distance(x, y, **options[0])
    monkeypatch.setattr(two_sample, "_ENTRIES", 100)  # three rows at a time
    got = distance(x, y, **options[1])
    # Sums in another order: rounding only.
    torch.testing.assert_close(got, want, atol=1e-12, rtol=0)


@pytest.mark.parametrize("distance", EQUAL_SIZES)
def test_the_generator_decides_the_draws(distance):
    x, y = normal(60, 3, generator(1)), normal(60, 3, generator(2)) + 0.5
    state = torch.get_rng_state()
    values = [distance(x, y, generator=generator(seed)) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    first, again, other = (value[0] if isinstance(value, tuple) else value for value in values)
    assert first == again != other


@pytest.mark.parametrize("distance", DISTANCES)
def test_result_is_a_float64_scalar_without_gradient(distance):
    x = normal(10, 2, generator()).float().requires_grad_()
    result = distance(x, x.detach() + 1)
    for value in result if isinstance(result, tuple) else [result]:
        assert (value.shape, value.dtype, value.requires_grad) == ((), torch.float64, False)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(
    ("y", "error", "match"),
    [
        (torch.zeros(4, 3), ValueError, "x has 2 dimensions and y 3"),
        (torch.zeros(1, 2), ValueError, "y has 1 points"),
        (torch.zeros(0, 2), ValueError, "y has 0 points"),
        (torch.full((4, 2), torch.nan), ValueError, "4 of 4 points of y are not finite"),
        (torch.tensor([[0.0, torch.inf]] + [[0.0, 0.0]] * 3), ValueError, "1 of 4 points of y"),
        (torch.zeros(4), ValueError, r"shape \(4,\)"),
        (torch.zeros(4, 1, 2), ValueError, "flatten"),
        (torch.zeros(4, 0), ValueError, r"shape \(4, 0\)"),
        (torch.zeros(4, 2, dtype=torch.long), TypeError, r"y is torch\.int64"),
        ([[0.0, 0.0]] * 4, TypeError, "y is list"),
    ],
)
def test_bad_points_are_refused(distance, y, error, match):
    with pytest.raises(error, match=match):
        distance(torch.zeros(4, 2), y)


@pytest.mark.parametrize("distance", EQUAL_SIZES)
def test_unequal_sizes_are_refused(distance):
    with pytest.raises(ValueError, match=r"x has 4 points and y 6; .*first 4 of both"):
        distance(torch.zeros(4, 2), torch.zeros(6, 2))


def test_other_bad_arguments_are_refused():
    x = torch.zeros(4, 2)

    def draw(n, g):
        return x[:n]

    with pytest.raises(ValueError, match="directions is 0"):
        sliced_wasserstein(x, x, directions=0)
    with pytest.raises(ValueError, match="repeats is 1"):
        noise_floor(energy_distance, draw, 4, repeats=1)
    with pytest.raises(ValueError, match="draw gave 4 and 4 points; expected n = 5"):
        noise_floor(energy_distance, draw, 5, repeats=2)
    with pytest.raises(TypeError, match=r"distance gave a ClassifierTest; .*\.accuracy"):
        noise_floor(classifier_two_sample, draw, 4, repeats=2)
