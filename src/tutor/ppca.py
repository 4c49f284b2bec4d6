"""Probabilistic PCA: the linear-Gaussian VAE, where every quantity of chapter 1 is known exactly.

The model is ``z ~ N(0, I)``, ``x | z ~ N(W z + mean, s^2 I)``.  Its evidence, its posterior, its
best parameters, its rate and its collapsed directions are all closed forms, so that estimates and
trained networks can be held against the truth.  Everything is in nats, everything in the dtype of
the arguments (use float64 for comparisons).

Sources: Tipping & Bishop, "Probabilistic principal component analysis" (1999); Lucas, Tucker,
Grosse & Norouzi, "Don't blame the ELBO!" (2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tutor.divergences import gaussian_kl


@dataclass(frozen=True)
class PPCA:
    """A linear-Gaussian latent-variable model.

    Args:
        weights: W, shape ``(D, d)``: D observed, d latent dimensions.
        mean: shape ``(D,)``.
        variance: s^2 of the observation noise, positive, in squared units of x.

    Raises:
        ValueError: if the shapes do not fit or the variance is not positive.

    Example:
        >>> model = PPCA(torch.tensor([[2.0], [0.0]]), torch.zeros(2), variance=1.0)
        >>> model.log_prob(torch.zeros(1, 2))  # the evidence: N(0; 0, diag(5, 1))
        tensor([-2.6426])
        >>> mean, covariance = model.posterior(torch.tensor([[5.0, 3.0]]))
        >>> mean, covariance
        (tensor([[2.]]), tensor([[0.2000]]))
    """

    weights: Tensor
    mean: Tensor
    variance: float

    def __post_init__(self) -> None:
        if self.weights.dim() != 2 or self.mean.shape != self.weights.shape[:1]:
            raise ValueError(
                f"weights have shape {tuple(self.weights.shape)}, mean {tuple(self.mean.shape)}; "
                "expected (D, d) and (D,)"
            )
        if not self.variance > 0:
            raise ValueError(
                f"variance is {self.variance}; it is s^2 of the noise, a positive number"
            )

    @property
    def latent_dim(self) -> int:
        return self.weights.shape[1]

    @property
    def covariance(self) -> Tensor:
        """Covariance of x under the model, ``W W^T + s^2 I``, shape ``(D, D)``."""
        return self.weights @ self.weights.T + self.variance * _identity(self.mean)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log evidence ``log p(x)``: x is ``(n, D)``, the result ``(n,)``.

        Book equation: ppca-evidence.
        """
        factor = torch.linalg.cholesky(self.covariance)
        white = torch.linalg.solve_triangular(factor, self._centred(x).T, upper=False)  # (D, n)
        log_det = 2 * factor.diagonal().log().sum()
        return -0.5 * (white.square().sum(0) + log_det + len(self.mean) * math.log(2 * math.pi))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Exact p(z|x): means ``(n, d)`` and the covariance ``(d, d)`` that all x share.

        Book equation: ppca-posterior.  ``M = W^T W + s^2 I``; mean ``M^-1 W^T (x - mean)``,
        covariance ``s^2 M^-1``.
        """
        gram = self.weights.T @ self.weights
        precision = gram + self.variance * torch.eye(self.latent_dim, dtype=gram.dtype)  # (d, d)
        means = torch.linalg.solve(precision, self.weights.T @ self._centred(x).T).T
        return means, self.variance * torch.linalg.inv(precision)

    def elbo(self, x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        """ELBO of each x for q(z|x) = N(mean, diag(exp(log_var))), without sampling.

        The expected reconstruction is exact because the decoder is linear:
        ``E_q |x - W z - m|^2 = |x - W mean - m|^2 + sum_j |w_j|^2 var_j``.

        Args:
            x: shape ``(n, D)``.
            mean, log_var: shape ``(n, d)``.

        Returns:
            Shape ``(n,)``, never above `log_prob`.
        """
        misfit = (self._centred(x) - mean @ self.weights.T).square().sum(-1)
        spread = log_var.exp() @ self.weights.square().sum(0)  # (n,)
        constant = len(self.mean) * math.log(2 * math.pi * self.variance)
        log_likelihood = -0.5 * ((misfit + spread) / self.variance + constant)
        return log_likelihood - gaussian_kl(mean, log_var)

    def best_diagonal_posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, both ``(n, d)``, of the diagonal Gaussian with the largest ELBO.

        Its mean is the exact one; its precisions are the diagonal of the exact precision matrix.
        The ELBO reaches the evidence exactly when the columns of W are orthogonal
        (book equation: ppca-elbo-tight).
        """
        means, covariance = self.posterior(x)
        log_var = -torch.linalg.inv(covariance).diagonal().log()
        return means, log_var.expand_as(means)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """n draws of x, shape ``(n, D)``, noise included."""
        size, dtype = len(self.mean), self.mean.dtype
        z = torch.randn(n, self.latent_dim, generator=generator, dtype=dtype)
        noise = torch.randn(n, size, generator=generator, dtype=dtype)
        return z @ self.weights.T + self.mean + math.sqrt(self.variance) * noise

    def _centred(self, x: Tensor) -> Tensor:
        if x.dim() != 2 or x.shape[1] != len(self.mean):
            raise ValueError(f"x has shape {tuple(x.shape)}; expected (n, {len(self.mean)})")
        return x - self.mean


