"""How good is a model: its likelihood, its gaps, and what its code carries, in nats.

Every estimate stands beside its exact value wherever the latent space has one or two dimensions.
"""

from tutor.metrics.active import ActiveUnits, active_units
from tutor.metrics.ais import AIS, ais
from tutor.metrics.clustering import clustering_error, majority_error, matched_error
from tutor.metrics.disentanglement import (
    DCI,
    MIG,
    SAP,
    VOTE_PROTOCOLS,
    BetaVAEScore,
    FactorVAEScore,
    VoteProtocol,
    beta_vae_score,
    dci,
    encode_all,
    encode_posteriors,
    example_codes,
    factor_vae_score,
    mig,
    mig_mixture,
    sap,
)
from tutor.metrics.frechet import (
    digit_features,
    fid,
    frechet_bias,
    frechet_distance,
    gaussian_frechet,
    sharpness,
)
from tutor.metrics.gaps import Gaps, best_gaussian, gaps
from tutor.metrics.likelihood import elbo, exact_elbo, iwae, log_likelihood
from tutor.metrics.marginals import marginal_kl
from tutor.metrics.minibatch import (
    AggregateDensity,
    minibatch_stratified,
    minibatch_surgery,
    minibatch_weighted,
    stratified_log_weights,
)
from tutor.metrics.parzen import Parzen, parzen, parzen_log_prob
from tutor.metrics.prior_match import PriorMatch, prior_match
from tutor.metrics.quadrature import PosteriorGrid, exact_posterior, quadrature
from tutor.metrics.sampled_density import CellEstimate, SampledDensity, sampled_density
from tutor.metrics.surgery import (
    Surgery,
    SurgeryEstimate,
    aggregate_log_marginals,
    aggregate_log_prob,
    surgery,
    surgery_monte_carlo,
)
from tutor.metrics.total_correlation import (
    CodeTotalCorrelation,
    code_total_correlation,
    total_correlation,
)
from tutor.metrics.two_sample import (
    ClassifierTest,
    NoiseFloor,
    classifier_two_sample,
    energy_distance,
    noise_floor,
    sliced_wasserstein,
)

__all__ = [
    "AIS",
    "DCI",
    "MIG",
    "SAP",
    "VOTE_PROTOCOLS",
    "ActiveUnits",
    "AggregateDensity",
    "BetaVAEScore",
    "CellEstimate",
    "ClassifierTest",
    "CodeTotalCorrelation",
    "FactorVAEScore",
    "Gaps",
    "NoiseFloor",
    "Parzen",
    "PosteriorGrid",
    "PriorMatch",
    "SampledDensity",
    "Surgery",
    "SurgeryEstimate",
    "VoteProtocol",
    "active_units",
    "aggregate_log_marginals",
    "aggregate_log_prob",
    "ais",
    "best_gaussian",
    "beta_vae_score",
    "classifier_two_sample",
    "clustering_error",
    "code_total_correlation",
    "dci",
    "digit_features",
    "elbo",
    "encode_all",
    "encode_posteriors",
    "energy_distance",
    "exact_elbo",
    "exact_posterior",
    "example_codes",
    "factor_vae_score",
    "fid",
    "frechet_bias",
    "frechet_distance",
    "gaps",
    "gaussian_frechet",
    "iwae",
    "log_likelihood",
    "majority_error",
    "marginal_kl",
    "matched_error",
    "mig",
    "mig_mixture",
    "minibatch_stratified",
    "minibatch_surgery",
    "minibatch_weighted",
    "noise_floor",
    "parzen",
    "parzen_log_prob",
    "prior_match",
    "quadrature",
    "sampled_density",
    "sap",
    "sharpness",
    "sliced_wasserstein",
    "stratified_log_weights",
    "surgery",
    "surgery_monte_carlo",
    "total_correlation",
]
