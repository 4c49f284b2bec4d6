"""Pictures of a two-dimensional latent space: codes, posteriors, the prior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tutor.palette import CARD, INK, colour
from tutor.plots.style import new_axes
from tutor.priors import Gaussian

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
PRIOR_MASS = (0.5, 0.9, 0.99)


def latent_scatter(
    codes: Tensor,
    labels: Tensor,
    *,
    prior: Any = None,
    ellipses: tuple[Tensor, Tensor] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Codes in the plane, one colour and marker a class, each class named at its centre.

    Args:
        codes: shape ``(n, 2)``.
        labels: whole numbers, shape ``(n,)``.
        prior: anything with ``log_prob`` over the plane; drawn as the contours inside which half,
            nine tenths and 99 hundredths of its mass lie.  With N(0, I), or none, the axes are
            in its standard deviations; another prior sets a scale of its own.
        ellipses: ``(means, stds)``, both ``(m, 2)``: each posterior as its ellipse of one
            standard deviation, which holds 39 % of its mass.

    Raises:
        ValueError: if the codes are not two-dimensional or not finite, or the labels do not fit.

    Example:
        >>> ax = latent_scatter(torch.randn(20, 2), torch.arange(20) % 10)
        >>> ax.get_xlabel()
        '$z_1$ (prior standard deviations)'
    """
    codes, labels = _plane(codes, "codes"), _labels(labels, len(codes))
    ax = new_axes(ax, (5.2, 5.0))
    small = max(4.0, min(36.0, 12_000 / max(len(codes), 1)))
    for k in labels.unique().tolist():
        own = codes[labels == k]
        ax.scatter(
            own[:, 0], own[:, 1], s=small, c=colour(k), marker=MARKERS[k % len(MARKERS)],
            linewidths=0, alpha=0.75, rasterized=True, label=str(k),
        )  # fmt: skip
        _name_class(ax, own, k)
    if ellipses is not None:
        means, stds = _plane(ellipses[0], "ellipse means"), _plane(ellipses[1], "ellipse stds")
        _draw_ellipses(ax, means, stds, [INK] * len(means))
    if prior is not None:
        _prior_contours(ax, prior)
    return _plane_axes(ax, prior)


def posterior_ellipses(
    means: Tensor,
    log_vars: Tensor,
    labels: Tensor,
    *,
    prior: Any = None,
    ax: Axes | None = None,
) -> Axes:
    """Each posterior q(z|x) as its ellipse of one standard deviation, coloured by class.

    Where ellipses overlap, one code may have come from either image: the decoder can only answer
    with a mixture of both, and that is the blur.

    Args:
        means, log_vars: shape ``(n, 2)``; log-variances, as the encoder gives them.
        labels: shape ``(n,)``.
        prior: as in `latent_scatter`.

    Raises:
        ValueError: as `latent_scatter`.

    Example:
        >>> ax = posterior_ellipses(torch.zeros(3, 2), torch.zeros(3, 2), torch.arange(3))
        >>> len(ax.patches), ax.patches[0].width  # one ellipse each, two standard deviations wide
        (3, 2.0)
    """
    means, log_vars = _plane(means, "means"), _plane(log_vars, "log_vars")
    labels = _labels(labels, len(means))
    if means.shape != log_vars.shape:
        raise ValueError(f"{len(means)} means but {len(log_vars)} log_vars; give one of each")
    ax = new_axes(ax, (5.2, 5.0))
    _draw_ellipses(ax, means, (0.5 * log_vars).exp(), [colour(k) for k in labels.tolist()])
    for k in labels.unique().tolist():
        own = means[labels == k]
        ax.scatter(
            own[:, 0], own[:, 1], s=16, c=colour(k), marker=MARKERS[k % len(MARKERS)], linewidths=0
        )
        _name_class(ax, own, k)
    if prior is not None:
        _prior_contours(ax, prior)
    return _plane_axes(ax, prior)


def _plane(points: Tensor, name: str) -> Tensor:
    points = torch.as_tensor(points).detach().float().cpu()
    if points.dim() != 2 or points.shape[1] != 2 or len(points) == 0:
        raise ValueError(
            f"{name} have shape {tuple(points.shape)}; the plane needs (n, 2) with n > 0; "
            "choose two columns, codes[:, [i, j]], of a larger latent space"
        )
    if not points.isfinite().all():
        raise ValueError(f"{name} hold NaN or infinite values; look for them in training first")
    return points


def _labels(labels: Tensor, n: int) -> Tensor:
    labels = torch.as_tensor(labels).cpu()
    if labels.is_floating_point() or labels.shape != (n,):
        raise ValueError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}; "
            f"expected {n} whole numbers, one for each code"
        )
    return labels.long()


def _name_class(ax: Axes, points: Tensor, k: int) -> None:
    from matplotlib.patheffects import withStroke

    middle = points.median(0).values  # far outliers should not drag the name off its class
    ax.annotate(
        str(k), middle.tolist(), ha="center", va="center", fontsize=12, fontweight="bold",
        color=INK, zorder=6, path_effects=[withStroke(linewidth=3, foreground=CARD)],
    )  # fmt: skip


def _draw_ellipses(ax: Axes, means: Tensor, stds: Tensor, colours: Sequence[str]) -> None:
    from matplotlib.patches import Ellipse

    for mean, std, edge in zip(means.tolist(), stds.tolist(), colours, strict=True):
        ax.add_patch(
            Ellipse(mean, 2 * std[0], 2 * std[1], fill=False, edgecolor=edge, linewidth=1.0)
        )
    ax.autoscale_view()


def _prior_contours(ax: Axes, prior: Any) -> None:
    """Contours that enclose given shares of the prior's mass, whatever its shape."""
    box = torch.tensor([*ax.get_xlim(), *ax.get_ylim()]).abs().max().clamp(min=3.5).item()
    axis = torch.linspace(-box, box, 301)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    density = prior.log_prob(torch.stack([x, y], -1).reshape(-1, 2)).detach().exp().cpu()
    # The density level above which a share of the mass lies, from the sorted grid.
    falling = density.sort(descending=True).values
    share = falling.cumsum(0) / falling.sum()
    levels = [falling[int((share < mass).sum())].item() for mass in PRIOR_MASS]
    names = {level: f"{mass:.0%} of p(z)" for level, mass in zip(levels, PRIOR_MASS, strict=True)}
    if len(names) < len(PRIOR_MASS):  # flat: any region of that area would do, so show the edge
        names = {levels[-1] / 2: "all of p(z)"}
    lines = ax.contour(
        x, y, density.reshape(x.shape), levels=sorted(names), colors=INK, linewidths=0.8,
        linestyles="dashed",
    )  # fmt: skip
    ax.clabel(lines, fmt=names, fontsize=7)


def _plane_axes(ax: Axes, prior: Any) -> Axes:
    first, second = axis_names(prior)
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_xlabel(first)
    ax.set_ylabel(second)
    return ax


def axis_names(prior: Any) -> tuple[str, str]:
    """What stands at the two latent axes: only N(0, I) has a standard deviation of one."""
    standard = prior is None or isinstance(prior, Gaussian)
    unit = "prior standard deviations" if standard else "units of the prior"
    return f"$z_1$ ({unit})", f"$z_2$ ({unit})"
