"""The four priors: densities integrate to one, samples follow them, classes make up the whole."""

from __future__ import annotations

import math
import pickle

import matplotlib
import matplotlib.pyplot
import numpy as np
import pytest
import torch
from matplotlib.contour import ContourSet
from torch import Tensor

import tutor
from tutor.plots import latent_scatter
from tutor.priors import Gaussian, GaussianMixture, SwissRoll, UniformBox

matplotlib.use("agg")

PLANE = {
    "gaussian": Gaussian(2),
    "mixture": GaussianMixture(),
    "swiss roll": SwissRoll(),
    "uniform": UniformBox(2),
}
SMOOTH_PARTS = ("mixture", "swiss roll")  # the other two are cut along sharp lines
every_prior = pytest.mark.parametrize("name", PLANE)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cells(name: str) -> tuple[Tensor, Tensor]:
    """Points that stand for cells which cover the prior, (m, 2) in double precision; their areas.

    Square cells of side h and their midpoints: exact to rounding for the box, whose edges (its
    own and its classes') fall on cell edges, multiples of 1/30.  For a smooth density the rule
    errs by about exp(-2 (pi std / h)**2), where std is the narrowest spread: below 1e-13 for 0.1
    and h = 0.08.  What lies outside is below 1e-9: six standard deviations.  The Gaussian's
    cells are those of a polar grid with edges where its classes have theirs.
    """
    if name == "gaussian":
        return polar_cells()
    half, count = {"mixture": (4.8, 120), "swiss roll": (3.8, 95), "uniform": (1.5, 90)}[name]
    h = 2 * half / count
    axis = (torch.arange(count, dtype=torch.float64) + 0.5) * h - half
    return torch.cartesian_prod(axis, axis), torch.full((count**2,), h * h, dtype=torch.float64)


def polar_cells() -> tuple[Tensor, Tensor]:
    """40 Gauss-Legendre radii inside the disc of class 0, 40 outside; 20 angles to a sector."""
    node, weight = (torch.from_numpy(t) for t in np.polynomial.legendre.leggauss(40))
    disc = math.sqrt(-2 * math.log(0.9))  # P(|z| > r) = exp(-r**2 / 2)
    spans = ((0, disc), (disc, 8))
    radius = torch.cat([(low + high) / 2 + (high - low) / 2 * node for low, high in spans])
    length = torch.cat([(high - low) / 2 * weight for low, high in spans])
    angle = 2 * math.pi * (torch.arange(180, dtype=torch.float64) + 0.5) / 180
    points = torch.stack([radius[:, None] * angle.cos(), radius[:, None] * angle.sin()], -1)
    area = (length * radius)[:, None].expand(-1, 180) * 2 * math.pi / 180
    return points.reshape(-1, 2), area.reshape(-1)


def waves(z: Tensor) -> Tensor:
    """Smooth functions whose means tell densities apart, (n, 16): an empirical characteristic."""
    angle = torch.arange(8, dtype=z.dtype) * 2.4  # spread over directions
    scale = torch.tensor([0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0], dtype=z.dtype)
    frequency = torch.stack([scale * angle.cos(), scale * angle.sin()])
    return torch.cat([(z @ frequency).cos(), (z @ frequency).sin()], 1)


def assert_follows(samples: Tensor, grid: Tensor, mass: Tensor, slack: float = 0.0) -> None:
    """The waves' means over samples equal the integrals over the masses of the grid's cells."""
    seen, want = waves(samples.double()), mass @ waves(grid)
    error = seen.std(0) / math.sqrt(len(seen))
    # 4.5 standard errors: a chance of 1e-4 that any of 16 right means is refused; seed is fixed
    assert ((seen.mean(0) - want).abs() <= 4.5 * error + slack).all()


@every_prior
def test_density_integrates_to_one(name):
    grid, area = cells(name)
    total = PLANE[name].log_prob(grid).exp() @ area
    # the rule's error and the mass outside the grid (see cells) are below 1e-8; the swiss
    # roll's own quadrature errs by less than 1e-7 at this thickness
    assert total.item() == pytest.approx(1, abs=1e-6 if name == "swiss roll" else 1e-8)


