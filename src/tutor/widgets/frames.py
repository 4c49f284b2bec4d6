"""What a method believed about each data point while it was trained: frames of a live figure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tutor.metrics import exact_elbo, quadrature
from tutor.metrics._evaluate import at_least_one, evaluating, on_model, require
from tutor.metrics._grid import PairwiseLogLikelihood, midpoints
from tutor.posteriors import DiagonalGaussian


class PosteriorFrames(NamedTuple):
    """Exact and approximate posteriors of n data points at T moments of one method's training.

    `posterior_frames` makes them from models.  All fields but ``name`` are tensors.

    Attributes:
        name: the method's name, as the figure writes it: ``"VAE"``.
        steps: training steps, whole numbers that rise, ``(T,)``.
        log_density: exact ``log p(z|x)`` under the decoder of that moment, in nats, at the middles
            of ``G * G`` cells: ``(T, n, G, G)``, first z1, then z2, as ``exact_posterior(...)
            .log_density.view(n, G, G)`` has it.
        bounds: the window that the cells fill, ``[left, right, bottom, top]``: one for all
            ``(4,)``, one a point ``(n, 4)``, or one a frame and point ``(T, n, 4)``.
        mean, log_var: of a Gaussian ``q(z|x)``, ``(T, n, 2)``; or else
        samples: draws of ``q(z|x)``, ``(T, n, k, 2)``.  Dot number j moves from frame to frame to
            the next frame's draw number j: give each frame the same noise.
        log_evidence: ``log p(x)`` in nats, ``(T, n)``, if the figure should print it.
        kl: ``KL(q(z|x) || p(z|x))`` in nats, ``(T, n)``, if the figure should print it.
    """

    name: str
    steps: Tensor
    log_density: Tensor
    bounds: Tensor
    mean: Tensor | None = None
    log_var: Tensor | None = None
    samples: Tensor | None = None
    log_evidence: Tensor | None = None
    kl: Tensor | None = None


def posterior_frames(
    models: Iterable[nn.Module],
    x: Tensor,
    steps: Sequence[int],
    *,
    name: str | None = None,
    samples: int = 200,
    points: int = 64,
    window: tuple[float, float] | None = (-4.0, 4.0),
    tolerance: float = 1e-3,
    kl: Callable[[nn.Module, Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> PosteriorFrames:
    """Posteriors of images x under a model at several moments of its training.

    ``log p(z|x) = log p(z) + log p(x|z) - log p(x)`` on a grid, with ``log p(x)`` by `quadrature`.
    Of a Gaussian ``q(z|x)`` it takes mean and log-variance, and
    ``KL(q(z|x) || p(z|x)) = log p(x) - ELBO(x)`` with `exact_elbo`; of any other it draws samples,
    every frame with the same noise, so that one dot is one noise vector followed through training.

    Args:
        models: the model at each moment.  They are looked at one after the other, so a generator
            may load them into the same object.
        x: images ``(n, C, H, W)``; binary, if the likelihood is Bernoulli.
        steps: training step of each moment.
        name: of the method; the model's class if None.
        samples: draws an image, where q is not Gaussian.
        points: grid cells along an axis.
        window: ``(low, high)`` on both axes for all images; or None: a square of its own for each
            image and moment, around its exact posterior and q(z|x), for posteriors that are narrow.
        tolerance: of ``log p(x)``, in nats.
        kl: ``kl(model, x) -> (n,)``, how to measure it where q is not Gaussian; otherwise the
            frames come without.
        generator: draws the samples; if None, one with seed 0.

    Raises:
        ValueError: if the latent space is no plane, models and steps are not equally many, or the
            window is no interval; also all that `quadrature` raises.

    Example:
        >>> from tutor.data import four_points
        >>> from tutor.models import VAE
        >>> x, model = four_points()[:], VAE(latent_dim=2, image_shape=(1, 2, 2))
        >>> frames = posterior_frames([model], x, [0], points=32)
        >>> frames.log_density.shape, frames.mean.shape, frames.kl.shape
        (torch.Size([1, 4, 32, 32]), torch.Size([1, 4, 2]), torch.Size([1, 4]))
    """
    at_least_one(samples=samples, points=points)
    if window is not None and not window[0] < window[1]:
        raise ValueError(f"window is {window}; expected (low, high) with low < high, or None")
    rows, steps = [], [int(step) for step in steps]
    for model in models:
        if len(rows) == len(steps):
            raise ValueError(f"there are more models than the {len(steps)} steps; give one of each")
        name = type(model).__name__ if name is None else name
        state = None if generator is None else generator.get_state()
        rows.append(_look(model, x, samples, points, window, tolerance, kl, generator))
        if generator is not None and len(rows) < len(steps):
            generator.set_state(state)
    if not rows or len(rows) != len(steps):
        raise ValueError(f"{len(rows)} models and {len(steps)} steps; give one of each")
    columns = {
        key: None if rows[0][key] is None else torch.stack([row[key] for row in rows]).cpu()
        for key in rows[0]
    }
    if window is not None:
        columns["bounds"] = columns["bounds"][0, 0]
    return PosteriorFrames(name, torch.tensor(steps), **columns)


def _look(
    model: nn.Module,
    x: Tensor,
    samples: int,
    points: int,
    window: tuple[float, float] | None,
    tolerance: float,
    kl: Callable[[nn.Module, Tensor], Tensor] | None,
    generator: torch.Generator | None,
) -> dict[str, Tensor | None]:
    """One moment: the fields of `PosteriorFrames` without their first axis."""
    require(model, "encode", "decode", "prior")
    if model.prior.dim != 2:
        raise ValueError(f"the model's prior has {model.prior.dim} dimensions; a plane has two")
    x = on_model(model, x)
    row: dict[str, Tensor | None] = {"mean": None, "log_var": None, "samples": None, "kl": None}
    row["log_evidence"] = evidence = quadrature(model, x, tolerance=tolerance)
    with evaluating(model):
        q = model.encode(x)
        if isinstance(q, DiagonalGaussian):
            row["mean"], row["log_var"] = q.mean, q.log_var
            row["kl"] = evidence - exact_elbo(model, x)
            middle, spread = q.mean, q.stddev
        else:
            noise = generator or torch.Generator(x.device).manual_seed(0)
            draws = q.sample((samples,), generator=noise).transpose(0, 1)  # (n, samples, 2)
            row["samples"] = draws
            middle, spread = draws.mean(1), draws.std(1, correction=0)
            if kl is not None:
                row["kl"] = kl(model, x)
        if window is not None:
            row["bounds"] = x.new_tensor([*window, *window]).expand(len(x), 4)
            joint = _log_joint(model, x, row["bounds"][0], points)
        else:
            row["bounds"] = bounds = _around(model, x, middle - 3 * spread, middle + 3 * spread)
            each = zip(x.split(1), bounds, strict=True)
            joint = torch.cat([_log_joint(model, image, own, points) for image, own in each])
    row["log_density"] = joint - evidence[:, None, None]
    return row


def _log_joint(model: nn.Module, x: Tensor, bounds: Tensor, points: int) -> Tensor:
    """log p(x, z) at the middles of a window's cells, ``(n, points, points)``."""
    left, right, bottom, top = bounds.tolist()
    z = midpoints([left, bottom], [right, top], points).to(x)
    joint = PairwiseLogLikelihood(model.decode(z))(x) + model.prior.log_prob(z)
    return joint.view(len(x), points, points)


