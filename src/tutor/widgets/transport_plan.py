"""TransportPlan: drag two clouds of points and compare what it costs to carry one to the other."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import traitlets

from tutor.palette import CARD, INK, PALETTE, RULE
from tutor.widgets._live import LiveFigure, bundle, stylesheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MUTED = "#5c6270"
ACCENT = "#2f5fb3"
MOST_POINTS = 12

Cloud = list[list[float]]


class TransportPlan(LiveFigure):
    """Two small clouds of points, the plans that carry one to the other, and other distances, live.

    Cloud x has n points of mass 1/n, cloud y has m of mass 1/m.  Drag any of them: the page
    computes at once

    - the exact plan, the P with row sums 1/n and column sums 1/m that makes
      ``sum_ij P_ij c(x_i, y_j)`` least, drawn as lines whose width is the mass, and its cost: W_2
      squared for ``c = |x - y|**2``, W_1 for ``c = |x - y|``;
    - the entropic plan, which makes ``sum_ij P_ij c(x_i, y_j) - epsilon H(P)`` least, its cost
      without the entropy term, and its blur: over how many partners a point of x spreads its mass,
      ``exp(H(P) - log n)``;
    - KL(x || y), Jensen-Shannon divergence and total variation: of the points, where they are
      infinity, log 2 and 1 unless points share a spot, and after each point has become a round
      Gaussian of standard deviation h (numerically, to about three digits);
    - the maximum mean discrepancy of the points, with kernel ``C / (C + |x - y|**2)``, C = 4 h^2
      (``"imq"``), or ``exp(-|x - y|**2 / (2 h^2))`` (``"rbf"``).

    Each quantity is also drawn as a curve over a shift of cloud y along the first axis, and its
    slope stands beside its value.  Logarithms are natural.

    ``plan.x``, ``plan.y`` (before the shift), ``plan.shift``, ``plan.epsilon``, ``plan.width`` (h),
    ``plan.cost`` (``"squared"`` or ``"plain"``) and ``plan.kernel`` follow what the reader does,
    while a kernel runs, and may be set.

    Args:
        x: points ``(n, 2)``, at most 12.
        y: points ``(m, 2)``, at most 12.  Without x and y the figure begins with its first preset,
            two parallel lines.
        epsilon: strength of the entropy, in units of the cost; the slider's middle by default.

    Raises:
        ValueError: if a cloud is not ``(n, 2)``, has more than 12 points or a coordinate that is
            not finite, if only one is given, or if epsilon is beyond the slider's range.

    Source: Peyré & Cuturi (2019), Computational Optimal Transport, sections 2.3 and 4.1.

    Example:
        >>> TransportPlan([[0.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [2.0, 1.0], [2.0, 2.0]])
        TransportPlan(2 points, 3 points)
    """

    _esm = bundle(
        "page.js", "plane.js", "exact_plan.js", "entropic_plan.js", "cloud_distances.js",
        "quantity_card.js", "transport_plan.js",
    )  # fmt: skip
    _css = stylesheet("live.css", "transport_plan.css")

    presets = traitlets.List().tag(sync=True)
    bounds = traitlets.List(traitlets.Float()).tag(sync=True)
    ranges = traitlets.Dict().tag(sync=True)
    start = traitlets.Dict().tag(sync=True)
    x = traitlets.List().tag(sync=True)
    y = traitlets.List().tag(sync=True)
    shift = traitlets.Float(0.0).tag(sync=True)
    epsilon = traitlets.Float().tag(sync=True)
    width = traitlets.Float().tag(sync=True)
    cost = traitlets.Enum(["squared", "plain"], "squared").tag(sync=True)
    kernel = traitlets.Enum(["imq", "rbf"], "imq").tag(sync=True)

    def __init__(self, x: Any = None, y: Any = None, *, epsilon: float | None = None) -> None:
        if (x is None) != (y is None):
            raise ValueError("only one cloud is given; give x and y, or neither")
        middle, unit = np.zeros(2), 1.0
        given = []
        if x is not None:
            x, y = _cloud("x", x), _cloud("y", y)
            middle, unit = _frame(x, y)
            given = [{"name": "Given", "x": x, "y": y, "shift": 0.0}]
        presets = given + _presets(middle, unit)
        ranges = {
            "epsilon": [float(f"{e * unit**2:.6g}") for e in (0.005, 50.0)],
            "width": [float(f"{h * unit:.6g}") for h in (0.05, 2.0)],
        }
        self._check_range("epsilon", epsilon, ranges["epsilon"])
        start = {
            **{key: presets[0][key] for key in ("x", "y", "shift")},
            "epsilon": math.sqrt(math.prod(ranges["epsilon"])) if epsilon is None else epsilon,
            "width": 0.3 * unit,
            "cost": "squared",
            "kernel": "imq",
        }
        corners = [middle[0] - 4 * unit, middle[0] + 4 * unit]
        corners += [middle[1] - 4 * unit, middle[1] + 4 * unit]
        super().__init__(
            alt=_alt(len(start["x"]), len(start["y"])),
            presets=presets,
            bounds=[float(v) for v in corners],
            ranges=ranges,
            start=start,
            **start,
        )

    def __repr__(self) -> str:
        return f"TransportPlan({_count(self.x)}, {_count(self.y)})"

    @staticmethod
    def _check_range(name: str, value: float | None, limits: list[float]) -> None:
        if value is not None and not limits[0] <= value <= limits[1]:
            raise ValueError(
                f"{name} is {value}; for clouds of this extent the page takes {limits[0]} to "
                f"{limits[1]}"
            )

    @traitlets.validate("x", "y")
    def _points(self, proposal: Any) -> Cloud:
        try:
            return _cloud(proposal["trait"].name, proposal["value"])
        except ValueError as error:
            raise traitlets.TraitError(str(error)) from error

    @traitlets.validate("epsilon", "width")
    def _in_range(self, proposal: Any) -> float:
        name = proposal["trait"].name
        # a slider at its end may differ from the end by rounding
        low, high = self.ranges[name]
        try:
            self._check_range(name, proposal["value"], [low * (1 - 1e-9), high * (1 + 1e-9)])
        except ValueError as error:
            raise traitlets.TraitError(str(error)) from error
        return proposal["value"]

    @traitlets.validate("shift")
    def _finite(self, proposal: Any) -> float:
        if not math.isfinite(proposal["value"]):
            raise traitlets.TraitError(f"shift is {proposal['value']}; expected a finite number")
        return proposal["value"]

    def picture(self) -> Figure:
        """The clouds twice: under the exact plan, and under the entropic one."""
        from matplotlib.figure import Figure

        from tutor.transport import distance_table, exact_plan, sinkhorn

        x, y = np.array(self.x), np.array(self.y) + np.array([self.shift, 0.0])
        power, symbol = (2, "W_2^2") if self.cost == "squared" else (1, "W_1")
        table = distance_table(torch.from_numpy(x), torch.from_numpy(y), power=power)
        masses = [torch.full((n,), 1 / n, dtype=torch.float64) for n in table.shape]
        exact = exact_plan(table, *masses)
        # a thousandth of the mass is less than the eye sees in lines
        entropic = sinkhorn(table, *masses, self.epsilon, tolerance=1e-3)
        strength = f"entropic plan, $\\varepsilon$ = {self.epsilon:.3g}, cost"
        shown = (
            (f"exact plan, ${symbol}$ = {exact.value:.3g}", exact.plan, INK),
            (f"{strength} = {entropic.cost:.3g}", entropic.plan, ACCENT),
        )
        figure = Figure(figsize=(6.6, 3.4), dpi=84, facecolor=CARD, layout="constrained")
        for axes, (title, plan, colour) in zip(figure.subplots(1, 2), shown, strict=True):
            axes.set_title(title, color=INK, size=9)
            self._draw(axes, x, y, plan.numpy(), colour)
        return figure

    def _draw(self, axes: Axes, x: np.ndarray, y: np.ndarray, plan: np.ndarray, ink: str) -> None:
        for i, j in zip(*np.nonzero(plan > 1e-6), strict=True):
            width = 5 * min(plan.shape) * plan[i, j]
            axes.plot(*np.stack([x[i], y[j]], 1), color=ink, linewidth=width, zorder=1)
        dots = {"s": 42, "edgecolors": CARD, "linewidths": 0.8, "zorder": 2}
        axes.scatter(*x.T, c=PALETTE[0], marker="o", label="x", **dots)
        axes.scatter(*y.T, c=PALETTE[1], marker="s", label="y", **dots)
        axes.legend(loc="upper left", frameon=False, fontsize=8, labelcolor=INK)
        left, right, bottom, top = self.bounds
        axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
        axes.set_facecolor(CARD)
        axes.tick_params(colors=MUTED, labelsize=8, length=2)
        for spine in axes.spines.values():
            spine.set_color(RULE)


def _count(cloud: Cloud) -> str:
    return f"{len(cloud)} point{'s' * (len(cloud) > 1)}"


def _alt(n: int, m: int) -> str:
    return (
        f"Two clouds in the plane, {n} point{'s' * (n > 1)} x as circles and {m} point"
        f"{'s' * (m > 1)} y as squares, drawn twice. On the left lines join them as the cheapest "
        "plan carries mass from x to y; on the right as the entropic plan does, which spreads it."
    )


def _cloud(name: str, points: Any) -> Cloud:
    try:
        array = np.asarray(points, dtype="float64")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is no table of numbers; expected points (n, 2)") from error
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"{name} has shape {array.shape}; expected points in the plane, (n, 2)")
    if not 1 <= len(array) <= MOST_POINTS:
        raise ValueError(
            f"{name} has {len(array)} points; the figure takes 1 to {MOST_POINTS}, choose some"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has a coordinate that is NaN or infinite; give finite numbers")
    return array.tolist()


def _frame(x: Cloud, y: Cloud) -> tuple[np.ndarray, float]:
    """Middle and unit of a plane, 8 units wide, in which y can move to either side of x."""
    both = np.array(x + y)
    middle = (both.min(0) + both.max(0)) / 2
    unit = float(f"{max(np.abs(both - middle).max() / 2.4, 1e-6):.2g}")
    return middle.round(6), unit


def _presets(middle: np.ndarray, unit: float) -> list[dict[str, Any]]:
    """Clouds to begin with, in a plane of 8 by 8 units around ``middle``."""
    heights = np.linspace(-1.8, 1.8, 10)
    upright = np.stack([0 * heights, heights], 1)
    blob = np.random.default_rng(3).normal(0, 0.8, (2, 10, 2)).clip(-1.8, 1.8)
    angle = np.arange(8) * np.pi / 4
    ring = 1.5 * np.stack([np.cos(angle), np.sin(angle)], 1)
    trio = np.array([[-0.3, 0.8], [0.4, -0.1], [-0.2, -0.9]])
    clouds = {
        "Parallel lines": (upright, upright, 1.2),
        "Two points": (np.zeros((1, 2)), np.zeros((1, 2)), 1.6),
        "Overlapping blobs": (blob[0], blob[1] + [0.0, 0.4], 0.8),
        "Different sizes": (trio, ring, 0.6),
    }

    def placed(points: np.ndarray) -> Cloud:
        return (middle + unit * points).round(6).tolist()

    return [
        {"name": name, "x": placed(x), "y": placed(y), "shift": float(round(shift * unit, 6))}
        for name, (x, y, shift) in clouds.items()
    ]
