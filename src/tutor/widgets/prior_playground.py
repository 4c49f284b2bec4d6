"""PriorPlayground: codes flow onto a prior, recorded, or trained in the page on a drawn one."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import traitlets
from torch import Tensor, nn

from tutor.game import Turn, evaluating
from tutor.metrics.two_sample import energy_distance, noise_floor
from tutor.palette import CARD, INK, PALETTE, RULE
from tutor.priors import DrawnPrior
from tutor.widgets._live import LiveFigure, bundle, stylesheet
from tutor.widgets.recordings import Recording, check_recordings, pack_recordings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MUTED = "#5c6270"
DRAW = "Draw your own"
THICKNESS = 0.12
COMPONENTS = 32


class PriorPlayground(LiveFigure):
    """Choose a prior and watch the codes of an adversarial autoencoder flow onto it, live.

    Every dot is the code of an image, coloured by class, at one moment of a recorded training;
    between recorded moments it moves in a straight line.  A slider, a button and keys move through
    the training.  Three shades hold 50, 90 and 99 % of the prior's mass, one all of a flat prior's.
    Under the pointer the trained decoder draws the mean of p(x|z).  Beside the plane stand the
    squared energy distance of codes to prior and its noise floor, where they were recorded.

    The reader may also draw a prior.  With ``images`` the page then trains a small adversarial
    autoencoder on their first principal components, by itself, without a kernel.  With a kernel
    ``playground.drawn`` holds the drawn points, `drawn_prior` is a prior made of them, and
    `train_on_drawn` trains `tutor.models.AAE` on it and shows that training in the figure.

    ``playground.prior`` (a name), ``playground.progress`` (0 to 1, through training) and
    ``playground.z`` follow what the reader does, and may be set.

    Args:
        recordings: for each name that readers choose from, the `Recording` of a training under
            that prior; all of the same images, at most ten classes.
        images: those images, ``(n, C, H, W)`` in [0, 1]; without them no prior can be drawn.

    Raises:
        TypeError: if something else than recordings is given, codes or images are not floats,
            labels not int64, or a decoder has layers that the page can't run.
        ValueError: if shapes don't fit each other, a number is NaN or infinite, a prior is not in
            the plane, recordings show different images, there are more than ten classes, or a
            decoder draws something else when packed.

    Example:
        >>> from tutor.data import load
        >>> from tutor.models import AAE
        >>> from tutor.priors import SwissRoll
        >>> model, digits = AAE(prior=SwissRoll()), load("digits")
        >>> start = model.encode(digits[:50]).mean.detach()
        >>> end = model.prior.sample((50,))
        >>> recording = Recording(
        ...     model.prior,
        ...     steps=[0, 1000],  # T moments
        ...     codes=torch.stack([start, end]),  # (T, n, 2)
        ...     labels=digits.labels[:50],  # (n,)
        ...     decoder=model,  # or an nn.Sequential that returns images
        ...     energy=[3.1, 0.02],  # optional: metrics.energy_distance at each moment
        ...     floor=0.004,  # optional: metrics.noise_floor(...).std
        ... )
        >>> PriorPlayground({"Swiss roll": recording}, images=digits[:50])
        PriorPlayground(Swiss roll, points=50)
    """

    _esm = bundle(
        "page.js", "runtime.js", "plane.js", "unpack.js", "tiny_aae.js", "sketch.js",
        "learner.js", "curve.js", "flow.js", "prior_playground.js",
    )  # fmt: skip
    _css = stylesheet("live.css", "prior_playground.css")

    recordings = traitlets.List().tag(sync=True)
    points = traitlets.Bytes().tag(sync=True)
    weights = traitlets.Bytes().tag(sync=True)
    labels = traitlets.Bytes().tag(sync=True)
    classes = traitlets.List(traitlets.Unicode()).tag(sync=True)
    components = traitlets.Dict().tag(sync=True)
    features = traitlets.Bytes().tag(sync=True)
    thickness = traitlets.Float(THICKNESS).tag(sync=True)
    prior = traitlets.Unicode().tag(sync=True)
    progress = traitlets.Float(1.0).tag(sync=True)
    z = traitlets.List(traitlets.Float(), minlen=2, maxlen=2).tag(sync=True)
    drawn = traitlets.List().tag(sync=True)
    trained = traitlets.Dict().tag(sync=True)

    def __init__(
        self, recordings: Mapping[str, Recording], *, images: Tensor | None = None
    ) -> None:
        check_recordings(recordings)
        if DRAW in recordings:
            raise ValueError(
                f"a recording is called {DRAW!r}, which is the figure's own; rename it"
            )
        names = list(recordings)
        n = recordings[names[0]].codes.shape[1]
        packed = pack_recordings(recordings)
        shapes = {
            name: tuple(r["spec"]["shape"])
            for name, r in zip(names, packed.recordings, strict=True)
        }
        if len(set(shapes.values())) > 1:
            raise ValueError(f"the decoders return images of different shapes: {shapes}")
        components, features = {}, b""
        if images is not None:
            _check_images(images, n, shapes[names[0]])
            components, features = principal_components(images)
        self._images, self._shown = images, dict(recordings)
        self._name = f"PriorPlayground({', '.join(names)}, points={n})"
        super().__init__(
            alt="Latent planes of adversarial autoencoders, one for each prior: "
            f"{', '.join(names)}. In each the codes of the same {n} images at the end of "
            "training, coloured by class, over contours of the prior.",
            recordings=packed.recordings,
            points=packed.points,
            weights=packed.weights,
            labels=packed.labels,
            classes=packed.classes,
            components=components,
            features=features,
            prior=names[0],
            z=[0.0, 0.0],
        )

    def __repr__(self) -> str:
        return self._name

    @traitlets.validate("prior")
    def _known(self, proposal: Any) -> str:
        names = [r["name"] for r in self.recordings] + [DRAW] * bool(self.features)
        if proposal["value"] not in names:
            raise traitlets.TraitError(
                f"prior is {proposal['value']!r}; choose one of {', '.join(names)}"
            )
        return proposal["value"]

    @traitlets.validate("progress")
    def _share(self, proposal: Any) -> float:
        if not 0 <= proposal["value"] <= 1:
            raise traitlets.TraitError(
                f"progress is {proposal['value']}; expected a number from 0, the start, to 1"
            )
        return proposal["value"]

    @traitlets.validate("z")
    def _finite(self, proposal: Any) -> list[float]:
        if not all(map(math.isfinite, proposal["value"])):
            raise traitlets.TraitError(f"z is {proposal['value']}; expected two finite numbers")
        return proposal["value"]

    @traitlets.validate("drawn")
    def _pairs(self, proposal: Any) -> list[list[float]]:
        try:
            pairs = [[float(a), float(b)] for a, b in proposal["value"]]
        except (TypeError, ValueError) as error:
            raise traitlets.TraitError("drawn must be a list of pairs of numbers") from error
        if not all(math.isfinite(v) for pair in pairs for v in pair):
            raise traitlets.TraitError("drawn has a point that is NaN or infinite")
        return pairs

    def drawn_prior(self) -> DrawnPrior:
        """What the reader has drawn, as a prior: Gaussians of std ``thickness`` along the strokes.

        Raises:
            ValueError: if nothing has been drawn.
        """
        return DrawnPrior(self.drawn, thickness=self.thickness)

    def train_on_drawn(
        self, dataset: Any, *, steps: int = 1500, moments: int = 24, model: Any = None, **fit: Any
    ) -> Any:
        """Train an adversarial autoencoder on the drawn prior and show its training in the figure.

        Args:
            dataset: what to train on.
            steps: rounds of `tutor.fit`.
            moments: how many moments to record, beside the first.
            model: the model to train, with `drawn_prior` as its prior; by default a new
                `tutor.models.AAE` for images of this shape, with the settings of the chapter.
            **fit: more arguments for `tutor.fit`, such as ``batch_size``.

        Returns:
            the trained model.

        Raises:
            ValueError: if nothing has been drawn, the figure was made without ``images``, or
                ``moments`` is not from 1 to ``steps``; also as `tutor.fit`.
        """
        from tutor.models import AAE
        from tutor.nets import mlp_decoder, mlp_encoder
        from tutor.training import decay_after
        from tutor.training import fit as play

        prior = self.drawn_prior()
        if self._images is None:
            raise ValueError("this figure has no images to encode; make it with images=...")
        if not 1 <= moments <= steps:
            raise ValueError(f"moments is {moments}; expected between 1 and steps={steps}")
        if model is None:
            shape = tuple(self._images.shape[1:])
            model = AAE(
                2,
                prior=prior,
                image_shape=shape,
                gradient_penalty=0.02,
                encoder=mlp_encoder(shape, 2, hidden=(256, 256), dropout=0.2),
                decoder=mlp_decoder(2, shape, hidden=(64, 64)),
            )
            fit = {"optimizer": _optimizers(), "schedule": decay_after(0.5)} | fit
        watched = Watched(model, self._images, steps, moments)
        play(watched, dataset, steps=steps, **fit)
        watched.look()
        model.eval()
        codes, prior = torch.stack(watched.codes), self.drawn_prior()  # on the CPU, as the codes
        labels = next(iter(self._shown.values())).labels
        self.show_trained(
            Recording(prior, watched.steps, codes, labels, model, *distances_to(prior, codes))
        )
        return model

    def show_trained(self, recording: Recording) -> None:
        """Show a training on the drawn prior in place of the page's own.

        Raises:
            TypeError, ValueError: as the class.
        """
        first = next(iter(self._shown.values()))
        check_recordings({"the first": first, DRAW: recording})
        packed = pack_recordings({DRAW: recording})
        # As text: not every front end delivers bytes after a widget's first message.
        self.trained = {
            "recording": packed.recordings[0],
            "points": base64.b64encode(packed.points).decode(),
            "weights": base64.b64encode(packed.weights).decode(),
        }
        self.prior = DRAW
        self.progress = 1.0

    def picture(self) -> Figure:
        """The last codes under each prior, side by side."""
        from matplotlib.figure import Figure

        across = min(len(self._shown), 4)
        down = math.ceil(len(self._shown) / across)
        figure = Figure(
            figsize=(0.2 + 2.1 * across, 0.35 + 2.3 * down),
            dpi=84,
            facecolor=CARD,
            layout="constrained",
        )
        grid = figure.subplots(down, across, squeeze=False).ravel()
        labels = np.frombuffer(self.labels, "u1")
        colours = [PALETTE[k] for k in labels]
        for axes, described, recording in zip(
            grid, self.recordings, self._shown.values(), strict=False
        ):
            codes = recording.codes[-1].cpu().numpy()
            axes.scatter(*codes.T, c=colours, s=5, linewidths=0, alpha=0.85)
            for contour in described["contours"]:
                for line in contour["lines"]:
                    axes.plot(*np.transpose(line), color=MUTED, linewidth=0.7, linestyle="--")
            axes.set(aspect="equal", adjustable="datalim")
            axes.set_title(described["name"], color=INK, size=9)
            axes.set_facecolor(CARD)
            axes.tick_params(colors=MUTED, labelsize=7, length=2)
            for spine in axes.spines.values():
                spine.set_color(RULE)
        for axes in grid[len(self._shown) :]:
            axes.set_axis_off()
        present = [
            figure.axes[0].scatter([], [], color=PALETTE[k], s=14, label=name)
            for k, name in enumerate(self.classes)
        ]
        figure.legend(
            handles=present, loc="outside lower center", ncols=min(len(present), 5 * across),
            frameon=False,
            fontsize=7, labelcolor=INK, handletextpad=0.1, columnspacing=1.0,
        )  # fmt: skip
        return figure


def _optimizers() -> dict[str, Any]:
    """Adam for each player of an AAE; the two of the game remember less of the past."""

    def adam(betas: tuple[float, float]) -> Any:
        return lambda parameters: torch.optim.Adam(parameters, lr=1e-3, betas=betas)

    return {
        "autoencoder": adam((0.9, 0.999)),
        "discriminator": adam((0.5, 0.99)),
        "generator": adam((0.5, 0.99)),
    }


class Watched(nn.Module):
    """A model that keeps the codes of some images, as they move while it is trained."""

    def __init__(self, model: Any, images: Tensor, steps: int, moments: int) -> None:
        super().__init__()
        self.model, self.images = model, images
        self.steps: list[int] = []
        self.codes: list[Tensor] = []
        self.due = set(np.linspace(0, steps, moments + 1).round().astype(int).tolist())
        self.done = 0

    @property
    def players(self) -> Any:
        return self.model.players

    def step(self, batch: Any) -> Iterator[Turn]:
        if self.done in self.due:
            self.look()
        self.done += 1
        yield from self.model.step(batch)

    def look(self) -> None:
        """The codes as they are now."""
        with evaluating(self.model):
            parts = [
                self.model.encode(part.to(self.model.device)).mean.cpu()
                for part in self.images.split(500)
            ]
        self.steps.append(self.done)
        self.codes.append(torch.cat(parts))


def distances_to(prior: DrawnPrior, codes: Tensor) -> tuple[list[float], float]:
    """The squared energy distance of codes ``(T, n, 2)`` to the prior at each moment, its floor.

    The floor is the standard deviation of that distance between two samples of the prior.

    Example:
        >>> prior = DrawnPrior([[0.0, 0.0], [1.0, 0.0]], thickness=0.1)
        >>> near = prior.sample((50,), generator=torch.Generator().manual_seed(1))
        >>> (there, far), floor = distances_to(prior, torch.stack([near, near + 1]))
        >>> abs(there) < 4 * floor < far
        True
    """
    g, n = torch.Generator().manual_seed(0), codes.shape[1]

    def draw(n: int, generator: torch.Generator | None) -> Tensor:
        return prior.sample((n,), generator=generator)

    energy = [energy_distance(moment, draw(n, g)).item() for moment in codes]
    return energy, noise_floor(energy_distance, draw, n, repeats=20, generator=g).std.item()


def principal_components(images: Tensor, count: int = COMPONENTS) -> tuple[dict[str, Any], bytes]:
    """Images as a few numbers each, from which a page can draw them again, roughly.

    With mean ``m`` and principal components ``c_k``, unit vectors of pixels, the features of image
    x are ``<c_k, x - m> / unit``, where ``unit`` makes the first one's standard deviation 1; then
    ``x`` is about ``m + unit * sum_k feature_k c_k``.  Each component and each column of features
    is stored as int8 with a scale, the mean as uint8.

    Returns:
        ``{"count", "shape", "unit", "feature_scale", "component_scale"}`` and compressed bytes:
        mean ``(D,)``, components ``(count, D)``, features ``(n, count)``.

    Example:
        >>> about, data = principal_components(torch.rand(40, 1, 8, 8), count=5)
        >>> about["count"], about["shape"]
        (5, [1, 8, 8])
    """
    flat = images.detach().cpu().double().flatten(1)
    mean = flat.mean(0)
    left, lengths, vectors = torch.linalg.svd(flat - mean, full_matrices=False)
    # a component along which nothing varies is of no use, and its direction is arbitrary
    count = min(count, int((lengths > 1e-6 * lengths[0].clamp(min=1e-12)).sum()))
    if count < 2:
        raise ValueError("the images hardly differ; give different images to train on")
    vectors, scores = vectors[:count], left[:, :count] * lengths[:count]
    turned = vectors.gather(1, vectors.abs().argmax(1, keepdim=True)).sign()  # any sign would do
    vectors, scores = vectors * turned, scores * turned.T
    unit = float(scores[:, 0].std())
    packed, scales = [], []
    for table in (vectors, (scores / unit).T):
        scale = table.abs().amax(1) / 127
        packed.append((table / scale[:, None]).round().to(torch.int8))
        scales.append([float(f"{s:.6g}") for s in scale.tolist()])
    about = {
        "count": count,
        "shape": list(images.shape[1:]),
        "unit": float(f"{unit:.6g}"),
        "component_scale": scales[0],
        "feature_scale": scales[1],
    }
    grey = (255 * mean).round().clamp(0, 255).to(torch.uint8)
    data = b"".join(t.contiguous().numpy().tobytes() for t in (grey, packed[0], packed[1].T))
    return about, zlib.compress(data, 9)


def _check_images(images: Any, n: int, shape: tuple[int, ...]) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        given = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images are {given}; expected a tensor of floats, as dataset[:{n}] gives")
    if tuple(images.shape) != (n, *shape):
        raise ValueError(
            f"images have shape {tuple(images.shape)}; expected {(n, *shape)}: those whose codes "
            "were recorded, as the decoders draw them"
        )
    if not images.isfinite().all():
        raise ValueError("images hold NaN or infinite values; expected numbers in [0, 1]")
