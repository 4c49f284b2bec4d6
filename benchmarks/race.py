"""Loops that take turns: each trains a few steps a round, and the rounds are compared.

A shared machine is fast now and slow then.  Turns a second apart see the same machine, and the
lower quartile over many rounds does not depend on a lucky one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Contestant:
    """A loop that goes on training its own copy of the model, a number of steps at each call."""

    name: str
    what: str
    train: Callable[[int], None]


def race(
    contestants: Sequence[Contestant], steps: int, rounds: int
) -> tuple[dict[str, list[float]], list[float]]:
    """Steps a second of each contestant in each round; and the machine's GFLOP/s between them.

    A round that is not counted comes first.  Each round begins with another contestant, so that
    nobody always follows the same neighbour.
    """
    rates: dict[str, list[float]] = {c.name: [] for c in contestants}
    peaks: list[float] = []
    for turn in range(rounds + 1):
        first = turn % len(contestants)
        for c in [*contestants[first:], *contestants[:first]]:
            began = time.perf_counter()
            c.train(steps)
            if turn:
                rates[c.name].append(steps / (time.perf_counter() - began))
        if turn:
            peaks.append(matrix_gflops())
    return rates, peaks


def matrix_gflops(side: int = 1024, products: int = 12) -> float:
    """GFLOP/s of a float32 matrix product, the best of a few: what the processor can do.

    The quickest, not the mean: a peak that a neighbour has slowed would flatter the loops.
    """
    a, b = torch.rand(2, side, side)
    out, best = torch.empty_like(a), float("inf")
    for _ in range(products):
        began = time.perf_counter()
        torch.mm(a, b, out=out)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best / 1e9


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile.

    Example:
        >>> quartiles([1.0, 2.0, 3.0, 4.0, 5.0])
        (2.0, 3.0, 4.0)
    """
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
