"""On a GPU a round of the game is recorded once, then replayed without the host.

A round of a small model is a few hundred kernels of microseconds; starting them one by one takes
Python longer than computing them.  A CUDA graph is the whole list, started at once.  It repeats
the same kernels on the same places in memory, so all that changes from round to round must lie in
tables on the device: which examples, which learning rates, and what came of it.  The host fills
the tables for up to 50 rounds, starts the rounds, and reads the values when they are done.

Weights, moments and the random stream are where they are in the eager loop and change in the same
way, so both loops give the same run, and a checkpoint of one is taken up by the other.

What can't be recorded is played round by round, and a warning says why.  Much of it would not
fail but repeat silently what the host did in the recorded round, so it is looked for beforehand.
"""

from __future__ import annotations

import contextlib
import functools
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from tutor.batches import BatchOrder, DataSource
from tutor.game import Turn
from tutor.history import WINDOW, Recorder

if TYPE_CHECKING:
    from tutor.training import Rates

DEVICES = ("cuda",)
WARM_UP = 3  # eager rounds before the recording: libraries choose their kernels, optimisers begin

Stretch = Callable[[int, int], Iterator[None]]
PlayRound = Callable[[Tensor, int, Callable[[Turn], None]], None]

_eagerly = False


@contextlib.contextmanager
def eager() -> Iterator[None]:
    """In the block `tutor.fit` records nothing: to compare, or to find a fault in a model.

    Example:
        >>> with eager():
        ...     wanted(torch.device("cuda"))
        False
    """
    global _eagerly
    before, _eagerly = _eagerly, True
    try:
        yield
    finally:
        _eagerly = before


def wanted(device: torch.device) -> bool:
    """Whether rounds are recorded on this device.

    Example:
        >>> wanted(torch.device("cpu"))
        False
    """
    return device.type in DEVICES and not _eagerly


@contextlib.contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """On a GPU the block's work has a stream of its own: the default one can't be recorded."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        callers, own = torch.cuda.current_stream(), _stream(device)
        own.wait_stream(callers)
        try:
            with torch.cuda.stream(own):
                yield
        finally:
            callers.wait_stream(own)


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all runs: what a run leaves in torch's store of memory, only its stream can use."""
    return torch.cuda.Stream(device)


def prepare(optimizers: Mapping[str, Optimizer], device: torch.device, *, scheduled: bool) -> None:
    """Makes the optimisers keep their counters, and rates that change, on the device."""
    for optimizer in optimizers.values():
        # Else torch warns that this slows down an eager step, which the warm-up takes.
        optimizer._warned_capturable_if_run_uncaptured = True
        for group in optimizer.param_groups:
            if "capturable" in group:
                group["capturable"] = True
            if scheduled and ("capturable" in group or group.get("fused")):
                group["lr"] = torch.tensor(float(group["lr"]), device=device)


def on_device(group: Mapping[str, Any]) -> bool:
    """Whether `prepare` put the learning rate of this group on the device."""
    rate = group["lr"]
    return isinstance(rate, Tensor) and rate.device.type in DEVICES


class Loop:
    """The eager loop: rounds are played one by one.

    Example:
        >>> loop = Loop(lambda first, last: iter([None] * (last - first)))
        >>> len(list(loop.stretch(50, 60))), loop.described()
        (10, {'loop': 'eager'})
    """

    def __init__(self, eagerly: Stretch) -> None:
        self.eagerly = eagerly

    def stretch(self, first: int, last: int) -> Iterator[None]:
        """Plays the rounds ``first .. last - 1``, and yields after each."""
        return self.eagerly(first, last)

    def described(self) -> dict[str, str]:
        """For the attributes of a `History`: which loop it was."""
        return {"loop": "eager"}


