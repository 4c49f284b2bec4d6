"""The models of the book, one file each; a file reads as its paper's algorithm."""

from tutor.models.aae import AAE
from tutor.models.avb import AVB
from tutor.models.beta_tcvae import BetaTCVAE
from tutor.models.beta_vae import BetaVAE
from tutor.models.cluster_heads_aae import ClusterHeadsAAE
from tutor.models.clustering_aae import CategoricalCode, ClusteringAAE
from tutor.models.conditional_aae import ConditionalAAE
from tutor.models.digit_classifier import DigitClassifier
from tutor.models.dip_vae import DIPVAE, code_covariance, covariance_distances
from tutor.models.energy_avb import EnergyAVB
from tutor.models.factor_vae import FactorVAE
from tutor.models.gaussian_vb import GaussianVB
from tutor.models.semi_supervised_aae import SemiSupervisedAAE
from tutor.models.vae import VAE
from tutor.models.wae import WAE, GeneratedImages, l1_cost, squared_cost

__all__ = [
    "AAE",
    "AVB",
    "DIPVAE",
    "VAE",
    "WAE",
    "BetaTCVAE",
    "BetaVAE",
    "CategoricalCode",
    "ClusterHeadsAAE",
    "ClusteringAAE",
    "ConditionalAAE",
    "DigitClassifier",
    "EnergyAVB",
    "FactorVAE",
    "GaussianVB",
    "GeneratedImages",
    "SemiSupervisedAAE",
    "code_covariance",
    "covariance_distances",
    "l1_cost",
    "squared_cost",
]
