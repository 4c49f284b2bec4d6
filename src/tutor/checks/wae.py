"""The exercises of chapter 4."""

from __future__ import annotations

from tutor.checks.grading import Exercise
from tutor.checks.wae_codes import CODES
from tutor.checks.wae_transport import TRANSPORT

EXERCISES = [
    Exercise(f"wae.{name}", formula.signature, formula)
    for name, formula in {**TRANSPORT, **CODES}.items()
]
