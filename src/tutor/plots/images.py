"""Mosaics of images: data, reconstructions, samples, interpolations, the manifold.

The means of a Gaussian likelihood may leave [0, 1]; where a model's images are drawn, such a pixel
gets the nearest ink.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tutor.game import evaluating
from tutor.plots.latent import axis_names
from tutor.plots.style import new_axes
from tutor.posteriors import ImplicitPosterior
from tutor.priors import Gaussian, UniformBox

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def image_grid(
    images: Tensor,
    *,
    columns: int | None = None,
    row_labels: Sequence[str] = (),
    gap: int = 1,
    ax: Axes | None = None,
) -> Axes:
    """Images in one mosaic, row by row; one channel is drawn as ink on paper (1 is black).

    Args:
        images: shape ``(n, C, H, W)`` with C 1 or 3, values in [0, 1].
        columns: images a row; about a square when left out.
        row_labels: one word a row, at its left.
        gap: pixels of card between images.

    Raises:
        ValueError: for another shape, no image, values outside [0, 1], or row labels that do not
            count the rows.

    Example:
        >>> image_grid(torch.rand(6, 1, 8, 8), columns=3).images[0].get_array().shape
        (17, 26)
    """
    images = torch.as_tensor(images).detach().float().cpu()
    if images.dim() != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise ValueError(
            f"images have shape {tuple(images.shape)}; expected (n, 1, H, W) or (n, 3, H, W), n > 0"
        )
    if not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(
            f"images run from {images.min():.3g} to {images.max():.3g}; expected [0, 1]; "
            "show the decoder's mean, not its logits"
        )
    n, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    if row_labels and len(row_labels) != rows:
        raise ValueError(f"{len(row_labels)} row labels for {rows} rows; give one each")
    paper = 0.0 if channels == 1 else 1.0  # grey is drawn reversed, so 0 is white
    canvas = torch.full(
        (channels, rows * (height + gap) - gap, columns * (width + gap) - gap), paper
    )
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        canvas[:, top : top + height, left : left + width] = image
    ax = new_axes(ax, (0.55 * columns + 0.6 * bool(row_labels), 0.55 * rows))
    picture = canvas.permute(1, 2, 0).squeeze(-1).numpy()
    ax.imshow(picture, cmap="gray_r", vmin=0, vmax=1)
    for i, word in enumerate(row_labels):
        middle = i * (height + gap) + height / 2 - 0.5
        ax.text(-0.15 * width, middle, word, ha="right", va="center", fontsize=9)
    ax.set_axis_off()
    return ax


def reconstructions(model: Any, x: Tensor, *, ax: Axes | None = None) -> Axes:
    """Images above, the decoder's means at their posterior means below.

    Args:
        model: with ``reconstruct``.
        x: shape ``(n, C, H, W)``; up to about 16 read well.

    Raises:
        ValueError: as `image_grid`.

    Example:
        >>> from tutor.models import VAE
        >>> _ = reconstructions(VAE(), torch.rand(5, 1, 28, 28))
    """
    again = _evaluate(model, lambda: model.reconstruct(x.to(_device_of(model)))).cpu()
    both = torch.cat([x.detach().cpu(), again])
    return image_grid(both, columns=len(x), row_labels=["image", "reconstruction"], ax=ax)


def samples(
    model: Any, n: int = 64, *, generator: torch.Generator | None = None, ax: Axes | None = None
) -> Axes:
    """Decoder means at n draws of the prior.

    Raises:
        ValueError: if n is below 1.

    Example:
        >>> from tutor.models import VAE
        >>> ax = samples(VAE(), 4, generator=torch.Generator().manual_seed(0))
        >>> ax.images[0].get_array().shape
        (57, 57)
    """
    if n < 1:
        raise ValueError(f"n is {n}; draw at least one sample")
    return image_grid(_evaluate(model, lambda: model.sample(n, generator=generator)), ax=ax)


@torch.no_grad()
def interpolations(
    model: Any, a: Tensor, b: Tensor, steps: int = 10, *, ax: Axes | None = None
) -> Axes:
    """Decoder means along straight lines in latent space, a row for each pair of images.

    The first and last column are the images themselves, so that reconstruction is not mistaken
    for interpolation.

    Args:
        model: with ``encode`` and ``decode``.
        a, b: shape ``(n, C, H, W)``: the lines run between their posterior means.
        steps: decoded points a line, both ends included; at least 2.

    Raises:
        ValueError: if a and b differ in shape, or steps is below 2.
        TypeError: if the posterior is implicit, so that its mean is not known.

    Example:
        >>> from tutor.models import VAE
        >>> ax = interpolations(VAE(), torch.rand(2, 1, 28, 28), torch.rand(2, 1, 28, 28), steps=4)
        >>> ax.images[0].get_array().shape  # 2 rows of 6 images, one pixel between them
        (57, 173)
    """
    if a.shape != b.shape:
        raise ValueError(f"a has shape {tuple(a.shape)}, b {tuple(b.shape)}; they must be pairs")
    if steps < 2:
        raise ValueError(f"steps is {steps}; a line needs at least its 2 ends")
    device = _device_of(model)

    def decode_lines() -> Tensor:
        ends = model.encode(a.to(device)), model.encode(b.to(device))
        if isinstance(ends[0], ImplicitPosterior):
            raise TypeError(
                "the encoder's q(z|x) is implicit and has no mean at hand to draw a line from; "
                "decode a line between two draws of it, with image_grid"
            )
        start, end = (q.mean for q in ends)  # (n, dim)
        t = torch.linspace(0, 1, steps, device=device)[None, :, None]
        z = (1 - t) * start[:, None] + t * end[:, None]  # (n, steps, dim)
        return model.decode(z.flatten(0, 1)).mean.unflatten(0, z.shape[:2])

    lines = _evaluate(model, decode_lines).cpu()  # (n, steps, C, H, W)
    rows = torch.cat([a.detach().cpu()[:, None], lines, b.detach().cpu()[:, None]], dim=1)
    return image_grid(rows.flatten(0, 1), columns=steps + 2, ax=ax)


@torch.no_grad()
def traversals(
    model: Any,
    x: Tensor,
    steps: int = 7,
    *,
    reach: float = 2.0,
    dimensions: Sequence[int] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Decoder means as one code coordinate moves and all others stay, a row for each coordinate.

    The coordinate goes from ``-reach`` to ``reach`` (standard deviations of the prior); the others
    stay at the posterior mean of the image.  The first column is the image itself.
    Source: Kim & Mnih (arXiv 1802.05983), figure 6.

    Args:
        model: with ``encode`` and ``decode``.
        x: one image, shape ``(C, H, W)``.
        steps: decoded points a row, at least 2.
        reach: how far the coordinate goes to either side, above 0.
        dimensions: which coordinates, in the order of the rows; by default all of them.

    Raises:
        ValueError: if x is not one image, steps is below 2, reach is not above 0, or a dimension
            does not exist or there is none.
        TypeError: if the posterior is implicit, so that its mean is not known.

    Example:
        >>> from tutor.models import VAE
        >>> ax = traversals(VAE(latent_dim=2), torch.rand(1, 28, 28), steps=4)
        >>> ax.images[0].get_array().shape  # 2 rows of 5 images, one pixel between them
        (57, 144)
    """
    if x.dim() != 3:
        raise ValueError(f"x has shape {tuple(x.shape)}; expected one image (C, H, W)")
    if steps < 2 or not reach > 0:
        raise ValueError(f"steps is {steps}, reach {reach}; expected at least 2, and above 0")
    device = _device_of(model)
    rows: list[int] = []

    def decode_rows() -> Tensor:
        q = model.encode(x[None].to(device))
        if isinstance(q, ImplicitPosterior):
            raise TypeError(
                "the encoder's q(z|x) is implicit and has no mean at hand to start from; move a "
                "draw of it, and show what decode makes of it with image_grid"
            )
        rows.extend(range(q.mean.shape[1]) if dimensions is None else dimensions)
        if not rows or not all(0 <= j < q.mean.shape[1] for j in rows):
            raise ValueError(f"dimensions is {rows}; the code has 0 to {q.mean.shape[1] - 1}")
        z = q.mean.repeat(len(rows), steps, 1)  # (rows, steps, dim)
        for i, j in enumerate(rows):
            z[i, :, j] = torch.linspace(-reach, reach, steps, device=device)
        return model.decode(z.flatten(0, 1)).mean.unflatten(0, z.shape[:2])

    decoded = _evaluate(model, decode_rows).cpu()
    start = x.detach().cpu().expand(len(rows), 1, *x.shape)
    shown = torch.cat([start, decoded], dim=1).flatten(0, 1)
    names = [f"$z_{{{j + 1}}}$" for j in rows]
    return image_grid(shown, columns=steps + 1, row_labels=names, ax=ax)


