"""The exercises that `tutor.check` knows: one module a chapter, loaded at the first check."""

from __future__ import annotations

from tutor.checks import aae, avb, factor_vae, vae, wae
from tutor.checks.grading import Exercise

CHAPTERS = (vae, aae, avb, wae, factor_vae)

EXERCISES: dict[str, Exercise] = {
    exercise.name: exercise for chapter in CHAPTERS for exercise in chapter.EXERCISES
}
