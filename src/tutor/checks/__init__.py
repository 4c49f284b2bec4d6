"""The exercises that `tutor.check` knows: one module a chapter, loaded at the first check."""

from __future__ import annotations

from tutor.checks import aae, avb, vae, wae
from tutor.checks.grading import Exercise

CHAPTERS = (vae, aae, avb, wae)

EXERCISES: dict[str, Exercise] = {
    exercise.name: exercise for chapter in CHAPTERS for exercise in chapter.EXERCISES
}