@torch.no_grad()
def manifold(model: Any, n: int = 20, *, ax: Axes | None = None) -> Axes:
    """What the decoder makes of an even grid of the prior's mass (a Gaussian or flat 2-D prior).

    Square ``(i, j)`` of an n by n grid on the unit square goes through the inverse of the prior's
    distribution function in each coordinate, so every tile stands for the same prior probability
    1/n^2.
    Source: Kingma & Welling (arXiv 1312.6114), figure 4.

    Args:
        model: with ``latent_dim`` 2 and ``decode``.
        n: tiles a side, at least 2.

    Raises:
        ValueError: if the model's latent space is not a plane, its prior's coordinates are not
            independent, or n is below 2.

    Example:
        >>> from tutor.models import VAE
        >>> manifold(VAE(latent_dim=2), n=3).images[0].get_array().shape
        (84, 84)
    """
    if model.latent_dim != 2:
        raise ValueError(
            f"the model has {model.latent_dim} latent dimensions; the manifold is drawn for 2; "
            "use samples(model, n) for others"
        )
    if n < 2:
        raise ValueError(f"n is {n}; a grid needs at least 2 tiles a side")
    prior = getattr(model, "prior", None)
    share = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    if isinstance(prior, UniformBox):
        steps = (2 * share - 1).float()
    elif prior is None or isinstance(prior, Gaussian):
        steps = torch.special.ndtri(share).float()
    else:
        raise ValueError(
            f"the coordinates of a {type(prior).__name__} are not independent, so no grid holds "
            "equal shares of it; decode points of the prior with image_grid"
        )
    rows, columns = torch.meshgrid(steps.flip(0), steps, indexing="ij")  # first row: largest z_2
    like = next(iter(getattr(model, "parameters", list)()), steps)  # its device and precision
    z = torch.stack([columns, rows], -1).reshape(-1, 2).to(like)
    images = _evaluate(model, lambda: model.decode(z).mean)
    ax = image_grid(images, columns=n, gap=0, ax=new_axes(ax, (5.4, 5.4)))
    height, width = images.shape[-2:]
    shown = sorted({0, n // 4, n - 1 - n // 4, n - 1})  # mirrored, as the grid is
    ax.set_axis_on()
    ax.grid(False)
    names = [f"{steps[i]:.1f}" for i in shown]
    ax.set_xticks([(i + 0.5) * width - 0.5 for i in shown], names)
    ax.set_yticks([(n - 1 - i + 0.5) * height - 0.5 for i in shown], names)
    first, second = axis_names(prior)
    ax.set_xlabel(first)
    ax.set_ylabel(second)
    return ax


def _device_of(model: Any) -> torch.device:
    return getattr(model, "device", torch.device("cpu"))


def _evaluate(model: Any, compute: Callable[[], Tensor]) -> Tensor:
    """Images made in evaluation mode (batch statistics frozen), as ink; the mode is put back."""
    with evaluating(model):
        images = compute()
    return images.clamp(0, 1) if getattr(model, "likelihood", None) == "gaussian" else images
