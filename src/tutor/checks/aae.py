"""The exercises of chapter 2."""

from __future__ import annotations

from tutor.checks.aae_codes import CODES
from tutor.checks.aae_game import GAME, PENALTY, grade_gradient_penalty
from tutor.checks.grading import Exercise

EXERCISES = [
    *(Exercise(f"aae.{name}", f.signature, f) for name, f in {**GAME, **CODES}.items()),
    Exercise("aae.gradient-penalty", PENALTY.signature, grade_gradient_penalty),
]
