"""Chapter 3, code with gradients: the normalised code of adaptive contrast, and a game."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tutor.checks.grading import call
from tutor.checks.vae_games import grade_own_game
from tutor.game import player_parameters

SIGNATURE = "normalise(z)"


def _draws(seed: int, k: int = 6, n: int = 4, d: int = 3) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    centre, width = 3 * torch.randn(n, d, generator=g), 2 * torch.rand(n, d, generator=g) + 0.2
    return centre + width * torch.randn(k, n, d, generator=g)


def _by(z: Tensor, dims: Any, correction: int = 0) -> Tensor:
    std, mean = torch.std_mean(z, dims, correction=correction, keepdim=True)
    return (z - mean) / std


MISTAKES = [
    (lambda z: _by(z, 1),
     "The moments are taken over the batch (axis 1). Each image has moments of its own: average "
     "over its draws, axis 0."),
    (lambda z: _by(z, (0, 1)),
     "One mean and width for all images: that is the aggregate posterior's. Average over the "
     "draws of each image, axis 0."),
    (lambda z: _by(z, 2), "The moments are taken over the latent dimensions; use axis 0."),
    (lambda z: _by(z, (0, 2)),
     "All latent dimensions share one mean and width; keep one for each coordinate."),
    (lambda z: _by(z, 0, correction=1),
     "Divide by K, not by K - 1, as the exercise says: correction=0."),
    (lambda z: z - z.mean(0), "The code is centred, but not divided by the standard deviation."),
    (lambda z: z / z.std(0, correction=0), "The code is scaled, but the mean is not taken away."),
    (lambda z: (z - z.mean(0)) / z.var(0, correction=0),
     "You divided by the variance; divide by the standard deviation."),
    (lambda z: z * z.std(0, correction=0) + z.mean(0),
     "This is the way back, from the normalised code to z."),
]  # fmt: skip


def grade_normalise(function: Any) -> str | None:
    """Values first, then the gradient: 1 / std and nothing through the moments."""
    if not callable(function):
        return f"Pass the function {SIGNATURE} itself, without calling it."
    inputs = [_draws(0), _draws(1, k=9, n=2, d=2)]
    given = []
    for z in inputs:
        value, complaint = call(function, (z,), SIGNATURE)
        if complaint:
            return complaint
        if value.shape != z.shape:
            return f"For codes {tuple(z.shape)} the result has shape {tuple(value.shape)}."
        given.append(value)

    def agree(formula: Any) -> bool:
        wanted = [formula(z.double()) for z in inputs]
        return all(torch.allclose(a, b, atol=1e-3) for a, b in zip(given, wanted, strict=True))

    if not agree(lambda z: _by(z, 0)):
        for formula, message in MISTAKES:
            if agree(formula):
                return message
        return "Over its K draws each coordinate should have mean 0 and variance 1; yours has not."
    return _judge_gradient(function)


def _judge_gradient(function: Any) -> str | None:
    z = _draws(2).requires_grad_()
    weight = torch.randn(z.shape, generator=torch.Generator().manual_seed(3))
    z_hat = function(z)
    if not z_hat.requires_grad:
        return (
            "No gradient reaches z: only the moments are to be held still, not the code itself "
            "(detach mean and std, not the result)."
        )
    (slope,) = torch.autograd.grad((z_hat * weight).sum(), z)
    direct = weight / z.detach().std(0, correction=0)
    if torch.allclose(slope, direct, atol=1e-4):
        return None
    return (
        "The values are right, but a gradient flows through the mean or the standard deviation: "
        "compute both from z.detach() or under torch.no_grad()."
    )


def grade_game(answer: Any) -> str | None:
    """As chapter 1's games, and there must be at least two players."""
    complaint = grade_own_game(answer)
    if complaint is None and len(player_parameters(answer[0])) < 2:
        return "That is a right game, but with one player; the critic is another one."
    return complaint
