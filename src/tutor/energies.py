"""Unnormalised densities whose exact answer is known: what variational inference is tried on.

An *energy* here is anything with ``dim``, the number of coordinates, and ``log_prob(z)``, the
logarithm of a density up to a constant, ``(..., dim)`` to ``(...)``.  The three below also have
``names`` of their coordinates, ``log_evidence`` (the logarithm of the integral of
``exp(log_prob)``, so an ELBO has a ceiling to be held against) and ``exact_draws``: independent
points of the normalised density.  In each, all coordinates but one integrate out in closed form,
and the last one goes through a fine one-dimensional quadrature.

`Banana` and `Ring` are the two densities in the plane of the notebook that AVB's authors publish
(Mescheder et al., arXiv 1701.04722).  Their notebook's *Eight Schools* is not the textbook's: data
divided by ten, standard deviations divided by about twenty (the last by neither), and tau with a
normal prior that lets it be negative, so that the posterior has a mirror image.  `EightSchools`
is the standard model instead.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Energy(Protocol):
    """What the models of variational inference need of a target."""

    dim: int

    def log_prob(self, z: Tensor) -> Tensor: ...


def checked_energy(energy: Energy) -> Energy:
    """The energy itself, where it is one.

    Raises:
        TypeError: if it lacks ``dim`` or ``log_prob``.
        ValueError: if ``dim`` is less than 1.

    Example:
        >>> checked_energy(Ring()).dim
        2
    """
    lacks = [name for name in ("dim", "log_prob") if not hasattr(energy, name)]
    if lacks:
        kind = energy.__name__ if isinstance(energy, type) else type(energy).__name__
        raise TypeError(
            f"energy is a {kind} without {' and '.join(lacks)}; expected an object with `dim`, the "
            "number of coordinates, and `log_prob(z)` from (n, dim) to (n,), "
            "such as tutor.energies.Ring()"
        )
    if isinstance(energy, type):
        raise TypeError(f"energy is the class {energy.__name__}; make one: {energy.__name__}()")
    if energy.dim < 1:
        raise ValueError(f"the energy has dim={energy.dim}; expected at least one coordinate")
    return energy


def log_density(energy: Energy, z: Tensor) -> Tensor:
    """``energy.log_prob`` of points ``(..., dim)``, refused unless it is one number a point.

    Raises:
        ValueError: if ``log_prob`` returns another shape, as a sum over coordinates forgotten does.

    Example:
        >>> log_density(Ring(), torch.ones(3, 2))
        tensor([-0., -0., -0.])
    """
    value = energy.log_prob(z)
    if value.shape != z.shape[:-1]:
        raise ValueError(
            f"log_prob of {described(energy)} returned shape {tuple(value.shape)} for points of "
            f"shape {tuple(z.shape)}; expected {tuple(z.shape[:-1])}: add up the coordinates, with "
            ".sum(-1)"
        )
    return value


def described(energy: Energy) -> str:
    """How an energy prints: its own ``repr``, or its class where that would be an address.

    A checkpoint is taken up again only by a model that prints the same, in another process too.
    """
    plain = type(energy).__repr__ is object.__repr__
    return f"{type(energy).__name__}()" if plain else repr(energy)


class Banana:
    """Two bent arms in the plane, mirror images of each other.

    ``log_prob(x) = -(x_1 - 1)^2 - (x_2^2 - x_1)^2``, unnormalised

    Given x_2, the other coordinate is Gaussian with mean ``(1 + x_2^2) / 2`` and variance 1/4, and
    x_2 has a density proportional to ``exp(-(1 - x_2^2)^2 / 2)``, which one quadrature normalises.
    Source: the authors' notebook of AVB (arXiv 1701.04722).

    Example:
        >>> energy = Banana()
        >>> energy.log_prob(torch.tensor([[1.0, 0.0], [2.0, 1.0]]))
        tensor([-1., -2.])
        >>> energy.exact_draws(3).shape, energy.log_evidence
        (torch.Size([3, 2]), 1.152...)
    """

    dim = 2
    names = ("x_1", "x_2")

    def __init__(self) -> None:
        x = torch.linspace(-5, 5, 20_001, dtype=torch.float64)  # exp(-288) is left out
        self._second = _Line(x, -(1 - x.square()).square() / 2 + 0.5 * math.log(math.pi / 2))

    def log_prob(self, z: Tensor) -> Tensor:
        """Logarithm of the unnormalised density; ``(..., 2)`` gives ``(...)``.

        Raises:
            ValueError: if the last axis of z is not 2.
            TypeError: if z does not hold real numbers.
        """
        _check_points(z, self.dim)
        x, y = z.unbind(-1)
        return -(x - 1).square() - (y.square() - x).square()

    @property
    def log_evidence(self) -> float:
        """Logarithm of the integral of ``exp(log_prob)`` over the plane."""
        return self._second.log_mass

    def exact_draws(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """n independent points of the normalised density, ``(n, 2)``.

        Raises:
            ValueError: if n is less than 1.
        """
        y = self._second.draw(n, generator)
        x = (1 + y.square()) / 2 + 0.5 * _normal((n,), generator)
        return torch.stack([x, y], -1).to(torch.get_default_dtype())

    def __repr__(self) -> str:
        return "Banana()"


class Ring:
    """A ring of radius sqrt(2) in the plane.

    ``log_prob(x) = -(x_1^2 + x_2^2 - 2)^2``, unnormalised

    The angle is uniform and the squared radius s has a density proportional to ``exp(-(s - 2)^2)``
    on ``s > 0``: a normal distribution of mean 2 and variance 1/2, cut off at zero.
    Source: the authors' notebook of AVB (arXiv 1701.04722).

    Example:
        >>> energy = Ring()
        >>> energy.log_prob(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
        tensor([0., -4.])
        >>> energy.exact_draws(3).shape, energy.log_evidence
        (torch.Size([3, 2]), 1.714...)
    """

    dim = 2
    names = ("x_1", "x_2")

    def __init__(self) -> None:
        s = torch.linspace(0, 12, 24_001, dtype=torch.float64)  # exp(-100) is left out
        # dx_1 dx_2 = ds dangle / 2, and the angle goes once round
        self._squared_radius = _Line(s, -(s - 2).square() + math.log(math.pi))

    def log_prob(self, z: Tensor) -> Tensor:
        """Logarithm of the unnormalised density; ``(..., 2)`` gives ``(...)``.

        Raises:
            ValueError: if the last axis of z is not 2.
            TypeError: if z does not hold real numbers.
        """
        _check_points(z, self.dim)
        return -(z.square().sum(-1) - 2).square()

    @property
    def log_evidence(self) -> float:
        """Logarithm of the integral of ``exp(log_prob)`` over the plane."""
        return self._squared_radius.log_mass

    def exact_draws(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """n independent points of the normalised density, ``(n, 2)``.

        Raises:
            ValueError: if n is less than 1.
        """
        radius = self._squared_radius.draw(n, generator).sqrt()
        angle = 2 * math.pi * torch.rand(n, generator=generator, dtype=torch.float64)
        points = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
        return points.to(torch.get_default_dtype())

    def __repr__(self) -> str:
        return "Ring()"


class Schools(NamedTuple):
    """The model's own quantities: ``mu`` and ``tau`` ``(...)``, ``theta`` ``(..., 8)``."""

    mu: Tensor
    tau: Tensor
    theta: Tensor


class EightSchools:
    """Posterior of the Eight Schools model, unnormalised, on R^10.

    Eight schools each tried the same coaching; school j measured the effect ``y_j`` with known
    standard error ``sigma_j``.  The model (standard deviations, not variances, in every N):

        ``mu ~ N(0, 5)``,  ``tau ~ HalfCauchy(5)``,  ``theta_j ~ N(mu, tau)``,
        ``y_j ~ N(theta_j, sigma_j)``

    with y = (28, 8, -3, 7, -1, 1, 18, 12) and sigma = (15, 10, 16, 11, 9, 11, 10, 18).  It is
    written on coordinates that take every real value and have comparable scales (*non-centred*):

        ``z = (mu / 5, log tau, eta_1, ..., eta_8)``  with  ``theta_j = mu + tau eta_j``,

    so ``mu / 5`` and each eta are standard normal before any data are seen, and
    ``p(log tau) = tau p(tau)`` carries the Jacobian.  ``log_prob(z)`` is the joint
    ``log p(z, y)`` with all its constants, hence its integral over z is the evidence p(y).

    Given tau, everything else integrates out: ``y_j ~ N(mu, sqrt(sigma_j^2 + tau^2))`` makes
    ``p(mu | tau, y)`` and ``p(y | tau)`` Gaussian.  The exact posterior of log tau is therefore one
    quadrature, and a posterior draw is: log tau from it, mu given tau, eta given both.

    Sources: Rubin (1981), Estimation in parallel randomized experiments, for the data; Gelman et
    al., Bayesian Data Analysis, section 5.5, for the model.  These two priors are those of the
    model ``eight_schools`` in posteriordb.

    Example:
        >>> energy = EightSchools()
        >>> z = energy.exact_draws(1000, generator=torch.Generator().manual_seed(0))
        >>> z.shape, energy.log_prob(z).shape
        (torch.Size([1000, 10]), torch.Size([1000]))
        >>> mu, tau, theta = energy.constrain(z)
        >>> bool((tau > 0).all()), theta.shape
        (True, torch.Size([1000, 8]))
        >>> energy.log_evidence
        -31.31...
    """

    dim = 10
    names = ("mu / 5", "log tau", *(f"eta_{j}" for j in range(1, 9)))
    effects = (28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0)
    standard_errors = (15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0)
    mu_std = 5.0
    tau_scale = 5.0

    def __init__(self) -> None:
        self._y = torch.tensor(self.effects, dtype=torch.float64)
        self._sigma = torch.tensor(self.standard_errors, dtype=torch.float64)
        # Left of the grid lies a mass of about exp(-30), right of it far less.
        log_tau = torch.linspace(-30, 10, 40_001, dtype=torch.float64)
        self._log_tau = _Line(log_tau, self._log_joint_of_tau(log_tau))

    def log_prob(self, z: Tensor) -> Tensor:
        """``log p(z, y)``; ``(..., 10)`` gives ``(...)``.

        Raises:
            ValueError: if the last axis of z is not 10.
            TypeError: if z does not hold real numbers.
        """
        theta = self.constrain(z).theta
        y, sigma = self._y.to(z), self._sigma.to(z)
        standard = torch.cat([z[..., :1], z[..., 2:]], -1)  # mu / 5 and eta
        return (
            _log_normal(standard, 1).sum(-1)
            + self._log_prior_of_log_tau(z[..., 1])
            + _log_normal(y - theta, sigma).sum(-1)
        )

    @property
    def log_evidence(self) -> float:
        """``log p(y)`` in nats, by quadrature over log tau."""
        return self._log_tau.log_mass

    def exact_draws(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """n independent draws of the posterior p(z | y), ``(n, 10)``.

        Raises:
            ValueError: if n is less than 1.
        """
        log_tau = self._log_tau.draw(n, generator)
        mean, std = self._mu_given(log_tau)
        mu = mean + std * _normal((n,), generator)
        tau = log_tau.exp().unsqueeze(-1)
        total = self._sigma.square() + tau.square()  # (n, 8)
        eta_mean = tau * (self._y - mu.unsqueeze(-1)) / total
        eta = eta_mean + self._sigma / total.sqrt() * _normal((n, 8), generator)
        z = torch.cat([torch.stack([mu / self.mu_std, log_tau], -1), eta], -1)
        return z.to(torch.get_default_dtype())

    def constrain(self, z: Tensor) -> Schools:
        """mu, tau and theta of points z; ``(..., 10)`` gives ``(...)``, ``(...)``, ``(..., 8)``.

        Raises:
            ValueError: if the last axis of z is not 10.
            TypeError: if z does not hold real numbers.
        """
        _check_points(z, self.dim)
        mu, tau = self.mu_std * z[..., 0], z[..., 1].exp()
        return Schools(mu, tau, mu.unsqueeze(-1) + tau.unsqueeze(-1) * z[..., 2:])

    def unconstrain(self, mu: Tensor, tau: Tensor, theta: Tensor) -> Tensor:
        """The point z of given mu, tau and theta: the inverse of `constrain`.

        Raises:
            ValueError: if a tau is not positive.

        Example:
            >>> energy = EightSchools()
            >>> z = energy.exact_draws(5)
            >>> torch.allclose(energy.unconstrain(*energy.constrain(z)), z, atol=1e-3)
            True
        """
        if not (tau > 0).all():
            raise ValueError(f"tau goes down to {tau.min().item():.4g}; expected positive numbers")
        eta = (theta - mu.unsqueeze(-1)) / tau.unsqueeze(-1)
        return torch.cat([torch.stack([mu / self.mu_std, tau.log()], -1), eta], -1)

    def marginal_cdf(self, name: str, values: Tensor) -> Tensor:
        """Exact distribution function of one marginal of the posterior.

        Args:
            name: ``"mu"`` or ``"log tau"``.
            values: where, in units of mu (not of ``mu / 5``) or of log tau; any shape.

        Returns:
            P(mu <= value | y) or P(log tau <= value | y), in float64, same shape.  For mu it is
            the mean of ``P(mu <= value | tau, y)`` over the posterior of tau.

        Raises:
            ValueError: for another name.

        Example:
            >>> EightSchools().marginal_cdf("mu", torch.tensor([0.0, 4.4]))
            tensor([0.09, 0.50], dtype=torch.float64)
        """
        values = values.detach().double()
        if name == "log tau":
            return self._log_tau.cdf(values)
        if name != "mu":
            raise ValueError(f'name is {name!r}; choose "mu" or "log tau"')
        # Every 50th node is enough for a smooth mixture (a trapezium rule in steps of 0.05).
        nodes, weights = self._log_tau.coarse(50)
        mean, std = self._mu_given(nodes)
        flat = values.flatten()
        shares = [
            torch.special.ndtr((some.unsqueeze(-1) - mean) / std) @ weights
            for some in flat.split(1000)
        ]
        return torch.cat(shares).reshape(values.shape)

    def _log_prior_of_log_tau(self, log_tau: Tensor) -> Tensor:
        # log of the half-Cauchy density at tau, plus log tau for the change of variable
        relative = log_tau - math.log(self.tau_scale)
        return math.log(2 / math.pi) + relative - torch.nn.functional.softplus(2 * relative)

    def _log_joint_of_tau(self, log_tau: Tensor) -> Tensor:
        """``log p(log tau, y)``: mu and eta integrated out."""
        mean, std = self._mu_given(log_tau)
        spread = (self._sigma.square() + (2 * log_tau).exp().unsqueeze(-1)).sqrt()
        # Bayes' rule at any mu; at its conditional mean: p(y | tau) = p(y | mu) p(mu) / p(mu | y)
        log_y = _log_normal(self._y - mean.unsqueeze(-1), spread).sum(-1)
        prior = torch.full_like(std, self.mu_std)
        log_mu = _log_normal(mean, prior) - _log_normal(torch.zeros_like(mean), std)
        return self._log_prior_of_log_tau(log_tau) + log_y + log_mu

    def _mu_given(self, log_tau: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of ``p(mu | tau, y)``."""
        precision = 1 / (self._sigma.square() + (2 * log_tau).exp().unsqueeze(-1))  # (..., 8)
        total = precision.sum(-1) + self.mu_std**-2
        return (precision * self._y).sum(-1) / total, total.rsqrt()

    def __repr__(self) -> str:
        return "EightSchools()"


class _Line:
    """A density on a line, from its logarithm on a fine even grid: mass, cdf, draws.

    Between two nodes the density counts as constant; with thousands of nodes over a smooth
    density that is far below what any number of draws could show.
    """

    def __init__(self, nodes: Tensor, log_density: Tensor) -> None:
        step = nodes[1] - nodes[0]
        top = log_density.max()
        density = (log_density - top).exp()
        panels = step * (density[1:] + density[:-1]) / 2
        mass = panels.sum()
        self.nodes = nodes
        self.log_mass = (top + mass.log()).item()
        self._density = density / mass
        self._cdf = torch.cat([panels.new_zeros(1), (panels / mass).cumsum(0)])

    def cdf(self, values: Tensor) -> Tensor:
        """P(T <= value), by interpolation between the nodes."""
        place = (values - self.nodes[0]) / (self.nodes[1] - self.nodes[0])
        place = place.clamp(0, len(self.nodes) - 1)
        left = place.floor().long().clamp(max=len(self.nodes) - 2)
        return torch.lerp(self._cdf[left], self._cdf[left + 1], place - left)

    def draw(self, n: int, generator: torch.Generator | None) -> Tensor:
        """n draws: the inverse of `cdf` at uniform numbers."""
        if n < 1:
            raise ValueError(f"n is {n}; expected at least 1 draw")
        u = torch.rand(n, generator=generator, dtype=torch.float64) * self._cdf[-1]
        left = (torch.searchsorted(self._cdf, u, right=True) - 1).clamp(max=len(self.nodes) - 2)
        below, above = self._cdf[left], self._cdf[left + 1]
        return torch.lerp(self.nodes[left], self.nodes[left + 1], (u - below) / (above - below))

    def coarse(self, stride: int) -> tuple[Tensor, Tensor]:
        """Every stride-th node with its weight, weights adding up to 1."""
        weights = self._density[::stride]
        return self.nodes[::stride], weights / weights.sum()


def _log_normal(x: Tensor, std: Tensor | float) -> Tensor:
    std = torch.as_tensor(std, dtype=x.dtype, device=x.device)
    return -0.5 * (x / std).square() - std.log() - 0.5 * math.log(2 * math.pi)


def _normal(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _check_points(z: Tensor, dim: int) -> None:
    if z.dim() == 0 or z.shape[-1] != dim:
        raise ValueError(f"z has shape {tuple(z.shape)}; expected (..., {dim})")
    if not z.is_floating_point():
        raise TypeError(f"z is {z.dtype}; expected real numbers: give z.float()")