def fit(
    mean: Tensor,
    covariance: Tensor,
    latent_dim: int,
    *,
    variance: float | None = None,
    beta: float = 1.0,
) -> PPCA:
    """The best linear (beta-)VAE for data with this mean and covariance, in closed form.

    ``W = U_d (Lambda_d - beta s^2 I)^(1/2)``: the leading eigenvectors, each as long as its
    eigenvalue exceeds ``beta s^2``; directions below that collapse to zero.

    Book equation: ppca-optimum (with beta: beta-is-variance).  Source: Tipping & Bishop (1999),
    equations 7 and 8.  Any rotation ``W R`` has the same evidence; with a diagonal posterior
    only rotations that keep the columns orthogonal reach it (Lucas et al. 2019), and so none is
    added.

    Args:
        mean: shape ``(D,)``.
        covariance: of the data, shape ``(D, D)``, divided by n (not n - 1).
        latent_dim: d, from 1 to D.
        variance: s^2; left out, it is fitted as well: the mean of the discarded eigenvalues.
        beta: weight of the KL term.

    Raises:
        ValueError: if latent_dim is outside 1..D; if the variance is left out with beta other
            than 1 (the two cannot be told apart) or with nothing discarded.

    Example:
        >>> model = fit(torch.zeros(3), torch.diag(torch.tensor([5.0, 2.0, 0.5])), 2, variance=1.0)
        >>> model.weights.abs()
        tensor([[2., 0.],
                [0., 1.],
                [0., 0.]])
    """
    eigenvalues, vectors = principal_directions(covariance)
    if not 1 <= latent_dim <= len(eigenvalues):
        raise ValueError(f"latent_dim is {latent_dim}; expected 1 to {len(eigenvalues)}")
    if variance is None:
        if beta != 1:
            raise ValueError(f"beta is {beta}: give the variance as well; only beta * s^2 counts")
        if latent_dim == len(eigenvalues):
            raise ValueError("nothing is discarded, so the noise variance has no estimate; give it")
        variance = eigenvalues[latent_dim:].mean().item()
    lengths = (eigenvalues[:latent_dim] - beta * variance).clamp(min=0).sqrt()
    return PPCA(vectors[:, :latent_dim] * lengths, mean, variance)


def principal_directions(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, largest first, and their eigenvectors as columns.

    Raises:
        ValueError: if the matrix is not square and symmetric.

    Example:
        >>> principal_directions(torch.diag(torch.tensor([1.0, 3.0])))[0]
        tensor([3., 1.])
    """
    if covariance.dim() != 2 or not torch.allclose(covariance, covariance.T):
        raise ValueError(
            f"covariance has shape {tuple(covariance.shape)}; expected a symmetric (D, D) matrix"
        )
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    return eigenvalues.flip(0), vectors.flip(1)


def mean_log_evidence(model: PPCA, mean: Tensor, covariance: Tensor) -> Tensor:
    """Mean of ``log p(x)`` over data with this mean and covariance, a scalar.

    Only the first two moments of the data enter: ``-1/2 (D log 2 pi + log|C| + tr(C^-1 S))``.

    Example:
        >>> model = PPCA(torch.zeros(2, 1), torch.zeros(2), variance=1.0)
        >>> mean_log_evidence(model, torch.zeros(2), torch.eye(2))
        tensor(-2.8379)
    """
    offset = mean - model.mean
    second_moment = covariance + torch.outer(offset, offset)
    fit_term = torch.linalg.solve(model.covariance, second_moment).trace()
    log_det = torch.linalg.slogdet(model.covariance).logabsdet
    return -0.5 * (len(mean) * math.log(2 * math.pi) + log_det + fit_term)


def rates(eigenvalues: Tensor, variance: float, *, beta: float = 1.0) -> Tensor:
    """Mean KL that each principal direction costs at the optimum, in nats.

    ``1/2 log(lambda / (beta s^2))`` where the eigenvalue lambda exceeds ``beta s^2``, else 0: the
    direction has collapsed.

    Book equations: beta-rate, collapse-threshold.  The rate-distortion function of a Gaussian
    source has the same form (reverse water-filling), with ``beta s^2`` as the water level.

    Args:
        eigenvalues: of the data's covariance, those of the latent directions, any shape.

    Raises:
        ValueError: if the variance or beta is not positive.

    Example:
        >>> rates(torch.tensor([4.0, 1.0, 0.5]), variance=1.0)
        tensor([0.6931, 0.0000, 0.0000])
    """
    if not (variance > 0 and beta > 0):
        raise ValueError(f"variance is {variance}, beta {beta}; both must be positive")
    return 0.5 * (eigenvalues / (beta * variance)).clamp(min=1).log()


def collapsed(eigenvalues: Tensor, variance: float, *, beta: float = 1.0) -> Tensor:
    """Which directions the optimum gives up: those with ``lambda <= beta s^2``.

    Book equation: collapse-threshold.

    Example:
        >>> collapsed(torch.tensor([4.0, 1.0, 0.5]), variance=1.0)
        tensor([False,  True,  True])
    """
    return rates(eigenvalues, variance, beta=beta) == 0


def _identity(like: Tensor) -> Tensor:
    return torch.eye(len(like), dtype=like.dtype)
