"""PosteriorViewer: what each data point's code may be, exactly and as a method believes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import traitlets
from torch import Tensor

from tutor.palette import CARD, INK, RULE, colour
from tutor.widgets._live import LiveFigure, bundle, stylesheet
from tutor.widgets.contours import prior_contours
from tutor.widgets.frames import PosteriorFrames, checked_frames, refuse_strangers
from tutor.widgets.latent_explorer import MUTED, _atlas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "os^Dvph<>"  # nine shapes and ten colours: no two of 90 points share both
MOST_POINTS = 20
MOST_CELLS = 2**24  # some phones decode no larger picture


class PosteriorViewer(LiveFigure):
    """Exact posteriors in the latent plane beside what one or two methods make of them, live.

    One panel a method.  Shaded: the exact posterior p(z|x) under its decoder, darker where it is
    denser (the square root of the density relative to its peak, in 128 levels).  On it q(z|x): a
    Gaussian's ellipses of one and two standard deviations, or draws as dots.  Dashed lines hold 50,
    90 and 99 % of the prior's mass.  Choose an image, or all of them, each with its own colour
    and marker; move through training with the slider, the arrow keys or Play.  At rest the figure
    shows a recorded frame; on the way to the next one dots and ellipses move straight and the
    shading fades over.  Under a panel stand log p(x) and KL(q(z|x) || p(z|x)), where the frames
    have them; for all points their means.

    With windows that are narrower than the plane the panels show the window of the chosen point,
    both on the same scale, and in the corner where it lies.

    ``viewer.frame`` and ``viewer.point`` (None for all) follow what the reader does, while a
    kernel runs, and may be set.

    Args:
        images: the n data points, ``(n, C, H, W)`` in [0, 1], one or three channels.
        *frames: one or two `PosteriorFrames` of these images with the same steps and grid.
        prior: with ``sample`` and ``log_prob`` over the plane, for its contours; None: without.
        names: of the images, said to readers who don't see them; their numbers if None.

    Raises:
        TypeError: if frames are no `PosteriorFrames`.
        ValueError: if images or frames don't fit together or are not finite, if frames have both a
            Gaussian and samples or neither, or if there are more than 20 images.

    Example:
        >>> from tutor.data import four_points
        >>> from tutor.models import VAE
        >>> from tutor.widgets import posterior_frames
        >>> x = four_points()[:]
        >>> models = [VAE(latent_dim=2, image_shape=(1, 2, 2)) for _ in range(2)]  # recorded ones
        >>> frames = posterior_frames(models, x, [0, 100], points=32)
        >>> PosteriorViewer(x, frames, prior=models[0].prior)
        PosteriorViewer(VAE, images=4, frames=2)
    """

    _esm = bundle("page.js", "runtime.js", "plane.js", "posterior_viewer.js")
    _css = stylesheet("live.css", "posterior_viewer.css")

    spec = traitlets.Dict().tag(sync=True)
    images = traitlets.Bytes().tag(sync=True)
    densities = traitlets.Bytes().tag(sync=True)
    windows = traitlets.Bytes().tag(sync=True)
    gaussians = traitlets.Bytes().tag(sync=True)
    samples = traitlets.Bytes().tag(sync=True)
    numbers = traitlets.Bytes().tag(sync=True)
    contours = traitlets.List().tag(sync=True)
    bounds = traitlets.List(traitlets.Float()).tag(sync=True)
    frame = traitlets.Int(0).tag(sync=True)
    point = traitlets.Int(None, allow_none=True).tag(sync=True)

    def __init__(
        self,
        images: Tensor,
        *frames: PosteriorFrames,
        prior: Any = None,
        names: Sequence[str] | None = None,
    ) -> None:
        images = _checked_images(images)
        n = len(images)
        names = [str(i + 1) for i in range(n)] if names is None else [str(text) for text in names]
        if len(names) != n:
            raise ValueError(f"{len(names)} names for {n} images; give one of each")
        if not 1 <= len(frames) <= 2:
            raise ValueError(f"given {len(frames)} methods' frames; the figure shows one or two")
        frames = tuple(checked_frames(part, n) for part in frames)
        refuse_strangers(frames)
        steps, grid = frames[0].steps.tolist(), frames[0].log_density.shape[-1]
        cells = len(frames) * len(steps) * n * grid**2
        if cells > MOST_CELLS:
            raise ValueError(
                f"{cells} grid cells in all are more than the {MOST_CELLS} that a page can hold; "
                "give fewer frames, images or cells"
            )
        contours = [] if prior is None else prior_contours(prior)
        self._frames, self._pictures = frames, images
        drawn = [_packed_samples(part) for part in frames]
        about = " and ".join(part.name for part in frames)
        self._name = f"PosteriorViewer({about}, images={n}, frames={len(steps)})"
        super().__init__(
            alt=_alt(frames, n, bool(contours)),
            spec={
                "shape": list(images.shape[1:]),
                "names": names,
                "steps": steps,
                "grid": grid,
                "methods": [
                    {"name": part.name, "draws": draws, "scale": scale}
                    for part, (draws, scale, _) in zip(frames, drawn, strict=True)
                ],
            },
            images=_atlas(images),
            densities=_atlas(_shades(frames)),
            windows=b"".join(_floats(part.bounds) for part in frames),
            gaussians=b"".join(
                _floats(torch.cat([part.mean, (0.5 * part.log_var).exp()], -1))
                for part in frames
                if part.mean is not None
            ),
            samples=b"".join(packed for *_, packed in drawn),
            numbers=b"".join(
                _floats(torch.full((len(steps), n), torch.nan) if part is None else part)
                for method in frames
                for part in (method.log_evidence, method.kl)
            ),
            contours=contours,
            bounds=_plane(frames, contours),
            frame=len(steps) - 1,
        )

    def __repr__(self) -> str:
        return self._name

    @traitlets.validate("frame")
    def _one_of_the_frames(self, proposal: Any) -> int:
        frame, last = proposal["value"], len(self.spec["steps"]) - 1
        if not 0 <= frame <= last:
            raise traitlets.TraitError(f"frame is {frame}; expected 0 to {last}")
        return frame

    @traitlets.validate("point")
    def _one_of_the_points(self, proposal: Any) -> int | None:
        point, last = proposal["value"], len(self.spec["names"]) - 1
        if point is not None and not 0 <= point <= last:
            raise traitlets.TraitError(f"point is {point}; expected 0 to {last}, or None for all")
        return point

    def picture(self) -> Figure:
        """All points at the last frame, one panel a method."""
        from matplotlib.figure import Figure

        wide = 6.6 if len(self._frames) == 2 else 3.6
        figure = Figure(figsize=(wide, 3.5), dpi=84, facecolor=CARD, layout="constrained")
        panels = figure.subplots(1, len(self._frames), squeeze=False)[0]
        for axes, part in zip(panels, self._frames, strict=True):
            self._draw(axes, part)
        return figure

    def _draw(self, axes: Axes, part: PosteriorFrames) -> None:
        from matplotlib.colors import LinearSegmentedColormap
        from matplotlib.patches import Ellipse

        shades = _shades([part])[-len(self._pictures) :, 0].numpy()
        for i, window in enumerate(part.bounds[-1].tolist()):
            own = colour(i)
            fading = LinearSegmentedColormap.from_list("fading", [own + "00", own + "b0"])
            axes.imshow(
                shades[i], cmap=fading, vmin=0, vmax=1, extent=window, interpolation="bilinear"
            )
        for contour in self.contours:
            for line in contour["lines"]:
                axes.plot(*np.transpose(line), color=MUTED, linewidth=0.8, linestyle=(0, (5, 4)))
        middles = []
        for i in range(len(self._pictures)):
            own, marker = colour(i), MARKERS[i % len(MARKERS)]
            if part.samples is not None:
                dots = part.samples[-1, i]
                axes.scatter(
                    *dots.T.numpy(), s=7, c=own, marker=marker, edgecolors=CARD, linewidths=0.3
                )
                middles.append((dots.mean(0).tolist(), 2 * dots[:, 1].std(correction=0).item()))
            else:
                middle = part.mean[-1, i].tolist()
                across, up = (0.5 * part.log_var[-1, i]).exp().tolist()
                for sigmas in (1, 2):
                    axes.add_patch(
                        Ellipse(
                            middle, 2 * sigmas * across, 2 * sigmas * up, fill=False,
                            edgecolor=own, linewidth=1.6 if sigmas == 1 else 1,
                        )
                    )  # fmt: skip
                middles.append((middle, 2 * up))
        low, high, bottom, top = self.bounds
        for i, (middle, reach) in enumerate(middles):
            self._tag(axes, middle, i, above=reach < 0.06 * (top - bottom))
        axes.set(xlim=(low, high), ylim=(bottom, top), aspect="equal", title=part.name)
        axes.set_facecolor(CARD)
        axes.set_xlabel("$z_1$", color=INK)
        axes.set_ylabel("$z_2$", color=INK)
        axes.title.set(color=INK, size=10)
        axes.tick_params(colors=MUTED, labelsize=8, length=2)
        for spine in axes.spines.values():
            spine.set_color(RULE)

    def _tag(self, axes: Axes, middle: list[float], i: int, *, above: bool) -> None:
        """The image itself, framed in its colour, names its posterior; above it, if it is small."""
        from matplotlib.offsetbox import AnnotationBbox, OffsetImage

        image = self._pictures[i].permute(1, 2, 0).numpy()
        image = image.repeat(3, 2) if image.shape[2] == 1 else image
        small = OffsetImage(image, zoom=11 / max(image.shape[:2]), interpolation="nearest")
        frame = {"edgecolor": colour(i), "linewidth": 1.4, "boxstyle": "square"}
        offset = {"xybox": (0, 17 if above else 0), "boxcoords": "offset points"}
        axes.add_artist(AnnotationBbox(small, middle, pad=0.06, bboxprops=frame, **offset))


def _alt(frames: Sequence[PosteriorFrames], n: int, contours: bool) -> str:
    def says(part: PosteriorFrames) -> str:
        if part.samples is None:
            return f"under the decoder of {part.name}, with its Gaussian q(z|x) as ellipses"
        return (
            f"under the decoder of {part.name}, with {part.samples.shape[2]} draws of its q(z|x) "
            "as dots"
        )

    return (
        f"Exact posteriors of {n} images as shaded patches of the latent plane after "
        f"{frames[0].steps[-1]} training steps"
        + (", over contours of the prior" if contours else "")
        + ": "
        + "; beside it ".join(map(says, frames))
        + "."
    )


def _checked_images(images: Tensor) -> Tensor:
    if not isinstance(images, Tensor) or images.dim() != 4 or images.shape[1] not in (1, 3):
        given = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"images are {given}; expected a tensor (n, 1 or 3, H, W)")
    if not 1 <= len(images) <= MOST_POINTS:
        raise ValueError(
            f"given {len(images)} images; the figure tells 1 to {MOST_POINTS} apart, choose some"
        )
    images = images.detach().cpu().float()
    if not ((images >= 0) & (images <= 1)).all():
        raise ValueError("images have values outside [0, 1]; expected floats in [0, 1]")
    return images


def _floats(values: Tensor) -> bytes:
    return values.contiguous().numpy().astype("<f4").tobytes()


def _shades(frames: Sequence[PosteriorFrames]) -> Tensor:
    """Square roots of densities relative to their peaks, rows from above, ``(tiles, 1, G, G)``.

    In 128 levels: as fine as a screen shows it, and a fifth smaller than in 256.
    """
    tiles = torch.cat([part.log_density.flatten(0, 1) for part in frames])
    shade = (0.5 * (tiles - tiles.amax((1, 2), keepdim=True))).exp()
    return ((shade * 127).round() / 127).transpose(1, 2).flip(1).unsqueeze(1).float()


def _packed_samples(part: PosteriorFrames) -> tuple[int, float, bytes]:
    """How many draws a point, the size of a step, and the draws as int16 steps."""
    if part.samples is None:
        return 0, 1.0, b""
    scale = max(part.samples.abs().max().item(), 1e-6) / 32767
    steps = (part.samples / scale).round().numpy().astype("<i2")
    return part.samples.shape[2], scale, steps.tobytes()


def _plane(frames: Sequence[PosteriorFrames], contours: list[dict[str, Any]]) -> list[float]:
    """``[left, right, bottom, top]`` of the square for all points: last windows and contours."""
    lines = [np.asarray(line) for contour in contours for line in contour["lines"]]
    corners = [1.04 * line - 0.04 * line.mean(0) for line in lines]  # not to touch the border
    for part in frames:
        last = part.bounds[-1].numpy()
        corners += [last[:, 0::2], last[:, 1::2]]
    everything = np.concatenate(corners)
    low, high = everything.min(0), everything.max(0)
    middle, half = (low + high) / 2, float((high - low).max()) / 2
    return [float(v) for v in np.stack([middle - half, middle + half], 1).ravel().round(4)]
