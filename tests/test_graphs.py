"""Recorded rounds, on a CPU: a tape of operations stands in for the CUDA graph (`tests.tape`)."""

from __future__ import annotations

import contextlib
import itertools
import random
import warnings
from functools import partial

import pytest
import torch
from torch import nn

import tutor
from tests import tape
from tests.models.test_every_model import NAMES, build, source
from tutor import graphs
from tutor.game import Model, Turn
from tutor.training import TrainingDiverged, decay_after

fit = partial(tutor.fit, device="cpu", progress=False)


@pytest.fixture(autouse=True)
def _taped(monkeypatch):
    """The CPU is treated like a GPU, and records on a tape."""
    monkeypatch.setattr(graphs, "DEVICES", ("cuda", "cpu"))
    monkeypatch.setattr(graphs, "record", tape.record)


def run(name: str, *, steps: int = 13, eager: bool = False, **arguments):
    model = build(name)
    with graphs.eager() if eager else contextlib.nullcontext():
        history = fit(model, source(name), steps=steps, batch_size=8, seed=3, **arguments)
    return model, history


def assert_same_run(one, other) -> None:
    """Bit for bit: the same operations on the same numbers, in the same order."""
    (model, history), (model_2, history_2) = one, other
    for key, value in model.state_dict().items():
        assert torch.equal(value, model_2.state_dict()[key]), key
    assert history.equals(history_2)


@pytest.mark.parametrize("name", NAMES)
def test_a_replayed_run_equals_the_eager_one(name):
    """Noise, dropout, batch statistics, counters and moments included."""
    recorded = run(name)
    assert recorded[1].attrs["loop"] == "CUDA graph"
    eager = run(name, eager=True)
    assert eager[1].attrs["loop"] == "eager"
    assert_same_run(recorded, eager)


@pytest.mark.parametrize(
    "arguments",
    [
        {"schedule": decay_after(0.2)},
        {"precision": "bf16"},
        {"optimizer": partial(torch.optim.SGD, lr=0.01, momentum=0.9)},
        {"optimizer": partial(torch.optim.SGD, lr=0.01, fused=True), "schedule": decay_after(0.2)},
        {"steps": 107},  # two whole windows and a part of one
    ],
    ids=["schedule", "bf16", "momentum", "fused SGD, schedule", "a part of a window"],
)
def test_other_settings_too(arguments):
    recorded = run("AAE", **arguments)
    assert recorded[1].attrs["loop"] == "CUDA graph"
    assert_same_run(recorded, run("AAE", eager=True, **arguments))


@pytest.mark.parametrize("first", ["eager", "recorded"])
@pytest.mark.parametrize("then", ["eager", "recorded"])
def test_a_checkpoint_is_taken_up_by_either_loop(first, then, tmp_path):
    """Stopped at step 7, in the middle of a window; checkpoints at 5, 7 and 10."""
    arguments = {"schedule": lambda t: 0.5 if t > 0.5 else 1.0, "checkpoint_every": 5}
    whole = run("AVB", eager=True, **arguments)

    class Stop(Exception):
        pass

    def stop(t):
        if t * 13 > 7.5:
            raise Stop
        return 1.0

    with pytest.raises(Stop):
        run("AVB", eager=first == "eager", checkpoint=tmp_path, **arguments | {"schedule": stop})
    resumed = run("AVB", eager=then == "eager", checkpoint=tmp_path, **arguments)
    assert resumed[1].attrs["steps"] == 8  # from step 5 on
    assert_same_run(resumed, whole)


class Line(Model):
    def __init__(self, inside=lambda model, x: 0.0):
        super().__init__()
        self.net, self.inside = nn.Linear(1, 1), inside
        self.register_buffer("count", torch.zeros(()))
        self.moving, self.ticks, self.seen = torch.zeros(()), 0, []

    @property
    def players(self):
        return {"line": [self.net]}

    def step(self, x):
        loss = (self.net(x) - x).square().sum(1).mean()
        yield Turn("line", loss + self.inside(self, x), noise=torch.rand(()))


