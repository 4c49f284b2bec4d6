"""The settings of a sweep: all combinations of a grid, each with a name of its own on disk."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

Grid = Mapping[str, Iterable[Any]] | Iterable[Mapping[str, Any]]


def combinations(grid: Mapping[str, Iterable[Any]]) -> list[dict[str, Any]]:
    """Every choice of one value for each name; the last name changes fastest.

    Raises:
        TypeError: if a name has something else than values to try.
        ValueError: if a name has no value.

    Example:
        >>> combinations({"beta": [1, 4], "seed": range(2)})[:3]
        [{'beta': 1, 'seed': 0}, {'beta': 1, 'seed': 1}, {'beta': 4, 'seed': 0}]
        >>> combinations({})
        [{}]
    """
    tried: dict[str, list[Any]] = {}
    for name, values in grid.items():
        if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
            raise TypeError(
                f"grid has {name}={values!r}; expected the values to try, such as [{values!r}]"
            )
        tried[name] = list(values)
        if not tried[name]:
            raise ValueError(
                f"there is nothing to run: grid has no value for {name!r}; give at least one, or "
                "leave it out"
            )
    return [dict(zip(tried, values, strict=True)) for values in itertools.product(*tried.values())]


def as_settings(grid: Grid) -> list[dict[str, Any]]:
    """The settings of a grid, each different from all others.

    Raises:
        TypeError: if it is no grid, or holds values that JSON can't hold.
        ValueError: if it is empty, or settings are the same or would share a file.

    Example:
        >>> as_settings({"beta": [1, 4], "seed": [0]})
        [{'beta': 1, 'seed': 0}, {'beta': 4, 'seed': 0}]
    """
    if isinstance(grid, Mapping):
        settings = combinations(grid)
    elif isinstance(grid, Iterable) and not isinstance(grid, str | bytes):
        settings = list(grid)
    else:
        raise TypeError(
            f"grid is a {type(grid).__name__}; expected a mapping from names to the values to try, "
            "or a list of settings"
        )
    if not settings or settings == [{}]:
        raise ValueError(f"there is nothing to run: grid is {grid!r}; name at least one value")
    first: dict[str, tuple[int, str]] = {}
    for i, setting in enumerate(settings):
        if not isinstance(setting, Mapping) or not all(isinstance(k, str) for k in setting):
            raise TypeError(
                f"setting {i} is {setting!r}; expected a mapping from the names of run's arguments "
                "to values"
            )
        stated = as_text(as_json(dict(setting), f"setting {i}"))
        name = row_name(setting).casefold()  # some disks take a.json and A.json for one file
        there, other = first.setdefault(name, (i, stated))
        if there != i and other == stated:
            raise ValueError(f"settings {there} and {i} are the same: {dict(setting)!r}")
        if there != i:
            raise ValueError(
                f"settings {there} and {i} would be kept in one file, {name}.json: "
                f"{other} and {stated}; use values that differ when they are written out"
            )
    return [dict(setting) for setting in settings]


def row_name(setting: Mapping[str, Any]) -> str:
    """The file of a setting's row, without ``.json``: its values, joined.

    Example:
        >>> row_name({"method": "beta-vae", "weight": 4.0, "seed": 0})
        'beta-vae-4.0-0'
    """
    name = "-".join(map(str, setting.values()))
    plain = re.sub(r'[/\\:*?"<>|\x00-\x1f]', "_", name)[:100]
    if plain == name and not name.startswith(".") and name:
        return name
    return f"{plain.lstrip('.')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def as_json(value: Any, what: str) -> Any:
    """The value as JSON gives it back; arrays and tensors become numbers and lists.

    Raises:
        TypeError: if JSON can't hold it.

    Example:
        >>> import torch
        >>> as_json({"loss": torch.tensor(0.5), "widths": (2, 3)}, "run's result")
        {'loss': 0.5, 'widths': [2, 3]}
    """

    def from_array(part: Any) -> Any:
        if hasattr(part, "tolist"):
            return part.tolist()
        raise TypeError(
            f"{what} holds {part!r}, a {type(part).__name__}, which can't be kept in a file; "
            "use numbers, strings, None, or lists of them (instead of a class, its name)"
        )

    return json.loads(json.dumps(value, default=from_array))


def as_text(value: Any) -> str:
    """What `as_json` returned, in a form that can be compared: as text NaN equals NaN.

    Example:
        >>> as_text({"b": 1, "a": float("nan")})
        '{"a": NaN, "b": 1}'
    """
    return json.dumps(value, sort_keys=True)
