"""Does a code follow the factors, coordinate by coordinate?  Five scores on stored codes.

Codes are made once, by `encode_all`; each score is then a function of codes and factors.  The
scores disagree with one another, so `example_codes` makes codes on which one knows the answer.
"""

from tutor.metrics.disentanglement.beta_vae import BetaVAEScore, beta_vae_score
from tutor.metrics.disentanglement.dci import DCI, dci
from tutor.metrics.disentanglement.encode import encode_all, encode_posteriors
from tutor.metrics.disentanglement.examples import example_codes
from tutor.metrics.disentanglement.factor_vae import (
    VOTE_PROTOCOLS,
    FactorVAEScore,
    VoteProtocol,
    factor_vae_score,
)
from tutor.metrics.disentanglement.mig import MIG, mig, mig_mixture
from tutor.metrics.disentanglement.sap import SAP, sap

__all__ = [
    "DCI",
    "MIG",
    "SAP",
    "VOTE_PROTOCOLS",
    "BetaVAEScore",
    "FactorVAEScore",
    "VoteProtocol",
    "beta_vae_score",
    "dci",
    "encode_all",
    "encode_posteriors",
    "example_codes",
    "factor_vae_score",
    "mig",
    "mig_mixture",
    "sap",
]
