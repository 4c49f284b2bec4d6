"""What every metric does first: look at its input, and put the model in evaluation mode."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tutor.game import evaluating
from tutor.likelihoods import BernoulliLikelihood

__all__ = ["at_least_one", "evaluating", "on_model", "refuse_grey", "require"]


def require(model: Any, *names: str) -> None:
    """Raise TypeError unless the model is a module with these, and its prior has a density."""
    missing = [name for name in names if not hasattr(model, name)]
    if missing or not isinstance(model, nn.Module):
        lacks = f"no {', '.join(missing)}" if missing else "no parameters of torch"
        raise TypeError(
            f"{type(model).__name__} has {lacks}; this metric needs an nn.Module with "
            f"{', '.join(names)} (see tutor.models.VAE)"
        )
    if "prior" in names and not callable(getattr(model.prior, "log_prob", None)):
        raise TypeError(
            f"the prior is a {type(model.prior).__name__} without log_prob, and this metric needs "
            "its density; samples alone can be compared by tutor.metrics.energy_distance"
        )


def on_model(model: nn.Module, x: Tensor) -> Tensor:
    """Images ``(n, C, H, W)`` checked against the model, in its precision and on its device."""
    if not isinstance(x, Tensor):
        raise TypeError(
            f"images are a {type(x).__name__}; expected a float tensor (n, C, H, W), "
            "for example dataset[:100]"
        )
    if not x.is_floating_point():
        raise TypeError(
            f"images are {x.dtype}; expected floats in [0, 1]; for uint8 images use x.float() / 255"
        )
    shape = getattr(model, "image_shape", None)
    if x.dim() < 2 or (shape is not None and tuple(x.shape[1:]) != tuple(shape)):
        want = "C, H, W" if shape is None else ", ".join(map(str, shape))
        raise ValueError(f"images have shape {tuple(x.shape)}; expected (n, {want})")
    if len(x) == 0:
        raise ValueError(f"images have shape {tuple(x.shape)}; give at least one image")
    for parameter in model.parameters():
        return x.to(device=parameter.device, dtype=parameter.dtype)
    return x


def refuse_grey(likelihood: object, x: Tensor) -> None:
    """Raise ValueError for grey images under a Bernoulli likelihood.

    A Bernoulli variable is 0 or 1; what its formula gives for a grey value is the mean over
    binary images, an upper bound of nothing and comparable with no one's log-likelihood.
    """
    if isinstance(likelihood, BernoulliLikelihood) and not ((x == 0) | (x == 1)).all():
        grey = ((x != 0) & (x != 1)).sum().item()
        raise ValueError(
            f"{grey} pixels are neither 0 nor 1, and a Bernoulli likelihood gives grey values no "
            "density; use dataset.binarized(), or a model with a Gaussian likelihood"
        )


def at_least_one(**counts: int) -> None:
    """Raise unless every count is a whole number, at least 1."""
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int):
            raise TypeError(f"{name} is {count!r}; expected a whole number")
        if count < 1:
            raise ValueError(f"{name} is {count}; expected at least 1")
