"""The aggregate posterior seen from one minibatch: weighted and stratified sampling.

The density q(z) averages over all N posteriors; in training only a batch of M is at hand.  Two
estimators of ``log q(z)`` and ``log q(z_j)`` weigh the batch in two ways (Chen et al., arXiv
1802.04942).
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from tutor.metrics.surgery import SurgeryEstimate, _log_densities, surgery_from_densities
from tutor.posteriors import DiagonalGaussian


class AggregateDensity(NamedTuple):
    """Estimated logs at the codes of a batch: ``joint`` ``(M,)`` and ``marginals`` ``(M, dim)``."""

    joint: Tensor
    marginals: Tensor


def minibatch_weighted(q: DiagonalGaussian, z: Tensor, data_size: int) -> AggregateDensity:
    """Minibatch-weighted sampling (MWS): ``log q(z_i) ~ log 1/(N M) sum_j q(z_i|x_j)``.

    Book equation: mws.  Biased: too low by ``log M`` where codes don't overlap (the true sum has
    one term, q(z_i|x_i)/N) and by ``log N`` where all do.  In d dimensions the joint is near the
    first case and the marginals are near the second, so a total correlation made of it is too
    high by up to ``d log N - log M``.  Source: Chen et al. (arXiv 1802.04942).

    Args:
        q: posteriors of the batch, M of them.
        z: ``(M, dim)``, row i drawn from posterior i.
        data_size: N, images in the data set.

    Returns:
        `AggregateDensity`, in nats; differentiable.

    Raises:
        ValueError: if the shapes don't match, M is below 2, or M is above N.

    Example:
        >>> q = DiagonalGaussian(torch.zeros(4, 2), torch.zeros(4, 2))
        >>> minibatch_weighted(q, torch.zeros(4, 2), data_size=100).joint - q.log_prob(q.mean)
        tensor([-4.6052, -4.6052, -4.6052, -4.6052])
    """
    _check_batch(q, z, data_size)
    log_weight = z.new_full((len(z), len(z)), -math.log(data_size * len(z)))
    return _weigh(q, z, log_weight)


def minibatch_stratified(q: DiagonalGaussian, z: Tensor, data_size: int) -> AggregateDensity:
    """Minibatch-stratified sampling (MSS): own posterior 1/N, the others stand for the rest.

    ``q(z_i) ~ sum_j W_ij q(z_i|x_j)`` with the weights of `stratified_log_weights`.

    Book equation: mss.  Inside the logarithm it is unbiased when the rest of the batch is drawn
    without replacement; the logarithm of it is too low on average (Jensen).  It is not exact even
    when the batch is the whole data set, since the weights of the others are not equal.  Source:
    Chen et al. (arXiv 1802.04942), appendix.

    Args:
        q: posteriors of the batch, M of them.
        z: ``(M, dim)``, row i drawn from posterior i.
        data_size: N, images in the data set.

    Returns:
        `AggregateDensity`, in nats; differentiable.

    Raises:
        ValueError: if the shapes don't match, M is below 2, or M is above N.

    Example:
        >>> q = DiagonalGaussian(torch.zeros(4, 2), torch.zeros(4, 2))
        >>> minibatch_stratified(q, torch.zeros(4, 2), data_size=100).joint - q.log_prob(q.mean)
        tensor([0., 0., 0., 0.])
    """
    _check_batch(q, z, data_size)
    return _weigh(q, z, _kept_log_weights(len(z), data_size, z.device, z.dtype))


def minibatch_surgery(
    q: DiagonalGaussian, z: Tensor, data_size: int, *, method: str = "stratified"
) -> SurgeryEstimate:
    """The parts of the average KL as one minibatch estimates them: compare with `surgery`.

    Book equations: mws, mss, kl-decomposition.  The standard error is of the mean over the
    batch; it knows nothing of the estimator's bias, nor of the batch that all rows share.

    Args:
        q: posteriors of the batch, M of them.
        z: ``(M, dim)``, row i drawn from posterior i.
        data_size: N, images in the data set.
        method: ``"weighted"`` (MWS) or ``"stratified"`` (MSS).

    Raises:
        ValueError: for an unknown method; also all that the two estimators raise.

    Example:
        >>> q = DiagonalGaussian(torch.zeros(4, 2), torch.zeros(4, 2))
        >>> z = q.sample(generator=torch.Generator().manual_seed(0))
        >>> minibatch_surgery(q, z, data_size=100).value.mutual_information.abs() < 1e-6
        tensor(True)
    """
    estimators = {"weighted": minibatch_weighted, "stratified": minibatch_stratified}
    if method not in estimators:
        raise ValueError(f'method is {method!r}; choose "weighted" or "stratified"')
    density = estimators[method](q, z, data_size)
    return surgery_from_densities(z, q.log_prob(z), density.joint, density.marginals)


def stratified_log_weights(batch_size: int, data_size: int) -> Tensor:
    """Logarithms of the MSS weights, shape ``(B, B)``; every row of the weights sums to one.

    With ``B = M + 1``: own column ``1/N``; the next column ``(N - M) / (N M)``; all others
    ``1/M``.  Row i belongs to code i, so "own" is the diagonal (public code fills column 0,
    which makes the estimate several times too large).

    Book equation: mss.

    Raises:
        ValueError: unless ``2 <= batch_size <= data_size``.

    Example:
        >>> stratified_log_weights(3, 10).exp()
        tensor([[0.1000, 0.4000, 0.5000],
                [0.5000, 0.1000, 0.4000],
                [0.4000, 0.5000, 0.1000]], dtype=torch.float64)
    """
    if not 2 <= batch_size <= data_size:
        raise ValueError(
            f"batch_size is {batch_size} and data_size {data_size}; "
            "expected 2 <= batch_size <= data_size"
        )
    others, row = batch_size - 1, torch.arange(batch_size)
    weights = torch.full((batch_size, batch_size), 1 / others, dtype=torch.float64)
    weights[row, row] = 1 / data_size
    weights[row, (row + 1) % batch_size] = (data_size - others) / (data_size * others)
    return weights.log()


@functools.cache
def _kept_log_weights(
    batch_size: int, data_size: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    # Kept: to send them to a GPU in every step would keep the host waiting.
    return stratified_log_weights(batch_size, data_size).to(device, dtype)


def _weigh(q: DiagonalGaussian, z: Tensor, log_weights: Tensor) -> AggregateDensity:
    log_densities = _log_densities(q.mean, q.log_var, z)  # (M codes, M posteriors, dim)
    # The joint is summed over dimensions before it is weighed: one weight a posterior, not dim.
    return AggregateDensity(
        (log_weights + log_densities.sum(-1)).logsumexp(1),
        (log_weights.unsqueeze(-1) + log_densities).logsumexp(1),
    )


def _check_batch(q: DiagonalGaussian, z: Tensor, data_size: int) -> None:
    if z.shape != q.mean.shape:
        raise ValueError(
            f"z has shape {tuple(z.shape)}, the posteriors {tuple(q.mean.shape)}; expected one "
            "code for each posterior of the batch"
        )
    if not 2 <= len(z) <= data_size:
        raise ValueError(
            f"the batch has {len(z)} codes and data_size is {data_size}; "
            "expected 2 <= batch <= data_size"
        )
