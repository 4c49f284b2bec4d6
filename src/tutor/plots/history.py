"""Training curves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tutor.palette import colour

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def curves(history: pd.DataFrame, *, units: str = "nats", smooth: int = 1) -> Figure:
    """A training history, a panel for each term.

    Args:
        history: indexed by step, columns ``"<player>/<term>"``, as `tutor.fit` returns it.
        units: of the vertical axes.
        smooth: rows in a running mean, which looks back only; the rows stay visible, faint.
            `tutor.fit` has already averaged 50 steps into a row.

    Raises:
        ValueError: if the history is empty.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"vae/loss": [3.0, 2.0, 1.0], "vae/kl": [0.0, 0.5, 1.0]})
        >>> [ax.get_title() for ax in curves(table).axes]
        ['vae/loss', 'vae/kl']
    """
    if len(history) == 0 or len(history.columns) == 0:
        raise ValueError("the history is empty; train for at least one step first")
    from matplotlib import pyplot as plt

    columns = min(3, len(history.columns))
    rows = math.ceil(len(history.columns) / columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(3.4 * columns, 2.6 * rows), sharex=True, squeeze=False
    )
    for ax, name in zip(grid.flat, history.columns, strict=False):
        values = history[name].dropna()  # a player that did not move at a step left a gap
        if smooth > 1:
            ax.plot(values.index, values, color=colour(0), alpha=0.25, linewidth=0.8, linestyle="-")
        mean = values.rolling(min(smooth, len(values)), min_periods=1).mean()
        ax.plot(mean.index, mean, color=colour(0), linestyle="-")
        ax.set(title=name, xlabel="step", ylabel=units)
    for ax in list(grid.flat)[len(history.columns) :]:
        ax.remove()
    return figure
