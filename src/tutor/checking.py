"""Self-grading: `check` tries a reader's answer and names the usual mistakes."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """What `check` found; true when the answer is right.

    `check` has printed it already, so a notebook does not show it a second time.
    """

    exercise: str
    passed: bool
    message: str

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        return f"{'✓' if self.passed else '✗'} {self.exercise}: {self.message}"

    def _ipython_display_(self) -> None:
        """Nothing: the verdict stands above, printed."""


def check(exercise: str, answer: Any) -> Verdict:
    """Try an answer to an exercise, print what was found, and return it.

    A function is called with hidden arguments and compared with the truth.  When it is wrong in
    one of the usual ways (a factor forgotten, a log-variance taken for a variance, a mean where a
    sum belongs, ...) the verdict says which.  Where the exercise asks for a number, a number will
    do.  Nothing of the answer is stored.

    Args:
        exercise: its name in the book, such as ``"vae.gaussian-kl"``.
        answer: a function, a number or a model, as the exercise says.

    Returns:
        A `Verdict`, true when the answer is right.

    Raises:
        ValueError: if there is no such exercise; the message lists those there are.

    Example:
        >>> def gaussian_kl(mean, log_var):
        ...     return (mean**2 + log_var.exp() - 1 - log_var).sum(1)
        >>> verdict = check("vae.gaussian-kl", gaussian_kl)
        ✗ vae.gaussian-kl: Twice too large: the factor 1/2 in front of the sum is missing.
        >>> verdict.passed
        False
    """
    from tutor.checks import EXERCISES

    if exercise not in EXERCISES:
        near = difflib.get_close_matches(str(exercise), EXERCISES, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"no exercise is called {exercise!r}; {hint}The exercises are {', '.join(EXERCISES)}"
        )
    wrong = EXERCISES[exercise].grade(answer)
    verdict = Verdict(exercise, wrong is None, "right." if wrong is None else wrong)
    print(verdict)
    return verdict
