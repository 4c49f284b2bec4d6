"""Chapter 1, samplers: judged by the distribution of what they draw, and by their gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tutor.checks.grading import Formula, Mistake, call

DRAWS = 20_000
LOG_VARS = (-2.0, 0.7, 1.5)  # none at 0, where variance and standard deviation agree

SCALES: list[tuple[Callable[[float], float], str]] = [
    (lambda lv: math.exp(lv),
     "exp(log_var) is the variance; the standard deviation is exp(log_var / 2)."),
    (lambda lv: abs(lv), "You took log_var itself for the standard deviation; it is a logarithm."),
    (lambda lv: math.sqrt(abs(lv)), "You took log_var for the variance; it is its logarithm."),
    (lambda lv: math.exp(-0.5 * lv),
     "The sign in the exponent is flipped: a large log_var must spread the draws."),
    (lambda lv: math.exp(2 * lv), "exp(log_var) is the variance already; you squared it."),
    (lambda lv: math.exp(0.25 * lv), "You took one square root too many: exp(log_var / 2) is std."),
    (lambda lv: 1.0, "The noise is not scaled: multiply it by the standard deviation."),
    (lambda lv: 0.0, "There is no noise: the result is the same for every draw."),
]  # fmt: skip

SIGNATURE = "reparameterise(mean, log_var, generator)"


def grade_reparameterise(function: Any) -> str | None:
    """Draw many codes with known parameters; look at gradient, seed, shape, sharing and scale."""
    if not callable(function):
        return f"Pass the function {SIGNATURE} itself, without calling it."
    mean = torch.tensor([0.5, -1.0, 2.0]).expand(DRAWS, 3).contiguous()
    log_var = torch.tensor(LOG_VARS).expand(DRAWS, 3).contiguous()

    def draw(seed: int) -> tuple[Tensor, str]:
        arguments = (mean, log_var, torch.Generator().manual_seed(seed))
        return call(function, arguments, SIGNATURE)

    z, complaint = draw(0)
    if complaint:
        return complaint
    if z.shape != mean.shape:
        return (
            f"For a mean of shape {tuple(mean.shape)} z should have that shape; "
            f"yours has {tuple(z.shape)}."
        )
    if not z.isfinite().all():
        return "Some draws are NaN or infinite; is a square root or logarithm taken of log_var?"
    return (
        _judge_sharing(z - mean)
        or _judge_noise(z - mean)
        or _judge_seed(z, draw)
        or _judge_gradient(function)
    )


def _judge_sharing(offset: Tensor) -> str | None:
    if offset.std() > 0 and (offset.std(0) < 1e-5).all():
        return "Every example gets the same noise: draw noise of shape (n, dim), not (dim,)."
    correlation = offset.T.corrcoef()[0, 1:]
    # The correlation of independent draws has standard error 1/sqrt(DRAWS) = 0.007.
    if (correlation.abs() > 0.05).any():
        return "The dimensions of a code share noise: draw noise of shape (n, dim), not (n, 1)."
    return None


def _judge_noise(offset: Tensor) -> str | None:
    scale = offset.std(0, correction=0).tolist()
    if all(abs(s) < 1e-6 for s in scale):
        return SCALES[-1][1]
    skewed = offset.mean(0) / (offset.std(0) / math.sqrt(DRAWS))  # in standard errors
    if (skewed.abs() > 6).any():
        return (
            "The draws do not centre on the mean: is the noise from torch.rand (uniform) instead "
            "of torch.randn, or the mean left out or changed?"
        )
    # The standard error of a standard deviation is 1/sqrt(2 DRAWS) = 0.5 %; six of them are 3 %.
    right = [math.exp(0.5 * lv) for lv in LOG_VARS]
    if not _near(scale, right):
        for formula, message in SCALES:
            if _near(scale, [formula(lv) for lv in LOG_VARS]):
                return message
        return (
            f"For log_var = {list(LOG_VARS)} the draws have standard deviations "
            f"{[round(s, 3) for s in scale]}; right is {[round(s, 3) for s in right]}."
        )
    kurtosis = (offset / torch.tensor(right)).pow(4).mean().item()
    # E eps^4 = 3 for a Gaussian, with standard error sqrt(96 / 60 000) = 0.04; uniform: 1.8.
    if abs(kurtosis - 3) > 0.3:
        return "Mean and spread are right, but the noise is not Gaussian: use torch.randn."
    return None


def _judge_seed(z: Tensor, draw: Callable[[int], tuple[Tensor, str]]) -> str | None:
    if not torch.equal(draw(0)[0], z):
        return (
            "Two calls with the same generator state differ: pass generator=generator on to "
            "torch.randn (randn_like takes none)."
        )
    if torch.equal(draw(1)[0], z):
        return "Another seed gives the same draws: the noise does not come from the generator."
    return None


def _judge_gradient(function: Callable[..., Tensor]) -> str | None:
    mean = torch.zeros(4, 2, requires_grad=True)
    log_var = torch.zeros(4, 2, requires_grad=True)
    z = function(mean, log_var, torch.Generator().manual_seed(2))
    gradients = (
        torch.autograd.grad(z.square().sum(), [mean, log_var], allow_unused=True)
        if z.requires_grad
        else [None, None]
    )
    lost = [n for n, g in zip(("mean", "log_var"), gradients, strict=True) if g is None]
    if lost:
        return (
            f"The draws are right, but no gradient reaches {' and '.join(lost)}: sample as "
            "mean + std * noise, without detach, no_grad or torch.normal."
        )
    return None


def _near(scale: list[float], target: list[float]) -> bool:
    return all(abs(s - t) < 0.03 * max(t, 0.01) for s, t in zip(scale, target, strict=True))


# -- a family of another kind ----------------------------------------------------------------


def _exponential(rate: Tensor, uniform: Tensor) -> Tensor:
    return -torch.log1p(-uniform) / rate


def _inputs(n: int, seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, generator=g) * 3 + 0.2, torch.rand(n, generator=g) * 0.98 + 0.01


EXPONENTIAL = Formula(
    signature="sample_exponential(rate, uniform)",
    truth=_exponential,
    inputs=[_inputs(2, 0), _inputs(20, 1)],
    mistakes=[
        Mistake(lambda r, u: -torch.log1p(-u) * r,
                "You multiplied by the rate; the mean of an exponential is 1 / rate."),
        Mistake(lambda r, u: -u.log() * r,
                "You multiplied by the rate; the mean of an exponential is 1 / rate."),
        Mistake(lambda r, u: torch.log1p(-u) / r, "The sign is flipped: the draws are negative."),
        Mistake(lambda r, u: u.log() / r, "The sign is flipped: the draws are negative."),
        Mistake(lambda r, u: 1 - torch.exp(-r * u),
                "This is the distribution function itself; its inverse is needed."),
        Mistake(lambda r, u: r * torch.exp(-r * u),
                "This is the density; the inverse of the distribution function is needed."),
        Mistake(lambda r, u: -torch.log1p(-u), "The rate is not used."),
        Mistake(lambda r, u: -u.log(), "The rate is not used."),
    ],
)  # fmt: skip


def grade_exponential(function: Any) -> str | None:
    """Either inverse will do: 1 - u is uniform as well."""
    if not callable(function):
        return EXPONENTIAL(function)
    falling = all(
        not complaint and torch.allclose(value, (-u.log() / rate).double(), atol=1e-4)
        for rate, u in EXPONENTIAL.inputs
        for value, complaint in [call(function, (rate, u), EXPONENTIAL.signature)]
    )
    if not falling and (complaint := EXPONENTIAL(function)):
        return complaint
    rate = torch.ones(3, requires_grad=True)
    if not function(rate, torch.full((3,), 0.5)).requires_grad:
        return "The draws are right, but no gradient reaches the rate: leave out detach, no_grad."
    return None
