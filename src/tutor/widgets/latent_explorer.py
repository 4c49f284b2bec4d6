"""LatentExplorer: move a point over the latent plane and watch the decoder draw."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import traitlets
from torch import Tensor

from tutor.game import evaluating
from tutor.palette import CARD, INK, PALETTE, RULE
from tutor.widgets._live import LiveFigure, bundle, stylesheet
from tutor.widgets.contours import prior_contours
from tutor.widgets.export import export_decoder, run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MUTED = "#5c6270"


class LatentExplorer(LiveFigure):
    """The latent plane of a model with two latent dimensions, live.

    Every dot is the code of an image, the mean of q(z|x), coloured by class; dashed lines hold
    50, 90 and 99 % of the prior's mass.  Move the pointer, a finger or the arrow keys over the
    plane: the decoder draws the mean of p(x|z) at that point, in the browser.  Click, tap or Enter
    chooses a code and shows its image, its reconstruction (the decoder at the code) and the
    ellipses of one and two standard deviations of q(z|x).  Escape starts again.

    ``explorer.z`` and ``explorer.selected`` (a row of the data set, or None) follow what the reader
    does, while a kernel runs, and may be set.  Pixels beyond [0, 1], which a Gaussian decoder may
    return, are shown as black or white.

    Args:
        model: has ``latent_dim == 2``, ``encode``, ``decode``, ``image_shape``, a ``decoder`` that
            `export_decoder` can pack, and perhaps ``likelihood`` and ``prior``.
        dataset: images with one or three channels, with ``labels`` or None.
        points: how many images to encode: the first ones, or random ones if there is a generator.
        generator: draws the images.

    Raises:
        TypeError: if the decoder has layers that the page can't run.
        ValueError: if the latent space is no plane, there are fewer images than ``points``, more
            than ten classes, codes are not finite, or the packed decoder would draw something else
            than ``model.decode(z).mean``.

    Example:
        >>> from tutor.data import load
        >>> from tutor.models import VAE
        >>> LatentExplorer(VAE(latent_dim=2), load("digits"), points=50)
        LatentExplorer(VAE, digits, points=50)
    """

    _esm = bundle("page.js", "runtime.js", "plane.js", "latent_explorer.js")
    _css = stylesheet("live.css", "latent_explorer.css")

    spec = traitlets.Dict().tag(sync=True)
    weights = traitlets.Bytes().tag(sync=True)
    images = traitlets.Bytes().tag(sync=True)
    codes = traitlets.Bytes().tag(sync=True)
    spreads = traitlets.Bytes().tag(sync=True)
    labels = traitlets.Bytes().tag(sync=True)
    indices = traitlets.Bytes().tag(sync=True)
    classes = traitlets.List(traitlets.Unicode()).tag(sync=True)
    contours = traitlets.List().tag(sync=True)
    bounds = traitlets.List(traitlets.Float()).tag(sync=True)
    start = traitlets.List(traitlets.Float()).tag(sync=True)
    z = traitlets.List(traitlets.Float(), minlen=2, maxlen=2).tag(sync=True)
    selected = traitlets.Int(None, allow_none=True).tag(sync=True)

    def __init__(
        self,
        model: Any,
        dataset: Any,
        *,
        points: int = 1000,
        generator: torch.Generator | None = None,
    ) -> None:
        latent_dim = getattr(model, "latent_dim", None)
        if latent_dim != 2:
            raise ValueError(
                f"the model has latent_dim={latent_dim}; LatentExplorer draws a plane and needs "
                "latent_dim=2; train one with latent_dim=2 for this figure"
            )
        if not 1 <= points <= len(dataset):
            raise ValueError(
                f"points is {points}, the data set has {len(dataset)} images; "
                f"choose points between 1 and {len(dataset)}"
            )
        if generator is None:
            index = torch.arange(points)
        else:
            index = torch.randperm(len(dataset), generator=generator)[:points].sort().values
        images = dataset[index]
        labels, classes = _classes(dataset, index)
        codes, spreads = _encode(model, images)
        spec, weights = _packed(model, codes)
        contours = prior_contours(model.prior) if getattr(model, "prior", None) is not None else []

        name = getattr(dataset, "name", None) or "images"  # a plain tensor has the name None
        self._name = f"LatentExplorer({type(model).__name__}, {name}, points={points})"
        start = [0.0, 0.0]
        super().__init__(
            alt=f"Latent plane of a {type(model).__name__}: the codes of {points} images ({name})"
            + (", coloured by class" if classes else "")
            + (", over contours of the prior" if contours else "")
            + "; beside it images that the decoder draws across the plane.",
            spec=spec,
            weights=weights,
            images=_atlas(images),
            codes=codes.numpy().astype("<f4").tobytes(),
            spreads=b"" if spreads is None else spreads.numpy().astype("<f4").tobytes(),
            labels=labels,
            indices=index.numpy().astype("<i4").tobytes(),
            classes=classes,
            contours=contours,
            bounds=_square(codes, contours),
            start=start,
            z=list(start),
        )

    def __repr__(self) -> str:
        return self._name

    @traitlets.validate("selected")
    def _one_of_the_points(self, proposal: Any) -> int | None:
        row = proposal["value"]
        if row is not None and row not in np.frombuffer(self.indices, "<i4"):
            raise traitlets.TraitError(
                f"selected is {row}; expected None or a row of the data set among the "
                f"{len(self.indices) // 4} that the figure shows"
            )
        return row

    @traitlets.validate("z")
    def _finite(self, proposal: Any) -> list[float]:
        if not all(map(math.isfinite, proposal["value"])):
            raise traitlets.TraitError(f"z is {proposal['value']}; expected two finite numbers")
        return proposal["value"]

    def picture(self) -> Figure:
        """Codes on the plane, and the decoder's images on a grid over the same plane."""
        from matplotlib.figure import Figure

        low, high, bottom, top = self.bounds
        figure = Figure(figsize=(6.6, 3.35), dpi=84, facecolor=CARD, layout="constrained")
        plane, grid = figure.subplots(1, 2)
        codes = np.frombuffer(self.codes, "<f4").reshape(-1, 2)
        labels = np.frombuffer(self.labels, "u1") if self.labels else np.zeros(len(codes), "u1")
        plane.scatter(
            *codes.T, c=[PALETTE[k % len(PALETTE)] for k in labels], s=7, linewidths=0, alpha=0.8
        )
        for contour in self.contours:
            for line in contour["lines"]:
                plane.plot(*np.transpose(line), color=MUTED, linewidth=0.8, linestyle=(0, (5, 4)))
        for k, text in enumerate(self.classes):
            if (labels == k).any():
                x, y = np.median(codes[labels == k], axis=0)
                box = {"boxstyle": "round,pad=0.15", "fc": CARD, "ec": PALETTE[k % len(PALETTE)]}
                plane.text(x, y, text, size=8, color=INK, ha="center", va="center", bbox=box)
        plane.set(xlim=(low, high), ylim=(bottom, top), aspect="equal", title="codes")

        side = 8
        ticks = (np.arange(side) + 0.5) / side
        xs, ys = np.meshgrid(low + ticks * (high - low), top - ticks * (top - bottom))
        z = torch.from_numpy(np.stack([xs.ravel(), ys.ravel()], 1).astype("float32"))
        tiles = run(self.spec, self.weights, z).clamp(0, 1)
        _, c, h, w = tiles.shape
        sheet = tiles.view(side, side, c, h, w).permute(0, 3, 1, 4, 2)
        sheet = sheet.reshape(side * h, side * w, c).numpy()
        grid.imshow(
            sheet[:, :, 0] if c == 1 else sheet, cmap="gray", vmin=0, vmax=1,
            extent=(low, high, bottom, top),
        )  # fmt: skip
        grid.set(title="decoder", aspect="equal")
        for axes in (plane, grid):
            axes.set_facecolor(CARD)
            axes.set_xlabel("$z_1$", color=INK)
            axes.title.set(color=INK, size=10)
            axes.tick_params(colors=MUTED, labelsize=8, length=2)
            for spine in axes.spines.values():
                spine.set_color(RULE)
        plane.set_ylabel("$z_2$", color=INK)
        return figure


