"""The book's figures: one style sheet and a few plots, each on its own Axes.

Every function takes ``ax=`` (a new figure is made without it) and returns the Axes, so that
panels can be put side by side; `curves` has a panel for each term and returns its Figure.
Classes differ by colour, by marker and by a label at their centre, so that nothing rests on
colour vision.  matplotlib loads at the first call, not at import.
"""

from tutor.plots.history import curves
from tutor.plots.images import (
    image_grid,
    interpolations,
    manifold,
    reconstructions,
    samples,
    traversals,
)
from tutor.plots.latent import latent_scatter, posterior_ellipses
from tutor.plots.style import use_style

__all__ = [
    "curves",
    "image_grid",
    "interpolations",
    "latent_scatter",
    "manifold",
    "posterior_ellipses",
    "reconstructions",
    "samples",
    "traversals",
    "use_style",
]
