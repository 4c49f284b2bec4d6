"""How an answer is judged: against the truth, then against the usual wrong answers, by name.

A grader returns None for a right answer and a sentence that says what is wrong for any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Arguments = tuple[Any, ...]


@dataclass(frozen=True)
class Exercise:
    """A name such as ``vae.gaussian-kl``, what the answer should be, and its grader."""

    name: str
    wanted: str
    grade: Callable[[Any], str | None]


@dataclass(frozen=True)
class Mistake:
    """A usual wrong answer, written as code, and what to say to whoever gives it."""

    formula: Callable[..., Any]
    message: str


@dataclass(frozen=True)
class Formula:
    """Grader of a function, or of its value on the instance that the exercise prints.

    Args:
        signature: as the text shows it, for messages.
        truth: the right function.
        inputs: hidden arguments, a list with one tuple a call.
        mistakes: the wrong answers to recognise.
        extremes: arguments on which only a numerically careful function is right, each with the
            message for a function that is right elsewhere.
        instance: arguments of the number that the exercise asks for; None where only a function
            will do.
        tolerance: relative to the larger of 1 and the truth.
    """

    signature: str
    truth: Callable[..., Any]
    inputs: Sequence[Arguments]
    mistakes: Sequence[Mistake] = ()
    extremes: Sequence[tuple[Arguments, str]] = ()
    instance: Arguments | None = None
    tolerance: float = 1e-4

    def __call__(self, answer: Any) -> str | None:
        if callable(answer):
            return self._grade_function(answer)
        if self.instance is None:
            return (
                f"Pass the function {self.signature} itself, without calling it; "
                f"this is a {type(answer).__name__}."
            )
        return self._grade_value(answer)

    def _grade_function(self, function: Callable[..., Any]) -> str | None:
        given: list[Tensor] = []
        for arguments in self.inputs:
            value, complaint = call(function, arguments, self.signature)
            if complaint:
                return complaint
            given.append(value)
        truths = [as_tensor(self.truth(*arguments)) for arguments in self.inputs]
        if not all(map(self._agree, given, truths)):
            return (
                self._recognise(given, self.inputs)
                or _wrong_shape(given, truths, self.inputs)
                or self._show_smallest(given, truths)
            )
        for arguments, message in self.extremes:
            value, complaint = call(function, arguments, self.signature)
            if complaint or not self._agree(value, as_tensor(self.truth(*arguments))):
                return message
        return None

    def _grade_value(self, answer: Any) -> str | None:
        try:
            value = as_tensor(answer)
        except (TypeError, ValueError, RuntimeError):
            return f"Expected numbers or the function {self.signature}, got {answer!r}."
        truth = as_tensor(self.truth(*self.instance))
        if self._agree(value, truth):
            return None
        return self._recognise([value], [self.instance]) or (
            f"{_show(value)} is not it, and not a mistake I know."
        )

    def _recognise(self, given: Sequence[Tensor], inputs: Sequence[Arguments]) -> str | None:
        for mistake in self.mistakes:
            wrong = [as_tensor(mistake.formula(*arguments)) for arguments in inputs]
            if all(map(self._agree, given, wrong)):
                return mistake.message
        return None

    def _agree(self, value: Tensor, truth: Tensor) -> bool:
        if value.shape != truth.shape:
            return False
        if truth.dtype == torch.bool or value.dtype == torch.bool:
            return torch.equal(value.double(), truth.double())
        scale = truth.abs().nan_to_num(0.0, 0.0, 0.0).amax().clamp(min=1) if truth.numel() else 1.0
        return torch.allclose(
            value / scale, truth / scale, rtol=0, atol=self.tolerance, equal_nan=True
        )

    def _show_smallest(self, given: Sequence[Tensor], truths: Sequence[Tensor]) -> str:
        wrong = [
            (sum(a.numel() for a in arguments if isinstance(a, Tensor)), i)
            for i, arguments in enumerate(self.inputs)
            if not self._agree(given[i], truths[i])
        ]
        i = min(wrong)[1]
        arguments = ", ".join(_show(a) for a in self.inputs[i])
        return (
            f"With the arguments ({arguments}) your function gives {_show(given[i])}; "
            f"right is {_show(truths[i])}. It is not a mistake I know."
        )


def call(function: Callable[..., Any], arguments: Arguments, signature: str) -> tuple[Any, str]:
    """The function's value as a tensor and no complaint, or nothing and a complaint."""
    own = [a.clone() if isinstance(a, Tensor) else a for a in arguments]
    shapes = ", ".join(str(tuple(a.shape)) for a in arguments if isinstance(a, Tensor))
    try:
        value = function(*own)
    except NotImplementedError:
        return None, f"{signature} is not written yet."
    except Exception as error:  # whatever a reader's function raises is the reader's to see
        return None, (
            f"{signature} raised {type(error).__name__}: {error} "
            f"(called with tensors of shape {shapes})."
        )
    if any(
        isinstance(a, Tensor) and not torch.equal(a, b) for a, b in zip(arguments, own, strict=True)
    ):
        return None, f"{signature} changes its arguments; work on new tensors instead of in place."
    if value is None:
        return None, f"{signature} returns None; is the `return` missing?"
    try:
        return as_tensor(value), ""
    except (TypeError, ValueError, RuntimeError):
        return None, f"{signature} returns a {type(value).__name__}; expected a tensor."


def as_tensor(value: Any) -> Tensor:
    """Numbers of any kind as a detached tensor: floats in float64, truth values as they are."""
    tensor = torch.as_tensor(value).detach().cpu()
    return tensor if tensor.dtype == torch.bool else tensor.double()


def _wrong_shape(
    given: Sequence[Tensor], truths: Sequence[Tensor], inputs: Sequence[Arguments]
) -> str | None:
    for value, truth, arguments in zip(given, truths, inputs, strict=True):
        if value.shape != truth.shape:
            shapes = ", ".join(str(tuple(a.shape)) for a in arguments if isinstance(a, Tensor))
            return (
                f"For tensors of shape {shapes} the result should have shape "
                f"{tuple(truth.shape)}; yours has {tuple(value.shape)}."
            )
    return None


def _show(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"{value:.4g}" if isinstance(value, float) else str(value)
    if value.numel() > 8:
        return f"a tensor of shape {tuple(value.shape)}"
    if value.dtype == torch.bool or value.dim() == 0:
        return str(value.tolist()) if value.dtype == torch.bool else f"{value.item():.4g}"
    rounded = [float(f"{v:.4g}") for v in value.flatten().tolist()]
    return str(torch.tensor(rounded, dtype=torch.float64).reshape(value.shape).tolist())
