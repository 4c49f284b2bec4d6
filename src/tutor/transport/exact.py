"""The cheapest plan, exactly: a linear programme, an assignment, or a sort."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tutor.finite import distribution


class Plan(NamedTuple):
    """The cheapest way to carry one distribution to another, and the proof that it is.

    ``plan`` has the mass that goes from i to j, ``value`` its cost.  ``f`` and ``g`` are the dual
    potentials: ``f_i + g_j <= c_ij`` everywhere, and ``a.f + b.g`` equals ``value``, which no
    cheaper plan could allow.
    """

    plan: Tensor
    value: Tensor
    f: Tensor
    g: Tensor


class Assignment(NamedTuple):
    """``columns[i]`` is the partner of i; ``value`` the mean cost of a pair."""

    columns: Tensor
    value: Tensor


def exact_plan(cost: Tensor, a: Tensor, b: Tensor) -> Plan:
    """Kantorovich's problem on finitely many points, solved as a linear programme.

    ``minimise sum_ij P_ij c_ij  over  P >= 0,  sum_j P_ij = a_i,  sum_i P_ij = b_j``

    Book equations: kantorovich, kantorovich-dual.  Source: Peyré & Cuturi (2019), Computational
    Optimal Transport, chapters 2 and 3.  The solver is HiGHS, by way of scipy.

    Args:
        cost: ``c_ij``, shape ``(n, m)``.
        a: masses of the sources, ``(n,)``.
        b: masses of the targets, ``(m,)``.

    Returns:
        `Plan`, in float64.

    Raises:
        TypeError: if something is not a tensor of floats.
        ValueError: for a cost that is not ``(n, m)`` or not finite, or masses that are negative
            or do not add up to 1.

    Example:
        >>> cost = torch.tensor([[0.0, 2.0], [1.0, 1.0]])
        >>> found = exact_plan(cost, torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]))
        >>> found.value
        tensor(1., dtype=torch.float64)
    """
    from scipy.optimize import linprog
    from scipy.sparse import eye, kron, vstack

    cost, a, b = checked(cost, a, b)
    n, m = cost.shape
    rows, columns = kron(eye(n), [[1.0] * m]), kron([[1.0] * n], eye(m))
    sums = vstack([rows, columns], format="csr")
    answer = linprog(
        cost.flatten().numpy(), A_eq=sums, b_eq=torch.cat([a, b]).numpy(), method="highs-ds"
    )
    if not answer.success:
        raise RuntimeError(f"the linear programme was not solved: {answer.message}")
    plan = torch.from_numpy(answer.x.copy()).reshape(n, m)
    f, g = torch.from_numpy(answer.eqlin.marginals.copy()).split([n, m])
    return Plan(plan, (plan * cost).sum(), f, g)


def assignment(cost: Tensor) -> Assignment:
    """The cheapest pairing of n sources with n targets of equal mass.

    Between equal masses some cheapest plan is a pairing: the plans are the doubly stochastic
    tables over n, their corners the permutations (Birkhoff), and a linear function is least at a
    corner.  Faster than `exact_plan` by far.

    Args:
        cost: shape ``(n, n)``.

    Raises:
        TypeError: if it is not a tensor of floats.
        ValueError: if it is not square, or not finite.

    Example:
        >>> assignment(torch.tensor([[4.0, 1.0], [2.0, 3.0]]))
        Assignment(columns=tensor([1, 0]), value=tensor(1.5000, dtype=torch.float64))
    """
    from scipy.optimize import linear_sum_assignment

    cost = _checked_cost(cost)
    if cost.shape[0] != cost.shape[1]:
        raise ValueError(
            f"cost has shape {tuple(cost.shape)}; expected as many sources as targets, or use "
            "exact_plan with masses"
        )
    _, columns = linear_sum_assignment(cost.numpy())
    columns = torch.from_numpy(columns)
    return Assignment(columns, cost.gather(1, columns.unsqueeze(1)).mean())


def wasserstein_1d(
    x: Tensor, y: Tensor, a: Tensor | None = None, b: Tensor | None = None, *, p: float = 1.0
) -> Tensor:
    """The Wasserstein-p distance of points on the line: sort, and carry in order.

    ``W_p^p = integral over u in (0, 1) of |F^-1(u) - G^-1(u)|^p``

    with the quantile functions of both.  Book equation: transport-line.  Source: Peyré & Cuturi
    (2019), section 2.6.

    Args:
        x: points ``(n,)``.
        y: points ``(m,)``.
        a: their masses, equal ones if not given.
        b: likewise for y.
        p: power of the distance, at least 1 (below it order is not optimal).

    Returns:
        ``W_p``, not its power; a scalar in float64.

    Raises:
        TypeError: if something is not a tensor of floats.
        ValueError: for other shapes, points that are not finite, p below 1; masses as `exact_plan`.

    Example:
        >>> wasserstein_1d(torch.tensor([0.0, 1.0]), torch.tensor([5.0, 2.0]))
        tensor(3., dtype=torch.float64)
    """
    if not p >= 1:
        raise ValueError(f"p is {p}; expected at least 1: below, carrying in order is not cheapest")
    (x, a), (y, b) = _on_line("x", x, "a", a), _on_line("y", y, "b", b)
    ends_a, ends_b = a.cumsum(0), b.cumsum(0)
    ends = torch.cat([ends_a, ends_b]).clamp(max=1.0).sort().values  # where a quantile jumps
    mass = torch.diff(ends, prepend=ends.new_zeros(1))
    middle = ends - mass / 2
    i = torch.searchsorted(ends_a, middle).clamp(max=len(x) - 1)
    j = torch.searchsorted(ends_b, middle).clamp(max=len(y) - 1)
    return (mass * (x[i] - y[j]).abs() ** p).sum() ** (1 / p)


def distance_table(x: Tensor, y: Tensor, *, power: float = 1.0) -> Tensor:
    """``|x_i - y_j|^power`` of points ``(n, dim)`` and ``(m, dim)``: ``(n, m)``, float64.

    Example:
        >>> distance_table(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]), power=2)
        tensor([[25.]], dtype=torch.float64)
    """
    mode = "donot_use_mm_for_euclid_dist"  # products of matrices lose close points' distance
    return torch.cdist(x.double(), y.double(), compute_mode=mode) ** power


def checked(cost: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cost and masses in float64, once they are known to belong together."""
    cost, a, b = _checked_cost(cost), distribution("a", a), distribution("b", b)
    if cost.shape != (len(a), len(b)):
        raise ValueError(
            f"cost has shape {tuple(cost.shape)}, with {len(a)} masses a and {len(b)} masses b; "
            f"expected ({len(a)}, {len(b)}): one row a source, one column a target"
        )
    return cost, a, b


