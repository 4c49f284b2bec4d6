"""`fit`: the one training loop.  It plays any game and knows nothing about models.

Each turn's gradient is taken with respect to the parameters of the player whose turn it is, and
to nothing else, so no loss can leak into another player's network.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from tutor.checkpoints import Checkpoint
from tutor.game import Turn, player_parameters
from tutor.history import History, Recorder

MakeOptimizer = Callable[[list[nn.Parameter]], Optimizer]
T = TypeVar("T")


class DataSource(Protocol):
    """What `fit` needs of a data set: `tutor.data.Dataset` has it."""

    def __len__(self) -> int: ...
    def take(self, index: Tensor) -> Tensor: ...
    def to(self, device: torch.device) -> DataSource: ...


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
    progress: bool = True,
) -> History:
    """Play ``steps`` rounds of the model's game and return what happened.

    Args:
        model: an `nn.Module` with ``players`` and ``step`` (see `tutor.Model`).  It is trained in
            place and left on ``device``.
        dataset: a `tutor.data.Dataset`, or a float tensor whose rows are the examples.
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
        progress: show a bar with the latest values.

    Returns:
        A `History`: every loss and term, averaged over windows of 50 rounds.

    Raises:
        ValueError: for steps or batch sizes that make no sense, or an optimiser for nobody.
        TypeError: for data that are not floats, or a model that is not a game.
        RuntimeError: where the device asked for does not exist.
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
    _check_counts(steps=steps, batch_size=batch_size, checkpoint_every=checkpoint_every)
    where = resolve_device(device)
    data = _as_source(dataset)
    if batch_size > len(data):
        raise ValueError(
            f"batch_size is {batch_size}, the data set has {len(data)} examples; "
            f"use batch_size={len(data)} or less"
        )
    model.to(where)
    data = data.to(where)
    owned = player_parameters(model)
    optimizers = _make_optimizers(owned, optimizer)
    order = BatchOrder(len(data), batch_size, seed)

    mode = model.training
    with contextlib.ExitStack() as stack:
        stack.callback(model.train, mode)
        stack.enter_context(_private_stream(where, seed))
        recorder = Recorder()
        start, saved = 0, None
        if checkpoint is not None:
            run = {"seed": seed, "batch_size": batch_size, "examples": len(data)}
            saved = stack.enter_context(Checkpoint(checkpoint, model, optimizers, where, run))
            start = saved.restore(recorder)
            if start > steps:
                raise ValueError(
                    f"the checkpoint in {checkpoint} is at step {start}, past steps={steps}; "
                    "ask for more steps or choose another folder"
                )
        model.train()
        bar = stack.enter_context(_bar(start, steps, progress))
        began = time.perf_counter()
        for step in range(start, steps):
            for turn in model.step(data.take(order(step).to(where))):
                _check_turn(turn, owned, step)
                recorder.add(step, turn)
                if where.type == "cpu":  # elsewhere reading a value would stall the device
                    _check_finite(recorder.latest(turn), step, turn.player, saved)
                _move(turn, owned[turn.player], optimizers[turn.player])
            done = step + 1
            if recorder.window_ends(done) or done == steps or done % checkpoint_every == 0:
                for (at, player), values in recorder.unread():
                    _check_finite(values, at, player, saved)
                if recorder.window_ends(done) or done == steps:
                    bar.set_postfix(recorder.close_window(done), refresh=False)
                if saved is not None and (done % checkpoint_every == 0 or done == steps):
                    saved.write(done, recorder)
            bar.update()
        seconds = time.perf_counter() - began
    return recorder.history(device=str(where), seconds=seconds, steps=steps - start)


def _move(turn: Turn, parameters: list[nn.Parameter], optimizer: Optimizer) -> None:
    """The player, and nobody else, follows the gradient of its loss."""
    if not turn.loss.requires_grad:
        raise RuntimeError(
            f"the loss of player {turn.player!r} has no gradient; "
            "was it computed from detached tensors or under torch.no_grad()?"
        )
    gradients = torch.autograd.grad(turn.loss, parameters, allow_unused=True)
    if all(gradient is None for gradient in gradients):
        raise RuntimeError(
            f"the loss of player {turn.player!r} depends on none of its parameters; "
            "is the turn given to the right player?"
        )
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
    for parameter in parameters:
        parameter.grad = None