class Round:
    """One round that needs nothing from the host: what changes lies in tables on the device.

    Args:
        play: plays a round on the examples of an index and shows every turn.
        order: the examples of each round.
        rates: the learning rates of each round.
        steps: rounds in all, which the rates depend on.
        device: where all of this lies.
    """

    def __init__(
        self,
        play: PlayRound,
        order: BatchOrder,
        rates: Rates,
        steps: int,
        device: torch.device,
    ) -> None:
        self.play, self.order, self.rates, self.steps = play, order, rates, steps
        self.row = torch.zeros(1, dtype=torch.int64, device=device)
        size = (WINDOW, order.batch_size)
        self.index_table = torch.zeros(size, dtype=torch.int64, device=device)
        self.rate_table = torch.zeros(WINDOW, len(rates.groups()), device=device)
        self.turns: list[tuple[str, list[str]]] = []
        self.values = torch.zeros(WINDOW, 0, dtype=torch.float64, device=device)

    def fill(self, first: int, last: int) -> None:
        """Tells the device about the rounds ``first .. last - 1``, at most 50."""
        rows = range(first, last)
        self.row.zero_()
        self.index_table[: len(rows)] = self.order.rows(first, last)
        if self.rates.schedule is not None:
            rates = [[float(r) for r in self.rates.at(step / self.steps)] for step in rows]
            self.rate_table[: len(rows)] = torch.tensor(rates)

    def __call__(self, step: int) -> None:
        """Plays the next row of the tables; ``step`` is only for messages."""
        if self.rates.schedule is not None:
            rates = self.rate_table.index_select(0, self.row).squeeze(0)
            for group, rate in zip(self.rates.groups(), rates, strict=True):
                group["lr"].copy_(rate)
        seen: list[Turn] = []
        self.play(self.index_table.index_select(0, self.row).squeeze(0), step, seen.append)
        turns = [(turn.player, ["loss", *turn.terms]) for turn in seen]
        values = [v.detach() for turn in seen for v in (turn.loss, *turn.terms.values())]
        if not self.turns:
            self.turns, self.values = turns, self.values.new_zeros(WINDOW, len(values))
        if turns != self.turns:
            raise UnevenRounds(seen)
        self.values.index_copy_(0, self.row, _in_one_type(values).unsqueeze(0))
        self.row.add_(1)


def _in_one_type(values: list[Tensor]) -> Tensor:
    """Scalars side by side as float64, which holds a float32 and most whole numbers exactly."""
    if len({value.dtype for value in values}) > 1:
        values = [value.double() for value in values]  # a kernel for each
    return torch.stack(values).double()


class UnevenRounds(RuntimeError):
    """The turns of a game are not the same in every round, so one can't stand for all."""

    def __init__(self, turns: list[Turn]) -> None:
        super().__init__("the turns of a round, or their terms, are not those of the first round")
        self.turns = turns


class Recording(Loop):
    """Plays three rounds eagerly, records the next one and replays it for all the others.

    The three are part of the run, and to record is not to play: nothing has to be put back.
    """

    def __init__(
        self,
        one_round: Round,
        eagerly: Stretch,
        recorder: Recorder,
        model: nn.Module,
        data: DataSource,
        optimizers: Mapping[str, Optimizer],
    ) -> None:
        super().__init__(eagerly)
        self.round, self.recorder = one_round, recorder
        self.model, self.data = model, data
        self.replay: Callable[[], None] | None = None
        self.played = 0
        self.reason = _unfit(optimizers, one_round.rates)
        if self.reason is not None:
            self._warn()

    def stretch(self, first: int, last: int) -> Iterator[None]:
        step = first
        if self.reason is None:
            self.round.fill(first, last)
            rows = 0
            while step < last and self.reason is None:
                rows += self._play(step)
                step += 1
                yield
            self.recorder.add_table(first, self.round.turns, self.round.values[:rows])
        yield from self.eagerly(step, last)

    def described(self) -> dict[str, str]:
        if self.reason is not None:
            return {"loop": "eager", "not_recorded": self.reason}
        return {"loop": "eager" if self.replay is None else "CUDA graph"}

    def _play(self, step: int) -> bool:
        """Plays a round; whether its values are in the table."""
        if self.replay is not None:
            self.replay()
            return True
        device = self.round.row.device
        before = _of_the_host(self.model, self.data, device)
        try:
            with _synchronisations(device) as stalls:
                self.round(step)
        except UnevenRounds as error:  # it was played to its end
            for turn in error.turns:
                self.recorder.add(step, turn)
            self.reason = str(error)
            self._warn()
            return False
        self.played += 1
        if self.played < WARM_UP:  # the first rounds may wait, and keep things, while they set up
            return True
        after = _of_the_host(self.model, self.data, device)
        changed = [name for name in before if before[name] != after.get(name)]
        if changed:
            self.reason = (
                f"{changed[0]} changes from round to round outside the device's memory: keep what "
                "a model counts in a buffer, and change that in place"
            )
        elif stalls:
            self.reason = f"the host waits for the device in {stalls[0]}"
        else:
            try:
                self.replay = record(lambda: self.round(step + 1), device)
            except RuntimeError as error:
                self.reason = f"recording failed: {str(error).splitlines()[0]}"
        if self.reason is not None:
            self._warn()
        return True

    def _warn(self) -> None:
        warnings.warn(
            f"{type(self.model).__name__} is played round by round, without a CUDA graph: "
            f"{self.reason}. The run is the same, and slower.",
            stacklevel=2,
        )


