"""How good is a model: its likelihood, its gaps, and what its code carries, in nats.

Every estimate stands beside its exact value wherever the latent space has one or two dimensions.
"""

from tutor.metrics.likelihood import elbo, exact_elbo, iwae, log_likelihood
from tutor.metrics.quadrature import PosteriorGrid, exact_posterior, quadrature

__all__ = [
    "PosteriorGrid",
    "elbo",
    "exact_elbo",
    "exact_posterior",
    "iwae",
    "log_likelihood",
    "quadrature",
]
