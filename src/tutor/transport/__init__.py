"""Optimal transport between finitely many points: exact, on the line, smoothed, through codes.

Masses and costs are tensors and results are float64: these are the truths that estimates are held
against.  A cost table has one row a source and one column a target.
"""

from tutor.transport.entropic import EntropicPlan, sinkhorn
from tutor.transport.exact import (
    Assignment,
    Plan,
    assignment,
    distance_table,
    exact_plan,
    wasserstein_1d,
)
from tutor.transport.latent import LatentTransport, wae_theorem

__all__ = [
    "Assignment",
    "EntropicPlan",
    "LatentTransport",
    "Plan",
    "assignment",
    "distance_table",
    "exact_plan",
    "sinkhorn",
    "wae_theorem",
    "wasserstein_1d",
]
