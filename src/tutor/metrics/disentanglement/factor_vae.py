"""The FactorVAE score: fix a factor, and see which coordinate of the code moves least."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tutor.data import Dataset
from tutor.metrics._evaluate import at_least_one
from tutor.metrics.disentanglement._factors import Groups, checked, group

_ROWS = 32_768  # codes at once: a few megabytes, which stay in the processor's cache


class VoteProtocol(NamedTuple):
    """How the votes of `factor_vae_score` are taken.

    Attributes:
        votes: how many; the majority is taken over these.
        test_votes: further votes on which the majority's accuracy is measured; 0 measures it on
            the same votes, which is a little too kind.
        batch_size: images a vote.
    """

    votes: int
    test_votes: int
    batch_size: int


VOTE_PROTOCOLS = {
    "paper": VoteProtocol(votes=800, test_votes=0, batch_size=100),
    "library": VoteProtocol(votes=10_000, test_votes=5_000, batch_size=64),
}


class FactorVAEScore(NamedTuple):
    """Accuracy of the majority vote and what it was made of.

    Attributes:
        score: share of right votes, from about ``1/K`` to 1.
        votes: ``(dim, K)``; how often coordinate j moved least when factor k was fixed.
        active: ``(dim,)``; False for coordinates that were left out.
    """

    score: float
    votes: Tensor
    active: Tensor


def factor_vae_score(
    codes: Tensor,
    factors: Tensor | Dataset,
    *,
    protocol: str | VoteProtocol = "paper",
    active: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> FactorVAEScore:
    """Accuracy of guessing the fixed factor from the coordinate that varies least.

    ``j* = argmin_j Var_l(z_j^(l)) / s_j^2`` over a batch in which factor k is the same, with s_j
    the standard deviation over all codes.  Each batch is a vote ``(j*, k)``; each coordinate
    stands for the factor that most of its votes are for.

    Book equation: factor-vae-metric.  A factor is drawn uniformly, its value as it occurs in the
    data, the batch with replacement from the images that have it.  Two protocols have names:

    ===============  ==============================  ==============================================
                     ``"paper"``                     ``"library"``
    ===============  ==============================  ==============================================
    votes            800, scored on themselves       10 000, scored on 5 000 others
    images a vote    100                             64
    random codes     0.26 (10 coordinates, K = 5)    0.20, the mean of guessing
    ===============  ==============================  ==============================================

    A collapsed coordinate, divided by its tiny standard deviation, would win by noise; it has to
    be left out.  The library leaves out those whose mean code has a standard deviation below 0.05,
    which is the rule here when ``active`` is not given.  Public versions of the paper's protocol
    ask for a KL to the prior of at least 0.01 nats, averaged over the data: give ``active =
    gaussian_kl_per_dimension(q.mean, q.log_var).mean(0) >= 0.01`` with q from `encode_posteriors`.
    The library estimates s_j from 10 000 images, this function from all.  Source: Kim & Mnih
    (arXiv 1802.05983), section 4; Locatello et al. (arXiv 1811.12359) for the library.

    Args:
        codes: mean codes ``(N, dim)``, see `encode_all`.
        factors: whole numbers ``(N, K)``, or the data set.
        protocol: ``"paper"``, ``"library"``, or a `VoteProtocol` of your own.
        active: ``(dim,)`` truth values, which coordinates may win.
        generator: source of factors and batches, on the CPU.

    Returns:
        `FactorVAEScore`.

    Raises:
        TypeError: if codes are no floats, factors no whole numbers, or active no truth values.
        ValueError: for a data set without factors, unequal lengths, codes that are not finite, a
            factor with one value, a value with fewer images than a batch, or if all coordinates
            are collapsed (the library scores that 0).

    Example:
        >>> from tutor.metrics import example_codes
        >>> factors = torch.cartesian_prod(*[torch.arange(10)] * 3)
        >>> factor_vae_score(example_codes(factors, "perfect"), factors).score
        1.0
    """
    votes, test_votes, batch_size = _protocol(protocol)
    found = checked(codes, factors)
    std = found.codes.std(0, correction=0)
    active = _active(std, active)
    groups = group(
        found.values,
        found.sizes,
        at_least=batch_size,
        why=f"a vote takes a batch of {batch_size} of them; choose a protocol with smaller "
        'batches, for example VOTE_PROTOCOLS["library"]._replace(batch_size=16)',
    )
    total = votes + test_votes
    k = len(found.sizes)
    fixed = torch.randint(k, (total,), generator=generator)
    index = _batches(groups, found.values, fixed, batch_size, generator)
    least = least_varying(found.codes, index, std, active)
    table = torch.bincount(least * k + fixed, minlength=codes.shape[1] * k).view(-1, k)
    if test_votes == 0:
        return FactorVAEScore(table.max(1).values.sum().item() / votes, table, active)
    table = torch.bincount(least[:votes] * k + fixed[:votes], minlength=table.numel()).view(-1, k)
    guess = table.argmax(1)[least[votes:]]
    return FactorVAEScore((guess == fixed[votes:]).double().mean().item(), table, active)


def least_varying(codes: Tensor, index: Tensor, std: Tensor, active: Tensor) -> Tensor:
    """For each batch of rows ``(B, L)``: the active coordinate whose variance is least of std^2.

    Book equation: factor-vae-metric.

    Example:
        >>> codes = torch.tensor([[0.0, 1.0], [2.0, 1.1], [4.0, 9.0]])
        >>> least_varying(codes, torch.tensor([[0, 1]]), codes.std(0), torch.tensor([True, True]))
        tensor([1])
    """
    scale = torch.where(active, std, 1).square()
    parts = []
    for rows in index.split(max(1, _ROWS // index.shape[1])):
        batch = codes.index_select(0, rows.reshape(-1)).view(*rows.shape, -1)  # (b, L, dim)
        # The square of the mean is never subtracted from the mean of squares: both may be large.
        variance = batch.sub_(batch.mean(1, keepdim=True)).square_().mean(1)  # (b, dim)
        parts.append((variance / scale).masked_fill_(~active, torch.inf).argmin(1))
    return torch.cat(parts)


def _batches(
    groups: Groups,
    values: Tensor,
    fixed: Tensor,
    batch_size: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Rows ``(B, L)`` that agree in the fixed factor, its value as it occurs in the data."""
    image = torch.randint(values.shape[1], fixed.shape, generator=generator)
    value = values[fixed, image]
    return groups.draw(fixed[:, None].expand(-1, batch_size), value[:, None], generator)