@every_prior
def test_density_of_each_class_integrates_to_one(name):
    prior = PLANE[name]
    grid, area = cells(name)
    for k in range(prior.classes):
        total = prior.log_prob_class(grid, torch.full((len(grid),), k)).exp() @ area
        assert total.item() == pytest.approx(1, abs=1e-6 if name == "swiss roll" else 1e-8)


@pytest.mark.parametrize("dim", [1, 3])
def test_density_integrates_to_one_in_other_dimensions(dim):
    axis = (torch.arange(40, dtype=torch.float64) + 0.5) * 0.4 - 8
    grid = torch.cartesian_prod(*[axis] * dim).reshape(-1, dim)
    # 8 standard deviations; the rule's error is exp(-2 (pi / 0.4)**2)
    assert (Gaussian(dim).log_prob(grid).exp().sum() * 0.4**dim).item() == pytest.approx(1)
    # every edge of the box falls between midpoints 0.8 and 1.2 of this axis: 5 cells of 0.4
    assert (UniformBox(dim).log_prob(grid / 0.8).exp().sum() * 0.5**dim).item() == pytest.approx(1)


@every_prior
def test_samples_follow_the_density(name):
    prior = PLANE[name]
    grid, area = cells(name)
    log_density = prior.log_prob(grid)
    samples = prior.sample((200, 100), generator=seeded()).reshape(-1, 2)
    # waves of length 2 pi / 5 on cells of 1/30: the box's rule errs by (5 / 30)**2 / 24
    assert_follows(samples, grid, log_density.exp() * area, 2e-3 if name == "uniform" else 0)
    # the mean log-density of samples is minus the entropy; -inf has mass 0
    entropy = -(log_density.exp() * area) @ log_density.nan_to_num(neginf=0.0)
    seen = -prior.log_prob(samples).double()
    error = 4 * seen.std() / math.sqrt(len(seen))
    assert seen.mean().item() == pytest.approx(entropy.item(), abs=error.item() + 1e-6)


@every_prior
def test_class_samples_follow_their_class(name):
    prior = PLANE[name]
    grid, area = cells(name)
    for k in (0, 1, 9):
        samples = prior.sample_class(torch.full((4000,), k), generator=seeded(k))
        mass = prior.log_prob_class(grid, torch.full((len(grid),), k)).exp() * area
        # parts with sharp edges: a wave of length 2 pi / 5 may turn by 0.35 across a polar cell at
        # radius 2, so the midpoint errs by 0.35**2 / 24
        assert_follows(samples, grid, mass, 0 if name in SMOOTH_PARTS else 5e-3)


@every_prior
def test_class_samples_mix_to_the_whole_prior(name):
    prior = PLANE[name]
    grid, area = cells(name)
    samples = prior.sample_class(torch.arange(20_000) % prior.classes, generator=seeded())
    mass = prior.log_prob(grid).exp() * area
    assert_follows(samples, grid, mass, 2e-3 if name == "uniform" else 0)


@pytest.mark.parametrize("classes", [1, 2, 5, 10, 16])
def test_class_densities_mix_to_the_whole_density(classes):
    z = 1.3 * torch.randn(300, 2, generator=seeded(), dtype=torch.float64)
    for prior in (
        Gaussian(2, classes=classes),
        GaussianMixture(classes),
        SwissRoll(classes=classes),
        UniformBox(2, classes=classes),
    ):
        each = torch.stack([prior.log_prob_class(z, torch.full((300,), k)) for k in range(classes)])
        mixture = each.logsumexp(0) - math.log(classes)
        # rounding for three of them; two quadratures for the roll, each good to 1e-6
        torch.testing.assert_close(mixture, prior.log_prob(z), rtol=0, atol=2e-6)


@every_prior
def test_class_samples_lie_where_their_class_has_density(name):
    prior = PLANE[name]
    labels = torch.arange(10_000) % 10
    z = prior.sample_class(labels, generator=seeded())
    inside = prior.log_prob_class(z, labels).isfinite().float().mean()
    # the Gaussian's sectors are found again by an arc tangent: a few in a million may round over
    assert inside >= 0.9995


