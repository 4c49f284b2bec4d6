"""`fit_many`: each run equals the single one, wherever and beside whatever it was trained."""

from __future__ import annotations

import pickle
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch

import tutor
from tests import tape
from tests.models.test_every_model import build, source
from tutor import graphs, many
from tutor.data import Dataset
from tutor.models import BetaVAE
from tutor.nets import mlp_decoder, mlp_encoder
from tutor.training import TrainingDiverged

SHAPE = (1, 2, 2)
ARGUMENTS = {"steps": 60, "batch_size": 8}
fit_many = partial(many.fit_many, device="cpu", progress=False)


def data() -> Dataset:
    pixels = torch.randint(2, (24, *SHAPE), generator=torch.Generator().manual_seed(0))
    return Dataset(255 * pixels.to(torch.uint8))


def small(beta: float = 1.0) -> BetaVAE:
    encoder, decoder = mlp_encoder(SHAPE, 4, (8,)), mlp_decoder(2, SHAPE, (8,))
    return BetaVAE(2, beta=beta, image_shape=SHAPE, encoder=encoder, decoder=decoder)


def single(make, seed: int, dataset=None, **settings):
    """The three lines of the docstring, with one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = make(**settings)
    history = tutor.fit(
        model, data() if dataset is None else dataset, seed=seed, device="cpu", progress=False,
        **ARGUMENTS,
    )  # fmt: skip
    torch.set_num_threads(before)
    return model, history


def assert_same(run, model, history) -> None:
    for key, value in model.state_dict().items():
        assert torch.equal(run.model.state_dict()[key], value), key
    assert run.history.equals(history)
    assert isinstance(run.history, tutor.History)


@pytest.fixture
def _two_workers(monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)


@pytest.mark.slow
@pytest.mark.usefixtures("_two_workers")
def test_processes_give_the_single_runs(tmp_path):
    """In other processes, out of order, with a class and a function that can't be imported."""

    class Local(Dataset):
        pass

    own = Local(data().images)
    runs = fit_many(lambda beta: small(beta), own, seeds=[2, 0], grid={"beta": [1.0, 4.0]},
                    checkpoint=tmp_path, **ARGUMENTS)  # fmt: skip
    assert [(run.settings, run.seed) for run in runs] == [
        ({"beta": beta}, seed) for beta in (1.0, 4.0) for seed in (2, 0)
    ]
    for run in runs:
        assert_same(run, *single(small, run.seed, own, **run.settings))
    # Each had a folder of its own, and goes on from it: nothing is left to do.
    assert len(list(tmp_path.iterdir())) == 4
    again = fit_many(small, own, seeds=[0], grid={"beta": [4.0]}, checkpoint=tmp_path, **ARGUMENTS)
    assert again[0].history.attrs["steps"] == 0
    assert_same(again[0], *single(small, 0, own, beta=4.0))


def test_one_run_is_made_here_with_one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    state = torch.get_rng_state()
    inside = []

    def noting():
        inside.append(torch.get_num_threads())
        return small()

    (run,) = fit_many(noting, data(), seeds=[5], **ARGUMENTS)
    assert inside == [1]
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(run, *single(small, 5))
    assert repr(run) == "Trained(seed=5, settings={})"


@pytest.fixture
def _taped(monkeypatch):
    monkeypatch.setattr(graphs, "DEVICES", ("cuda", "cpu"))
    monkeypatch.setattr(graphs, "record", tape.record)


def in_turns(make, seeds, grid=None, dataset=None, checkpoint=None, **arguments):
    """As on a CUDA device, on the CPU."""
    where = torch.device("cpu")
    runs = [
        many._Run(make, seed, setting, where, ARGUMENTS | arguments, checkpoint)
        for setting in many._settings(grid)
        for seed in seeds
    ]
    return many._in_turns(runs, data() if dataset is None else dataset, where, progress=False)


@pytest.mark.usefixtures("_taped")
@pytest.mark.parametrize("name", ["AVB", "SemiSupervisedAAE"])
def test_games_in_turns_do_not_meet(name):
    """Recorded rounds of two games alternate; noise, batches and weights are those of each."""
    state = torch.get_rng_state()
    runs = in_turns(lambda: build(name), [0, 1], dataset=source(name))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(run.history.attrs["loop"] == "CUDA graph" for run in runs)
    for run in runs:
        assert_same(run, *single(lambda: build(name), run.seed, source(name)))
    weights = [run.model.state_dict() for run in runs]
    assert any(not torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


class Exchanged:
    """A stand-in for a CUDA generator: which state it draws from."""

    def __init__(self, device=None):
        self.state = object()

    def manual_seed(self, seed):
        return self

    def graphsafe_get_state(self):
        return self.state

    def graphsafe_set_state(self, new):
        self.state = new


def test_a_lane_on_a_gpu_exchanges_the_generators_state(monkeypatch):
    default, generator = Exchanged(), torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda *device: (Exchanged if device else generator)())
    monkeypatch.setattr(torch.cuda, "default_generators", (default,))
    for name in ("Stream", "current_stream", "device", "stream"):
        monkeypatch.setattr(torch.cuda, name, mock.MagicMock())
    callers = default.state
    lane = many.Lane(torch.device("cuda:0"), seed=0)
    lane.stream.wait_stream.assert_called_once()  # for the data, which were sent before
    with lane:
        assert default.state is not callers
        default.state = "what a failed recording put there"
        torch.cuda.stream.assert_called_with(lane.stream)
    assert default.state is callers
    with lane:
        assert default.state == "what a failed recording put there"
    assert default.state is callers