def _classes(dataset: Any, index: Tensor) -> tuple[bytes, list[str]]:
    """Each point's class as a byte, and the names of the classes."""
    labels = getattr(dataset, "labels", None)
    if labels is None:
        return b"", []
    values, position = torch.unique(labels, return_inverse=True)
    if len(values) > len(PALETTE):
        raise ValueError(
            f"the data set has {len(values)} classes; at most {len(PALETTE)} can be told apart by "
            "colour; give fewer classes, or a data set whose labels are None"
        )
    known = dict(enumerate(getattr(dataset, "classes", None) or ()))
    texts = [known.get(label, str(label)) for label in values.tolist()]
    return position.cpu()[index].numpy().astype("u1").tobytes(), texts


@torch.no_grad()
def _encode(model: Any, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Means of q(z|x) and, where the encoder is random, its standard deviations: both (n, 2)."""
    device = next(model.parameters()).device
    means, spreads = [], []
    with evaluating(model):
        for batch in images.split(500):
            q = model.encode(batch.to(device))
            means.append((q if isinstance(q, Tensor) else q.mean).cpu())
            spreads.append(None if isinstance(q, Tensor) else q.stddev.cpu())
    codes = torch.cat(means)
    if not codes.isfinite().all():
        raise ValueError("the encoder returns NaN or infinite codes; train the model again")
    return codes, None if spreads[0] is None else torch.cat(spreads)


def _packed(model: Any, codes: Tensor) -> tuple[dict[str, Any], bytes]:
    """The exported decoder, after a look whether it draws what ``model.decode`` says."""
    shape = tuple(model.image_shape)
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(f"the model makes images of shape {shape}; expected (1 or 3, H, W)")
    bernoulli = getattr(model, "likelihood", None) == "bernoulli"
    z = codes[:64]
    with evaluating(model):
        spec, weights = export_decoder(model.decoder, 2, shape, sigmoid=bernoulli)
        wanted = model.decode(z.to(next(model.parameters()).device)).mean.cpu()
    difference = (run(spec, weights, z) - wanted).abs().max().item()
    if not difference < 1e-3:
        raise ValueError(
            f"the packed decoder differs from model.decode(z).mean by up to {difference:.2g} a "
            "pixel; the figure can show a model whose decode applies model.decoder and, for "
            "likelihood='bernoulli', a sigmoid"
        )
    return spec, weights


def _atlas(images: Tensor) -> bytes:
    """All images as one PNG of 256 grey levels: small, and read by every browser."""
    from PIL import Image

    n, c, h, w = images.shape
    across = math.ceil(math.sqrt(n))
    down = math.ceil(n / across)
    tiles = torch.zeros(down * across, c, h, w, dtype=torch.uint8)
    tiles[:n] = (images.cpu() * 255).round().to(torch.uint8)
    sheet = tiles.view(down, across, c, h, w).permute(0, 3, 1, 4, 2)
    sheet = sheet.reshape(down * h, across * w, c).numpy()
    picture = Image.fromarray(sheet if c == 3 else sheet[:, :, 0])
    if c == 1 and np.isin(sheet, (0, 255)).all():
        picture = picture.convert("1", dither=Image.Dither.NONE)  # one bit a pixel
    out = io.BytesIO()
    picture.save(out, format="png", optimize=True)
    return out.getvalue()


def _square(codes: Tensor, contours: list[dict[str, Any]]) -> list[float]:
    """``[left, right, bottom, top]`` of the smallest square with all codes and contours, padded."""
    lines = [np.asarray(line) for contour in contours for line in contour["lines"]]
    everything = np.concatenate([codes.numpy(), *lines])
    low, high = everything.min(0), everything.max(0)
    middle, half = (low + high) / 2, 0.52 * max(float((high - low).max()), 1e-3)
    return [
        float(round(v, 3))
        for v in (middle[0] - half, middle[0] + half, middle[1] - half, middle[1] + half)
    ]