def test_mixture_agrees_with_torch_distributions():
    prior = GaussianMixture(7, radius=2.0, radial_std=0.3, tangential_std=0.2)
    angle = 2 * math.pi * torch.arange(7, dtype=torch.float64) / 7
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1)
    rotation = rotation.reshape(7, 2, 2)
    squares = torch.diag(torch.tensor([0.3, 0.2], dtype=torch.float64)).square()
    components = torch.distributions.MultivariateNormal(
        2 * torch.stack([angle.cos(), angle.sin()], -1), rotation @ squares @ rotation.mT
    )
    weights = torch.distributions.Categorical(torch.ones(7, dtype=torch.float64))
    reference = torch.distributions.MixtureSameFamily(weights, components)
    z = 2 * torch.randn(100, 2, generator=seeded(), dtype=torch.float64)
    # both in double precision: rounding only
    torch.testing.assert_close(prior.log_prob(z), reference.log_prob(z), rtol=1e-11, atol=1e-11)


def test_mixture_spreads_are_standard_deviations():
    n = 20_000
    z = (
        GaussianMixture()
        .double()
        .sample_class(torch.zeros(n, dtype=torch.int64), generator=seeded())
    )
    for seen, mean, std in ((z[:, 0], 1.4, 0.5), (z[:, 1], 0.0, 0.1)):
        # four standard errors of a mean and of a standard deviation; as variances they would be
        # 0.71 and 0.32
        assert seen.mean().item() == pytest.approx(mean, abs=4 * std / math.sqrt(n))
        assert seen.std().item() == pytest.approx(std, abs=4 * std / math.sqrt(2 * n))


def roll_log_prob(z: Tensor, thickness: float) -> Tensor:
    """The roll's density by a rule far finer than the roll's own: 24 points on 8000 panels."""
    node, weight = np.polynomial.legendre.leggauss(24)
    edge = np.linspace(0, 1, 8001)
    half = np.diff(edge)[:, None] / 2
    s = torch.from_numpy((edge[:-1, None] + half * (1 + node)).ravel())
    log_weight = torch.from_numpy(np.log((half * weight).ravel())) + (2 * s).log()
    curve = 3 * torch.stack([s * (4 * math.pi * s).cos(), s * (4 * math.pi * s).sin()], -1)
    square = torch.stack([(one - curve).square().sum(-1) for one in z])
    integral = (log_weight - square / (2 * thickness**2)).logsumexp(-1)
    return integral - math.log(2 * math.pi * thickness**2)


@pytest.mark.parametrize("thickness", [0.05, 0.1, 0.4])
def test_swiss_roll_density_against_a_fine_quadrature(thickness):
    corners = [[6.0, 6.0], [-6.0, 6.0], [3.0, 6.0], [3.0, -6.0], [0.0, 0.0], [0.0, -0.1], [3, 0]]
    z = torch.tensor(corners, dtype=torch.float64)
    z = torch.cat([z, 2 * torch.randn(10, 2, generator=seeded(), dtype=torch.float64)])
    want = roll_log_prob(z, thickness)
    roll = SwissRoll(thickness=thickness)
    # the docstring's promise
    torch.testing.assert_close(roll.log_prob(z), want, rtol=0, atol=1e-6)
    # single precision carries seven digits of exponents that reach some thousand nats
    torch.testing.assert_close(roll.log_prob(z.float()).double(), want, rtol=2e-6, atol=1e-4)


def test_swiss_roll_arc_goes_round_twice_and_outwards():
    u = torch.linspace(0, 1, 2001, dtype=torch.float64)
    point = SwissRoll().arc(u)
    torch.testing.assert_close(point.norm(dim=1), 3 * u.sqrt())
    step = torch.atan2(point[1:, 1], point[1:, 0]).diff() % (2 * math.pi)
    # from u = 1/2000 to 1: the angle is 4 pi sqrt(u)
    assert step.sum().item() == pytest.approx(4 * math.pi * (1 - math.sqrt(1 / 2000)))
    # and each class's points lie on its own stretch
    roll = SwissRoll(thickness=1e-2)
    z = roll.sample_class(torch.full((500,), 3), generator=seeded())
    # six thicknesses at most between 500 draws and the arc
    assert z.norm(dim=1).min() > 3 * math.sqrt(0.3) - 0.06
    assert z.norm(dim=1).max() < 3 * math.sqrt(0.4) + 0.06