def diverging(beta: float) -> BetaVAE:
    model = small(beta)
    if beta == 2.0:
        torch.nn.init.constant_(model.encoder[1].weight, float("nan"))
    return model


@pytest.mark.slow
@pytest.mark.usefixtures("_two_workers")
def test_a_run_that_fails_does_not_take_the_others_with_it():
    with pytest.raises(
        many.RunsFailed, match=r"1 of 3 runs failed.*\n  seed=0, beta=2.0"
    ) as caught:
        fit_many(diverging, data(), seeds=[0], grid={"beta": [1.0, 2.0, 3.0]}, **ARGUMENTS)
    assert [run.settings["beta"] for run in caught.value.runs] == [1.0, 3.0]
    ((seed, settings, error),) = caught.value.failures
    assert (seed, settings) == (0, {"beta": 2.0})
    assert isinstance(error, TrainingDiverged)
    assert "seed=0, beta=2.0" in error.__notes__[0]
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value)


def test_the_same_in_turns():
    first, second, third = in_turns(diverging, [0], {"beta": [1.0, 2.0, 3.0]})
    assert isinstance(second, TrainingDiverged)
    assert_same(first, *single(diverging, 0, beta=1.0))
    assert_same(third, *single(diverging, 0, beta=3.0))


def test_where_all_fail_the_first_error_is_raised():
    with pytest.raises(TrainingDiverged) as caught:
        fit_many(diverging, data(), seeds=[3], grid={"beta": [2.0]}, **ARGUMENTS)
    assert "This was the run seed=3, beta=2.0" in caught.value.__notes__[0]


def test_numpy_numbers_are_seeds():
    (run,) = fit_many(small, data(), seeds=np.arange(1), steps=1, batch_size=8)
    assert run.seed == 0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"seeds": []}, ValueError, "seeds is empty"),
        ({"seeds": [1, 2, 1]}, ValueError, "seeds hold 1 more than once"),
        ({"seeds": [0.5]}, TypeError, r"seeds hold 0\.5; expected whole numbers"),
        ({"seeds": 3}, TypeError, r"seeds is 3; expected a list, such as range\(5\)"),
        ({"grid": [1, 2]}, TypeError, "grid is a list; expected a mapping"),
        ({"grid": {"beta": 4.0}}, TypeError, r"grid has beta=4\.0; expected .*such as \[4\.0\]"),
        ({"grid": {"beta": "44"}}, TypeError, r"grid has beta='44'; expected .*such as \['44'\]"),
        ({"grid": {"beta": []}}, ValueError, "grid has no value for 'beta'"),
        (
            {"grid": {"beta": [1.0, 1]}},
            ValueError,
            r"{'beta': 1} is in the grid more than once",
        ),
        ({"grid": {"gamma": [1.0]}}, TypeError, "unexpected keyword argument 'gamma'"),
        ({"make_model": small()}, TypeError, "make_model is a BetaVAE; expected a class or func"),
        ({"make_model": lambda: None}, TypeError, "model is NoneType; expected an nn.Module"),
        ({"seed": 3}, TypeError, r"give seeds=\[\.\.\.\]"),
        ({"speed": 3}, TypeError, "unexpected keyword argument 'speed'"),
        ({"steps": 0}, ValueError, "steps is 0"),
        ({"dataset": [1, 2]}, TypeError, "dataset is a list"),
    ],
)
def test_bad_input(change, error, message):
    arguments = {"make_model": small, "dataset": data(), "seeds": [0], **ARGUMENTS} | change
    with pytest.raises(error, match=message):
        fit_many(arguments.pop("make_model"), arguments.pop("dataset"), **arguments)


def test_steps_are_asked_for():
    with pytest.raises(TypeError, match="missing a required argument: 'steps'"):
        fit_many(small, data(), seeds=[0])


def test_folders_of_different_runs_differ():
    names = [many._folder_name(0, {"a": value}) for value in ("x/y", "x?y", "x y", 1, "1", 1.0)]
    assert len(set(names)) == len(names)
    assert all("/" not in name for name in names)
    assert many._folder_name(1, {"a": 1, "b": 2}) == many._folder_name(1, {"b": 2, "a": 1})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_many_on_a_gpu_are_the_single_runs():
    runs = many.fit_many(small, data(), seeds=range(3), grid={"beta": [1.0, 4.0]}, device="cuda",
                         progress=False, **ARGUMENTS)  # fmt: skip
    for run in runs:
        torch.manual_seed(run.seed)
        model = small(**run.settings)
        history = tutor.fit(
            model, data(), seed=run.seed, device="cuda", progress=False, **ARGUMENTS
        )
        assert run.history.attrs["loop"] == history.attrs["loop"] == "CUDA graph"
        for key, value in model.state_dict().items():
            # a few float32 roundings, for sums whose order a GPU leaves open
            torch.testing.assert_close(run.model.state_dict()[key], value, rtol=1e-5, atol=1e-6)
