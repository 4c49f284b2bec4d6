"""Chapter 1, a game of the reader's own: played for two rounds under observation."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from tutor.game import Turn, player_parameters

ROUNDS = 2
LEARNING_RATE = 1e-3


def grade_own_game(answer: Any) -> str | None:
    """Play the game as `tutor.fit` does, and look after every turn at who has moved."""
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], Tensor)):
        return "Pass a pair: (model, batch), with a batch of examples as a tensor."
    model, batch = answer
    if not isinstance(model, nn.Module):
        return f"The model is a {type(model).__name__}; derive it from tutor.Model."
    try:
        model = copy.deepcopy(model)  # the reader's own weights stay as they are
    except RuntimeError as error:
        return f"The model can't be copied; does it keep a tensor with its graph? {error}"
    try:
        owned = player_parameters(model)
    except Exception as error:  # a reader's `players` may raise anything
        return f"The property `players` is not right yet: {type(error).__name__}: {error}"
    moved: set[str] = set()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(ROUNDS):
            complaint = _play(model, batch, owned, moved)
            if complaint:
                return complaint
    idle = sorted(set(owned) - moved)
    if idle:
        return f"{' and '.join(idle)} never had a turn: yield a Turn for every player."
    return None


def _play(
    model: nn.Module, batch: Tensor, owned: dict[str, list[nn.Parameter]], moved: set[str]
) -> str | None:
    """One round; a complaint, or None."""
    before = _snapshot(owned)
    try:
        turns = iter(model.step(batch))
        while True:
            turn = next(turns, None)
            complaint = _meddling(owned, before)
            if complaint or turn is None:
                return complaint
            complaint = _judge_turn(turn, owned)
            if complaint:
                return complaint
            _move(turn, owned[turn.player])
            moved.add(turn.player)
            before = _snapshot(owned)
    except TypeError as error:
        if "not iterable" in str(error) or "iter()" in str(error):
            return (
                "`step` returns instead of yielding: make it a generator, with `yield Turn(...)`."
            )
        return f"`step` raised TypeError: {error}"
    except RuntimeError as error:
        if "inplace operation" in str(error) or "second time" in str(error):
            return (
                "A tensor computed before a player's move is used in a later loss; its graph is "
                "stale. Detach it before the turn, or compute it again after the `yield`."
            )
        return f"`step` raised RuntimeError: {error}"
    except Exception as error:  # whatever a reader's step raises is the reader's to see
        return f"`step` raised {type(error).__name__}: {error}"


def _judge_turn(turn: Any, owned: dict[str, list[nn.Parameter]]) -> str | None:
    if not isinstance(turn, Turn):
        return f"`step` yields a {type(turn).__name__}; yield Turn(player, loss)."
    if turn.player not in owned:
        return f"A turn of {turn.player!r}, but the players are {sorted(owned)}."
    if not turn.loss.isfinite():
        return f"The loss of {turn.player!r} is {turn.loss.item()}."
    if not turn.loss.requires_grad:
        return (
            f"The loss of {turn.player!r} has no gradient at all: it was detached, or computed "
            "under no_grad."
        )
    slopes = torch.autograd.grad(
        turn.loss, owned[turn.player], retain_graph=True, allow_unused=True
    )
    if all(s is None or not s.any() for s in slopes):
        reached = [
            name
            for name, parameters in owned.items()
            if any(
                s is not None and s.any()
                for s in torch.autograd.grad(
                    turn.loss, parameters, retain_graph=True, allow_unused=True
                )
            )
        ]
        whom = f"only those of {' and '.join(map(repr, reached))}" if reached else "none at all"
        return (
            f"The loss of {turn.player!r} does not depend on its own parameters ({whom}): is a "
            "detach in the wrong place, or the turn given to the wrong player?"
        )
    return None


def _meddling(owned: dict[str, list[nn.Parameter]], before: dict[str, list[Tensor]]) -> str | None:
    """`step` must only describe losses: whoever moves parameters itself moves the wrong ones."""
    for name, parameters in owned.items():
        if any(p.grad is not None for p in parameters):
            return (
                f"`step` called backward() itself, and left a gradient in {name!r}; that is how "
                "losses leak into other players. Only yield the loss."
            )
        if any(not torch.equal(p, old) for p, old in zip(parameters, before[name], strict=True)):
            return (
                f"`step` changed the parameters of {name!r} itself; leave every move to the "
                "training loop."
            )
    return None


def _move(turn: Turn, parameters: list[nn.Parameter]) -> None:
    slopes = torch.autograd.grad(turn.loss, parameters, allow_unused=True)
    with torch.no_grad():
        for p, slope in zip(parameters, slopes, strict=True):
            if slope is not None:
                p -= LEARNING_RATE * slope


def _snapshot(owned: dict[str, list[nn.Parameter]]) -> dict[str, list[Tensor]]:
    return {name: [p.detach().clone() for p in ps] for name, ps in owned.items()}
