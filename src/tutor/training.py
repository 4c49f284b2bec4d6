"""`fit`: the one training loop.  It plays any game and knows nothing about models.

Each turn's gradient is taken with respect to the parameters of the player whose turn it is, and
to nothing else, so no loss can leak into another player's network.
"""

from __future__ import annotations

import contextlib
import functools
import math
import operator
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from tutor import graphs
from tutor.batches import BatchOrder, DataSource, as_source, fingerprint
from tutor.checkpoints import Checkpoint
from tutor.devices import private_stream, resolve_device, without_looks
from tutor.game import Turn, player_networks, player_parameters
from tutor.history import WINDOW, History, Recorder
from tutor.precision import networks_in

MakeOptimizer = Callable[[list[nn.Parameter]], Optimizer]
Schedule = Callable[[float], float]
Look = Callable[[Turn], None]


class TrainingDiverged(RuntimeError):
    """A loss or a term became NaN or infinite; the message says where and what to go back to."""


def fit(
    model: nn.Module,
    dataset: DataSource | Tensor,
    *,
    steps: int,
    batch_size: int = 128,
    device: str | torch.device = "auto",
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 500,
    optimizer: MakeOptimizer | Mapping[str, MakeOptimizer] | None = None,
    schedule: Schedule | None = None,
    precision: Literal["float32", "bf16"] = "float32",
    progress: bool = True,
) -> History:
    """Play ``steps`` rounds of the model's game and return what happened.

    Args:
        model: an `nn.Module` with ``players`` and ``step`` (see `tutor.Model`).  It is trained in
            place and left on ``device``.  While it trains, all its modules are in training mode
            (the statistics of a frozen BatchNorm move as well); afterwards each is as it was.
        dataset: a `tutor.data.Dataset`, or a float tensor whose rows are the examples; or another
            source (``len``, ``take(index)``, ``to(device)``), such as `tutor.data.Labelled`.  What
            ``take`` returns, a tensor or a tuple of tensors, is the batch that ``step`` is given.
        steps: rounds in all.  A resumed run counts those it has already done.
        batch_size: examples a round.  Batches walk through shuffled copies of the whole data
            set, one after another; no example is left out.
        device: ``"auto"`` takes CUDA, then Apple's GPU, then the CPU.
        seed: decides the order of the examples and all noise inside ``step``.  The caller's own
            random stream is put back afterwards.
        checkpoint: folder for checkpoints.  If it holds one, training goes on from there, and on
            a CPU ends with the same weights, bit for bit, as a run that was never stopped.
        checkpoint_every: rounds between two checkpoints; one more is written at the end.
        optimizer: makes an optimiser from a list of parameters, one for all players or one for
            each by name.  Default: Adam with learning rate 1e-3.
        schedule: every learning rate is multiplied by ``schedule(t)``, where t runs from 0 to 1
            over the steps; `decay_after` makes the usual one.  Default: rates stay as they are.
            With a schedule, a run is resumed only with the ``steps`` it began with.
        precision: ``"bf16"`` lets the players' networks compute in bfloat16; losses, gradients of
            weights and the weights themselves stay float32.  About twice as fast where the
            processor has the instructions (AVX-512 with bf16, or a recent GPU).
        progress: show a bar with the latest values.

    On a CUDA device the images stay there, and a whole round, optimisers included, is recorded
    once and replayed (`tutor.graphs`).  A game that can't be recorded is played round by round,
    and a warning says why; ``history.attrs["loop"]`` says which of the two was done.  On a GPU the
    values of labels, pixels and codes are checked in the first round of a run only.

    Returns:
        A `History`: every loss and term, averaged over windows of 50 rounds.

    Raises:
        ValueError: for steps or batch sizes that make no sense, or an optimiser for nobody.
        TypeError: for data that are not floats, a model that is not a game, or an optimiser that
            is not made by a function.
        RuntimeError: where the device asked for does not exist, or has no bfloat16.
        TrainingDiverged: when a loss or term is NaN or infinite.
        CheckpointError: when a checkpoint can't be written, or is damaged or another model's.

    Example:
        >>> import tutor
        >>> from tutor.models import VAE
        >>> digits = tutor.data.load("digits")
        >>> history = tutor.fit(VAE(), digits, steps=50, device="cpu", progress=False)
        >>> list(history.columns)
        ['autoencoder/loss', 'autoencoder/reconstruction', 'autoencoder/kl']
    """
    seed, where = _whole(seed=seed), resolve_device(device)
    game = playing(
        model,
        dataset,
        steps=steps,
        batch_size=batch_size,
        where=where,
        seed=seed,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        optimizer=optimizer,
        schedule=schedule,
        precision=precision,
        progress=progress,
    )
    with private_stream(where, seed), graphs.own_stream(where):
        return finished(game)


