"""What happened during training: a table that can draw itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from tutor.game import Turn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WINDOW = 50  # steps averaged into one row: short enough to see, long enough to read


class History(pd.DataFrame):
    """Losses and terms of a training run, one row for every 50 steps.

    It is a pandas table: the index ``step`` counts the steps done at the end of the row, a column
    ``player/term`` is the mean of that term over the row's steps.  ``attrs`` holds the device, the
    number of steps, the seconds they took and the ``loop`` that played them (see `tutor.graphs`).
    """

    @property
    def _constructor(self) -> type[History]:
        return History

    def curves(self) -> Figure:
        """Draw every column against the step."""
        from tutor.plots import curves

        return curves(self)


class Recorder:
    """Collects the turns of a run without waiting for the device, and averages them by window."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._unread: list[tuple[int, str, dict[str, Tensor]]] = []
        self._tables: list[tuple[int, list[tuple[str, list[str]]], Tensor]] = []

    def add(self, step: int, turn: Turn) -> None:
        """Keep the turn's values on the device until somebody reads them."""
        self._unread.append((step, turn.player, {"loss": turn.loss.detach(), **turn.terms}))

    def add_table(self, first: int, turns: list[tuple[str, list[str]]], table: Tensor) -> None:
        """Keep the values of many steps, which are read before what `add` keeps.

        Args:
            first: the step of the first row.
            turns: of every step, the player and the names of its values, in the table's order.
            table: ``(steps, values)``; it must not change before it is read.
        """
        self._tables.append((first, turns, table))

    def latest(self, turn: Turn) -> dict[str, float]:
        """Values of the turn just added; on a CPU this costs nothing."""
        return {"loss": turn.loss.item(), **{k: v.item() for k, v in turn.terms.items()}}

    def unread(self) -> Iterator[tuple[tuple[int, str], dict[str, float]]]:
        """Read everything added since the last call, in one transfer, and add it to the window."""
        tables, self._tables = self._tables, []
        for first, in_turn, table in tables:
            for step, row in enumerate(table.tolist(), first):
                values = iter(row)
                for player, names in in_turn:
                    yield self._counted(step, player, {name: next(values) for name in names})
        flat = [value for _, _, values in self._unread for value in values.values()]
        # One transfer for each device and type; a Mac's GPU has no float64 to convert to.
        groups: dict[Any, list[int]] = {}
        for i, value in enumerate(flat):
            groups.setdefault((value.device, value.dtype), []).append(i)
        read_out = dict.fromkeys(range(len(flat)), 0.0)
        for places in groups.values():
            read = torch.stack([flat[i] for i in places]).tolist()
            read_out.update(zip(places, map(float, read), strict=True))
        numbers = iter(read_out.values())
        turns, self._unread = self._unread, []
        for step, player, values in turns:
            yield self._counted(step, player, {name: next(numbers) for name in values})

    def _counted(
        self, step: int, player: str, read: dict[str, float]
    ) -> tuple[tuple[int, str], dict[str, float]]:
        for name, value in read.items():
            column = f"{player}/{name}"
            self._sums[column] = self._sums.get(column, 0.0) + value
            self._counts[column] = self._counts.get(column, 0) + 1
        return (step, player), read

    @staticmethod
    def window_ends(done: int) -> bool:
        return done % WINDOW == 0

    def close_window(self, done: int) -> dict[str, str]:
        """Turn the window into a row; returns its values as short text for the progress bar."""
        means = {column: self._sums[column] / self._counts[column] for column in self._sums}
        self.rows.append({"step": done, **means})
        self._sums, self._counts = {}, {}
        return {column.split("/", 1)[1]: f"{value:.4g}" for column, value in means.items()}

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs, as JSON."""
        return {"rows": self.rows, "sums": self._sums, "counts": self._counts}

    def load_state(self, state: dict[str, Any]) -> None:
        self.rows = list(state["rows"])
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])

    def history(self, **attrs: Any) -> History:
        table = History(self.rows or {"step": []}).set_index("step")
        table.attrs.update(attrs)
        return table
