"""Generative autoencoders, written to be read: the package under *Games in Latent Space*.

Every model is a game (`tutor.game`): it names its players and yields their turns, and
`tutor.fit` plays it.  Importing ``tutor`` loads torch and nothing heavier; submodules load
when they are first touched.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tutor.game import Model, Turn

if TYPE_CHECKING:
    from tutor.checking import check
    from tutor.devices import budget
    from tutor.history import History
    from tutor.many import fit_many
    from tutor.sweeping import sweep
    from tutor.training import fit

__version__ = "0.1.0"

_SUBMODULES = {
    "batches", "checking", "data", "devices", "divergences", "energies", "game", "graphs", "grids",
    "likelihoods", "many", "metrics", "models", "nets", "plots", "posteriors", "ppca", "pretrained",
    "priors", "rows", "sweeping", "training", "widgets",
}  # fmt: skip
_LAZY = {
    "fit": "tutor.training",
    "History": "tutor.history",
    "budget": "tutor.devices",
    "check": "tutor.checking",
    "fit_many": "tutor.many",
    "sweep": "tutor.sweeping",
}

__all__ = ["History", "Model", "Turn", "__version__", "budget", "check", "fit", "fit_many", "sweep"]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"tutor.{name}")
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'tutor' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | _SUBMODULES | set(_LAZY))