def _checked_cost(cost: Tensor) -> Tensor:
    if not isinstance(cost, Tensor) or not cost.is_floating_point():
        given = cost.dtype if isinstance(cost, Tensor) else type(cost).__name__
        raise TypeError(f"cost is {given}; expected a tensor of floats (n, m)")
    if cost.dim() != 2 or cost.numel() == 0:
        raise ValueError(f"cost has shape {tuple(cost.shape)}; expected (n, m)")
    if not cost.isfinite().all():
        raise ValueError("cost has NaN or infinite entries; give a forbidden pair a large cost")
    return cost.detach().double().cpu()


def _on_line(name: str, x: Tensor, mass: str, a: Tensor | None) -> tuple[Tensor, Tensor]:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        given = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name} is {given}; expected a tensor of floats (n,)")
    if x.dim() != 1 or len(x) == 0 or not x.isfinite().all():
        raise ValueError(f"{name} has shape {tuple(x.shape)}; expected finite points (n,)")
    if a is None:
        a = torch.full((len(x),), 1 / len(x), dtype=torch.float64)
    a = distribution(mass, a)
    if len(a) != len(x):
        raise ValueError(
            f"{name} has {len(x)} points and {mass} {len(a)} masses; expected one each"
        )
    x, order = x.detach().double().sort()
    return x, a[order]