def record(play: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Records what ``play`` starts on the current stream; returns what replays it.

    ``play`` runs, but nothing is computed yet.  The default random stream belongs to every graph:
    each replay draws where the last one stopped.

    Raises:
        RuntimeError: where that can't be recorded.  The random stream is then as it was.
    """
    generator = torch.cuda.default_generators[device.index]
    spare = generator.clone_state()
    graph = torch.cuda.CUDAGraph()
    try:
        # On one stream, as the warm-up and the replays: libraries keep a workspace for each, and
        # two graphs that run at once must not share it.
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            play()
    except RuntimeError:
        generator.graphsafe_set_state(spare)  # the other one still waits for the recording to end
        raise
    return graph.replay


def _unfit(optimizers: Mapping[str, Optimizer], rates: Rates) -> str | None:
    """Why these optimisers can't be recorded, if they can't."""
    for player, optimizer in optimizers.items():
        name = f"the optimiser {type(optimizer).__name__} of {player!r}"
        for group in optimizer.param_groups:
            # Others count their steps on the host, and a recorded step would repeat one number.
            if "capturable" not in group and type(optimizer) is not SGD:
                return f"{name} has no capturable=True"
            if rates.schedule is not None and not on_device(group):
                return f"{name} can't read a scheduled rate from the device (fused=True can)"
    return None


@contextlib.contextmanager
def _synchronisations(device: torch.device) -> Iterator[list[str]]:
    """Collects where, in the block, the host waits for the device."""
    places: list[str] = []
    if device.type != "cuda":
        yield places
        return
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        caught.clear()  # torch warns that it may overlook some
        try:
            yield places
        finally:
            noticed = list(caught)
            torch.cuda.set_sync_debug_mode(before)
    for one in noticed:
        if "called a synchronizing CUDA operation" in str(one.message):
            places.append(f"{one.filename}, line {one.lineno}")
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


def _of_the_host(model: nn.Module, data: DataSource, device: torch.device) -> dict[str, Any]:
    """All that a round may change and a recording would not: by name, to be compared."""
    numpys = repr(np.random.get_state(legacy=False))  # noqa: NPY002, a model may use the old one
    seen: dict[str, Any] = {
        "the stream of Python's random numbers": random.getstate(),
        "the stream of NumPy's random numbers": numpys,
    }
    if device.type != "cpu":
        seen["the stream of torch's random numbers on the CPU"] = torch.get_rng_state().tolist()
    for path, module in model.named_modules():
        own = {**vars(module), **module._buffers, **module._parameters}
        for name, value in own.items():
            if name not in ("_buffers", "_parameters", "_modules", "forward"):
                place = f"{path}.{name}" if path else name
                seen[f"the model's {place!r}"] = _mark(value, device)
    for name, value in getattr(data, "__dict__", {}).items():
        seen[f"the data's {name!r}"] = _mark(value, device)
    return seen


def _mark(value: Any, device: torch.device, depth: int = 3) -> Any:
    """What tells a value from the one it was a round ago."""
    if isinstance(value, Tensor):
        # A recorded round works on the memory, not on the name: a tensor that replaces another
        # one is not seen.  On the device memory may change; elsewhere nobody would change it.
        return id(value), value.data_ptr(), None if value.device == device else value._version
    if isinstance(value, bool | int | float | complex | str | bytes | type(None)):
        return value
    if depth and isinstance(value, dict):
        return [(k, _mark(v, device, depth - 1)) for k, v in value.items()]
    if depth and isinstance(value, list | tuple):
        return [_mark(v, device, depth - 1) for v in value]
    return id(value)
