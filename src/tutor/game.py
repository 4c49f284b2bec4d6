"""The one idea of this package: a model is a game between players who take turns.

A player owns some parameters.  A turn is one player's move: it lowers one loss, and only that
player's parameters follow the gradient.  A model names its players and writes its algorithm as
a generator that yields turns; `tutor.fit` plays the game.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Turn:
    """One player's move: the loss it lowers, and the terms worth recording.

    Args:
        player: the name of a player of the model.
        loss: scalar tensor that the player's parameters should lower (nats, where it is a
            likelihood or a divergence).
        **terms: scalar tensors to record beside the loss; they take no part in the gradient.

    Raises:
        ValueError: if the loss or a term is not a scalar tensor.

    Example:
        >>> import torch
        >>> turn = Turn("autoencoder", torch.tensor(3.0), kl=torch.tensor(1.0))
        >>> turn.player, sorted(turn.terms)
        ('autoencoder', ['kl'])
    """

    __slots__ = ("loss", "player", "terms")

    def __init__(self, player: str, loss: Tensor, **terms: Tensor) -> None:
        for name, value in {"loss": loss, **terms}.items():
            if not isinstance(value, Tensor) or value.dim() != 0:
                given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(
                    f"turn of {player!r}: {name} is {given}, expected a scalar tensor; "
                    "take the mean over the batch last, with .mean()"
                )
        self.player = player
        self.loss = loss
        self.terms = {name: value.detach() for name, value in terms.items()}

    def __repr__(self) -> str:
        return f"Turn({self.player!r}, loss={self.loss.item():.4g})"


class Model(nn.Module):
    """Base of every model of the book: an `nn.Module` with `players` and `step`.

    A subclass defines two things.

    ``players``
        a mapping from a player's name to the modules whose parameters it moves; two players may
        share a module.
    ``step(batch)``
        a generator that yields `Turn`\\ s; the body *is* the paper's algorithm box.  When a turn
        is yielded its player moves at once, so code after the ``yield`` sees the new parameters.

    Randomness inside ``step`` comes from torch's default generator.  `tutor.fit` gives the model
    a private, seeded stream and puts the caller's stream back afterwards, so that training can be
    repeated bit for bit and the global seed is never touched.

    Settings that are not visible in the modules (a weight, a likelihood's name) belong in
    ``extra_repr``: a checkpoint is taken up again only by a model that prints the same.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> class Line(Model):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.slope = nn.Linear(1, 1)
        ...     @property
        ...     def players(self):
        ...         return {"line": [self.slope]}
        ...     def step(self, x):
        ...         yield Turn("line", (self.slope(x) - 2 * x).square().sum(1).mean())
        >>> [turn.player for turn in Line().step(torch.ones(4, 1))]
        ['line']
    """

    @property
    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        raise NotImplementedError(
            f"{type(self).__name__} names no players; define the property `players` "
            "as a mapping from a name to the modules that player owns"
        )

    def step(self, batch: Tensor) -> Iterator[Turn]:
        raise NotImplementedError(
            f"{type(self).__name__} has no `step`; define it as a generator that yields Turns"
        )

    @property
    def device(self) -> torch.device:
        """Device of the first parameter (of the first buffer where there is no parameter)."""
        for tensor in [*self.parameters(), *self.buffers()]:
            return tensor.device
        return torch.device("cpu")


def player_parameters(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The parameters that each player moves, each listed once a player.

    Two players may share a module: the encoder of an adversarial autoencoder is half of the
    autoencoder and is the generator of the game on codes.  Each then moves it in its own turn,
    with an optimiser of its own.

    Args:
        model: anything with a ``players`` mapping.

    Raises:
        TypeError: if the model has no ``players``.
        ValueError: if a player owns nothing, or if a trainable parameter of the model belongs to
            nobody (it would never learn).
    """
    # Through the property itself: nn.Module hides an AttributeError raised inside one.
    stated = inspect.getattr_static(model, "players", None)
    players = (
        stated.fget(model) if isinstance(stated, property) else getattr(model, "players", None)
    )
    if not isinstance(players, Mapping) or not players:
        raise TypeError(
            f"{type(model).__name__} has no players; define the property `players` "
            "as a non-empty mapping from a name to the modules that player owns"
        )
    owned: dict[str, list[nn.Parameter]] = {}
    for name, modules in players.items():
        if _alone(modules):
            modules = [modules]
        unique: dict[int, nn.Parameter] = {}
        for module in modules:
            if not isinstance(module, nn.Module | nn.Parameter):
                raise TypeError(
                    f"player {name!r} lists {module!r}; expected modules (or single parameters)"
                )
            own = [module] if isinstance(module, nn.Parameter) else module.parameters()
            unique |= {id(p): p for p in own if p.requires_grad}
        if not unique:
            raise ValueError(f"player {name!r} owns no trainable parameter; give it a module")
        owned[name] = list(unique.values())
    somebodys = {id(p) for parameters in owned.values() for p in parameters}
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    orphans = [name for name, p in trainable if id(p) not in somebodys]
    if orphans:
        raise ValueError(
            f"no player owns {', '.join(orphans)}; add them or their modules to `players`, "
            "or freeze them with requires_grad_(False)"
        )
    return owned


def player_networks(model: nn.Module) -> list[nn.Module]:
    """The modules that the players list, each once; single parameters are left out.

    Example:
        >>> from tutor.models import AAE
        >>> model = AAE()
        >>> player_networks(model) == [model.encoder, model.decoder, model.discriminator]
        True
    """
    listed = (m for own in model.players.values() for m in ([own] if _alone(own) else own))
    return list(dict.fromkeys(m for m in listed if isinstance(m, nn.Module)))


def _alone(own: object) -> bool:
    return isinstance(own, nn.Module | nn.Parameter)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No gradients and evaluation mode inside; each module gets its own mode back after.

    Example:
        >>> net = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
        >>> with evaluating(net):
        ...     net.training
        False
        >>> [layer.training for layer in net]
        [True, False]
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