def _protocol(protocol: str | VoteProtocol) -> VoteProtocol:
    if isinstance(protocol, str):
        if protocol not in VOTE_PROTOCOLS:
            raise ValueError(
                f"protocol is {protocol!r}; there are {' and '.join(map(repr, VOTE_PROTOCOLS))}, "
                "or give a VoteProtocol"
            )
        return VOTE_PROTOCOLS[protocol]
    if not isinstance(protocol, VoteProtocol):
        raise TypeError(f"protocol is {protocol!r}; expected a name or a VoteProtocol")
    at_least_one(votes=protocol.votes)
    if protocol.test_votes != 0:
        at_least_one(test_votes=protocol.test_votes)
    if protocol.batch_size < 2:
        raise ValueError(f"batch_size is {protocol.batch_size}; one image has no variance")
    return protocol


def _active(std: Tensor, active: Tensor | None) -> Tensor:
    dim = len(std)
    if active is None:
        active = std >= 0.05
    if not isinstance(active, Tensor) or active.dtype != torch.bool:
        given = active.dtype if isinstance(active, Tensor) else type(active).__name__
        raise TypeError(f"active is {given}; expected a tensor of {dim} truth values")
    if active.shape != (dim,):
        raise ValueError(f"active has shape {tuple(active.shape)}; expected ({dim},)")
    active = active.cpu()
    if not active.any():
        raise ValueError(
            f"all {dim} coordinates are collapsed (the largest standard deviation is "
            f"{std.max().item():.2g}): the code says nothing about the images"
        )
    if (dead := active & (std == 0)).any():
        raise ValueError(
            f"coordinate {dead.nonzero()[0].item()} never moves, and active says that it may win; "
            "leave it out"
        )
    return active
