"""How good is a model: its likelihood, its gaps, and what its code carries, in nats.

Every estimate stands beside its exact value wherever the latent space has one or two dimensions.
"""

from tutor.metrics.active import ActiveUnits, active_units
from tutor.metrics.ais import AIS, ais
from tutor.metrics.gaps import Gaps, best_gaussian, gaps
from tutor.metrics.likelihood import elbo, exact_elbo, iwae, log_likelihood
from tutor.metrics.minibatch import (
    AggregateDensity,
    minibatch_stratified,
    minibatch_surgery,
    minibatch_weighted,
    stratified_log_weights,
)
from tutor.metrics.quadrature import PosteriorGrid, exact_posterior, quadrature
from tutor.metrics.surgery import (
    Surgery,
    SurgeryEstimate,
    aggregate_log_marginals,
    aggregate_log_prob,
    surgery,
    surgery_monte_carlo,
)

__all__ = [
    "AIS",
    "ActiveUnits",
    "AggregateDensity",
    "Gaps",
    "PosteriorGrid",
    "Surgery",
    "SurgeryEstimate",
    "active_units",
    "aggregate_log_marginals",
    "aggregate_log_prob",
    "ais",
    "best_gaussian",
    "elbo",
    "exact_elbo",
    "exact_posterior",
    "gaps",
    "iwae",
    "log_likelihood",
    "minibatch_stratified",
    "minibatch_surgery",
    "minibatch_weighted",
    "quadrature",
    "stratified_log_weights",
    "surgery",
    "surgery_monte_carlo",
]
