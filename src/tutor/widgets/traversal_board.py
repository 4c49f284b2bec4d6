"""TraversalBoard: sliders for all latent dimensions, and which factor each of them moves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import traitlets
from torch import Tensor

from tutor.palette import CARD, INK, RULE
from tutor.widgets._live import LiveFigure, bundle, stylesheet
from tutor.widgets.code_factors import correlation_ratios, correlations
from tutor.widgets.decoders_in_budget import compressed, pack_decoders
from tutor.widgets.export import run
from tutor.widgets.latent_explorer import MUTED, _atlas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_DIMENSIONS = 20
MOST_IMAGES = 12


class TraversalBoard(LiveFigure):
    """One slider for each latent dimension; the image is decoded in the page at once.

    Choose a model and an image to start from: the sliders stand at the mean of its q(z|x).  The
    strip shows the chosen dimension from one end to the other, the others held.  The table says
    which factor each dimension follows over many images: Pearson's correlation of code and factor,
    or the correlation ratio, which also sees factors without order (shape) and such that come
    round (orientation); see `tutor.widgets.code_factors`.  Beside each slider stands the factor
    with the largest entry, from 0.3 on.  The last column, the standard deviation of the code, is
    near 0 for a dimension that is not used (below 0.1 the slider says so) and near 1 for one that
    is.

    ``board.model`` (a name), ``board.start`` (which start image), ``board.z``,
    ``board.dimension`` and ``board.measure`` (``"correlation"`` or ``"ratio"``) follow what the
    reader does, while a kernel runs, and may be set.

    Args:
        models: for each name that readers choose from, a model with ``encode``, ``decode``,
            ``image_shape``, ``latent_dim`` and a ``decoder`` that `export_decoder` can pack; all of
            the same image shape and latent dimension.  All decoders together must fit into 680 KB
            of compressed weights of 6 to 13 bits: two of `tutor.nets.factor_vae_decoder` do.
        dataset: with ``factors``, ``factor_names`` and images for the models.
        images: how many start images.
        points: how many images are encoded for the table.
        generator: draws the images, the start images being the first ones; a new one with seed 0
            by default, since the first images of a grid of factors are all alike.

    Raises:
        TypeError: if a decoder has layers that the page can't run.
        ValueError: if there is no model, models don't fit each other or the data, the data set has
            no factors, ``images`` or ``points`` are too few or too many, a code is not finite, the
            decoders are too large, or what is packed draws something else.

    Example:
        >>> from tutor.data import Dataset
        >>> from tutor.models import BetaVAE
        >>> factors = torch.cartesian_prod(torch.arange(4), torch.arange(4))
        >>> images = torch.zeros(16, 1, 8, 8)
        >>> for i, (row, column) in enumerate(factors.tolist()):
        ...     images[i, 0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = 1
        >>> data = Dataset(images, name="squares")
        >>> data.factors, data.factor_names, data.factor_sizes = factors, ("row", "column"), (4, 4)
        >>> model = BetaVAE(latent_dim=3, image_shape=(1, 8, 8))
        >>> TraversalBoard({"beta-VAE": model}, data, images=4, points=16)
        TraversalBoard(beta-VAE, squares, images=4, points=16)
    """

    _esm = bundle("page.js", "runtime.js", "unpack.js", "heat_table.js", "traversal_board.js")
    _css = stylesheet("live.css", "traversal_board.css")

    models = traitlets.List().tag(sync=True)
    weights = traitlets.Bytes().tag(sync=True)
    images = traitlets.Bytes().tag(sync=True)
    factors = traitlets.List(traitlets.Unicode()).tag(sync=True)
    factor_values = traitlets.List().tag(sync=True)
    reach = traitlets.Float().tag(sync=True)
    model = traitlets.Unicode().tag(sync=True)
    start = traitlets.Int(0).tag(sync=True)
    z = traitlets.List(traitlets.Float()).tag(sync=True)
    dimension = traitlets.Int(0).tag(sync=True)
    measure = traitlets.Enum(["correlation", "ratio"], "correlation").tag(sync=True)

    def __init__(
        self,
        models: Mapping[str, Any],
        dataset: Any,
        *,
        images: int = 8,
        points: int = 2000,
        generator: torch.Generator | None = None,
    ) -> None:
        shape, dims = _checked_models(models)
        factors = _checked_factors(dataset)
        if not 2 <= points <= len(dataset):
            raise ValueError(
                f"points is {points}, the data set has {len(dataset)} images; "
                f"choose points between 2 and {len(dataset)}"
            )
        if not 1 <= images <= min(MOST_IMAGES, points):
            raise ValueError(f"images is {images}; choose between 1 and {min(MOST_IMAGES, points)}")
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        index = torch.randperm(len(dataset), generator=generator)[:points]
        shown = dataset[index]
        if tuple(shown.shape[1:]) != shape:
            raise ValueError(
                f"the data set's images have shape {tuple(shown.shape[1:])}, the models' {shape}; "
                "give the data that the models were trained on"
            )
        values = factors[index.to(factors.device)].cpu()
        codes = {name: _codes(name, model, shown) for name, model in models.items()}
        packed, self._weights, bits = pack_decoders(models, codes)
        described = [
            {
                "name": name,
                **packed[name],
                "codes": [_rounded(row) for row in own[:images]],
                "correlation": [_rounded(row, 3) for row in correlations(own, values)],
                "ratio": [_rounded(row, 3) for row in correlation_ratios(own, values)],
                "spreads": _rounded(own.double().std(0), 3),
            }
            for name, own in codes.items()
        ]
        furthest = max(own[:images].abs().max().item() for own in codes.values())
        label = getattr(dataset, "name", None) or "images"
        about = " and ".join(models)
        self._name = (
            f"TraversalBoard({', '.join(models)}, {label}, images={images}, points={points})"
        )
        self.bits = bits
        super().__init__(
            alt=f"Traversals of the {dims} latent dimensions of {about} on {label}: in each row "
            "what the decoder draws as one dimension goes from one end to the other; beside them a "
            f"table how each follows the factors {', '.join(dataset.factor_names)}.",
            models=described,
            weights=compressed(self._weights),
            images=_atlas(shown[:images]),
            factors=[str(name) for name in dataset.factor_names],
            factor_values=values[:images].tolist(),
            reach=max(3.0, math.ceil(2 * furthest) / 2),
            model=described[0]["name"],
            z=described[0]["codes"][0],
        )

    def __repr__(self) -> str:
        return self._name

    @traitlets.validate("model")
    def _known(self, proposal: Any) -> str:
        names = [model["name"] for model in self.models]
        if proposal["value"] not in names:
            raise traitlets.TraitError(
                f"model is {proposal['value']!r}; choose one of {', '.join(names)}"
            )
        return proposal["value"]

    @traitlets.validate("start", "dimension")
    def _counted(self, proposal: Any) -> int:
        name, value = proposal["trait"].name, proposal["value"]
        last = len(self.models[0]["codes" if name == "start" else "spreads"]) - 1
        if not 0 <= value <= last:
            raise traitlets.TraitError(f"{name} is {value}; expected 0 to {last}")
        return value

    @traitlets.validate("z")
    def _finite(self, proposal: Any) -> list[float]:
        z, dims = proposal["value"], len(self.models[0]["spreads"])
        if len(z) != dims or not all(map(math.isfinite, z)):
            raise traitlets.TraitError(f"z is {z}; expected {dims} finite numbers")
        return z

    def picture(self) -> Figure:
        """Traversals of all dimensions of the chosen model, and the chosen table."""
        from matplotlib.figure import Figure

        net = next(model for model in self.models if model["name"] == self.model)
        dims, tiles = len(self.z), 7
        z = torch.tensor(self.z).repeat(dims, tiles, 1)
        for k in range(dims):
            z[k, :, k] = torch.linspace(-self.reach, self.reach, tiles)
        drawn = run(net["spec"], self._weights[self.model], z.flatten(0, 1)).clamp(0, 1)
        _, c, h, w = drawn.shape
        sheet = drawn.view(dims, tiles, c, h, w).permute(0, 3, 1, 4, 2)
        sheet = sheet.reshape(dims * h, tiles * w, c).numpy()
        figure = Figure(
            figsize=(6.6, 0.7 + 0.38 * max(dims, 4)), dpi=84, facecolor=CARD, layout="constrained"
        )
        strips, table = figure.subplots(1, 2, width_ratios=[1.15, 1])
        strips.imshow(
            sheet[:, :, 0] if c == 1 else sheet, cmap="gray", vmin=0, vmax=1,
            extent=(-self.reach, self.reach, dims + 0.5, 0.5), aspect="auto",
        )  # fmt: skip
        edges = np.linspace(-self.reach, self.reach, tiles + 1)[1:-1]
        strips.vlines(edges, 0.5, dims + 0.5, color=CARD, linewidth=1.5)
        strips.hlines(np.arange(1, dims) + 0.5, -self.reach, self.reach, color=CARD, linewidth=1.5)
        strips.set_title(f"{self.model}: traversals", color=INK, size=9)
        strips.set_yticks(range(1, dims + 1), [f"$z_{{{k + 1}}}$" for k in range(dims)])
        self._heat(table, np.array(net[self.measure], dtype="float64"))
        for axes in (strips, table):
            axes.tick_params(colors=MUTED, labelsize=8, length=2)
            for spine in axes.spines.values():
                spine.set_color(RULE)
        return figure

    def _heat(self, axes: Axes, values: np.ndarray) -> None:
        from matplotlib.colors import LinearSegmentedColormap

        colours = LinearSegmentedColormap.from_list("signed", ["#c34b0f", CARD, "#2f5fb3"])
        axes.imshow(values, cmap=colours, vmin=-1.6, vmax=1.6, aspect="auto")
        for (k, f), value in np.ndenumerate(values):
            text = "\u2013" if np.isnan(value) else f"{round(value, 2) + 0.0:.2f}"
            axes.text(
                f, k, text.replace("-", "\u2212"), size=7, color=INK, ha="center", va="center"
            )
        axes.set_title("codes and factors: " + self.measure, color=INK, size=9)
        axes.set_xticks(range(len(self.factors)), self.factors, rotation=30, ha="right")
        axes.set_yticks([])


def _rounded(values: Tensor, digits: int = 4) -> list[float | None]:
    """Short numbers for the page; None for what is not known."""
    return [None if math.isnan(v) else round(v, digits) + 0.0 for v in values.tolist()]


def _checked_models(models: Any) -> tuple[tuple[int, ...], int]:
    if not isinstance(models, Mapping) or not models:
        raise ValueError(
            f'models is {type(models).__name__}; expected at least one, {{"name": model}}'
        )
    shapes, dims = {}, {}
    for name, model in models.items():
        for needed in ("encode", "decode", "decoder", "image_shape", "latent_dim"):
            if not hasattr(model, needed):
                raise ValueError(f"{name!r}, a {type(model).__name__}, has no {needed}")
        shapes[name], dims[name] = tuple(model.image_shape), model.latent_dim
    if len(set(shapes.values())) > 1:
        raise ValueError(f"the models make images of different shapes: {shapes}")
    if len(set(dims.values())) > 1:
        raise ValueError(f"the models have different numbers of latent dimensions: {dims}")
    shape, latent = next(iter(shapes.values())), next(iter(dims.values()))
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(f"the models make images of shape {shape}; expected (1 or 3, H, W)")
    if latent > MOST_DIMENSIONS:
        raise ValueError(
            f"the models have {latent} latent dimensions; the figure has room for {MOST_DIMENSIONS}"
        )
    return shape, latent


def _checked_factors(dataset: Any) -> Tensor:
    factors = getattr(dataset, "factors", None)
    if factors is None:
        name = getattr(dataset, "name", None) or type(dataset).__name__
        raise ValueError(
            f"{name} has no factors; the figure compares codes with true factors: take "
            'load("dsprites"), load("shapes3d"), or set factors and factor_names'
        )
    if len(dataset.factor_names) != factors.shape[1]:
        raise ValueError(
            f"there are {factors.shape[1]} factors and {len(dataset.factor_names)} factor_names; "
            "give each factor its name"
        )
    return factors


def _codes(name: str, model: Any, images: Tensor) -> Tensor:
    from tutor.metrics import encode_all

    codes = encode_all(model, images).float()
    if codes.shape[1] != model.latent_dim:
        raise ValueError(
            f"the encoder of {name!r} returns {codes.shape[1]} numbers a code; expected "
            f"latent_dim={model.latent_dim}"
        )
    if not codes.isfinite().all():
        raise ValueError(f"the encoder of {name!r} returns NaN or infinite codes; train it again")
    return codes
