"""The exercises of chapter 3."""

from __future__ import annotations

from tutor.checks.avb_contrast import SIGNATURE, grade_game, grade_normalise
from tutor.checks.avb_terms import TERMS
from tutor.checks.grading import Exercise

EXERCISES = [
    *(Exercise(f"avb.{name}", formula.signature, formula) for name, formula in TERMS.items()),
    Exercise("avb.contrast-moments", SIGNATURE, grade_normalise),
    Exercise("avb.own-game", "a pair (model, batch)", grade_game),
]