def line(inside=lambda model, x: 0.0, *, eager=False, steps=60, **arguments):
    torch.manual_seed(0)
    model = Line(inside)
    with graphs.eager() if eager else contextlib.nullcontext():
        history = fit(model, torch.ones(8, 1), steps=steps, batch_size=4, **arguments)
    return model, history


def test_every_replay_draws_new_noise():
    noise = []

    class Listening(tutor.history.Recorder):
        def unread(self):
            for at, values in super().unread():
                noise.append(values["noise"])
                yield at, values

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tutor.training.Recorder", Listening)
        line()
    assert len(set(noise)) == 60


def count(model, x):
    model.ticks += 1
    return 0.01 * model.ticks


def replace(model, x):
    model.moving = 0.9 * model.moving + x.mean()
    return model.moving


def grow(model, x):
    model.seen.append(1)
    return 0.01 * len(model.seen)


def host_noise(model, x):
    return random.random()


@pytest.mark.parametrize(
    ("inside", "named"),
    [
        (count, "the model's 'ticks'"),
        (replace, "the model's 'moving'"),
        (grow, "the model's 'seen'"),
        (host_noise, "the stream of Python's random numbers"),
    ],
)
def test_what_would_be_repeated_silently_is_found(inside, named):
    """A recording would go on with the first number: the game is played eagerly instead."""
    random.seed(0)
    with pytest.warns(UserWarning, match=rf"Line is played round by round.*{named} changes"):
        recorded = line(inside)
    assert recorded[1].attrs["loop"] == "eager"
    assert named in recorded[1].attrs["not_recorded"]
    random.seed(0)
    assert_same_run(recorded, line(inside, eager=True))


def test_a_counter_that_changes_in_place_is_recorded():
    def inside(model, x):
        model.count += 1
        return 0.01 * model.count

    recorded = line(inside)
    assert recorded[0].count == 60
    assert_same_run(recorded, line(inside, eager=True))


class Uneven(Line):
    """A second turn in some rounds, decided by what fit can't look at."""

    def __init__(self, rounds, when):
        super().__init__()
        self.rounds, self.when = rounds, when

    def step(self, x):
        yield from super().step(x)
        if self.when(next(self.rounds)):
            yield Turn("line", (self.net(x) + x).square().sum(1).mean(), extra=torch.ones(()))


@pytest.mark.parametrize(
    "when", [lambda t: t == 1, lambda t: t == 3], ids=["in the warm-up", "when recorded"]
)
def test_other_turns_in_another_round(when):
    def played(eager):
        torch.manual_seed(0)
        model = Uneven(itertools.count(), when)
        with graphs.eager() if eager else contextlib.nullcontext():
            return model, fit(model, torch.ones(8, 1), steps=2 if eager else 60, batch_size=4)

    with pytest.warns(UserWarning, match="the turns of a round"):
        _, history = played(eager=False)
    assert history.attrs["loop"] == "eager"
    # Nothing is lost: all 60 rounds are in the two rows, and round 1 had its extra term.
    assert history.index.tolist() == [50, 60]
    assert history["line/noise"].notna().all()
    if when(1):
        assert history["line/extra"].iloc[0] == 1


def test_optimisers_that_count_on_the_host():
    with pytest.warns(UserWarning, match=r"Adagrad of 'line' has no capturable=True"):
        recorded = line(optimizer=torch.optim.Adagrad)
    assert_same_run(recorded, line(optimizer=torch.optim.Adagrad, eager=True))


def test_rates_that_the_host_hands_over():
    plain = {"optimizer": partial(torch.optim.SGD, lr=0.1), "schedule": decay_after(0.5)}
    with pytest.warns(UserWarning, match=r"SGD of 'line' can't read a scheduled rate"):
        recorded = line(**plain)
    assert_same_run(recorded, line(**plain, eager=True))


