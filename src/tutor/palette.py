"""The colours of the book: one list for printed and for live figures.

No dependency, so that anything may import it.
"""

from __future__ import annotations

PALETTE: tuple[str, ...] = (
    "#5a0fff",  # violet
    "#c34b0f",  # rust
    "#009678",  # teal
    "#3c3c5a",  # slate
    "#ffb41e",  # amber
    "#690096",  # purple
    "#5ad2f0",  # sky
    "#781e1e",  # maroon
    "#a5d287",  # leaf
    "#c369ff",  # lilac
)
"""Ten class colours, found by a search that keeps every pair apart.

In each of four views (usual sight and simulated protanopia, deuteranopia and tritanopia, after
Machado, Oliveira & Fernandes 2009) any two lie at least 26 apart in CIELAB; a test checks it.
The first four have a contrast of at least 3:1 on the card, so lines use them.  Ten colours are
still too many to name at a glance: every figure also tells classes apart by marker and label.
"""

CARD = "#fcfbf8"
"""Background of every figure.  One light card serves the light and the dark page, because no
single ink reads well on both; the dark page shows the figure as a card."""

INK = "#1f2430"
"""Text and axes on the card."""

RULE = "#d9d6cf"
"""Grid lines and frames on the card."""


def colour(index: int) -> str:
    """Colour of class ``index``; beyond ten the colours come round again.

    Example:
        >>> colour(0), colour(10)
        ('#5a0fff', '#5a0fff')
    """
    return PALETTE[index % len(PALETTE)]
