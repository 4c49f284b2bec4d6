"""Scripts of experiments, run from end to end with few steps, write to a folder of their own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import tutor
from experiments import record, runs

SHIPPED = record.RESULTS


class Script:
    """Runs a script whose constants are replaced by small ones, and reads what it stored."""

    def __init__(self, module: ModuleType, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.module, self.root, self.monkeypatch = module, root, monkeypatch
        self.name = module.__name__.removeprefix("experiments.")

    def __call__(self, *arguments: str, **small: Any) -> None:
        homes = {"ROOT": self.root, "RUNS": self.folder / "runs"}
        homes = {k: v for k, v in homes.items() if hasattr(self.module, k)}
        for constant, value in {**homes, **small}.items():
            self.monkeypatch.setattr(self.module, constant, value)
        self.monkeypatch.setattr(sys, "argv", ["script", *arguments])
        self.module.main()

    @property
    def folder(self) -> Path:
        return self.root / "build" / "experiments" / self.name

    def stored(self, name: str = "") -> dict[str, Any]:
        return json.loads((record.RESULTS / f"{name or self.name}.json").read_text())

    def is_like_the_shipped_one(self, *keys: str, name: str = "") -> None:
        """The same columns and facts, and the rows in the same order by these keys."""
        new = self.stored(name)
        old = json.loads((SHIPPED / f"{name or self.name}.json").read_text())
        assert columns(new["rows"]) == columns(old["rows"])
        # not a fact of one run: the time that all of them took
        assert old.keys() - {"seconds"} <= new.keys()
        settings = [[row[key] for key in keys] for row in new["rows"]]
        assert settings == [[row[key] for key in keys] for row in old["rows"]]


def columns(rows: list[dict[str, Any]]) -> list[str]:
    return [name for name in dict.fromkeys(k for row in rows for k in row) if name != "cpu_seconds"]


@pytest.fixture
def script(tmp_path, monkeypatch) -> Callable[[ModuleType], Script]:
    """Makes a `Script` of a module; MNIST is a few of scikit-learn's digits."""
    package = tmp_path / "src" / "tutor"
    for part in ("results", "weights"):
        (package / part).mkdir(parents=True)
    monkeypatch.setattr(record, "RESULTS", package / "results")
    monkeypatch.setattr(record, "origin", cache(record.origin))  # it asks git, after every run
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    monkeypatch.setattr(tutor.pretrained, "_WEIGHTS", package / "weights")
    monkeypatch.setattr(tutor.pretrained, "_RECORDINGS", package / "recordings")
    digits = {
        split: tutor.data.load("digits", split=split).subset(slice(n))
        for split, n in {"train": 300, "test": 10}.items()
    }
    monkeypatch.setattr(tutor.data, "load", lambda name, split="train": digits[split])
    return lambda module: Script(module, tmp_path, monkeypatch)