@pytest.mark.parametrize("classes", [1, 2, 3, 5, 7, 9, 10, 12, 16])
def test_uniform_cells_have_equal_area_and_fill_the_square(classes):
    z = UniformBox(2).double().sample((2000,), generator=seeded())
    prior = UniformBox(2, classes=classes)
    each = torch.stack([prior.log_prob_class(z, torch.full((2000,), k)) for k in range(classes)])
    assert (each.isfinite().sum(0) == 1).all()  # every point in exactly one cell
    # all cells have density classes / 4, so area 4 / classes
    assert each[each.isfinite()].exp().numpy() == pytest.approx(classes / 4)
    side = math.isqrt(classes)
    if side**2 == classes:  # a square grid: the corner cell is a square
        corner = prior.sample_class(torch.zeros(500, dtype=torch.int64), generator=seeded())
        assert (corner <= -1 + 2 / side).all()


@every_prior
def test_gradients_are_finite(name):
    prior = PLANE[name]
    far = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.3, -0.2], [40.0, -30.0], [-1e3, 1e3]])
    for log_prob in (prior.log_prob, lambda z: prior.log_prob_class(z, torch.arange(5))):
        z = far.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(log_prob(z).sum(), z)
        assert gradient.isfinite().all()
        if name == "uniform":
            assert (gradient == 0).all()
    if name != "uniform":  # it leads back from far away
        z = far[3:].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(prior.log_prob(z).sum(), z)
        assert ((gradient * z).sum(-1) < 0).all()


@every_prior
def test_gradient_is_the_slope_of_the_log_density(name):
    z = 0.3 * torch.randn(6, 2, generator=seeded(), dtype=torch.float64)
    assert torch.autograd.gradcheck(PLANE[name].log_prob, z.requires_grad_())


def test_nan_codes_stay_nan():
    z = torch.tensor([[math.nan, 0.0]])
    assert all(prior.log_prob(z).isnan().all() for prior in PLANE.values())


@every_prior
def test_shapes_precision_device_and_state(name):
    prior = pickle.loads(pickle.dumps(PLANE[name]))
    assert prior.dim == 2
    assert prior.classes == 10
    assert not list(prior.parameters())
    assert not prior.state_dict()
    assert prior.sample(()).shape == (2,)
    assert prior.sample((0,)).shape == (0, 2)
    z = prior.sample((4, 3), generator=seeded())
    assert z.shape == (4, 3, 2)
    assert z.dtype == torch.float32
    assert prior.log_prob(z).shape == (4, 3)
    assert prior.log_prob(z).dtype == torch.float32
    assert prior.log_prob(z[0, 0]).shape == ()
    assert prior.log_prob(z[:0]).shape == (0, 3)
    labels = torch.tensor([3, 0, 9])
    assert prior.sample_class(labels).shape == (3, 2)
    assert prior.sample_class(labels[:0]).shape == (0, 2)
    assert prior.log_prob_class(z[0], labels).shape == (3,)
    # single precision against double: exponents of the narrowest spread lose the most digits
    torch.testing.assert_close(
        prior.log_prob(z).double(), prior.log_prob(z.double()), rtol=1e-4, atol=1e-4
    )
    prior.double()
    assert prior.sample((3,)).dtype == prior.sample_class(labels).dtype == torch.float64
    prior.to("meta")  # a device that every machine has
    assert prior.sample((3,)).device.type == prior.sample_class(labels).device.type == "meta"
    assert prior.log_prob(torch.zeros(3, 2, device="meta")).device.type == "meta"


@every_prior
def test_draws_come_from_the_given_generator_only(name):
    prior, labels = PLANE[name], torch.arange(10)
    before = torch.get_rng_state()
    for draw in (
        prior.sample,
        lambda _, generator: prior.sample_class(labels, generator=generator),
    ):
        first, again = (draw((10,), generator=seeded(3)) for _ in range(2))
        assert torch.equal(first, again)
        assert not torch.equal(first, draw((10,), generator=seeded(4)))
    assert torch.equal(torch.get_rng_state(), before)