def playing(
    model: nn.Module,
    dataset: DataSource | Tensor,
    *,
    steps: int,
    batch_size: int = 128,
    where: torch.device,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 500,
    optimizer: MakeOptimizer | Mapping[str, MakeOptimizer] | None = None,
    schedule: Schedule | None = None,
    precision: Literal["float32", "bf16"] = "float32",
    progress: bool = True,
) -> Generator[int, None, History]:
    """What `fit` does, as a generator: it pauses whenever a stretch of rounds has been started.

    `fit` goes on at once; `tutor.fit_many` lets other games play meanwhile.  The caller provides
    the random stream.  A pause gives the rounds started so far, the end a `History`.  Arguments
    and errors are those of `fit`.

    Example:
        >>> from tutor.models import VAE
        >>> game = playing(VAE(image_shape=(1, 2, 2)), torch.rand(8, 1, 2, 2), steps=60,
        ...                batch_size=4, where=torch.device("cpu"), progress=False)
        >>> list(game)
        [50, 60]
    """
    steps, batch_size = _whole(1, steps=steps), _whole(1, batch_size=batch_size)
    checkpoint_every = _whole(1, checkpoint_every=checkpoint_every)
    if not isinstance(model, nn.Module) or not hasattr(model, "step"):
        given = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise TypeError(
            f"model is {given}; expected an nn.Module with `players` and `step`, "
            "made by calling its class"
        )
    data = as_source(dataset)
    if batch_size > len(data):
        raise ValueError(
            f"batch_size is {batch_size}, the data set has {len(data)} examples; "
            f"use batch_size={len(data)} or less"
        )
    model.to(where)
    data = data.to(where)
    owned = player_parameters(model)
    optimizers = _make_optimizers(owned, optimizer)
    rates = Rates(optimizers, schedule)
    order = BatchOrder(len(data), batch_size, seed, where)

    modes = [(module, module.training) for module in model.modules()]
    with contextlib.ExitStack() as stack:
        stack.callback(_put_back, modes)
        stack.enter_context(networks_in(precision, player_networks(model), where))
        recorder = Recorder()
        recorded = graphs.wanted(where)
        if where.type in graphs.DEVICES:  # in both loops, so that they compute the same
            graphs.prepare(optimizers, where, scheduled=schedule is not None)
        start, saved = 0, None
        if checkpoint is not None:
            run = {"seed": seed, "batch_size": batch_size, "examples": len(data)}
            run["data"] = fingerprint(data)
            if schedule is not None:  # the rates depend on how many steps there are in all
                run["scheduled_steps"] = steps
            run["precision"] = precision
            saved = stack.enter_context(Checkpoint(checkpoint, model, optimizers, where, run))
            start = saved.restore(recorder)
            if start > steps:
                raise ValueError(
                    f"the checkpoint in {checkpoint} is at step {start}, past steps={steps}; "
                    "ask for more steps or choose another folder"
                )
        model.train()

        def look(step: int, turn: Turn) -> None:
            recorder.add(step, turn)
            if where.type == "cpu":  # elsewhere reading a value would stall the device
                _check_finite(recorder.latest(turn), step, turn.player, saved)

        def eagerly(first: int, last: int) -> Iterator[None]:
            for step in range(first, last):
                rates.set(step / steps)
                play(order(step), step, functools.partial(look, step))
                yield

        def play(index: Tensor, step: int, look: Look) -> None:
            # The first round may wait for the device: what is wrong with all data is said there.
            with contextlib.nullcontext() if step == start else without_looks():
                _play(model, data, owned, optimizers, index, step, look)

        loop = graphs.Loop(eagerly)
        if recorded:
            table = graphs.Round(play, order, rates, steps, where)
            loop = graphs.Recording(table, eagerly, recorder, model, data, optimizers)
        bar = stack.enter_context(_bar(start, steps, progress))
        began = time.perf_counter()
        for first, last in _stretches(start, steps, checkpoint_every):
            for _ in loop.stretch(first, last):
                bar.update()
            yield last
            for (at, player), values in recorder.unread():
                _check_finite(values, at, player, saved)
            if recorder.window_ends(last) or last == steps:
                bar.set_postfix(recorder.close_window(last), refresh=False)
            if saved is not None and (last % checkpoint_every == 0 or last == steps):
                saved.write(last, recorder)
        seconds = time.perf_counter() - began
    return recorder.history(
        device=str(where), seconds=seconds, steps=steps - start, **loop.described()
    )