def _around(model: nn.Module, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """For each image the smallest square with its exact posterior and a box, ``(n, 4)``.

    The exact posterior's part is its mean, plus and minus four standard deviations.  Each look
    measures these on the window that the look before has found, so that they hold even where
    the posterior lies between the points of the first grid.
    """
    windows = x.new_tensor([-6.0, 6.0, -6.0, 6.0]).repeat(len(x), 1)
    for _ in range(4):
        for i, (left, right, bottom, top) in enumerate(windows.tolist()):
            weights = _log_joint(model, x[i : i + 1], windows[i], 48).flatten().softmax(0)
            z = midpoints([left, bottom], [right, top], 48).to(x)
            mean = weights @ z
            variance = (weights @ (z - mean).square()).clamp(min=((right - left) / 48) ** 2)
            reach = 4 * variance.sqrt()
            windows[i, 0::2], windows[i, 1::2] = mean - reach, mean + reach
    low = torch.minimum(low, windows[:, 0::2])
    high = torch.maximum(high, windows[:, 1::2])
    middle, half = (low + high) / 2, (high - low).amax(1, keepdim=True) / 2
    return torch.stack([middle - half, middle + half], 2).flatten(1)


def checked_frames(frames: PosteriorFrames, n: int) -> PosteriorFrames:
    """The same frames as CPU tensors, bounds ``(T, n, 4)``, after a look at every field."""
    if not isinstance(frames, PosteriorFrames):
        raise TypeError(
            f"frames are a {type(frames).__name__}; expected PosteriorFrames, for example from "
            "posterior_frames(models, x, steps)"
        )
    name = frames.name
    values: dict[str, Tensor | None] = {
        key: None if value is None else torch.as_tensor(value).detach().cpu()
        for key, value in frames._asdict().items()
        if key != "name"
    }
    steps, density, bounds = values["steps"], values["log_density"], values["bounds"]
    whole = steps.dim() == 1 and len(steps) and not steps.is_floating_point()
    if not whole or not (steps.diff() > 0).all():
        raise ValueError(f"{name}: steps are {steps.tolist()}; expected whole numbers that rise")
    t = len(steps)
    if density.dim() != 4 or density.shape[:2] != (t, n) or density.shape[2] != density.shape[3]:
        raise ValueError(
            f"{name}: log_density has shape {tuple(density.shape)}; expected ({t}, {n}, G, G)"
        )
    peak = density.flatten(2).amax(2)
    if not peak.isfinite().all():  # NaN anywhere makes the peak NaN
        raise ValueError(f"{name}: log_density has NaN or +inf, or nothing but -inf in a window")
    if bounds.shape not in {(4,), (n, 4), (t, n, 4)}:
        raise ValueError(
            f"{name}: bounds have shape {tuple(bounds.shape)}; expected (4,), ({n}, 4) or "
            f"({t}, {n}, 4): left, right, bottom, top"
        )
    if not (bounds.isfinite().all() and (bounds[..., 0::2] < bounds[..., 1::2]).all()):
        raise ValueError(f"{name}: bounds must be finite, with left < right and bottom < top")
    values["bounds"] = bounds.float().expand(t, n, 4)
    gaussian = [values[key] is not None for key in ("mean", "log_var")]
    if gaussian not in ([True] * 2, [False] * 2) or gaussian[0] == (values["samples"] is not None):
        raise ValueError(f"{name}: give either mean and log_var of q(z|x), or samples of it")
    draws = 0 if values["samples"] is None else values["samples"].shape[2:3].numel()
    for key, shape in {
        "mean": (t, n, 2), "log_var": (t, n, 2), "samples": (t, n, draws, 2),
        "log_evidence": (t, n), "kl": (t, n),
    }.items():  # fmt: skip
        value = values[key]
        if value is None:
            continue
        if value.shape != shape or not value.numel():
            wanted = str(shape).replace(f"{draws}, 2)", "draws, 2)") if key == "samples" else shape
            raise ValueError(f"{name}: {key} has shape {tuple(value.shape)}; expected {wanted}")
        if not value.isfinite().all():
            raise ValueError(f"{name}: {key} has NaN or infinite values")
        values[key] = value.float()
    return PosteriorFrames(name, **values)


def refuse_strangers(frames: Sequence[PosteriorFrames]) -> None:
    """Two methods must have been looked at alike, or their panels could not be linked."""
    first, other = frames[0], frames[-1]
    if first.steps.tolist() != other.steps.tolist():
        raise ValueError(
            f"{first.name} has frames at steps {first.steps.tolist()}, {other.name} at "
            f"{other.steps.tolist()}; record both at the same steps"
        )
    if first.log_density.shape != other.log_density.shape:
        raise ValueError(
            f"{first.name} has a grid of {first.log_density.shape[-1]} cells, {other.name} of "
            f"{other.log_density.shape[-1]}; use the same points= for both"
        )
    if len(frames) == 2 and first.name == other.name:
        raise ValueError(f"both methods are called {first.name}; give each its name")
