"""The style sheet: one look for all figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tutor.palette import CARD, INK, PALETTE, RULE

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def use_style() -> None:
    """Set matplotlib's defaults to the book's look: ink on a light card, ten safe colours, 110 dpi.

    The card stays light on a dark page (see `tutor.palette`).  Call it once, after the imports.

    Example:
        >>> use_style()
        >>> import matplotlib
        >>> matplotlib.rcParams["figure.dpi"]
        110.0
    """
    import matplotlib as mpl
    from cycler import cycler

    mpl.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.dpi": 110,
            "figure.figsize": (5.0, 4.0),
            "figure.facecolor": CARD,
            "savefig.facecolor": CARD,
            "figure.constrained_layout.use": True,
            "axes.facecolor": CARD,
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "axes.titlecolor": INK,
            "axes.titlesize": 11,
            "axes.labelsize": 10,
            "axes.linewidth": 0.8,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            # Lines differ by dash as well as by colour: hue alone would not reach every reader.
            "axes.prop_cycle": cycler(color=PALETTE[:4]) + cycler(linestyle=["-", "--", "-.", ":"]),
            "grid.color": RULE,
            "grid.linewidth": 0.6,
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "legend.frameon": False,
            "legend.fontsize": 9,
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans"],
            "font.size": 10,
            "lines.linewidth": 1.6,
            "image.interpolation": "nearest",
            "svg.fonttype": "none",
        }
    )


def new_axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    if ax is not None:
        return ax
    from matplotlib import pyplot as plt

    return plt.subplots(figsize=size)[1]
