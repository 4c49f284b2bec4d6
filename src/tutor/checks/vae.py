"""The exercises of chapter 1."""

from __future__ import annotations

from tutor.checks.grading import Exercise
from tutor.checks.vae_bounds import BOUNDS
from tutor.checks.vae_games import grade_own_game
from tutor.checks.vae_linear import LINEAR
from tutor.checks.vae_sampling import grade_exponential, grade_reparameterise
from tutor.checks.vae_terms import TERMS

EXERCISES = [
    *(Exercise(f"vae.{n}", f.signature, f) for n, f in {**TERMS, **BOUNDS, **LINEAR}.items()),
    Exercise("vae.reparameterise", "reparameterise(mean, log_var, generator)",
             grade_reparameterise),
    Exercise("vae.exponential", "sample_exponential(rate, uniform)", grade_exponential),
    Exercise("vae.own-game", "a pair (model, batch)", grade_own_game),
]  # fmt: skip