@every_prior
def test_labels_that_are_no_classes_are_refused(name):
    prior = PLANE[name]
    z = torch.zeros(2, 2)
    for labelled in (prior.sample_class, lambda labels: prior.log_prob_class(z, labels)):
        with pytest.raises(
            ValueError, match=r"hold 10, and this prior's classes are 0 to 9; build"
        ):
            labelled(torch.tensor([9, 10]))
        with pytest.raises(ValueError, match="hold -1"):
            labelled(torch.tensor([-1, 0]))
        with pytest.raises(TypeError, match=r"float32; expected .* torch\.int64: give"):
            labelled(torch.zeros(2))
        with pytest.raises(TypeError, match="labels are list; expected a tensor"):
            labelled([0, 1])
        with pytest.raises(ValueError, match=r"shape \(2, 10\); expected \(n,\)"):
            labelled(torch.zeros(2, 10, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"z has shape \(2, 2\) and labels \(3,\); expected"):
        prior.log_prob_class(z, torch.tensor([0, 1, 2]))


@every_prior
def test_codes_of_another_kind_are_refused(name):
    prior = PLANE[name]
    for log_prob in (prior.log_prob, lambda z: prior.log_prob_class(z, torch.tensor([0]))):
        with pytest.raises(
            ValueError, match="z has 3 dimensions in its last axis, this prior has 2"
        ):
            log_prob(torch.zeros(1, 3))
        with pytest.raises(TypeError, match=r"int64; codes are real numbers: give z\.float"):
            log_prob(torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="no dimensions"):
        prior.log_prob(torch.tensor(0.0))


@pytest.mark.parametrize("kind", [Gaussian, UniformBox])
def test_only_the_plane_is_cut_into_classes(kind):
    message = rf"dim=5, and only the plane is cut into classes; use {kind.__name__}\(2\)"
    with pytest.raises(ValueError, match=message):
        kind(5).sample_class(torch.tensor([0]))
    with pytest.raises(ValueError, match=message):
        kind(5).log_prob_class(torch.zeros(1, 5), torch.tensor([0]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gaussian(0), "dim is 0; a prior needs at least one dimension"),
        (lambda: Gaussian(2, classes=0), "given 0 classes"),
        (lambda: GaussianMixture(0), "components is 0"),
        (lambda: GaussianMixture(radius=-1), "radius is -1"),
        (lambda: GaussianMixture(radial_std=0), "radial_std is 0; expected a standard deviation"),
        (lambda: GaussianMixture(tangential_std=math.nan), "tangential_std is nan"),
        (lambda: SwissRoll(thickness=0), "thickness is 0; .* is a curve and has no density"),
        (lambda: SwissRoll(thickness=-0.1), r"thickness is -0\.1"),
        (lambda: SwissRoll(classes=0), "given 0 classes"),
        (lambda: UniformBox(0), "dim is 0"),
        (lambda: UniformBox(2, classes=-1), "given -1 classes"),
        (lambda: SwissRoll().arc(torch.tensor([0.5, 1.5])), r"u goes from 0\.5 to 1\.5"),
    ],
)
def test_impossible_priors_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@every_prior
def test_the_latent_plane_shows_the_prior(name):
    ax = latent_scatter(torch.zeros(3, 2), torch.arange(3), prior=PLANE[name])
    (contours,) = [c for c in ax.collections if isinstance(c, ContourSet)]
    outermost = contours.get_paths()[0].vertices
    if name == "uniform":  # its edge, within a cell of the 301 by 301 grid over (-3.5, 3.5)
        assert len(contours.levels) == 1
        assert np.abs(outermost).max(1) == pytest.approx(1, abs=7 / 300)
    else:
        assert len(contours.levels) == 3
    matplotlib.pyplot.close(ax.figure)


def test_names_and_descriptions():
    assert tutor.priors.Gaussian is Gaussian
    assert repr(Gaussian(3)) == "Gaussian(dim=3)"
    assert repr(UniformBox(3)) == "UniformBox(dim=3)"
    assert "radial_std=0.5" in repr(GaussianMixture())
    assert repr(SwissRoll(classes=5)) == "SwissRoll(classes=5, thickness=0.1)"
