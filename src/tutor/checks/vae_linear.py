"""Chapter 1, the linear-Gaussian world: evidence and collapse."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tutor import ppca
from tutor.checks.grading import Formula, Mistake

F64 = torch.float64


def _evidence(x: Tensor, weights: Tensor, mean: Tensor, variance: float) -> Tensor:
    return ppca.PPCA(weights, mean, variance).log_prob(x)


def _normal(x: Tensor, mean: Tensor, covariance: Tensor, log_det_factor: float = 0.5) -> Tensor:
    """Log-density with a chosen factor before log det, so that a wrong one can be recognised."""
    offset = x - mean
    square = (offset @ torch.linalg.inv(covariance) * offset).sum(1)
    log_det = torch.logdet(covariance)
    return -0.5 * (square + len(mean) * math.log(2 * math.pi)) - log_det_factor * log_det


def _at_the_posterior_mean(x: Tensor, weights: Tensor, mean: Tensor, variance: float) -> Tensor:
    z, _ = ppca.PPCA(weights, mean, variance).posterior(x)
    eye = torch.eye(len(mean), dtype=x.dtype)
    return _normal(x - z @ weights.T, mean, variance * eye)


def _covariance(weights: Tensor, variance: float) -> Tensor:
    return weights @ weights.T + variance * torch.eye(len(weights), dtype=weights.dtype)


def _instance(n: int, rows: int, columns: int, seed: int) -> tuple[Tensor, Tensor, Tensor, float]:
    g = torch.Generator().manual_seed(seed)
    draw = [torch.randn(s, generator=g, dtype=F64) for s in [(n, rows), (rows, columns), (rows,)]]
    return (*draw, 0.3)


EVIDENCE_INSTANCE = (
    torch.tensor([[3.0, 1.0]], dtype=F64),
    torch.tensor([[2.0], [1.0]], dtype=F64),
    torch.tensor([0.0, 0.0], dtype=F64),
    0.5,
)

EVIDENCE = Formula(
    signature="log_evidence(x, weights, mean, variance)",
    truth=_evidence,
    inputs=[EVIDENCE_INSTANCE, _instance(4, 3, 2, 0), _instance(2, 5, 3, 1)],
    instance=(*EVIDENCE_INSTANCE,),
    mistakes=[
        Mistake(lambda x, w, m, v: _evidence(x, w, m, v**2),
                "The variance is s^2 already; you squared it again."),
        Mistake(lambda x, w, m, v: _evidence(x, w, m, math.sqrt(v)),
                "The covariance holds the variance s^2; yours holds the standard deviation s."),
        Mistake(lambda x, w, m, v: _normal(x, m, _covariance(w, v), 0.0),
                "The term with the determinant is missing: a density must integrate to one."),
        Mistake(lambda x, w, m, v: _normal(x, m, _covariance(w, v), 1.0),
                "The logarithm of the determinant enters with the factor 1/2."),
        Mistake(lambda x, w, m, v: _normal(x, m, _covariance(w, v), -0.5),
                "The determinant has the wrong sign: a wide density is a low one."),
        Mistake(lambda x, w, m, v: _evidence(x, w, m, v) + len(m) / 2 * math.log(2 * math.pi),
                "The constant -D/2 log(2 pi) is missing."),
        Mistake(lambda x, w, m, v: _evidence(x, w, m, v)
                + (len(m) - w.shape[1]) / 2 * math.log(2 * math.pi),
                "D in the constant counts the observed dimensions, not the latent ones."),
        Mistake(lambda x, w, m, v: _normal(x, m, v * torch.eye(len(m), dtype=F64)),
                "This is log p(x | z = 0): the part W W^T that z adds to the covariance is "
                "missing."),
        Mistake(_at_the_posterior_mean,
                "This is log p(x | z) at the best z; the evidence integrates over z."),
        Mistake(lambda x, w, m, v: _evidence(x, w, torch.zeros_like(m), v),
                "The mean is not subtracted from x."),
        Mistake(lambda x, w, m, v: _evidence(x, w, m, v).exp(),
                "This is the density; wanted is its logarithm."),
        Mistake(lambda x, w, m, v: _evidence(x, w, m, v).sum(),
                "You summed over the batch; keep one value an example."),
    ],
)  # fmt: skip


def _collapsed(eigenvalues: Tensor, variance: float, beta: float) -> Tensor:
    return ppca.collapsed(eigenvalues, variance, beta=beta)


COLLAPSE_INSTANCE = (torch.tensor([6.0, 3.2, 2.5, 0.9, 0.4], dtype=F64), 0.49, 4.0)
MORE_EIGENVALUES = torch.tensor([9.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.1, 0.01], dtype=F64)

COLLAPSE = Formula(
    signature="collapsed(eigenvalues, variance, beta)",
    truth=_collapsed,
    inputs=[
        (MORE_EIGENVALUES, 0.25, 4.0),  # the threshold is met exactly
        COLLAPSE_INSTANCE,
        (MORE_EIGENVALUES, 0.3, 1.0),
        (MORE_EIGENVALUES, 0.16, 0.5),
        (torch.linspace(0.02, 8, 400, dtype=F64), 0.37, 2.0),
    ],
    instance=COLLAPSE_INSTANCE,
    mistakes=[
        Mistake(lambda e, v, b: e > b * v,
                "The answer is inverted: these are the directions that stay."),
        Mistake(lambda e, v, b: e <= b * math.sqrt(v),
                "The threshold is beta times the variance; you used the standard deviation."),
        Mistake(lambda e, v, b: e.sqrt() <= b * v,
                "The eigenvalues are variances already; you took their root."),
        Mistake(lambda e, v, b: e <= v,
                "beta is left out: it multiplies the variance."),
        Mistake(lambda e, v, b: e <= v / b,
                "beta multiplies the variance; you divided. More beta means more collapse."),
        Mistake(lambda e, v, b: e <= b**2 * v,
                "beta enters once, not squared: it acts as a variance, not a standard "
                "deviation."),
        Mistake(lambda e, v, b: e < b * v,
                "Right but for the edge: at an eigenvalue of exactly beta s^2 the weight is "
                "sqrt(0), so that direction has collapsed as well."),
    ],
)  # fmt: skip

LINEAR = {"ppca-evidence": EVIDENCE, "collapse-threshold": COLLAPSE}
