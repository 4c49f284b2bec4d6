"""Transport with an entropy term: a smoother problem, solved by scaling rows and columns."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tutor.transport.exact import checked


class EntropicPlan(NamedTuple):
    """The plan that `sinkhorn` found.

    ``cost`` is ``sum_ij P_ij c_ij`` without the entropy term, ``value`` with it.  ``blur`` is
    over how many targets a source spreads its mass, ``exp(H(P) - H(a))``: 1 for a pairing.
    ``marginal_error`` is the total variation between the plan's column sums and b; its row sums
    are a.  ``f`` and ``g`` are potentials, ``P_ij = exp((f_i + g_j - c_ij) / epsilon)``.
    """

    plan: Tensor
    cost: Tensor
    value: Tensor
    blur: Tensor
    marginal_error: Tensor
    f: Tensor
    g: Tensor


def sinkhorn(
    cost: Tensor,
    a: Tensor,
    b: Tensor,
    epsilon: float,
    *,
    tolerance: float = 1e-9,
    steps: int = 20_000,
) -> EntropicPlan:
    """The plan that makes ``sum_ij P_ij c_ij - epsilon H(P)`` least, ``H(P) = -sum P log P``.

    Row and column sums are set right in turn, on logarithms, so that a small epsilon does no harm;
    epsilon is halved from the size of the costs down, each time from the last potentials.
    Book equations: entropic-transport, sinkhorn-form.  Source: Cuturi (arXiv 1306.0895); Peyré &
    Cuturi (2019), sections 4.1 and 4.4.

    Args:
        cost: ``c_ij``, shape ``(n, m)``.
        a: masses of the sources, ``(n,)``.
        b: masses of the targets, ``(m,)``.
        epsilon: weight of the entropy, in the unit of the cost.
        tolerance: the marginal error at which to stop.
        steps: pairs of updates at each epsilon, at most.

    Returns:
        `EntropicPlan`, in float64.

    Raises:
        ValueError: if epsilon is not positive; also as `exact_plan`.
        RuntimeError: if the tolerance was not reached.

    Example:
        >>> cost = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> half = torch.tensor([0.5, 0.5])
        >>> sinkhorn(cost, half, half, epsilon=1.0).plan  # 0.5 / (1 + exp(-1)) on the diagonal
        tensor([[0.3655, 0.1345],
                [0.1345, 0.3655]], dtype=torch.float64)
    """
    cost, a, b = checked(cost, a, b)
    if not 0 < epsilon < float("inf"):
        raise ValueError(f"epsilon is {epsilon}; expected a positive number (0 is exact_plan)")
    log_a, log_b = a.log(), b.log()
    g = torch.zeros_like(b)
    strength = max(epsilon, (cost.max() - cost.min()).item())
    while True:
        for _ in range(steps):
            f = strength * (log_a - ((g - cost) / strength).logsumexp(1))
            columns = ((f.unsqueeze(1) + g - cost) / strength).logsumexp(0)  # log of column sums
            error = 0.5 * (columns.exp() - b).abs().sum()
            if error <= tolerance:
                break
            g = strength * (log_b - ((f.unsqueeze(1) - cost) / strength).logsumexp(0))
        if strength == epsilon:
            break
        strength = max(epsilon, strength / 2)
    if error > tolerance:
        raise RuntimeError(
            f"after {steps} steps the marginal error is {error.item():.2g}, not {tolerance:.2g}; "
            "raise steps or epsilon, or accept the error with tolerance="
        )
    plan = ((f.unsqueeze(1) + g - cost) / epsilon).exp()
    entropy, entropy_a = (-torch.xlogy(p, p).sum() for p in (plan, a))
    spent = (plan * cost).sum()
    return EntropicPlan(
        plan, spent, spent - epsilon * entropy, (entropy - entropy_a).exp(), error, f, g
    )
