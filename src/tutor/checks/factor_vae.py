"""The exercises of chapter 5."""

from __future__ import annotations

from tutor.checks.factor_vae_scores import SCORES, SIGNATURE, grade_permute
from tutor.checks.factor_vae_terms import TERMS
from tutor.checks.grading import Exercise

EXERCISES = [
    *(Exercise(f"factor-vae.{name}", f.signature, f) for name, f in {**TERMS, **SCORES}.items()),
    Exercise("factor-vae.permute-dims", SIGNATURE, grade_permute),
]
