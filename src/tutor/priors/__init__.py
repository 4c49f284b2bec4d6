"""Priors p(z): where codes come from when we generate.

Each is a module that holds no parameter: it follows its model to a device and has nothing to
save.  Each samples, and has a density in nats.  In the plane each is also cut into classes of
equal weight, one part for each label, so that codes can be matched class by class: the mixture of
the classes, each with weight ``1 / classes``, is the prior itself.  (A drawn prior has no classes.)
"""

from tutor.priors.drawn import DrawnPrior
from tutor.priors.gaussian import Gaussian
from tutor.priors.mixture import GaussianMixture
from tutor.priors.swiss_roll import SwissRoll
from tutor.priors.uniform import UniformBox

__all__ = ["DrawnPrior", "Gaussian", "GaussianMixture", "SwissRoll", "UniformBox"]