class BatchOrder:
    """Which examples make up the batch of a given step.

    Step t takes places ``t * batch_size`` onward in an endless line of shuffled copies of the data
    set.  The order is a function of the step and the seed alone, so a resumed run needs no state.

    Example:
        >>> order = BatchOrder(examples=4, batch_size=3, seed=0)
        >>> sorted(torch.cat([order(t) for t in range(4)]).tolist())
        [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    """

    def __init__(self, examples: int, batch_size: int, seed: int) -> None:
        self.examples, self.batch_size = examples, batch_size
        self._shuffled = functools.lru_cache(maxsize=2)(functools.partial(_shuffle, examples, seed))

    def __call__(self, step: int) -> Tensor:
        first = step * self.batch_size
        epoch, place = divmod(first, self.examples)
        batch = self._shuffled(epoch)[place : place + self.batch_size]
        if len(batch) < self.batch_size:  # the batch runs over into the next copy
            rest = self._shuffled(epoch + 1)[: self.batch_size - len(batch)]
            batch = torch.cat([batch, rest])
        return batch


def _shuffle(examples: int, seed: int, epoch: int) -> Tensor:
    # torch's CPU generator reads 32 bits of its seed, so both numbers are mixed into 32.
    mixed = random.Random(f"{seed}/{epoch}").getrandbits(32)
    generator = torch.Generator().manual_seed(mixed)
    return torch.randperm(examples, generator=generator)


def resolve_device(device: str | torch.device) -> torch.device:
    """The device meant by a name; ``"auto"`` takes CUDA, then Apple's GPU, then the CPU.

    Raises:
        RuntimeError: if the device is not there.

    Example:
        >>> resolve_device("cpu")
        device(type='cpu')
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    where = torch.device(device)
    missing = {
        "cuda": not torch.cuda.is_available(),
        "mps": not torch.backends.mps.is_available(),
    }
    if missing.get(where.type, False):
        raise RuntimeError(
            f"device {str(device)!r} was asked for, but this machine (or this build of torch) has "
            'none; use device="auto" or device="cpu"'
        )
    if where.type == "cuda" and where.index is None:
        where = torch.device("cuda", torch.cuda.current_device())
    return where


def budget(*, cpu: T, gpu: T) -> T:
    """The number meant for this machine: ``gpu`` where fit would train on one, else ``cpu``.

    Example:
        >>> budget(cpu=1_000, gpu=20_000) in (1_000, 20_000)
        True
    """
    return cpu if resolve_device("auto").type == "cpu" else gpu


class _Rows:
    """A float tensor as a data source."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: Tensor) -> Tensor:
        return self.rows.index_select(0, index)

    def to(self, device: torch.device) -> _Rows:
        return _Rows(self.rows.to(device))


def _as_source(dataset: DataSource | Tensor) -> DataSource:
    if isinstance(dataset, Tensor):
        if dataset.dim() == 0 or len(dataset) == 0:
            raise ValueError(
                f"the data tensor has shape {tuple(dataset.shape)}; its rows are the examples, "
                "and there must be at least one"
            )
        if not dataset.is_floating_point():
            raise TypeError(
                f"the data are {dataset.dtype}; expected floats (for uint8 images in a tensor "
                "use tutor.data.Dataset, or images.float() / 255)"
            )
        return _Rows(dataset)
    if not hasattr(dataset, "take") or not hasattr(dataset, "__len__"):
        raise TypeError(
            f"dataset is a {type(dataset).__name__}; expected a tutor.data.Dataset "
            "or a float tensor whose rows are the examples"
        )
    if len(dataset) == 0:
        raise ValueError("the data set is empty; there is nothing to learn from")
    return dataset


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} is {value!r}; expected a whole number")
        if value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1")


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
    return {player: optimizer[player](parameters) for player, parameters in owned.items()}


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


@contextlib.contextmanager
def _private_stream(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch's default generators for the block, then put the caller's state back."""
    extra = {"devices": [device], "device_type": device.type} if device.type != "cpu" else {}
    with torch.random.fork_rng(**(extra or {"devices": []})):
        torch.manual_seed(seed)
        yield


def _bar(start: int, steps: int, progress: bool) -> Any:
    # The plain bar: the notebook one leaves dead text in a rendered page.
    from tqdm import tqdm

    return tqdm(total=steps, initial=start, disable=not progress, unit="step", dynamic_ncols=True)