def test_a_host_that_waits(monkeypatch):
    @contextlib.contextmanager
    def stalls(device):
        yield ["model.py, line 3"]

    monkeypatch.setattr(graphs, "_synchronisations", stalls)
    with pytest.warns(UserWarning, match=r"the host waits for the device in model\.py, line 3"):
        recorded = line()
    assert_same_run(recorded, line(eager=True))


def test_a_recording_that_fails(monkeypatch):
    def fail(play, device):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(graphs, "record", fail)
    with pytest.warns(UserWarning, match="recording failed: CUDA error: operation not permitted"):
        recorded = line()
    assert_same_run(recorded, line(eager=True))


def test_a_loss_that_is_not_finite_is_found_at_the_end_of_its_stretch():
    def inside(model, x):
        model.count += 1
        return torch.where(model.count == 8, torch.nan, 0.0)

    with pytest.raises(TrainingDiverged, match="step 7, player 'line': loss not finite"):
        line(inside)


# -- the parts that only CUDA runs, with stand-ins for torch.cuda ---------------------------------


class Generator:
    def __init__(self):
        self.state = "before"

    def clone_state(self):
        return self.state

    def graphsafe_set_state(self, state):
        self.state = state


@pytest.fixture
def cuda(monkeypatch):
    """Stand-ins for what `graphs` takes from torch.cuda; returns what they were asked."""
    asked: dict = {"generator": Generator(), "mode": 0}

    class CUDAGraph:
        def replay(self):
            asked["replayed"] = True

    @contextlib.contextmanager
    def graph(which, *, stream):
        asked["stream"] = stream
        yield

    def set_mode(mode):
        asked["mode"] = mode
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=1)

    monkeypatch.setattr(torch.cuda, "default_generators", (asked["generator"],))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", CUDAGraph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "own")
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: asked["mode"])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    return asked


@pytest.fixture
def record():
    """`graphs.record` as it was before the tape took its place."""
    return _RECORD


_RECORD = graphs.record


def test_recording_plays_once_on_the_stream_where_it_is_replayed(cuda, record):
    played = []
    record(lambda: played.append(1), torch.device("cuda:0"))()
    assert played == [1]
    assert (cuda["stream"], cuda["replayed"]) == ("own", True)


def test_a_failed_recording_leaves_the_random_stream(cuda, record):
    def play():
        cuda["generator"].state = "waits for the end of a recording"
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        record(play, torch.device("cuda:0"))
    assert cuda["generator"].state == "before"


def test_waiting_is_noticed_and_other_warnings_pass(cuda):
    def noticing():
        with graphs._synchronisations(torch.device("cuda:0")) as places:
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            warnings.warn("something else", stacklevel=1)
        return places

    with pytest.warns(UserWarning, match="something else") as seen:
        places = noticing()
    assert len(places) == len(seen) == 1
    assert places[0].startswith(__file__)
    assert cuda["mode"] == 0


class Stream:
    def __init__(self, device=None):
        self.after = []

    def wait_stream(self, other):
        self.after.append(other)


def test_the_block_has_its_own_stream_and_both_wait_for_each_other(monkeypatch):
    callers, inside = Stream(), []
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: callers)
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    monkeypatch.setattr(
        torch.cuda, "stream", lambda own: contextlib.nullcontext(inside.append(own))
    )
    graphs._stream.cache_clear()
    with contextlib.suppress(KeyError), graphs.own_stream(torch.device("cuda:0")):
        (own,) = inside
        assert own.after == [callers]
        assert callers.after == []
        raise KeyError
    assert callers.after == [own]
    graphs._stream.cache_clear()


def test_torch_has_what_is_asked_of_it():
    """A wrong name would show only where there is a GPU."""
    assert {"clone_state", "graphsafe_set_state", "graphsafe_get_state"} <= set(
        dir(torch.Generator)
    )
    names = {"CUDAGraph", "graph", "Stream", "stream", "current_stream", "device",
             "default_generators", "get_sync_debug_mode", "set_sync_debug_mode"}  # fmt: skip
    assert names <= set(dir(torch.cuda))