def finished(game: Generator[int, None, History]) -> History:
    """Plays a game of `playing` to its end, without a pause.

    Example:
        >>> def game():
        ...     yield 50
        ...     return "history"
        >>> finished(game())
        'history'
    """
    while True:
        try:
            next(game)
        except StopIteration as end:
            return end.value


def _stretches(start: int, steps: int, checkpoint_every: int) -> Iterator[tuple[int, int]]:
    """Rounds ``first .. last - 1`` after which somebody looks: window, checkpoint or the end."""
    while start < steps:
        stops = (steps, *((start // n + 1) * n for n in (WINDOW, checkpoint_every)))
        yield start, min(stops)
        start = min(stops)


def _play(
    model: nn.Module,
    data: DataSource,
    owned: Mapping[str, list[nn.Parameter]],
    optimizers: Mapping[str, Optimizer],
    index: Tensor,
    step: int,
    look: Look,
) -> None:
    """One round of the game: in every turn its player moves, after a look at the loss."""
    moved = False
    for turn in _turns(model, data.take(index), step):
        moved = True
        _check_turn(turn, owned, step)
        look(turn)
        _move(turn, owned[turn.player], optimizers[turn.player])
    if not moved:
        raise ValueError(f"step {step}: the model's `step` yielded no Turn, so nobody learns")


def decay_after(start: float = 0.5) -> Schedule:
    """A schedule for `fit`: full rates up to ``start`` of the steps, then down to 0 in a line.

    Players who chase each other circle around the point where neither can gain.  Falling rates
    let the circles shrink.

    Raises:
        ValueError: if ``start`` is not in [0, 1).

    Example:
        >>> schedule = decay_after(0.5)
        >>> [schedule(t) for t in (0.0, 0.5, 0.75, 0.9375)]
        [1.0, 1.0, 0.5, 0.125]
    """
    if not 0 <= start < 1:
        raise ValueError(
            f"start is {start}; it is the share of the steps at full rate, from 0 to below 1"
        )
    return lambda t: min(1.0, (1 - t) / (1 - start))


class Rates:
    """Every optimiser's learning rates: those they began with, times a function of progress.

    The first rates are read before a checkpoint is restored, which would bring back rates that
    had already been multiplied.

    Example:
        >>> weight = nn.Parameter(torch.zeros(()))
        >>> rates = Rates({"one": torch.optim.SGD([weight], lr=0.5)}, schedule=lambda t: 1 - t)
        >>> rates.at(0.75)
        [0.125]
    """

    def __init__(self, optimizers: Mapping[str, Optimizer], schedule: Schedule | None) -> None:
        self.optimizers, self.schedule = optimizers, schedule
        self.first = [group["lr"] for group in self.groups()]

    def groups(self) -> list[dict[str, Any]]:
        """The groups of parameters; asked anew, because restoring a state replaces them."""
        return [group for o in self.optimizers.values() for group in o.param_groups]

    def at(self, t: float) -> list[Any]:
        """The rates when the share ``t`` of the steps is done."""
        if self.schedule is None:
            return self.first
        factor = self.schedule(t)
        if not (isinstance(factor, int | float) and 0 <= factor < math.inf):
            raise ValueError(
                f"schedule({t:.4g}) is {factor!r}; expected the number, zero or more, by which "
                "the learning rates are multiplied"
            )
        return [factor * rate for rate in self.first]

    def set(self, t: float) -> None:
        """Gives the optimisers the rates of that moment."""
        if self.schedule is None:
            return
        for group, rate in zip(self.groups(), self.at(t), strict=True):
            if graphs.on_device(group):  # a replayed round reads the rate from where it lies
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


def _put_back(modes: list[tuple[nn.Module, bool]]) -> None:
    for module, training in modes:
        module.training = training


def _turns(model: nn.Module, batch: Tensor, step: int) -> Iterable[Any]:
    turns = model.step(batch)
    if isinstance(turns, Turn | Tensor) or not isinstance(turns, Iterable):
        raise TypeError(
            f"step {step}: `step` of {type(model).__name__} returned a {type(turns).__name__}; "
            "make it a generator: `yield Turn(...)` where it now says `return`"
        )
    return turns


def _move(turn: Turn, parameters: list[nn.Parameter], optimizer: Optimizer) -> None:
    """The player, and nobody else, follows the gradient of its loss."""
    if not turn.loss.requires_grad:
        raise RuntimeError(
            f"the loss of player {turn.player!r} has no gradient; "
            "was it computed from detached tensors or under torch.no_grad()?"
        )
    try:
        gradients = torch.autograd.grad(turn.loss, parameters, allow_unused=True)
    except RuntimeError as error:
        error.add_note(
            f"This was the turn of {turn.player!r}. A tensor computed before an earlier turn must "
            "be detached, or computed again, before it is used in a later one."
        )
        raise
    if all(gradient is None for gradient in gradients):
        raise RuntimeError(
            f"the loss of player {turn.player!r} depends on none of its parameters; "
            "is the turn given to the right player?"
        )
    try:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    finally:  # also when the reader interrupts
        for parameter in parameters:
            parameter.grad = None


def _whole(least: int | None = None, /, **named: Any) -> int:
    """The one value as an int (NumPy's whole numbers too), at least ``least``."""
    ((name, value),) = named.items()
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} is {value!r}; expected a whole number")
    number = operator.index(value)
    if least is not None and number < least:
        raise ValueError(f"{name} is {number}; expected at least {least}")
    return number


def _make_optimizers(
    owned: Mapping[str, list[nn.Parameter]],
    optimizer: MakeOptimizer | Mapping[str, MakeOptimizer] | None,
) -> dict[str, Optimizer]:
    if optimizer is None:
        optimizer = _default_optimizer
    if not isinstance(optimizer, Mapping):
        optimizer = dict.fromkeys(owned, optimizer)
    if set(optimizer) != set(owned):
        raise ValueError(
            f"optimizer= names {sorted(optimizer)}, the players are {sorted(owned)}; "
            "give one to each player, or one function for all"
        )
    return {player: _made(player, optimizer[player], own) for player, own in owned.items()}


def _made(player: str, make: MakeOptimizer, parameters: list[nn.Parameter]) -> Optimizer:
    if not callable(make):
        raise TypeError(
            f"optimizer= gives {player!r} a {type(make).__name__}; expected a function that makes "
            "one from a list of parameters, such as functools.partial(torch.optim.Adam, lr=1e-3)"
        )
    made = make(parameters)
    if not isinstance(made, Optimizer) or isinstance(made, torch.optim.LBFGS):
        raise TypeError(
            f"optimizer= made a {type(made).__name__} for {player!r}; expected an optimiser from "
            "torch.optim whose step takes no closure (so not LBFGS)"
        )
    return made


def _default_optimizer(parameters: list[nn.Parameter]) -> Optimizer:
    fused = parameters[0].device.type in ("cpu", "cuda")  # same mathematics, one pass over memory
    return Adam(parameters, lr=1e-3, fused=fused)


def _check_turn(turn: Any, owned: Mapping[str, Any], step: int) -> None:
    if not isinstance(turn, Turn):
        raise TypeError(
            f"step {step}: the model yielded a {type(turn).__name__}; "
            "expected Turn(player, loss, ...)"
        )
    if turn.player not in owned:
        raise ValueError(
            f"step {step}: a turn of {turn.player!r}, but the players are {sorted(owned)}"
        )


def _check_finite(
    values: Mapping[str, float], step: int, player: str, saved: Checkpoint | None
) -> None:
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if not bad:
        return
    if saved is None:
        back = "no checkpoint was kept (pass checkpoint=); start again"
    elif saved.last_step is None:
        back = f"no checkpoint had been written to {saved.folder} yet; start again"
    else:
        back = (
            f"the last good checkpoint is step {saved.last_step} in {saved.folder}; go on from it"
        )
    listing = ", ".join(f"{name} = {value:.6g}" for name, value in values.items())
    raise TrainingDiverged(
        f"step {step}, player {player!r}: {' and '.join(bad)} not finite ({listing}). "
        f"{back}, perhaps with a smaller learning rate."
    )


def _bar(start: int, steps: int, progress: bool) -> Any:
    # The plain bar: the notebook one leaves dead text in a rendered page.
    from tqdm import tqdm

    return tqdm(total=steps, initial=start, disable=not progress, unit="step", dynamic_ncols=True)
