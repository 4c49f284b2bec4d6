"""Chapter 1, the terms of the loss: KL, likelihoods, decoder variance."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tutor.checks.grading import Formula, Mistake
from tutor.divergences import gaussian_kl
from tutor.likelihoods import GaussianLikelihood


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- the closed-form KL ----------------------------------------------------------------------


def _kl_terms(mean: Tensor, var: Tensor, log_var: Tensor) -> Tensor:
    return 0.5 * (mean**2 + var - 1 - log_var)


def _kl_inputs() -> list[tuple[Tensor, Tensor]]:
    g = _generator(0)
    positive = torch.rand(2, 2, generator=g) + 0.5  # where even log(log_var) exists
    return [
        (torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])),
        (torch.randn(5, 3, generator=g), torch.randn(5, 3, generator=g)),
        (torch.randn(2, 2, generator=g), positive),
        (torch.randn(4, 7, generator=g), -3 * torch.rand(4, 7, generator=g)),
    ]


AS_STD = "The second argument is the logarithm of the variance; you took it for the standard"

KL = Formula(
    signature="gaussian_kl(mean, log_var)",
    truth=gaussian_kl,
    inputs=_kl_inputs(),
    mistakes=[
        Mistake(
            lambda m, lv: 2 * gaussian_kl(m, lv),
            "Twice too large: the factor 1/2 in front of the sum is missing.",
        ),
        Mistake(lambda m, lv: -gaussian_kl(m, lv), "The sign is flipped: a KL is never negative."),
        Mistake(
            lambda m, lv: _kl_terms(m, lv**2, torch.log(lv**2)).sum(1),
            f"{AS_STD} deviation.",
        ),
        Mistake(
            lambda m, lv: _kl_terms(m, lv**2, 2 * torch.log(lv)).sum(1),
            f"{AS_STD} deviation.",
        ),
        Mistake(
            lambda m, lv: _kl_terms(m, lv, torch.log(lv)).sum(1),
            "The second argument is the logarithm of the variance; you took it for the variance.",
        ),
        Mistake(
            lambda m, lv: _kl_terms(m, (2 * lv).exp(), 2 * lv).sum(1),
            "exp(log_var) is the variance; you used it as the standard deviation.",
        ),
        Mistake(
            lambda m, lv: _kl_terms(m, (2 * lv).exp(), lv).sum(1),
            "exp(log_var) is the variance already; you squared it.",
        ),
        Mistake(
            lambda m, lv: _kl_terms(m, (0.5 * lv).exp(), lv).sum(1),
            "exp(log_var / 2) is the standard deviation; the formula wants the variance.",
        ),
        Mistake(
            lambda m, lv: gaussian_kl(m, lv) / m.shape[1],
            "You took the mean over the latent dimensions; a KL is their sum.",
        ),
        Mistake(
            lambda m, lv: _kl_terms(m, lv.exp(), lv).mean(),
            "You took the mean over examples and dimensions; sum the dimensions and keep one "
            "value an example.",
        ),
        Mistake(
            lambda m, lv: gaussian_kl(m, lv).sum(),
            "You summed over the batch as well; keep one value an example.",
        ),
        Mistake(
            lambda m, lv: gaussian_kl(m, lv).mean(),
            "You took the mean over the batch already; keep one value an example.",
        ),
        Mistake(
            lambda m, lv: _kl_terms(m, lv.exp(), lv).sum(0),
            "You summed over the batch (axis 0); the dimensions are axis 1.",
        ),
        Mistake(
            lambda m, lv: _kl_terms(m, lv.exp(), lv),
            "The dimensions are not summed yet: one value an example is wanted.",
        ),
        Mistake(
            lambda m, lv: _kl_terms(m, lv.exp() + 1, lv).sum(1),
            "The -1 is missing: the KL from N(0, I) to itself must be 0.",
        ),
        Mistake(
            lambda m, lv: _kl_terms(m, lv.exp(), torch.zeros_like(lv)).sum(1),
            "The term -log_var is missing.",
        ),
        Mistake(
            lambda m, lv: _kl_terms(m, lv.exp(), -lv).sum(1),
            "The sign of log_var is wrong: a narrow q (very negative log_var) has a large KL.",
        ),
        Mistake(
            lambda m, lv: 0.5 * (m + lv.exp() - 1 - lv).sum(1),
            "The mean enters squared.",
        ),
        Mistake(
            lambda m, lv: 0.5 * ((1 + m**2) * (-lv).exp() - 1 + lv).sum(1),
            "This is KL(p || q), the other direction; wanted is KL(q || p).",
        ),
    ],
)

# -- Bernoulli -------------------------------------------------------------------------------


def _bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    return _bernoulli_pixels(x, logits).flatten(1).sum(1)


def _bernoulli_pixels(x: Tensor, logits: Tensor) -> Tensor:
    return x * logsigmoid(logits) + (1 - x) * logsigmoid(-logits)


def _from_probabilities(x: Tensor, y: Tensor) -> Tensor:
    return (x * y.log() + (1 - x) * (1 - y).log()).flatten(1).sum(1)


def _images(n: int, side: int, seed: int) -> tuple[Tensor, Tensor]:
    g = _generator(seed)
    x = torch.bernoulli(torch.full((n, 1, side, side), 0.4), generator=g)
    return x, 2 * torch.randn(n, 1, side, side, generator=g)


BERNOULLI = Formula(
    signature="bernoulli_log_likelihood(x, logits)",
    truth=_bernoulli,
    inputs=[
        (torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.5, -1.0]]]])),
        _images(3, 4, seed=1),
        (_images(3, 4, seed=2)[0], torch.rand(3, 1, 4, 4, generator=_generator(3))),
    ],
    mistakes=[
        Mistake(lambda x, a: -_bernoulli(x, a),
                "The sign is flipped: this is the loss; wanted is the log-likelihood."),
        Mistake(_from_probabilities,
                "You took the logits for probabilities; a pixel is 1 with probability "
                "sigmoid(logit)."),
        Mistake(lambda x, a: _bernoulli(x, a.sigmoid()), "The sigmoid is applied twice."),
        Mistake(lambda x, a: _bernoulli(a, x), "The image and the logits are swapped."),
        Mistake(lambda x, a: (x * logsigmoid(a)).flatten(1).sum(1),
                "The pixels that are 0 count as well: the term (1 - x) log(1 - y) is missing."),
        Mistake(lambda x, a: _bernoulli_pixels(x, a).flatten(1).mean(1),
                "You took the mean over the pixels; the likelihood of an image is their sum "
                "(with the mean, the KL weighs hundreds of times too much)."),
        Mistake(lambda x, a: _bernoulli_pixels(x, a).mean(),
                "You took the mean over everything; sum the pixels, keep one value an image."),
        Mistake(lambda x, a: -_bernoulli_pixels(x, a).mean(),
                "This is PyTorch's default loss: the mean over everything, with the sign flipped; "
                "sum the pixels, keep one value an image."),
        Mistake(lambda x, a: _bernoulli_pixels(x, a).sum(),
                "You summed over the batch as well; keep one value an image."),
        Mistake(_bernoulli_pixels, "The pixels are not summed yet: one value an image is wanted."),
    ],
    extremes=[
        ((torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[200.0, -200.0]]]])),
         "Right for small logits, but not at logits of 200: sigmoid rounds to 0 or 1 and its "
         "logarithm is lost. Compute from the logits, with logsigmoid or "
         "binary_cross_entropy_with_logits."),
    ],
)  # fmt: skip

# -- Gaussian --------------------------------------------------------------------------------


def _gaussian(x: Tensor, mean: Tensor, std: float) -> Tensor:
    return GaussianLikelihood(mean, std).log_prob(x)


def _square(x: Tensor, mean: Tensor) -> Tensor:
    return (x - mean).square().flatten(1).sum(1)


def _constant(x: Tensor, std: float) -> float:
    return x[0].numel() / 2 * math.log(2 * math.pi * std**2)


def _real_images(n: int, side: int, std: float, seed: int) -> tuple[Tensor, Tensor, float]:
    g = _generator(seed)
    x, mean = torch.rand(2, n, 1, side, side, generator=g)
    return x, mean, std


GAUSSIAN = Formula(
    signature="gaussian_log_likelihood(x, mean, std)",
    truth=_gaussian,
    inputs=[
        (torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.5, 0.5]]]]), 0.5),
        _real_images(3, 4, 0.1, seed=4),
        _real_images(2, 3, 2.0, seed=5),
    ],
    mistakes=[
        Mistake(lambda x, m, s: -_gaussian(x, m, s),
                "The sign is flipped: this is the loss; wanted is the log-likelihood."),
        Mistake(lambda x, m, s: -_square(x, m) / (2 * s**2),
                "The constant -D/2 log(2 pi std^2) is missing; without it std could not be "
                "learnt, nor two models compared."),
        Mistake(lambda x, m, s: _gaussian(x, m, math.sqrt(s)),
                "The third argument is the standard deviation; you took it for the variance."),
        Mistake(lambda x, m, s: -_square(x, m) / s**2 - _constant(x, s),
                "The factor 1/2 of the squared error is missing."),
        Mistake(lambda x, m, s: -_square(x, m) / (2 * s**2) - _constant(x, s) / x[0].numel(),
                "The constant is needed once for every pixel, D times in all."),
        Mistake(lambda x, m, s: -_square(x, m) / (2 * s**2) - 2 * _constant(x, s),
                "The constant is D/2 log(2 pi std^2), with the 1/2; yours is twice that."),
        Mistake(lambda x, m, s: -_square(x, m) / (2 * s**2) - _constant(x, math.sqrt(s)),
                "Inside the logarithm stands the variance std^2; yours has std."),
        Mistake(lambda x, m, s: -_square(x, m) / (2 * s**2) + _constant(x, s),
                "The constant has the wrong sign: a wide density is a low one."),
        Mistake(lambda x, m, s: _gaussian(x, m, s) / x[0].numel(),
                "You took the mean over the pixels; the likelihood of an image is their sum."),
        Mistake(lambda x, m, s: _gaussian(x, m, s).sum(),
                "You summed over the batch as well; keep one value an image."),
        Mistake(lambda x, m, s: _gaussian(x, m, s).mean(),
                "You took the mean over the batch already; keep one value an image."),
        Mistake(lambda x, m, s: -(x - m) ** 2 / (2 * s**2) - 0.5 * math.log(2 * math.pi * s**2),
                "The pixels are not summed yet: one value an image is wanted."),
    ],
)  # fmt: skip

# -- the decoder's variance, the weight of a mean --------------------------------------------


def _best_variance(x: Tensor, mean: Tensor) -> Tensor:
    return (x - mean).square().mean()


VARIANCE = Formula(
    signature="best_variance(x, mean)",
    truth=_best_variance,
    inputs=[_real_images(1, 2, 1.0, 6)[:2], _real_images(5, 3, 1.0, 7)[:2]],
    mistakes=[
        Mistake(lambda x, m: _best_variance(x, m).sqrt(),
                "This is the standard deviation; wanted is the variance."),
        Mistake(lambda x, m: _square(x, m).mean(),
                "You summed over the pixels: the variance belongs to one pixel, so take the mean "
                "over examples and pixels."),
        Mistake(lambda x, m: _square(x, m).sum(),
                "You summed the squared errors; their mean is wanted."),
        Mistake(lambda x, m: _best_variance(x, m) / 2,
                "Half too small: the derivative of D/2 log(s^2) has a 1/2 too, and they cancel."),
        Mistake(lambda x, m: (x - m).flatten().var(),
                "This subtracts the mean error first (and divides by n - 1); the model's mean is "
                "already given, so the plain mean of squares is wanted."),
        Mistake(lambda x, m: (x - m).flatten().var(correction=0),
                "This subtracts the mean error first; the model's mean is already given."),
        Mistake(lambda x, m: (x - m).abs().mean(), "The errors enter squared."),
    ],
)  # fmt: skip


def _beta_of_a_mean(pixels: float) -> float:
    return pixels


MEAN_REDUCTION = Formula(
    signature="the number beta",
    truth=_beta_of_a_mean,
    inputs=[(784.0,), (12288.0,)],
    instance=(784.0,),
    mistakes=[
        Mistake(lambda d: 1 / d,
                "Upside down: dividing the reconstruction by 784 makes the KL weigh more, not "
                "less."),
        Mistake(lambda d: 1.0, "With beta = 1 nothing would have changed; count the pixels."),
        Mistake(lambda d: math.sqrt(d),
                "28 is the side of an image; the mean runs over all its pixels."),
        Mistake(lambda d: 2 * d,
                "The 1/2 of a squared error plays no part here: both losses are log-likelihoods."),
        Mistake(lambda d: d / 2,
                "That would hold if the KL were averaged over two latent dimensions; it is "
                "summed."),
    ],
)  # fmt: skip

TERMS = {
    "gaussian-kl": KL,
    "bernoulli-log-likelihood": BERNOULLI,
    "gaussian-log-likelihood": GAUSSIAN,
    "best-variance": VARIANCE,
    "mean-reduction-beta": MEAN_REDUCTION,
}
